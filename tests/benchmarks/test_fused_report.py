"""The targets of the fused kernels are judged by what was measured, and the page says it, or that nothing was."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
POLICY = "mixer adaln_zero"
WORK = {"first_step": 10**7, "further_step": 10**6, "weights": 10**6, "chunk_bytes": 1280}
FLOORS = {"rates": {"bf16": 1e13, "fp32": 1e12, "memory": 1e12}, f"work {POLICY}": WORK}


@pytest.fixture
def targets(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return import_module("fused_targets")


@pytest.fixture
def report(targets, monkeypatch):
    for name in ("tyro", "action_heads_lab", "matplotlib"):
        pytest.importorskip(name)
    monkeypatch.delitem(sys.modules, "common", raising=False)
    return import_module("fused_report")


def timed(ms: float, fell_back: str = "") -> dict:
    return {"p50": ms, "fell_back": fell_back}


def verdict_of(targets, results: dict, batch: int, steps: int):
    (found,) = [v for v in targets.verdicts(results) if v.target[:3] == (POLICY, batch, steps)]
    return found


@pytest.mark.parametrize(("ms", "met"), [(0.3, True), (0.301, False)])
def test_a_target_in_milliseconds(targets, ms, met):
    results = {f"{POLICY} bf16 batch 1 steps 10: fused": timed(ms)}
    assert verdict_of(targets, results, 1, 10)[1:] == (0.3, ms, met, "")
    assert verdict_of(targets, results, 1, 1)[1:] == (0.06, None, None, "not measured")


def test_a_target_in_floors_needs_the_floor(targets):
    name = f"{POLICY} bf16 batch 4096 steps 10"
    floor = 1e3 * 4096 * (1e7 + 9e6) / 1e13
    results = {f"{name}: fused": timed(1.6 * floor)}
    assert verdict_of(targets, results, 4096, 10)[1:] == (None, 1.6 * floor, None, "its floor was not measured")
    assert verdict_of(targets, results | FLOORS, 4096, 10).met is False
    found = verdict_of(targets, results | FLOORS | {f"{name}: fused, tuned": timed(1.4 * floor)}, 4096, 10)
    assert (found.met, found.measured_ms) == (True, 1.4 * floor)
    assert found.limit_ms == pytest.approx(1.5 * floor)


def test_a_floor_is_that_of_memory_where_there_is_little_to_compute(targets):
    assert targets.floor_ms(FLOORS, POLICY, "bf16", 1, 1) == pytest.approx(1e3 * (2 * 10**6 + 1280) / 1e12)
    assert targets.floor_ms(FLOORS, POLICY, "fp32", 4096, 1) == pytest.approx(1e3 * 4096 * 1e7 / 1e12)
    assert targets.floor_ms({"rates": {"error": "no"}}, POLICY, "bf16", 1, 1) is None


@pytest.mark.parametrize("result", [timed(0.1, "they are slower"), {"error": "they are slower"}])
def test_a_time_of_another_method_meets_no_target(targets, result):
    results = {f"{POLICY} bf16 batch 1 steps 10: fused": result}
    found = verdict_of(targets, results, 1, 10)
    assert (found.measured_ms, found.met, found.why) == (None, False, "they are slower")
    text = f"target: {POLICY}, bf16, batch 1, 10 steps: at most 0.3 ms; measured no time: not met (they are slower)"
    assert targets.lines(results)[0] == text


def record(results: dict) -> dict:
    machine = {"gpu": "NVIDIA H200", "processor": "a processor", "torch": "2.11"}
    return {"command": "python benchmarks/gpu/pack_3_fused.py", "date": "today", "machine": machine, "results": results}


def test_the_page_shows_targets_cases_tests_and_reasons(report):
    case, other = f"{POLICY} bf16 batch 1 steps 10", f"{POLICY} fp32 batch 1 steps 10"
    results = FLOORS | {
        f"{case}: fused": timed(0.25),
        f"{case}: graph": {"p50": 2.5},
        f"{case}: eager": {"p50": 14.0},
        f"{other}: fused": timed(2.0, "the plain graph is faster"),
        f"{other}: graph": {"p50": 2.0},
        "tests of the bundled head": {"passed": 1, "failed": 1, "failures": ["a::b"]},
        "check mlp film fp32": {"error": "CompilationError: no"},
    }
    text = report.text(record(results))
    assert "pack_3_fused.py`, today, NVIDIA H200, torch 2.11; highest measured rates: 1000 GFLOP/s in fp32" in text
    assert f"| {POLICY} | 1 | 10 | at most 0.3 ms | 0.25 | met |" in text
    assert f"| {POLICY} | bf16 | 1 | 10 | 14 | 2.5 | 0.25 | 0.002 | 10.00 |" in text
    assert f"| {POLICY} | fp32 | 1 | 10 |  | 2 |  |  |  |" in text
    assert "The tests of the bundled head: 1 passed, 1 failed (a::b)." in text
    assert f"- {other}: fused: the plain graph is faster" in text
    assert "- check mlp film fp32: CompilationError: no" in text
    assert "has not been measured" not in text


def test_a_pack_that_measured_little_gives_a_page_too(report):
    assert "not known (not measured)" in report.text(record({}))


def test_the_page_says_what_the_results_say(report):
    """Without results it says so, and names the pack that will measure them."""
    from action_heads_lab.reproduce.page import filled

    without = report.text(None)
    assert "has not been measured on a GPU" in without
    assert "python benchmarks/gpu/pack_3_fused.py" in without
    assert without.count("| not known (not measured) |") == len(report.verdicts({})) == 6
    assert f"| {POLICY} | 4096 | 10 | at most 1.5 floors |  | not known (not measured) |" in without
    found = report.read_json(report.RESULTS) if report.RESULTS.exists() else None
    page = report.PAGE.read_text(encoding="utf-8")
    assert filled(page, {"fused": report.text(found)}, report.PAGE) == page
