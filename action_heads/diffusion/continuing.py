"""Chunks that continue one that is being executed: committed prefixes (real-time chunking) and warm starts.

Axes: b batch, h horizon, a action, n time steps left of the previous chunk, d committed time steps, k network
evaluations, P modulation values of all sites.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from action_heads._util.conditions import on_host
from action_heads._util.limits import check_number
from action_heads.diffusion import draws
from action_heads.diffusion.noise_schedule import noise_path

if TYPE_CHECKING:
    from action_heads.acting import Policy
    from action_heads.denoiser import Denoiser
    from action_heads.diffusion.samplers import Schedule
    from action_heads.modulation import HeadModulation


@dataclass(frozen=True)
class Continue:
    """The settings of `Acts.sample` by which a chunk continues the previous one. The sampling policy checks them."""

    previous: Tensor | None = None  # (b n a), in robot units; None for an independent chunk
    committed: int | None = None
    start: float | None = None

    def first_level(self, head: Denoiser) -> int | None:
        """Return the noise level nearest to `start`, or None to start from pure noise."""
        if self.previous is None and (self.committed or self.start is not None):
            raise ValueError(
                f"committed={self.committed} and start={self.start} need previous. Pass the rest of the previous chunk "
                "as previous, or leave them out."
            )
        return None if self.start is None else level_at(head, self.start)

    def begin(self, policy: Policy, noise: Tensor, plan: Schedule) -> tuple[Tensor, Prefix | None]:
        """Return the noisy chunk (b h a) that sampling starts from, made of `noise` (b h a), and the committed prefix.

        A warm start begins with the rest of the previous chunk, its last action repeated, at the plan's first noise
        level.
        """
        if self.previous is None:
            return noise, None
        committed, head = self._check(self.previous, noise), policy.head
        last = policy.normalizer.normalize(self.previous.float())
        prefix = None
        if committed:
            check_mixes_time(head)
            if not 0 < committed <= last.shape[1] or committed >= head.config.horizon:
                raise ValueError(
                    f"committed={committed} is out of range: previous has {last.shape[1]} time steps, and a chunk has "
                    f"{head.config.horizon}. Commit at most as many as previous has, and fewer than a chunk."
                )
            own_level = takes_levels_per_step(head, policy.modulation)
            prefix = Prefix(self.previous[:, :committed], last[:, :committed], own_level)
        if self.start is None:
            return noise, prefix
        missing = head.config.horizon - last.shape[1]
        whole = torch.cat([last, last[:, -1:].expand(-1, missing, -1)], dim=1)
        return head.objective.add_noise(whole, noise, plan.timesteps[:1, None]), prefix

    def _check(self, previous: Tensor, chunk: Tensor) -> int:
        """Check that `previous` (b n a) fits the new chunk (b h a), and return the number of committed time steps.

        A control loop that counts them may commit 0 time steps. Passing neither `committed` nor `start` is a mistake.
        """
        batch, horizon, action_dim = chunk.shape
        expected = f"expected ({batch}, 1 to {horizon}, {action_dim}), the rest of the previous chunk in robot units"
        if self.committed is None and self.start is None:
            raise ValueError(
                "previous has no effect without committed= or start=. Pass committed=, the number of its time steps "
                "that are being executed, or start=, the share of noise to start from."
            )
        if not isinstance(previous, Tensor):
            raise ValueError(
                f"previous must be a torch tensor, got a {type(previous).__name__}; convert it with torch.as_tensor"
            )
        if previous.ndim != 3 or (len(previous), previous.shape[2]) != (batch, action_dim):
            raise ValueError(f"previous has shape {tuple(previous.shape)}; {expected}")
        if not 1 <= previous.shape[1] <= horizon:
            raise ValueError(f"previous has {previous.shape[1]} time steps; {expected}")
        if previous.device != chunk.device:
            raise ValueError(
                f"previous is on {previous.device}, but the head is on {chunk.device}. Use "
                f"previous.to({str(chunk.device)!r})."
            )
        if on_host(previous) and not previous.isfinite().all():
            raise ValueError("previous holds NaN or infinite values; pass the rest of a chunk that sample returned")
        try:
            return operator.index(self.committed or 0)
        except TypeError:
            wanted = "committed must be an integer, a number of time steps"
            raise ValueError(f"{wanted}; got {self.committed!r}. Round it up.") from None


@dataclass(frozen=True)
class Prefix:
    """The committed first actions of a chunk. Sampling shows them to the network without noise, and continues them.

    A network learns to use them in training (training-time action conditioning, Black, Ren et al. 2025). If each time
    step can have its own noise level, their step modulation marks them as clean. Otherwise the network can recognise
    them only by their values.
    """

    given: Tensor  # (b d a), in robot units
    actions: Tensor  # (b d a), in network units
    own_level: bool  # whether their step modulation is that of the cleanest noise level

    def hold(self, x: Tensor) -> Tensor:
        """Return the chunk x (b h a) with its first actions replaced by these."""
        return torch.cat([self.actions, x[:, self.actions.shape[1] :]], dim=1)

    def step_values(self, table: Tensor, steps: Tensor, horizon: int) -> Tensor:
        """Give the committed time steps the cleanest level's values if they may differ: (k 1 1 P) -> (k 1 h P)."""
        if not self.own_level:
            return steps
        first = torch.arange(horizon, device=table.device) < self.actions.shape[1]
        return torch.where(first[:, None], table[0], steps)


def takes_levels_per_step(head: Denoiser, modulation: HeadModulation) -> bool:
    """Return whether each time step can have its own noise level, in a network that mixes time steps."""
    return head.backbone.mixes_time and modulation.per_position


def level_at(head: Denoiser, start: float) -> int:
    """Return the noise level of a head that is nearest to a share of noise."""
    check_number("start", start)
    if not 0 < start <= 1:
        raise ValueError(f"start must be above 0 and at most 1 (pure noise), a share of noise; got {start}")
    _, sigma = noise_path(head.config.objective)
    return int((sigma - start).abs().argmin())


def check_mixes_time(head: Denoiser) -> None:
    """Raise a ValueError if the backbone does not mix time steps, so that it cannot continue a prefix."""
    if not head.backbone.mixes_time:
        raise ValueError(
            f"the backbone {head.config.backbone} denoises every time step of a chunk independently, so it cannot "
            "continue a committed prefix. Use a head that mixes time, such as dae/mixer-5m-fk, or use start= or "
            "temporal ensembling, which work with every backbone."
        )


def random_lengths(head: Denoiser, batch: int, generator: torch.Generator | None) -> Tensor:
    """Draw a mask (b h) of the first time steps of each chunk: 0 to h - 1 of them, all numbers equally likely."""
    horizon, drawn_on = head.config.horizon, draws.place(generator, head.device)
    length = draws.integers(horizon, (batch, 1), generator, drawn_on)
    return (torch.arange(horizon, device=drawn_on) < length).to(head.device)


def random_prefixes(head: Denoiser, shape: torch.Size, generator: torch.Generator | None) -> Tensor:
    """Draw the mask (b h) of committed time steps in training: none for half of the chunks, else a random number."""
    check_mixes_time(head)
    clean = random_lengths(head, shape[0], generator)
    half = draws.uniform((shape[0], 1), generator, draws.place(generator, head.device)) < 0.5
    return clean & half.to(head.device)
