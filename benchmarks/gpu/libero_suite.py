"""Record all tasks of a suite into one HDF5 file of robomimic, or roll a policy out in all of them.

Each task has a process of its own, since it starts its simulation once. Pack 6 runs this.

python benchmarks/gpu/libero_suite.py record FILE.hdf5 --tasks libero_object/0 libero_object/1 --demos 10 --size 128
python benchmarks/gpu/libero_suite.py roll-out FILE.json --tasks libero_object/0 libero_object/1 --policy FOLDER
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import packs
from packs import files

CAMERAS = ("agentview", "robot0_eye_in_hand")


def options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("record", "roll-out"))
    parser.add_argument("out", type=Path, help="the .hdf5 file of the recording, or the .json file of the rollouts")
    parser.add_argument("--tasks", nargs="+", required=True)
    parser.add_argument("--demos", type=int, default=10, help="demonstrations of each task")
    parser.add_argument("--size", type=int, default=128, help="height and width of the images")
    parser.add_argument("--policy", type=Path, help="folder of the policy to roll out")
    parser.add_argument("--episodes", type=int, default=10, help="episodes of each task, from its first init states")
    parser.add_argument("--workers", type=int, default=packs.cores(), help="tasks at once")
    return parser.parse_args(arguments)


def main() -> None:
    """Record, or roll out."""
    chosen = options()
    with ProcessPoolExecutor(chosen.workers, multiprocessing.get_context("spawn")) as pool:
        if chosen.what == "record":
            parts = [chosen.out.with_suffix(f".{number}.hdf5") for number in range(len(chosen.tasks))]
            tasks = zip(chosen.tasks, parts, strict=True)
            waiting = [pool.submit(recorded, task, path, chosen.demos, chosen.size) for task, path in tasks]
            join([one.result() for one in waiting], chosen.out)
        else:
            given = (chosen.policy, chosen.episodes)
            waiting = {pool.submit(rolled_out, task, *given): task for task in chosen.tasks}
            rolled = {}
            for one in as_completed(waiting):  # written at once, since the time may end
                rolled[waiting[one]] = one.result()
                files.write_text(chosen.out, json.dumps(dict(sorted(rolled.items()))) + "\n")


def recorded(task: str, path: Path, demos: int, size: int) -> Path:
    """Record demonstrations of one task to a file of its own, and return it."""
    from action_heads_lab.sim.dataset import save_dataset
    from action_heads_lab.sim.record import record

    return path if path.exists() else save_dataset(record(task, demos, workers=1), path, CAMERAS, size, workers=1)


def join(parts: Iterable[Path], out: Path) -> None:
    """Join files of robomimic into one."""
    import h5py

    draft = out.with_suffix(".part")
    with h5py.File(draft, "w") as joined:
        data = joined.create_group("data")
        for part in parts:
            with h5py.File(part) as one:
                found: Any = one["data"]
                for demo in found.values():
                    one.copy(demo, data, f"demo_{len(data)}")
                data.attrs["env_args"] = found.attrs["env_args"]
        data.attrs["total"] = sum(demo.attrs["num_samples"] for demo in data.values())
    os.replace(draft, out)


def rolled_out(task: str, policy: Path, episodes: int) -> list[bool]:
    """Roll a policy out in one task from its first init states, and return which episodes succeed."""
    from action_heads_lab import policies
    from action_heads_lab.sim.rollout import rollout
    from action_heads_lab.sim.tasks import description

    from action_heads.observed_policy import ObservedPolicy
    from action_heads.training.streams import generator

    observed = ObservedPolicy.from_pretrained(policy, device=packs.device())
    act = policies.actor(observed, description(task), generator("acting", 0, device=observed.device), steps=10)
    result = rollout(task, act, range(episodes), batch=1, workers=1, progress=False, sight=policies.sight_of(observed))
    return result.success.tolist()


if __name__ == "__main__":
    main()
