"""Small random heads and policies for fast tests."""

from __future__ import annotations

import torch

from action_heads import ActionHead, HeadConfig, Normalizer
from action_heads.adapters import ADAPTERS
from action_heads.backbones import BACKBONES

COND_DIM = 7


def tiny_config(backbone: str = "mlp", **changes) -> HeadConfig:
    """Return a config for all mechanisms that the backbone supports."""
    mechanisms = BACKBONES[backbone].mechanisms
    settings = {"name": "test/tiny", "backbone": backbone, "mechanisms": mechanisms, "width": 16, "depth": 3, "rank": 4}
    return HeadConfig(**settings | changes)


def tiny_head(backbone: str = "mlp", seed: int = 0, **changes) -> ActionHead:
    """Return a frozen random head whose normalizer is not the identity."""
    torch.manual_seed(seed)
    head = ActionHead(tiny_config(backbone, **changes))
    head.normalizer = Normalizer.from_range([-0.5, -0.4, 0.0], [0.7, 0.4, 0.9], head.config.space)
    return head.freeze()


def trained_policy(head: ActionHead, mechanism: str | None = None, **options):
    """Return a policy whose adapter, by default AdaLN-Zero if the head supports it, is not at its zero start."""
    taken = head.config.mechanisms
    mechanism = mechanism or ("adaln_zero" if "adaln_zero" in taken else taken[0])
    policy = head.attach(ADAPTERS[mechanism](COND_DIM, **options))
    with torch.no_grad():
        for p in policy.adapter.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return policy.eval()


def actions(batch: int = 4, seed: int = 0) -> torch.Tensor:
    """Return chunks (b, 16, 10) in the range of the tiny head's normalizer."""
    generator = torch.Generator().manual_seed(seed)
    return 0.8 * torch.rand((batch, 16, 10), generator=generator) - 0.2


def conditions(batch: int = 4, seed: int = 1) -> torch.Tensor:
    return torch.randn((batch, COND_DIM), generator=torch.Generator().manual_seed(seed))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
