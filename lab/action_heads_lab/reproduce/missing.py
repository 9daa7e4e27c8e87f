"""Say which runs are missing, with a command and a cost for each row, at the rates of finished runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from action_heads_lab.reproduce.cells import protocol_of, tables
from action_heads_lab.reproduce.config import ALL_MODES, SEEDS, Run
from action_heads_lab.reproduce.costs import Costs
from action_heads_lab.reproduce.families import family_of
from action_heads_lab.reproduce.grid import ALL_BACKBONES, Reproduce, hours, runs
from action_heads_lab.reproduce.results import Result

COMMAND = "uv run examples/{family}/reproduce.py"
STUDY = "table-2"
ORDER = (*ALL_BACKBONES, "unet", "transformer")
K = TypeVar("K")


def of_all(found: Sequence[Result], done: Iterable[Result]) -> str:
    """Return the text on the runs of robosuite's --all that are not among `done`, one row by task and backbone."""
    grid, command = runs(Reproduce(all=True), "robosuite"), COMMAND.format(family="robosuite")
    left = without(grid, [result.run for result in done])
    if not left:
        return "All runs are done."
    costs, lines = Costs(found), []
    for (task, backbone), missing in grouped(left, lambda run: (run.task, run.backbone)).items():
        row = f"{command} --task {task} --backbone {backbone} --mode {','.join(modes_of(missing))}"
        lines.append(f"{row}  # {sum(map(costs.seconds, missing)) / 60:.0f} CPU min")
    return (
        f"{len(left)} of {len(grid)} runs remain, about {hours(sum(map(costs.seconds, left)))} at the rates of "
        f"finished runs, without recordings and Stage 1. `{command} --all` does them all. The commands of each row:\n\n"
        f"{bash(lines)}"
    )


def of_table_2(family: str, found: Sequence[Result]) -> str:
    """Return the text on the missing runs of the paper's Table II, of `mixer`, and without observations.

    They have the first training seed, and the episodes and checkpoints of most of our runs. A run counts as done
    however many episodes it rolled out, but not on other assets.
    """
    everything: dict[str, Any] = {"task": ",".join(family_of(Run(family=family)).tasks), "seeds": str(SEEDS[0])}
    usual = runs(Reproduce(**everything), family)[0]
    like = _like_most(usual, found)
    grid = runs(Reproduce(**everything, **like, study=STUDY), family)
    grid += runs(Reproduce(**everything, **like, mode="blind", backbone=",".join(ALL_BACKBONES)), family)
    left, costs = without(grid, [result.run for result in found]), Costs(found)
    if not left:
        return "All runs of the first training seed are done."
    flags = {"seeds": everything["seeds"]} | {name: n for name, n in like.items() if n != getattr(usual, name)}
    flags |= {"out": f"results/{family}"}
    command = " ".join([COMMAND.format(family=family), *(f"--{name} {value}" for name, value in flags.items())])
    modes = {row: modes_of(missing) for row, missing in grouped(left, lambda run: (run.task, run.backbone)).items()}
    lines = []
    left.sort(key=lambda run: ORDER.index(run.backbone))
    for row, missing in grouped(left, lambda run: (run.backbone, run.adapter, *modes[run.task, run.backbone])).items():
        (backbone, adapter, *of), tasks = row, ",".join(dict.fromkeys(run.task for run in missing))
        what = f"--backbone {backbone} --mode {','.join(of)}" if adapter == usual.adapter else f"--study {STUDY}"
        after = "" if adapter == usual.adapter else ", run last; it skips what is finished"
        lines.append(f"# {backbone}: {_count(missing)}, {hours(sum(map(costs.seconds, missing)))}{after}")
        lines.append(f"{command} {what} \\\n  --task {tasks}")
    others = [seed for seed in SEEDS if all(result.run.seed != seed for result in found)]
    seeds = f" Training seeds not run: {', '.join(map(str, others))}; the {_count(grid)} of one take about "
    return (
        f"{len(left)} of {_count(grid)} of training seed {SEEDS[0]} remain, about "
        f"{hours(sum(map(costs.seconds, left)))} at the rates of finished runs, without recordings and Stage 1. "
        "A backbone without finished runs has the rates of the others."
        f"{f'{seeds}{hours(sum(map(costs.seconds, grid)))}.' if others else ''}\n\n{bash(lines)}"
    )


def _like_most(usual: Run, found: Sequence[Result]) -> dict[str, Any]:
    """Return episodes and checkpoints of the largest table that has the other settings of a run, or its own."""
    free = dict.fromkeys(("episodes", "checkpoints"))
    own = protocol_of(usual)
    largest = next((t.protocol for t in tables(found) if t.protocol | free == own | free), own)
    return {name: largest[name] for name in free}


def _count(found: Sequence[Run]) -> str:
    return f"{len(found)} run{'s' * (len(found) != 1)}"


def without(grid: Iterable[Run], done: Iterable[Run]) -> list[Run]:
    """Return the runs whose cell and seed no run that was done has, with any number of episodes."""

    def place(run: Run) -> tuple:
        return str(protocol_of(run) | {"episodes": None}), run.task, run.backbone, run.mode, run.seed

    have = set(map(place, done))
    return [run for run in grid if place(run) not in have]


def grouped(found: Iterable[Run], key: Callable[[Run], K]) -> dict[K, list[Run]]:
    """Return runs by a key."""
    groups: dict[K, list[Run]] = {}
    for run in found:
        groups.setdefault(key(run), []).append(run)
    return groups


def modes_of(found: Iterable[Run]) -> list[str]:
    """Return the modes of runs."""
    modes = {run.mode for run in found}
    return [mode for mode in (*ALL_MODES, "blind") if mode in modes]


def bash(lines: Iterable[str]) -> str:
    """Return a block of commands."""
    return "```bash\n{}\n```".format("\n".join(lines))
