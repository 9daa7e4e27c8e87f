import numpy as np
import pytest
from action_heads_lab.reproduce.config import Run
from action_heads_lab.reproduce.statistics import paired, rate, spread, unpaired_p
from made_up import outcomes, result
from scipy import stats


def test_pooled_over_seeds_with_wilsons_interval():
    found = rate(
        [result(Run(seed=0, episodes=50), [True] * 45 + [False] * 5), result(Run(seed=42, episodes=50), [True] * 50)]
    )
    assert (found.successes, found.episodes) == (95, 100)
    assert found.by_seed == ((0, 0.9), (42, 1.0))
    low, high = found.interval
    assert low == pytest.approx(0.8882, abs=1e-3)  # by hand from Wilson's formula
    assert high == pytest.approx(0.9785, abs=1e-3)


def test_the_spread_of_seeds_is_within_tasks():
    """By hand: rates of 40, 50 and 60 %, and of 80, 80 and 80 %. One seed of a third task says nothing."""
    of_seeds = {"Lift": (4, 5, 6), "Stack": (8, 8, 8), "PickPlaceCan": (1,)}
    runs = [
        result(Run(task=task, seed=seed, episodes=10), [i < count for i in range(10)])
        for task, counts in of_seeds.items()
        for seed, count in zip((0, 42, 420), counts, strict=False)
    ]
    found = spread(runs)
    assert found
    assert found.found == pytest.approx((0.1**2 / 2) ** 0.5)
    assert found.chance == pytest.approx(((0.5 * 0.5 / 10 + 0.8 * 0.2 / 10) / 2) ** 0.5)
    assert str(found) == "7.1 (14.3)"
    assert spread(runs[-1:]) is None


def test_the_spread_of_chance_alone_is_as_expected():
    """Seeds that are equally good differ by what `chance` says."""
    runs = [Run(task=f"task {i}", seed=seed, episodes=50) for i in range(200) for seed in (0, 42, 420)]
    found = spread([result(run, outcomes(0.7, 50, i)) for i, run in enumerate(runs)])
    assert found
    assert found.found == pytest.approx(found.chance, rel=0.1)


def test_paired_counts_episodes_that_both_ran():
    first = result(Run(episodes=6), [True, True, True, False, False, False])
    second = result(Run(episodes=6, mode="normal"), [True, False, False, True, False, False])
    found = paired([first], [second])
    assert found
    assert (found.pairs, found.only_first, found.only_second) == (6, 2, 1)
    assert found.difference == pytest.approx(1 / 6)
    other_seed = result(Run(episodes=6, mode="normal", seed=42))
    assert paired([first], [other_seed]) is None
    both = paired([first], [second, other_seed])
    assert both
    assert both.pairs == 6


def test_mcnemar_is_exact_and_keeps_its_level():
    """The p-value equals its binomial definition, and at most 5 % of equal pairs are below 0.05."""
    one, other = result(Run(episodes=12), [True] * 9 + [False] * 3), result(Run(episodes=12), [False] * 9 + [True] * 3)
    found = paired([one], [other])
    assert found
    assert found.p == pytest.approx(2 * stats.binom.cdf(3, 12, 0.5))
    below = []
    for i in range(200):
        pair = [result(Run(episodes=30), outcomes(0.7, 30, 2 * i + k)) for k in (0, 1)]
        test = paired(pair[:1], pair[1:])
        assert test
        below.append(test.p < 0.05)
    assert np.mean(below) < 0.08


def test_rates_without_outcomes_by_episode_are_compared_by_fisher_s_exact_test():
    """By hand: of the C(6, 3) = 20 ways to place three successes, two are as unequal as three and none."""
    assert unpaired_p((3, 3), (0, 3)) == pytest.approx(2 / 20)
    assert unpaired_p((2, 4), (1, 2)) == pytest.approx(1)


def test_alike_is_no_difference():
    one = result(Run(episodes=4))
    found = paired([one], [one])
    assert found
    assert (found.difference, found.margin, found.p) == (0, 0, 1)


def test_a_seed_s_own_effect_is_in_the_error_of_a_difference():
    """By hand: three seeds whose differences are 20, 40 and 60 points, so se = 20 / sqrt(3), t with 2 degrees."""
    seeds = (0, 42, 420)
    first = [result(Run(episodes=10, seed=seed), [i < 2 * (n + 2) for i in range(10)]) for n, seed in enumerate(seeds)]
    second = [result(Run(episodes=10, mode="normal", seed=seed), [i < 2 for i in range(10)]) for seed in seeds]
    found = paired(first, second)
    assert found
    assert found.difference == pytest.approx(0.4)
    assert (found.over_seeds, found.freedom) == (pytest.approx(0.2 / 3**0.5), 2)
    assert found.margin == pytest.approx(4.3027 * 0.2 / 3**0.5, rel=1e-4)
    assert found.p == pytest.approx(stats.ttest_1samp([0.2, 0.4, 0.6], 0).pvalue)
    one = paired(first[:1], second[:1])
    assert one
    assert one.over_seeds == one.freedom == 0, "one seed says nothing of others"
    assert one.p == pytest.approx(stats.binomtest(2, 2).pvalue)


def test_the_p_value_keeps_its_level_whether_seeds_differ_or_not():
    """About 5 % of equal modes are below 0.05, also if the seeds of one of them differ by twice its binomial error."""
    rng, tasks, seeds = np.random.default_rng(0), ("Lift", "Stack"), (0, 42, 420)
    for apart in (0.0, 0.13):
        below = []
        for i in range(200):
            modes = []
            for k, mode in enumerate(("decoupled", "normal")):
                runs = [Run(task=task, episodes=50, mode=mode, seed=seed) for task in tasks for seed in seeds]
                rates = 0.5 + apart * k * rng.normal(size=len(runs))
                draws = [outcomes(rate, 50, 1000 * i + 100 * k + j) for j, rate in enumerate(rates)]
                modes.append([result(run, drawn) for run, drawn in zip(runs, draws, strict=True)])
            found = paired(*modes)
            assert found
            below.append(found.p < 0.05)
        assert np.mean(below) < 0.1, apart
