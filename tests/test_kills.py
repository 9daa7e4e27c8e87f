"""A few kills at random moments; fifty of each command are tried by hand, with `tests/kills.py`."""

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
