"""A Stage 1 run goes on only with the sources and the first head with which it began."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from killed import killed_at_step
from tiny import tiny

from action_heads import ActionHead
from action_heads.io import files
from action_heads.kinematics.panda import HOME
from action_heads.pretrain.loop import pretrain
from action_heads.pretrain.trainer import Trainer
from action_heads.training import checkpoint

pytestmark = pytest.mark.usefixtures("no_picture")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ACTION_HEADS_CACHE", str(tmp_path / "cache"))


def record(path: Path, episodes: int = 4, scale: float = 0.01, seed: int = 0) -> str:
    """Write episodes of a Panda that moves about its home posture, and return their source."""
    drawn = np.random.default_rng(seed).normal(size=(episodes, 60, 7)) * scale
    joints = HOME.numpy() + drawn.cumsum(1).clip(-0.6, 0.6)
    np.savez(
        path,
        episode_start=60 * np.arange(episodes),
        episode_length=np.full(episodes, 60),
        joint_position=joints.reshape(-1, 7),
        gripper=np.arange(60 * episodes) % 2,
    )
    return f"npz:{path}"


def refused(config, name: str, what: str = "run") -> None:
    before = {path: path.read_bytes() for path in config.out.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match=rf"holds a {what} that began with other contents of {name}"):
        pretrain(config)
    assert {path: path.read_bytes() for path in config.out.rglob("*") if path.is_file()} == before


def test_another_recording_beside_a_source_that_stayed(tmp_path):
    source = record(tmp_path / "m.npz")
    config = tiny(tmp_path / "run", data=(source, "synthetic:panda"))
    first = pretrain(config)
    assert pretrain(config).fingerprint() == first.fingerprint()
    record(tmp_path / "m.npz", scale=0.03, seed=1)
    refused(config, "--data npz:.*m.npz, which")
    shutil.rmtree(config.out / "state")
    refused(config, "--data npz:.*m.npz, which", "finished head")


def test_a_recording_that_grew_while_a_run_was_interrupted(tmp_path):
    source = record(tmp_path / "m.npz")
    config = tiny(tmp_path / "run", data=(source,))
    with killed_at_step(Trainer, 9):
        pretrain(config)
    record(tmp_path / "m.npz", episodes=5)
    refused(config, "--data npz")


def test_another_file_of_statistics(tmp_path):
    path = tmp_path / "mine.json"
    shutil.copy(Path(files.__file__).parents[1] / "kinematics" / "data" / "droid_statistics.json", path)
    config = tiny(tmp_path / "run", data=(f"synthetic:{path}",))
    with killed_at_step(Trainer, 9):
        pretrain(config)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"closed": 0.1}))
    refused(config, "--data synthetic")


def test_another_file_of_the_arm(tmp_path):
    path = tmp_path / "arm.urdf"
    shutil.copy(Path(__file__).parents[1] / "kinematics" / "data" / "six.urdf", path)
    config = tiny(tmp_path / "run", data=(f"synthetic:{path}",))
    with killed_at_step(Trainer, 9):
        pretrain(config)
    path.write_text(path.read_text() + "<!-- measured again -->\n")
    refused(config, "--data synthetic")


def test_another_head_to_start_from(tmp_path):
    first = tiny(tmp_path / "first")
    pretrain(first)
    config = tiny(tmp_path / "run", init=str(first.out))
    pretrain(config)
    shutil.rmtree(first.out)
    pretrain(tiny(first.out, seed=1))
    refused(config, "--init")


def test_a_run_of_a_release_without_inputs_goes_on(tmp_path):
    config = tiny(tmp_path / "run")
    with killed_at_step(Trainer, 9):
        pretrain(config)
    path = config.out / "state" / checkpoint.BEGUN
    began = files.read_json(path)
    inputs = began.pop("inputs")
    files.write_text(path, json.dumps(began))
    assert pretrain(config).config.training["inputs"] == inputs
    assert files.read_json(path)["inputs"] == inputs
    assert "inputs" not in (config.out / "README.md").read_text()
    assert ActionHead.from_pretrained(config.out).frozen
