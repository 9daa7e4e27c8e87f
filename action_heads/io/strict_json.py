"""Strict JSON: every accepted value can be printed, copied and written again."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from action_heads._util import limits
from action_heads.io.foreign import foreign

AGAIN = "write or download it again"
BYTES = 2**28  # Size of the largest file that is read.
NESTING = 64  # Deepest nesting of lists and objects.


class NotJson(ValueError):
    """An error about text that is not JSON, or not JSON that this library accepts."""

    def __init__(self, reason: str, remedy: str = "fix it or write it again"):
        super().__init__(f"{reason}; {remedy}")
        self.reason, self.remedy = reason, remedy


def read(path: str | os.PathLike[str], most: int = BYTES, numbers: bool = True) -> Any:
    """Read a JSON file, which is UTF-8 with or without a byte order mark.

    Args:
        path: the file.
        most: bytes of the largest file that is read.
        numbers: as in `loads`.

    Raises:
        NotJson: the file is rejected. The message does not name it, so that each caller can.
    """
    path = Path(path)
    if (size := path.stat().st_size) > most:
        raise NotJson(f"it has {size:,} bytes, more than the {most:,} of any valid file here", AGAIN)
    data = path.read_bytes()
    try:
        text = data.decode("utf-8-sig")  # Some editors write a byte order mark.
    except UnicodeDecodeError as error:
        remedy = foreign(data[:64]) or f"save it as UTF-8, or {AGAIN}"
        raise NotJson(f"it is a binary file, not UTF-8 text: {error}", remedy) from error
    return loads(text, numbers)


def loads(text: str, numbers: bool = True) -> Any:
    """Parse JSON strictly. Every accepted value can be printed, copied and written again.

    Unlike `json.loads`, this rejects duplicate keys, halves of surrogate pairs and nesting deeper than `NESTING`.

    Args:
        text: the JSON.
        numbers: also reject NaN, infinity and integers beyond 64 bits. Pass False if the caller checks numbers.

    Raises:
        NotJson: the text is rejected.
    """
    hooks: dict[str, Any] = {"parse_constant": _no_number, "parse_int": _integer, "parse_float": _finite}
    try:
        value = json.loads(text, object_pairs_hook=_unique, **hooks if numbers else {})
        _check_within(value)
        return value
    except json.JSONDecodeError as error:
        head = text[:64].encode(errors="replace")
        remedy = foreign(head) or ("fix that line or write it again" if text.strip() else "the file is empty")
        raise NotJson(f"line {error.lineno}, column {error.colno}: {error.msg}", remedy) from error
    except RecursionError as error:
        raise NotJson("lists or objects are nested thousands of levels deep", f"it is damaged; {AGAIN}") from error
    except NotJson:
        raise
    except ValueError as error:  # An integer has thousands of digits.
        raise NotJson(str(error)) from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise NotJson(f"an object has the key {limits.shown(twice)} twice", "remove one of them or write it again")
    return found


def _no_number(text: str) -> Any:
    raise NotJson(f"{text} is not a number in JSON")


def _integer(text: str) -> int:
    if len(text) > 20 or abs(number := int(text)) >= 2**64:
        raise NotJson(f"an integer of {len(text.lstrip('-'))} digits")
    return number


def _finite(text: str) -> float:
    number = float(text)
    if number in (float("inf"), float("-inf")):
        raise NotJson(f"the number {text[:40]} is too large for a float")
    return number


def _check_within(value: Any) -> None:
    """Check nesting and strings, level by level and without recursion."""
    level = [value]
    for _ in range(NESTING):
        below: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                below += item.values()
                below += item.keys()
            elif isinstance(item, list):
                below += item
            elif isinstance(item, str) and not limits.is_text(item):
                raise NotJson(f"the string {limits.shown(item)} holds half of a surrogate pair")
        if not below:
            return
        level = below
    raise NotJson(f"lists or objects are nested more than {NESTING} levels deep")
