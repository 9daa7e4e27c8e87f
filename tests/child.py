"""The environment of a child process of a test."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def environment(*folders: Path, **variables: str) -> dict[str, str]:
    """Return this environment with variables, in which a child imports from these folders and then as this process.

    A `PYTHONPATH` of the folders alone would lose that of the caller, and with it the packages of a worktree: the child
    would test the packages that are installed.
    """
    paths = [*map(str, folders), *filter(None, sys.path)]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths)), **variables}
