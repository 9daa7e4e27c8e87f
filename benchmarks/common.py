"""What every benchmark shares: the machine it ran on, medians, and a results file that names its command."""

from __future__ import annotations

import json
import os
import shlex
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from action_heads.files import write_text
from action_heads.machine import machine

RESULTS = Path(__file__).parent / "results"


def write_results(name: str, results: object) -> None:
    """benchmarks/results/<name>.json, with command, date and machine."""
    record = {
        "command": shlex.join(
            ["uv", "run", *(os.path.relpath(arg) if Path(arg).exists() else arg for arg in sys.argv)]
        ),
        "date": time.strftime("%Y-%m-%d"),
        "machine": machine(),
        "results": results,
    }
    write_text(RESULTS / f"{name}.json", json.dumps(record, indent=2) + "\n")


def median_ms(call: Callable[[], object], repeats: int = 50, warm_up: int = 5) -> float:
    """Median wall time of a call in milliseconds, synchronised with the accelerator if there is one."""
    synchronize = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    times = []
    for i in range(warm_up + repeats):
        synchronize()
        began = time.perf_counter()
        call()
        synchronize()
        if i >= warm_up:
            times.append(time.perf_counter() - began)
    return round(1e3 * statistics.median(times), 2)
