"""A short siege of the page; `page_load.py` runs a long one."""

from __future__ import annotations

import json

import pytest

from tests.reliability.page_load import attack

pytestmark = pytest.mark.slow


def test_thirty_clients_for_three_seconds(tmp_path, capsys):
    assert attack(tmp_path, "", seconds=3, clients=30) == 0, capsys.readouterr().out
    said = capsys.readouterr().out
    summary = json.loads(said.splitlines()[-1])
    assert summary["files_left"] == []
    assert summary["answered"] > 5
    statuses = {int(line.split()[-2]) for line in said.splitlines()[:-1]}
    assert {200, 413, 422} <= statuses
