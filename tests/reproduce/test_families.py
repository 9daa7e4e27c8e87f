from dataclasses import replace
from threading import Thread

import numpy as np
import pytest
import torch
from action_heads_lab.reproduce import assets, families, paper
from action_heads_lab.reproduce.config import Place, Run
from action_heads_lab.reproduce.families import FAMILIES, Family, Libero, save_motion
from action_heads_lab.reproduce.heads import stage1
from action_heads_lab.setup.trees import git_hash
from action_heads_lab.sim.demonstrations import Demonstrations
from action_heads_lab.sim.tasks import get_task
from forked import inside

from action_heads.pretrain import data

HOME = np.array([0.0, 0.2, 0.0, -2.6, 0.0, 2.9, 0.8], np.float32)  # rad, robosuite's Panda at reset


def recording(task="Lift", observation=5, steps=30) -> Demonstrations:
    """Return two episodes in which the arm turns about its base."""
    joints = np.tile(HOME, (2 * steps, 1))
    joints[:, 0] += np.linspace(0, 0.5, 2 * steps, dtype=np.float32)
    return Demonstrations(
        observation=np.ones((2 * steps, observation), np.float32),
        action=np.tile(np.where(np.arange(10) == 9, 1, 0).astype(np.float32), (2 * steps, 1)),
        joint_position=joints,
        episode_length=np.array([steps, steps]),
        seed=np.array([10_000, 10_001]),
        task=task,
        noise=0.0,
    )


def test_own_motion_is_data_for_stage_1(tmp_path):
    one = recording()
    save_motion([one, one], tmp_path / "own.npz")
    mixed = data.Mixture([f"npz:{tmp_path / 'own.npz'}?rate=native"], steps=16)
    poses, joints = mixed(8, torch.Generator().manual_seed(0))
    assert poses.shape == (8, 16, 10)
    assert torch.allclose(joints[..., 1:], torch.from_numpy(HOME[1:]).expand(8, 16, 6), atol=1e-5)
    assert (poses[..., 9] == 1).all(), "closed throughout"


def test_a_head_of_own_motion_names_its_file_and_records_nothing_yet(tmp_path):
    config = stage1(Run(stage1=("own",), demos=7), tmp_path)
    assert config
    assert config.sources == (f"npz:{tmp_path}/recordings/robosuite-7.npz?rate=native",)
    assert not list(tmp_path.iterdir())
    other = stage1(Run(demos=7), tmp_path)
    assert other
    assert other.folder != config.folder


@pytest.mark.parametrize("suite", Libero.tasks)
def test_libero_is_told_its_task_and_tried_from_its_init_states(suite, tmp_path, monkeypatch):
    family, run = Libero(), Run(family="libero", task=suite, episodes=50)
    tries = family.evaluations(run)
    assert [task for task, _ in tries] == [f"{suite}/{i}" for i in range(10)]
    assert all(seeds == list(range(50)) for _, seeds in tries)
    monkeypatch.setattr(Family, "recording", lambda self, task, run, place: recording(task))
    cond, actions, is_pad = family.samples(run, Place(work=tmp_path), 16)
    assert cond.shape == (600, 2 * 5 + 10)
    assert torch.equal(cond[:, 10:].argmax(1), torch.arange(10).repeat_interleave(60))
    assert actions.shape == (600, 16, 10)
    assert is_pad.shape == (600, 16)


@pytest.mark.parametrize("suite", Libero.tasks)
def test_one_policy_fits_all_tasks_of_a_suite_within_its_published_steps(suite):
    rows = [get_task(task) for task in Libero().subtasks(Run(family="libero", task=suite))]
    assert len({row.name for row in rows}) == 10
    assert len({row.observation_size for row in rows}) == 1
    assert {row.rollout_steps for row in rows} == {paper.LIBERO[suite]}


def test_every_family_has_tasks_that_the_simulators_know():
    for name, family in FAMILIES.items():
        for task in family.tasks:
            for part in family.subtasks(Run(family=name, task=task)):
                assert get_task(part).suite == name


