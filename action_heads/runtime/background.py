"""`BackgroundExecutor`: an executor that computes the next chunk in a second thread, while the robot goes on.

Axes: b batch (robots), h horizon, a action.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from action_heads._util.checks import check_count
from action_heads._util.conditions import Condition
from action_heads.runtime.execution import Executor, Samples
from action_heads.runtime.second_thread import Pending, SecondThread
from action_heads.runtime.uncopied import Uncopied
from action_heads.runtime.waiting import Ages, check_waiting

LATE = ("wait", "keep")


@dataclass(frozen=True)
class Made:
    """A chunk (b h a) that a thread made of an observation, the condition it was made of, and the seconds it took."""

    chunk: Tensor
    cond: Condition
    seconds: float


@dataclass(frozen=True)
class Noise:
    """A caller's generator, and a copy that draws the noise of one chunk in the second thread.

    The caller's goes on when the chunk is used, so that a chunk that is discarded draws nothing from it.
    """

    given: torch.Generator
    state: Tensor
    copy: torch.Generator

    @classmethod
    def of(cls, options: dict[str, Any]) -> Noise | None:
        """Put a copy in place of the generator in the arguments of `sample`; return None if there is none."""
        given = options.get("generator")
        if not isinstance(given, torch.Generator):
            return None
        state = given.get_state()
        options["generator"] = torch.Generator(given.device).set_state(state)
        return cls(given, state, options["generator"])

    def advance(self) -> None:
        """Move the caller's generator on, unless the caller has seeded or used it meanwhile."""
        if torch.equal(self.given.get_state(), self.state):
            self.given.set_state(self.copy.get_state())


