"""Whether the DROID heads lose anything on tasks: success on Stack and PickPlaceCan beside their `fk` siblings.

Policies on states, with a small adapter through the code, as in `examples/robosuite/reproduce.py --recipe code`; one
seed, and the same 50 starts for all. Runs that are done are kept in benchmarks/results/droid_tasks.json, and a command
that was killed goes on.

    uv run benchmarks/droid_tasks.py [--only mixer]    # 6 runs of each backbone, 6 minutes each
    uv run benchmarks/droid_tasks.py --page            # runs nothing, and fills the page
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from action_heads_lab.reproduce.config import Place, Run
from action_heads_lab.reproduce.grid import only_run
from action_heads_lab.reproduce.run import perform
from action_heads_lab.sim.interval import success_text
from common import DOCS, command_line, fill, read_results, row_of, stamped, table, with_row, write_results

NAME = "droid_tasks"
TASKS = ("Stack", "PickPlaceCan")
BACKBONES = ("mixer", "mlp")
RECIPE = "code"


@dataclass(frozen=True)
class Cell:
    """A run: its head by name, its task and its mode."""

    head: str
    task: str
    mode: str

    @property
    def backbone(self) -> str:
        return self.head.partition("/")[2].partition("-")[0]


def cells(backbones: list[str]) -> list[Cell]:
    """Return the runs of these backbones: both heads, then random weights, of which only the shape counts."""
    found = []
    for backbone in backbones:
        names = [f"dae/{backbone}-5m-{end}" for end in ("droid", "fk")]
        found += [Cell(name, task, "decoupled") for task in TASKS for name in names]
        found += [Cell(names[-1], task, "random-frozen") for task in TASKS]
    return found


def run_of(cell: Cell) -> Run:
    """Return the run of `examples/robosuite/reproduce.py`."""
    given = {"task": cell.task, "backbone": cell.backbone, "mode": cell.mode, "head": cell.head}
    return only_run("robosuite", seeds="0", recipe=RECIPE, **given)


def page(rows: list[dict]) -> None:
    """Fill the table of the page."""
    lines = []
    for cell in cells(list(BACKBONES)):
        row = row_of(rows, asdict(cell))
        trained = f"{row['trained']:,}" if row else ""
        success = success_text(row["successes"], row["episodes"]) if row else "not run"
        lines.append([cell.task, f"`{cell.head}`", cell.mode, trained, success])
    lines.sort(key=lambda line: TASKS.index(line[0]))
    text = table(["task, on states", "head", "mode", "trained", "success"], lines, left=3)
    fill(DOCS / "droid-heads.md", {"tasks": text})


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--only", nargs="*", default=list(BACKBONES), choices=BACKBONES, help="backbones to run")
    parser.add_argument(
        "--work", type=Path, default=Path("outputs/reproduce"), help="folder of recordings and unfinished runs"
    )
    parser.add_argument("--page", action="store_true", help="run nothing, and fill the page")
    options = parser.parse_args()
    place = Place(results=options.work / NAME, work=options.work, command=f"benchmarks/{NAME}.py")
    for cell in [] if options.page else cells(options.only):
        if row_of(read_results(NAME, []), asdict(cell)):
            continue
        result = perform(run_of(cell), place)
        row = asdict(cell) | {
            "successes": result.successes,
            "episodes": len(result.episodes),
            "trained": result.head["trainable"],
            "inputs": result.inputs,
            "cpu_seconds": result.seconds["cpu"],
        }
        print(f"{cell}: {row['successes']} of {row['episodes']}", flush=True)
        write_results(NAME, with_row(read_results(NAME, []), asdict(cell), stamped(row)))
    page(read_results(NAME, []))


if __name__ == "__main__":
    main()
