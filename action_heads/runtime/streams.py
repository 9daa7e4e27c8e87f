"""Embeddings that a server keeps by the names of streams, for robots that send their newest state every tick.

An embedding comes from another process that sends it, or the server makes it in the background.

Axes: b batch, n tokens, c condition.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from action_heads._util.checks import check_condition
from action_heads._util.conditions import CPU, Mask, move, parts
from action_heads.runtime.second_thread import SecondThread
from action_heads.runtime.slow_encoder import Embedding, SlowEncoder, embedded
from action_heads.runtime.waiting import StaleEmbedding

STREAMS, BYTES = 64, 256 * 2**20  # the streams used last stay, as many as fit


@dataclass
class Kept:
    """The newest embedding of a stream, or the encoder that makes it."""

    cond: Mapping[str, Tensor] | None = None
    mask: Mask = None
    since: float = 0.0  # when its observation was made, on the monotonic clock
    encoder: SlowEncoder | None = None
    size: int = 0


class Streams:
    """The streams of a server.

    Args:
        sources: width of each source of the adapter; a number for an adapter of one source, which has no streams.
        device: where embeddings are kept.
        embed: encoder from an observation to (cond, mask), for observations that clients send; None if they send
            embeddings alone. It runs in one background thread for all streams.
    """

    def __init__(
        self,
        sources: int | Mapping[str, int],
        device: torch.device = CPU,
        embed: Callable[[Mapping[str, Any]], tuple[Any, Any]] | None = None,
    ):
        self.sources, self.device, self.embed = sources, device, embed
        self.kept: OrderedDict[str, Kept] = OrderedDict()  # the one used last is the last one
        self.lock = threading.Lock()
        self.thread = SecondThread("action-heads streams")

    def keep(self, name: str, cond: Any, mask: Mask, age: float = 0.0) -> None:
        """Keep an embedding whose observation was made `age` seconds ago, in place of the one before."""
        cond, mask = self.checked("keep", cond, mask)
        since = time.monotonic() - age
        with self.lock:
            self.kept[name] = Kept(cond, mask, since, size=sum(p.nbytes for p in [*parts(cond), *parts(mask or {})]))
            self._make_room(name)

    def observe(self, name: str, observation: Mapping[str, Any]) -> bool:
        """Start to embed an observation, and return whether it was started: not while another one is embedded."""
        if self.embed is None:
            raise ValueError("observe: this server has no encoder; send embeddings with keep, or start it with embed=")
        with self.lock:
            kept = self.kept.get(name)
            if kept is None or kept.encoder is None:
                kept = self.kept[name] = Kept(encoder=SlowEncoder(self._embedded, thread=self.thread))
                self._make_room(name)
            assert kept.encoder is not None
            return kept.encoder.offer(observation)

    def forget(self, name: str) -> None:
        """Drop the embedding of a stream, and one that is being made."""
        with self.lock:
            if (kept := self.kept.pop(name, None)) and kept.encoder is not None:
                kept.encoder.close()

    def complete(
        self, name: str, cond: Mapping[str, Tensor], mask: Mask, max_age: float | None
    ) -> tuple[Any, Any, float]:
        """Return a request's checked condition and mask with the sources of the stream, and the age in seconds.

        Raises:
            StaleEmbedding: the stream has no embedding, or one that is older than `max_age` seconds.
            ValueError: a source is in both.
        """
        newest = self.newest(name)
        if newest is None:
            raise StaleEmbedding(f"stream {name!r} has no embedding yet")
        if max_age is not None and newest.seconds > max_age:
            raise StaleEmbedding(
                f"the embedding of stream {name!r} is {newest.seconds:.3f} s old, more than max_age={max_age:g}"
            )
        kept: Any = newest.cond  # a dict, as `checked` has made sure
        if twice := sorted(cond.keys() & kept.keys()):
            lacking = ", ".join(sorted(self.sources.keys() - kept.keys()))  # type: ignore[union-attr]
            raise ValueError(f"cond has {', '.join(twice)}, as stream {name!r} has: send {lacking} alone")
        return {**kept, **cond}, {**(newest.mask or {}), **(mask or {})} or None, newest.seconds  # type: ignore[dict-item]

    def newest(self, name: str) -> Embedding | None:
        """Return the newest embedding of a stream, None if there is none. It raises the error of a failed encoder."""
        with self.lock:
            if (kept := self.kept.get(name)) is None:
                return None
            self.kept.move_to_end(name)
            if kept.encoder is not None:
                found = kept.encoder.latest()
                kept.size = 0 if found is None else sum(p.nbytes for p in parts(found.cond))
                return found
            assert kept.cond is not None
            return Embedding(kept.cond, kept.mask, 0, time.monotonic() - kept.since)

    def checked(self, name: str, cond: Any, mask: Mask) -> tuple[Mapping[str, Tensor], Mask]:
        """Return an embedding on the device if it has some of the sources, and sound values."""
        if isinstance(self.sources, int):
            raise ValueError(
                f"{name}: the adapter takes one condition, so that nothing is left for the robot to send. Streams need "
                'an adapter of several sources, such as cond_dim={"tokens": 960, "state": 8}'
            )
        if not isinstance(cond, Mapping) or not cond or cond.keys() - self.sources.keys():
            given = sorted(map(str, cond)) if isinstance(cond, Mapping) else f"a {type(cond).__name__}"
            raise ValueError(f"{name} must be a dict of some of the sources {sorted(self.sources)}, got {given}")
        some = {source: width for source, width in self.sources.items() if source in cond}
        check_condition(cond, mask, some, values=True)
        return move(cond, self.device), move(mask, self.device)

    def stop(self) -> None:
        """Start no further embedding."""
        self.thread.close()

    def _embedded(self, observation: Mapping[str, Any]) -> tuple[Mapping[str, Tensor], Mask]:
        assert self.embed is not None
        return self.checked("embed's result", *embedded(self.embed, observation))

    def _make_room(self, name: str) -> None:
        self.kept.move_to_end(name)
        while len(self.kept) > 1 and (len(self.kept) > STREAMS or sum(k.size for k in self.kept.values()) > BYTES):
            _, dropped = self.kept.popitem(last=False)
            if dropped.encoder is not None:
                dropped.encoder.close()
