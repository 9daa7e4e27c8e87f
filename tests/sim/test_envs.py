import sys

import numpy as np
import pytest
from action_heads_lab.sim import TASKS, make
from action_heads_lab.sim.frames import rotation_to_6d

pytestmark = pytest.mark.sim


def hold(sim, grip=-1.0):
    return np.concatenate([sim.tcp.p, rotation_to_6d(sim.tcp.R), [grip]])


def test_observation_layout(lift):
    observation = lift.reset(seed=1)
    cube = lift.body("cube_main")
    expected = [*lift.tcp.p, *rotation_to_6d(lift.tcp.R), *lift.fingers]
    expected += [*cube.p, *rotation_to_6d(cube.R), *(cube.p - lift.tcp.p)]
    assert observation.dtype == np.float32
    assert observation.shape == (TASKS["Lift"].observation_size,)
    np.testing.assert_array_equal(observation, np.array(expected, np.float32))


@pytest.mark.parametrize("task", TASKS)
def test_every_task_tells_of_objects_within_reach(task):
    sim = make(task)
    observation = sim.reset(seed=0)
    assert observation.shape == (TASKS[task].observation_size,)
    assert not sim.success()
    for k in range(len(TASKS[task].objects)):
        position, offset = observation[11 + 12 * k :][:3], observation[11 + 12 * k :][9:12]
        assert 0.3 < np.hypot(*position[:2]) < 0.9
        np.testing.assert_allclose(position - offset, observation[:3], atol=1e-6)
    sim.close()


def test_base_frame_not_world(lift):
    """The robot stands 0.9 m high, and the cube lies on a table of 0.8 m, half a metre in front of it."""
    lift.reset(seed=1)
    x, _, z = lift.body("cube_main").p
    assert 0.4 < x < 0.7
    assert -0.12 < z < -0.06


def test_a_seed_is_a_start(lift):
    first, other = lift.reset(seed=5), lift.reset(seed=6)
    np.random.seed(0)  # noqa: NPY002
    assert np.array_equal(lift.reset(seed=5), first)
    assert not np.array_equal(first, other)
    drawn = np.random.random()  # noqa: NPY002
    assert drawn == np.random.RandomState(0).random(), "reset disturbed the caller's generator"


def test_step_goes_to_an_absolute_target(lift):
    lift.reset(seed=1)
    target = hold(lift, grip=1.0)
    target[:3] += [0.05, -0.04, -0.03]
    for _ in range(30):
        lift.step(target)
    np.testing.assert_allclose(lift.tcp.p, target[:3], atol=0.004)
    np.testing.assert_allclose(rotation_to_6d(lift.tcp.R), target[3:9], atol=0.03)
    assert np.abs(lift.fingers).max() < 0.01, "+1 closes"


def test_errors_teach(lift, monkeypatch):
    lift.reset(seed=1)
    with pytest.raises(ValueError, match="10 finite numbers"):
        lift.step(np.zeros(7))
    with pytest.raises(ValueError, match="10 finite numbers"):
        lift.step(np.full(10, np.nan))
    with pytest.raises(RuntimeError, match="render=True"):
        lift.render()
    with pytest.raises(ValueError, match=r"unknown task 'lift'.*Lift, Stack"):
        make("lift")
    monkeypatch.setitem(sys.modules, "robosuite", None)
    with pytest.raises(ImportError, match=r"action-heads\[sim\]"):
        make("Lift")
