"""Statistics of success rates: pooled over seeds with intervals, and compared on the same episodes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from action_heads._util.extras import require
from action_heads_lab.reproduce.results import Result
from action_heads_lab.sim.interval import wilson


@dataclass(frozen=True)
class Rate:
    """A success rate, pooled over training seeds.

    The interval is Wilson's over episodes. It does not include the spread of training seeds, which is shown beside it.
    """

    successes: int
    episodes: int
    by_seed: tuple[tuple[int, float], ...]  # (training seed, its rate)

    @property
    def value(self) -> float:
        return self.successes / self.episodes

    @property
    def interval(self) -> tuple[float, float]:
        return wilson(self.successes, self.episodes)

    def __str__(self) -> str:
        low, high = self.interval
        return f"{100 * self.value:.0f} ({100 * low:.0f} to {100 * high:.0f})"


def rate(runs: Sequence[Result]) -> Rate:
    """Return the pooled rate of the runs of one cell or of several."""
    seeds = sorted({result.run.seed for result in runs})
    by_seed = []
    for seed in seeds:
        part = [result for result in runs if result.run.seed == seed]
        by_seed.append((seed, sum(r.successes for r in part) / sum(len(r.episodes) for r in part)))
    return Rate(sum(r.successes for r in runs), sum(len(r.episodes) for r in runs), tuple(by_seed))


@dataclass(frozen=True)
class Paired:
    """A comparison of two modes on the same episodes, with the same training seeds."""

    pairs: int
    only_first: int  # episodes that only the first mode solves
    only_second: int

    @property
    def difference(self) -> float:
        """The rate of the first mode minus that of the second."""
        return (self.only_first - self.only_second) / self.pairs

    @property
    def margin(self) -> float:
        """Half the width of the 95 % interval of the difference.

        It uses the normal approximation, which is rough if few episodes differ.
        """
        b, c, n = self.only_first, self.only_second, self.pairs
        return 1.96 * math.sqrt(max(b + c - (b - c) ** 2 / n, 0.0)) / n

    @property
    def p(self) -> float:
        """The p-value of McNemar's exact test, two-sided, that both modes are equally likely to solve an episode."""
        differ = self.only_first + self.only_second
        return float(require("scipy.stats", "train").binomtest(self.only_first, differ).pvalue) if differ else 1.0

    def __str__(self) -> str:
        return f"{100 * self.difference:+.0f} ± {100 * self.margin:.0f} (p = {self.p:.2g})"


def paired(first: Sequence[Result], second: Sequence[Result]) -> Paired | None:
    """Compare two modes on their common episodes. Return None if there are none."""
    one, other = _outcomes(first), _outcomes(second)
    shared = one.keys() & other.keys()
    if not shared:
        return None
    return Paired(
        len(shared),
        sum(one[key] and not other[key] for key in shared),
        sum(other[key] and not one[key] for key in shared),
    )


def _outcomes(runs: Sequence[Result]) -> dict[tuple, bool]:
    """Return success by (backbone, task, training seed, start)."""
    return {(r.run.backbone, e.task, r.run.seed, e.seed): e.success for r in runs for e in r.episodes}
