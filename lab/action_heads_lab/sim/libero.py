"""LIBERO on states: LIBERO's own scenes, init states and success; an expert; the answers its import asks for.

A task is `libero_object/3`. Seeds below the number of the suite's init states are these, in their order, which is where
policies are evaluated; from there on, starts are drawn by the task's own sampler, which is where recordings begin.
"""

from __future__ import annotations

import itertools
import os
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from action_heads.io import drafts
from action_heads_lab.sim import compiled, contexts, substeps
from action_heads_lab.sim.envs import Sim, prepare
from action_heads_lab.sim.init_states import read_init_states
from action_heads_lab.sim.libero_tasks import TASKS
from action_heads_lab.sim.tasks import Task

SETTLE = 10  # steps in which nothing is asked of the arm: objects drop onto the table
FOLDERS = ("articulated_objects", "stable_scanned_objects", "turbosquid_objects", "stable_hope_objects")


def make(task: str, render: bool = False, pixels: int | None = None, fast: bool = True) -> LiberoSim:
    """A `LiberoSim` of a task such as `libero_object/3`.

    pixels   a side of the pictures that robosuite takes at every step for its own observations, with all its lights:
             `LiberoSim.raw`. None for none, which is ten times faster.
    fast     as of `envs.make`: of `Sim.render`
    """
    prepare()  # robosuite reads the environment at its import
    install()
    contexts.import_robosuite()
    from libero.libero import benchmark, get_libero_path  # pyright: ignore[reportMissingImports]
    from libero.libero.envs.env_wrapper import ControlEnv  # pyright: ignore[reportMissingImports]

    suite, _, index = task.partition("/")
    row = benchmark.get_benchmark_dict()[suite]().get_task(int(index))
    with compiled.once(), contexts.named():
        control = ControlEnv(
            bddl_file_name=str(Path(get_libero_path("bddl_files")) / row.problem_folder / row.bddl_file),
            use_camera_obs=pixels is not None,
            camera_heights=pixels or 0,
            camera_widths=pixels or 0,
            has_offscreen_renderer=render or pixels is not None,
            has_renderer=False,
            ignore_done=True,
        )
    path = Path(get_libero_path("init_states")) / row.problem_folder / row.init_states_file
    return LiberoSim(TASKS[task], control, read_init_states(path), render, row.language, fast)


class LiberoSim(Sim):
    """As `Sim`; the arm takes absolute targets here too."""

    def __init__(self, task: Task, control, init_states: np.ndarray, can_render: bool, language: str, fast: bool):
        super().__init__(task, control.env, can_render, fast)
        self.control, self.init_states, self.language = control, init_states, language

    def _restart(self, seed: int) -> None:
        self.env.object_property_initializers.clear()  # LIBERO adds to them at every reset: each would draw one more
        self.control.reset()
        if seed < len(self.init_states):
            self.control.set_init_state(self.init_states[seed])
        for _ in range(SETTLE):
            substeps.step(self.env, np.array([0.0] * 6 + [-1.0]))
        self.env.robots[0].controller.use_delta = False

    def raw(self) -> dict[str, np.ndarray]:
        """What robosuite observes by itself, up to 2 ms before the step's end: what policies on pictures are shown."""
        return self.env._get_observations()

    def corners(self, name: str) -> np.ndarray:
        """(n, 3) corners, in the base frame, of all the shapes that an object collides with."""
        return np.concatenate(self.shapes(name))

    def shapes(self, name: str) -> list[np.ndarray]:
        """(n, 3) corners, in the base frame, of each convex shape that an object or a fixture collides with."""
        import mujoco

        model, data = self.mujoco.model._model, self.mujoco.data._data
        root, found = self.env.obj_body_id[name], []
        base = self.base_in_world.inverse()
        for geom in range(model.ngeom):
            body = model.geom_bodyid[geom]
            while body and body != root:
                body = model.body_parentid[body]
            if body != root or not (model.geom_contype[geom] or model.geom_conaffinity[geom]):
                continue
            if model.geom_type[geom] == mujoco.mjtGeom.mjGEOM_MESH:  # pyright: ignore[reportAttributeAccessIssue]
                mesh = model.geom_dataid[geom]
                first = model.mesh_vertadr[mesh]
                points = model.mesh_vert[first : first + model.mesh_vertnum[mesh]]
            else:
                x, y, z = model.geom_size[geom]
                half = [x, y, z] if model.geom_type[geom] == mujoco.mjtGeom.mjGEOM_BOX else [x, x, y or x]  # pyright: ignore[reportAttributeAccessIssue]
                points = np.array(list(itertools.product((-1, 1), repeat=3))) * half
            points = points @ data.geom_xmat[geom].reshape(3, 3).T + data.geom_xpos[geom]
            found.append(points @ base.R.T + base.p)
        return found

    def close(self):
        self.control.close()


def install() -> None:
    """Check that LIBERO and its assets are there, and write the configuration that its first import would ask for."""
    if (spec := find_spec("libero")) is None:
        raise ImportError(
            "LIBERO is not installed. hf-libero pins robosuite 1.4.0, so in this order:\n"
            "    pip install hf-libero\n    pip install --no-deps 'robosuite==1.4.1'"
        )
    try:
        distribution("hf-libero")
    except PackageNotFoundError:
        raise ImportError(
            "the module `libero` here is not of hf-libero. PyPI's `libero` is a stranger's package: "
            "pip uninstall libero; pip install hf-libero"
        ) from None
    root = Path(next(iter(spec.submodule_search_locations or ()))) / "libero"
    config = Path(os.environ.get("LIBERO_CONFIG_PATH", Path.home() / ".libero")) / "config.yaml"
    cached = Path.home() / ".cache" / "libero" / "assets"
    assets = root / "assets" if (root / "assets").is_dir() else cached
    if missing := [name for name in FOLDERS if not (assets / name).is_dir()]:
        raise FileNotFoundError(
            f"LIBERO's assets are not in {assets}: it lacks {', '.join(missing)}. Fetch them with\n"
            f"    hf download lerobot/libero-assets --repo-type dataset --local-dir {cached}"
        )
    if not config.exists():
        paths = {"benchmark_root": root, "bddl_files": root / "bddl_files", "init_states": root / "init_files"}
        paths |= {"datasets": config.parent / "datasets", "assets": assets}
        with drafts.drafted(config) as draft:
            draft.write_text("".join(f"{key}: {path}\n" for key, path in paths.items()), encoding="utf-8")
