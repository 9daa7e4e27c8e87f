"""Files of recordings, read with bounds: whatever is wrong with one is a `BadData` that names file and place."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from action_heads._util import limits
from action_heads.io import files

MOST_TEXT = 2**26  # bytes of a JSON file: info.json of the largest datasets has some 100 kB
MOST_BYTES = 2**36  # of the arrays that are read at once: more is a damaged header or a bomb


class BadData(ValueError):
    """A recording that is not what its column map says: nothing of it can be used."""


class BadEpisode(BadData):
    """An episode that cannot be so; `?bad=skip` leaves it out."""


def no_steps(where: str, of: str = "") -> BadEpisode:
    """Return the error of an episode without steps."""
    return BadEpisode(f"{where} has no steps{of}; leave such episodes out with ?short=skip or ?bad=skip")


@contextmanager
def reading(where: str, remedy: str = "copy or download it again") -> Iterator[None]:
    """Turn what a library raises over a damaged file into a `BadData`.

    h5py, pyarrow, zipfile, numpy and Pillow raise some twenty types between them, which change with their versions, so
    only calls of these libraries belong inside.
    """
    try:
        yield
    except (BadData, ImportError):
        raise
    except Exception as error:
        cause = " ".join(str(error).split())[:300]
        raise BadData(f"{where} cannot be read ({type(error).__name__}: {cause}): {remedy}") from error


def read_object(path: Path, source: str) -> dict[str, Any]:
    """Read a JSON object from a UTF-8 file."""
    with reading(f"{source}: {path}"):
        size = path.stat().st_size
        data = path.read_bytes() if size <= MOST_TEXT else b""
    if size > MOST_TEXT:
        raise BadData(f"{source}: {path} has {size} bytes, more than the {MOST_TEXT} that such a file may have")
    try:
        text = data.decode("utf-8-sig")  # editors on Windows begin a file with a byte order mark
    except UnicodeDecodeError as error:
        raise BadData(
            f"{source}: {path} is not UTF-8 text ({error}): save it as UTF-8, or download it again"
        ) from error
    found = parse_json(text, f"{source}: {path}")
    if not isinstance(found, dict):
        raise BadData(f"{source}: {path} holds a JSON {type(found).__name__}, where an object is expected")
    return found


def parse_json(text: str, where: str) -> Any:
    """Read JSON text. Numbers are not looked at: those that are used are checked where they are."""
    if len(text) > MOST_TEXT:
        raise BadData(f"{where} has {len(text)} characters, more than the {MOST_TEXT} that it may have")
    try:
        return files.loads(text, numbers=False)
    except files.KeyTwice as error:
        raise BadData(f"{where} has the key {error.key!r} twice: remove one of them") from error
    except files.NotJson as error:
        raise BadData(f"{where} is not JSON: {error}") from error


def is_number(value: object) -> bool:
    """Tell whether a value of a JSON file is a finite number; True and False are none."""
    return limits.fits(value, float)


def positive(value: object, most: float, where: str) -> float:
    """Return a number above 0 and up to `most`."""
    if not is_number(value) or not 0 < float(value) <= most:  # type: ignore[arg-type]
        raise BadData(f"{where} must be a number above 0 and up to {most:g}, but is {short(value)}")
    return float(value)  # type: ignore[arg-type]


def whole(value: object, where: str, least: int = 0, most: int = 2**40) -> int:
    """Return a whole number within bounds."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise BadData(f"{where} must be a whole number from {least} to {most}, but is {short(value)}")
    return value


def short(value: object) -> str:
    """Return a value as an error message shows it."""
    return limits.shown(value, 80)
