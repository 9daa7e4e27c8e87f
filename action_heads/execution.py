"""From chunks to one action a tick: receding horizon, temporal ensembling, warm starts, real-time chunking.

Axes: b batch (robots), h horizon, a action, c condition, n steps left of a chunk.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from action_heads.conditions import Condition
from action_heads.continuing import check_mixes_time
from action_heads.policy import ConditionedHead


class Samples(Protocol):
    """A policy: `ConditionedHead`, or anything else that makes chunks of conditions."""

    @property
    def sample(self) -> Callable[..., Tensor]: ...


class Executor:
    """Called once a control tick with the condition of that moment; gives the action (b a) for it, in robot units.

    It is synchronous: a call that is `due` waits for the policy. So `delay` shows what late chunks do to a task, and
    hides no computing time. For that a loop samples beside the control loop, and asks for itself:
    `policy.sample(cond, previous=left, committed=d)`.

    Args:
        policy: `sample(cond)` makes chunks (b h a).
        execute: ticks until the next chunk is made (receding horizon; Chi et al. 2023 use 8 of 16).
        ensemble: average what all chunks made so far say of this tick, with weights exp(-ensemble · i), i = 0 the
            oldest chunk (temporal ensembling, ACT, Zhao et al. 2023, which uses 0.01 and execute=1). None: do not.
        warm_start: begin each chunk from the last one at this share of noise, in (0, 1], rather than from pure noise.
            Fewer steps then do, and consecutive chunks agree.
        delay: ticks a chunk is late, since computing it takes time. The actions of these ticks are committed: the new
            chunk continues them (real-time chunking). Needs a backbone that mixes time, trained with `prefixes=True`.
        sampling: passed on to `policy.sample`, such as `steps`, `sampler` or `generator`.
    """

    def __init__(
        self,
        policy: Samples,
        *,
        execute: int = 8,
        ensemble: float | None = None,
        warm_start: float | None = None,
        delay: int = 0,
        **sampling: Any,
    ):
        if execute < 1:
            raise ValueError(f"execute must be at least 1, got {execute}")
        if not 0 <= delay <= execute:
            raise ValueError(
                f"delay must be between 0 and execute ({execute}), got {delay}: a chunk that comes later than the next "
                "one is asked for is never used"
            )
        if warm_start is not None and not 0 < warm_start <= 1:
            raise ValueError(f"warm_start is a share of noise, above 0 and at most 1 (pure noise), got {warm_start}")
        if delay and isinstance(policy, ConditionedHead):
            check_mixes_time(policy.head)
        if ensemble is not None and (ensemble < 0 or delay):
            raise ValueError(
                "ensemble is a rate of 0 or more, and without a delay: it averages over disagreeing chunks"
            )
        self.policy, self.sampling = policy, sampling
        self.execute, self.ensemble, self.warm_start, self.delay = execute, ensemble, warm_start, delay
        self.reset()

    def reset(self) -> None:
        """Forget everything: a new episode begins."""
        self.tick = 0
        self.chunks: list[Tensor] = []  # what is left of each, oldest first, from the present tick on

    @property
    def due(self) -> bool:
        """Whether the next call asks the policy. Else it needs no condition, so no encoder has to run."""
        return self.tick % self.execute == 0

    def __call__(self, cond: Condition | None = None, **now: Any) -> Tensor:
        """Condition (b, c) of this tick, None if not `due` -> action (b a). `now` is for `sample`, such as `mask`."""
        if self.due:
            if cond is None:
                raise ValueError(f"tick {self.tick} asks for a chunk: pass cond whenever executor.due is true")
            self._renew(cond, now)
        action = self._action()
        self.tick += 1
        self.chunks = [chunk[:, 1:] for chunk in self.chunks if chunk.shape[1] > 1]
        return action

    def _renew(self, cond: Condition, now: dict[str, Any]) -> None:
        last = self.chunks[-1] if self.chunks else None
        options: dict[str, Any] = {}
        if last is not None and (self.warm_start is not None or self.delay):
            options = {"previous": last, "start": self.warm_start, "committed": self.delay}
        chunk = self.policy.sample(cond, **options, **(self.sampling | now))
        if chunk.shape[1] < self.execute + self.delay:
            raise ValueError(
                f"chunks of {chunk.shape[1]} steps run out: execute {self.execute} and delay {self.delay} need "
                f"{self.execute + self.delay}"
            )
        if self.warm_start is not None and chunk.shape[1] == self.execute:
            raise ValueError(
                f"chunks of {chunk.shape[1]} steps are all executed, which leaves nothing for a warm start: execute "
                "fewer, or leave warm_start out"
            )
        self.chunks = [*(self.chunks if self.ensemble is not None else ()), chunk]

    def _action(self) -> Tensor:
        if self.ensemble is None:
            return self.chunks[-1][:, 0]
        said = torch.stack([chunk[:, 0] for chunk in self.chunks])
        weight = torch.exp(-self.ensemble * torch.arange(len(said), device=said.device))
        return torch.einsum("n, n b a -> b a", weight / weight.sum(), said)
