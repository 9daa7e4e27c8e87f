"""The benchmark of the gap of `mlp` leaves the library as it was."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import pytest

from action_heads.diffusion.levels import LEVELS

pytest.importorskip("action_heads_lab")
pytest.importorskip("matplotlib")
with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    mlp_gap = import_module("mlp_gap")


SYSTEMS = [system for system in mlp_gap.SYSTEMS if system.mode == "decoupled"]


@pytest.mark.parametrize("system", SYSTEMS, ids=lambda system: system.name)
def test_its_noise_levels_are_known_only_while_stage_1_runs(system, monkeypatch, tmp_path):
    before, asked = dict(LEVELS), []

    def pretrained(config, place):
        asked.append((config.levels, config.levels in LEVELS))
        raise InterruptedError

    monkeypatch.setattr(mlp_gap.stage1_spread, "pretrained", pretrained)
    place = mlp_gap.Place(results=tmp_path, work=tmp_path)
    with pytest.raises(InterruptedError):
        mlp_gap.measure(system, "Stack", 0, place)
    assert asked == [(system.stage1.get("levels", "uniform"), True)]
    assert before == LEVELS
