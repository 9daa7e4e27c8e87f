"""What the network predicts, and how noise is mixed in.

DDPM, Ho et al. 2020; v, Salimans & Ho 2022; flow, Lipman et al. 2023.

Axes: b batch, h horizon, a action. Time runs from clean to noise: step 0 is almost clean, step T - 1 almost pure noise.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from action_heads._util.limits import TRAIN_STEPS, check_choice, check_number, check_width, shown
from action_heads._util.precision import KeepFloat32
from action_heads.diffusion import draws
from action_heads.diffusion.levels import LEVELS, check_levels
from action_heads.diffusion.noise_schedule import noise_path

PREDICTIONS = ("epsilon", "x0", "v", "flow")


@dataclass(frozen=True)
class ObjectiveConfig:
    """What the network predicts, over how many noise levels; `clip` bounds predicted actions while sampling.

    `epsilon`, `x0` and `v` = αε - σx_0 are on the paper's path, 100 levels of `squaredcos_cap_v2`; `flow` predicts the
    velocity ε - x_0 on the straight path (1 - σ)x_0 + σε.
    """

    prediction: str = "x0"
    train_steps: int = 100
    clip: float = 1.0

    def __post_init__(self):
        check_choice("prediction", self.prediction, PREDICTIONS)
        if type(self.train_steps) is not int or self.train_steps < 1:
            raise ValueError(f"train_steps must be at least 1, an integer, got {shown(self.train_steps)}")
        check_width("train_steps", self.train_steps, TRAIN_STEPS)
        check_number("clip", self.clip)
        if self.clip <= 0:
            raise ValueError(f"clip must be positive, got {self.clip}")


class Objective(KeepFloat32):
    """x_t = α_t x_0 + σ_t ε, and the conversions between x_0, ε and the network's output."""

    alpha: Tensor
    sigma: Tensor

    def __init__(self, config: ObjectiveConfig):
        super().__init__()
        self.config = config
        alpha, sigma = noise_path(config)
        self.register_buffer("alpha", alpha.float(), persistent=False)
        self.register_buffer("sigma", sigma.float(), persistent=False)

    def random_steps(
        self, shape: tuple[int, ...], generator: torch.Generator | None = None, levels: str = "uniform"
    ) -> Tensor:
        """Noise levels, long, from one of `LEVELS`."""
        check_levels(levels)
        device = self.alpha.device if generator is None else generator.device
        return LEVELS[levels](self.config.train_steps, shape, generator, device).to(self.alpha.device)

    def random_noise(self, shape: tuple[int, ...], generator: torch.Generator | None = None) -> Tensor:
        """Standard normal, drawn where the generator is: a CPU generator gives the same numbers on every machine."""
        device = self.alpha.device if generator is None else generator.device
        return draws.normal(shape, generator, device).to(self.alpha.device)

    def add_noise(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """x_t (b h a) from x0 and noise (b h a) at steps t (b 1) or (b h)."""
        return self.alpha[t, None] * x0 + self.sigma[t, None] * noise

    def target(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """What the network should have said (b h a) at steps t (b 1) or (b h)."""
        return CONVERSIONS[self.config.prediction][0](x0, noise, self.alpha[t, None], self.sigma[t, None])

    def to_x0(self, output: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """The clean chunk that the network's output implies at steps t (b 1) or (b h), clipped (b h a)."""
        return self.clean(output, x_t, self.alpha[t, None], self.sigma[t, None])

    def clean(self, output: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """`to_x0` by shares of signal and noise that broadcast with (b h a)."""
        x0 = CONVERSIONS[self.config.prediction][1](output, x_t, alpha, sigma)
        return x0.clamp(-self.config.clip, self.config.clip)

    def shares(self, t: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Signal and noise, α and σ, at each of the steps t (k,): scalars on the device, read once for a whole loop."""
        return list(zip(self.alpha[t].unbind(), self.sigma[t].unbind(), strict=True))

    def convert(self, output: Tensor, x_t: Tensor, t: Tensor, to: str, of: str | None = None) -> Tensor:
        """What a network that predicts `to` would have said (b h a), from what one that predicts `of` said of x_t at t.

        `of` is this head's own prediction if not given; nothing is clipped. x_0 and ε mean the same on any path. v
        belongs to shares with α² + σ² = 1 and a flow's velocity to shares with α + σ = 1. A chunk on one path lies on
        the other too, divided by √(α² + σ²) or α + σ, and v and the velocity are what is said of it there. So
        everything converts into everything, except from ε where there is no signal: there it says nothing of x_0.
        """
        alpha, sigma = self.alpha[t, None], self.sigma[t, None]
        given = of or self.config.prediction
        for name in (given, to):
            if name not in CONVERSIONS:
                raise ValueError(f"unknown prediction {name!r}; choose one of {', '.join(PREDICTIONS)}")
        x0 = CONVERSIONS[given][1](output, *own_path(given, x_t, alpha, sigma))
        _, alpha_there, sigma_there = own_path(to, x_t, alpha, sigma)
        return CONVERSIONS[to][0](x0, (x_t - alpha * x0) / sigma, alpha_there, sigma_there)


def own_path(prediction: str, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """x_t and its shares of signal and noise, divided so that they lie on the path where a prediction is at home."""
    size = alpha + sigma if prediction == "flow" else torch.hypot(alpha, sigma)
    return x_t / size, alpha / size, sigma / size


# For each prediction: the target from (x0, noise, α, σ), and x0 back from (output, x_t, α, σ).
CONVERSIONS = {
    "epsilon": (lambda x0, noise, alpha, sigma: noise, lambda out, x, alpha, sigma: (x - sigma * out) / alpha),
    "x0": (lambda x0, noise, alpha, sigma: x0, lambda out, x, alpha, sigma: out),
    "v": (
        lambda x0, noise, alpha, sigma: alpha * noise - sigma * x0,
        lambda out, x, alpha, sigma: alpha * x - sigma * out,
    ),
    "flow": (lambda x0, noise, alpha, sigma: noise - x0, lambda out, x, alpha, sigma: x - sigma * out),
}
