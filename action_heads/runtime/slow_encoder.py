"""`SlowEncoder`: an encoder that runs in the background, beside a policy that acts every tick.

Axes: b batch, n tokens, c condition.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from action_heads._util.conditions import Condition, Mask, parts
from action_heads.runtime.second_thread import Pending, SecondThread
from action_heads.runtime.uncopied import Uncopied
from action_heads.runtime.waiting import LATE, Ages, StaleEmbedding, check_waiting


@dataclass(frozen=True)
class Embedding:
    """A condition that a slow encoder made, and the time since its observation."""

    cond: Condition
    mask: Mask
    age: int  # ticks
    seconds: float


@dataclass
class Call:
    """A call of the encoder that was started and not collected yet."""

    future: Future
    tick: int
    began: float


class SlowEncoder(Uncopied):
    """An encoder that is too slow for every tick, such as a VLM, beside a policy that acts every tick.

    Call it once a tick with the newest observation. It returns the newest embedding that is ready. If no call of
    `embed` runs, it starts one with this observation in a background thread. The policy then acts on this embedding and
    on the newest proprioception, which is passed beside it as a source of its own.

    Args:
        embed: encoder from an observation, of any type, to (cond, mask): cond (b c) or tokens (b n c) or a dict of
            these, mask (b n), a dict, or None. It runs without gradients. The observation must not be changed in place
            afterwards.
        every: smallest number of ticks between the starts of two calls.
        latency: None to run `embed` in a background thread. A number of ticks to run it within the call instead and
            to return its result that many ticks later, which simulates a latency and is reproducible. 0 is a plain
            refresh every `every` ticks.
        max_age: largest age in ticks of an embedding that is returned; None for any.
        late: what to do if there is no embedding yet or the newest is older than `max_age`: "wait" for a newer one
            (the robot has to hold still meanwhile; a simulated latency passes at once), or "raise" a `StaleEmbedding`.
        timeout: seconds to wait at most, after which a `StaleEmbedding` is raised; None for no limit.
        thread: thread to share with other encoders; None for one of its own.

    Raises:
        ValueError: an argument is out of range.

    Examples:
        >>> import torch
        >>> from action_heads import ActionHead, Executor
        >>> from action_heads.adapters import AdaLNZero
        >>> from action_heads.runtime.slow_encoder import SlowEncoder
        >>> head = ActionHead.from_pretrained("dae/mlp-0.7m-fk")
        >>> policy = head.attach(AdaLNZero({"tokens": 32, "state": 8}, pool="attention"))
        >>> def embed(image):  # your VLM, behind a Tap
        ...     return torch.randn(1, 5, 32), torch.ones(1, 5, dtype=torch.bool)
        >>> executor = Executor(policy, execute=4, steps=2)
        >>> with SlowEncoder(embed, max_age=10) as vlm:
        ...     for _ in range(8):
        ...         image, state = torch.zeros(1, 3, 32, 32), torch.zeros(1, 8)
        ...         tokens, mask = vlm(image)
        ...         if vlm.fresh:
        ...             executor.renew()
        ...         action = executor({"tokens": tokens, "state": state}, mask={"tokens": mask})
        >>> action.shape, vlm.ages.count
        (torch.Size([1, 10]), 8)
    """

    another = "SlowEncoder(embed, ...)"

    def __init__(
        self,
        embed: Callable[[Any], tuple[Condition, Mask]],
        *,
        every: int = 1,
        latency: int | None = None,
        max_age: int | None = None,
        late: str = "wait",
        timeout: float | None = None,
        thread: SecondThread | None = None,
    ):
        if every < 1:
            raise ValueError(f"every must be at least 1 tick, got {every}")
        if latency is not None and latency < 0:
            raise ValueError(f"latency must be 0 ticks or more, or None for a background thread; got {latency}")
        oldest = max(every, latency or 0) + (latency or 0) - 1
        if max_age is not None and max_age < oldest:
            raise ValueError(
                f"every={every} and latency={latency} let embeddings become {oldest} ticks old, more than "
                f"max_age={max_age}. Refresh more often, or allow older ones."
            )
        check_waiting(late, LATE, timeout)
        self.embed, self.every, self.latency = embed, every, latency
        self.max_age, self.late, self.timeout = max_age, late, timeout
        self._thread, self._owns_thread = thread or SecondThread("action-heads slow encoder"), thread is None
        self._call: Call | None = None
        self.ages = Ages()  # in ticks, one for each call that returned an embedding
        self.seconds = Ages(bin=0.01)
        self.waits = 0  # calls that had to wait for an embedding
        self.reset()

    def reset(self) -> None:
        """Forget the embedding, and discard a call in flight. Call it when a new episode begins.

        A call that is running ends in its thread before the first one of the new episode begins. Its result and its
        error are dropped. The statistics go on.
        """
        if (call := self._pending) is not None:
            call.future.cancel()
        self._call, self._tick, self._started = None, -1, -self.every
        self._newest: tuple[Condition, Mask, int, float] | None = None
        self._returned = self._newest
        self.fresh = False  # whether the last call returned an embedding for the first time

    # `Any`, since a type checker cannot know whether `embed` makes a tensor or a dict of them.
    def __call__(self, observation: Any) -> tuple[Any, Any]:
        """Return the newest embedding (cond, mask) for this tick. Call it once a tick.

        Args:
            observation: the newest observation, from which an embedding is started if none is being made.

        Raises:
            StaleEmbedding: there is none that is new enough, with `late="raise"` or after `timeout` seconds.
            Exception: `embed` failed. The error is raised in the tick that finds it, and a later tick starts again.
        """
        self.offer(observation)
        if self._lacking() is not None:
            self._wait(observation)
        found = self.latest()
        assert found is not None
        # `latest` may have taken a newer one, now or when the caller asked between two ticks.
        self.fresh, self._returned = self._newest is not self._returned, self._newest
        self.ages.add(found.age)
        self.seconds.add(found.seconds)
        return found.cond, found.mask

    def offer(self, observation: Any) -> bool:
        """Begin a tick: start a call with this observation if one is due, and return whether it was started."""
        self._tick += 1
        self._collect()
        due = self._pending is None and self._tick - self._started >= self.every
        if due:
            self._start(observation)
            if self.latency == 0:
                self._collect()
        return due

    def latest(self) -> Embedding | None:
        """Return the newest embedding with its age, whatever it is, or None if there is none yet. It never waits."""
        self._collect()
        if self._newest is None:
            return None
        cond, mask, tick, began = self._newest
        return Embedding(cond, mask, self._tick - tick, time.monotonic() - began)

    def close(self) -> None:
        """Discard a call in flight, and end the thread behind it."""
        self.reset()
        if self._owns_thread:
            self._thread.close()

    def __enter__(self) -> SlowEncoder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start(self, observation: Any) -> None:
        self._started, began = self._tick, time.monotonic()
        if self.latency is not None:
            future: Future = Future()
            future.set_result(embedded(self.embed, observation))
        else:
            future = self._thread.submit(embedded, self.embed, observation)
        self._call = Call(future, self._tick, began)

    def _collect(self, waiting: bool = False) -> None:
        """Take the result of the call in flight if it is there, or after waiting for it."""
        call = self._pending
        if call is None:
            return
        if waiting and not wait([call.future], self.timeout).done:
            raise StaleEmbedding(
                f"no embedding within {self.timeout} s: {self._lacking()}. Look at the encoder, or allow for a longer "
                "timeout"
            )
        if waiting or (call.future.done() and self._tick - call.tick >= (self.latency or 0)):
            self._call = None  # before an error of the encoder is raised, so that a later tick starts again
            self._newest = (*call.future.result(), call.tick, call.began)

    @property
    def _pending(self) -> Call | None:
        """The call in flight, unless this process was forked since it began. Then another one is due at once."""
        if self._call is not None and isinstance(self._call.future, Pending) and self._call.future.lost:
            self._call, self._started = None, self._tick - self.every
        return self._call

    def _lacking(self) -> str | None:
        """Return why the newest embedding can't be acted on, or None if it can."""
        if self._newest is None:
            return "there is no embedding yet"
        age = self._tick - self._newest[2]
        if self.max_age is not None and age > self.max_age:
            return f"the newest embedding is {age} ticks old, more than max_age={self.max_age}"
        return None

    def _wait(self, observation: Any) -> None:
        if self.late == "raise":
            raise StaleEmbedding(f"{self._lacking()}: hold still and call again, or pass late='wait'")
        self.waits += 1
        while self._lacking() is not None:
            if self._pending is None:  # the one that was waited for is too old as well
                self._start(observation)
            self._collect(waiting=True)


@torch.no_grad()
def embedded(embed: Callable[[Any], tuple[Condition, Mask]], observation: Any) -> tuple[Condition, Mask]:
    """Call an encoder, and return its embedding (cond, mask) if it is one.

    Raises:
        TypeError: it returned something else.
    """
    result = embed(observation)
    if not isinstance(result, tuple) or len(result) != 2:
        raise TypeError(f"embed must return (cond, mask), with None for no mask; it returned a {type(result).__name__}")
    cond, mask = result
    found = [*parts(cond), *(() if mask is None else parts(mask))]
    if wrong := [type(part).__name__ for part in found if not isinstance(part, Tensor)]:
        raise TypeError(f"embed must return torch tensors, or dicts of them; it returned a {wrong[0]}")
    return cond, mask
