r"""LIBERO-PRO: policies on images of `libero_images.py` in their own suite and in its four perturbed ones.

A policy is trained as by `libero_images.py`, or taken from its folder. The outcome of every task is written to
benchmarks/results/libero_pro.json as soon as it is there, so a run that was killed goes on, and more episodes continue
those that are finished. Recordings and encoders are those of `libero_images.py`; its --help says how they are made.

    uv run action-heads setup libero-pro
    uv run benchmarks/libero_pro.py --suite libero_object --mode decoupled normal random-frozen
    uv run benchmarks/libero_pro.py --page    # fills the section on LIBERO-PRO in docs/results/libero-images.md
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from action_heads_lab.sim import libero_pro, libero_tasks
from action_heads_lab.sim.interval import success_text
from action_heads_lab.sim.tasks import INIT_STATES
from common import (
    check_row,
    command_line,
    fill,
    made_text,
    read_results,
    row_of,
    stamped,
    table,
    with_row,
    write_results,
)
from comparisons import listed
from libero_cells import MODES, SUITES, TITLES, Cell, cell_of, named
from libero_images import Demonstrations, demonstrations, policy_of, recordings, roll_out
from libero_images_report import PAGE, Row, fewest

NAME = "libero_pro"
EPISODES = 2  # rollouts of each task
UNPERTURBED = "LIBERO"
KINDS = (UNPERTURBED, *libero_pro.KINDS)
WORDS = {"lan": "other words", "object": "other looks", "swap": "other places", "task": "another goal"}


def tasks_of(suite: str) -> dict[str, list[str]]:
    """Return the tasks of a suite, and of each perturbation of it."""
    perturbed = {kind: libero_pro.of_suite(suite, kind) for kind in libero_pro.KINDS}
    return {UNPERTURBED: libero_tasks.of_suite(suite)} | perturbed


def run(cell: Cell, data: Demonstrations, folder: Path, kinds: Sequence[str], episodes: int, until: float) -> None:
    """Roll the policy of a cell out in every task of these kinds, and write the results after each."""
    tasks = tasks_of(cell.suite)
    for task in (task for kind in kinds for task in tasks[kind]):
        rows = read_results(NAME, [])
        begun = row_of(rows, asdict(cell))
        row = begun or {**asdict(cell), "rolled": {}}
        check_row(NAME, row, asdict(cell), data.inputs)
        before = row["rolled"].get(task, [])
        if len(before) >= episodes or time.monotonic() > until:
            continue
        observed, began = policy_of(cell, data, folder), time.monotonic()
        outcomes = before + roll_out(cell, observed, data, task, range(len(before), episodes))
        spent = row.get("rollout_seconds", 0) + round(time.monotonic() - began)
        now = row | observed.training_record | {"rollout_seconds": spent, "inputs": data.inputs}
        now["rolled"] = row["rolled"] | {task: outcomes}
        print(f"{cell.mode} {task}: {sum(outcomes)} of {len(outcomes)}", flush=True)
        write_results(NAME, with_row(rows, asdict(cell), stamped(now, begun)))


def page() -> None:
    """Fill the section of the page with all finished rows."""
    rows = [row for row in read_results(NAME, []) if len(row["rolled"]) == len(KINDS) * Cell.tasks]
    rows.sort(key=lambda row: (SUITES.index(row["suite"]), MODES.index(row["mode"])))
    fill(PAGE, {"pro": f"{answer(rows)}\n\n{rates(rows)}", "pro-made": made_text(NAME, rows)})


def outcome(row: Row, kind: str) -> tuple[int, int]:
    """Return the successes and the episodes of a row with a perturbation, as many of each task."""
    same = fewest(row)
    each = [row["rolled"][task][:same] for task in tasks_of(row["suite"])[kind]]
    return sum(map(sum, each)), sum(map(len, each))


def answer(rows: Sequence[Row]) -> str:
    """Return how the frozen pretrained head fares with each perturbation, in a sentence for each suite."""
    sentences = []
    for row in rows:
        if row["mode"] == "decoupled":
            won, of = outcome(row, UNPERTURBED)
            parts = [f"{outcome(row, kind)[0]} with {words}" for kind, words in WORDS.items()]
            suite = TITLES[row["suite"]]
            sentences.append(f"On {suite} the frozen pretrained head has {won} of {of}, and {listed(parts)}.")
    return " ".join(sentences) or "No run is finished."


def rates(rows: Sequence[Row]) -> str:
    """Return the table of all rows."""
    lines = []
    for row in rows:
        counts = [success_text(*outcome(row, kind)) for kind in KINDS]
        cell = cell_of(row)
        lines.append([TITLES[cell.suite], f"`{cell.head}`", named(cell), *counts])
    header = [f"{WORDS[kind]} (`{kind}`)" for kind in libero_pro.KINDS]
    return table(["suite", "head", "run", UNPERTURBED, *header], lines, 3)


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--suite", nargs="*", default=["libero_object"], choices=SUITES, help="suites to run")
    parser.add_argument("--mode", nargs="*", default=MODES[:1], choices=MODES, help="modes to run")
    parser.add_argument("--kind", nargs="*", default=KINDS, choices=KINDS, help="perturbations to run")
    parser.add_argument("--encoder", default="outputs/encoders/mobilenetv2", help="folder or Hub id of the encoder")
    parser.add_argument("--text", default="outputs/encoders/minilm", help="folder or Hub id of the text model")
    parser.add_argument("--data", type=Path, default=Path("outputs/libero"), help="folder of the recordings")
    parser.add_argument("--head", default=Cell.head, help="delta head")
    parser.add_argument(
        "--episodes", type=int, default=EPISODES, help="rollouts of each task; more continue finished ones"
    )
    parser.add_argument("--minutes", type=float, default=60, help="begin no further task after so many minutes")
    parser.add_argument("--page", action="store_true", help="run nothing, and fill the page")
    options = parser.parse_args()
    if options.episodes > INIT_STATES:
        parser.error(f"--episodes {options.episodes} is more than the {INIT_STATES} init states of a task")
    until = time.monotonic() + 60 * options.minutes
    for suite in () if options.page else options.suite:
        cells = [Cell(suite, mode, head=options.head) for mode in options.mode]
        if missing := [str(place) for place in recordings(cells[0], options.data) if not place.exists()]:
            parser.error(f"no recording in {', '.join(missing)}. Make it as `libero_images.py --help` shows")
        data = demonstrations(cells[0], options.data, options.encoder, options.text)
        for cell in cells:
            run(cell, data, options.data, options.kind, options.episodes, until)
    page()


if __name__ == "__main__":
    main()
