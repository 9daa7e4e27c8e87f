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

from action_heads_lab.sim import libero_pro, libero_tasks
from action_heads_lab.sim.interval import success_text
from common import fill, made_text, table
from comparisons import listed
from libero_cells import MODES, SUITES, TITLES, Cell, cell_of, named
from libero_images import command, demonstrations, finished, parsed, recordings, run
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


def page() -> None:
    """Fill the section of the page with all finished rows."""
    rows = [row for row in finished(NAME) if len(row["rolled"]) == len(KINDS) * Cell.tasks]
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
    parser = command(__doc__, MODES[:1], EPISODES)
    parser.add_argument("--kind", nargs="*", default=KINDS, choices=KINDS, help="perturbations to run")
    options = parsed(parser)
    until = time.monotonic() + 60 * options.minutes
    for suite in () if options.page else options.suite:
        cells = [Cell(suite, mode, head=options.head) for mode in options.mode]
        if missing := [str(place) for place in recordings(cells[0], options.data) if not place.exists()]:
            parser.error(f"no recording in {', '.join(missing)}. Make it as `libero_images.py --help` shows")
        data = demonstrations(cells[0], options.data, options.encoder, options.text)
        tasks = tasks_of(suite)
        for cell in cells:
            these = [task for kind in options.kind for task in tasks[kind]]
            run(cell, data, options.data, options.episodes, until, these, NAME)
    page()


if __name__ == "__main__":
    main()
