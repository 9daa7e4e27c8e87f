"""Measure the time of one action chunk of ours and of other systems, beside the arithmetic floor, without encoders.

uv run benchmarks/latency.py [--only ours packed] [--batch 1] [--steps 10] [--dtype fp32] [--threads 1] [--inductor]
uv run benchmarks/latency.py --authors ../DecoupledActionExpert --only ours authors

All cases take turns, so that other load on the machine slows all of them. Writes
benchmarks/results/latency_<device>.json, and the pages that latency_report.py makes of it.

`--authors` adds the networks of the paper's authors, from a checkout of github.com/jianzhou0420/DecoupledActionExpert.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from common import RESULTS, command_line, matrix_rate, memory_rate, times_to_keep, write_results
from forms import BF16_WEIGHTS, split
from latency_report import below_floors, commands_of, report
from latency_systems import COND_DIM, FellBack, Sample, authors, systems
from torch.utils.flop_counter import FlopCounterMode

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
Build = Callable[[torch.dtype], Sample]


@dataclass(frozen=True)
class Operations:
    """Operations of a call. A GPU may compute convolutions in float32 by TF32, but not matrix products."""

    products: int
    convolutions: int

    @property
    def flops(self) -> int:
        return self.products + self.convolutions

    def floor(self, rates: dict[str, float], dtype: str) -> float:
        """Return the least time in seconds of these operations, at the rates that the case may reach."""
        products, convolutions = (rates.get("tf32", rates[dtype]) if it else rates[dtype] for it in tf32(dtype))
        return self.products / products + self.convolutions / convolutions


def tf32(dtype: str) -> tuple[bool, bool]:
    """Return whether matrix products and convolutions may use TF32 on a GPU, by torch's settings."""
    allowed = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    return dtype == "fp32" and bool(allowed[0]), dtype == "fp32" and bool(allowed[1])


@dataclass
class Case:
    name: str
    batch: int
    steps: int
    dtype: str
    call: Callable[[], object]
    operations: Operations
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


def operations_of(sample: Sample, batch: int, steps: int, cond: torch.Tensor) -> Operations:
    """Return the operations of a call, counted at batch 1 with one and two steps. CUDA graphs hide it."""

    def counted(steps: int) -> tuple[int, int]:
        with FlopCounterMode(display=False) as counter:
            sample(cond[:1], steps)
        by_operator = counter.get_flop_counts().get("Global", {})
        convolutions = sum(flops for name, flops in by_operator.items() if "conv" in str(name))
        return counter.get_total_flops() - convolutions, convolutions

    sample(cond[:1], 1)  # Tables that are computed once do not count.
    return Operations(
        *(batch * (one + (steps - 1) * (two - one)) for one, two in zip(counted(1), counted(2), strict=True))
    )


# ── the cases ────────────────────────────────────────────────────────────────────────────────────────────────────────


def prepare(
    known: dict[str, Build], rates: dict[str, float], options: argparse.Namespace, device: str
) -> tuple[list[Case], list[dict]]:
    """Return the cases of the systems that are asked for, and what is left out with the reason."""
    cases, left_out = [], []
    for name, dtype in itertools.product(chosen(known, options), options.dtype):
        if dtype == "fp32" and split(name)[1] == BF16_WEIGHTS:
            continue
        ready, without = cases_of(name, dtype, known, rates, options, device)
        cases += ready
        left_out += without
    return cases, left_out


def chosen(known: dict[str, Build], options: argparse.Namespace) -> list[str]:
    """Return the names of the systems that are asked for."""

    def has(name: str, parts: list[str]) -> bool:
        return any(part.lower() in name.lower() for part in parts)

    named = [n for n in known if (not options.only or has(n, options.only)) and not has(n, options.without)]
    return [name for name in named if options.inductor or "inductor" not in name]


def cases_of(
    name: str, dtype: str, known: dict[str, Build], rates: dict[str, float], options: argparse.Namespace, device: str
) -> tuple[list[Case], list[dict]]:
    """Return the cases of a system in one precision after two calls of each, and those left out with the reason."""
    cond = torch.randn(max(options.batch), COND_DIM, device=device)
    if "ours" not in name or "diffusers" in name:
        cond = cond.to(DTYPES[dtype])
    try:
        sample, plain = built(name, DTYPES[dtype], known, cond)
    except Exception as error:  # A compiler may raise anything; the other systems are timed all the same.
        why = (str(error) or type(error).__name__).strip().splitlines()[0]
        return [], [{"what": name, "dtype": dtype, "why": why[:300]}]
    cases, left_out = [], []
    for batch, steps in itertools.product(options.batch, options.steps):
        case = {"what": name, "dtype": dtype, "batch": batch, "steps": steps}
        operations = operations_of(plain, batch, steps, cond)
        if (floor := operations.floor(rates, dtype)) > options.longest:
            left_out.append({**case, "why": f"its floor is {floor:.0f} s"})
            continue
        call = partial(sample, cond[:batch], steps)
        try:
            for _ in range(2):  # These calls warm up.
                clock(call)
        except FellBack as error:
            left_out.append({**case, "why": str(error)[:300]})
            continue
        cases.append(Case(name, batch, steps, dtype, call, operations))
    return cases, left_out


