"""Count how often the scripted experts succeed, undisturbed and with the noise that recordings add to their actions.

A cell has successes, mean ticks and CPU seconds of a start. Starts are drawn by the task's own sampler, from
consecutive seeds. Recordings use those from 10,000 on, with which many experts were tuned.

    uv run benchmarks/scripted_experts.py --tasks libero_goal [--first 30000] [--number 8] [--noise 0 0.2]
    uv run benchmarks/scripted_experts.py --tasks stack_d1 libero_10/3 --number 10     # by default 30000 and 8
"""

from __future__ import annotations

import time

import tyro
from action_heads_lab.sim import libero_tasks, make
from action_heads_lab.sim.envs import Sim
from action_heads_lab.sim.record import run_expert
from action_heads_lab.sim.tasks import get_task
from common import table


def tasks_of(name: str) -> list[str]:
    """Return the tasks of a suite of LIBERO, or the task of this name. Raises ValueError if there is neither."""
    if suite := libero_tasks.of_suite(name):
        return suite
    get_task(name)
    return [name]


def cell(sim: Sim, seeds: range, noise: float) -> tuple[int, str]:
    """Run an expert from these seeds, and return its successes and the text of a cell."""
    began = time.process_time()
    tries = [run_expert(sim, seed, noise) for seed in seeds]
    spent = (time.process_time() - began) / len(seeds)
    won, ticks = sum(one.success for one in tries), sum(len(one.action) for one in tries) / len(seeds)
    return won, f"{won} of {len(seeds)}, {ticks:.0f} ticks, {spent:.1f} s"


def main(tasks: list[str], first: int = 30_000, number: int = 8, noise: list[float] | None = None) -> None:
    """Print a table with a row for each task.

    Args:
        tasks: tasks, or suites of LIBERO.
        first: seed of the first start.
        number: number of starts.
        noise: standard deviations of the disturbance, as fractions of 5 cm per tick. By default none, and that of the
            task's recordings.
    """
    if number < 1:
        raise SystemExit(f"--number must be at least 1, got {number}")
    names = [task for name in tasks for task in tasks_of(name)]
    columns = [f"noise {level:g}" for level in noise] if noise else ["undisturbed", "disturbed"]
    rows, won = [], [0] * len(columns)
    for task in names:
        sim = make(task)
        cells = [cell(sim, range(first, first + number), level) for level in noise or (0.0, sim.task.noise)]
        sim.close()
        rows.append([task, *(text for _, text in cells)])
        won = [total + one for total, (one, _) in zip(won, cells, strict=True)]
        print(*rows[-1], sep=": ", flush=True)
    total = [f"**{count} of {number * len(names)}**" for count in won]
    print(table(["task", *columns], [*rows, ["", *total]]))


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
