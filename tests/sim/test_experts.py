"""Every expert succeeds, with and without noise. It takes minutes: `pytest tests/sim/test_experts.py -m slow -s`."""

import time
from importlib.util import find_spec

import pytest
from action_heads_lab.sim import TASKS, libero, make, mimicgen, two_cubes
from action_heads_lab.sim.record import SEEDS, run_expert
from action_heads_lab.sim.tasks import get_task

pytestmark = [pytest.mark.sim, pytest.mark.slow]
TRIES = 8
OF_MIMICGEN = 10, 3 * SEEDS  # tries and first seed; experts were tuned on smaller seeds
HERE = {
    "robosuite": True,
    "two_cubes": True,
    "mimicgen": bool(find_spec("mimicgen")),
    "libero": bool(find_spec("libero")),
}


@pytest.mark.parametrize("task", [*TASKS, "Lift@UR5e", *two_cubes.TASKS, *mimicgen.TASKS, *libero.TASKS])
def test_succeeds_in_half_of_its_tries_or_more(task):
    """An expert succeeds in half of its tries or more, so that a recording does not give up."""
    if not HERE[get_task(task).suite]:
        pytest.skip(f"needs {get_task(task).suite}")
    sim = make(task)
    number, first = OF_MIMICGEN if sim.task.suite == "mimicgen" else (TRIES, SEEDS)
    for noise in (0.0, sim.task.noise):
        start = time.process_time()
        tries = [run_expert(sim, seed, noise) for seed in range(first, first + number)]
        spent = (time.process_time() - start) / number
        won, steps = sum(one.success for one in tries), sum(len(one.action) for one in tries) / number
        print(f"{task}, noise {noise}: {won} of {number}, {steps:.0f} steps, {spent:.1f} CPU s")
        assert won >= number / 2
    sim.close()
