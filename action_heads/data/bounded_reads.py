"""Reads of recording files with bounds. Every problem with a file raises a `BadData` that names the file and place."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from action_heads._util import limits
from action_heads.io import strict_json

MOST_TEXT = 2**26  # bytes of a JSON file; info.json of the largest datasets has about 100 kB
MOST_BYTES = 2**36  # bytes of arrays read at once; more means a damaged header or a decompression bomb


MOST_SKIPPED = 0.5  # largest share of episodes that ?bad=skip may leave out
REPAIR = "Repair the recording, or leave such episodes out with ?bad=skip."


class BadData(ValueError):
    """A recording that is damaged or contradicts its column map. No part of it is used."""


class BadEpisode(BadData):
    """An episode with impossible values. `?bad=skip` leaves it out."""


def left_out(source: str, problems: Sequence[str], count: int) -> str:
    """Return the warning that episodes with these problems are left out; raise a `BadData` if most of `count` are."""
    if len(problems) > MOST_SKIPPED * count:
        raise BadData(f"{source}: {len(problems)} of {count} episodes are bad, the first: {problems[0]}")
    return f"{source}: left out {len(problems)} of {count} episodes. The first: {problems[0]}"


def no_steps(where: str, of: str = "") -> BadEpisode:
    """Return the error for an episode without time steps."""
    return BadEpisode(f"{where} has no time steps{of}. Leave such episodes out with ?short=skip or ?bad=skip.")


@contextmanager
def reading(where: str, remedy: str = "Copy or download it again.") -> Iterator[None]:
    """Raise a `BadData` in place of any error that a library raises over a damaged file.

    h5py, pyarrow, zipfile, numpy and Pillow raise about twenty exception types, which change with their versions.
    All of them are caught here, so only calls of these libraries belong inside the context.
    """
    try:
        yield
    except (BadData, ImportError):
        raise
    except Exception as error:
        cause = " ".join(str(error).split())[:300]
        raise BadData(f"{where} cannot be read ({type(error).__name__}: {cause}). {remedy}") from error


def read_object(path: Path, source: str) -> dict[str, Any]:
    """Read a JSON object from a UTF-8 file; raise a `BadData` if it holds anything else."""
    where = f"{source}: {path}"
    with reading(where), _json(where):
        found = strict_json.read(path, MOST_TEXT, numbers=False)
    if not isinstance(found, dict):
        raise BadData(f"{where} must contain a JSON object, but contains a JSON {type(found).__name__}.")
    return found


def parse_json(text: str, where: str) -> Any:
    """Parse JSON text. Numbers are not checked here, but where they are used."""
    with _json(where):
        return strict_json.loads(text, numbers=False)


@contextmanager
def _json(where: str) -> Iterator[None]:
    """Raise a `BadData` that names the place of what is not JSON."""
    try:
        yield
    except strict_json.NotJson as error:
        raise BadData(f"{where} is not JSON: {error}.") from error


def is_number(value: object) -> bool:
    """Return whether a JSON value is a finite number. Booleans are not numbers."""
    return limits.fits(value, float)


def positive(value: object, most: float, where: str) -> float:
    """Return the value as a number above 0 and at most `most`; raise a `BadData` if it is not."""
    if not is_number(value) or not 0 < float(value) <= most:  # type: ignore[arg-type]
        raise BadData(f"{where} must be a number above 0 and at most {most:g}, but is {short(value)}.")
    return float(value)  # type: ignore[arg-type]


def whole(value: object, where: str, least: int = 0, most: int = 2**40) -> int:
    """Return the value as an integer within bounds; raise a `BadData` if it is not."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise BadData(f"{where} must be an integer from {least} to {most}, but is {short(value)}.")
    return value


def short(value: object) -> str:
    """Return a value as text for an error message."""
    return limits.shown(value, 80)
