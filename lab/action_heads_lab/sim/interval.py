"""The interval of a success rate, in a file without torch, since worker processes of rollouts import it."""

from __future__ import annotations

from action_heads._util.extras import require


def wilson(successes: int, episodes: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a success rate."""
    ends = require("scipy.stats", "train").binomtest(successes, episodes).proportion_ci(method="wilson")
    return float(ends.low), float(ends.high)


def interval_text(low: float, high: float) -> str:
    """Return an interval of rates as text, such as "11 to 33 %"."""
    return f"{round(100 * low)} to {round(100 * high)} %"


def success_text(successes: int, episodes: int) -> str:
    """Return successes with their 95 % interval, such as "9 of 50 (10 to 31 %)"."""
    return f"{successes} of {episodes} ({interval_text(*wilson(successes, episodes))})"


def error_bars(successes: int, episodes: int) -> tuple[float, list[list[float]]]:
    """Return a success rate and its 95 % interval as the error bars of matplotlib, [[below], [above]]."""
    rate, (low, high) = successes / episodes, wilson(successes, episodes)
    return rate, [[max(0.0, rate - low)], [max(0.0, high - rate)]]
