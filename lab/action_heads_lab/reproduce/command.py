"""Command line of examples/*/reproduce.py."""

from __future__ import annotations

import sys
from pathlib import Path

from action_heads.cli.command_line import check_installed, parse, plain_errors


def main(family: str) -> None:
    """Read the options and reproduce the runs of a family."""
    with plain_errors():
        check_installed(f"reproducing {family}", "train", "sim")
        from action_heads_lab.reproduce.grid import Reproduce, reproduce

        reproduce(parse(Reproduce, sys.argv[1:], prog=Path(sys.argv[0]).name), family)
