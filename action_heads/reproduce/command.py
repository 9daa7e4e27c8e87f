"""The command line of examples/*/reproduce.py."""

from __future__ import annotations

import os

from action_heads.extras import require
from action_heads.pretrain.loop import Diverged
from action_heads.reproduce.grid import Reproduce, reproduce


def main(family: str) -> None:
    """Read the options and go."""
    tyro = require("tyro", "train")
    try:
        reproduce(tyro.cli(Reproduce), family)
    except (OSError, ValueError, ImportError, Diverged) as error:
        if os.environ.get("ACTION_HEADS_TRACEBACK"):
            raise
        raise SystemExit(f"{error}\n(ACTION_HEADS_TRACEBACK=1 shows where this came from)") from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
