"""Stage 2 by CUDA graphs has the bits of eager training if its steps encode neither images nor words."""

from __future__ import annotations

import pytest
import torch
from captured import Captured
from killed import killed_at_step
from no_waiting import NoWaiting, without_checks
from recorded import describe, tiny

from action_heads._util import training_step
from action_heads.adapt import report
from action_heads.adapt.run import adapt
from action_heads.adapt.trainer import Trainer

STATES = {"encoder": "none", "cameras": ()}


@pytest.fixture
def captured(tmp_path, monkeypatch) -> Captured:
    monkeypatch.setenv("ACTION_HEADS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(training_step, "capture", captured := Captured())
    return captured


def train(trainer: Trainer) -> list[float]:
    return [trainer.train_step(batch).item() for batch in trainer.coming()]


@pytest.mark.parametrize("how", ["cached", "states", "blind", "normal"])
def test_graphs_give_the_bits_of_eager_training(folder, vit, how, captured):
    """With cached outputs the encoder's own parameters train too, at a learning rate of their own."""
    ways = {"cached": {"encoder": vit, "train_encoder": "cached"}, "blind": STATES | {"blind": True}}
    given = ways.get(how, STATES) | {"mode": "normal" if how == "normal" else "decoupled"}
    trainers = eager, graphed = [Trainer(tiny(folder, **given, graph=graph)) for graph in (False, True)]
    assert train(graphed) == train(eager)
    assert captured.captures == 1
    assert len(graphed.optimizer.param_groups) == (2 if how == "cached" else 1)
    one, other = (trainer.state_dict() for trainer in trainers)
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


@pytest.mark.parametrize("given", [STATES, {"train_encoder": "cached"}], ids=["states", "cached"])
def test_a_step_waits_for_nothing(folder, vit, given, captured, monkeypatch):
    trainer = Trainer(tiny(folder, **{"encoder": vit} | given, graph=True))
    first, second, *_ = trainer.coming()
    trainer.train_step(first)  # The first step makes tables and the optimizer's state.
    without_checks(trainer.policy.policy, monkeypatch)
    with NoWaiting():
        trainer.train_step(second)


def test_a_killed_run_by_graphs_resumes_to_the_same_bits(folder, captured):
    settings = {**STATES, "steps": 15, "graph": True}
    whole = adapt(tiny(folder, out=folder / "whole", **settings))
    with killed_at_step(Trainer, 10):
        adapt(tiny(folder, **settings))
    resumed = adapt(tiny(folder, **settings))
    assert captured.captures == 3
    expected = whole.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in resumed.state_dict().items())


@pytest.mark.parametrize("given", [{"train_encoder": "frozen"}, {"crop": (12, 12), "jitter": 0.2}])
def test_what_encodes_images_trains_eagerly_and_says_so(folder, vit, given, captured):
    eager, told = (Trainer(tiny(folder, encoder=vit, **given, graph=graph)) for graph in (False, True))
    said = "training without CUDA graphs, since --encoder encodes images or words in each training step"
    assert said in report.opening(told)
    assert "CUDA graphs" not in report.opening(eager)
    assert train(told) == train(eager)
    assert captured.captures == 0


def test_what_encodes_words_trains_eagerly_and_says_so(folder, captured, tmp_path):
    from tiny_models import text_model

    describe(folder / "demos.hdf5")
    told = Trainer(tiny(folder, **STATES, text=text_model(tmp_path / "text"), graph=True))
    assert "since --text encodes images or words" in report.opening(told)
    assert not told.take_step.graph
