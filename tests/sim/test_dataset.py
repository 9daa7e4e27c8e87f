import dataclasses
import json
import sys
from importlib.util import find_spec

import numpy as np
import pytest
from action_heads_lab.sim import Demonstrations
from action_heads_lab.sim import dataset as module
from action_heads_lab.sim.dataset import RecordConfig, delta, record_dataset, save_dataset
from action_heads_lab.sim.frames import rotation_to_6d, turn_z
from action_heads_lab.sim.record import SEEDS
from action_heads_lab.sim.tasks import description, get_task
from forked import inside

from action_heads.io import drafts, locks

pytestmark = pytest.mark.sim
needs_lerobot = pytest.mark.skipif(find_spec("lerobot") is None, reason="needs the lerobot extra")


@pytest.fixture
def demonstrations(lift_episode):
    """Return demonstrations with the same episode twice."""
    n = len(lift_episode.action)
    return Demonstrations(
        observation=np.tile(lift_episode.observation, (2, 1)),
        action=np.tile(lift_episode.action, (2, 1)),
        joint_position=np.tile(lift_episode.joint_position, (2, 1)),
        episode_length=np.array([n, n]),
        seed=np.array([lift_episode.seed] * 2),
        task="Lift",
        noise=0.0,
    )


def test_delta_is_what_lies_between_pose_and_target():
    observation = np.concatenate([[0.5, 0.1, 0.2], rotation_to_6d(turn_z(0.3)), [0.04, -0.04]]).astype(np.float32)
    action = np.concatenate([[0.52, 0.1, 0.17], rotation_to_6d(turn_z(0.5)), [1.0]]).astype(np.float32)
    np.testing.assert_allclose(delta(action, observation), [0.02, 0, -0.03, 0, 0, 0.2, 1.0], atol=1e-6)


@needs_lerobot
def test_our_reader_and_lerobots_give_back_what_was_recorded(demonstrations, tmp_path):
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    from action_heads.data.lerobot import LeRobot
    from action_heads.data.spec import Spec

    folder = save_dataset(demonstrations, tmp_path / "lift")
    assert [path.name for path in tmp_path.iterdir()] == ["lift"], "a draft was left behind"
    source = LeRobot(Spec.parse(f"lerobot:{folder}"))
    assert source.schema.name == "robosuite"
    episodes = [raw for shard in source.shards() for raw in shard]
    assert len(episodes) == 2
    n = int(demonstrations.episode_length[0])
    for raw, rows in zip(episodes, (slice(0, n), slice(n, 2 * n)), strict=True):
        np.testing.assert_array_equal(raw.joints, demonstrations.joint_position[rows])
        np.testing.assert_array_equal(raw.position, demonstrations.observation[rows, :3])
        np.testing.assert_array_equal(raw.gripper, demonstrations.action[rows, 9])
    theirs = LeRobotDataset("local/lift", root=folder)
    assert theirs.fps == 20
    np.testing.assert_array_equal(theirs[n + 3]["action"].numpy(), demonstrations.action[n + 3])
    np.testing.assert_array_equal(theirs[5]["observation.state"].numpy(), demonstrations.observation[5])
    assert json.loads((folder / "meta/recording.json").read_text())["rendering"] is None
    with pytest.raises(FileExistsError, match=r"[Uu]se another folder"):
        save_dataset(demonstrations, folder)


@needs_lerobot
def test_motion_agrees_with_the_arms_own_kinematics(demonstrations, tmp_path):
    """The reader accepts the recording, so its poses agree with its joints."""
    import torch

    from action_heads.pretrain import data

    folder = save_dataset(demonstrations, tmp_path / "lift")
    mixed = data.Mixture([f"lerobot:{folder}"], steps=16)
    poses, _ = mixed(4, torch.Generator().manual_seed(0))
    assert poses.shape == (4, 16, 10)


