"""Turn chunks into one action per tick: receding horizon, temporal ensembling, warm starts, real-time chunking.

Axes: b batch (robots), h horizon, a action, c condition, n steps left of a chunk, d columns of a robot's own action.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from inspect import signature
from numbers import Integral
from typing import Any, Protocol

import torch
from torch import Tensor

from action_heads._util.checks import check_count, described
from action_heads._util.conditions import Condition, parts
from action_heads._util.limits import shown
from action_heads.acting import Acts, Policy, options_of
from action_heads.denoiser import Denoiser
from action_heads.diffusion.continuing import Continue, check_mixes_time, level_at
from action_heads.diffusion.samplers import Sampling


class Samples(Protocol):
    """A policy: `ConditionedHead`, or anything else that makes chunks of conditions."""

    @property
    def sample(self) -> Callable[..., Tensor]: ...


def check_policy(policy: Any) -> None:
    """Raise a ValueError if an object has no `sample` that makes chunks of conditions. That of a head has none."""
    if isinstance(policy, Denoiser) or not callable(getattr(policy, "sample", None)):
        raise ValueError(
            "policy must make chunks of conditions with its method sample(cond), as the policy that "
            f"head.attach(adapter) returns; got {described(policy)}"
        )


class Executor:
    """A loop that turns chunks into one action per control tick.

    Call it once a tick with the present condition. It returns the action (b a) of that tick in robot units. A call that
    is `due` waits for the policy, so `delay` simulates late chunks but does not hide the time to compute them.
    `BackgroundExecutor` hides it.

    Examples:
        >>> executor = Executor(policy, execute=8, steps=10)
        >>> for _ in range(100):
        ...     action = executor(encode(observation) if executor.due else None)  # (b a)

    Args:
        policy: `sample(cond)` makes chunks (b h a).
        execute: ticks until the next chunk is made (receding horizon; Chi et al. 2023 use 8 of 16).
        ensemble: rate of temporal ensembling (ACT, Zhao et al. 2023, which uses 0.01 and execute=1): each action is the
            mean over all chunks that cover the tick, with weights exp(-ensemble · i) and i = 0 for the oldest chunk.
            None uses the newest chunk alone.
        warm_start: share of noise, in (0, 1], at which each chunk starts from the previous one. It needs fewer
            denoising steps, and consecutive chunks agree. None starts from pure noise.
        delay: number of ticks that a chunk is late because computing it takes time. The actions of these ticks are
            committed, and the new chunk continues them (real-time chunking). It needs a backbone that mixes time and
            a policy trained with `prefixes=True`.
        decode: function from an action (b a) and its own result of the previous tick (None at first) to the robot's
            action (b d), such as `ActionLayout.decode`, which then lets no rotation jump by a whole turn.
        sampling: arguments of `policy.sample`, such as `steps`, `sampler` or `generator`.

    Raises:
        ValueError: an argument is out of its range, or `delay` is given for a head that can't continue a chunk.
        TypeError: `policy.sample` has no such option.
    """

    def __init__(
        self,
        policy: Samples,
        *,
        execute: int = 8,
        ensemble: float | None = None,
        warm_start: float | None = None,
        delay: int = 0,
        decode: Callable[[Tensor, Tensor | None], Tensor] | None = None,
        **sampling: Any,
    ):
        check_policy(policy)
        check_count("execute", execute)
        if not isinstance(delay, Integral) or not 0 <= delay <= execute:
            raise ValueError(
                f"delay must be a whole number of ticks between 0 and execute ({execute}), got {delay}. A later chunk "
                "would arrive when the next one is already due. Lower delay, or raise execute."
            )
        if warm_start is not None and not 0 < warm_start <= 1:
            raise ValueError(f"warm_start must be above 0 and at most 1 (pure noise), got {warm_start}")
        if ensemble is not None and (not 0 <= ensemble < math.inf or delay):
            raise ValueError(
                f"ensemble must be 0 or more and finite, and without a delay, got ensemble={ensemble}, delay={delay}"
            )
        self.policy, self.sampling = policy, sampling
        self.execute, self.ensemble, self.warm_start, self.delay = execute, ensemble, warm_start, delay
        self.decode = decode
        if isinstance(policy, Acts):
            self._check_options()
        if isinstance(policy, Policy):  # What another one can do shows at its first chunks.
            self._check_head(policy.head)
        self.reset()

    def __repr__(self) -> str:
        policy = shown(self.policy).partition("\n")[0]
        return f"{type(self).__name__}({policy}, execute={self.execute}, delay={self.delay})"

    def reset(self) -> None:
        """Forget all chunks. Call it when a new episode begins."""
        self.tick = 0
        self.since = 0  # ticks since the newest chunk was made
        self.chunks: list[Tensor] = []  # the remaining actions of each chunk from the present tick on, oldest first
        self.last: Tensor | None = None  # the action that the last tick returned

    @property
    def due(self) -> bool:
        """True if the next call samples a chunk. Otherwise it needs no condition, so no encoder has to run."""
        return not self.chunks or self.since >= self.execute

    def renew(self) -> None:
        """Make the next call sample a chunk, before `execute` ticks have passed, such as for a new embedding."""
        self.since = self.execute

    def __call__(self, cond: Condition | None = None, **now: Any) -> Tensor:
        """Return the action (b a) of this tick.

        Args:
            cond: Condition (b c), or tokens (b n c); None if the executor is not `due`.
            **now: Further arguments of `policy.sample` for this tick, such as `mask`.

        Raises:
            ValueError: `cond` is missing, chunk or decoded action are not finite, or the chunk is too short or of
                another shape than before. The executor is then unchanged, and the next call samples again.
        """
        chunks, since = self._current(cond, now)
        action = self._action(chunks)
        if self.decode is not None:
            action = self.decode(action, self.last)
        if not action.isfinite().all():
            raise ValueError(
                f"The action of tick {self.tick} is NaN or infinite{' after decoding' * (self.decode is not None)}: a "
                "row of zeros is no rotation, and opposite rotations of ensembled chunks have no mean. Set "
                "ensemble=None, or check the policy."
            )
        self.chunks = [chunk[:, 1:] for chunk in chunks if chunk.shape[1] > 1]
        self.last, self.tick, self.since = action.clone(), self.tick + 1, since + 1
        return action

    def _current(self, given: Any, now: dict[str, Any]) -> tuple[list[Tensor], int]:
        """Return the chunks to act on in this tick, and the ticks since the newest was asked for."""
        if not self.due:
            return self.chunks, self.since
        if given is None:
            raise self._missing("cond")
        chunk = self.policy.sample(given, **self._continuing(self.delay), **(self.sampling | now))
        self._check(chunk, given)
        return [*(self.chunks if self.ensemble is not None else ()), chunk], 0

    def _missing(self, what: str) -> ValueError:
        return ValueError(f"Tick {self.tick} needs a new chunk. Pass {what} whenever executor.due is true.")

    def _continuing(self, committed: int) -> dict[str, Any]:
        """Return the arguments of `policy.sample` by which the next chunk continues the newest one, if it does."""
        if not self.chunks or not (self.warm_start is not None or committed):
            return {}
        return vars(Continue(self.chunks[-1], committed, self.warm_start))

    def _check_options(self) -> None:
        """Raise a TypeError if `sample` knows no such option, or the executor itself sets it."""
        known = signature(Acts.sample).parameters.keys() - {"self", "cond", *vars(Continue())}
        if unknown := sorted(self.sampling.keys() - known):
            raise TypeError(
                f"{type(self).__name__} does not take {', '.join(unknown)}; the options of policy.sample are "
                f"{', '.join(sorted(known))}"
            )

    def _check_head(self, head: Denoiser) -> None:
        """Raise a ValueError if a head can't make such chunks, before the robot moves."""
        if self.delay:
            check_mixes_time(head)
        self._check_length(head.config.horizon)
        sampling = options_of(Sampling, self.sampling)
        head.plan(sampling)
        if self.warm_start is not None:
            head.plan(sampling, level_at(head, self.warm_start))

    def _check_length(self, steps: int) -> None:
        """Raise a ValueError if chunks of so many time steps are too short."""
        if steps < self.execute + self.delay:
            raise ValueError(
                f"The chunk has {steps} time steps, but execute={self.execute} and delay={self.delay} need "
                f"{self.execute + self.delay}. Lower execute or delay."
            )
        if self.warm_start is not None and steps == self.execute:
            raise ValueError(
                f"All {steps} time steps of the chunk are executed, which leaves nothing for a warm start. Lower "
                "execute, or leave warm_start out."
            )

    def _check(self, chunk: Any, cond: Condition) -> None:
        """Raise a ValueError unless a chunk is finite floats (b h a) for these robots, with enough time steps."""
        rows = {len(part) for part in parts(cond) if isinstance(part, Tensor)}
        expected = f"expected floats ({' or '.join(map(str, rows)) or 'batch'}, steps, action)"
        if not isinstance(chunk, Tensor):
            raise ValueError(f"policy.sample returned a {type(chunk).__name__}; {expected} as a torch tensor")
        shape = tuple(chunk.shape)
        if chunk.ndim != 3 or 0 in shape or not chunk.is_floating_point() or (rows and shape[0] not in rows):
            raise ValueError(f"policy.sample returned {chunk.dtype} {shape}; {expected}. The chunk is not used.")
        robots = shape[0] if self.last is None else len(self.last)
        width = self.chunks[-1].shape[2] if self.chunks else shape[2]
        if (shape[0], shape[2]) != (robots, width):
            raise ValueError(
                f"policy.sample returned a chunk of shape {shape} after one for {robots} robots with {width} numbers. "
                "Call executor.reset() when the robots change."
            )
        self._check_length(shape[1])
        if not chunk.isfinite().all():  # This waits for an accelerator, as acting on the chunk would do anyway.
            row, step, dim = (~chunk.isfinite()).nonzero()[0].tolist()
            raise ValueError(
                f"policy.sample returned NaN or infinity, first for robot {row}, time step {step}, dimension {dim}. "
                "The chunk is not used. Check the observations of this tick and the policy's weights."
            )

    def _action(self, chunks: list[Tensor]) -> Tensor:
        if self.ensemble is None:
            return chunks[-1][:, 0].clone()  # the caller may change it, and the chunk goes on
        actions = torch.stack([chunk[:, 0] for chunk in chunks])
        precise = torch.promote_types(actions.dtype, torch.float32)  # chunks may be of 16 or 64 bits
        weight = torch.exp(-self.ensemble * torch.arange(len(actions), dtype=precise, device=actions.device))
        return torch.einsum("n, n b a -> b a", weight / weight.sum(), actions.to(precise)).to(actions.dtype)
