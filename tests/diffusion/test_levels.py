"""Tests of the noise levels in training against scipy's distributions."""

from __future__ import annotations

import pytest
import torch
from scipy import stats
from small import generator

from action_heads.diffusion.levels import LEVELS
from action_heads.diffusion.objectives import Objective, ObjectiveConfig

OBJECTIVE = Objective(ObjectiveConfig(train_steps=20))
BELOW = {  # the share of levels that should lie below u in (0, 1]
    "uniform": stats.uniform.cdf,
    "logit_normal": lambda u: stats.norm.cdf(stats.logistic.ppf(u)),
    "beta": lambda u: stats.beta(1.5, 1).cdf((u - 0.001) / 0.999),
    "last": lambda u: (u == 1).astype(float),
}


@pytest.mark.parametrize("levels", sorted(LEVELS))
def test_levels_lie_where_the_papers_put_them(levels):
    t = OBJECTIVE.random_steps((40_000, 1), generator(1), levels)
    assert t.shape == (40_000, 1)
    assert t.dtype == torch.long
    edges = torch.arange(1, 21).double().div(20).numpy()
    expected = torch.from_numpy(BELOW[levels](edges)).diff(prepend=torch.zeros(1)) * len(t)
    found = t.flatten().bincount(minlength=20)
    assert not found[expected == 0].any()
    if levels != "last":  # A single level has no distribution to test.
        assert stats.chisquare(found, expected).pvalue > 1e-3


def test_uniform_levels_are_the_numbers_they_were():
    """Uniform levels come from the same random numbers as in earlier releases, so that a seed keeps its losses."""
    expected = torch.randint(20, (64, 1), generator=generator(2))
    assert torch.equal(OBJECTIVE.random_steps((64, 1), generator(2)), expected)


@pytest.mark.parametrize("levels", sorted(LEVELS))
def test_levels_exist(levels):
    """All drawn levels exist, even if there is only one and no generator is given."""
    assert (Objective(ObjectiveConfig(train_steps=1)).random_steps((64, 3), levels=levels) == 0).all()


def test_unknown_levels():
    with pytest.raises(ValueError, match="unknown levels 'cosine'; choose one of uniform, logit_normal, beta, last"):
        OBJECTIVE.random_steps((4, 1), levels="cosine")
