"""Optional dependencies: one place that names the extra when something is missing."""

from __future__ import annotations

import importlib
from types import ModuleType


def require(module: str, extra: str) -> ModuleType:
    """Import `module`, or raise an ImportError that names the extra which brings it."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ImportError(
            f"{module} is needed here and could not be imported ({error}). Install it with\n"
            f"    pip install 'action-heads[{extra}]'"
        ) from error
