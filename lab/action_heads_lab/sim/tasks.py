"""Tasks of robosuite, one row each, and how any task is found by its name.

A new task of robosuite needs an expert in `experts.py` and a row here. The other suites have tables of their own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from functools import partial

from action_heads._util.names import nearest
from action_heads_lab.sim import experts, libero_pro, libero_tasks, mimicgen, two_cubes
from action_heads_lab.sim.task import Task

# Seeds of rollouts are below the number of starts that recordings do not use. On LIBERO these are its init states.
STARTS, INIT_STATES = 10_000, 50
ROBOTS = ("Panda", "UR5e")  # names of robosuite; both arms have the gripper of the Panda


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
        # height (m): distance of the grasp above the centre of the object. across: heading of the fingers relative to
        # the x axis of the object, along its thin side; None for round objects, which need no turn.
        _pick_place("Can", height=0.02, across=None),
        _pick_place("Milk", height=0.04, across=0.0),
        _pick_place("Bread", height=0.00, across=0.0),
        _pick_place("Cereal", height=0.05, across=1.5708),
        _nut("Square", peg="peg1", sides=4),
        _nut("Round", peg="peg2", sides=0),
    )
}


def description(name: str, seed: int = 0) -> str:
    """Return the instruction of a seed's episode for recordings: the task's own, a sentence on LIBERO, or the name."""
    task = get_task(name)
    if task.instruction is not None:
        return task.instruction(seed)
    if task.suite == "libero":
        return re.sub(r"^[A-Z_]+SCENE\d+_", "", task.name).replace("_", " ")  # LIBERO-10 names the scene first
    return name


def get_task(name: str) -> Task:
    """Return a task of robosuite, MimicGen, LIBERO, LIBERO-PRO or two_cubes.

    Robosuite's may name another arm, as "Lift@UR5e". LIBERO-PRO's name a perturbation, as "libero_goal_swap/2".
    """
    plain, at, robot = name.partition("@")
    if plain in TASKS:
        if at and robot not in ROBOTS:
            near = nearest(robot, ROBOTS)
            raise ValueError(f"unknown robot {robot!r} in the task {name!r}{near}; known robots: {', '.join(ROBOTS)}")
        return replace(TASKS[plain], robot=robot) if at else TASKS[plain]
    if found := libero_pro.perturbed(name):
        return libero_pro.task_of(found)
    others = mimicgen.TASKS | libero_tasks.TASKS | two_cubes.TASKS
    if name not in others:
        near = nearest(name, [*TASKS, *others], most=3)
        raise ValueError(f"unknown task {name!r}{near}; known tasks: {listed([*TASKS, *others])}")
    return others[name]


def get_recorded(name: str) -> Task:
    """Return a task like `get_task`, if demonstrations of it may be recorded."""
    task = get_task(name)
    if found := libero_pro.perturbed(name):
        raise ValueError(f"{name} is one of LIBERO-PRO, whose tasks are for rollouts only. Record {found.base}")
    return task


def listed(names: Iterable[str]) -> str:
    """Return names as a list, in which suite/0, suite/1, ... are one entry."""
    suites: dict[str, list[str]] = {}
    for name in names:
        suites.setdefault(name.partition("/")[0], []).append(name)
    return ", ".join(some[0] if len(some) == 1 else f"{some[0]} to {some[-1]}" for some in suites.values())


def check_starts(task: str, episodes: int) -> None:
    """Raise a ValueError if a task has fewer starts for rollouts than episodes."""
    most = INIT_STATES if get_task(task).suite == "libero" else STARTS
    if episodes > most:
        kind = "init states of LIBERO" if most == INIT_STATES else "starts that no recording uses"
        raise ValueError(f"{episodes} episodes of {task} are more than its {most} {kind}. Choose at most {most}")
