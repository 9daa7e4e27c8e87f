"""The heads that come with the package, and the error about a name that is none of them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from action_heads._util.names import nearest
from action_heads.io import folders

WEIGHTS = Path(__file__).parents[1] / "weights"
PREFIX = "dae/"


class HeadNotFoundError(FileNotFoundError):
    """An error about a head or an adapter that was not found. It says what was tried, why it failed and what exists."""


def bundled() -> dict[str, Path]:
    """Return the heads that come with the package, as a dict from name to folder. They need no network."""
    return {PREFIX + config.parent.name: config.parent for config in sorted(WEIGHTS.glob("*/config.json"))}


def alternatives(given: str | os.PathLike[str], files: Sequence[str]) -> str:
    """Return which heads exist and what makes others; of adapters and policies only what makes them."""
    if (wanted := folders.wanted(files)) != "head":
        return f"  {folders.MADE_BY[wanted]}"
    names = ", ".join(bundled()) or f"none in this installation ({WEIGHTS})"
    near = nearest(os.fspath(given), bundled())
    return (
        f"  bundled heads, which need no network: {names}{near}\n  to train one yourself: action-heads pretrain --help"
    )
