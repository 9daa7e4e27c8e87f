"""Hundreds of damaged files of every format cause no fault, and the fuzzer detects planted faults."""

from __future__ import annotations

import random
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

if any(find_spec(name) is None for name in ("transformers", "robosuite")):  # For encoders, and for results.
    pytest.skip("needs the vision and sim extras", allow_module_level=True)

sys.path.append(str(Path(__file__).parent))

import run
from formats import FORMATS, Format

from action_heads import adapter_file

COUNT = 300


# Adapters of version 2 have no fingerprint, so a flipped bit goes unnoticed.
@pytest.mark.xfail(adapter_file.VERSION < 3, reason="adapters carry a fingerprint from version 3 on", strict=False)
def test_damaged_files_are_refused_or_mean_what_they_meant():
    found = run.fuzz(COUNT, seed=0)
    assert [record for record in found if record["outcome"] in run.FAULTS] == [], run.report(found)
    assert {record["format"] for record in found} == {form.name for form in FORMATS}
    assert sum(record["outcome"] == "refused" for record in found) > 0.7 * COUNT


def refuse(folder: Path) -> str:
    raise ValueError(f"{folder} is damaged")


@pytest.mark.parametrize(
    ("load", "outcome"),
    [
        (lambda folder: {}[1], "raw"),
        (lambda folder: b"\xff".decode(), "raw"),
        (lambda folder: "something else", "other"),
        (refuse, "refused"),
    ],
)
def test_the_fuzz_sees_faults(load, outcome, tmp_path):
    ok = [f'{{"seed": {seed}, "values": [1, 2, 3]}}' for seed in (0, 1)]

    def make(folder: Path, seed: int) -> None:
        folder.mkdir(parents=True)
        (folder / "a.json").write_text(ok[seed])

    def loaded(folder: Path) -> str:  # Correct only as long as nothing is damaged.
        text = (folder / "a.json").read_bytes().decode(errors="replace")
        return text if text in ok else load(folder)

    case = run.Case(Format("made up", make, loaded), tmp_path)
    found = [case.attempt(random.Random(i)) for i in range(40)]
    assert {record["outcome"] for record in found} - {"same"} == {outcome}
    again, first = case.attempt(random.Random(3)), found[3]
    assert {**again, "seconds": 0} == {**first, "seconds": 0}


def test_a_crash_and_a_hang_are_seen(tmp_path, monkeypatch):
    script = tmp_path / "worker.py"
    script.write_text(
        "import json, os, sys, time\n"
        "start = int(sys.argv[sys.argv.index('--start') + 1])\n"
        "print(json.dumps({'number': start, 'outcome': 'same'}), flush=True)\n"
        "os._exit(7) if start == 0 else time.sleep(60)\n"
    )
    monkeypatch.setattr(run, "__file__", str(script))
    found = run.fuzz(4, seed=0, limit=0.5)
    assert [(r["number"], r["outcome"]) for r in found] == [(0, "same"), (1, "raw"), (2, "same"), (3, "hang")]
    assert "1 raw errors, 1 hangs, 0 accepted" in run.report(found)
