"""Measure the time from the start of a program to its first chunk, with a new process for each row.

uv run benchmarks/first_chunk.py
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import tyro
from common import DOCS, fill, table, write_results

PAGE = DOCS / "speed-cpu.md"
RUNS = 5
# The seconds of each part, in the order of the program.
PROGRAM = """
import json, sys, time
method, took = sys.argv[1], {}
def lap(name, began):
    took[name] = time.perf_counter() - began
    return time.perf_counter()
now = time.perf_counter()
import torch
now = lap("import torch", now)
from action_heads import ConditionedHead
now = lap("import action_heads", now)
policy = ConditionedHead.from_pretrained(sys.argv[2])
now = lap("load head and adapter", now)
policy = policy if method == "eager" else policy.compile(method)
assert method == "eager" or policy.compiled.method == method, policy.compiled.reason
now = lap("compile", now)
cond = torch.zeros(1, 512)
policy.sample(cond, steps=10)
now = lap("first chunk", now)
policy.sample(cond, steps=10)
lap("second chunk", now)
print(json.dumps(took))
"""
SAVE = """
import sys
from action_heads import ActionHead
from action_heads.adapters import AdaLNZero
ActionHead.from_pretrained("dae/mlp-5m-fk").attach(AdaLNZero(512)).save_adapter(sys.argv[1])
"""


def python(program: str, *arguments: str, cache: str) -> str:
    command = [sys.executable, "-c", program, *arguments]
    env = {"PATH": "/usr/bin:/bin", "HOME": str(Path.home()), "ACTION_HEADS_CACHE": cache}
    return subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout


def times_table(rows: list[dict]) -> str:
    """Return the table of docs/results/speed-cpu.md."""
    parts = [key for key in rows[0] if key != "way"]
    lines = [[row["way"], *(f"{row[key]:.3f}" for key in parts)] for row in rows]
    return table([f"seconds, median of {RUNS}", *parts], lines)


def main() -> None:
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        adapter, kept = f"{folder}/adapter", f"{folder}/kept"
        python(SAVE, adapter, cache=kept)
        python(PROGRAM, "native", adapter, cache=kept)  # Compiles, and fills the disk cache.
        ways = {"eager": kept, "packed": kept, "native": kept, "native, never compiled before": None}
        for way, cache in ways.items():
            runs = [
                json.loads(python(PROGRAM, way.partition(",")[0], adapter, cache=cache or f"{folder}/fresh-{i}"))
                for i in range(RUNS)
            ]
            rows.append({"way": way} | {k: round(statistics.median(run[k] for run in runs), 4) for k in runs[0]})
            print(rows[-1])
    write_results("first_chunk", rows)
    fill(PAGE, {"first": times_table(rows)})


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
