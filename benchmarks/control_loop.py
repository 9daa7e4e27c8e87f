"""Count the missed deadlines of a policy that acts at 20, 50 and 100 Hz, beside a camera and a busy process.

    uv run benchmarks/control_loop.py                  # all 36 cells of a minute each, and the page
    uv run benchmarks/control_loop.py --rates 100 --cases native server --scheduling real-time --seconds 3
    uv run benchmarks/control_loop.py --page           # the page of what has been measured

What a tick does: it sleeps until its time. If the `Executor` is due, which it is every 8th tick, it copies the newest
image from the camera's shared memory and samples a chunk of 16 actions; otherwise it takes the next action of the
chunk. An encoder is not run: its output is a fixed vector. In the case "background" a second thread samples, and the
chunk is due 80 ms later, or at 100 Hz 70 ms. A deadline is missed if the action is not there before the
next tick begins. The tick in whose time a late action comes begins late, and those that passed meanwhile are left out:
the robot holds its target, and they count as missed.

Each cell has a process of its own, a camera (`camera.py`), and a process that computes without end. Real-time priority
is given by `chrt`, and a core by `taskset`, to the acting process, its server and all their threads.

A cell that benchmarks/results/control_loop.json holds, with as many seconds or more, is not measured again. If that
file was made on another machine, nothing is measured. Writes that file and docs/results/control-loop.md, or both into
the folder that $BENCHMARK_RESULTS names.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from busy import BUSY, COND_DIM, beside
from camera import Frames
from common import RESULTS, command_line, times_to_keep, write_results
from control_loop_report import CASES, SCHEDULING, write_page
from ticks import Tick, run_ticks, summary

from action_heads import ActionHead, BackgroundExecutor, ConditionedHead, Executor
from action_heads._util.progress import progress_bar
from action_heads.adapters import AdaLNZero
from action_heads.io.files import read_json
from action_heads.runtime.compiled import CompiledPolicy
from action_heads.runtime.remote import RemotePolicy

RATES, WARM_UP = (20, 50, 100), 5
BACKGROUND = 0.08  # seconds that a chunk may take in a second thread
PRIORITY = 40  # above every ordinary process, and below the kernel's threads for interrupts, which have 50
FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Cell:
    """The settings of a row of the table."""

    rate: int  # ticks a second
    case: str  # "eager", "native", "background" or "server"
    scheduling: str  # "ordinary", "real-time" or "own-core"
    execute: int  # ticks from one chunk to the next
    steps: int
    threads: int
    head: str


# ── in the acting process ────────────────────────────────────────────────────────────────────────────────────────────


def compiled(policy: ConditionedHead) -> CompiledPolicy:
    """Compile a policy with `native`, and with nothing else."""
    fast = policy.compile("native")
    if fast.compiled.method != "native":
        raise RuntimeError(f"native can't be measured here: {fast.compiled.reason}")
    return fast


def acted(cell: Cell, ticks: int, adapter: Path, memory: Path, url: str | None) -> dict[str, Any]:
    """Act for some ticks, and return them with the rate of the camera meanwhile."""
    torch.set_num_threads(cell.threads)
    frames, cond = Frames(memory), torch.randn(1, COND_DIM)
    with ExitStack() as stack:
        if url:
            policy = stack.enter_context(RemotePolicy(url, timeout=60))
        else:
            policy = ConditionedHead.from_pretrained(adapter).eval()
            policy = policy if cell.case == "eager" else compiled(policy)
        for _ in range(WARM_UP):
            policy.sample(cond, steps=cell.steps)
        if cell.case == "background":
            delay = min(cell.execute - 1, math.ceil(BACKGROUND * cell.rate))
            executor = stack.enter_context(
                BackgroundExecutor(policy, execute=cell.execute, delay=delay, steps=cell.steps)
            )
        else:
            executor = Executor(policy, execute=cell.execute, steps=cell.steps)

        def act() -> bool:
            if due := executor.due:
                frames.newest()
            executor(cond if due else None)[0].numpy()
            return due

        count, began = frames.count, time.perf_counter()
        done = run_ticks(act, cell.rate, ticks)
        return {"ticks": done, "camera_fps": (frames.count - count) / (time.perf_counter() - began)}


# ── beside it ────────────────────────────────────────────────────────────────────────────────────────────────────────


def prefixes(scheduling: str, cores: Sequence[int]) -> tuple[list[str], list[str]]:
    """Return what stands before the commands of the acting process and its server, and before those of the others."""
    if scheduling == "real-time":
        return ["chrt", "--fifo", str(PRIORITY)], []
    if scheduling == "own-core":
        *others, own = map(str, cores)
        return ["taskset", "--cpu-list", own], ["taskset", "--cpu-list", ",".join(others)]
    return [], []


def why_not(scheduling: str, cores: Sequence[int]) -> str:
    """Return why a way of scheduling can't be measured here, or an empty string."""
    if scheduling == "own-core" and len(cores) < 2:
        return "there is one core"
    try:
        done = subprocess.run([*prefixes(scheduling, cores)[0], "true"], capture_output=True, text=True)
    except OSError as error:
        return f"{error} (apt-get install util-linux)"
    return done.stderr.strip()


