"""The pack of the fused kernels runs at a toy size under Triton's interpreter, and writes every kind of result."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from action_heads import ActionHead, HeadConfig

PACK = Path(__file__).parents[2] / "benchmarks" / "gpu" / "pack_3_fused.py"
LAST = "target: mlp adaln_zero, bf16, batch 4096, 10 steps: at most 1.5 floors"


@pytest.mark.slow
def test_the_pack_at_toy_size(tmp_path):
    pytest.importorskip("triton", minversion="3.3")
    command = [sys.executable, str(PACK), "--toy", "--out", str(tmp_path)]
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "pack_3_fused.json").read_text(encoding="utf-8"))["results"]
    assert not [name for name, value in results.items() if isinstance(value, dict) and "error" in value]
    check = results["check mixer adaln_zero fp32"]
    assert check["max"] < 1e-5
    assert check["fell_back"] == ""
    case = "mixer adaln_zero fp32 batch 1 steps 1"
    assert 0 < results[f"{case}: fused"]["p50"] <= results[f"{case}: fused"]["p99"]
    assert results[f"{case}: eager"]["runs"] >= 3
    assert results["tiles"]["fp32 1"]["rows"] in (16, 32)
    assert "left for the next pack" not in done.stdout
    assert results["tests of the bundled head"]["collected"] == 2
    assert results["work mixer adaln_zero"]["further_step"] > 0
    assert results["rates"]["memory"] > 0
    said = done.stdout.rstrip().splitlines()
    assert said[-7].startswith(list(results)[-1]), "results come last, and then the targets"
    assert said[-1].startswith(LAST)
    assert said[-1].endswith("not known (not measured)")


@pytest.fixture
def pack_3(monkeypatch, tmp_path):
    """Return the pack with small heads, measurements that take no time, and no earlier results."""
    for folder in (PACK.parent, PACK.parents[1]):
        monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("PACK_WORK", str(tmp_path / "work"))
    monkeypatch.setattr(import_module("packs"), "EARLIER", tmp_path / "none")
    module = import_module("pack_3_fused")
    sizes = {"width": 16, "depth": 1, "horizon": 4, "rank": 4}
    heads = {
        name: ActionHead(HeadConfig(name=f"toy/{name}", backbone=name, **sizes)).freeze() for name in ("mixer", "mlp")
    }
    monkeypatch.setattr(module, "heads_of", lambda toy: heads)
    monkeypatch.setattr(module, "fused", lambda policy, dtype, tiles: tiles)
    monkeypatch.setattr(module, "timed", lambda fast, cond, steps, seconds: {"p50": 0.01 * steps, "fell_back": ""})
    monkeypatch.setattr(module, "loop_ms", lambda policy, dtype, tiles, *_: float(tiles != module.SMALL[1]))
    monkeypatch.setattr(module, "check", lambda *_: {"max": 0.0, "mean": 0.0, "fell_back": ""})
    monkeypatch.setattr(module, "rates", lambda: {"bf16": 1e14, "fp32": 1e13, "memory": 1e12})
    monkeypatch.setattr(module, "tests_marked_gpu", lambda *_: {"passed": 2, "failures": []})
    monkeypatch.setattr(sys, "argv", [str(PACK), "--out", str(tmp_path)])
    monkeypatch.setattr(module, "AGAIN", "NOT_AGAIN")
    return module


def results_in(folder: Path) -> dict:
    return json.loads((folder / "pack_3_fused.json").read_text(encoding="utf-8"))["results"]


def test_what_the_targets_need_comes_first(pack_3, tmp_path, capsys):
    pack_3.main()
    names = list(results_in(tmp_path))
    timed = [name.removesuffix(": fused") for name in names if name.endswith(": fused")]
    assert timed[:6] == [
        "mixer adaln_zero bf16 batch 1 steps 10",
        "mixer adaln_zero bf16 batch 1 steps 1",
        "mixer adaln_zero fp32 batch 1 steps 10",
        "mixer adaln_zero fp32 batch 1 steps 1",
        "mixer adaln_zero bf16 batch 4096 steps 10",
        "mlp adaln_zero bf16 batch 1 steps 10",
    ]
    targets = [names.index(f"{name}: fused") for name in timed[:8]]
    floors = [names.index(name) for name in ("rates", "work mixer adaln_zero", "work mlp adaln_zero")]
    rest = ("tiles ", "check ", "tests ")
    assert max(*targets, *floors) < min(names.index(name) for name in names if name.startswith(rest))
    assert names.index("tests of the bundled head") < names.index("tests of all modulations")
    said = capsys.readouterr().out.rstrip().splitlines()
    assert [line.startswith("target: ") for line in said[-7:]] == [False] + 6 * [True]
    assert said[-6].endswith("at most 0.3 ms; measured 0.1 ms: met")
    assert said[-1].startswith(LAST)
    assert "measured 0.1 ms: " in said[-1]


def test_faster_tiles_are_timed_beside_those_of_now(pack_3, tmp_path):
    pack_3.main()
    results = results_in(tmp_path)
    assert results["tiles"]["bf16 1"] == pack_3.SMALL[1]._asdict()
    tuned = [name for name in results if name.endswith(": fused, tuned")]
    assert "mixer adaln_zero bf16 batch 1 steps 10: fused, tuned" in tuned
    assert "mlp adaln_zero bf16 batch 1 steps 1: fused, tuned" in tuned
    assert not [name for name in tuned if "batch 4096" in name], "its own tiles were the fastest"


def test_an_error_is_a_result_and_costs_nothing_else(pack_3, tmp_path, monkeypatch):
    """As long as the GPU still computes, the same process goes on; the next pack measures it again."""
    timed = pack_3.timed

    def sometimes(fast, cond, steps, seconds):
        if len(cond) == 4096:
            raise RuntimeError("out of memory")
        return timed(fast, cond, steps, seconds)

    monkeypatch.setattr(pack_3, "timed", sometimes)
    monkeypatch.setattr(pack_3, "go_on", lambda pack: pytest.fail("the GPU still computes"))
    pack_3.main()
    name = "mixer adaln_zero bf16 batch 4096 steps 10: fused"
    assert "out of memory" in results_in(tmp_path)[name]["error"]
    monkeypatch.setattr(pack_3, "timed", timed)
    pack_3.main()
    assert results_in(tmp_path)[name]["p50"] == pytest.approx(0.1)


def test_a_new_process_goes_on_where_the_gpu_computes_no_more(pack_3, tmp_path, monkeypatch):
    """After an illegal access every later call of the process would fail. The new one keeps the error and the clock."""
    started = []

    class Replaced(BaseException):
        """Stands for the end of the old process."""

    def execv(path, command):
        started.append(command)
        raise Replaced

    def failing(fast, cond, steps, seconds):
        raise RuntimeError("illegal memory access")

    timed = pack_3.timed
    monkeypatch.setattr(pack_3, "timed", failing)
    monkeypatch.setattr(pack_3, "alive", lambda: False)
    monkeypatch.setattr(pack_3.os, "execv", execv)
    with pytest.raises(Replaced):
        pack_3.main()
    assert started == [[sys.executable, *sys.argv]]
    (name,) = results_in(tmp_path)
    end = float(os.environ[pack_3.AGAIN])
    monkeypatch.setattr(pack_3, "timed", timed)
    ends = []
    monkeypatch.setattr(pack_3, "run", lambda pack, run=pack_3.run: ends.append(pack.end) or run(pack))
    pack_3.main()
    monkeypatch.delenv(pack_3.AGAIN)
    assert ends == [end]
    results = results_in(tmp_path)
    assert "illegal memory access" in results[name]["error"], "it is not tried again"
    assert len(results) > 50


def test_the_pack_needs_no_package_beyond_the_core(tmp_path):
    """The lent machine has neither tyro nor diffusers nor the lab's packages."""
    code = """
import sys
for name in ("tyro", "diffusers", "lerobot", "robosuite", "tensorboardX", "accelerate", "matplotlib"):
    sys.modules[name] = None
import pack_3_fused
"""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(PACK.parent), str(PACK.parents[2])])}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
