"""The denoising loss of both stages: noise a chunk, predict, compare.

Axes: b batch, h horizon, a action, P modulation values of all sites.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from action_heads.denoiser import Denoiser
    from action_heads.modulation import HeadModulation


class Noise(NamedTuple):
    """What is mixed into chunks, and at which levels."""

    t: Tensor  # (b, 1 or h)
    values: Tensor  # (b h a) standard normal
    clean: Tensor | None = None  # (b, 1 or h) true for steps that are shown as they are, and don't count


def corrupt(head: Denoiser, x0: Tensor, noise: Noise) -> Tensor:
    """Return normalised chunks x0 (b h a) with noise in all steps but the clean ones."""
    x_t = head.objective.add_noise(x0, noise.values, noise.t)
    return x_t if noise.clean is None else torch.where(noise.clean[..., None], x0, x_t)


def denoising_loss(
    head: Denoiser,
    x0: Tensor,
    noise: Noise,
    values: Tensor,
    modulation: HeadModulation,
    is_pad: Tensor | None = None,
) -> Tensor:
    """Return the mean squared error (scalar) of the prediction for chunks x0 (b h a) under values (b, 1 or h, P).

    Neither the steps that are padding (b h) nor the clean ones count; where none is left, it is 0.
    """
    output = head.predict(corrupt(head, x0, noise), values, modulation)
    error = (output - head.objective.target(x0, noise.values, noise.t)).square().mean(-1)
    excluded = noise.clean if is_pad is None else is_pad if noise.clean is None else noise.clean | is_pad
    if excluded is None:
        return error.mean()
    return error.masked_fill(excluded, 0).sum() / (~excluded).expand_as(error).sum().clamp(min=1)
