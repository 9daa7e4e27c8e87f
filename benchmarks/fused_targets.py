"""The targets of the fused kernels on one H200, and whether the results of benchmarks/gpu/pack_3_fused.py meet them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

POLICIES = ("mixer adaln_zero", "mlp adaln_zero")
FUSED = ("fused", "fused, tuned")  # with the tiles of `tiles_for`, and with the fastest of the pack's list


MISSING = "not measured"


class Target(NamedTuple):
    """The longest median time of a case in bf16: milliseconds, or a multiple of its floor."""

    policy: str
    batch: int
    steps: int
    ms: float | None = None
    floors: float | None = None


class Verdict(NamedTuple):
    """A target beside what was measured; `met` is None if that is not known.

    Without a limit or a time, `why` says what is missing.
    """

    target: Target
    limit_ms: float | None
    measured_ms: float | None
    met: bool | None
    why: str


TARGETS = [
    target
    for policy in POLICIES
    for target in (
        Target(policy, 1, 10, ms=0.3),
        Target(policy, 1, 1, ms=0.06),
        Target(policy, 4096, 10, floors=1.5),
    )
]


def name_of(policy: str, dtype: str, batch: int, steps: int) -> str:
    """Return the name of a case in the results of the pack; the method follows after a colon."""
    return f"{policy} {dtype} batch {batch} steps {steps}"


def floor_ms(results: Mapping[str, Any], policy: str, dtype: str, batch: int, steps: int) -> float | None:
    """Return the least time of a case, or None if the rates or the work of the policy were not measured.

    It is the larger of two times: the operations at the highest rate of matrix products, and the frozen weights,
    noise and chunk at the highest rate of memory, each read or written once.
    """
    rates, work = results.get("rates") or {}, results.get(f"work {policy}") or {}
    if dtype not in rates or "first_step" not in work:
        return None
    operations = batch * (work["first_step"] + (steps - 1) * work["further_step"])
    moved = work["weights"] * (2 if dtype == "bf16" else 4) + batch * work["chunk_bytes"]
    return 1e3 * max(operations / rates[dtype], moved / rates["memory"])


def fused_ms(results: Mapping[str, Any], case: str) -> tuple[float | None, str]:
    """Return the least median time of the fused kernels in a case, or None and why there is none.

    Kernels that failed, or that gave way to the graph, have none.
    """
    found = [result for method in FUSED if (result := results.get(f"{case}: {method}"))]
    times = [result["p50"] for result in found if "error" not in result and not result["fell_back"]]
    if times:
        return min(times), ""
    return None, next((result.get("error") or result["fell_back"] for result in found), MISSING)


def verdicts(results: Mapping[str, Any]) -> list[Verdict]:
    """Return every target beside what was measured."""
    rows = []
    for target in TARGETS:
        case = target.policy, "bf16", target.batch, target.steps
        measured, why = fused_ms(results, name_of(*case))
        limit, floor = target.ms, floor_ms(results, *case)
        if target.floors is not None:
            limit = None if floor is None else target.floors * floor
        if limit is None:
            why = why or "its floor was not measured"
        met = None if measured is None or limit is None else measured <= limit
        if measured is None and why != MISSING:
            met = False
        rows.append(Verdict(target, limit, measured, met, why))
    return rows


def limit_of(verdict: Verdict) -> str:
    """Return the limit of a target in words."""
    if verdict.target.floors is None:
        return f"{verdict.limit_ms:g} ms"
    return f"{verdict.target.floors:g} floors" + (f" ({verdict.limit_ms:.3g} ms)" if verdict.limit_ms else "")


def answer(verdict: Verdict) -> str:
    """Return whether a target is met, in words."""
    return {True: "met", False: "not met", None: "not known"}[verdict.met] + (
        f" ({verdict.why})" if verdict.why else ""
    )


def lines(results: Mapping[str, Any]) -> list[str]:
    """Return a line of text for every target."""
    texts = []
    for verdict in verdicts(results):
        policy, batch, steps = verdict.target[:3]
        measured = "no time" if verdict.measured_ms is None else f"{verdict.measured_ms:.4g} ms"
        case = f"{policy}, bf16, batch {batch}, {steps} step{'s' * (steps > 1)}"
        texts.append(f"target: {case}: at most {limit_of(verdict)}; measured {measured}: {answer(verdict)}")
    return texts
