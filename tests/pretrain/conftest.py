"""Every test here runs on the CPU, also on a machine with a GPU: bits are compared."""

from __future__ import annotations

import pytest
from accelerate.state import AcceleratorState

from action_heads.training import curve


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def no_picture(monkeypatch):
    """Drawing the curve takes longer than a tiny run."""
    monkeypatch.setattr(curve, "draw_curve", lambda *_: None)
