"""Runs on images in the reproduction harness use the trainer of `adapt` and have results and identities as others."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec

import h5py
import numpy as np
import pytest
from recorded import SIZE, episode, hdf5

if find_spec("robosuite") is None:
    pytest.skip("needs the sim extra", allow_module_level=True)

from action_heads_lab.reproduce import families, images, results
from action_heads_lab.reproduce import run as module
from action_heads_lab.reproduce.beside_paper import beside_paper
from action_heads_lab.reproduce.config import EYES, IMAGE_LR, Place, Run
from action_heads_lab.reproduce.grid import Reproduce, runs
from action_heads_lab.reproduce.run import perform
from action_heads_lab.sim.rollout import Rollouts

from action_heads.adapt.trainer import Trainer
from action_heads.io import files


@pytest.fixture
def image_run(folder, vit, monkeypatch) -> Run:
    """Return a run of six training steps, on a recording of colours instead of robosuite."""
    hdf5(folder / "demos.hdf5", 4)
    with h5py.File(folder / "demos.hdf5", "a") as file:
        for i in range(4):
            parts = episode(i)
            file[f"data/demo_{i}/obs/observation.eef"] = parts["actions"][:, :9]

    class Colours(families.Family):
        def image_data(self, run, place):
            return f"robomimic:{folder / 'demos.hdf5'}"

        def versions(self):
            return {}

    flags = {"encoder": vit, "features": 8, "warmup": 2, "save_every": 3, "workers": 0, "precision": "fp32"}
    eyes = {"cameras": ("agentview",), "size": SIZE, "state": ("observation.eef",), "flags": flags}
    monkeypatch.setitem(families.FAMILIES, "robosuite", Colours())
    monkeypatch.setitem(EYES, "robosuite", eyes)
    settings = images.settings  # the file of demonstrations has another name for the column

    def with_actions(*given):
        made = settings(*given)
        return replace(made, actions=replace(made.actions, action="actions"))

    monkeypatch.setattr(images, "settings", with_actions)
    return Run(observation="image", head=str(folder / "head"), steps=6, batch_size=8, episodes=30)


@pytest.fixture
def rolled(monkeypatch):
    """Record the blocks of a fake rollout: (seeds, answer of the policy to grey images)."""
    calls = []

    def rollout(task, policy, seeds, sight, **_):
        seen = {name: np.full((2, sight.steps, size, size, 3), 90, np.uint8) for name, size in sight.cameras.items()}
        answer = policy(seen | {"state": np.full((2, sight.steps, 9), 0.2, np.float32)})
        calls.append((seeds, answer))
        n = len(seeds)
        return Rollouts(task, np.arange(n) % 2 == 0, np.full(n, 30), np.array(seeds), 0.1, 1.0)

    monkeypatch.setattr(module, "rollout", rollout)
    return calls


def place(folder, name="a") -> Place:
    return Place(results=folder / name / "results", work=folder / name / "work")


def test_a_finished_run_is_read_back(folder, image_run, rolled):
    first = perform(image_run, place(folder))
    assert first.run.observation == "image"
    assert len(first.episodes) == 30
    assert first.head["frozen"] > 0
    assert first.head["encoder"]["trained"] > 0
    assert first.losses
    assert perform(image_run, place(folder)) == first
    assert len(rolled) == 2
    assert results.load_all(folder / "a" / "results") == [first]
    assert "Images, head" in beside_paper("mimicgen", [module.Result(**vars(first) | {"run": mimicgen(image_run)})])


def test_every_checkpoint_is_rolled_out(folder, image_run, rolled):
    run = replace(image_run, checkpoints=2)
    several = perform(run, place(folder))
    assert several.earlier.keys() == {3}
    answers = [answer for seeds, answer in rolled if seeds == rolled[0][0]]
    assert len(answers) == 2
    assert not np.allclose(*answers)
    alone = perform(image_run, place(folder, "last"))
    assert several.episodes == alone.episodes
    assert np.array_equal(rolled[-2][1], answers[1]), "the last checkpoint does not depend on the number of checkpoints"


def mimicgen(run: Run) -> Run:
    return replace(run, family="mimicgen", task="stack_d1")


@pytest.mark.parametrize("mode", ["normal", "random-frozen", "blind"])
def test_controls(folder, image_run, rolled, mode):
    result = perform(replace(image_run, mode=mode, episodes=2), place(folder))
    assert (result.head["fingerprint"] is None) == (mode == "normal")
    assert (result.head["frozen"] == 0) == (mode == "normal")
    (trained,) = (folder / "a" / "work" / "runs").glob("*/policy/policy.json")
    assert files.read_json(trained)["contract"]["blind"] == (mode == "blind")


def test_killed_in_training_and_in_rollouts_it_ends_as_if_it_had_not_been(folder, image_run, rolled, monkeypatch):
    whole = perform(image_run, place(folder, "whole"))
    answers = [answer for _, answer in rolled]
    train_step, rollout = Trainer.train_step, module.rollout

    def dies(self, batch):
        return train_step(self, batch) / (self.step < 5 or 1 // 0)

    monkeypatch.setattr(Trainer, "train_step", dies)
    clock = iter(range(0, 2000, 100))
    monkeypatch.setattr(images, "cpu_seconds", lambda: next(clock))  # each reading is 100 s after the one before
    with pytest.raises(ZeroDivisionError):
        perform(image_run, place(folder, "cut"))
    monkeypatch.setattr(Trainer, "train_step", train_step)

    def once(*given, **options):
        if len(rolled) == 3:
            raise KeyboardInterrupt
        return rollout(*given, **options)

    monkeypatch.setattr(module, "rollout", once)
    with pytest.raises(KeyboardInterrupt):
        perform(image_run, place(folder, "cut"))
    (unfinished,) = (folder / "cut" / "work" / "runs").glob("*/progress.json")
    assert 200 <= results.Progress.load(unfinished).seconds["cpu"] < 300, "of both processes, and of a block"
    monkeypatch.setattr(module, "rollout", rollout)
    monkeypatch.setattr(images, "adapt", None)  # it is trained already
    resumed = perform(image_run, place(folder, "cut"))
    assert resumed.episodes == whole.episodes
    assert resumed.losses == whole.losses
    assert all(np.array_equal(a, b) for a, (_, b) in zip(answers, rolled[2:], strict=True))


def test_identities(image_run, monkeypatch):
    state = replace(image_run, observation="state")
    known = image_run.identity("h"), state.identity("h")
    assert known[0] != known[1]
    monkeypatch.setitem(EYES, "robosuite", EYES["robosuite"] | {"size": 32})
    assert (image_run.identity("h") != known[0], state.identity("h") == known[1]) == (True, True)
    # The identity is unchanged by the later runs on images, since results/ holds runs with it.
    assert Run(episodes=1).identity("h") == "77f3f22c8836e334"


def test_the_grid():
    options = Reproduce(task="Lift", seeds="0", observe="images")
    paper, code = (runs(replace(options, recipe=recipe), "robosuite") for recipe in ("paper", "code"))
    assert (paper[0].observation, paper[0].lr, paper[0].steps) == ("image", IMAGE_LR, 8000)
    assert (code[0].lr, code[0].through) == (1e-2, "code")
    (libero,) = runs(Reproduce(task="libero_object", seeds="0", observe="images", steps=9), "libero")
    assert (libero.batch_size, libero.noise_samples, libero.steps) == (128, 8, 9)
    with pytest.raises(ValueError, match="choose one of states, images"):
        Reproduce(task="Lift", observe="sounds")
