"""Write the tables of docs/results/droid-size.md from benchmarks/results/droid_size.json.

uv run benchmarks/droid_size_report.py
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import tyro
from common import DOCS, fill, read_results, table

PAGE = DOCS / "droid-size.md"
GPUS = 8
# Chunks per second of Stage 1 on one H200, in bf16 with batches of 2,048: docs/results/training-speed.md.
STEP = {"mlp, 5m": 92_771, "mixer, 5m": 68_033}
CHUNKS = 1e9


def sizes(results: dict[str, Any]) -> str:
    """Return the table of openings, one column for each size."""
    columns = [results[key] for key in sorted(results, key=int)]
    rows: list[tuple[str, Callable[[dict[str, Any]], str]]] = [
        ("time steps", lambda r: f"{r['steps']:,}"),
        ("episodes of an FR3; too short; with NaN", lambda r: f"{r['fr3']:,}; {r['short']:,}; {r['bad']:,}"),
        ("data files, MB", lambda r: f"{r['corpus_mb']:,.0f}"),
        ("cache, MB", lambda r: f"{r['cache_mb']:,.0f}"),
        ("first opening, processor seconds", lambda r: f"{r['first']['cpu_seconds']:,.1f}"),
        ("first opening, peak resident MB", lambda r: f"{r['first']['peak_mb']:,.0f}"),
        ("second opening, processor seconds", lambda r: f"{r['second']['cpu_seconds']:,.2f}"),
        ("second opening, peak resident MB", lambda r: f"{r['second']['peak_mb']:,.0f}"),
        ("of which before the opening, by imports", lambda r: f"{r['second']['imports_mb']:,.0f}"),
    ]
    for name in columns[0]["drawing"]["rates"]:
        rows.append((f"chunks per processor second: {name}", lambda r, name=name: _rate(r, name)))
    header = ("", *(f"{r['episodes']:,} episodes" for r in columns))
    return table(header, [(label, *map(show, columns)) for label, show in rows])


def _rate(result: dict[str, Any], name: str) -> str:
    return f"{result['drawing']['rates'][name]['per_cpu_second']:,}"


def runs(results: dict[str, Any]) -> str:
    """Return the table of pretraining runs on every corpus on which they were made."""
    measured = [results[key] for key in sorted(results, key=int)]
    found = [(r, count, r[name]) for r in measured for count, name in ((1, "one"), (2, "two")) if name in r]
    rows = []
    for result, count, run in found:
        memory = [" and ".join(f"{process[key]:,.0f}" for process in run["processes"]) for key in ("peak_mb", "own_mb")]
        same = " and ".join(("differ", "equal")[run[key]] for key in ("same_weights", "same_losses"))
        rates = [f"{run['chunks_per_second'][name]:,}" for name in ("training", "source_alone")]
        rows.append((f"{result['episodes']:,}", str(count), *rates, *memory, str(run["killed_after_step"]), same))
    header = ("episodes", "processes", "chunks per second, training", "chunks per second, drawing alone")
    header = (*header, "peak resident MB of each", "own MB of each")
    return table((*header, "killed after training step", "weights and losses after resuming"), rows)


def plan(results: dict[str, Any]) -> str:
    """Return the calculated plan of a run on `GPUS` GPUs, from the largest corpus measured."""
    largest = results[max(results, key=int)]
    thread, windows = largest["drawing"]["rates"]["batches"]["per_cpu_second"], largest["second"]["windows"]
    own = largest["second"]["own_mb"]
    rows = []
    for head, step in STEP.items():
        threads = math.ceil(step / thread)
        hours = CHUNKS / (GPUS * step) / 3600
        rows.append(
            (
                f"`{head}`",
                f"{step:,}",
                f"{threads}",
                f"{GPUS * threads}",
                f"{hours:.2f}",
                f"{windows / (GPUS * step):.0f}",
                f"{(GPUS * own + largest['cache_mb']) / 1e3:.1f}",
            )
        )
    header = ("head", "chunks per second and GPU", "threads per GPU", f"threads for {GPUS} GPUs")
    return table(
        (
            *header,
            "hours for a billion chunks",
            "seconds for each window once",
            "memory of 8 readers and the cache, GB",
        ),
        rows,
    )


def main() -> None:
    """Fill the page."""
    results = read_results("droid_size")
    fill(PAGE, {"sizes": sizes(results), "runs": runs(results), "plan": plan(results)})


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
