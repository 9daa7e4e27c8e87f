"""LIBERO-PRO's tasks by name, from files like its own. Those of its scenes need LIBERO and `setup libero-pro`."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("scipy")

from action_heads_lab.sim import libero_pro, libero_tasks, make
from action_heads_lab.sim.dataset import RecordConfig
from action_heads_lab.sim.record import record, run_expert
from action_heads_lab.sim.tasks import check_starts, description, get_task

pytestmark = pytest.mark.sim
SUITES = sorted({task.partition("/")[0] for task in libero_tasks.TASKS})
PLAIN = """(define (problem LIBERO_Floor_Manipulation)
  (:language Pick the alphabet soup and place it in the basket)
  (:objects
    alphabet_soup_1 - alphabet_soup
    plate_1 plate_2 - plate
    basket_1 - basket
  )
)"""
OTHER = (
    PLAIN.replace("alphabet_soup", "bigger_alphabet_soup")
    .replace("basket", "red_basket")
    .replace("Pick the alphabet soup", "grab soup’s can")
)


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Return a function that writes both files of a task of LIBERO-PRO."""
    monkeypatch.setenv("ACTION_HEADS_CACHE", str(tmp_path))

    def write(name: str, bddl: str = PLAIN, states: object = None) -> None:
        found = libero_pro.perturbed(name)
        assert found
        for folder in libero_pro.FOLDERS:
            (tmp_path / "libero-pro" / folder / found.suite).mkdir(parents=True)
        stem = libero_tasks.TASKS[found.base].name
        (tmp_path / f"libero-pro/bddl_files/{found.suite}/{stem}.bddl").write_text(bddl, encoding="utf-8")
        path = tmp_path / f"libero-pro/init_files/{found.suite}/{stem}.pruned_init.npz"
        np.savez(path, states=np.zeros((50, 110)) if states is None else states)

    return write


def test_every_task_has_every_perturbation():
    names = [name for suite in SUITES for kind in libero_pro.KINDS for name in libero_pro.of_suite(suite, kind)]
    assert len(set(names)) == 160
    for name in names:
        found = libero_pro.perturbed(name)
        assert found
        task, base = get_task(name), get_task(found.base)
        assert (task.name, task.suite, task.rollout_steps) == (base.name, "libero", base.rollout_steps)
        check_starts(name, 50)
        with pytest.raises(ValueError, match="51 episodes"):
            check_starts(name, 51)


@pytest.mark.parametrize("name", ["libero_object_swap/10", "libero_object_colour/0", "libero_swap/0", "Lift_swap", "/"])
def test_other_names_are_unknown(name):
    with pytest.raises(ValueError, match="unknown task"):
        get_task(name)


@pytest.mark.parametrize("kind", libero_pro.KINDS)
def test_the_sentence_is_the_tasks_own_only_if_it_says_something_else(kind, files):
    files(f"libero_object_{kind}/0", OTHER)
    expected = "grab soup's can and place it in the red_basket"
    if kind not in libero_pro.OTHER_WORDS:
        expected = description("libero_object/0")
    assert description(f"libero_object_{kind}/0") == expected


def test_the_observed_bodies_have_the_names_of_the_scene(files, tmp_path):
    files("libero_object_object/0", OTHER)
    (tmp_path / "plain.bddl").write_text(PLAIN, encoding="utf-8")
    found = libero_pro.perturbed("libero_object_object/0")
    assert libero_pro.renamed(found, tmp_path / "plain.bddl") == ("bigger_alphabet_soup_1_main", "red_basket_1_main")
    files("libero_object_swap/0")
    found = libero_pro.perturbed("libero_object_swap/0")
    assert libero_pro.renamed(found, tmp_path / "plain.bddl") == get_task("libero_object/0").objects


def test_what_is_not_set_up_or_damaged_has_a_remedy(files, tmp_path):
    found = libero_pro.perturbed("libero_goal_task/3")
    for read in (found.starts, lambda: description("libero_goal_task/3")):
        with pytest.raises(FileNotFoundError, match="Run `action-heads setup libero-pro`"):
            read()
    files("libero_goal_task/3", "(define)", states=np.full((50, 79), np.nan))
    for read in (found.starts, lambda: description("libero_goal_task/3")):
        with pytest.raises(ValueError, match="Run `action-heads setup libero-pro --replace`"):
            read()


@pytest.mark.parametrize("kind", libero_pro.KINDS)
def test_demonstrations_are_recorded_on_libero_alone(kind):
    name = f"libero_spatial_{kind}/2"
    for begin in (lambda: RecordConfig(name, Path("there")), lambda: record(name, 1)):
        with pytest.raises(ValueError, match=rf"{name} is one of LIBERO-PRO, .* Record libero_spatial/2"):
            begin()


needs_scenes = pytest.mark.skipif(
    find_spec("libero") is None or not libero_pro.home().is_dir(), reason="needs LIBERO and `setup libero-pro`"
)


@needs_scenes
@pytest.mark.slow
@pytest.mark.parametrize("kind", libero_pro.KINDS)
@pytest.mark.parametrize("base", ["libero_object/0", "libero_goal/7", "libero_spatial/4", "libero_10/4"])
def test_a_perturbed_scene_starts_from_its_own_states(kind, base):
    name = base.replace("/", f"_{kind}/")
    sim = make(name)
    first, second = sim.reset(0), sim.reset(1)
    assert first.shape == (get_task(name).observation_size,)
    assert np.isfinite(first).all()
    assert len(sim.init_states) == 50
    assert np.abs(first - second).max() > 1e-4
    assert not sim.success()
    assert sim.language == description(name)
    sim.close()


@needs_scenes
@pytest.mark.slow
def test_with_other_places_the_task_is_the_same():
    """The expert of LIBERO's task solves it, since it looks where things are."""
    sim = make("libero_object_swap/1")
    assert run_expert(sim, seed=0).success
    sim.close()
