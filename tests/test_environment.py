"""That tests do not reach each other through the environment."""

from __future__ import annotations

import os

import pytest


@pytest.mark.parametrize("turn", [1, 2])
def test_what_a_test_sets_goes_with_it(turn):
    """TRL had left a rank and a port for vLLM, and every process that a later test started met the others at that port."""
    assert os.environ.get("SHALA_LEFT") is None and os.environ["PATH"] != "nowhere"
    os.environ |= {"SHALA_LEFT": "29500", "PATH": "nowhere"}
