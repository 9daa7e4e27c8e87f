"""Tests that every reader of JSON files rejects the same files, and names the file and what is wrong."""

from __future__ import annotations

import os

import pytest

from action_heads.data.bounded_reads import read_object
from action_heads.io.files import read_json
from action_heads.kinematics.statistics import MotionStatistics

READERS = {"files": read_json, "recordings": lambda path: read_object(path, "mine"), "motion": MotionStatistics.load}
DAMAGED = {
    "cut": (b'{"a": 1,', "line 1, column"),
    "twice": (b'{"a": 1, "a": 1}', "key 'a' twice.*remove one of them"),
    "deep": (b"[" * 100_000, "nested thousands of levels deep.*it is damaged"),
    "surrogate": (rb'{"a": "\ud800"}', "half of a surrogate pair"),
    "another encoding": ('{"a": "\xe9"}'.encode("latin-1"), "not UTF-8 text.*save it as UTF-8"),
    "pickle": (b"\x80\x02}q\x00.", "binary.*pickle"),
    "web page": (b"<!doctype html>", "web page"),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("damage", DAMAGED)
def test_damage_is_named(reader, damage, tmp_path):
    data, says = DAMAGED[damage]
    path = tmp_path / "a.json"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=rf"(?s)a\.json.*{says}"):
        READERS[reader](path)


@pytest.mark.parametrize("reader", READERS)
def test_a_file_of_many_bytes_is_not_read(reader, tmp_path):
    path = tmp_path / "a.json"
    path.touch()
    os.truncate(path, 2**40)  # It has holes, so it takes no room on the disk.
    with pytest.raises(ValueError, match=r"a\.json.*1,099,511,627,776 bytes, more than"):
        READERS[reader](path)
