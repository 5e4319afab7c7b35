"""Files that are whole or absent."""

import os

import pytest

from fcos_tf import atomic_files


def test_files_appear_whole_or_not_at_all(tmp_path):
    path = tmp_path / "a.txt"
    atomic_files.write_text(path, "first")
    with pytest.raises(RuntimeError), atomic_files.replacing(path) as temporary:
        temporary.write_text("sec")
        raise RuntimeError
    assert path.read_text() == "first" and os.listdir(tmp_path) == ["a.txt"]
    (tmp_path / ".writing_1_a.txt").write_text("of a killed process")
    atomic_files.remove_leftovers(tmp_path)
    assert os.listdir(tmp_path) == ["a.txt"]
    atomic_files.remove_leftovers(tmp_path / "none")


def test_leftovers_of_one_file_only(tmp_path):
    for name in (".writing_1_a.txt", ".writing_2_a.txt", ".writing_3_b.txt"):
        (tmp_path / name).write_text("of a killed process, or of another file")
    atomic_files.remove_leftovers(tmp_path, "a.txt")
    assert os.listdir(tmp_path) == [".writing_3_b.txt"]
