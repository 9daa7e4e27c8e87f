"""A recording in LIBERO's schema has the observations of `lerobot-eval --env.type=libero`, and its actions work there.

The tests with the simulator need hf-libero and its assets. Any assets do, since both sides render the same ones.
"""

from importlib.util import find_spec

import numpy as np
import pytest
import torch
from lerobot.envs.utils import preprocess_observation
from lerobot.processor import LiberoProcessorStep
from scipy.spatial.transform import Rotation

pytest.importorskip("tqdm", reason="needs the sim extra")
from action_heads_lab.sim.dataset import RecordConfig
from action_heads_lab.sim.frames import Pose
from action_heads_lab.sim.libero_dataset import CAMERAS, observed, relative, save_libero

from action_heads.actions.layouts import ActionLayout
from action_heads.actions.rotations import to_matrix

SIZE = 64
libero_only = [
    pytest.mark.sim,
    pytest.mark.slow,
    pytest.mark.skipif(
        find_spec("libero") is None or find_spec("robosuite") is None, reason="needs hf-libero and its assets"
    ),
]


def lerobots(raw: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Apply LeRobot's two steps that turn the output of its LiberoEnv into the observation of a policy."""
    eef = {"pos": raw["robot0_eef_pos"][None], "quat": raw["robot0_eef_quat"][None]}
    nested = {
        "pixels": {"image": raw["agentview_image"], "image2": raw["robot0_eye_in_hand_image"]},
        "robot_state": {"eef": eef, "gripper": {"qpos": raw["robot0_gripper_qpos"][None]}},
    }
    return as_pictures(LiberoProcessorStep().observation(preprocess_observation(nested)))


def as_pictures(seen: dict) -> dict[str, np.ndarray]:
    """Return the images (h w 3) uint8 and the state (8,) of a batch of one."""
    pictures = {name: (seen[name][0] * 255).round().byte().permute(1, 2, 0).numpy() for name in CAMERAS}
    return pictures | {"observation.state": seen["observation.state"][0].numpy()}


@pytest.mark.parametrize("seed", range(6))
def test_observations_are_lerobots(seed):
    """Every observation equals LeRobot's, for either sign of the quaternion and a hand that points straight down."""
    rng = np.random.default_rng(seed)
    quat = np.array([1.0, 0.0, 0.0, 0.0]) if seed == 0 else rng.normal(size=4)
    raw = {
        "agentview_image": rng.integers(0, 256, (5, 6, 3), np.uint8),
        "robot0_eye_in_hand_image": rng.integers(0, 256, (5, 6, 3), np.uint8),
        "robot0_eef_pos": rng.normal(size=3),
        "robot0_eef_quat": quat / np.linalg.norm(quat),
        "robot0_gripper_qpos": rng.normal(size=2),
    }
    ours, theirs = observed(raw), lerobots(raw)
    assert set(ours) == set(theirs)
    for name in CAMERAS:
        np.testing.assert_array_equal(ours[name], theirs[name])
    np.testing.assert_allclose(
        ours["observation.state"], theirs["observation.state"], atol=1e-5
    )  # LeRobot's are in float32


def test_actions_are_what_a_head_reads_of_them():
    """A recorded command, read as `--policy.action_layout=libero`, is a motion in metres and a turn about base axes."""
    now = Pose(np.array([0.4, 0.1, 0.2]), Rotation.from_rotvec([3.0, 0.2, 0.1]).as_matrix())
    target = Pose(now.p + np.array([0.01, -0.02, 0.04]), Rotation.from_rotvec([0.1, -0.2, 0.3]).as_matrix() @ now.R)
    command = relative(now, target, 1.0)
    head = ActionLayout.parse("libero").encode(torch.as_tensor(command))
    np.testing.assert_allclose(head[:3].numpy(), target.p - now.p, atol=1e-6)
    np.testing.assert_allclose(to_matrix(head[3:9], "6d").numpy() @ now.R, target.R, atol=1e-5)
    assert head[9] == 1
    far = relative(now, Pose(now.p + 1.0, now.R), -1.0)
    np.testing.assert_array_equal(far, [1, 1, 1, 0, 0, 0, -1])


def test_the_schema_is_of_liberos_tasks(tmp_path):
    RecordConfig("libero_object/3", tmp_path, schema="libero")
    with pytest.raises(ValueError, match="Use libero_object/0"):
        RecordConfig("Lift", tmp_path, schema="libero")
    with pytest.raises(ValueError, match="leave --cameras out"):
        RecordConfig("libero_object/3", tmp_path, schema="libero", cameras=("agentview",))


class Theirs:
    """The environment and processors of `lerobot-eval --env.type=libero`, on the first task of LIBERO-Object."""

    def __init__(self, control_mode: str):
        from lerobot.envs.configs import LiberoEnv
        from lerobot.envs.factory import make_env

        sizes = {"observation_height": SIZE, "observation_width": SIZE}
        config = LiberoEnv(task="libero_object", task_ids=[0], control_mode=control_mode, **sizes)
        self.env = make_env(config, n_envs=1)["libero_object"][0]
        self.task = self.env.call("task_description")[0]
        self.processor, _ = config.get_env_processors()

    def reset(self) -> dict[str, np.ndarray]:
        return self.seen(self.env.reset(seed=[0])[0])

    def step(self, command: np.ndarray) -> tuple[dict[str, np.ndarray], bool]:
        observation, _, terminated, _, _ = self.env.step(np.asarray(command)[None])
        return self.seen(observation), bool(terminated[0])

    def seen(self, observation) -> dict[str, np.ndarray]:
        return as_pictures(self.processor(preprocess_observation(observation)))


def apart(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> tuple[float, float]:
    """Return the largest difference of the states, and the mean difference of the images in grey levels."""
    pictures = [np.abs(ours[name].astype(int) - theirs[name]).mean() for name in CAMERAS]
    return float(np.abs(ours["observation.state"] - theirs["observation.state"]).max()), float(max(pictures))


@pytest.fixture(scope="module")
def prepared():
    from action_heads_lab.sim import libero, libero_files
    from action_heads_lab.sim.contexts import prepare

    prepare()
    libero_files.check()
    return libero


@pytest.mark.usefixtures("prepared")
class TestInLibero:
    pytestmark = libero_only

    def test_the_same_state_is_seen_alike(self, prepared):
        """Observations agree at an init state after settling, and while the arm follows the same absolute targets."""
        ours, theirs = prepared.make("libero_object/0", pixels=SIZE), Theirs("absolute")
        ours.reset(0)
        seen = theirs.reset()
        before = observed(ours.raw())
        assert apart(before, seen)[0] < 1e-4
        assert apart(before, seen)[1] < 0.5
        for _ in range(5):
            site, tcp = ours.controlled, ours.tcp
            move = np.array([0.02, 0.03, -0.01])
            ours.step(np.concatenate([tcp.p + move, tcp.R[:2].reshape(6), [1.0]]))
            turn = Rotation.from_matrix(site.R).as_rotvec()
            after, (seen, _) = observed(ours.raw()), theirs.step(np.concatenate([site.p + move, turn, [1.0]]))
            assert apart(after, seen)[0] < 1e-4
            assert apart(after, seen)[1] < 0.5
            assert apart(before, seen)[0] > 1e-3, "a step too late would go unnoticed"
            before = after
        ours.close()
        theirs.env.close()

    def test_replayed_in_lerobots_environment_it_succeeds_and_looks_as_recorded(self, prepared, tmp_path):
        """Recorded relative commands, executed without feedback from the same start, succeed in LeRobot's environment.

        Images are compared at the start. States are compared throughout, within less than the length of a step (13 mm),
        since execution without feedback drifts by about 3 mm: the recorded targets are absolute, and relate to a pose
        2 ms older than the one that the commands start from.
        """
        from action_heads_lab.sim import Demonstrations
        from action_heads_lab.sim.record import run_expert
        from lerobot.datasets.lerobot_dataset import LeRobotDataset

        sim = prepared.make("libero_object/0")
        episode = run_expert(sim, seed=0)
        sim.close()
        assert episode.success
        recorded = {name: getattr(episode, name) for name in ("observation", "action", "joint_position")}
        whole = {"episode_length": np.array([len(episode.action)]), "seed": np.array([0])}
        demonstrations = Demonstrations(**recorded, **whole, task="libero_object/0", noise=0.0)
        dataset = LeRobotDataset("local/soup", root=save_libero(demonstrations, tmp_path / "soup", size=SIZE))

        theirs = Theirs("relative")
        seen, done, off = theirs.reset(), False, []
        assert dataset[0]["task"] == theirs.task
        for t in range(len(dataset)):
            step = as_pictures({name: value[None] for name, value in dataset[t].items() if hasattr(value, "ndim")})
            off.append(apart(step, seen))
            seen, done = theirs.step(dataset[t]["action"].numpy())
            if done:
                break
        theirs.env.close()
        assert done, "the replayed demonstration does not succeed"
        assert off[0][0] < 1e-4
        assert off[0][1] < 0.5
        assert max(state for state, _ in off) < 0.01
