"""Every test here runs on the CPU, also on a machine with a GPU: bits are compared."""

from __future__ import annotations

import pytest
from on_the_cpu import on_the_cpu  # noqa: F401 - a fixture

from action_heads.pretrain.trainer import Trainer
from action_heads.training import curve


@pytest.fixture
def no_picture(monkeypatch):
    """Drawing the curve, and evaluating on thousands of chunks, take longer than a tiny run."""
    monkeypatch.setattr(curve, "draw_curve", lambda *_: None)
    monkeypatch.setattr(Trainer.evaluate.__wrapped__, "__defaults__", (1,))
    monkeypatch.setattr(Trainer.evaluate_unconditional.__wrapped__, "__defaults__", (64,))
