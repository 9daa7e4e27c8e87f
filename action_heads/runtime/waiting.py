"""Choices of a policy while an embedding is late, and statistics of how old the embeddings were."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

LATE = ("wait", "raise")


class StaleEmbedding(RuntimeError):
    """There is no embedding yet, or the newest one is older than `max_age`."""


@dataclass
class Ages:
    """Statistics of how old the embeddings were that a policy acted on.

    Attributes:
        bin: width of a bin of `counts`.
        counts: number of ages by bin; bin i holds the ages from i · bin up to (i + 1) · bin.
        max: the largest age.
    """

    bin: float = 1
    counts: Counter[int] = field(default_factory=Counter)
    max: float = 0
    total: float = 0

    def add(self, age: float) -> None:
        """Count an age."""
        self.counts[int(age / self.bin)] += 1
        self.total += age
        self.max = max(self.max, age)

    @property
    def count(self) -> int:
        """The number of ages."""
        return sum(self.counts.values())

    @property
    def mean(self) -> float:
        """The mean age, 0 if there is none."""
        return self.total / max(1, self.count)


def check_waiting(late: str, known: Sequence[str], timeout: float | None) -> None:
    """Raise a ValueError unless `late` is one of the known answers, and `timeout` is above 0 or None."""
    if late not in known:
        raise ValueError(f"late must be one of {', '.join(known)}; got {late!r}")
    if timeout is not None and not (isinstance(timeout, (int, float)) and timeout > 0):
        raise ValueError(f"timeout must be a number of seconds above 0, or None; got {timeout!r}")
