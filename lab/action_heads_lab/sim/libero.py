"""LIBERO environments with its own scenes, init states and success checks.

A task is named like `libero_object/3`; one of LIBERO-PRO like `libero_object_swap/3`, see `libero_pro.py`. Seeds below
the number of init states of the suite are these init states, from which policies are evaluated. Larger seeds draw a
start with the sampler of the task, as recordings do.
"""

from __future__ import annotations

import io
import itertools
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path

import numpy as np

from action_heads_lab.sim import compiled, contexts, libero_files, libero_pro, substeps
from action_heads_lab.sim.envs import Sim
from action_heads_lab.sim.init_states import read_init_states
from action_heads_lab.sim.libero_tasks import TASKS
from action_heads_lab.sim.task import Task

SETTLE = 10  # ticks without motion of the arm, in which objects drop onto the table


def make(task: str, render: bool = False, pixels: int | None = None, fast: bool = True) -> LiberoSim:
    """Return a `LiberoSim` of a task such as `libero_object/3`.

    Args:
        task: the name of a task.
        render: allow `Sim.render`.
        pixels: height and width of the images in `LiberoSim.raw`, which robosuite renders at every tick with full
            lighting. None renders none, which is ten times faster.
        fast: render `Sim.render` without shadows, reflections and anti-aliasing.
    """
    libero_files.check()
    contexts.import_robosuite()
    found = libero_pro.perturbed(task)
    suite, _, index = (found.base if found else task).partition("/")
    # LIBERO prints which folders it has looked for, and the order of its tasks.
    with redirect_stdout(io.StringIO()), compiled.once(), contexts.named():
        from libero.libero import benchmark, get_libero_path  # pyright: ignore[reportMissingImports]
        from libero.libero.envs.env_wrapper import ControlEnv  # pyright: ignore[reportMissingImports]

        row = benchmark.get_benchmark_dict()[suite]().get_task(int(index))
        scene = Path(get_libero_path("bddl_files")) / row.problem_folder / row.bddl_file
        if found:
            libero_pro.register_objects()
        control = ControlEnv(
            bddl_file_name=str(found.bddl if found else scene),
            use_camera_obs=pixels is not None,
            camera_heights=pixels or 0,
            camera_widths=pixels or 0,
            has_offscreen_renderer=render or pixels is not None,
            has_renderer=False,
            ignore_done=True,
        )
    if found:
        described = libero_pro.task_of(found)
        sentence = described.instruction(0) if described.instruction else row.language
        described = replace(described, objects=libero_pro.renamed(found, scene))
        return LiberoSim(described, control, found.starts(), render, sentence, fast)
    path = Path(get_libero_path("init_states")) / row.problem_folder / row.init_states_file
    return LiberoSim(TASKS[task], control, read_init_states(path), render, row.language, fast)


class LiberoSim(Sim):
    """A `Sim` of a LIBERO task, which takes absolute targets too."""

    def __init__(self, task: Task, control, init_states: np.ndarray, can_render: bool, language: str, fast: bool):
        super().__init__(task, control.env, can_render, fast)
        self.control, self.init_states, self.language = control, init_states, language

    def _restart(self, seed: int) -> None:
        self.env.object_property_initializers.clear()  # else it grows, and draws more, at every reset
        self.control.reset()
        if seed < len(self.init_states):
            self.control.set_init_state(self.init_states[seed])
        for _ in range(SETTLE):
            substeps.step(self.env, np.array([0.0] * 6 + [-1.0]))
        self.env.robots[0].controller.use_delta = False

    def raw(self) -> dict[str, np.ndarray]:
        """Return the observations of robosuite, up to 2 ms old, which policies on images get."""
        return self.env._get_observations()

    def corners(self, name: str) -> np.ndarray:
        """Return the corners (n, 3), in the base frame, of all collision shapes of an object."""
        return np.concatenate(self.shapes(name))

    def shapes(self, name: str) -> list[np.ndarray]:
        """Return the corners (n, 3), in the base frame, of each convex collision shape of an object or fixture."""
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
        """Close the environment."""
        self.control.close()
