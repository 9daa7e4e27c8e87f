"""Rollouts after training use the same encoder, keep their results, and change no weight."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import pytest
import torch
from action_heads_lab import adapted as module
from recorded import SIZE, episode, hdf5, tiny

from action_heads.adapt.build import build
from action_heads.adapt.run import adapt
from action_heads.io import files

pytestmark = pytest.mark.skipif(find_spec("robosuite") is None, reason="needs the sim extra")
EEF = ("observation.eef", "observation.gripper")


@pytest.fixture
def folder(folder):
    """Return a folder with a recording whose columns have the names of the simulation."""
    made = [episode(i) for i in range(4)]
    import h5py

    hdf5(folder / "demos.hdf5", 4)
    with h5py.File(folder / "demos.hdf5", "a") as file:
        for i, parts in enumerate(made):
            file[f"data/demo_{i}/obs/observation.eef"] = parts["actions"][:, :9]
            file[f"data/demo_{i}/obs/observation.gripper"] = np.tile(parts["fingers"], (1, 2))
    return folder


@pytest.fixture
def rolled(monkeypatch):
    """Record the calls of a fake `rollout` in which every other episode succeeds."""
    from action_heads_lab.sim.rollout import Rollouts

    calls = []

    def rollout(task, policy, seeds, **options):
        sight, count = options["sight"], 3
        seen = {
            name: np.full((count, sight.steps, size, size, 3), 90, np.uint8) for name, size in sight.cameras.items()
        }
        if sight.state:
            seen["state"] = np.full((count, sight.steps, 11), 0.1, np.float32)
        calls.append(options | {"task": task, "answer": policy(seen)})
        n = len(seeds)
        return Rollouts(task, np.arange(n) % 2 == 0, np.full(n, 30), np.array(seeds), 0.1, 1.0)

    monkeypatch.setattr(module, "rollout", rollout)
    return calls


def test_results_tell_of_rollouts(folder, vit, rolled):
    config = tiny(folder, encoder=vit, state=EEF, task="Lift", episodes=5)
    adapt(config)
    (call,) = rolled
    assert call["answer"].shape == (3, 16, 10)
    assert call["sight"].cameras == {"agentview": SIZE}
    assert call["sight"].state == EEF
    assert not call["sight"].delta
    found = files.read_json(folder / "run" / "results.json")["rollouts"]
    assert (found["successes"], found["episodes"], found["video"]) == (3, 5, "rollouts.mp4")
    assert found["interval"] == pytest.approx([0.23, 0.88], abs=0.01)  # Wilson's interval of 3 in 5
    assert "Lift: 3 of 5 episodes succeed" in (folder / "run" / "README.md").read_text()

    before = files.fingerprint(files.load_tensors(folder / "run" / "adapter.safetensors")[0])
    adapt(tiny(folder, encoder=vit, state=EEF))  # a call without --task keeps the earlier rollouts
    assert files.read_json(folder / "run" / "results.json")["rollouts"] == found
    adapt(tiny(folder, encoder=vit, state=EEF, task="Lift", episodes=2, videos=0))
    assert files.read_json(folder / "run" / "results.json")["rollouts"]["episodes"] == 2
    assert files.fingerprint(files.load_tensors(folder / "run" / "adapter.safetensors")[0]) == before


def test_actions_of_rollouts_are_those_of_the_policy(folder, vit):
    config = tiny(folder, encoder=vit, state=EEF, task="Lift", sampling_steps=4)
    policy = build(config).policy.eval()
    seen = {"agentview": np.full((2, 2, SIZE, SIZE, 3), 90, np.uint8), "state": np.full((2, 2, 11), 0.1, np.float32)}
    noise = module.generator("acting", config.seed)
    answer = module.actor(policy, "Lift", noise, steps=config.rollout.sampling_steps)(seen)
    images = {"agentview": torch.from_numpy(seen["agentview"]).permute(0, 1, 4, 2, 3)}
    noise = module.generator("acting", config.seed)
    chunk = policy.sample(images, torch.from_numpy(seen["state"]), steps=4, generator=noise)
    assert torch.allclose(policy.layout.decode(torch.from_numpy(answer)), chunk, atol=1e-5)


def test_deltas_are_said_to_be_deltas(folder, vit, rolled):
    layout = "delta: position 6d gripper"
    adapt(tiny(folder, encoder=vit, state=EEF, task="Lift", episodes=1, action_layout=layout))
    assert rolled[0]["sight"].delta
