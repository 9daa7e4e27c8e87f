"""Pack 3: the fused kernels on a GPU. Check them against eager, tune their tiles, and time them beside graph and eager.

python benchmarks/gpu/pack_3_fused.py          # at most 12 minutes on one H100 or H200; installs nothing
TRITON_INTERPRET=1 python benchmarks/gpu/pack_3_fused.py --toy      # the same on a CPU, to show that it works

Results: <out>/pack_3_fused.json. `tiles` names the fastest tiles for `tiles_for` in action_heads/runtime/fused.py.
Times are of `sample`, synchronised, in milliseconds.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from packs import Pack, device, options

from action_heads import ActionHead, HeadConfig
from action_heads.adapters import ADAPTERS
from action_heads.diffusion.samplers import Sampling
from action_heads.runtime.compiled import Compiled, CompiledPolicy, compile_policy
from action_heads.runtime.fused import FusedHead, Tiles, coefficients, tiles_for
from action_heads.runtime.graph import capture

COND_DIM = 512
LONGEST = 60  # seconds that a measurement may take, so that none begins in the last of the pack
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
# The most important case first, since time may run out.
CASES = [(1, 10), (1, 1), (256, 10), (4096, 10), (16, 10), (16, 1), (256, 1), (4096, 1)]
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


def once(pack: Pack, name: str, measure: Callable[[], Any]) -> Any:
    """Return a result as `Pack.once` does. An error is a result too: one failing case must not cost the others."""

    def measured() -> Any:
        try:
            return measure()
        except Exception as error:
            return {"error": f"{type(error).__name__}: {str(error)[:400]}"}

    return pack.once(name, LONGEST, measured)


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


def tuned(pack: Pack, name: str, policy: Any, dtype: torch.dtype, cond: torch.Tensor) -> Tiles:
    """Return the fastest tiles of the short list; those of `tiles_for` if there was no time or none works."""
    own = tiles_for(len(cond) * policy.head.config.horizon)
    listed = [Tiles(), Tiles(rows=32)] if pack.toy else SMALL if own.rows == 16 else LARGE
    found = {}
    for tiles in dict.fromkeys((own, *listed)):
        key = f"tiles {name} {'/'.join(map(str, tiles))}"
        took = once(pack, key, lambda tiles=tiles: loop_ms(policy, dtype, tiles, cond, 0.02 if pack.toy else 0.2))
        if isinstance(took, float):
            found[tiles] = took
    best = min(found, key=found.__getitem__, default=own)
    pack.results.setdefault("tiles", {})[name] = best._asdict()
    pack.write()
    return best


def run(pack: Pack) -> None:
    """Check, tune and time the kernels of each head and mechanism."""
    toy, on = pack.toy, device()
    if toy:
        small = HeadConfig(name="toy/mixer", backbone="mixer", width=16, depth=1, horizon=4, rank=4)
        heads = {"mixer": ActionHead(small).freeze().to(on)}
    else:
        heads = {n: ActionHead.from_pretrained(f"dae/{n}-5m-fk", device=on) for n in ("mixer", "mlp")}
    policies = {
        (name, kind): head.attach(ADAPTERS[kind](COND_DIM)).to(on).eval()
        for name, head in heads.items()
        for kind in (("adaln_zero",) if toy else head.config.mechanisms)
    }
    dtypes = {"fp32": torch.float32} if toy else DTYPES
    for (name, kind), policy in policies.items():
        for label, dtype in dtypes.items():
            cond = torch.randn(3, COND_DIM, device=on)
            once(pack, f"check {name} {kind} {label}", lambda p=policy, d=dtype, c=cond: check(p, d, c))
    main = [key for key in policies if key[1] in ("adaln_zero", "film")] if not toy else list(policies)
    best: dict[tuple, Tiles] = {}
    for batch, steps in [(1, 1)] if toy else CASES:
        cond = torch.randn(batch, COND_DIM, device=on)
        for label, dtype in dtypes.items():
            for key in main if batch in (1, 4096) or toy else main[:1]:
                policy = policies[key]
                if (label, batch) not in best:
                    best[label, batch] = tuned(pack, f"{label} {batch}", policy, dtype, cond)
                case, seconds = f"{' '.join(key)} {label} batch {batch} steps {steps}", 0.02 if toy else 0.7
                methods: dict[str, Callable[[], Any]] = {
                    "fused": lambda p=policy, d=dtype, t=best[label, batch]: fused(p, d, t),
                    "eager": lambda p=policy, d=dtype: compile_policy(p, "eager", d),
                }
                if on == "cuda":
                    methods["graph"] = lambda p=policy, d=dtype: compile_policy(p, "graph", d)
                for method, build in methods.items():
                    once(pack, f"{case}: {method}", lambda b=build, c=cond, k=steps, s=seconds: timed(b(), c, k, s))


def timed(fast: CompiledPolicy, cond: torch.Tensor, steps: int, seconds: float) -> dict[str, Any]:
    """Time `sample`, and say if the fused kernels gave way."""
    found: dict[str, Any] = times(lambda: fast.sample(cond, steps=steps), seconds)
    if isinstance(fast.head, FusedHead):
        found["fell_back"] = fast.head.fell_back
    return found


def failed(result: Any) -> bool:
    return isinstance(result, dict) and "error" in result


def main() -> None:
    """Run the pack. What failed in an earlier one is measured again."""
    pack, _ = options(__doc__ or "", "pack_3_fused")
    pack.results = {name: result for name, result in pack.results.items() if not failed(result)}
    run(pack)
    pack.report()


if __name__ == "__main__":
    main()
