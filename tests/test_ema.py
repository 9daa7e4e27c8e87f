"""The moving average equals that of diffusers."""

from __future__ import annotations

import torch
from torch import nn

from action_heads import EMA


def walk(model: nn.Module, step: int) -> None:
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(step)))


def test_parity_with_diffusers():
    from diffusers.training_utils import EMAModel  # takes seconds, which each worker would spend on collecting tests

    model = nn.Linear(3, 4)
    ours = EMA(model.parameters(), max_decay=0.97, power=0.75)
    theirs = EMAModel(model.parameters(), decay=0.97, use_ema_warmup=True, power=0.75, inv_gamma=1.0)
    for step in range(200):
        walk(model, step)
        ours.update()
        theirs.step(model.parameters())
        for a, b in zip(ours.average, theirs.shadow_params, strict=True):
            torch.testing.assert_close(a, b)


def test_frozen_parameters_are_left_out():
    model = nn.Linear(3, 4)
    model.bias.requires_grad_(False)
    assert len(EMA(model.parameters()).average) == 1


def test_averaged_puts_the_live_weights_back():
    model = nn.Linear(3, 4)
    ema = EMA(model.parameters())
    walk(model, 0)
    ema.update()
    walk(model, 1)
    live = model.weight.clone()
    with ema.averaged():
        assert torch.equal(model.weight, ema.average[0])
    assert torch.equal(model.weight, live)


def test_state_comes_back():
    model = nn.Linear(3, 4)
    one, other = EMA(model.parameters()), EMA(model.parameters())
    walk(model, 0)
    one.update()
    other.load_state_dict(one.state_dict())
    assert other.updates == 1
    assert torch.equal(other.average[0], one.average[0])
