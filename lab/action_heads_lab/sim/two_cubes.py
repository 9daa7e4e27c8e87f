"""A red and a green cube on a table, and an instruction that says which one to lift.

The scene is that of robosuite's Stack. One cube lies on the left and one on the right, each in a square of 6 cm, and
the sides are random. The instruction of an episode, like its start, follows from its seed: seeds alternate between the
two cubes, and go through the sentences.
"""

from __future__ import annotations

import numpy as np

from action_heads_lab.sim import experts
from action_heads_lab.sim.arm import Arm
from action_heads_lab.sim.envs import Sim
from action_heads_lab.sim.task import Task

CUBES = {"red": "cubeA_main", "green": "cubeB_main"}
SENTENCES = ("lift the {} cube", "pick up the {} block", "raise the {} one", "grab the {} cube and lift it")
APART = 0.14  # m between the middles of the two squares
ASIDE, TURNED = 0.03, 0.3  # m and rad: how far a cube is at most off the middle and the heading of its square
LIFTED = 0.03  # m: how far a cube has to rise from where it rests


def colour(seed: int) -> str:
    """Return the colour of the cube that the episode of `seed` is about: red or green."""
    return list(CUBES)[seed % len(CUBES)]


def instruction(seed: int) -> str:
    """Return the instruction of the episode of `seed`."""
    return SENTENCES[seed // len(CUBES) % len(SENTENCES)].format(colour(seed))


def other(sentence: str) -> str:
    """Return the same instruction for the other cube.

    Raises:
        ValueError: the sentence does not name exactly one of the two colours.
    """
    named = [name for name in CUBES if name in sentence.split()]
    if len(named) != 1:
        raise ValueError(f"the instruction {sentence!r} must name one cube, by one of the words {', '.join(CUBES)}")
    return sentence.replace(named[0], next(name for name in CUBES if name != named[0]))


class TwoCubesSim(Sim):
    """A `Sim` that is solved when the named cube is lifted, and has failed once the other one is."""

    named: str  # the colour of the cube to lift

    def reset(self, seed: int) -> np.ndarray:
        """Start the episode of `seed`, and return the observation (o,)."""
        self.named, self.instruction = colour(seed), instruction(seed)
        return super().reset(seed)

    def _restart(self, seed: int) -> None:
        super()._restart(seed)
        rng, cubes = np.random.default_rng(seed), [self.env.cubeA, self.env.cubeB]
        rng.shuffle(cubes)
        for cube, side in zip(cubes, (-APART / 2, APART / 2), strict=True):
            x, y = rng.uniform(-ASIDE, ASIDE, 2)
            place = self.env.table_offset + np.array([x, y + side, cube.size[2]])
            turn = rng.uniform(-TURNED, TURNED) / 2
            quaternion = [np.cos(turn), 0, 0, np.sin(turn)]  # w x y z
            self.env.sim.data.set_joint_qpos(cube.joints[0], np.concatenate([place, quaternion]))
        self.env.sim.forward()

    def lifted(self, name: str) -> bool:
        """Return whether the cube of a colour is lifted."""
        half = self.env.cubeA.size[2] if name == "red" else self.env.cubeB.size[2]
        return bool(self._body(CUBES[name]).p[2] > self.env.table_offset[2] + half + LIFTED)

    def success(self) -> bool:
        """Return whether the named cube is lifted."""
        return self.lifted(self.named)

    def failed(self) -> bool:
        """Return whether the other cube is lifted."""
        return any(self.lifted(name) for name in CUBES if name != self.named)


def lift_named(arm: Arm) -> None:
    """Lift the named cube."""
    experts.lift(arm, CUBES[arm.sim.named])


TASKS = {
    "two_cubes": Task(
        "Stack",
        tuple(CUBES.values()),
        lift_named,
        expert_steps=300,
        rollout_steps=120,
        noise=0.3,
        suite="two_cubes",
        instruction=instruction,
    )
}
