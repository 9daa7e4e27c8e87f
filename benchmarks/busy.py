"""Measure the time of a chunk beside busy processes: one that computes without end on every core.

uv run benchmarks/busy.py [--head dae/mlp-5m-fk] [--seconds 20] [--chunks 400]

A robot's computer is never idle. Each case runs in a process of its own, first alone and then beside the busy ones, and
acts as a robot does: one chunk of ten denoising steps at a time, at batch 1, with a pause after each. Writes
benchmarks/results/busy.json and prints its table.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from common import command_line, table, write_results
from latency_report import short

from action_heads import ActionHead
from action_heads._util.progress import progress_bar
from action_heads.adapters import AdaLNZero

PAUSE = 0.01  # seconds between chunks, in which OpenMP's threads stop spinning, as between the chunks of a robot
COND_DIM = 512
BUSY = "while True: pass"


def time_chunks(head: str, method: str, threads: int, seconds: float, chunks: int) -> list[float]:
    """Return the times of chunks in ms, until there are so many or the time is over."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    policy = ActionHead.from_pretrained(head).attach(AdaLNZero(cond_dim=COND_DIM))
    policy = policy if method == "eager" else policy.compile(method)
    cond, times = torch.randn(1, COND_DIM), []
    for _ in range(5):
        policy.sample(cond, steps=10)
    ends = time.perf_counter() + seconds
    while len(times) < chunks and time.perf_counter() < ends:
        time.sleep(PAUSE)
        began = time.perf_counter()
        policy.sample(cond, steps=10)
        times.append(1e3 * (time.perf_counter() - began))
    return times


@contextmanager
def beside(*command: str, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """Run a command until the end of the context."""
    with subprocess.Popen(command, text=True, encoding="utf-8", **options) as process:
        try:
            yield process
        finally:
            process.kill()


def measure(options: argparse.Namespace, method: str, threads: int, neighbours: int) -> dict[str, Any]:
    """Time a case in a process of its own, beside so many busy ones."""
    with ExitStack() as stack:
        for _ in range(neighbours):
            stack.enter_context(beside(sys.executable, "-c", BUSY))
        given = ["--head", options.head, "--seconds", str(options.seconds), "--chunks", str(options.chunks)]
        command = [sys.executable, __file__, *given, "--case", method, str(threads)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    times = json.loads(done.stdout.splitlines()[-1])
    p50, p99 = np.percentile(times, [50, 99])
    return {
        "method": method,
        "threads": threads,
        "busy_processes": neighbours,
        "chunks": len(times),
        "p50_ms": round(p50, 2),
        "p99_ms": round(p99, 2),
        "max_ms": round(max(times), 2),
    }


def report(rows: list[dict[str, Any]]) -> str:
    """Return the table: each case alone and beside busy processes."""
    cases = {(row["method"], row["threads"]): {} for row in rows}
    for row in rows:
        cases[row["method"], row["threads"]][bool(row["busy_processes"])] = row
    lines = []
    for (method, threads), both in cases.items():
        quiet, busy = both[False], both[True]
        ms = [short(row[name]) for row in (quiet, busy) for name in ("p50_ms", "p99_ms")]
        lines.append([method, str(threads), *ms, f"{busy['p99_ms'] / quiet['p50_ms']:.1f}"])
    header = ["method", "threads", "alone: p50, ms", "p99, ms", "busy: p50, ms", "p99, ms", "busy p99 / alone p50"]
    return table(header, lines)


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--head", default="dae/mlp-5m-fk")
    parser.add_argument("--seconds", type=float, default=20.0, help="longest time of a case")
    parser.add_argument("--chunks", type=int, default=400, help="largest number of chunks of a case")
    parser.add_argument("--case", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        method, threads = options.case
        print(json.dumps(time_chunks(options.head, method, int(threads), options.seconds, options.chunks)))
        return
    cores = len(os.sched_getaffinity(0))
    cases = [(method, threads) for method in ("eager", "packed", "native") for threads in sorted({1, cores})]
    todo = [(*case, neighbours) for case in cases for neighbours in (0, cores)]
    rows = [measure(options, *each) for each in progress_bar(todo, desc="cases")]
    write_results("busy", rows)
    print(report(rows))


if __name__ == "__main__":
    main()
