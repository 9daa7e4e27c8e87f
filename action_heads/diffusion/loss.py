"""The denoising loss of both training stages: add noise to a chunk, predict, and compare.

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
    """Noise for a batch of chunks.

    Attributes:
        t: noise levels (b, 1 or h).
        values: standard normal numbers (b h a).
        clean: (b, 1 or h), true at time steps that get no noise and do not count in the loss.
    """

    t: Tensor
    values: Tensor
    clean: Tensor | None = None


def corrupt(head: Denoiser, x0: Tensor, noise: Noise) -> Tensor:
    """Add noise to normalised chunks x0 (b h a), except at clean time steps."""
    x_t = head.objective.add_noise(x0, noise.values, noise.t)
    return x_t if noise.clean is None else torch.where(noise.clean[..., None], x0, x_t)


def denoising_loss(
    head: Denoiser,
    x0: Tensor,
    noise: Noise,
    values: Tensor,
    modulation: HeadModulation,
    is_pad: Tensor | None = None,
    each: bool = False,
) -> Tensor:
    """Return the mean squared error of the prediction, a scalar, or the share (b) of each chunk in it.

    Time steps that are padding or clean do not count. If none is left, the loss is 0. The shares have the loss as their
    mean, so a chunk with much padding has a small one.

    Args:
        head: the denoiser.
        x0: normalised chunks (b h a).
        noise: the noise to add.
        values: modulation values (b, 1 or h, P).
        modulation: the head's modulation for the mechanism of these values.
        is_pad: (b h), true where an action is padding.
        each: return the shares.
    """
    output = head.predict(corrupt(head, x0, noise), values, modulation)
    error = (output - head.objective.target(x0, noise.values, noise.t)).square().mean(-1)
    excluded = noise.clean if is_pad is None else is_pad if noise.clean is None else noise.clean | is_pad
    if excluded is None:
        return error.mean(-1) if each else error.mean()
    error, count = error.masked_fill(excluded, 0), (~excluded).expand_as(error).sum().clamp(min=1)
    return error.sum(-1) * (len(error) / count) if each else error.sum() / count
