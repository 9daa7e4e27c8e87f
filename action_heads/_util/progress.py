"""Progress bars: live in a terminal or a notebook, and a line every half minute where the output goes to a file."""

from __future__ import annotations

import sys
from typing import Any

from action_heads._util.extras import require

FILE_INTERVAL = 30.0  # seconds between the lines of a log


def progress_bar(*args: Any, **options: Any) -> Any:
    """Return a bar of tqdm with these arguments. `mininterval` is longer where nobody watches the output."""
    watched = sys.stderr.isatty() or "ipykernel" in sys.modules
    interval = {} if watched else {"mininterval": FILE_INTERVAL, "maxinterval": 2 * FILE_INTERVAL}
    return require("tqdm.auto", "train").tqdm(*args, **interval | options)
