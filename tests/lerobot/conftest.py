"""Fixtures for LeRobot, which needs Python 3.12 and an extra. Its encoders are the tiny models of tests/encoders."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "encoders"))

# By its module inside: this folder alone is a namespace package of the same name.
if find_spec("lerobot") is None or find_spec("lerobot.policies") is None:
    collect_ignore_glob = ["test_*.py"]
