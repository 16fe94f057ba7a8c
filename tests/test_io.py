from __future__ import annotations

import os
import subprocess
import sys

import pytest

from shala_audio.errors import UserError
from shala_audio.evaluation.predictions import read_predictions
from shala_audio.io import _HOST, atomic_write, clear_removed, read_json, read_yaml, remove_folder
from shala_audio.manifest import read_manifest


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), atomic_write(path) as beside:
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


def test_what_killed_processes_left_is_removed_and_nothing_of_others(tmp_path):
    dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    left = [
        f".a.{host}.{process}.1.tmp" for host in (_HOST, "elsewhere") for process in (dead.stdout.strip(), os.getpid())
    ]
    for name in left:
        (tmp_path / name).write_text("half")
    with atomic_write(tmp_path / "b") as beside:
        beside.write_text("whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*left[1:], "b"]), "the dead one's is gone"


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(UserError, match="is a folder; name a file in it"), atomic_write(tmp_path):
        pass


def test_a_removal_that_was_killed_is_ended(tmp_path):
    (tmp_path / ".checkpoint-3.removed").mkdir()
    (tmp_path / "checkpoint-6").mkdir()
    remove_folder(tmp_path / "checkpoint-6")
    clear_removed(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_folder_where_a_file_is_read_is_a_users_error(tmp_path):
    """It used to end as a full disk does, with status 1."""
    (tmp_path / "folder.csv").mkdir()
    for read in (read_json, read_yaml, read_manifest, lambda path: read_predictions(path, ["a"])):
        for folder in (tmp_path, tmp_path / "folder.csv"):
            with pytest.raises(UserError, match="cannot be read"):
                read(folder)