@needs_lerobot
@pytest.mark.slow
def test_images_belong_to_their_steps(demonstrations, lift_episode, tmp_path):
    from action_heads_lab.sim import make
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    cameras = ("agentview", "robot0_eye_in_hand")
    folder = save_dataset(demonstrations, tmp_path / "lift", cameras=cameras, size=32)
    item = LeRobotDataset("local/lift", root=folder)[4]
    assert item["observation.images.robot0_eye_in_hand"].shape == (3, 32, 32)
    assert json.loads((folder / "meta/recording.json").read_text())["rendering"]["shadows"] is False
    sim = make("Lift", render=True)
    sim.reset(lift_episode.seed)
    for action in lift_episode.action[:4].astype(float):
        sim.step(action)
    expected = sim.render(32, "agentview").transpose(2, 0, 1) / 255
    assert np.abs(item["observation.images.agentview"].numpy() - expected).mean() < 0.01
    sim.close()


def test_without_lerobot_the_error_names_the_extra(demonstrations, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "lerobot.datasets.lerobot_dataset", None)
    monkeypatch.setitem(sys.modules, "lerobot", None)
    with pytest.raises(ImportError, match=r"action-heads\[lerobot\]"):
        save_dataset(demonstrations, tmp_path / "lift")


@needs_lerobot
class TestTheCommand:
    """`action-heads record` with a recording that exists already."""

    @pytest.fixture
    def recorded(self, demonstrations, monkeypatch):
        """Count the recordings."""
        calls, seeds = [], SEEDS + np.arange(2)

        def record(task, demos, seed, workers, path):
            calls.append(path)
            made = dataclasses.replace(demonstrations, seed=seeds, noise=get_task(task).noise)
            made.save(path)
            return made

        monkeypatch.setattr(module, "record", record)
        return calls

    def test_done_again_it_is_read_back_and_another_is_refused_before_it_is_recorded(self, recorded, tmp_path, capsys):
        config = RecordConfig("Lift", tmp_path / "lift", demos=2)
        record_dataset(config)
        assert [path.name for path in tmp_path.iterdir()] == ["lift"]
        (tmp_path / ".lift.npz").touch()  # as if the run was killed before it removed the file
        record_dataset(config)
        assert "already holds this recording" in capsys.readouterr().out
        assert [path.name for path in tmp_path.iterdir()] == ["lift"]
        for changes in ({"demos": 3}, {"seed": 1}, {"task": "Stack"}, {"cameras": ("agentview",)}):
            with pytest.raises(FileExistsError, match=r"holds something else\. Use another folder"):
                record_dataset(dataclasses.replace(config, **changes))
        (tmp_path / "mine").mkdir()
        with pytest.raises(FileExistsError, match=r"[Uu]se another folder"):
            record_dataset(dataclasses.replace(config, out=tmp_path / "mine"))
        assert len(recorded) == 1

    def test_of_two_at_once_one_is_refused(self, recorded, tmp_path):
        config = RecordConfig("Lift", tmp_path / "lift", demos=2)
        with inside(lambda: locks.held_beside(config.out)), pytest.raises(locks.InUse, match="give another --out"):
            record_dataset(config)
        assert not recorded

    def test_drafts_of_killed_runs_are_removed(self, recorded, tmp_path):
        def killed():
            return drafts.drafted(tmp_path / "lift")

        with inside(killed):
            pass
        assert len(list(tmp_path.iterdir())) == 1
        record_dataset(RecordConfig("Lift", tmp_path / "lift", demos=2))
        assert [path.name for path in tmp_path.iterdir()] == ["lift"]


@needs_lerobot
def test_several_recordings_are_one_dataset(demonstrations, tmp_path):
    folder = save_dataset([demonstrations, demonstrations], tmp_path / "both")
    told = json.loads((folder / "meta/recording.json").read_text())
    assert [one["task"] for one in told] == ["Lift", "Lift"]
    assert json.loads((folder / "meta/info.json").read_text())["total_episodes"] == 4


def test_libero_s_tasks_are_told_by_their_sentence():
    assert description("libero_object/6") == "pick up the butter and place it in the basket"
    assert description("Lift") == "Lift"
