"""The environments of LIBERO. Any assets work, since these tests use no images."""

from contextlib import nullcontext
from importlib.util import find_spec

import numpy as np
import pytest

if find_spec("libero") is None:
    pytest.skip("needs hf-libero and its assets", allow_module_level=True)

from action_heads_lab.sim import compiled, libero, libero_files, make, substeps
from action_heads_lab.sim.frames import rotation_to_6d
from action_heads_lab.sim.libero_dataset import observed
from action_heads_lab.sim.observations import Sight
from action_heads_lab.sim.record import run_expert
from action_heads_lab.sim.tasks import description, get_task

pytestmark = [pytest.mark.sim, pytest.mark.slow]


@pytest.fixture(scope="module")
def soup():
    sim = make("libero_object/0")
    yield sim
    sim.close()


def test_seeds_are_init_states_and_then_the_samplers(soup):
    first, second = soup.reset(0), soup.reset(1)
    assert first.shape == (get_task("libero_object/0").observation_size,)
    np.testing.assert_allclose(soup.reset(0), first, atol=1e-5)
    assert np.abs(first - second).max() > 0.005
    assert len(soup.init_states) == 50
    drawn = soup.reset(10_001)
    np.testing.assert_allclose(soup.reset(10_001), drawn, atol=1e-5)
    assert np.abs(drawn - soup.reset(10_002)).max() > 0.005
    assert not soup.success()


def test_goes_to_absolute_targets_in_the_base_frame(soup):
    soup.reset(0)
    target = np.concatenate([soup.tcp.p, rotation_to_6d(soup.tcp.R), [-1.0]])
    target[:3] += [0.03, -0.04, -0.02]
    for _ in range(30):
        soup.step(target)
    np.testing.assert_allclose(soup.tcp.p, target[:3], atol=0.006)


def test_corners_are_around_the_object(soup):
    soup.reset(0)
    corners, middle = soup.corners("alphabet_soup_1"), soup.body("alphabet_soup_1_main").p
    assert (corners.min(0) - 0.01 < middle).all()
    assert (middle < corners.max(0) + 0.01).all()
    assert np.ptp(corners, axis=0).max() < 0.2


def test_what_is_observed_is_what_the_task_is_about():
    """Each task observes the right one of two black bowls, and for a region the body it is part of."""
    libero_files.check()
    from libero.libero import benchmark
    from libero.libero.envs import bddl_utils

    assert len(libero.TASKS) == 40
    for name, task in libero.TASKS.items():
        suite, index = name.split("/")
        row = benchmark.get_benchmark_dict()[suite]()
        assert row.get_task(int(index)).name == task.name
        assert row.get_task(int(index)).language == description(name)
        about = bddl_utils.robosuite_parse_problem(row.get_task_bddl_file_path(int(index)))["obj_of_interest"]
        if suite in ("libero_object", "libero_spatial"):
            assert [f"{thing}_main" for thing in about] == list(task.objects)
        for thing in about:
            body = thing[: thing.index("_1") + 2] if "_1" in thing else "table"
            assert body == "table" or any(seen.startswith(body) for seen in task.objects), (name, thing)


@pytest.mark.parametrize(
    ("task", "joint", "there"),
    [("libero_goal/0", "wooden_cabinet_1_middle_level", -0.15), ("libero_goal/7", "flat_stove_1_button", 0.6)],
)
def test_a_policy_sees_how_far_a_drawer_is_open_and_a_knob_turned(task, joint, there):
    sim = make(task)
    before = sim.reset(0)
    assert not sim.success()
    sim.mujoco.data.set_joint_qpos(joint, there)
    sim.mujoco.forward()
    assert sim.success()
    seen = np.flatnonzero(np.abs(sim.observe() - before) > 0.1)
    assert len(seen)
    assert ((seen >= 11) & (seen < 23)).all(), "only the numbers of the first body change"
    sim.close()


def test_a_policy_of_liberos_recordings_is_shown_what_libero_shows():
    sim = libero.make("libero_object/0", render=True, pixels=64, fast=False)
    sim.reset(0)
    theirs = observed(sim.env._get_observations(force_update=True))
    ours = Sight(("observation.state",), {"image": 64, "image2": 64}, dialect="libero").look(sim)
    np.testing.assert_allclose(ours["state"], theirs["observation.state"], atol=1e-6)
    assert np.array_equal(ours["image"], theirs["observation.images.image"])
    assert np.array_equal(ours["image2"], theirs["observation.images.image2"])
    sim.close()


def test_the_same_bits_as_by_its_own_resets_and_steps(monkeypatch):
    """Copied scenes give the same bits. On Spatial a reset changes the model too, which must not affect a copy."""
    sim = make("libero_spatial/7")
    for seed in (3, 10_000):
        sim.reset(seed)
    ours = run_expert(sim, 10_001, sim.task.noise)
    assert ours.success, "the episode must include a grasp"
    monkeypatch.setattr(compiled, "once", nullcontext)
    monkeypatch.setattr(substeps, "step", lambda env, action: env.step(action))
    theirs = run_expert(sim, 10_001, sim.task.noise)
    np.testing.assert_array_equal(theirs.observation, ours.observation)
    sim.close()


@pytest.mark.parametrize("task", ["libero_object/0", "libero_spatial/4", "libero_goal/3"])
def test_a_start_does_not_depend_on_those_before(task):
    """A start does not depend on earlier ones, although LIBERO adds a sampler of drawers at every reset."""
    sim = make(task)
    first = [sim.reset(seed) for seed in (10_000, 10_001, 0)]
    again = [sim.reset(seed) for seed in (0, 10_001, 10_000)]
    np.testing.assert_array_equal(again[::-1], first)
    sim.close()
