"""Suggestions for mistyped names."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def nearest(given: object, known: Iterable[str]) -> str:
    """Return " (did you mean 'x'?)" for the known name closest to `given`, or "" if none is close.

    Case is ignored. The part after the last "/" may stand for the whole name.
    """
    names: dict[str, str] = {}
    for name in map(str, known):
        names.setdefault(name.casefold(), name)
        names.setdefault(name.casefold().rpartition("/")[2], name)
    text = str(given).casefold()
    found = get_close_matches(text, names, n=1) or get_close_matches(text.rpartition("/")[2], names, n=1)
    return f" (did you mean {names[found[0]]!r}?)" if found else ""
