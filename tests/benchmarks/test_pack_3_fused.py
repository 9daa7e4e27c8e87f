"""The pack of the fused kernels runs at a toy size under Triton's interpreter, and writes every kind of result."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PACK = Path(__file__).parents[2] / "benchmarks" / "gpu" / "pack_3_fused.py"


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
    assert done.stdout.rstrip().splitlines()[-1].startswith(list(results)[-1]), "results come last"
