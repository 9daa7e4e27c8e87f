"""Stage 1 by CUDA graphs has the bits of eager training, on static buffers and with stand-ins for captures."""

from __future__ import annotations

import pytest
import torch
from captured import Captured
from killed import killed_at_step
from tiny import tiny

from action_heads._util import training_step
from action_heads._util.training_step import KEPT, WARM_UP, adamw, put_on_device
from action_heads.backbones import BACKBONES
from action_heads.pretrain import trainer as module
from action_heads.pretrain.loop import pretrain
from action_heads.pretrain.objective import SIGNALS
from action_heads.pretrain.speed import measure
from action_heads.pretrain.trainer import Trainer
from action_heads.training.streams import generator, seed_of

pytestmark = pytest.mark.usefixtures("no_picture")


@pytest.fixture
def captured(monkeypatch) -> Captured:
    monkeypatch.setattr(training_step, "capture", captured := Captured())
    return captured


def variants(trainer: Trainer) -> set[tuple[str, bool]]:
    return {trainer.stage.variant(step) for step in range(100)}


def train(trainer: Trainer, steps: int) -> list[float]:
    return [trainer.train_step(trainer.draw(trainer.step)).item() for _ in range(steps)]


def assert_equal_states(*trainers: Trainer) -> None:
    one, other = (trainer.state_dict() for trainer in trainers)
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_graphs_give_the_bits_of_eager_training(tmp_path, backbone, precision, captured):
    """For all mechanisms of every backbone: each mechanism has a graph, and another one with clean prefixes."""
    given = {"arch": backbone, "mechanisms": BACKBONES[backbone].mechanisms, "precision": precision}
    eager, graphed = (Trainer(tiny(tmp_path, **given, graph=graph)) for graph in (False, True))
    steps = (WARM_UP + 2) * len(variants(graphed))
    assert train(graphed, steps) == train(eager, steps)
    assert_equal_states(graphed, eager)
    prefixes = 2 if graphed.head.backbone.mixes_time else 1
    assert captured.captures == len(variants(graphed)) == prefixes * len(BACKBONES[backbone].mechanisms) <= KEPT


@pytest.mark.parametrize("signal", SIGNALS)
def test_graphs_read_every_signal(tmp_path, signal, captured):
    eager, graphed = (Trainer(tiny(tmp_path, signal=signal, graph=graph)) for graph in (False, True))
    assert train(graphed, 15) == train(eager, 15)
    assert captured.captures == 3


@pytest.mark.parametrize("arch", ["mlp", "mixer"])
def test_a_killed_run_by_graphs_resumes_to_the_same_bits(tmp_path, arch, captured):
    given = {"arch": arch, "steps": 30}
    whole = pretrain(tiny(tmp_path / "whole", **given, graph=True))
    assert captured.captures > 2
    with killed_at_step(Trainer, 21):
        pretrain(tiny(tmp_path / "cut", **given, graph=True))
    resumed = pretrain(tiny(tmp_path / "cut", **given, graph=True))
    eager = pretrain(tiny(tmp_path / "eager", **given))
    assert resumed.fingerprint() == whole.fingerprint() == eager.fingerprint()
    assert whole.config.training["settings"]["graph"] is True
    assert "graph" not in eager.config.training["settings"]


def test_the_noise_of_a_step_does_not_depend_on_the_steps_before(tmp_path):
    """A graph draws from one generator. It is seeded anew, so a step has the numbers of a generator of its own."""
    trainer = Trainer(tiny(tmp_path, graph=True))
    train(trainer, 2)
    state = {name: tensor.clone() for name, tensor in trainer.state_dict().items()}
    losses = train(trainer, 3)
    trainer.load_state_dict(state, 2)
    assert train(trainer, 3) == losses
    fresh = generator("noise", 0, 4, 0)
    trainer.noise.manual_seed(seed_of("noise", 0, 4, 0))
    assert torch.equal(torch.randn(3, generator=trainer.noise), torch.randn(3, generator=fresh))


def on_a_gpu(*given, **options) -> torch.optim.AdamW:
    """Return the optimizer that `adamw` makes on a GPU, whose learning rate is on the device."""
    optimizer = adamw(*given, **options)
    put_on_device(optimizer)
    return optimizer


@pytest.mark.parametrize("began_by_graphs", [False, True])
def test_a_state_goes_on_with_graphs_and_without(tmp_path, began_by_graphs, monkeypatch):
    """The state does not say how it was trained. After loading, the learning rate on the device is that of the step."""
    eager = Trainer(tiny(tmp_path))
    monkeypatch.setattr(module, "adamw", on_a_gpu)
    graphed = Trainer(tiny(tmp_path, graph=True))
    began, other = (graphed, eager) if began_by_graphs else (eager, graphed)
    train(began, 4)
    other.load_state_dict({name: tensor.clone() for name, tensor in began.state_dict().items()}, began.step)
    assert_equal_states(began, other)
    assert train(other, 4) == pytest.approx(train(began, 4), rel=1e-5)
    rate = graphed.optimizer.param_groups[0]["lr"]
    assert isinstance(rate, torch.Tensor)
    assert rate.item() == pytest.approx(graphed.learning_rate(7))
    assert isinstance(eager.optimizer.param_groups[0]["lr"], float)
    assert all(group["capturable"] for group in graphed.optimizer.param_groups)


def test_measuring_speed_takes_back_the_steps_of_graphs(tmp_path, captured):
    """Loading replaces what the graphs of the measured steps wrote to."""
    eager, graphed = (Trainer(tiny(tmp_path, graph=graph)) for graph in (False, True))
    assert train(graphed, 15) == train(eager, 15)
    measure(graphed)
    assert graphed.take_step.recorded == {}
    assert train(graphed, 15) == train(eager, 15)
