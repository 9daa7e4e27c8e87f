"""The eight MimicGen tasks of the paper, and a check that says how to install MimicGen, which is not on PyPI.

Names are those of the official datasets. MimicGen is by NVIDIA, under a licence for non-commercial use. This package
contains nothing of it.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from contextlib import redirect_stdout
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from action_heads._util.extras import pip
from action_heads_lab.sim import contexts, experts, mimicgen_experts
from action_heads_lab.sim.task import Task


def _task(name: str, objects: tuple[str, ...], expert: Callable, steps: int, limit: int, noise: float = 0.1) -> Task:
    return Task(name, objects, expert, expert_steps=steps, rollout_steps=limit, noise=noise, suite="mimicgen")


def _cleanup(
    name: str, cabinet: str, thing: str, hold: tuple[float, float, float], along: int, above: float, limit: int
) -> Task:
    """Return a task from the arguments of `mimicgen_experts.into_drawer`."""
    expert = partial(mimicgen_experts.into_drawer, cabinet=cabinet, thing=thing, hold=hold, along=along, above=above)
    objects = (thing, f"{cabinet}_base", f"{cabinet}_drawer_link")
    return _task(name, objects, expert, steps=600, limit=limit)


# The limits of rollouts are those of the paper. square_d2 moves the peg, and uses the expert of NutAssemblySquare.
TASKS = {
    "stack_d1": _task("Stack_D1", ("cubeA_main", "cubeB_main"), experts.stack, steps=300, limit=270, noise=0.3),
    "stack_three_d1": _task(
        "StackThree_D1",
        ("cubeA_main", "cubeB_main", "cubeC_main"),
        experts.stack_three,
        steps=500,
        limit=638,
        noise=0.2,
    ),
    "square_d2": _task(
        "Square_D2",
        ("SquareNut_main", "peg1"),
        partial(experts.nut_assembly, nut="SquareNut", peg="peg1", sides=4),
        steps=400,
        limit=383,
    ),
    "threading_d2": _task(
        "Threading_D2", ("needle_obj_root", "tripod_obj_root"), mimicgen_experts.threading, steps=400, limit=568
    ),
    "three_piece_assembly_d2": _task(
        "ThreePieceAssembly_D2",
        ("base_root", "piece_1_root", "piece_2_root"),
        mimicgen_experts.three_piece_assembly,
        steps=600,
        limit=838,
    ),
    "coffee_d2": _task(
        "Coffee_D2",
        ("coffee_pod_main", "coffee_machine_root", "coffee_machine_lid_main"),
        mimicgen_experts.coffee,
        steps=400,
        limit=560,
    ),
    "hammer_cleanup_d1": _cleanup("HammerCleanup_D1", "CabinetObject", "hammer_root", (0, 0, -0.005), 2, 0.02, 715),
    "mug_cleanup_d1": _cleanup(
        "MugCleanup_D1", "DrawerObject", "cleanup_object_main", (0, -0.016, 0.02), 1, 0.008, 845
    ),
}


def package(name: str) -> Path | None:
    """Return the folder of an import package, or None if there is none.

    Python also takes a folder without code, such as a clone, for a package. It is none here.
    """
    spec = find_spec(name)
    return None if spec is None or spec.origin is None else Path(spec.origin).parent


def _install() -> str:
    """Return the commands that install MimicGen."""
    clone, github = f"{pip()} install --no-deps -e", "https://github.com"
    return f"""action-heads setup mimicgen

or, by hand,

    git clone {github}/NVlabs/mimicgen && {clone} mimicgen
    git clone {github}/ARISE-Initiative/robosuite-task-zoo && {clone} robosuite-task-zoo
    {pip()} install {contexts.REQUIREMENTS} h5py six"""


def check() -> None:
    """Check that MimicGen is installed, without importing it.

    Raises:
        ImportError: it is missing, has no assets, or another package has its name; or six is missing.
    """
    if (folder := package("mimicgen")) is None:
        raise ImportError(
            f"MimicGen is not installed. It is only on GitHub. Run\n    {_install()}\n"
            "Do not `pip install mimicgen`, which is an unrelated package on PyPI."
        )
    if not (folder / "envs" / "robosuite").is_dir():
        raise ImportError(
            f"{folder} is not NVlabs' MimicGen but another package of that name. Uninstall it, then run\n"
            f"    {_install()}"
        )
    if not (folder / "models" / "robosuite" / "assets").is_dir():
        raise ImportError(
            f"{folder} has no assets, since a wheel of MimicGen lacks them. Uninstall it, then run\n    {_install()}"
        )
    if package("six") is None:
        raise ImportError(f"MimicGen needs six, which is not installed. Run `{pip()} install six`")


def register(*names: str) -> None:
    """Import MimicGen, which adds its environments to robosuite.

    Args:
        names: environments that must be among them; by default those of all tasks.

    Raises:
        ImportError: it is not installed, or it lacks one of them.
    """
    check()
    with redirect_stdout(io.StringIO()) as said:  # it prints what it cannot import, and goes on
        module = import_module("mimicgen")
    known = import_module("robosuite.environments.base").REGISTERED_ENVS
    if lacking := [name for name in names or [task.name for task in TASKS.values()] if name not in known]:
        reason = " ".join(said.getvalue().split())
        raise ImportError(
            f"MimicGen in {Path(str(module.__file__)).parent} lacks the environments {', '.join(lacking)}"
            f"{f' ({reason})' if reason else ''}. Run `action-heads setup mimicgen`: it names the damaged files of its "
            "own installation. Remove any other installation first"
        )
