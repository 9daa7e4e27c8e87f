"""Objectives: the target that a network predicts, and the way noise is mixed into chunks.

ε and x_0 are from DDPM (Ho et al. 2020), v from Salimans & Ho 2022, flow from Lipman et al. 2023.

Axes: b batch, h horizon, a action, k denoising steps, T noise levels. Noise levels t run from clean to noise: 0 is
almost clean, T - 1 almost pure noise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from action_heads._util.limits import TRAIN_STEPS, check_choice, check_number, check_width, shown
from action_heads._util.tables import kept
from action_heads.diffusion import draws
from action_heads.diffusion.levels import LEVELS, check_levels
from action_heads.diffusion.noise_schedule import noise_path

CPU = torch.device("cpu")
PREDICTIONS = ("epsilon", "x0", "v", "flow")


@dataclass(frozen=True)
class ObjectiveConfig:
    """Settings of an objective.

    Attributes:
        prediction: target of the network. "epsilon", "x0" and "v" = αε - σx_0 use the paper's noise path, the cosine
            schedule `squaredcos_cap_v2`. "flow" is the velocity ε - x_0 on the straight path (1 - σ)x_0 + σε.
        train_steps: number T of noise levels.
        clip: bound on predicted clean actions while sampling, in network units, where actions lie roughly in [-1, 1].

    Raises:
        ValueError: an unknown prediction, or a number that is not positive.
    """

    prediction: str = "x0"
    train_steps: int = 100
    clip: float = 1.0

    def __post_init__(self):
        check_choice("prediction", self.prediction, PREDICTIONS)
        if type(self.train_steps) is not int or self.train_steps < 1:
            raise ValueError(f"train_steps must be an integer of at least 1, got {shown(self.train_steps)}")
        check_width("train_steps", self.train_steps, TRAIN_STEPS)
        check_number("clip", self.clip)
        if self.clip <= 0:
            raise ValueError(f"clip must be positive, got {self.clip}")


class Objective(nn.Module):
    """The noise path x_t = α_t x_0 + σ_t ε, and conversions between x_0, ε and the output of the network.

    The shares α and σ follow from the config. They are not buffers: libraries that load a whole model overwrite buffers
    that its files lack, as transformers does.
    """

    def __init__(self, config: ObjectiveConfig):
        super().__init__()
        self.config = config
        self._paths: dict[Any, tuple[Tensor, int]] = {}

    def shares(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return the shares α of signal and σ of noise, float32 in the shape of noise levels t, on its device."""

        def make() -> Tensor:
            return torch.stack(noise_path(self.config)).float().to(t.device)

        alpha, sigma = kept(self._paths, (self.config.prediction, self.config.train_steps, t.device), t.device, make)
        return alpha[t], sigma[t]

    def random_steps(
        self,
        shape: tuple[int, ...],
        generator: torch.Generator | None = None,
        levels: str = "uniform",
        device: torch.device | None = None,
    ) -> Tensor:
        """Draw int64 noise levels for a device from the distribution `levels`, a key of `LEVELS`."""
        check_levels(levels)
        drawn_on = draws.place(generator, device or CPU)
        return LEVELS[levels](self.config.train_steps, shape, generator, drawn_on).to(device)

    def random_noise(
        self, shape: tuple[int, ...], generator: torch.Generator | None = None, device: torch.device | None = None
    ) -> Tensor:
        """Draw standard normal noise for a device.

        It is drawn on the generator's device, so a CPU generator gives the same noise everywhere.
        """
        return draws.normal(shape, generator, draws.place(generator, device or CPU)).to(device)

    def add_noise(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Return x_t (b h a), from x0 (b h a) and noise (b h a) at noise levels t (b 1) or (b h)."""
        alpha, sigma = self.shares(t[..., None])
        return alpha * x0 + sigma * noise

    def target(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Return the training target of the network (b h a) at noise levels t (b 1) or (b h)."""
        return CONVERSIONS[self.config.prediction][0](x0, noise, *self.shares(t[..., None]))

    def to_x0(self, output: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """Return the clipped clean chunk (b h a) that an output implies at noise levels t (b 1) or (b h)."""
        return self.clean(output, x_t, *self.shares(t[..., None]))

    def clean(self, output: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """Do the same as `to_x0`, for shares of signal and noise that broadcast with (b h a)."""
        x0 = CONVERSIONS[self.config.prediction][1](output, x_t, alpha, sigma)
        return x0.clamp(-self.config.clip, self.config.clip)

    def convert(self, output: Tensor, x_t: Tensor, t: Tensor, to: str, of: str | None = None) -> Tensor:
        """Convert an output between kinds of prediction, without clipping.

        x_0 and ε have the same meaning on any noise path. v is defined where α² + σ² = 1, and the velocity of a flow
        where α + σ = 1. A chunk on one path also lies on the other after division by √(α² + σ²) or α + σ, so v and the
        velocity are converted there. Every kind converts into every other, except ε at a level without signal, where
        it does not determine x_0.

        Args:
            output: prediction (b h a) of kind `of`.
            x_t: the noisy chunk (b h a).
            t: noise levels (b 1) or (b h).
            to: kind to return, one of `PREDICTIONS`.
            of: kind of `output`; this objective's own if None.
        """
        alpha, sigma = self.shares(t[..., None])
        given = of or self.config.prediction
        for name in (given, to):
            check_choice("prediction", name, PREDICTIONS)
        x0 = CONVERSIONS[given][1](output, *own_path(given, x_t, alpha, sigma))
        _, alpha_there, sigma_there = own_path(to, x_t, alpha, sigma)
        return CONVERSIONS[to][0](x0, (x_t - alpha * x0) / sigma, alpha_there, sigma_there)


def own_path(prediction: str, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Scale x_t and its shares of signal and noise onto the noise path on which a kind of prediction is defined."""
    size = alpha + sigma if prediction == "flow" else torch.hypot(alpha, sigma)
    return x_t / size, alpha / size, sigma / size


# For each kind of prediction: the target from (x0, noise, α, σ), and x0 from (output, x_t, α, σ).
CONVERSIONS = {
    "epsilon": (lambda x0, noise, alpha, sigma: noise, lambda out, x, alpha, sigma: (x - sigma * out) / alpha),
    "x0": (lambda x0, noise, alpha, sigma: x0, lambda out, x, alpha, sigma: out),
    "v": (
        lambda x0, noise, alpha, sigma: alpha * noise - sigma * x0,
        lambda out, x, alpha, sigma: alpha * x - sigma * out,
    ),
    "flow": (lambda x0, noise, alpha, sigma: noise - x0, lambda out, x, alpha, sigma: x - sigma * out),
}
