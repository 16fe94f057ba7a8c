from __future__ import annotations

import pytest

from shala_audio.errors import UserError
from shala_audio.files import read_json, read_yaml, write_beside


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), write_beside(path) as beside:
        beside.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_faults_are_named(tmp_path):
    (tmp_path / "a.json").write_text("{")
    (tmp_path / "a.yaml").write_text("!!python/object/apply:os.system [echo]")
    with pytest.raises(UserError, match=r"a\.json"):
        read_json(tmp_path / "a.json")
    with pytest.raises(UserError, match=r"a\.yaml"):
        read_yaml(tmp_path / "a.yaml")
    with pytest.raises(UserError, match="no such file"):
        read_json(tmp_path / "b.json")
