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
@pytest.mark.parametrize("name", NEEDS)
def test_kills_lose_nothing(name):
    for module in NEEDS[name]:
        if not find_spec(module):
            pytest.skip(f"needs {module}")
    command = [sys.executable, "-W", "ignore", str(Path(__file__).parent / "kills.py"), "--kills", "3", "--runs", name]
    done = subprocess.run(command, capture_output=True, text=True, timeout=3600)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("3 kills") == 1
