"""Upper bounds for the values of a configuration, and checks of their types before they are used.

The bounds are generous. They reject only values that come from damage or an attack, such as a horizon of 2**31 in a
file of a few kilobytes, before such a value costs memory or hours of work.
"""

from __future__ import annotations

import dataclasses
import math
import types
from collections.abc import Mapping
from functools import lru_cache
from numbers import Integral
from typing import Any, Union, get_args, get_origin, get_type_hints

WIDTH = 2**14  # of a network, its inputs and its outputs
DEPTH = 2**10  # blocks of a network
EXPANSION = 2**6
HORIZON = 2**12  # time steps of a chunk
RANK = 2**12
TRAIN_STEPS = 10_000  # noise levels
PARTS = 2**8  # of an action space
ACTION = 2**12  # numbers of an action
CONDITION = 2**17  # numbers of a condition
SOURCES = 2**8  # of a condition; cameras of an observation
OBSERVATION_STEPS = 2**10
PIXELS = 2**13  # of one side of an image
PARAMETERS = 2**30  # of one network
INTEGER = 2**63  # any other integer
ENTRIES = 100_000  # of one list or object
TEXT = 100_000  # characters of one string


def check_width(name: str, width: Any, most: int = INTEGER) -> None:
    """Check that a width, or a count, is a positive integer of at most `most`."""
    if type(width) is not int or width < 1:  # `type`, since True is an int
        raise ValueError(f"{name} must be a positive integer, got {shown(width)}")
    if width > most:
        raise ValueError(
            f"{name} must be at most {most}, got {shown(width)}. If it came from a file, the file is damaged."
        )


def whole(value: Any) -> Any:
    """Return NumPy's whole numbers as Python's, and anything else unchanged."""
    return int(value) if isinstance(value, Integral) and not isinstance(value, bool) else value


def check_parameters(what: str, count: int) -> None:
    """Raise if a network of about `count` parameters exceeds `PARAMETERS`."""
    if count > PARAMETERS:
        raise ValueError(
            f"{what} would have about {count:.2g} parameters, more than the limit of {PARAMETERS:.2g}. Lower its width "
            "or depth. If the configuration came from a file, the file is damaged."
        )


def check_choice(name: str, value: Any, known: Any) -> None:
    """Check that a value is a string and one of the known choices."""
    if not isinstance(value, str) or value not in known:
        raise ValueError(f"unknown {name} {shown(value)}; choose one of {', '.join(known)}")


def check_number(name: str, value: Any) -> None:
    """Check that a value is a finite number."""
    if not fits(value, float):
        raise ValueError(f"{name} must be a finite number, got {shown(value)}")


def check_fields(values: Mapping[str, Any], cls: type, what: str) -> None:
    """Raise a ValueError unless every value has the annotated type of its field in a dataclass.

    Lists are accepted for tuples, since JSON has no tuples, and integers for floats.
    """
    for name, kind in types_of(cls).items():
        if not fits(values[name], kind):
            raise ValueError(f"{name} in {what} must be of type {spelled(kind)}, got {shown(values[name])}")


@lru_cache
def types_of(cls: type) -> dict[str, Any]:
    """Return the type of every field of a dataclass."""
    hints = get_type_hints(cls)
    return {item.name: hints[item.name] for item in dataclasses.fields(cls)}


def fits(value: Any, kind: Any) -> bool:
    """Return whether a value, with everything it contains, has an annotated type and keeps the bounds."""
    origin, args = get_origin(kind), get_args(kind)
    if kind is Any:
        return True
    if origin in (Union, types.UnionType):
        return any(fits(value, each) for each in args)
    if kind in (None, type(None)):
        return value is None
    if kind is int:
        return type(value) is int and abs(value) < INTEGER  # `type`, since True is an int
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
    """Return whether a string can be encoded. JSON can spell half of a surrogate pair, which cannot be."""
    try:
        return value.isascii() or bool(value.encode())
    except UnicodeEncodeError:
        return False


def spelled(kind: Any) -> str:
    """Return the name of a type for a message."""
    return kind.__name__ if isinstance(kind, type) and not get_args(kind) else str(kind).replace("typing.", "")


def shown(value: Any, most: int = 200) -> str:
    """Return a value as text for a message, cut to `most` characters."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # An integer has thousands of digits, or lists are nested too deep.
        text = f"a {type(value).__name__} too large to show"
    return text if len(text) <= most else f"{text[:most]}..."
