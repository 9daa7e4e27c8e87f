"""Drafts of killed processes are removed, those of running ones and users' files stay, and failed writes explained."""

from __future__ import annotations

import os
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from forked import as_nobody, inside, names, needs_fork, outcome
from small import tiny_head, trained_policy

from action_heads.io import files
from action_heads.io.drafts import drafted, sweep, written

resource = pytest.importorskip("resource")
pytestmark = needs_fork


@contextmanager
def made_by_hand(path: Path):
    """Write a folder in the way of another library."""
    with drafted(path) as draft:
        draft.mkdir()
        (draft / "part").write_bytes(b"part")
        yield


WRITING = pytest.mark.parametrize("write", [lambda path: written(path, b"new"), made_by_hand])


@WRITING
def test_drafts_of_the_living_stay_and_those_of_the_killed_go(tmp_path, write):
    path = tmp_path / "model.safetensors"
    with inside(lambda: write(path)):
        (draft,) = names(tmp_path)
        sweep(tmp_path, ["*"])
        assert names(tmp_path) == {draft}, "its process lives"
    sweep(tmp_path, ["config.json", "step-*"])
    assert names(tmp_path) == {draft}, "of another kind"
    sweep(tmp_path, ["model.*"])
    assert names(tmp_path) == set()


@WRITING
def test_the_next_to_write_the_same_removes_them(tmp_path, write):
    path = tmp_path / "model[1].safetensors"
    with inside(lambda: write(path)):
        pass
    assert len(names(tmp_path)) == 1
    if write is made_by_hand:
        with write(path):
            pass
    else:
        files.write_together(tmp_path, {path.name: b"new"})
    assert names(tmp_path) == {path.name}


def test_what_a_user_made_stays(tmp_path):
    mine = [".notes.tmp", ".model.tmp", "model.0123abcd.tmp", ".model.0123ABCD.tmp", ".model.0123abcd.tmp.txt", ".tmp"]
    for name in mine:
        (tmp_path / name).touch()
    (tmp_path / ".data.0123abcd.tmp").mkdir()
    (tmp_path / ".data.0123abcd.tmp" / "work").touch()
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "precious").touch()
    (tmp_path / ".link.0123abcd.tmp").symlink_to(tmp_path / "work")
    before = names(tmp_path)
    sweep(tmp_path, ["*"])
    assert names(tmp_path) == before
    assert names(tmp_path / "work") == {"precious"}
    assert names(tmp_path / ".data.0123abcd.tmp") == {"work"}
    sweep(tmp_path / "nowhere", ["*"])


def test_a_draft_that_fails_is_no_file_and_leaves_the_older_one(tmp_path):
    for kind in ("file", "folder"):
        path = tmp_path / kind
        with drafted(path) as draft:
            draft.write_text("older")
        with pytest.raises(ZeroDivisionError), drafted(path) as draft:  # noqa: PT012 - written, then failed
            draft.write_text("newer") if kind == "file" else draft.mkdir()
            _ = 1 / 0
        assert path.read_text() == "older"
    assert names(tmp_path) == {"file", "folder"}


def demonstrations(path: Path) -> None:
    import numpy as np
    from action_heads_lab.sim.demonstrations import Demonstrations

    n = 2000
    numbers = {name: np.zeros((n, 10), np.float32) for name in ("observation", "action", "joint_position")}
    Demonstrations(**numbers, episode_length=np.array([n]), seed=np.array([0]), task="Lift", noise=0.0).save(path)


def figure(path: Path) -> None:
    from action_heads.training.curve import draw_curve

    draw_curve({"train": [(1, 1.0)], "held_out": []}, path, "loss")


WRITERS = {
    "tensors.safetensors": lambda path: files.save_tensors({"w": torch.zeros(30_000)}, path),
    "text.json": lambda path: files.write_text(path, "x" * 100_000),
    "model.safetensors": lambda path: tiny_head(width=64, depth=8).save_pretrained(path.parent),
    "adapter.safetensors": lambda path: trained_policy(tiny_head(), hidden_dim=512).save_adapter(path.parent),
    "demonstrations.npz": demonstrations,
    "curves.png": figure,
}


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("trouble", ["full", "read-only"])
def test_trouble_names_the_file_and_leaves_the_older_one(tmp_path, name, trouble):
    path = tmp_path / "made" / name
    WRITERS[name](tmp_path / "imported" / name)  # Before this, modules could not be read either.
    path.parent.mkdir()
    path.write_bytes(b"older")

    def full() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2_000, 2_000))
        WRITERS[name](path)

    if trouble == "read-only":
        for folder in (path.parent, *path.parent.parents):  # pytest's folders are readable only by their user.
            if folder.is_relative_to(tmp_path.parents[2]) and os.geteuid() == 0:
                folder.chmod(0o755)
        path.parent.chmod(0o555)
    said = outcome(full if trouble == "full" else as_nobody(lambda: WRITERS[name](path)))
    path.parent.chmod(0o755)
    assert f"could not write {path}" in said
    assert ("ulimit" if trouble == "full" else "Make its folder writable") in said
    assert path.read_bytes() == b"older"
    assert names(path.parent) == {name}


def test_what_was_replaced_before_a_rename_failed_is_told(tmp_path, monkeypatch):
    """Windows does not replace a file that another process has open."""
    names, replace = ("a", "below/b", "below/c"), os.replace
    for failing in range(3):
        files.write_together(tmp_path, dict.fromkeys(names, b"older"))
        calls = iter(range(3))

        def in_use(*paths, calls=calls, failing=failing):
            if next(calls) == failing:
                raise PermissionError(13, "in use")
            replace(*paths)

        monkeypatch.setattr(os, "replace", in_use)
        with pytest.raises(PermissionError) as caught:
            files.write_together(tmp_path, dict.fromkeys(names, b"newer"))
        monkeypatch.undo()
        kept = [name for name in names if (tmp_path / name).read_bytes() == b"older"]
        assert kept == list(names[failing:])
        replaced = f"{' and '.join(names[:failing])} {'is' if failing == 1 else 'are'} replaced already"
        assert f"could not write {tmp_path / names[failing]}" in str(caught.value)
        assert ("a and below/b and below/c are unchanged" if failing == 0 else replaced) in str(caught.value)


def test_a_folder_in_the_way_is_told_before_anything_is_replaced(tmp_path):
    (tmp_path / "b").mkdir()
    files.write_text(tmp_path / "a", "older")
    with pytest.raises(IsADirectoryError, match=r"could not write .*b: it is a folder"):
        files.write_together(tmp_path, {"a": b"newer", "b": b"newer"})
    assert (tmp_path / "a").read_text() == "older"
