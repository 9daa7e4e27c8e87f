"""A test that backbones which mix time keep a chunk in one of two modes, so that it goes left or right, not both."""

from __future__ import annotations

import pytest
import torch
from small import generator, tiny_config

from action_heads import ActionHead
from action_heads.pretrain import objective


def consistent_chunks(backbone: str) -> float:
    """Train on chunks that are +0.8 or -0.8 throughout, and return the share of samples with only one sign."""
    torch.manual_seed(0)
    head = ActionHead(tiny_config(backbone=backbone, width=32, depth=2, mechanisms=("film",)))
    optimizer = torch.optim.Adam(head.parameters(), lr=3e-3)
    noise = generator(1)
    for _ in range(300):
        side = torch.randint(2, (64, 1, 1), generator=noise) * 1.6 - 0.8
        objective.loss(head, None, side.expand(64, 16, 10), side, "film", noise).backward()
        optimizer.step()
        optimizer.zero_grad()
    position = head.freeze().sample(200, steps=20, generator=generator(2))[..., 0]
    assert (position.abs() - 0.8).abs().median() < 0.15  # The head has learned both values,
    assert 0.2 < (position > 0).float().mean() < 0.8  # and samples each of them.
    return float(((position > 0).all(1) | (position < 0).all(1)).float().mean())


@pytest.mark.parametrize(("backbone", "keeps"), [("mlp", False), ("mixer", True), ("transformer", True)])
def test_only_mixing_keeps_a_chunk_in_one_mode(backbone, keeps):
    share = consistent_chunks(backbone)
    assert share > 0.9 if keeps else share < 0.1
