"""Fixtures for tests that need the extra `sim`. They share one Lift and its demonstration, which are slow to make."""

from importlib.util import find_spec

import pytest

if find_spec("robosuite") is None:  # found, not imported: `make` sets its environment first
    pytest.skip("needs the sim extra", allow_module_level=True)

from action_heads_lab.sim import make
from action_heads_lab.sim.record import run_expert

SEED = 10_003


@pytest.fixture(scope="session")
def lift():
    sim = make("Lift")
    yield sim
    sim.close()


@pytest.fixture(scope="session")
def lift_episode(lift):
    """Return an episode of Lift by the expert, from SEED and without noise."""
    return run_expert(lift, SEED, noise=0.0)
