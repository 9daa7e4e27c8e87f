"""Call a function at a fixed rate as a control loop does, and account for its deadlines.

Tick n should begin n periods after the first, and its deadline is the beginning of the next one. A tick whose time is
over before it could begin is left out, so that a loop that was late once does not stay late.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np


class Tick(NamedTuple):
    """A tick that was begun. Its times are in periods since the loop should have begun."""

    number: int
    began: float
    ended: float
    chunk: bool  # whether it computed a chunk


def run_ticks(
    act: Callable[[], bool],
    rate: float,
    ticks: int,
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
) -> list[Tick]:
    """Call `act`, which returns whether it computed a chunk, for so many ticks at a rate a second."""
    first, number, done = clock() + 1 / rate, 0, []
    while number < ticks:
        sleep(max(0.0, first + number / rate - clock()))
        began = (clock() - first) * rate
        chunk = act()
        ended = (clock() - first) * rate
        done.append(Tick(number, began, ended, chunk))
        number = max(number + 1, int(ended))
    return done


def summary(done: Sequence[Tick], rate: float, ticks: int) -> dict[str, Any]:
    """Return missed deadlines and times in ms.

    `chunk_ms` and `other_ms` are the times from when a tick should have begun until its action was there: of the ticks
    that computed a chunk, and of the others. `jitter_ms` is the time from when a tick should have begun until it began.
    """
    period = 1000 / rate
    times = {
        "chunk_ms": [tick.ended - tick.number for tick in done if tick.chunk],
        "other_ms": [tick.ended - tick.number for tick in done if not tick.chunk],
        "jitter_ms": [tick.began - tick.number for tick in done],
    }
    in_time = sum(tick.ended < tick.number + 1 for tick in done)
    counts = {
        "ticks": ticks,
        "missed": ticks - in_time,
        "left_out": ticks - len(done),
        "chunks": len(times["chunk_ms"]),
    }
    return counts | {name: percentiles(period * np.array(values)) for name, values in times.items() if values}


def percentiles(values: np.ndarray) -> dict[str, float]:
    """Return p50, p99, p99.9 and the largest of values."""
    numbers = np.round(np.percentile(values, [50, 99, 99.9, 100]), 3).tolist()
    return dict(zip(("p50", "p99", "p99_9", "max"), numbers, strict=True))
