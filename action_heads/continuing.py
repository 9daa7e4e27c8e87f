"""Continuing a chunk that is being executed: committed prefixes (real-time chunking) and warm starts.

Axes: b batch, h horizon, a action, n steps left of the last chunk, d committed steps, k evaluations, P modulation
values of all sites.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from action_heads.objectives import noise_path

if TYPE_CHECKING:
    from action_heads.head import ActionHead
    from action_heads.modulation import HeadModulation
    from action_heads.samplers import Schedule


@dataclass(frozen=True)
class Prefix:
    """The first steps of a chunk, given: sampling continues them (Black et al. 2025, Real-Time Execution of Chunks).

    Where each step of a chunk may be modulated differently, they are shown clean, as clean: Stage 1 trained the head to
    continue such prefixes. Elsewhere they are shown as noisy as the rest, always with the same noise (inpainting by
    replacement, Song et al. 2021).
    """

    actions: Tensor  # (b d a), of the network's size
    noise: Tensor  # (b d a)
    clean: bool

    def hold(self, x: Tensor, head: ActionHead, level: Tensor) -> Tensor:
        """A chunk (b h a) at a noise level (1 1) with these steps in place of its own."""
        first = self.actions if self.clean else head.objective.add_noise(self.actions, self.noise, level)
        return torch.cat([first, x[:, self.actions.shape[1] :]], dim=1)

    def step_values(self, table: Tensor, steps: Tensor, horizon: int) -> Tensor:
        """Values by step (k 1 1 P) -> (k 1 h P), those of what is shown clean from the cleanest level."""
        if not self.clean:
            return steps
        first = torch.arange(horizon, device=table.device) < self.actions.shape[1]
        return torch.where(first[:, None], table[0], steps)


def can_be_told_apart(head: ActionHead, modulation: HeadModulation) -> bool:
    """Whether clean and noisy steps may stand in one chunk, each modulated by a level of its own."""
    return head.backbone.mixes_time and head.backbone.per_position and modulation.mechanism.per_position


def prefix(head: ActionHead, modulation: HeadModulation, last: Tensor, committed: int, noise: Tensor) -> Prefix | None:
    """What is committed of the last chunk (b n a), of the network's size; sampling starts from noise (b h a)."""
    if not committed:
        return None
    if not head.backbone.mixes_time:
        raise ValueError(
            f"{head.config.backbone} denoises every step of a chunk alone, so it can't continue a committed prefix: "
            "use a head that mixes time, such as dae/mixer-5m-fk, or start= and ensembling, which need none"
        )
    if not 0 < committed <= last.shape[1] or committed >= head.config.horizon:
        raise ValueError(
            f"committed={committed}, with {last.shape[1]} steps left of the last chunk and chunks of "
            f"{head.config.horizon}: it must be no more than there are, and fewer than a chunk"
        )
    return Prefix(last[:, :committed], noise[:, :committed], can_be_told_apart(head, modulation))


def random_prefixes(
    head: ActionHead, modulation: HeadModulation, shape: torch.Size, generator: torch.Generator | None
) -> Tensor:
    """What is committed of chunks (b h a) in training: nothing of half of them, of others any number of steps (b h)."""
    if not can_be_told_apart(head, modulation):
        raise ValueError(
            f"{head.config.backbone} by {modulation.mechanism.name} has one noise level for a whole chunk, so it can't "
            "be trained with clean prefixes: leave prefixes=True out; it continues them by inpainting, if it mixes time"
        )
    batch, horizon, _ = shape
    device = head.objective.alpha.device
    drawn_on = device if generator is None else generator.device
    length = torch.randint(horizon, (batch, 1), generator=generator, device=drawn_on)
    half = torch.rand((batch, 1), generator=generator, device=drawn_on) < 0.5
    return ((torch.arange(horizon, device=drawn_on) < length) & half).to(device)


def level_of(head: ActionHead, share: float) -> int:
    """The level nearest to a share of noise σ in (0, 1]."""
    if not 0 < share <= 1:
        raise ValueError(f"start is a share of noise, above 0 and at most 1 (pure noise), got {share}")
    _, sigma = noise_path(head.config.objective)
    return int((sigma - share).abs().argmin())


def begin(head: ActionHead, last: Tensor, noise: Tensor, plan: Schedule) -> Tensor:
    """Where a warm start begins (b h a): the rest of the last chunk (b n a), its end repeated, at the plan's level."""
    missing = head.config.horizon - last.shape[1]
    whole = torch.cat([last, last[:, -1:].expand(-1, missing, -1)], dim=1)
    return head.objective.add_noise(whole, noise, plan.timesteps[:1, None])


def check_previous(previous: Tensor, batch: int, horizon: int, action_dim: int) -> None:
    """What is left of the last chunk is (b n a) with 1 to h steps."""
    expected = f"expected ({batch}, 1 to {horizon}, {action_dim}): what is left of the last chunk, in robot units"
    if previous.ndim != 3 or (len(previous), previous.shape[2]) != (batch, action_dim):
        raise ValueError(f"previous has shape {tuple(previous.shape)}; {expected}")
    if not 1 <= previous.shape[1] <= horizon:
        raise ValueError(f"previous has {previous.shape[1]} steps; {expected}")
