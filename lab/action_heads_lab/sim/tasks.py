"""The tasks: one row each. A new robosuite task is an expert in `experts.py` and a row here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from action_heads._util.names import nearest
from action_heads_lab.sim import experts

ROBOTS = ("Panda", "UR5e")  # robosuite's names of its arms; both hold the Panda's gripper


@dataclass(frozen=True)
class Task:
    """What the rest of the package needs to know of one robosuite environment. Steps are at 20 Hz."""

    name: str  # robosuite's name of the environment
    objects: tuple[str, ...]  # MuJoCo bodies that move and matter: they are what the observation tells
    expert: Callable  # expert(arm) drives an `Arm` through the task
    expert_steps: int  # an expert that needs more has failed
    rollout_steps: int  # a policy that needs more has failed; roughly twice what the expert takes
    noise: float  # execution noise of `record`, as a fraction of the largest step of the expert (see record.py)
    suite: str = "robosuite"  # or mimicgen, libero: what brings the environment
    robot: str = "Panda"  # or another of ROBOTS, in robosuite's own environments

    @property
    def observation_size(self) -> int:
        """o: TCP position 3, rotation 6, fingers 2; each object position 3, rotation 6, position from the TCP 3."""
        return 11 + 12 * len(self.objects)


def _pick_place(item: str, height: float, across: float | None) -> Task:
    expert = partial(experts.pick_place, item=item, height=height, across=across)
    return Task(f"PickPlace{item}", (f"{item}_main",), expert, expert_steps=400, rollout_steps=400, noise=0.3)


def _nut(shape: str, peg: str, sides: int) -> Task:
    expert = partial(experts.nut_assembly, nut=f"{shape}Nut", peg=peg, sides=sides)
    return Task(f"NutAssembly{shape}", (f"{shape}Nut_main",), expert, expert_steps=400, rollout_steps=400, noise=0.2)


TASKS = {
    task.name: task
    for task in (
        Task("Lift", ("cube_main",), experts.lift, expert_steps=300, rollout_steps=120, noise=0.3),
        Task("Stack", ("cubeA_main", "cubeB_main"), experts.stack, expert_steps=300, rollout_steps=250, noise=0.4),
        # height (m): how far above its centre an object is grasped. across: the heading of the fingers relative to
        # the object's x axis, along its thin side; None for round objects, which are grasped as the hand comes.
        _pick_place("Can", height=0.02, across=None),
        _pick_place("Milk", height=0.04, across=0.0),
        _pick_place("Bread", height=0.00, across=0.0),
        _pick_place("Cereal", height=0.05, across=1.5708),
        _nut("Square", peg="peg1", sides=4),
        _nut("Round", peg="peg2", sides=0),
    )
}


def description(name: str) -> str:
    """What a task is called in recordings, for who reads language: on LIBERO its sentence, elsewhere its name."""
    task = get_task(name)
    return task.name.replace("_", " ") if task.suite == "libero" else name


def get_task(name: str) -> Task:
    """Of robosuite, MimicGen or LIBERO; robosuite's also on another of ROBOTS, as "Lift@UR5e"."""
    plain, at, robot = name.partition("@")
    if plain in TASKS:
        if at and robot not in ROBOTS:
            near = nearest(robot, ROBOTS)
            raise ValueError(f"unknown robot {robot!r} in the task {name!r}{near}; known robots: {', '.join(ROBOTS)}")
        return replace(TASKS[plain], robot=robot) if at else TASKS[plain]
    from action_heads_lab.sim import libero, mimicgen  # they are built on this file

    others = mimicgen.TASKS | libero.TASKS
    if name not in others:
        near = nearest(name, [*TASKS, *others])
        raise ValueError(f"unknown task {name!r}{near}; known tasks: {', '.join([*TASKS, *others])}")
    return others[name]
