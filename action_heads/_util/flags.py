"""Checks of the fields of settings, and the names of their flags in errors."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any

from action_heads._util.limits import INTEGER
from action_heads._util.names import nearest


@dataclass(frozen=True)
class Shown:
    """An annotation of a field that sets how help presents its flag, for flags without a fixed default."""

    default: str
    metavar: str = "STR"


class FlagError(ValueError):
    """A mistake in the flags that the message begins with."""


def option(name: str) -> str:
    """Return the flag of a field, such as "--batch-size"."""
    return f"--{name.replace('_', '-')}"


@contextmanager
def flag(*names: str, spell: Callable[[str], str] = option) -> Iterator[None]:
    """Put these flags in front of an error from this context, unless an inner `flag` has already named others."""
    try:
        yield
    except FlagError:
        raise
    except (ValueError, OSError) as error:
        flags = tuple(map(spell, names))
        said = "" if str(error).startswith(flags) else f"{', '.join(flags)}: "
        raise FlagError(f"{said}{error}") from error


def mistake(field: str, what: str) -> ValueError:
    """Return an error about a field of a settings class. Its message begins with the field's name."""
    error = ValueError(f"{field} {what}")
    vars(error)["field"] = field
    return error


@contextmanager
def about(*fields: str) -> Iterator[None]:
    """Attribute an error from this context to these fields of a settings class."""
    try:
        yield
    except ValueError as error:
        vars(error)["fields"] = fields
        raise


@contextmanager
def called(spell: Callable[[str], str]) -> Iterator[None]:
    """Replace the fields that an error from this context names by their flags."""
    try:
        yield
    except ValueError as error:
        if field := vars(error).get("field"):
            raise FlagError(spell(field) + str(error).removeprefix(field)) from error
        if fields := vars(error).get("fields"):
            raise FlagError(f"{', '.join(map(spell, fields))}: {error}") from error
        raise


def check_choices(settings: Any, **choices: Collection[str]) -> None:
    """Raise if a field's value is not one of its choices."""
    for name, known in choices.items():
        if (given := getattr(settings, name)) not in known:
            near = nearest(given, known)
            raise mistake(name, f"is {given!r}{near}; choose one of {', '.join(known)}")


def check_least(settings: Any, least: int, *names: str) -> None:
    """Raise if a field is below `least`, NaN, infinite or no 64-bit integer. None counts as not given."""
    bound = f"at least {least}" if least else "0 or more"
    for name in names:
        if (given := getattr(settings, name)) is not None and not least <= given < INTEGER:
            raise mistake(name, f"must be {bound}{' and below 2^63' * (given >= INTEGER)}, got {given}")


def check_unset(settings: Any, why: str, *names: str, prefix: str = "") -> None:
    """Raise if one of these fields is set, that is differs from its default. It would have no effect; `why` says so."""
    defaults = {item.name: item.default for item in fields(settings)}
    for name in names:
        if (given := getattr(settings, name)) != defaults[name]:
            raise mistake(prefix + name, f"is {given!r}, which has no effect: {why}")


def check_share(settings: Any, *names: str) -> None:
    """Raise if a field is not a share: at least 0 and below 1."""
    for name in names:
        if not 0 <= getattr(settings, name) < 1:
            raise mistake(name, f"must be at least 0 and below 1, got {getattr(settings, name)}")


def check_positive(settings: Any, *names: str, finite: bool = True) -> None:
    """Raise if a field is not above zero, is NaN, or is infinite where it must be `finite`."""
    for name in names:
        given = getattr(settings, name)
        if not given > 0:
            raise mistake(name, f"must be positive, got {given}")
        if finite and given == math.inf:
            raise mistake(name, "must be finite, got inf")
