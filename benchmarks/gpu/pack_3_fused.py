"""Pack 3: the fused kernels on a GPU. Time them beside graph and eager, check and tune them, and run their tests.

python benchmarks/gpu/pack_3_fused.py          # at most 9 minutes on one H100 or H200; installs nothing
TRITON_INTERPRET=1 python benchmarks/gpu/pack_3_fused.py --toy      # the same on a CPU, to show that it works

What the targets need comes first, since time may run out. Results: <out>/pack_3_fused.json, where `tiles` names the
fastest tiles for `tiles_for` in action_heads/runtime/fused.py. The last lines printed are the targets with their times.
Times are of `sample`, synchronised, in milliseconds. To publish the results, copy the file to benchmarks/gpu/results/;
`uv run benchmarks/fused_report.py` then fills the page.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from packs import Pack, device, options, tests_marked_gpu
from torch.utils.flop_counter import FlopCounterMode

from action_heads import ActionHead, HeadConfig
from action_heads.adapters import ADAPTERS
from action_heads.diffusion.samplers import Sampling
from action_heads.runtime.compiled import Compiled, CompiledPolicy, compile_policy
from action_heads.runtime.fused import FusedHead, Tiles, coefficients, tiles_for
from action_heads.runtime.graph import capture

from common import matrix_rate, memory_rate  # isort: skip  packs.py puts benchmarks/ on the path
from fused_targets import POLICIES, lines, name_of  # isort: skip

COND_DIM = 512
LONGEST = 30  # seconds that a measurement may take, so that none begins in the last of the pack
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
TESTS = ("tests/runtime/test_fused.py",)
# Precision, batch and steps of the first policy, the most important case first.
FIRST = [("bf16", 1, 10), ("bf16", 1, 1), ("fp32", 1, 10), ("fp32", 1, 1), ("bf16", 4096, 10)]
SECOND = [("bf16", 1, 10), ("bf16", 1, 1), ("bf16", 4096, 10)]  # of the other policy with targets
TUNED = [("bf16", 1), ("bf16", 4096), ("fp32", 1)]  # the precisions and batches whose tiles are tuned
REST = [("bf16", 256, 10), ("fp32", 4096, 10), ("bf16", 16, 10), ("fp32", 256, 10), ("bf16", 4096, 1), ("bf16", 256, 1)]
SMALL = [
    Tiles(),
    Tiles(up=16),
    Tiles(up=64),
    Tiles(depth=256, stages=2),
    Tiles(warps=8),
    Tiles(up=64, down=32, warps=8),
    Tiles(down=32, depth=256),
    Tiles(warps=2),
]
LARGE = [
    Tiles(32, 64, 64, 64, 4),
    Tiles(32, 128, 64, 64, 4),
    Tiles(64, 64, 64, 64, 8),
    Tiles(64, 128, 64, 64, 8),
    Tiles(64, 128, 128, 64, 8, 4),
    Tiles(64, 256, 128, 64, 8),
    Tiles(128, 128, 128, 64, 8),
    Tiles(128, 128, 128, 64, 16),
]
AGAIN = "PACK_3_END"  # set in a process that goes on after another; the end of the pack by the machine's clock


def once(pack: Pack, name: str, measure: Callable[[], Any]) -> Any:
    """Return a result as `Pack.once` does. An error is a result too: one failing case must not cost the others."""

    def measured() -> Any:
        try:
            return measure()
        except Exception as error:
            return {"error": f"{type(error).__name__}: {str(error)[:400]}"}

    before = name in pack.results
    found = pack.once(name, LONGEST, measured)
    if not before and failed(found) and not alive():
        go_on(pack)
    return found


def alive() -> bool:
    """Return whether the GPU still computes for this process. After an illegal access it never does again."""
    try:
        return not torch.cuda.is_available() or float(torch.ones(2, device="cuda").sum()) == 2
    except Exception:
        return False


def go_on(pack: Pack) -> None:
    """Go on in a new process in place of this one, with the results and errors so far, and the time that is left."""
    print("The GPU computes no more for this process; a new one goes on.", flush=True)
    os.environ[AGAIN] = str(pack.end)
    os.execv(sys.executable, [sys.executable, *sys.argv])


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def times(call: Callable[[], object], seconds: float) -> dict[str, float]:
    """Return median and 99th percentile in ms of a synchronised call, repeated for about so many seconds."""

    def once() -> float:
        synchronize()
        began = time.perf_counter()
        call()
        synchronize()
        return time.perf_counter() - began

    once()  # compiles and captures
    least = min(once() for _ in range(2))
    measured = sorted(once() for _ in range(max(3, min(1000, int(seconds / least)))))
    p99 = measured[min(len(measured) - 1, int(0.99 * len(measured)))]
    found = {"p50": statistics.median(measured), "p99": p99, "min": measured[0]}
    return {name: round(1e3 * value, 4) for name, value in found.items()} | {"runs": len(measured)}


def fused(policy: Any, dtype: torch.dtype, tiles: Tiles | None) -> CompiledPolicy:
    return CompiledPolicy(policy, FusedHead(policy.head, dtype, tiles), Compiled("fused", dtype, "pack"))


@torch.no_grad()
def loop_ms(policy: Any, dtype: torch.dtype, tiles: Tiles, cond: torch.Tensor, seconds: float) -> float:
    """Return the median time of a graph of two denoising steps by the kernels alone."""
    head, plan = FusedHead(policy.head, dtype, tiles), policy.head.plan(Sampling(steps=2))
    table, shares = policy.step_values(), coefficients(policy.head.objective, plan)

    def loop(values: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        return head.denoise_fused(shares, table, values, policy.modulation, noise, plan)

    given = policy.modulate(cond), head.noise(len(cond))
    return times(partial(capture(loop, *given), *given), seconds)["p50"]


def check(policy: Any, dtype: torch.dtype, cond: torch.Tensor) -> dict[str, Any]:
    """Return how far the chunks are from eager in float32, and why the kernels were not used if they were not."""
    fast = fused(policy, dtype, None)
    chunks = [p.sample(cond, generator=torch.Generator().manual_seed(0)) for p in (policy, fast)]
    apart = (chunks[0] - chunks[1]).abs()
    return {"max": float(apart.max()), "mean": float(apart.mean()), "fell_back": fast.head.fell_back}  # type: ignore[union-attr]


def tune(pack: Pack, policies: dict[str, Any], label: str, batch: int, cases: list[tuple[str, int, int]]) -> None:
    """Measure a short list of tiles, and time the cases of this batch again with the fastest if it is another."""
    policy, dtype, on = policies[next(iter(policies))], DTYPES[label], device()
    cond, own = torch.randn(batch, COND_DIM, device=on), tiles_for(batch * policy.head.config.horizon, dtype)
    listed = [Tiles(), Tiles(rows=32)] if pack.toy else SMALL if own.rows == 16 else LARGE
    found = {}
    for tiles in dict.fromkeys((own, *listed)):
        key = f"tiles {label} {batch} {'/'.join(map(str, tiles))}"
        took = once(pack, key, partial(loop_ms, policy, dtype, tiles, cond, 0.02 if pack.toy else 0.2))
        if isinstance(took, float):
            found[tiles] = took
    if not found:
        return
    best = min(found, key=found.__getitem__)
    pack.results.setdefault("tiles", {})[f"{label} {batch}"] = best._asdict()
    pack.write()
    if best != own:
        for name in [name for name in POLICIES if name in policies]:
            for case in [case for case in cases if case[:2] == (label, batch)]:
                time_case(pack, name, policies[name], *case, tiles=best)


def time_case(
    pack: Pack, name: str, policy: Any, label: str, batch: int, steps: int, tiles: Tiles | None = None
) -> None:
    """Time a case by the fused kernels and, unless with other tiles than their own, by graph and eager."""
    dtype, on, seconds = DTYPES[label], device(), 0.02 if pack.toy else 0.7
    cond = torch.randn(batch, COND_DIM, device=on)
    methods: dict[str, Callable[[], CompiledPolicy]] = {
        "fused" if tiles is None else "fused, tuned": lambda: fused(policy, dtype, tiles)
    }
    for method in () if tiles else ("graph", "eager") if on == "cuda" else ("eager",):
        methods[method] = partial(compile_policy, policy, method, dtype)
    for method, build in methods.items():
        once(pack, f"{name_of(name, label, batch, steps)}: {method}", lambda b=build: timed(b(), cond, steps, seconds))


def timed(fast: CompiledPolicy, cond: torch.Tensor, steps: int, seconds: float) -> dict[str, Any]:
    """Time `sample`, and say if the fused kernels gave way."""
    found: dict[str, Any] = times(lambda: fast.sample(cond, steps=steps), seconds)
    if isinstance(fast.head, FusedHead):
        found["fell_back"] = fast.head.fell_back
    return found


def rates() -> dict[str, float]:
    """Return the highest rates of matrix products, in operations per second, and of memory, in bytes per second."""
    on = device()
    return {label: matrix_rate(dtype, on) for label, dtype in DTYPES.items()} | {"memory": memory_rate(on)}


@torch.no_grad()
def work(policy: Any) -> dict[str, int]:
    """Return the operations of a chunk's first and of a further step, the frozen weights, and the bytes of a chunk."""
    cond = torch.randn(1, COND_DIM, device=device())

    def operations(steps: int) -> int:
        with FlopCounterMode(display=False) as counter:
            policy.sample(cond, steps=steps)
        return counter.get_total_flops()

    policy.sample(cond, steps=1)  # Tables that are computed once do not count.
    one, two = operations(1), operations(2)
    chunk = policy.sample(cond, steps=1)
    weights = sum(p.numel() for p in policy.head.backbone.parameters())
    return {"first_step": one, "further_step": two - one, "weights": weights, "chunk_bytes": 2 * 4 * chunk.numel()}


