"""Statistics of success rates: pooled over seeds with intervals, and compared on the same episodes."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from action_heads._util.extras import require
from action_heads_lab.reproduce.results import Result
from action_heads_lab.sim.interval import wilson


@dataclass(frozen=True)
class Rate:
    """A success rate, pooled over training seeds.

    The interval is Wilson's over episodes. It does not cover the spread of training seeds, which tables show beside it.
    A comparison of two modes covers it, see `Paired`.
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
class Spread:
    """How far the success rates of training seeds differ within a task, as root mean squares over tasks.

    Attributes:
        found: of the standard deviations of the rates.
        chance: of those that are expected from independent episodes if all seeds of a task are equally good.
    """

    found: float
    chance: float

    def __str__(self) -> str:
        return f"{100 * self.found:.1f} ({100 * self.chance:.1f})"


def spread(runs: Sequence[Result]) -> Spread | None:
    """Return the spread of the runs of one backbone and mode. Return None if no task has several training seeds."""
    by_task: dict[str, list[Result]] = defaultdict(list)
    for result in runs:
        by_task[result.run.task].append(result)
    tasks = [found for found in map(rate, by_task.values()) if len(found.by_seed) > 1]
    if not tasks:
        return None
    found = [statistics.variance(value for _, value in task.by_seed) for task in tasks]
    chance = [task.value * (1 - task.value) * len(task.by_seed) / task.episodes for task in tasks]
    return Spread(math.sqrt(statistics.mean(found)), math.sqrt(statistics.mean(chance)))


@dataclass(frozen=True)
class Paired:
    """A comparison of two modes on the same episodes, with the same training seeds.

    A training seed draws weights, of a random frozen head too, that all of its episodes share. So the error of the
    difference is the larger of two: that over episodes, as if they were independent, and that over training seeds, from
    the spread of the differences of one task's runs. Runs of several tasks count as independent.
    """

    runs: tuple[tuple[tuple[int, int, int], ...], ...]  # by task and backbone, by seed: pairs, only first, only second

    @property
    def pairs(self) -> int:
        return self._total(0)

    @property
    def only_first(self) -> int:
        """The episodes that only the first mode solves."""
        return self._total(1)

    @property
    def only_second(self) -> int:
        return self._total(2)

    def _total(self, index: int) -> int:
        return sum(run[index] for seeds in self.runs for run in seeds)

    @property
    def difference(self) -> float:
        """The rate of the first mode minus that of the second."""
        return (self.only_first - self.only_second) / self.pairs

    @property
    def over_episodes(self) -> float:
        """The standard error of the difference over episodes, a normal approximation that is rough if few differ."""
        b, c, n = self.only_first, self.only_second, self.pairs
        return math.sqrt(max(b + c - (b - c) ** 2 / n, 0.0)) / n

    @property
    def freedom(self) -> int:
        """The degrees of freedom of `over_seeds`, 0 if no task has several training seeds."""
        return sum(len(seeds) - 1 for seeds in self.runs)

    @property
    def over_seeds(self) -> float:
        """The standard error of the difference over training seeds, 0 if no task has several."""
        if not self.freedom:
            return 0.0
        gains = [[b - c for _, b, c in seeds] for seeds in self.runs]
        squares = sum((gain - sum(task) / len(task)) ** 2 for task in gains for gain in task)
        return math.sqrt(sum(map(len, gains)) * squares / self.freedom) / self.pairs

    @property
    def margin(self) -> float:
        """Half the width of the 95 % interval of the difference."""
        if self.over_seeds > self.over_episodes:
            return float(require("scipy.stats", "train").t.ppf(0.975, self.freedom)) * self.over_seeds
        return 1.96 * self.over_episodes

    @property
    def p(self) -> float:
        """The two-sided p-value that both modes are equally good, of McNemar's exact test over episodes.

        If the error over training seeds is the larger one, it is at least that of a t test over them.
        """
        stats = require("scipy.stats", "train")
        differ = self.only_first + self.only_second
        exact = float(stats.binomtest(self.only_first, differ).pvalue) if differ else 1.0
        if self.over_seeds <= self.over_episodes:
            return exact
        return max(exact, float(2 * stats.t.sf(abs(self.difference) / self.over_seeds, self.freedom)))

    def __str__(self) -> str:
        return f"{100 * self.difference:+.0f} ± {100 * self.margin:.0f} (p = {self.p:.2g})"


def paired(first: Sequence[Result], second: Sequence[Result]) -> Paired | None:
    """Compare two modes on their common episodes. Return None if there are none."""
    one, other = _outcomes(first), _outcomes(second)
    found: dict[tuple[str, str], list[tuple[int, int, int]]] = {}
    for key in sorted(one.keys() & other.keys()):
        pairs = [(one[key][start], other[key][start]) for start in one[key].keys() & other[key].keys()]
        if pairs:
            found.setdefault(key[:2], []).append(counted(pairs))
    return Paired(tuple(map(tuple, found.values()))) if found else None


def counted(pairs: Sequence[tuple[bool, bool]]) -> tuple[int, int, int]:
    """Return how many pairs of outcomes there are, and in how many only the first or only the second is a success."""
    return len(pairs), sum(a and not b for a, b in pairs), sum(b and not a for a, b in pairs)


def unpaired_p(first: tuple[int, int], second: tuple[int, int]) -> float:
    """Return the two-sided p-value of Fisher's exact test that two rates are equal, given as (successes, episodes).

    Use `paired` instead if the outcomes of both on the same starts are known.
    """
    table = [[won, of - won] for won, of in (first, second)]
    return float(require("scipy.stats", "train").fisher_exact(table).pvalue)


def _outcomes(runs: Sequence[Result]) -> dict[tuple[str, str, int], dict[tuple[str, int], bool]]:
    """Return success by start, of each run by (backbone, task, training seed)."""
    return {(r.run.backbone, r.run.task, r.run.seed): {(e.task, e.seed): e.success for e in r.episodes} for r in runs}
