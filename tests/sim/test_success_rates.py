"""Success rates have Wilson's interval, as text and as the error bars of figures."""

from __future__ import annotations

import pytest
from action_heads_lab.sim.interval import error_bars, interval_text, wilson


def test_an_interval_as_text():
    assert interval_text(*wilson(10, 50)) == "11 to 33 %"


@pytest.mark.parametrize(("successes", "episodes"), [(0, 50), (48, 50), (50, 50)])
def test_error_bars_span_the_interval(successes, episodes):
    rate, ((below,), (above,)) = error_bars(successes, episodes)
    assert rate == successes / episodes
    assert min(below, above) >= 0
    assert (rate - below, rate + above) == pytest.approx(wilson(successes, episodes))
