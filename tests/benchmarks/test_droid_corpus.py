"""The simulated corpus of benchmarks/droid_size.py, at toy size: the reader opens it and counts what was written."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pyarrow")

from action_heads.data import BadData, Spec, open_windows

ROOT = Path(__file__).parents[2]


def test_the_reader_finds_the_episodes_of_every_kind(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.setenv("ACTION_HEADS_CACHE", str(tmp_path / "cache"))
    corpus = import_module("droid_corpus")
    for name, value in {"SOURCE": "synthetic:panda", "ROWS": 500, "SHORT": 0.2, "BAD": 0.2}.items():
        monkeypatch.setattr(corpus, name, value)
    folder = tmp_path / "droid"
    written = corpus.write(folder, 40, distinct=10, steps=64)
    assert written["files"] == len([*folder.glob("data/*/*.parquet")]) > 1
    assert min(written["short"], written["bad"], written["fr3"]) > 0
    with pytest.raises(BadData, match="NaN"):
        open_windows(Spec.parse(f"lerobot:{folder}"), 16)
    with pytest.warns(UserWarning, match="left out"):
        windows = open_windows(Spec.parse(f"lerobot:{folder}?bad=skip&short=skip"), 16, "all")
    assert len(windows.episodes) == 40 - written["short"] - written["bad"]
    assert len(windows) == len(windows.episodes) * (64 - 16 + 1)
    assert np.isclose(windows.trajectories.joints[:, 5].max(), corpus.FR3_JOINT_6)  # the Panda's limit is 3.75