def test_mimicgen_is_the_papers_eight_tasks_and_limits():
    from action_heads_lab.sim import mimicgen

    assert {task: row.rollout_steps for task, row in mimicgen.TASKS.items()} == paper.MIMICGEN


@pytest.mark.parametrize("use", ["samples", "image_data", "make_motion"])
def test_demonstrations_are_recorded_by_as_many_processes_as_asked_for(use, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(families, "record", lambda task, demos, workers, path: asked.append(workers) or recording(task))
    monkeypatch.setattr(families, "save_dataset", lambda *args: asked.append(args[-1]))
    run, place = Run(task="Lift", demos=3), Place(work=tmp_path, workers=3)
    getattr(Family(), use)(run, place, *([16] if use == "samples" else []))
    assert set(asked) == {3}


@pytest.mark.parametrize("name", ["recording_path", "motion", "image_data"])
def test_recordings_with_other_assets_are_other_files(name, tmp_path, monkeypatch):
    monkeypatch.setattr(families, "save_dataset", lambda *_: None)
    monkeypatch.setattr(Libero, "recording", lambda *_: recording())
    run = Run(family="libero", task="libero_goal", observation="image")

    def path(assets: str):
        now = replace(run, assets=assets)
        if name == "recording_path":
            return Libero().recording_path("libero_goal/0", now, tmp_path)
        return Libero().motion(now, tmp_path) if name == "motion" else Libero().image_data(now, Place(work=tmp_path))

    assert path("official") == path("")
    assert len({path("official"), path("stand-in"), path("0a1b2c3d")}) == 3


@pytest.mark.parametrize("family", ["libero", "mimicgen"])
def test_the_files_of_a_benchmark_are_those_that_setup_installs_or_known_by_a_hash(family, tmp_path, monkeypatch):
    usual = families.FAMILIES[family].assets
    names = {"libero": ("wall.xml", "scenes"), "mimicgen": ("mimicgen", "robosuite_task_zoo")}[family]
    one, other = (tmp_path / name for name in names)
    one.write_text("<wall/>")
    other.mkdir()
    (other / "kitchen.xml").write_text("<kitchen/>")
    trees = {one.name: ("of another source", git_hash(one)), other.name: (git_hash(other),)}
    monkeypatch.setattr(assets, f"{family.upper()}_TREES", trees)
    monkeypatch.setattr(assets.libero_files, "package", lambda: tmp_path)
    monkeypatch.setattr(assets.libero_files, "assets", lambda root: root)
    monkeypatch.setattr(assets.mimicgen, "package", lambda name: tmp_path / name)

    def now() -> str:
        assets._hash.cache_clear()
        return families.FAMILIES[family].installed()

    (tmp_path / "custom_objects").mkdir()  # no simulation reads it
    assert now() == usual
    (other / "kitchen.xml").write_text("<kitchen color='red'/>")
    changed = now()
    one.unlink()
    assert len({usual, changed, now()}) == 3
    monkeypatch.setattr(assets.libero_files, "package", lambda: tmp_path / "nowhere")
    monkeypatch.setattr(assets.mimicgen, "package", lambda name: None)
    assert now() == usual, "which setup installs"


def test_what_another_process_makes_is_waited_for(tmp_path, monkeypatch):
    """The one that holds the lock may take it again, as `record` does inside a family's recording."""
    monkeypatch.setattr(families, "WAIT", 0.01)
    path, made = tmp_path / "recordings" / "lift.npz", []

    def make() -> None:
        with families.once(path):
            made.append("other")

    other = Thread(target=make)
    with inside(lambda: families.once(path)):
        other.start()
        other.join(0.5)
        assert other.is_alive()
        assert made == []
    other.join()
    with families.once(path), families.once(path):
        made.append("this")
    assert made == ["other", "this"]
    assert list(path.parent.iterdir()) == [], "no lock file is left"
