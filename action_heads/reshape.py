"""Frozen heads for another action space or horizon, such as joints, two arms, or chunks of 8 or 50 time steps.

Axes: b batch, h horizon, a action, w width.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn

from action_heads._util.building import building_for
from action_heads.actions.normalize import Normalizer
from action_heads.actions.spaces import ActionSpace
from action_heads.adapters import Adapter
from action_heads.config import HeadConfig
from action_heads.head import ActionHead
from action_heads.policy import ConditionedHead


class ReshapedHead(ActionHead):
    """The frozen inner layers of a head between new projections from and to actions, which train with the adapter."""

    def __init__(self, config: HeadConfig, original: ActionHead):
        super().__init__(config)
        self._original = (original,)  # A tuple hides it from torch, which would register it as a submodule.
        self._taken = False

    @property
    def left_out(self) -> frozenset[nn.Module]:
        """The projections and the normalizer, which are not frozen."""
        return frozenset(m for part in (*self.backbone.projections, self.normalizer) for m in part.modules())

    @property
    def original(self) -> ActionHead:
        """The head that this one was made from."""
        return self._original[0]

    def attach(self, adapter: Adapter, *, normalizer: Normalizer | None = None) -> ConditionedHead:
        """Attach an adapter, once. The projections train with it, and `normalizer` is required.

        Raises:
            ValueError: an adapter is attached already, or `normalizer` is missing.
        """
        if self._taken:
            raise ValueError(
                "this reshaped head already has an adapter, with which its projections train. Call reshape again for "
                "another adapter."
            )
        if normalizer is None:
            raise ValueError(
                "a reshaped head has no statistics of its new actions. Pass "
                "normalizer=Normalizer.fit(actions, head.config.space)."
            )
        policy = super().attach(adapter, normalizer=normalizer)
        self._taken = True
        return policy


def reshape(head: ActionHead, space: ActionSpace | None = None, horizon: int | None = None) -> ReshapedHead:
    """Return a new head with the frozen inner layers of `head` and random projections. See `ActionHead.reshape`.

    The inner layers are all but the projections: blocks, norms, step embedding and modulation, in float32. The linear
    maps over time of `mixer` are resampled to the new horizon (`resample`).
    """
    if not head.frozen:
        raise ValueError("reshape needs a frozen head, but this one is trainable; call head.freeze() first")
    original = head.original  # Reshape the original again, since resampling twice would lose information.
    original.assert_frozen(thorough=True)  # The new head would hide a change, since it is hashed as it is made.
    config = dataclasses.replace(
        original.config,
        name=f"{original.config.name}-reshaped",
        space=head.config.space if space is None else space,
        horizon=head.config.horizon if horizon is None else horizon,
        training={"reshaped_from": head.pointer(), "licence": original.config.training.get("licence")},
        fingerprint="",
    )
    with building_for(original.device):
        reshaped = ReshapedHead(config, original)
    over_time = {p for linear in reshaped.backbone.over_time for p in linear.parameters()}
    resampled = over_time if config.horizon != original.config.horizon else set()
    with torch.no_grad():
        for p, weight in zip(trunk(reshaped), trunk(original), strict=True):
            p.copy_(resample(weight.float(), config.horizon) if p in resampled else weight)
    reshaped.to(original.device).freeze()
    return reshaped


def trunk(head: ActionHead) -> list[nn.Parameter]:
    """Return the parameters that a reshaped head keeps, in order: all but those of the projections."""
    new = {p for part in head.backbone.projections for p in part.parameters()}
    return [p for p in head.parameters() if p not in new]


def resample(weight: Tensor, horizon: int) -> Tensor:
    """Resample a linear map over time (h h), or its bias (h), to another horizon.

    The new map interpolates a chunk to the old horizon, applies the old map, and interpolates the result back.
    """
    old, wide = len(weight), weight.double()  # in double precision, so that all machines round to the same weights
    back = interpolation(old, horizon)
    return (back @ wide @ interpolation(horizon, old) if weight.ndim == 2 else back @ wide).float()


def interpolation(old: int, new: int) -> Tensor:
    """Return the linear map (new old) between time steps at equal distances. A single new step is the mean."""
    if new == 1:
        return torch.full((1, old), 1 / old, dtype=torch.double)
    steps = torch.eye(old, dtype=torch.double)[None]
    return torch.nn.functional.interpolate(steps, size=new, mode="linear", align_corners=True)[0].T
