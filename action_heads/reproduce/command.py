"""The command line of examples/*/reproduce.py."""

from __future__ import annotations

from action_heads.cli import plain_errors
from action_heads.extras import require
from action_heads.reproduce.grid import Reproduce, reproduce


def main(family: str) -> None:
    """Read the options and go."""
    tyro = require("tyro", "train")
    with plain_errors():
        reproduce(tyro.cli(Reproduce), family)
