"""The cache of recordings: complete or absent, written once, memory-mapped."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from action_heads.data.cache import cached
from action_heads.data.convert import Steps
from action_heads.io import locks
from action_heads.kinematics import PANDA, Windows
from action_heads.kinematics.panda import HOME


def steps(length: int, value: float) -> Steps:
    joints = HOME.numpy() + np.full((length, 7), value, np.float32)
    return Steps(joints, None, np.full(length, -1.0, np.float32))


def build(table, lengths=(5, 30, 7)):
    for i, length in enumerate(lengths):
        table.append("corpus", f"e{i}", steps(length, i / 100))


def test_written_once_and_read_back(cache):
    calls = []
    for _ in range(2):
        table = cached({"a": 1}, 15.0, PANDA, lambda t: (calls.append(1), build(t)))
        assert table.joints.shape == (42, 7)
        assert table.lengths.tolist() == [5, 30, 7]
        assert table.starts.tolist() == [0, 5, 35]
        assert table.names == ("e0", "e1", "e2")
        torch.testing.assert_close(table.joints[35:], HOME.expand(7, 7) + 0.02)
    assert len(calls) == 1
    cached({"a": 2}, 15.0, PANDA, build)
    assert len(list(cache.iterdir())) == 2
    assert np.load(next(cache.glob("*/joints.npy"))).shape == (42, 7)  # an ordinary .npy file


def test_a_build_that_fails_leaves_nothing(cache):
    def fails(table):
        build(table)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cached("x", 15.0, PANDA, fails)
    assert list(cache.iterdir()) == []
    assert len(cached("x", 15.0, PANDA, build)) == 3


def test_two_builders_at_once_agree(cache):
    def other_was_faster(table):
        build(table)
        cached("x", 15.0, PANDA, build)

    assert len(cached("x", 15.0, PANDA, other_was_faster)) == 3
    assert len(list(cache.iterdir())) == 1


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="only Linux lists what is mapped")
def test_the_table_is_mapped_rather_than_read():
    table = cached("x", 15.0, PANDA, lambda t: build(t, [100] * 50))
    assert Windows(table, 16)(4).joints.shape == (4, 16, 7)
    assert "joints.npy" in Path("/proc/self/maps").read_text()


def test_warnings_are_told_each_time():
    def warns(table):
        build(table)
        table.warning = "left out 3"

    for _ in range(2):
        with pytest.warns(UserWarning, match="left out 3"):
            cached("x", 15.0, PANDA, warns)


def test_damage_is_noticed(cache):
    cached("x", 15.0, PANDA, build)
    path = next(cache.glob("*/gripper.npy"))
    np.save(path, np.zeros(3, np.float32))
    with pytest.raises(ValueError, match=r"damaged\. Delete this folder"):
        cached("x", 15.0, PANDA, build)


DAMAGES = {
    "short gripper": lambda place: (place / "gripper.npy").write_bytes((place / "gripper.npy").read_bytes()[:-8]),
    "short joints": lambda place: (place / "joints.npy").write_bytes((place / "joints.npy").read_bytes()[:-8]),
    "empty joints": lambda place: (place / "joints.npy").write_bytes(b""),
    "no joints": lambda place: (place / "joints.npy").unlink(),
    "other type": lambda place: np.save(place / "joints.npy", np.zeros((42, 7))),
    "other width": lambda place: np.save(place / "joints.npy", np.zeros((42, 6), np.float32)),
    "pickle": lambda place: np.save(place / "gripper.npy", np.array([{}] * 42), allow_pickle=True),
    "no record": lambda place: (place / "episodes.json").unlink(),
    "half a record": lambda place: (place / "episodes.json").write_bytes((place / "episodes.json").read_bytes()[:40]),
    "empty record": lambda place: (place / "episodes.json").write_text("{}", encoding="utf-8"),
    "not UTF-8": lambda place: (place / "episodes.json").write_bytes(b"\xff\xfe"),
    "deep record": lambda place: (place / "episodes.json").write_text("[" * 100_000, encoding="utf-8"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_every_damage_is_named(cache, damage):
    cached("x", 15.0, PANDA, build)
    (place,) = cache.iterdir()
    DAMAGES[damage](place)
    with pytest.raises(ValueError, match=r"Delete this folder; the next run builds it again") as caught:
        cached("x", 15.0, PANDA, build)
    assert str(place) in str(caught.value)


def test_drafts_of_killed_runs_are_removed_by_the_next(cache):
    old, mine = cache / f".{'a' * 24}.01234567.tmp", cache / "mine.tmp"
    for folder in (old, mine):
        folder.mkdir(parents=True)
        (folder / "joints.npy").write_bytes(b"half")
    (old / locks.NAME).write_text("")
    with locks.held(old):
        cached("x", 15.0, PANDA, build)
        assert old.exists(), "another run is writing to it"
    (old / locks.NAME).write_text("")
    cached("y", 15.0, PANDA, build)
    assert not old.exists()
    assert mine.exists()