def built(name: str, dtype: torch.dtype, known: dict[str, Build], cond: torch.Tensor) -> tuple[Sample, Sample]:
    """Return a system after its first call, and its uncompiled form, whose operations can be counted."""
    sample = known[name](dtype)
    plain = plain_of(name, known)(dtype) if is_compiled(name) else sample
    with suppress(FellBack):  # It may hold for this shape only.
        sample(cond[:1], 1)
    return sample, plain


def is_compiled(name: str) -> bool:
    """Return whether the counter of operations, which does not see into compiled code, must count another form."""
    return split(name)[1] not in ("eager", BF16_WEIGHTS)


def plain_of(name: str, known: dict[str, Build]) -> Build:
    """Return the builder of the uncompiled form of a system, whose arithmetic is the same."""
    system = split(name)[0]
    return known.get(f"{system}, eager") or known[system]


# ── the times ────────────────────────────────────────────────────────────────────────────────────────────────────────


def take_turns(cases: list[Case], rounds: int, seconds: float) -> None:
    """Time all cases in every round, but one that has taken so many seconds no longer after its third time."""
    for _ in range(rounds):
        for case in cases:
            if len(case.times) < 3 or sum(case.times) < seconds:
                clock(case.call, case)


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
        "mflop": round(case.operations.flops / 1e6, 1),
        "floor_ms": round(1e3 * case.operations.floor(rates, case.dtype), 3),
    }


def rates_of(device: str) -> dict[str, float]:
    """Return the highest rates of matrix products in each precision."""
    rates = {name: matrix_rate(dtype, device) for name, dtype in DTYPES.items()}
    return rates | ({"tf32": matrix_rate(torch.float32, device, tf32=True)} if device == "cuda" else {})


# ── the command ──────────────────────────────────────────────────────────────────────────────────────────────────────


def settings() -> argparse.Namespace:
    parser = command_line(__doc__)
    parser.add_argument("--only", nargs="*", default=[], help="parts of names of cases to time, such as: ours unet")
    parser.add_argument("--without", nargs="*", default=[], help="parts of names of cases to leave out")
    parser.add_argument("--batch", nargs="*", type=int, default=[1, 16, 256])
    parser.add_argument("--steps", nargs="*", type=int, default=[1, 2, 4, 10])
    parser.add_argument("--dtype", nargs="*", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--longest", type=float, default=4.0, help="leave out cases with a floor above this, in s")
    parser.add_argument("--seconds", type=float, default=4.0, help="longest time for one case after its third run")
    parser.add_argument("--inductor", action="store_true", help="also compile with inductor (minutes on a CPU)")
    parser.add_argument("--authors", type=Path, help="checkout of the authors' repository, whose networks to time too")
    parser.add_argument("--add", action="store_true", help="keep the other rows that the results have")
    parser.add_argument("--to", help="name of the results, in place of latency_cpu or latency_cuda")
    parser.add_argument("--note", default="", help="a note on other load of the machine")
    return parser.parse_args()


def main() -> None:
    options = settings()
    torch.manual_seed(0)
    torch.set_num_threads(options.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    to = options.to or f"latency_{device}"
    earlier = times_to_keep(to) if options.add else None
    rates = rates_of(device)
    known = systems(device) | (authors(options.authors, device) if options.authors else {})
    cases, left_out = prepare(known, rates, options, device)
    print(f"{len(cases)} cases, {len(left_out)} left out")
    take_turns(cases, options.rounds, options.seconds)
    # A processor that was slower at the start would have too high floors, and too good ratios.
    rates = {name: max(rate, rates[name]) for name, rate in rates_of(device).items()}
    rows = [summary(case, rates) for case in cases]
    before = []
    if earlier:
        rows, left_out = added(earlier["rows"], rows), added(earlier["left_out"], left_out)
        before = commands_of(RESULTS / f"{to}.json")
    results = {
        "note": options.note,
        "gflop_per_s": {name: round(rate / 1e9, 1) for name, rate in rates.items()},
        "gb_per_s": round(memory_rate(device) / 1e9, 1),
        "rows": rows,
        "left_out": left_out,
    }
    if before:
        results["added_to"] = before
    write_results(to, results)
    if "BENCHMARK_RESULTS" not in os.environ:  # The page shows the results of the repository.
        report(device)
    if warning := below_floors(rows):
        print(warning)


def added(earlier: list[dict], rows: list[dict]) -> list[dict]:
    """Return the earlier rows, with new ones in the places of those of the same case, and then the other new ones."""

    def case(row: dict) -> tuple:
        return tuple(row.get(key) for key in ("what", "dtype", "batch", "steps"))

    new = {case(row): row for row in rows}
    return [new.pop(case(row), row) for row in earlier] + list(new.values())


if __name__ == "__main__":
    main()
