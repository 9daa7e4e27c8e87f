"""The interval of a success rate, in a file without torch, since worker processes of rollouts import it."""

from __future__ import annotations

from action_heads._util.extras import require


def wilson(successes: int, episodes: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a success rate."""
    ends = require("scipy.stats", "train").binomtest(successes, episodes).proportion_ci(method="wilson")
    return float(ends.low), float(ends.high)