def heads_of(toy: bool) -> dict[str, ActionHead]:
    """Return the heads by the name of their backbone."""
    if toy:
        small = HeadConfig(name="toy/mixer", backbone="mixer", width=16, depth=1, horizon=4, rank=4)
        return {"mixer": ActionHead(small).freeze().to(device())}
    return {name: ActionHead.from_pretrained(f"dae/{name}-5m-fk", device=device()) for name in ("mixer", "mlp")}


def run(pack: Pack) -> None:
    """Measure everything, in the order in which it matters."""
    toy = pack.toy
    every = {
        f"{name} {kind}": head.attach(ADAPTERS[kind](COND_DIM)).to(device()).eval()
        for name, head in heads_of(toy).items()
        for kind in (("adaln_zero",) if toy else head.config.mechanisms)
    }
    first, *others = main = [name for name in POLICIES if name in every]
    begin = [("fp32", 1, 1)] if toy else FIRST
    for case in begin[:1]:
        time_case(pack, first, every[first], *case)
    once(pack, "rates", rates)
    for name in main:
        once(pack, f"work {name}", partial(work, every[name]))
    for case in begin[1:]:
        time_case(pack, first, every[first], *case)
    for name in others:
        for case in SECOND:
            time_case(pack, name, every[name], *case)
    pack.once(
        "tests of the bundled head", LONGEST, lambda: tests_marked_gpu(pack, "tests-1", TESTS, 90, "-k", "shipped")
    )
    for label, batch in [("fp32", 1)] if toy else TUNED:
        tune(pack, {name: every[name] for name in main}, label, batch, begin)
    if not toy:
        pack.once("tests of all modulations", 60, lambda: tests_marked_gpu(pack, "tests-2", TESTS, 150))
        for name in [*main, *(name for name in every if name.endswith(" film"))]:
            for case in [*REST, *FIRST]:
                time_case(pack, name, every[name], *case)
    for name, policy in every.items():
        for label, dtype in DTYPES.items() if not toy else [("fp32", torch.float32)]:
            cond = torch.randn(3, COND_DIM, device=device())
            once(pack, f"check {name} {label}", partial(check, policy, dtype, cond))


def failed(result: Any) -> bool:
    return isinstance(result, dict) and "error" in result


def main() -> None:
    """Run the pack. What failed in an earlier one is measured again."""
    pack, _ = options(__doc__ or "", "pack_3_fused")
    if end := os.environ.get(AGAIN):
        pack.end = float(end)
    else:
        pack.results = {name: result for name, result in pack.results.items() if not failed(result)}

    def report() -> None:
        pack.report(lines(pack.results))

    clock = pack.watch(report)
    try:
        run(pack)
    finally:
        clock.cancel()
        report()


if __name__ == "__main__":
    main()
