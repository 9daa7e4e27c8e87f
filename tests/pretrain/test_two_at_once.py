"""No head is lost by two runs in one folder, runs that end at any write, or files that others have left there."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys

import pytest
from forked import command, inside, names, needs_fork
from killed import killed_at_step, killed_at_write
from small import tiny_head
from tiny import tiny

from action_heads import ActionHead, cli
from action_heads.io import files, locks
from action_heads.pretrain import data
from action_heads.pretrain.loop import pretrain
from action_heads.pretrain.publish import PublishConfig, publish
from action_heads.pretrain.trainer import Trainer
from action_heads.training import checkpoint

pytestmark = [pytest.mark.usefixtures("no_picture"), needs_fork]


def test_of_two_commands_one_is_refused(tmp_path):
    out = tmp_path / "head"
    flags = shlex.split("pretrain --width 16 --depth 2 --batch-size 8 --precision fp32 --steps 60 --save-every 20")
    runs = [
        command(lambda seed=seed: cli.main([*flags, "--out", str(out), "--seed", seed]), tmp_path / seed)
        for seed in "01"
    ]
    codes = [os.waitstatus_to_exitcode(os.waitpid(run, 0)[1]) for run in runs]
    said = [(tmp_path / seed).read_text() for seed in "01"]
    assert sorted(codes) == [0, 2], said
    assert re.search(r"in use by another run \(pid \d+|holds a run with other settings \(seed\)", said[codes.index(2)])
    assert ActionHead.from_pretrained(out).config.training["seed"] == codes.index(0)
    assert locks.NAME not in names(out)


def test_refused_before_anything_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "Mixture", lambda *_: pytest.fail("the data was opened"))
    with inside(lambda: locks.held(tmp_path)) as pid:
        with pytest.raises(locks.InUse, match=rf"{re.escape(str(tmp_path))} is in use by another run \(pid {pid} on"):
            pretrain(tiny(tmp_path))
        with pytest.raises(locks.InUse, match="publish a copy of it"):
            publish(PublishConfig(tmp_path, dry_run=True))
        assert names(tmp_path) == {locks.NAME}


def test_settings_are_there_before_the_first_step(tmp_path):
    whole = pretrain(tiny(tmp_path / "whole"))
    with killed_at_step(Trainer, 2):
        pretrain(tiny(tmp_path / "cut"))
    assert checkpoint.read(tmp_path / "cut" / "state") is None
    with pytest.raises(ValueError, match=r"other settings \(seed\).*saved no step yet, so .*state can be deleted"):
        pretrain(tiny(tmp_path / "cut", seed=1))
    assert pretrain(tiny(tmp_path / "cut")).fingerprint() == whole.fingerprint()


def test_a_run_that_cannot_begin_leaves_no_trace(tmp_path):
    with pytest.raises((ValueError, OSError)):
        pretrain(tiny(tmp_path / "none", data=("npz:nowhere.npz",)))
    assert not (tmp_path / "none").exists()


def test_cut_at_any_write_the_next_run_completes_it(tmp_path, monkeypatch):
    """The next run completes one that was killed between writes of states, head, curves, golden outputs or card."""
    replace, calls = os.replace, []
    monkeypatch.setattr(os, "replace", lambda *paths: calls.append(paths) or replace(*paths))
    whole = pretrain(tiny(tmp_path / "whole"))
    expected, writes = names(tmp_path / "whole"), len(calls)
    assert writes > 8

    for cut in range(2, writes, 4):
        out = tmp_path / f"{cut}"
        with killed_at_write(cut):
            pretrain(tiny(out))
        assert pretrain(tiny(out)).fingerprint() == whole.fingerprint(), cut
        assert names(out) == expected
        assert names(out / "state") - {"tensorboard"} == {"run.json", "state.json", "step-12.safetensors"}


def test_drafts_and_older_states_of_killed_runs_go_and_what_is_the_user_s_stays(tmp_path):
    pretrain(tiny(tmp_path))
    theirs = [".model.safetensors.0123abcd.tmp", ".README.md.0123abcd.tmp", "state/.step-8.safetensors.0123abcd.tmp"]
    theirs += ["state/step-7.safetensors", "state/.state.json.0123abcd.tmp"]
    mine = [".notes.0123abcd.tmp", ".mine.tmp", "state/.notes.md", "state/notes.safetensors"]
    for name in (*theirs, *mine):
        (tmp_path / name).touch()
    pretrain(tiny(tmp_path))
    assert [name for name in theirs if (tmp_path / name).exists()] == []
    assert [name for name in mine if not (tmp_path / name).exists()] == []


@pytest.mark.parametrize("name", ["run.json", "state.json"])
@pytest.mark.parametrize("content", ["", "[]", "{}", '{"config": 3}', "null", "1"])
def test_a_damaged_record_is_told_with_the_remedy(tmp_path, name, content):
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / name).write_text(content)
    with pytest.raises(ValueError, match=name):
        pretrain(tiny(tmp_path))


def test_tensors_of_another_run_are_refused(tmp_path):
    first = pretrain(tiny(tmp_path / "a")).fingerprint()
    pretrain(tiny(tmp_path / "b", width=24))
    name = "state/step-12.safetensors"
    own = (tmp_path / "a" / name).read_bytes()
    (tmp_path / "a" / name).write_bytes((tmp_path / "b" / name).read_bytes())
    with pytest.raises(files.WeightFileError, match="one of them was changed"):
        pretrain(tiny(tmp_path / "a"))
    (tmp_path / "a" / name).write_bytes(own)
    record = json.loads((tmp_path / "a/state/state.json").read_text())
    (tmp_path / "a/state/state.json").write_text(json.dumps(record | {"progress": {"curve": 1}}))
    with pytest.raises(ValueError, match="damaged progress"):
        pretrain(tiny(tmp_path / "a"))
    assert ActionHead.from_pretrained(tmp_path / "a").fingerprint() == first


def test_a_policy_s_folder_is_not_a_head_s(tmp_path):
    (tmp_path / "policy.json").write_text('{"training": {"settings": {"lr": 1}}}')
    with pytest.raises(ValueError, match="holds a finished policy made with other settings"):
        pretrain(tiny(tmp_path))
    tiny_head().save_pretrained(tmp_path / "head")
    with pytest.raises(ValueError, match="holds a finished head whose settings are not known"):
        checkpoint.refuse_others({"lr": 1}, tmp_path / "head")


@pytest.mark.slow
def test_all_processes_of_a_refused_run_end(tmp_path):
    """Every process of a refused run ends: those without the lock do not wait for the main process."""
    launch = ["accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "-m", "action_heads.pretrain"]
    flags = shlex.split("--width 16 --depth 2 --batch-size 8 --precision fp32 --steps 5")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    with inside(lambda: locks.held(tmp_path / "run")):
        done = subprocess.run(
            [sys.executable, "-m", *launch, *flags, "--out", str(tmp_path / "run")],
            **{"env": environment, "capture_output": True, "text": True, "timeout": 400},
        )
    assert done.returncode
    assert done.stderr.count("is in use by another run") == 2
