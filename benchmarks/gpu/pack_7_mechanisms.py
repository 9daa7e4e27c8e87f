"""Pack 7: Figure 3 of the paper on states: which mechanisms survive freezing, on transformers of 8 layers of 256.

python benchmarks/gpu/pack_7_mechanisms.py            # a mechanism a pack: its head, then six runs of Stack at once
python benchmarks/gpu/pack_7_mechanisms.py --toy      # the small transformer on Lift, on a CPU

The cells are those of the study mechanism-full of benchmarks/stage2.py: seven mechanisms in three modes, frozen as in
the paper and with matched counts. The first pack measures how many training steps of both stages fit, at most the
study's 20,000, and writes that number down. All later packs use it, so that mechanisms are compared. Seven packs give
one seed, 21 all three. Results: <out>/pack_7_mechanisms.json, with the finished cell of each run.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from packs import ROOT, Pack, device, files, options, stage1_record, steps_in, workers

from action_heads import golden

from stage2_studies import HEADS, STUDIES, Cell  # isort: skip  packs.py puts benchmarks/ on the path

TASK, MOST = "Stack", 20_000  # of the study
RECORDING, STARTS, ROLLOUTS = 40, 30, 110  # seconds for demonstrations, for the starts of processes, and for rollouts


def main() -> None:
    """Run the pack."""
    pack, chosen = options(__doc__ or "", "pack_7_mechanisms", seeds=[0, 1, 2])
    pack.environment["STAGE2_OUT"] = str(pack.work / "stage2")
    study = "mechanism" if pack.toy else "mechanism-full"
    groups = grouped(STUDIES[study], chosen.seeds)
    head, first = next(iter(groups.values()))
    speed = pack.once("speed", 150, lambda: measured(pack, study, head, first))
    for name, (head, numbers) in list(groups.items())[: 1 if pack.toy else None] if speed else ():
        keys = [key_of(STUDIES[study][number]) for number in numbers]
        if all(key in pack.results for key in keys):
            continue
        if not pack.toy and pack.left < (needed := seconds(pack, speed)):
            print(f"{name}: left for the next pack, since {pack.left:.0f} s of {needed:.0f} s are left", flush=True)
            break
        print(f"{name}: {pack.left:.0f} s are left", flush=True)
        finish(pack, study, head, numbers, speed["steps"])
    pack.report()


def grouped(cells: Sequence[Cell], seeds: Sequence[int]) -> dict[str, tuple[str, list[int]]]:
    """Return the head and the numbers of the cells that run at once, by mechanism and seed."""
    found: dict[str, tuple[str, list[int]]] = {}
    for seed in seeds:
        for number, cell in enumerate(cells):
            if cell.seed == seed:
                found.setdefault(f"{cell.adapter} seed {seed}", (cell.head, []))[1].append(number)
    return found


def key_of(cell: Cell) -> str:
    """Return the key of the result of a cell."""
    return f"{cell.adapter} {cell.mode} {'matched' if cell.trained else 'as in the paper'} seed {cell.seed}"


def seconds(pack: Pack, speed: dict[str, Any]) -> float:
    """Return how long a mechanism takes, with new demonstrations if there are none on this machine."""
    recording = 0 if list((pack.work / "stage2").glob(f"{TASK}-*.npz")) else RECORDING
    return speed["steps"] * sum(speed["seconds_per_step"].values()) + recording + STARTS + ROLLOUTS


def flags(pack: Pack, steps: int, episodes: int) -> list[str]:
    """Return the options of a study that is shortened, and at toy size small."""
    small = ["--demos", "2"] if pack.toy else []
    return ["--steps", str(steps), "--episodes", str(episodes), *small]


def stage2(*arguments: object) -> list[str]:
    """Return the command line of benchmarks/stage2.py."""
    return [sys.executable, str(ROOT / "benchmarks" / "stage2.py"), *map(str, arguments)]


def cells(pack: Pack, study: str, numbers: Sequence[int], steps: int, episodes: int) -> dict[str, list[str]]:
    """Return the commands of cells that run at once, by the names of their logs."""
    alike = ("--device", device(), "--workers", workers(len(numbers)), *flags(pack, steps, episodes))
    return {f"cell-{number}-{steps}": stage2(study, *alike, "--cells", number) for number in numbers}


def measured(pack: Pack, study: str, head: str, numbers: Sequence[int]) -> dict | None:
    """Train both stages for a moment, the cells of a group at once, and return the steps for which this pack has time.

    The first cell runs alone, since it records the demonstrations.
    """
    few = 2 if pack.toy else 400  # so many that the start of CUDA does not count much
    tries = cells(pack, study, numbers, few, 1)
    pack.run({"stage-1-try": stage2("heads", head, *flags(pack, few, 1))})
    pack.run(dict([next(iter(tries.items()))]))
    pack.run(tries)
    rows = [row["result"] for row in finished(pack) if row["cell"]["steps"] == few]
    if len(rows) < len(numbers):
        return None
    record = stage1_record(folder_of(pack, head, few))
    stage1 = record["chunks"] / few / record["chunks_per_second"]["training"]
    step = {"stage_1": stage1, "stage_2": max(1, *(row["seconds"] for row in rows)) / few}
    steps = 3 if pack.toy else steps_in(pack.left - ROLLOUTS - STARTS, 1 / sum(step.values()), most=MOST)
    return {"steps": steps, "of": MOST, "seconds_per_step": {name: round(each, 5) for name, each in step.items()}}


def folder_of(pack: Pack, head: str, steps: int) -> Path:
    """Return the folder of a head that was pretrained for so many steps, as benchmarks/stage2.py names it."""
    return pack.work / "stage2" / "heads" / (head if steps == HEADS[head]["steps"] else f"{head}-{steps}")


def finish(pack: Pack, study: str, head: str, numbers: Sequence[int], steps: int) -> None:
    """Pretrain the head of a mechanism, and run its cells at once."""
    episodes = 1 if pack.toy else STUDIES[study][numbers[0]].episodes
    pack.run({f"stage-1-{head}": stage2("heads", head, *flags(pack, steps, episodes))})
    if (folder_of(pack, head, steps) / golden.NAME).exists():
        pack.run(cells(pack, study, numbers, steps, episodes))
    for row in finished(pack):
        if row["cell"]["steps"] == steps:
            pack.results[key_of(Cell(**row["cell"]))] = row
    pack.write()


def finished(pack: Pack) -> list[dict[str, Any]]:
    """Return all finished cells of this machine."""
    return [files.read_json(path) for path in sorted((pack.work / "stage2" / "cells").glob("*.json"))]


if __name__ == "__main__":
    main()