class BackgroundExecutor(Uncopied, Executor):
    """An executor whose ticks do not wait for chunks: a second thread encodes the observation and computes them.

    A chunk is asked for every `execute` ticks and arrives `delay` ticks later. Meanwhile the robot executes the next
    actions of the old chunk. They are committed: the new chunk begins with them and continues (real-time chunking,
    Black, Ren et al. 2025). The actions are those of `Executor` with the same `delay`, which computes within the tick.

    Call it once a tick, and close it, or use it as a context.

    Examples:
        >>> import torch
        >>> from action_heads import ActionHead, BackgroundExecutor
        >>> from action_heads.adapters import AdaLNZero
        >>> policy = ActionHead.from_pretrained("dae/mixer-5m-fk").attach(AdaLNZero(cond_dim=512))
        >>> def encode(image):  # your encoder
        ...     return torch.randn(1, 512)
        >>> with BackgroundExecutor(policy, encode=encode, execute=8, delay=3, steps=2) as executor:
        ...     for _ in range(20):
        ...         action = executor(torch.zeros(1, 3, 32, 32) if executor.due else None)
        >>> action.shape, executor.seconds.count
        (torch.Size([1, 10]), 3)

    Args:
        policy: `sample(cond)` makes chunks (b h a). Its backbone must mix time steps, and it should be trained with
            `prefixes=True`. Without this training, chunks jump after the committed actions.
        encode: function from an observation to its condition, or to (condition, mask). It runs in the second thread,
            without gradients. The observation must not be changed in place afterwards. None if the executor is called
            with conditions.
        execute: ticks from one request for a chunk to the next.
        delay: ticks from the request for a chunk to its first use, at least 1 and fewer than `execute`. Take the time
            of `encode` and a chunk, rounded up to ticks: `seconds.max` shows it.
        late: what to do if the chunk is not there after `delay` ticks: "wait" for it, or "keep" executing the old chunk
            as long as it has actions, after which the motion may jump.
        timeout: seconds that a tick waits at most; None for no limit.
        warm_start, decode, **sampling: as for `Executor`.

    Attributes:
        seconds: `Ages` of the time that encoder and policy took for each chunk that was used.
        late_chunks: number of chunks that were not there after `delay` ticks.

    Raises:
        ValueError: an argument is out of its range, or the head can't continue a chunk.
    """

    another = "BackgroundExecutor(policy, ...), which may share the policy"

    def __init__(
        self,
        policy: Samples,
        *,
        delay: int,
        encode: Callable[[Any], Any] | None = None,
        execute: int = 8,
        late: str = "wait",
        timeout: float | None = None,
        warm_start: float | None = None,
        decode: Callable[[Tensor, Tensor | None], Tensor] | None = None,
        **sampling: Any,
    ):
        check_count("execute", execute)
        if not isinstance(delay, Integral) or not 0 < delay < execute:
            raise ValueError(
                f"delay must be a whole number of ticks, at least 1 and fewer than execute ({execute}), got {delay!r}. "
                "To compute a chunk within its tick, use Executor. For more time, raise execute, take fewer denoising "
                "steps or compile."
            )
        check_waiting(late, LATE, timeout)
        self.encode, self.late, self.timeout = encode, late, timeout
        self.seconds, self.late_chunks = Ages(bin=0.01), 0
        self._thread = SecondThread("action-heads executor")
        self._noise: Noise | None = None
        self._coming: Pending[Made] | None = None
        self._asked = 0  # tick of the request for the coming chunk
        self._counted = False  # whether the coming chunk was counted as late
        self._again = False  # whether to ask for another one as soon as it is there
        super().__init__(policy, execute=execute, delay=delay, warm_start=warm_start, decode=decode, **sampling)

    def reset(self) -> None:
        """Forget all chunks, and discard the one that is being computed. Call it when a new episode begins.

        A call that is running ends in its thread before the first one of the new episode begins. The statistics go on.
        """
        if (coming := self._pending) is not None:
            coming.cancel()
        self._coming = None
        super().reset()

    def close(self) -> None:
        """Discard the chunk that is being computed, and end the thread behind it."""
        self.reset()
        self._thread.close()

    def __enter__(self) -> BackgroundExecutor:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def due(self) -> bool:
        """True if the next call asks for a chunk. Otherwise it needs no observation."""
        return self._pending is None and super().due

    @property
    def _pending(self) -> Pending[Made] | None:
        """The coming chunk, unless this process was forked while it was computed."""
        if self._coming is not None and self._coming.lost:
            self._coming = None
        return self._coming

    def renew(self) -> None:
        """Make the next call ask for a chunk, or the call after the coming chunk is there."""
        super().renew()
        self._again = True

    def __call__(self, observation: Any = None, **now: Any) -> Tensor:
        """Return the action (b a) of this tick.

        Args:
            observation: The newest observation, or the condition if there is no `encode`; None if the executor is not
                `due`.
            **now: Further arguments of `policy.sample` for the chunk that is asked for, such as `mask`.

        Raises:
            ValueError: the observation is missing, or the chunk is not finite, too short or of another shape than
                before. The chunk is dropped, and the next call asks again.
            TimeoutError: the chunk was not there after `timeout` seconds. The next call waits for it again.
            Exception: `encode` or the policy failed. The next call asks again.
        """
        return super().__call__(observation, **now)

    def _current(self, given: Any, now: dict[str, Any]) -> tuple[list[Tensor], int]:
        """Return the chunks to act on in this tick, and the ticks since the newest was asked for."""
        if self.due:
            if given is None:
                raise self._missing("the observation")
            committed = min(self.delay, self.chunks[-1].shape[1]) if self.chunks else 0
            options = dict(**self._continuing(committed), **(self.sampling | now))
            self._noise = Noise.of(options)
            self._coming = self._thread.submit(self._make, given, options)
            self._asked, self._counted, self._again = self.tick, False, False
        age = self.tick - self._asked
        coming = self._pending
        if coming is None or not self._wanted(coming, age):
            return self.chunks, self.since
        if not wait([coming], self.timeout).done:
            raise TimeoutError(
                f"No chunk within {self.timeout} s in tick {self.tick}. Look at the encoder and the policy, or allow "
                "for a longer timeout."
            )
        self._coming = None  # before an error is raised, so that the next call asks again
        made = coming.result()
        if self._noise is not None:
            self._noise.advance()
        self._check(made.chunk, made.cond)
        self.seconds.add(made.seconds)
        return [made.chunk[:, age:]], self.execute if self._again else age

    def _wanted(self, coming: Future[Made], age: int) -> bool:
        """Return whether to act on the coming chunk in this tick, after waiting for it if need be."""
        if not self.chunks:
            return True
        if age < self.delay:
            return False
        if coming.done():
            return True
        if not self._counted:
            self.late_chunks, self._counted = self.late_chunks + 1, True
        return self.late == "wait"

    @torch.no_grad()
    def _make(self, observation: Any, options: dict[str, Any]) -> Made:
        """Encode an observation and compute a chunk, in the second thread."""
        began = time.monotonic()
        cond = observation if self.encode is None else self.encode(observation)
        if self.encode is not None and isinstance(cond, tuple):
            cond, options["mask"] = cond
        chunk = self.policy.sample(cond, **options)
        return Made(chunk, cond, time.monotonic() - began)
