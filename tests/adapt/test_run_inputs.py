"""A Stage 2 run goes on only with the recording, the head and the models with which it began."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from killed import killed_at_step
from recorded import describe, episode, hdf5, tiny
from small import tiny_head

from action_heads.adapt.run import adapt
from action_heads.adapt.trainer import Trainer
from action_heads.io import files
from action_heads.training import checkpoint

STATES = {"encoder": "none", "cameras": (), "observation_steps": 1}
ROLLOUTS = {"task": "Lift", "episodes": 50, "successes": 47, "interval": [0.84, 0.98], "video": None}


def contents(folder: Path) -> dict[Path, bytes]:
    """Return every file of a run by its bytes, except TensorBoard's."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and "events" not in path.name}


def refused(config, name: str, what: str = "run") -> None:
    """Check that a run is refused for an input that changed, and that its folder stays as it is."""
    before = contents(config.out)
    with pytest.raises(ValueError, match=rf"holds a {what} that began with other contents of {name}.*another --out"):
        adapt(config)
    assert contents(config.out) == before


def resealed(folder: Path, change) -> None:
    """Change the record of a training state, and seal it again."""
    record = files.read_json(folder / checkpoint.STATE)
    change(record)
    record["fingerprint"] = checkpoint.SEAL.of(record, files.load_tensors(folder / record["tensors"])[0])
    files.write_text(folder / checkpoint.STATE, json.dumps(record))


def test_another_recording_under_the_same_name(folder):
    config = tiny(folder, **STATES)
    adapt(config)
    os.utime(folder / "demos.hdf5")  # a copy of the recording is as good
    adapt(config)
    hdf5(folder / "demos.hdf5", episodes=8)
    refused(config, "--data")
    shutil.rmtree(config.out / "state")
    refused(config, "--data", "finished policy")


def test_one_number_of_the_recording(folder):
    values = episode(0)["position"]
    hdf5(folder / "demos.hdf5", episodes=1, position=values)
    config = tiny(folder, **STATES)
    adapt(config)
    values[5, 0] += 0.001
    hdf5(folder / "demos.hdf5", episodes=1, position=values)
    refused(config, "--data")


def test_a_recording_that_grew_while_a_run_was_interrupted(folder):
    config = tiny(folder, **STATES, held_out=0.2)
    with killed_at_step(Trainer, 4):
        adapt(config)
    hdf5(folder / "demos.hdf5", episodes=8)
    refused(config, "--data")
    hdf5(folder / "demos.hdf5")
    adapt(config)


@pytest.mark.parametrize("mode", ["decoupled", "random-frozen"])
def test_another_head_in_the_folder(folder, mode):
    config = tiny(folder, **STATES, mode=mode)
    adapt(config)
    tiny_head(seed=7).save_pretrained(folder / "head")
    if mode == "decoupled":
        refused(config, "--head")
    else:
        adapt(config)  # it takes no weights of the head


def test_other_images_with_the_same_numbers(folder, vit):
    image = episode(0)["agentview_image"]
    hdf5(folder / "demos.hdf5", episodes=1, agentview_image=image)
    seeing, states = tiny(folder, encoder=vit), tiny(folder, out=folder / "states", **STATES)
    for config in (seeing, states):
        adapt(config)
    hdf5(folder / "demos.hdf5", episodes=1, agentview_image=image[:, ::-1])
    refused(seeing, "--data")
    adapt(states)  # it reads no images


def test_other_weights_of_the_encoder(folder, vit, tmp_path):
    import transformers as tr

    own = shutil.copytree(vit, tmp_path / "own")
    config = tiny(folder, encoder=str(own))
    adapt(config)
    torch.manual_seed(2)
    tr.ViTModel(tr.ViTConfig.from_pretrained(own)).save_pretrained(own)
    refused(config, "--encoder")


def test_another_text_model(folder, tmp_path):
    from tiny_models import text_model

    describe(folder / "demos.hdf5")
    text = text_model(tmp_path / "text")
    config = tiny(folder, **STATES, text=text)
    adapt(config)
    weights = Path(text) / "model.safetensors"
    tensors, _ = files.load_tensors(weights)
    files.save_tensors({name: tensor + 0.1 for name, tensor in tensors.items()}, weights, {"format": "pt"})
    refused(config, "--text")


def test_another_run_to_start_from(folder):
    first = tiny(folder, out=folder / "first", **STATES)
    adapt(first)
    config = tiny(folder, start_from=folder / "first", **STATES)
    adapt(config)
    shutil.rmtree(folder / "first")
    adapt(tiny(folder, out=folder / "first", **STATES, seed=1))
    refused(config, "--start-from")


def test_a_run_of_a_release_without_inputs_goes_on_and_has_them_from_then_on(folder):
    config = tiny(folder, **STATES)
    with killed_at_step(Trainer, 4):
        adapt(config)
    state = config.out / "state"
    record = files.read_json(state / checkpoint.BEGUN)
    inputs = record.pop("inputs")
    files.write_text(state / checkpoint.BEGUN, json.dumps(record))
    resealed(state, lambda record: record.pop("inputs"))
    adapt(config)
    assert files.read_json(state / checkpoint.BEGUN)["inputs"] == inputs
    assert files.read_json(state / checkpoint.STATE)["inputs"] == inputs
    hdf5(folder / "demos.hdf5", episodes=8)
    refused(config, "--data")


@pytest.mark.parametrize("older", [False, True])
def test_rollouts_of_other_weights_are_not_shown(folder, older):
    """Rollouts stay beside the weights that they are of. Results of older releases do not name their weights."""
    config = tiny(folder, **STATES)
    adapt(config)
    path = config.out / "results.json"
    results = files.read_json(path) | {"rollouts": ROLLOUTS}
    policy = files.read_json(config.out / "policy.json")
    assert results["fingerprint"] == policy["fingerprint"]
    if older:
        del results["fingerprint"]
    files.write_text(path, json.dumps(results))
    adapt(config)
    assert files.read_json(path)["rollouts"] == ROLLOUTS
    if older:
        results = files.read_json(path)
        del results["fingerprint"]
        files.write_text(path, json.dumps(results))
    shutil.rmtree(config.out / "state")
    del policy["training"]["inputs"]  # as an older release wrote it, which is not refused
    files.write_text(config.out / "policy.json", json.dumps(policy))
    hdf5(folder / "demos.hdf5", episodes=8)
    adapt(config)
    assert files.read_json(path)["rollouts"] is None
    assert "was not rolled out" in (config.out / "README.md").read_text()
