"""Continuing a chunk that is being executed: committed prefixes (real-time chunking) and warm starts.

Axes: b batch, h horizon, a action, n steps left of the last chunk, d committed steps, k evaluations, P modulation
values of all sites.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from action_heads.diffusion import draws
from action_heads.diffusion.objectives import noise_path

if TYPE_CHECKING:
    from action_heads.diffusion.samplers import Schedule
    from action_heads.head import ActionHead
    from action_heads.modulation import HeadModulation


@dataclass(frozen=True)
class Prefix:
    """The first steps of a chunk, given: sampling shows them clean at every level, and continues them.

    What a network learns of it, it learns in training (training-time action conditioning, Black, Ren et al. 2025). It
    knows clean steps by their modulation where each step may have its own level, and elsewhere by their values alone.
    """

    actions: Tensor  # (b d a), of the network's size
    own_level: bool  # whether they are modulated as the clean steps they are

    def hold(self, x: Tensor) -> Tensor:
        """A chunk (b h a) with these steps in place of its own."""
        return torch.cat([self.actions, x[:, self.actions.shape[1] :]], dim=1)

    def step_values(self, table: Tensor, steps: Tensor, horizon: int) -> Tensor:
        """Values by step (k 1 1 P) -> (k 1 h P), of these steps from the cleanest level, where they may differ."""
        if not self.own_level:
            return steps
        first = torch.arange(horizon, device=table.device) < self.actions.shape[1]
        return torch.where(first[:, None], table[0], steps)


def takes_levels_per_step(head: ActionHead, modulation: HeadModulation) -> bool:
    """Whether each step of a chunk may have a noise level of its own, and the network sees the chunk as a whole."""
    return head.backbone.mixes_time and modulation.per_position


def check_mixes_time(head: ActionHead) -> None:
    """Only a backbone that denoises a chunk as a whole can continue its first steps."""
    if not head.backbone.mixes_time:
        raise ValueError(
            f"{head.config.backbone} denoises every step of a chunk alone, so it can't continue a committed prefix: "
            "use a head that mixes time, such as dae/mixer-5m-fk, or start= and ensembling, which need none"
        )


def prefix(head: ActionHead, modulation: HeadModulation, last: Tensor, committed: int) -> Prefix | None:
    """What is committed of the last chunk (b n a), of the network's size."""
    if not committed:
        return None
    check_mixes_time(head)
    if not 0 < committed <= last.shape[1] or committed >= head.config.horizon:
        raise ValueError(
            f"committed={committed}, with {last.shape[1]} steps left of the last chunk and chunks of "
            f"{head.config.horizon}: it must be no more than there are, and fewer than a chunk"
        )
    return Prefix(last[:, :committed], takes_levels_per_step(head, modulation))


def random_lengths(head: ActionHead, batch: int, generator: torch.Generator | None) -> Tensor:
    """Draw any number of first steps, but never all, for each chunk of a batch (b h)."""
    device, horizon = head.objective.alpha.device, head.config.horizon
    length = draws.integers(horizon, (batch, 1), generator, device if generator is None else generator.device)
    return torch.arange(horizon, device=device) < length.to(device)


def random_prefixes(head: ActionHead, shape: torch.Size, generator: torch.Generator | None) -> Tensor:
    """What is committed of chunks (b h a) in training: nothing of half of them, of others any number of steps (b h)."""
    check_mixes_time(head)
    device, clean = head.objective.alpha.device, random_lengths(head, shape[0], generator)
    half = draws.uniform((shape[0], 1), generator, device if generator is None else generator.device) < 0.5
    return clean & half.to(device)


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


def check_previous(previous: Tensor, committed: int | None, start: float | None, chunk: Tensor, values: bool) -> int:
    """What is left of the last chunk is (b n a), 1 to h steps, where the new one (b h a) is. Returns what is committed.

    Zero steps may be committed, by a loop that counts them; none at all, and no start, is an oversight.
    """
    batch, horizon, action_dim = chunk.shape
    expected = f"expected ({batch}, 1 to {horizon}, {action_dim}): what is left of the last chunk, in robot units"
    if committed is None and start is None:
        raise ValueError(
            "previous does nothing without committed= or start=: say how many of its steps are being executed, or how "
            "much noise to begin with"
        )
    if not isinstance(previous, Tensor):
        raise ValueError(f"previous must be a torch tensor, got a {type(previous).__name__}: use torch.as_tensor")
    if previous.ndim != 3 or (len(previous), previous.shape[2]) != (batch, action_dim):
        raise ValueError(f"previous has shape {tuple(previous.shape)}; {expected}")
    if not 1 <= previous.shape[1] <= horizon:
        raise ValueError(f"previous has {previous.shape[1]} steps; {expected}")
    if previous.device != chunk.device:
        raise ValueError(
            f"previous is on {previous.device}, the head on {chunk.device}: use previous.to({str(chunk.device)!r})"
        )
    if values and not previous.isfinite().all():
        raise ValueError("previous contains NaN or infinite values: pass on what the last call of sample returned")
    try:
        return operator.index(committed or 0)
    except TypeError:
        raise ValueError(f"committed is a number of steps, an integer, got {committed!r}: round it up") from None
