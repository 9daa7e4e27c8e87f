"""How far pretrained heads differ: Stage 2 on small heads of three Stage 1 seeds, and on one trained ten times as long.

Stage 2 is that of the paper's comparison, from states, with one seed, so only the head differs between runs. Runs that
are done are kept in benchmarks/results/stage1_spread.json, and a command that was killed goes on.

    uv run benchmarks/stage1_spread.py [--only mixer-seed-0 ...]    # each of 7 heads: Stage 1, then three tasks
    uv run benchmarks/stage1_spread.py --page                       # runs nothing, and fills the page
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from action_heads_lab.reproduce import heads
from action_heads_lab.reproduce.config import Place, Run
from action_heads_lab.reproduce.grid import only_run
from action_heads_lab.reproduce.run import perform
from action_heads_lab.sim.interval import wilson
from common import DOCS, command_line, fill, read_results, row_of, stamped, table, with_row, write_results

from action_heads import golden
from action_heads.io.files import read_json
from action_heads.pretrain.loop import pretrain
from action_heads.pretrain.settings import PretrainConfig

NAME = "stage1_spread"
TASKS = ("Stack", "PickPlaceCan", "NutAssemblySquare")


@dataclass(frozen=True)
class Head:
    """A small head: its backbone, its Stage 1 seed, and its training steps as a multiple of the usual ones."""

    backbone: str
    seed: int
    longer: int = 1

    @property
    def name(self) -> str:
        return f"{self.backbone}-seed-{self.seed}" + (f"-x{self.longer}" if self.longer > 1 else "")


HEADS = [*(Head(backbone, seed) for backbone in ("mixer", "mlp") for seed in range(3)), Head("mlp", 0, longer=10)]


def stage1(head: Head, work: Path) -> PretrainConfig:
    """Return the settings of Stage 1: those of `reproduce`, but for the seed and the number of training steps."""
    usual = heads.stage1(stage2(head, TASKS[0], "small"), work)
    assert usual is not None
    steps = head.longer * usual.optimiser.steps
    optimiser = replace(usual.optimiser, steps=steps)
    return replace(usual, name=head.name, out=work / "heads" / head.name, seed=head.seed, optimiser=optimiser)


def stage2(head: Head, task: str, name: str) -> Run:
    """Return the run of Stage 2 on a head of this name, as `examples/robosuite/reproduce.py` does it."""
    return only_run("robosuite", task=task, backbone=head.backbone, mode="decoupled", seeds="0", head=name)


def pretrained(config: PretrainConfig, place: Place) -> str:
    """Pretrain a head, if that was not done, and return its folder."""
    if not (config.folder / golden.NAME).exists():
        pretrain(config, place.command)
    return str(config.folder)


def measure(head: Head, task: str, place: Place) -> dict[str, Any]:
    """Pretrain a head, if that was not done, and return the outcome of its Stage 2 in a task."""
    config = stage1(head, place.work)
    result = perform(stage2(head, task, pretrained(config, place)), place)
    losses = read_json(config.folder / "curves.json")["held_out"]
    return {
        "held_out_loss": losses[-1][1],
        "successes": result.successes,
        "episodes": len(result.episodes),
        "trained": result.head["trainable"],
        "fingerprint": result.head["fingerprint"],
        "inputs": result.inputs,
        "cpu_seconds": result.seconds["cpu"],
    }


def rate(row: dict[str, Any] | None) -> str:
    """Return a success rate in % with its 95 % interval."""
    if row is None:
        return "not run"
    low, high = wilson(row["successes"], row["episodes"])
    return f"{100 * row['successes'] / row['episodes']:.0f} ({100 * low:.0f} to {100 * high:.0f})"


def page(rows: list[dict[str, Any]]) -> None:
    """Write the table of the page: a row for each head."""
    lines = []
    for head in HEADS:
        found = [row_of(rows, asdict(head) | {"task": task}) for task in TASKS]
        of_head = next((row for row in found if row), None)
        loss = f"{of_head['held_out_loss']:.4f}" if of_head else "not run"
        label = f"{head.seed}" + (f", {head.longer} times the training steps" if head.longer > 1 else "")
        lines.append([f"`{head.backbone}`", label, loss, *map(rate, found)])
    fill(DOCS / "stage1-signals.md", {"spread": table(["backbone", "seed of Stage 1", "held-out loss", *TASKS], lines)})


def main() -> None:
    parser = command_line(__doc__)
    names = [head.name for head in HEADS]
    parser.add_argument("--only", nargs="*", default=names, choices=names, metavar="HEAD", help=f"of {' '.join(names)}")
    parser.add_argument(
        "--work", type=Path, default=Path("outputs/reproduce"), help="folder of heads, recordings, runs"
    )
    parser.add_argument("--page", action="store_true", help="run nothing, and fill the page")
    options = parser.parse_args()
    place = Place(results=options.work / NAME, work=options.work, command=f"benchmarks/{NAME}.py")
    for head in HEADS:
        for task in TASKS:
            cell = asdict(head) | {"task": task}
            if options.page or head.name not in options.only or row_of(read_results(NAME, []), cell):
                continue
            row = stamped(cell | measure(head, task, place))
            print(f"{head.name} {task}: {row['successes']} of {row['episodes']}", flush=True)
            write_results(NAME, with_row(read_results(NAME, []), cell, row))
    page(read_results(NAME, []))


if __name__ == "__main__":
    main()
