"""Recordings with cameras separate arm and objects, and policies trained on them do not observe the objects' poses.

Axes: t steps of an episode, o numbers of an observation.
"""

from __future__ import annotations

import json
from importlib.util import find_spec

import numpy as np
import pytest
from action_heads_lab.sim import Demonstrations, dataset
from action_heads_lab.sim.observations import ARM, Sight, is_apart, shown
from action_heads_lab.sim.tasks import TASKS

pytestmark = pytest.mark.sim
needs_lerobot = pytest.mark.skipif(find_spec("lerobot") is None, reason="needs the lerobot extra")
STATE, ENVIRONMENT = "observation.state", "observation.environment_state"


def recorded(episode, task="Lift") -> Demonstrations:
    return Demonstrations(
        observation=episode.observation,
        action=episode.action,
        joint_position=episode.joint_position,
        episode_length=np.array([len(episode.action)]),
        seed=np.array([episode.seed]),
        task=task,
        noise=0.0,
    )


@pytest.fixture
def blind(monkeypatch):
    """Return blank images, which cost nothing."""

    def images(demonstrations, workers, build, task, cameras, size):
        for count in demonstrations.episode_length:
            yield {f"observation.images.{name}": np.zeros((count, size, size, 3), np.uint8) for name in cameras}

    monkeypatch.setattr(dataset, "run_again", images)


@needs_lerobot
def test_with_cameras_the_state_is_the_arm_alone(lift_episode, blind, tmp_path):
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    made = recorded(lift_episode)
    folder = dataset.save_dataset(made, tmp_path / "lift", cameras=("agentview",), size=32)
    features = json.loads((folder / "meta/info.json").read_text())["features"]
    assert features[STATE]["shape"] == [ARM]
    assert features[ENVIRONMENT]["shape"] == [TASKS["Lift"].observation_size - ARM]
    for name in (STATE, ENVIRONMENT, "observation.joint_position", "observation.eef", "observation.gripper"):
        assert len(features[name]["names"]) == features[name]["shape"][0], name
    assert not any("cube" in name for name in features[STATE]["names"])
    assert all(name.startswith("cube_main.") for name in features[ENVIRONMENT]["names"])
    item = LeRobotDataset("local/lift", root=folder)[3]
    np.testing.assert_array_equal(item[STATE], made.observation[3, :ARM])
    np.testing.assert_array_equal(item[ENVIRONMENT], made.observation[3, ARM:])


@needs_lerobot
def test_without_cameras_the_state_is_all_that_policies_on_states_need(lift_episode, tmp_path):
    folder = dataset.save_dataset(recorded(lift_episode), tmp_path / "lift")
    features = json.loads((folder / "meta/info.json").read_text())["features"]
    assert features[STATE]["shape"] == [TASKS["Lift"].observation_size]
    assert len(features[STATE]["names"]) == TASKS["Lift"].observation_size
    assert ENVIRONMENT not in features


@pytest.mark.parametrize("state", [(STATE,), ("observation.eef", "observation.gripper"), (STATE, "observation.eef")])
def test_where_objects_are_changes_nothing_that_is_shown(lift, state):
    """A policy that observes only the arm does not notice when the cube is moved."""
    lift.reset(3)
    sight = Sight(state=state, apart=True)
    before, whole = sight.look(lift)["state"], Sight(state=(STATE,)).look(lift)["state"]
    joint = lift.mujoco.model.joint_name2id("cube_joint0")
    lift.mujoco.data.qpos[lift.mujoco.model.jnt_qposadr[joint]] += 0.05
    lift.mujoco.forward()
    np.testing.assert_array_equal(sight.look(lift)["state"], before)
    assert np.abs(Sight(state=(STATE,)).look(lift)["state"] - whole).max() > 0.04
    beside = Sight(state=(STATE, ENVIRONMENT), apart=True).look(lift)["state"]
    np.testing.assert_array_equal(beside, Sight(state=(STATE,)).look(lift)["state"])


@pytest.mark.parametrize("task", ["Lift", "Stack", "Lift@UR5e", "coffee_d2"])
@pytest.mark.parametrize("others", [(), ("observation.eef",), ("observation.joint_position", "observation.gripper")])
def test_old_and_new_recordings_are_told_apart_by_their_width(task, others):
    for apart in (True, False):
        for state in ((STATE, *others), (*others, STATE)):
            assert is_apart(state, shown(task, state, apart)) == apart
    assert is_apart((STATE, ENVIRONMENT), shown(task, (STATE, ENVIRONMENT), True))
    assert not is_apart(others, 11)


def test_what_is_shown_has_the_width_that_is_told(lift):
    lift.reset(3)
    for state in ((STATE,), (STATE, ENVIRONMENT), ("observation.joint_position", "observation.eef")):
        for apart in (True, False):
            assert len(Sight(state=state, apart=apart).look(lift)["state"]) == shown("Lift", state, apart)


@needs_lerobot
@pytest.mark.parametrize("cameras", [("agentview",), ()])
def test_adapt_and_rollouts_use_the_recording_s_columns(lift_episode, blind, tmp_path, cameras, monkeypatch):
    from action_heads_lab.adapted import check_task
    from action_heads_lab.policies import sight_of

    from action_heads.adapt.build import build
    from action_heads.adapt.settings import AdaptConfig

    folder = dataset.save_dataset(recorded(lift_episode), tmp_path / "lift", cameras=cameras, size=32)
    for state, apart in ((("observation.state",), bool(cameras)), ((STATE, ENVIRONMENT), True), ((), False)):
        if ENVIRONMENT in state and not cameras:
            continue
        given = {"data": f"lerobot:{folder}", "out": tmp_path / "run", "encoder": "none", "task": "Lift"}
        config = AdaptConfig.from_flat(given | {"state": state})
        policy = build(config).policy
        check_task(config, policy)
        sight = sight_of(policy)
        assert sight.apart == (apart if state else bool(cameras))
        assert policy.encoder.config.state_dim == shown("Lift", policy.contract.state, sight.apart)
        if policy.contract.state == (STATE,) and not apart:
            with pytest.raises(ValueError, match=r"observes 23 numbers, observation\.state, but .* Stack provides 35"):
                check_task(AdaptConfig.from_flat(given | {"task": "Stack"}), policy)


@pytest.mark.parametrize("cameras", [("agentview",), ()])
def test_policies_on_our_hdf5_are_rolled_out_as_those_on_our_datasets(lift_episode, blind, tmp_path, cameras):
    """Without --state too: neither the names of cameras nor those of actions tell our files from robomimic's."""
    from action_heads_lab.adapted import check_task
    from action_heads_lab.policies import sight_of

    from action_heads.adapt.build import build
    from action_heads.adapt.settings import AdaptConfig
    from action_heads.data import Spec
    from action_heads.data.formats import open_recording

    path = dataset.save_dataset(recorded(lift_episode), tmp_path / "lift.hdf5", cameras=cameras, size=32)
    given = {"data": f"robomimic:{path}", "out": tmp_path / "run", "encoder": "none", "task": "Lift"}
    policy = build(config := AdaptConfig.from_flat(given)).policy
    check_task(config, policy)
    sight = sight_of(policy)
    assert (sight.dialect, sight.apart) == ("own", bool(cameras))
    assert sight.state == ((STATE, ENVIRONMENT) if cameras else (STATE,))
    recording = open_recording(Spec.parse(given["data"]))
    assert recording.default_state(with_images=True) == ("observation.eef", "observation.gripper")
