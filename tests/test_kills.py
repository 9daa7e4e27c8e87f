"""A test with a few kills at random moments. `tests/kills.py` tries fifty of each command by hand."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from forked import needs_fork

NEEDS = {"pretrain": ["accelerate"], "adapt": ["accelerate", "h5py"], "record": ["robosuite", "lerobot"]}


@needs_fork
def test_kills_lose_nothing():
    """All commands are killed from one process, since its imports take longer than their runs."""
    names = [name for name, modules in NEEDS.items() if all(map(find_spec, modules))]
    if not names:
        pytest.skip("needs accelerate")
    script = str(Path(__file__).with_name("kills.py"))
    command = [sys.executable, "-W", "ignore", script, "--kills", "3", "--runs", *names]
    done = subprocess.run(command, capture_output=True, text=True, timeout=3600)
    assert done.returncode == 0, done.stderr
    assert [name for name in names if f"{name}: 3 kills" in done.stdout] == names
