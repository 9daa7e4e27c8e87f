"""Make the simulation of a task, of whichever suite."""

from __future__ import annotations

from action_heads_lab.sim import contexts, libero, mimicgen, two_cubes
from action_heads_lab.sim.envs import CONTROL_HZ, Sim
from action_heads_lab.sim.tasks import get_task


def make(task: str, render: bool = False, fast: bool = True) -> Sim:
    """Return a `Sim` of a task. Call `reset(seed)` before use.

    Args:
        task: the name of a task.
        render: allow `Sim.render`, which makes the first reset of a process seconds slower.
        fast: render without shadows, reflections and anti-aliasing, which is five times faster on a CPU.
    """
    row = get_task(task)  # before the simulator is imported, so that a misspelt name fails at once
    if row.suite == "libero":
        return libero.make(task, render, fast=fast)
    robosuite = contexts.import_robosuite()
    if row.suite == "mimicgen":
        mimicgen.register(row.name)
    controller = robosuite.load_controller_config(default_controller="OSC_POSE") | {"control_delta": False}
    with contexts.named():
        env = robosuite.make(
            row.name,
            robots=row.robot,
            gripper_types="PandaGripper",  # the same for all arms, so that TCP_IN_SITE holds
            controller_configs=controller,
            control_freq=CONTROL_HZ,
            has_renderer=False,
            has_offscreen_renderer=render,
            use_camera_obs=False,
            ignore_done=True,  # callers count the ticks
        )
    if row.suite == "two_cubes":
        return two_cubes.TwoCubesSim(row, env, render, fast)
    return Sim(row, env, render, fast)
