"""Fill the part of docs/results/speed-gpu.md on the fused kernels from the results of benchmarks/gpu/pack_3_fused.py.

uv run benchmarks/fused_report.py
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import tyro
from common import DOCS, fill, table
from fused_targets import FUSED, answer, floor_ms, fused_ms, limit_of, name_of, verdicts
from latency_report import short

from action_heads.card import REPOSITORY
from action_heads.io.files import read_json

RESULTS = Path(__file__).parent / "gpu" / "results" / "pack_3_fused.json"
PAGE = DOCS / "speed-gpu.md"
PACK = f"{REPOSITORY}/blob/main/benchmarks/gpu/pack_3_fused.py"
CASE = re.compile(r"(.+) (fp32|bf16) batch (\d+) steps (\d+): ")
UNTRIED = (
    "Programmatic dependent launches, which let a kernel begin before the one before has ended, and one kernel for all "
    "denoising steps have not been tried."
)
TESTS = ("tests of the bundled head", "tests of all modulations")


def text(record: dict[str, Any] | None) -> str:
    """Return the text and the tables of the page for the pack's results, or what it says without any."""
    if record is None:
        missing = (
            "The method `fused` has not been measured on a GPU. "
            f"[`pack_3_fused.py`]({PACK}) will measure it: `python benchmarks/gpu/pack_3_fused.py`. Its targets on an "
            "H200:"
        )
        return "\n\n".join((missing, targets_table({}), UNTRIED))
    results = record["results"]
    parts = [
        conditions(record),
        targets_table(results),
        cases_table(results),
        tests(results),
        reasons(results),
        UNTRIED,
    ]
    return "\n\n".join(filter(None, parts))


def conditions(record: dict[str, Any]) -> str:
    """Return how the results were measured."""
    machine, rates = record["machine"], record["results"].get("rates") or {}
    where = machine["gpu"] or f"a CPU ({machine['processor']}), interpreted"
    highest = "; highest measured rates: " if "memory" in rates else ""
    if highest:
        highest += ", ".join(f"{rates[dtype] / 1e9:g} GFLOP/s in {dtype}" for dtype in ("fp32", "bf16"))
        highest += f", memory at {rates['memory'] / 1e9:g} GB/s"
    return f"`{record['command']}`, {record['date']}, {where}, torch {machine['torch']}{highest}."


def targets_table(results: dict[str, Any]) -> str:
    """Return the table of the targets."""
    rows = []
    for verdict in verdicts(results):
        policy, batch, steps = verdict.target[:3]
        measured = "" if verdict.measured_ms is None else short(verdict.measured_ms)
        rows.append([policy, str(batch), str(steps), f"at most {limit_of(verdict)}", measured, answer(verdict)])
    header = ["head and adapter, bf16", "batch", "steps", "target", "median, ms", "result"]
    return table(header, rows, left=1)


def cases_of(results: dict[str, Any]) -> list[tuple[str, str, int, int]]:
    """Return policy, precision, batch and steps of every case that was timed, by name."""
    found = {(m[1], m[2], int(m[3]), int(m[4])) for name in results if (m := CASE.match(name))}
    return sorted(found, key=lambda case: (case[0], case[2], -case[3], case[1]))


def cases_table(results: dict[str, Any]) -> str:
    """Return the table of all cases, by eager, graph and fused."""
    rows = []
    for case in cases_of(results):
        name = name_of(*case)
        eager, graph = (results.get(f"{name}: {method}", {}).get("p50") for method in ("eager", "graph"))
        fused, floor = fused_ms(results, name)[0], floor_ms(results, *case) if case[1] == "bf16" else None
        times = [short(ms) if ms is not None else "" for ms in (eager, graph, fused, floor)]
        rows.append([*map(str, case), *times, f"{graph / fused:.2f}" if graph and fused else ""])
    header = ["head and adapter", "precision", "batch", "steps", "eager, ms", "graph, ms", "fused, ms", "floor, ms"]
    return table([*header, "graph / fused"], rows, left=2)


def tests(results: dict[str, Any]) -> str:
    """Return a sentence with the results of the tests of the kernels."""
    sentences = []
    for name in TESTS:
        if found := results.get(name):
            counts = [f"{found[kind]} {kind}" for kind in ("passed", "failed", "error", "skipped") if found.get(kind)]
            failures = f" ({', '.join(found['failures'])})" if found["failures"] else ""
            sentences.append(f"The {name}: {', '.join(counts) or 'none'}{failures}.")
    return " ".join(sentences)


def reasons(results: dict[str, Any]) -> str:
    """Return a list of the cases in which the fused kernels were not used, with the reason, and of all errors."""
    lines = []
    for name, result in results.items():
        timed = name.endswith(tuple(f": {method}" for method in FUSED)) or name.startswith("check ")
        why = isinstance(result, dict) and (result.get("error") or (timed and result.get("fell_back")))
        if why:
            lines.append(f"- {name}: {json.dumps(why, ensure_ascii=False)[1:-1]}")
    return "\n".join(lines)


def report() -> None:
    """Fill the page."""
    fill(PAGE, {"fused": text(read_json(RESULTS) if RESULTS.exists() else None)})


if __name__ == "__main__":
    tyro.cli(report, description=__doc__)
