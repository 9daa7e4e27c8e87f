"""A head's trunk for another layout of actions, or another horizon: joints, two arms, chunks of 8 or 50.

Axes: b batch, h horizon, a action, w width.
"""

from __future__ import annotations

import dataclasses

import torch

from action_heads.head import ActionHead
from action_heads.spaces import ActionSpace


def reshape(head: ActionHead, space: ActionSpace | None = None, horizon: int | None = None) -> ActionHead:
    """A new head with `head`'s trunk, frozen, and new projections from and to actions, which train with the adapter.

    The trunk is what lies between the projections, blocks, norms, step embedding and modulation, in float32. What in
    it depends on the horizon (`mixer`'s maps over time) is resampled to the new one. The projections are random, and
    there are no statistics: `attach` wants a normalizer fitted to the new actions.
    """
    if not head.frozen:
        raise ValueError("only a frozen head is reshaped, since its trunk is to stay what it is: head.freeze() first")
    config = dataclasses.replace(
        head.config, space=space or head.config.space, horizon=horizon or head.config.horizon, fingerprint=""
    )
    reshaped = ActionHead(config)
    own = reshaped.state_dict()
    trunk = {name: tensor.float() for name, tensor in head.state_dict().items() if not reshaped.is_open(name)}
    trunk = {name: tensor for name, tensor in trunk.items() if not name.startswith("normalizer.")}
    trunk |= {name: resample(t, config.horizon) for name, t in trunk.items() if t.shape != own[name].shape}
    reshaped.load_state_dict(own | trunk)
    reshaped.origin = head.pointer()
    return reshaped.to(head.objective.alpha.device).freeze()


def resample(weight: torch.Tensor, horizon: int) -> torch.Tensor:
    """A map over time (h h), or its bias (h), for another horizon: as much influence over the same share of a chunk."""
    old, image = len(weight), weight[None, None] if weight.ndim == 2 else weight[None, None, None]
    size = (horizon, horizon) if weight.ndim == 2 else (1, horizon)
    new = torch.nn.functional.interpolate(image, size=size, mode="bilinear", align_corners=True)[0, 0]
    # A step now sums over more or fewer others: rows keep the size they had.
    return new * old / horizon if weight.ndim == 2 else new[0]
