"""Fixtures for Stage 1. All tests here run on the CPU, even on a machine with a GPU, since they compare bits."""

from __future__ import annotations

import pytest
from on_the_cpu import on_the_cpu  # noqa: F401 - a fixture

from action_heads.pretrain.trainer import Trainer
from action_heads.training import curve


@pytest.fixture
def no_picture(monkeypatch):
    """Skip the drawing of curves and most of the evaluation, which take longer than a tiny run."""
    monkeypatch.setattr(curve, "draw_curve", lambda *_: None)
    monkeypatch.setattr(Trainer.evaluate.__wrapped__, "__defaults__", (1,))
    monkeypatch.setattr("action_heads.pretrain.trainer.EVALUATED", 64)
