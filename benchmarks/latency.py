"""Measure the time of one action chunk of ours and of other systems, beside the arithmetic floor, without encoders.

uv run benchmarks/latency.py [--only ours packed] [--batch 1] [--steps 10] [--dtype fp32] [--threads 1] [--inductor]

All cases take turns, so that other load on the machine slows all of them. Writes
benchmarks/results/latency_<device>.json, and the pages that latency_report.py makes of it.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from common import matrix_rate, memory_rate, write_results
from latency_report import report
from latency_systems import COND_DIM, Sample, systems
from torch.utils.flop_counter import FlopCounterMode

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass
class Case:
    name: str
    batch: int
    steps: int
    dtype: str
    call: Callable[[], object]
    flops: int
    times: list[float] = field(default_factory=list)  # Wall time in seconds.
    busy: list[float] = field(default_factory=list)  # Processor time, which other load does not increase.


def clock(call: Callable[[], object], case: Case | None = None) -> float:
    """Time a call in seconds, and synchronise with the accelerator if there is one."""
    synchronize = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    synchronize()
    began, busy = time.perf_counter(), time.process_time()
    call()
    synchronize()
    seconds = time.perf_counter() - began
    if case is not None:
        case.times.append(seconds)
        case.busy.append(time.process_time() - busy)
    return seconds


def flops_of(sample: Sample, batch: int, steps: int, cond: torch.Tensor) -> int:
    """Return the operations of matrix products, counted at batch 1 with one and two steps. CUDA graphs hide them."""
    sample(cond[:1], 1)  # Tables that are computed once do not count.
    with FlopCounterMode(display=False) as one:
        sample(cond[:1], 1)
    with FlopCounterMode(display=False) as two:
        sample(cond[:1], 2)
    step = two.get_total_flops() - one.get_total_flops()
    return batch * (one.get_total_flops() + (steps - 1) * step)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="*", default=[], help="parts of names of cases to time, such as: ours unet")
    parser.add_argument("--batch", nargs="*", type=int, default=[1, 16, 256])
    parser.add_argument("--steps", nargs="*", type=int, default=[1, 2, 4, 10])
    parser.add_argument("--dtype", nargs="*", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--longest", type=float, default=4.0, help="leave out cases with a floor above this, in s")
    parser.add_argument("--seconds", type=float, default=4.0, help="longest time for one case after its third run")
    parser.add_argument("--inductor", action="store_true", help="also compile with inductor (minutes on a CPU)")
    parser.add_argument("--note", default="", help="a note on other load of the machine")
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(options.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    rates = {name: matrix_rate(dtype, device) for name, dtype in DTYPES.items()}
    chosen = {
        name: build
        for name, build in systems(device).items()
        if (not options.only or any(part.lower() in name.lower() for part in options.only))
        and (options.inductor or "inductor" not in name)
    }
    cases, left_out = [], []
    for name, build in chosen.items():
        for dtype in options.dtype:
            cond = torch.randn(max(options.batch), COND_DIM, device=device)
            if "ours" not in name or "diffusers" in name:
                cond = cond.to(DTYPES[dtype])
            try:
                sample = build(DTYPES[dtype])
                # torch's table lacks the operators of compiled heads, whose arithmetic equals that of eager mode.
                plain = systems(device)[name.rsplit(", ", 1)[0] + ", eager"](DTYPES[dtype]) if is_ours(name) else sample
            except RuntimeError as error:
                left_out.append({"what": name, "dtype": dtype, "why": str(error)})
                continue
            for batch in options.batch:
                for steps in options.steps:
                    flops = flops_of(plain, batch, steps, cond)
                    if (floor := flops / rates[dtype]) > options.longest:
                        case = {"what": name, "dtype": dtype, "batch": batch, "steps": steps}
                        left_out.append({**case, "why": f"its floor is {floor:.0f} s"})
                        continue
                    call = lambda sample=sample, cond=cond[:batch], steps=steps: sample(cond, steps)  # noqa: E731
                    cases.append(Case(name, batch, steps, dtype, call, flops))
                    for _ in range(2):  # These calls warm up.
                        clock(call)
    print(f"{len(cases)} cases, {len(left_out)} left out")
    for _ in range(options.rounds):
        for case in cases:
            if len(case.times) < 3 or sum(case.times) < options.seconds:
                clock(case.call, case)
    rows = [summary(case, rates) for case in cases]
    results = {
        "note": options.note,
        "gflop_per_s": {name: round(rate / 1e9, 1) for name, rate in rates.items()},
        "gb_per_s": round(memory_rate(device) / 1e9, 1),
        "rows": rows,
        "left_out": left_out,
    }
    write_results(f"latency_{device}", results)
    report(device)


def is_ours(name: str) -> bool:
    return name.startswith("ours, ") and "diffusers" not in name


def summary(case: Case, rates: dict[str, float]) -> dict:
    return {
        "what": case.name,
        "batch": case.batch,
        "steps": case.steps,
        "dtype": case.dtype,
        "ms": round(1e3 * statistics.median(case.times), 3),
        "least_ms": round(1e3 * min(case.times), 3),
        "least_busy_ms": round(1e3 * min(case.busy), 3),
        "runs": len(case.times),
        "mflop": round(case.flops / 1e6, 1),
        "floor_ms": round(1e3 * case.flops / rates[case.dtype], 3),
    }


if __name__ == "__main__":
    main()
