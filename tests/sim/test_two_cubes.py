"""Two cubes and an instruction: the words alone say which cube to lift."""

import json
from importlib.util import find_spec
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from action_heads_lab.policies import actor
from action_heads_lab.sim import make, rollout
from action_heads_lab.sim.arm import Arm
from action_heads_lab.sim.dataset import save_dataset
from action_heads_lab.sim.observations import STATE, Sight
from action_heads_lab.sim.record import run_expert, together
from action_heads_lab.sim.rollout_worker import Play
from action_heads_lab.sim.tasks import description
from action_heads_lab.sim.two_cubes import APART, ASIDE, CUBES, SENTENCES, colour, instruction, other

pytestmark = pytest.mark.sim
RED, GREEN = 30_000, 30_001


@pytest.fixture(scope="module")
def sim():
    sim = make("two_cubes")
    yield sim
    sim.close()


@pytest.fixture(scope="module")
def episodes(sim):
    """Return the expert's episodes for both cubes, as one recording."""
    return [run_expert(sim, seed) for seed in (RED, GREEN)]


def test_every_sentence_is_said_of_both_cubes():
    said = {instruction(seed) for seed in range(2 * len(SENTENCES))}
    assert said == {sentence.format(name) for sentence in SENTENCES for name in CUBES}
    assert all(colour(seed) in instruction(seed).split() for seed in range(20))
    assert description("two_cubes", GREEN) == instruction(GREEN)


def test_the_other_instruction_names_the_other_cube():
    assert other("lift the red cube") == "lift the green cube"
    assert all(other(other(instruction(seed))) == instruction(seed) != other(instruction(seed)) for seed in range(8))
    for sentence in ("lift the cube", "put the red cube onto the green one", "lift the reddish cube"):
        with pytest.raises(ValueError, match="must name one cube"):
            other(sentence)


def test_the_expert_lifts_the_named_cube(episodes):
    assert all(episode.success for episode in episodes)


def motion(sim, name):
    """Return the expert's actions (t, 10) for the cube of a colour in the episode of RED, whatever it names."""
    actions = []

    def execute(action):
        actions.append(action)
        sim.step(action)

    sim.reset(RED)
    sim.named = name
    sim.task.expert(Arm(sim, execute, 300))
    return np.array(actions)


@pytest.mark.parametrize("name", CUBES)
def test_the_other_cube_does_not_count(sim, name):
    """The same motion is a success for one instruction and a failure for the other."""
    motion(sim, name)
    assert (sim.success(), sim.failed()) == (True, False)
    sim.named = next(other for other in CUBES if other != name)
    assert (sim.success(), sim.failed()) == (False, True)


def test_positions_do_not_tell_which_cube(sim):
    """The named cube is left or right about as often for either colour, and no two starts are the same."""
    seeds = range(24)
    observed = np.stack([sim.reset(seed) for seed in seeds])
    red, green = observed[:, 11:14], observed[:, 23:26]
    distance = np.abs(red[:, 1] - green[:, 1])
    assert (distance > APART - 2 * ASIDE - 1e-3).all(), "fingers fit between the cubes"
    assert np.ptp(distance) > 0.03
    left = red[:, 1] > green[:, 1]
    for named in CUBES:
        mine = [seed for seed in seeds if colour(seed) == named]
        assert 0.2 < left[mine].mean() < 0.8
    assert np.array_equal(sim.reset(0), observed[0])


@pytest.mark.slow
@pytest.mark.skipif(find_spec("lerobot") is None, reason="needs the extra lerobot")
def test_a_recording_has_the_instruction_of_every_episode(episodes, tmp_path):
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    folder = save_dataset(together(episodes, "two_cubes", 0.0), tmp_path / "cubes")
    dataset: Any = LeRobotDataset("local/cubes", root=folder)
    said = [dataset[int(end) - 1]["task"] for end in np.cumsum([len(episode.action) for episode in episodes])]
    assert said == [instruction(RED), instruction(GREEN)]
    assert json.loads((folder / "meta/recording.json").read_text())["task"] == "two_cubes"


@pytest.mark.parametrize("name", CUBES)
def test_an_episode_gives_the_words_and_ends_when_either_cube_is_lifted(sim, name):
    """An episode of RED is a success if the red cube is lifted, and has failed early if the green one is."""
    actions = motion(sim, name)
    play = Play(sim, sim.task.rollout_steps, Sight((STATE,), steps=2))
    report = play.start(RED)
    assert report.cond["state"].shape == (2, sim.task.observation_size)
    assert report.cond["instruction"].tolist() == 2 * [instruction(RED)]
    report = play.act(actions)
    assert (report.success, report.failed, report.done) == (name == "red", name != "red", True)
    assert report.length < sim.task.rollout_steps


@pytest.mark.slow
def test_rollouts_count_the_other_cube_as_failed(sim):
    actions = motion(sim, "green")[None]

    def replay(observed):
        (n,) = {len(observed["state"]), len(observed["instruction"])}
        return np.repeat(actions, n, axis=0)

    outcome = rollout("two_cubes", replay, [RED], len(actions[0]), workers=1, progress=False, sight=Sight((STATE,)))
    assert (outcome.success.tolist(), outcome.failed.tolist()) == ([False], [True])


def test_the_policy_reads_the_instruction_of_each_episode():
    """An actor encodes every episode's own words, after `say` has changed them."""
    read = []
    policy = Mock(device=torch.device("cpu"))
    policy.encode.side_effect = lambda images, state, tasks: (read.append((set(images), tasks)), None)
    observed = {
        "state": np.zeros((2, 1, 35)),
        "instruction": np.array([["lift the red cube"], ["raise the green one"]]),
    }
    actor(policy, "the task", torch.Generator(), say=other)(observed)
    assert read == [(set(), ["lift the green cube", "raise the red one"])]
    assert "instruction" in observed, "the observations of the caller are unchanged"
