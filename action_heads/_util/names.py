"""Suggestions for mistyped names."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def nearest(given: object, known: Iterable[str], most: int = 1) -> str:
    """Return " (did you mean 'x'?)" for the known name closest to `given`, or "" if none is close or it is known.

    Case is ignored. The part after the last "/" may stand for the whole name.

    Args:
        given: the name as it was given.
        known: all names.
        most: how many of the closest names to offer, the closest first.
    """
    known = list(map(str, known))
    if given in known:
        return ""
    names: dict[str, str] = {}
    for name in known:
        names.setdefault(name.casefold(), name)
        names.setdefault(name.casefold().rpartition("/")[2], name)
    text = str(given).casefold()
    found = get_close_matches(text, names, most) or get_close_matches(text.rpartition("/")[2], names, most)
    *others, last = dict.fromkeys(repr(names[name]) for name in found) or [""]
    return f" (did you mean {', '.join(others)}{' or ' * bool(others)}{last}?)" if found else ""