def served(stack: ExitStack, adapter: Path, ours: Sequence[str], environment: dict[str, str]) -> str:
    """Start `action-heads serve`, and return its address once it listens."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    flags = ["serve", str(adapter), "--port", str(port), "--method", "native"]
    command = [*ours, sys.executable, "-m", "action_heads.cli", *flags]
    server = stack.enter_context(beside(*command, stdout=subprocess.PIPE, env=environment))
    assert server.stdout
    if not any("Serving at" in line for line in server.stdout):
        raise RuntimeError("the server ended before it listened")
    return f"ws://127.0.0.1:{port}"


def measured(cell: Cell, seconds: float, adapter: Path) -> dict[str, Any]:
    """Return the row of a cell."""
    ours, others = prefixes(cell.scheduling, sorted(os.sched_getaffinity(0)))
    ticks, environment = round(seconds * cell.rate), os.environ | {"OMP_NUM_THREADS": str(cell.threads)}
    with ExitStack() as stack:
        memory = Path(stack.enter_context(tempfile.TemporaryDirectory(dir="/dev/shm"))) / "frames"
        stack.enter_context(beside(*others, sys.executable, str(FOLDER / "camera.py"), str(memory)))
        url = served(stack, adapter, ours, environment) if cell.case == "server" else None
        stack.enter_context(beside(*others, sys.executable, "-c", BUSY))
        told = json.dumps({"ticks": ticks, "adapter": str(adapter), "memory": str(memory), "url": url})
        command = [*ours, sys.executable, __file__, "--act", json.dumps(asdict(cell)), told]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    found = json.loads(done.stdout.splitlines()[-1])
    row = summary([Tick(*tick) for tick in found["ticks"]], cell.rate, ticks)
    return {**asdict(cell), "seconds": seconds, **row, "camera_fps": round(found["camera_fps"], 1)}


# ── the command ──────────────────────────────────────────────────────────────────────────────────────────────────────


def settings() -> argparse.Namespace:
    parser = command_line(__doc__)
    parser.add_argument("--rates", type=int, nargs="+", default=RATES, help="ticks a second")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=CASES)
    parser.add_argument("--scheduling", nargs="+", choices=SCHEDULING, default=SCHEDULING)
    parser.add_argument("--seconds", type=float, default=60.0, help="of a cell")
    parser.add_argument("--execute", type=int, default=8, help="ticks from one chunk to the next; 1 for one every tick")
    parser.add_argument("--steps", type=int, default=10, help="denoising steps of a chunk")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--head", default="dae/mixer-5m-fk")
    parser.add_argument("--page", action="store_true", help="write the page alone")
    parser.add_argument("--act", nargs=2, type=json.loads, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    options = settings()
    if options.act:
        cell, told = options.act
        print(json.dumps(acted(Cell(**cell), **told | {name: Path(told[name]) for name in ("adapter", "memory")})))
        return
    if not options.page:
        measure(options, times_to_keep("control_loop") or [])
    print(write_page(measured_before()))


def measured_before() -> dict[str, Any] | None:
    """Return what the file holds, or None."""
    return read_json(file) if (file := RESULTS / "control_loop.json").exists() else None


def measure(options: argparse.Namespace, rows: list[dict[str, Any]]) -> None:
    """Measure the cells that the rows lack, and write the file after each."""
    found = {key(row): row for row in rows}
    own, cores = (options.execute, options.steps, options.threads, options.head), sorted(os.sched_getaffinity(0))
    reasons = {scheduling: why_not(scheduling, cores) for scheduling in options.scheduling}
    for scheduling, reason in reasons.items():
        if reason:
            print(f"{scheduling} is left out: {reason}")
    cells = [
        Cell(rate, case, scheduling, *own)
        for rate, scheduling, case in itertools.product(options.rates, options.scheduling, options.cases)
        if not reasons[scheduling]
    ]
    todo = [cell for cell in cells if found.get(cell, {"seconds": 0})["seconds"] < options.seconds]
    with tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        ActionHead.from_pretrained(options.head).attach(AdaLNZero(COND_DIM)).save_adapter(folder)
        for cell in progress_bar(todo, desc="cells"):
            found[cell] = measured(cell, options.seconds, Path(folder))
            print(found[cell], flush=True)
            write_results("control_loop", list(found.values()))


def key(row: dict[str, Any]) -> Cell:
    """Return the cell of a row."""
    return Cell(**{name: row[name] for name in Cell.__dataclass_fields__})


if __name__ == "__main__":
    main()
