"""Silence transformers while it loads a model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from action_heads._util.extras import require


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the progress bars of transformers, and its reports on unused weights such as those of the other tower."""
    logging = require("transformers", "vision").utils.logging
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
