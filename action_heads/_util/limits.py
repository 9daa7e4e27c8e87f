"""What a configuration may ask for at most, and the check of a value's type that comes before any use of it.

The bounds are generous: they refuse what can only be damage or an attack, such as a horizon of 2**31 in a file of a few
kilobytes, before it is turned into memory or hours of work.
"""

from __future__ import annotations

import dataclasses
import math
import types
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Union, get_args, get_origin, get_type_hints

WIDTH = 2**14  # of a network, or of what it reads and makes
DEPTH = 2**10  # blocks of a network
EXPANSION = 2**6
HORIZON = 2**12  # steps of a chunk
RANK = 2**12
TRAIN_STEPS = 10_000  # noise levels
PARTS = 2**8  # of an action
ACTION = 2**12  # numbers of an action
CONDITION = 2**17  # numbers of a condition
SOURCES = 2**8  # of a condition; cameras of an observation
OBSERVATION_STEPS = 2**10
PIXELS = 2**13  # a side of an image
PARAMETERS = 2**30  # of one network
INTEGER = 2**63  # any other whole number
ENTRIES = 100_000  # of one list or object in a configuration
TEXT = 100_000  # characters of one text in a configuration


def check_width(name: str, width: Any, most: int = INTEGER) -> None:
    """A width, or a number of things, is a positive integer, and no larger than `most`."""
    if type(width) is not int or width < 1:  # True is no width
        raise ValueError(f"{name} must be a positive integer, got {shown(width)}")
    if width > most:
        raise ValueError(f"{name} must be at most {most}, got {shown(width)}: the file is damaged, or give a lower one")


def check_parameters(what: str, count: int) -> None:
    """Raise if a network would have more parameters than `PARAMETERS`; `count` is about how many it has."""
    if count > PARAMETERS:
        raise ValueError(
            f"{what} would have about {count:.2g} parameters, more than {PARAMETERS:.2g}: lower its width or depth; if "
            "this came from a file, the file is damaged"
        )


def check_choice(name: str, value: Any, known: Any) -> None:
    """A value is one of the known texts; what is not even a text is refused too."""
    if not isinstance(value, str) or value not in known:
        raise ValueError(f"unknown {name} {shown(value)}; choose one of {', '.join(known)}")


def check_number(name: str, value: Any) -> None:
    """A value is a finite number."""
    if not fits(value, float):
        raise ValueError(f"{name} must be a finite number, got {shown(value)}")


def check_fields(values: Mapping[str, Any], cls: type, what: str) -> None:
    """Raise a ValueError unless every value has the type that its field of a dataclass is annotated with.

    Lists stand for tuples, since JSON has no tuples, and whole numbers for floats.
    """
    for name, kind in types_of(cls).items():
        if not fits(values[name], kind):
            raise ValueError(f"{name} in {what} must be of type {spelled(kind)}, got {shown(values[name])}")


@lru_cache
def types_of(cls: type) -> dict[str, Any]:
    """The type of every field of a dataclass."""
    hints = get_type_hints(cls)
    return {item.name: hints[item.name] for item in dataclasses.fields(cls)}


def fits(value: Any, kind: Any) -> bool:
    """Whether a value, and everything within it, has an annotated type and a size within the bounds."""
    origin, args = get_origin(kind), get_args(kind)
    if kind is Any:
        return True
    if origin in (Union, types.UnionType):
        return any(fits(value, each) for each in args)
    if kind in (None, type(None)):
        return value is None
    if kind is int:
        return type(value) is int and abs(value) < INTEGER  # True is no number
    if kind is float:
        if isinstance(value, float):
            return math.isfinite(value)
        return type(value) is int and abs(value) < INTEGER
    if kind is str:
        return isinstance(value, str) and len(value) <= TEXT and is_text(value)
    if origin is tuple or kind is tuple:
        if not isinstance(value, (tuple, list)) or len(value) > ENTRIES:
            return False
        each = [args[0]] * len(value) if args[1:] == (...,) else args
        return len(each) == len(value) and all(map(fits, value, each))
    if origin is list:
        return isinstance(value, list) and len(value) <= ENTRIES and all(fits(item, args[0]) for item in value)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return (
            isinstance(value, Mapping)
            and len(value) <= ENTRIES
            and all(fits(key, args[0]) and fits(item, args[1]) for key, item in value.items())
        )
    return isinstance(value, kind)


def is_text(value: str) -> bool:
    """Whether a text can be written: half of a surrogate pair, which JSON can spell, can't."""
    try:
        return value.isascii() or bool(value.encode())
    except UnicodeEncodeError:
        return False


def spelled(kind: Any) -> str:
    """A type as a message names it."""
    return kind.__name__ if isinstance(kind, type) and not get_args(kind) else str(kind).replace("typing.", "")


def shown(value: Any, most: int = 200) -> str:
    """A value in a message: its beginning, whatever its size, since a long one would bury the message."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # an integer of thousands of digits, lists within lists
        text = f"a {type(value).__name__} too large to show"
    return text if len(text) <= most else f"{text[:most]}..."
