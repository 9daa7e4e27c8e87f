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

from action_heads._util.conditions import on_host
from action_heads.diffusion import draws
from action_heads.diffusion.noise_schedule import noise_path

if TYPE_CHECKING:
    from action_heads.acting import Policy
    from action_heads.denoiser import Denoiser
    from action_heads.diffusion.samplers import Schedule
    from action_heads.modulation import HeadModulation


@dataclass(frozen=True)
class Continue:
    """How a chunk continues what is left of the last one; see `Acts.sample`. The policy that samples checks it."""

    previous: Tensor | None = None  # (b n a), in robot units; none for a chunk of its own
    committed: int | None = None
    start: float | None = None

    def level(self, head: Denoiser) -> int | None:
        """Return the noise level nearest to `start`; none if the chunk starts from pure noise."""
        if self.previous is None and (self.committed or self.start is not None):
            raise ValueError("committed and start continue a chunk: pass what is left of it as previous")
        if self.start is None:
            return None
        if not 0 < self.start <= 1:
            raise ValueError(f"start is a share of noise, above 0 and at most 1 (pure noise), got {self.start}")
        _, sigma = noise_path(head.config.objective)
        return int((sigma - self.start).abs().argmin())

    def begin(self, policy: Policy, noise: Tensor, plan: Schedule) -> tuple[Tensor, Prefix | None]:
        """Return where sampling begins (b h a), made of noise (b h a), and what is committed.

        A warm start begins with the rest of the last chunk, its end repeated, at the plan's first level.
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
                    f"committed={committed}, with {last.shape[1]} steps left of the last chunk and chunks of "
                    f"{head.config.horizon}: it must be no more than there are, and fewer than a chunk"
                )
            own_level = takes_levels_per_step(head, policy.modulation)
            prefix = Prefix(self.previous[:, :committed], last[:, :committed], own_level)
        if self.start is None:
            return noise, prefix
        missing = head.config.horizon - last.shape[1]
        whole = torch.cat([last, last[:, -1:].expand(-1, missing, -1)], dim=1)
        return head.objective.add_noise(whole, noise, plan.timesteps[:1, None]), prefix

    def _check(self, previous: Tensor, chunk: Tensor) -> int:
        """Return how many steps are committed, if `previous` is (b n a), 1 to h steps, where the new chunk (b h a) is.

        Zero steps may be committed, by a loop that counts them; none at all, and no start, is an oversight.
        """
        batch, horizon, action_dim = chunk.shape
        expected = f"expected ({batch}, 1 to {horizon}, {action_dim}): what is left of the last chunk, in robot units"
        if self.committed is None and self.start is None:
            raise ValueError(
                "previous does nothing without committed= or start=: say how many of its steps are being executed, or "
                "how much noise to begin with"
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
        if on_host(previous) and not previous.isfinite().all():
            raise ValueError("previous contains NaN or infinite values: pass on what the last call of sample returned")
        try:
            return operator.index(self.committed or 0)
        except TypeError:
            given = f"committed is a number of steps, an integer, got {self.committed!r}: round it up"
            raise ValueError(given) from None


@dataclass(frozen=True)
class Prefix:
    """The first steps of a chunk, given: sampling shows them clean at every level, and continues them.

    What a network learns of it, it learns in training (training-time action conditioning, Black, Ren et al. 2025). It
    knows clean steps by their modulation where each step may have its own level, and elsewhere by their values alone.
    """

    given: Tensor  # (b d a), in robot units
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


def takes_levels_per_step(head: Denoiser, modulation: HeadModulation) -> bool:
    """Whether each step of a chunk may have a noise level of its own, and the network sees the chunk as a whole."""
    return head.backbone.mixes_time and modulation.per_position


def check_mixes_time(head: Denoiser) -> None:
    """Only a backbone that denoises a chunk as a whole can continue its first steps."""
    if not head.backbone.mixes_time:
        raise ValueError(
            f"{head.config.backbone} denoises every step of a chunk alone, so it can't continue a committed prefix: "
            "use a head that mixes time, such as dae/mixer-5m-fk, or start= and ensembling, which need none"
        )


def random_lengths(head: Denoiser, batch: int, generator: torch.Generator | None) -> Tensor:
    """Draw any number of first steps, but never all, for each chunk of a batch (b h)."""
    horizon, drawn_on = head.config.horizon, head.device if generator is None else generator.device
    length = draws.integers(horizon, (batch, 1), generator, drawn_on)
    return (torch.arange(horizon, device=drawn_on) < length).to(head.device)


def random_prefixes(head: Denoiser, shape: torch.Size, generator: torch.Generator | None) -> Tensor:
    """Draw what is committed of chunks (b h a) in training: nothing of half of them, else any number of steps (b h)."""
    check_mixes_time(head)
    clean = random_lengths(head, shape[0], generator)
    half = draws.uniform((shape[0], 1), generator, head.device if generator is None else generator.device) < 0.5
    return clean & half.to(head.device)
