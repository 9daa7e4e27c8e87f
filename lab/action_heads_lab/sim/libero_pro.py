"""The perturbed suites of LIBERO-PRO (arXiv 2510.03827): LIBERO's tasks with one thing changed, for rollouts only.

`libero_object_swap/3` is `libero_object/3` with the perturbation `swap`. Each task has 50 init states of its own. The
files are LIBERO-PRO's; the objects that it adds are LIBERO's with other meshes and textures.
"""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from action_heads._util.machine import cache_home
from action_heads_lab.sim import libero_tasks
from action_heads_lab.sim.init_states import read_init_states
from action_heads_lab.sim.task import Task

KINDS = {
    "lan": "the sentence says the same in other words",
    "object": "objects have another colour, size or shape",
    "swap": "objects have changed places",
    "task": "the goal is another one, and the sentence says so",
}
OTHER_WORDS = ("lan", "task")  # the others keep LIBERO's sentence
SETUP, REPLACE = "Run `action-heads setup libero-pro`", "Run `action-heads setup libero-pro --replace`"
FOLDERS = ("bddl_files", "init_files")
# An object of LIBERO-PRO -> the object of LIBERO that has its joints, sites and ways to stand.
LOOKS = {
    "bigger_akita_black_bowl": "akita_black_bowl",
    "bigger_alphabet_soup": "alphabet_soup",
    "black_bowl": "akita_black_bowl",
    "blue_ketchup": "ketchup",
    "brown_rack": "wine_rack",
    "green_bbq_sauce": "bbq_sauce",
    "green_butter": "butter",
    "green_chocolate_pudding": "chocolate_pudding",
    "red_basket": "basket",
    "red_cream_cheese": "cream_cheese",
    "red_salad_dressing": "salad_dressing",
    "white_bottle": "wine_bottle",
    "yellow_cabinet": "wooden_cabinet",
    "yellow_milk": "milk",
    "yellow_moka_pot": "moka_pot",
    "yellow_plate": "plate",
    "yellow_stove": "flat_stove",
    "yellow_tomato_sauce": "tomato_sauce",
}
_SENTENCE = re.compile(r"\(:language (.*)\)")
_OBJECTS = re.compile(r"^\s*(\S.*?) - \S+\s*$", re.MULTILINE)  # of a line such as "plate_1 plate_2 - plate"


class Perturbed(NamedTuple):
    """A task of LIBERO-PRO: a perturbation of a task of LIBERO."""

    base: str  # such as libero_object/3
    kind: str  # one of KINDS

    @property
    def suite(self) -> str:
        """The suite, such as libero_object_swap."""
        return f"{self.base.partition('/')[0]}_{self.kind}"

    def file(self, folder: str, ending: str) -> Path:
        """Return one of the files of this task in a folder of `FOLDERS`.

        Raises:
            FileNotFoundError: LIBERO-PRO is not set up.
        """
        path = home() / folder / self.suite / (libero_tasks.TASKS[self.base].name + ending)
        if not path.is_file():
            raise FileNotFoundError(f"{path} does not exist. {SETUP}")
        return path

    @property
    def bddl(self) -> Path:
        """The description of the scene, the sentence and the goal."""
        return self.file("bddl_files", ".bddl")

    def starts(self) -> np.ndarray:
        """Return the init states (n, s).

        Raises:
            FileNotFoundError: LIBERO-PRO is not set up.
            NotStates: the file is damaged.
        """
        return read_init_states(self.file("init_files", ".pruned_init.npz"), REPLACE)


def home() -> Path:
    """Return the folder of LIBERO-PRO's files."""
    return cache_home() / "libero-pro"


def perturbed(name: str) -> Perturbed | None:
    """Return the task of LIBERO-PRO with this name, or None if it is none."""
    suite, _, index = name.partition("/")
    plain, _, kind = suite.rpartition("_")
    base = f"{plain}/{index}"
    return Perturbed(base, kind) if kind in KINDS and base in libero_tasks.TASKS else None


def of_suite(suite: str, kind: str) -> list[str]:
    """Return the tasks of a suite of LIBERO with a perturbation, in the order of the suite."""
    return [task.replace("/", f"_{kind}/") for task in libero_tasks.of_suite(suite)]


def task_of(found: Perturbed) -> Task:
    """Return the description of a task, with the expert and the names of bodies of LIBERO's task."""
    said = partial(_sentence, found) if found.kind in OTHER_WORDS else None
    return replace(libero_tasks.TASKS[found.base], instruction=said)


def renamed(found: Perturbed, original: Path) -> tuple[str, ...]:
    """Return the bodies that a task observes by the names of its scene. `original` describes LIBERO's scene."""
    before, after = (_OBJECTS.findall(path.read_text(encoding="utf-8")) for path in (original, found.bddl))
    new = {
        old: now
        for olds, nows in zip(before, after, strict=True)
        for old, now in zip(olds.split(), nows.split(), strict=True)
    }

    def name(body: str) -> str:
        old = next((old for old in new if body.startswith(f"{old}_")), "")
        return new.get(old, "") + body.removeprefix(old)

    return tuple(map(name, libero_tasks.TASKS[found.base].objects))


def register_objects() -> None:
    """Make the objects of LIBERO-PRO known to LIBERO. Call it after LIBERO was imported."""
    from libero.libero.envs.base_object import (  # pyright: ignore[reportMissingImports]
        OBJECTS_DICT,
        VISUAL_CHANGE_OBJECTS_DICT,
    )

    for look, base in LOOKS.items():
        for known in (OBJECTS_DICT, VISUAL_CHANGE_OBJECTS_DICT):
            if base in known and look not in known:
                known[look] = _looking(look, known[base])


def _looking(look: str, base: type) -> type:
    """Return a class of LIBERO with another look, whose name LIBERO makes into the name of its category."""

    class Other(base):
        def __init__(self, name: str = look, obj_name: str = look, **options):
            super().__init__(name, obj_name, **options)

    Other.__name__ = Other.__qualname__ = "".join(word.capitalize() for word in look.split("_"))
    return Other


def _sentence(found: Perturbed, seed: int) -> str:
    match = _SENTENCE.search(found.bddl.read_text(encoding="utf-8"))
    if match is None:
        raise ValueError(f"{found.bddl} has no sentence. {REPLACE}")
    return match[1].replace("’", "'").strip()
