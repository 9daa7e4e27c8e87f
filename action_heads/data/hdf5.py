"""Checked reads of robomimic's HDF5 files: `data/demo_*` with `actions`, `obs` and attributes.

Axes: `t` time steps of one demonstration.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from action_heads._util.extras import require
from action_heads.data.bounded_reads import MOST_BYTES, MOST_TEXT, BadData, parse_json, positive, reading, short
from action_heads.data.spec import MOST_HZ, Spec

REMEDY = "The file is damaged. Copy or download it again."
RATE_HZ = 20.0  # robosuite's control frequency, for files that do not name their own
DEMO = re.compile(r"demo_\d{1,9}")


@contextmanager
def opened(path: Path, source: str) -> Iterator[Any]:
    """Open a file for reading. Errors of h5py inside the block become a `BadData` about this file."""
    if not path.exists():
        raise FileNotFoundError(f"{source}: there is no file {path}. Check the path.")
    h5py = require("h5py", "data")
    with reading(f"{source}: {path}", REMEDY):
        if path.is_dir() or not h5py.is_hdf5(path):
            raise BadData(f"{source}: {path} is not an HDF5 file.")
        with h5py.File(path, "r") as file:
            yield file


def child(group: Any, name: str, where: str) -> Any:
    """Return the member of a group, or None if there is none. Raise a `BadData` for a link that leaves the file."""
    h5py = require("h5py", "data")
    link = group.get(name, getlink=True)
    if link is None:
        return None
    if isinstance(link, h5py.ExternalLink):
        raise BadData(
            f"{where}/{name} is a link to another file, {link.filename}, which may change or be missing. Copy the data "
            "into this file, for example with h5copy."
        )
    try:
        return group[name]
    except (KeyError, RuntimeError, OSError) as error:
        to = f", a link to {link.path}," if isinstance(link, h5py.SoftLink) else ""
        raise BadData(f"{where}/{name}{to} does not exist or is damaged ({error}). Copy the file again.") from error


def group_of(group: Any, name: str, where: str) -> Any:
    """Return the subgroup of that name, or None if there is none."""
    found = child(group, name, where)
    if found is not None and not isinstance(found, require("h5py", "data").Group):
        raise BadData(f"{where}/{name} must be an HDF5 group, but is a {type(found).__name__}.")
    return found


def columns(demo: Any, where: str) -> dict[str, Any]:
    """Return the columns of a demonstration, by name: those of `obs`, and `actions`. Each has a row per time step."""
    h5py, found = require("h5py", "data"), {}
    if (obs := group_of(demo, "obs", where)) is not None:
        for name in obs:
            data = child(obs, name, f"{where}/obs")
            if isinstance(data, h5py.Dataset) and data.shape:
                found[name] = data
    actions = child(demo, "actions", where)
    if actions is not None:
        if not isinstance(actions, h5py.Dataset) or not actions.shape:
            raise BadData(f"{where}/actions must be an array with one row per time step, but is {actions}.")
        found["actions"] = actions
    return found


def steps(found: Mapping[str, Any]) -> int:
    """Return the number of time steps of a demonstration: the rows of its actions, or of its longest column."""
    if "actions" in found:
        return len(found["actions"])
    return max((len(data) for data in found.values()), default=0)


def first_with_steps(file: Any, demos: list[str], source: str) -> str:
    """Return the first demonstration with time steps, whose columns all others must have; the first if none has any."""
    full = (name for name in demos if steps(columns(file["data"][name], f"{source}, {name}")))
    return next(full, demos[0])


def widths(found: Mapping[str, Any]) -> dict[str, int]:
    """Return the numeric columns and the number of values per time step in each."""
    return {
        name: math.prod(data.shape[1:]) for name, data in found.items() if data.ndim <= 2 and data.dtype.kind in "fiub"
    }


def numbers(data: Any, where: str) -> np.ndarray:
    """Read a column of a demonstration (t, width), float64."""
    check_array(data, where)
    values = np.asarray(data[()], np.float64)
    return values.reshape(len(values), math.prod(values.shape[1:]))


def check_array(data: Any, where: str) -> None:
    """Raise a `BadData` unless a dataset holds numbers, has a plausible size, and is stored in this file."""
    if data.dtype.kind not in "fiub":
        raise BadData(f"{where} has dtype {data.dtype}, but must hold numbers.")
    size = data.size * data.dtype.itemsize
    if size > MOST_BYTES or any(axis > 2**40 for axis in data.shape):
        raise BadData(f"{where} claims shape {data.shape}, {size} bytes, more than can be read. {REMEDY}")
    if data.is_virtual or data.external:
        raise BadData(
            f"{where} keeps its numbers in other files, and missing ones would read as zeros. Copy the numbers into "
            "this file, for example with h5repack."
        )
    stored = data.id.get_storage_size()
    if data.size and (not stored or (data.chunks is None and stored != size)):
        raise BadData(f"{where}: only {stored} of {size} bytes are stored. Recording stopped early, or it is damaged.")


def demonstrations(file: Any, spec: Spec) -> list[str]:
    """Return the names of a file's demonstrations, sorted by number. With ?filter_key= only those of that list."""
    data = group_of(file, "data", str(spec))
    demos = [name for name in data or () if DEMO.fullmatch(name)]
    if not demos:
        raise BadData(f"{spec} has no data/demo_*, so it is not a robomimic dataset, or an empty one.")
    if key := spec.options.get("filter_key"):
        demos = _filtered(file, key, demos, spec)
    for name in demos:
        if group_of(data, name, f"{spec}, data") is None:
            raise BadData(f"{spec}: data/{name} is missing. {REMEDY}")
    return sorted(demos, key=lambda name: int(name.split("_")[1]))


def _filtered(file: Any, key: str, demos: list[str], spec: Spec) -> list[str]:
    """Return the demonstrations in a list of the file's `mask`."""
    mask = group_of(file, "mask", str(spec))
    if mask is None or key not in mask:
        known = ", ".join(mask) if mask is not None and len(mask) else "no list at all"
        raise BadData(f"{spec}: the file's mask has no {key!r}; it has {known}. Give one of its lists as ?filter_key=.")
    data = child(mask, key, f"{spec}, mask")
    if not isinstance(data, require("h5py", "data").Dataset) or data.ndim != 1 or data.dtype.kind not in "SO":
        raise BadData(f"{spec}: mask/{key} must be a list of names such as demo_0, but is {data}.")
    names = [name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name) for name in data[()].tolist()]
    if not names:
        raise BadData(f"{spec}: mask/{key} is empty. Choose another list with ?filter_key=.")
    if absent := [name for name in names if name not in set(demos)]:
        raise BadData(f"{spec}: mask/{key} names {', '.join(absent[:3])}, which the file does not have.")
    return list(dict.fromkeys(names))


def text_attribute(node: Any, name: str, where: str) -> str | None:
    """Return a text attribute, or None if it is missing. Raise a `BadData` if it is not text."""
    if name not in node.attrs:
        return None
    value = node.attrs[name]
    if isinstance(value, np.ndarray) and value.size == 1:
        value = value.reshape(-1)[0]
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if isinstance(value, require("h5py", "data").Empty):
        return ""
    if not isinstance(value, str) or len(value) > MOST_TEXT:
        raise BadData(f"{where}: the attribute {name} must be text, but is {short(value)}.")
    return str(value).encode("utf-8", "replace").decode("utf-8")


def json_attribute(node: Any, name: str, where: str) -> Any:
    """Return the value of a JSON attribute, or None if it is missing or empty."""
    text = text_attribute(node, name, where)
    if text is None or not text.strip():
        return None
    return parse_json(text, f"{where}: the attribute {name}")


def settings(file: Any, source: str) -> dict[str, Any]:
    """Return the simulation environment's arguments from a file's attributes; an empty dict if it has none."""
    arguments = json_attribute(file["data"], "env_args", source) or {}
    if isinstance(arguments, dict):
        arguments = arguments.get("env_kwargs") or {}
    if not isinstance(arguments, dict):
        raise BadData(
            f"{source}: the attribute env_args must be JSON with an object env_kwargs, but has {short(arguments)}. "
            "Correct it, or delete it and give the rate as ?recorded_hz=."
        )
    return arguments


def control_hz(spec: Spec, arguments: Mapping[str, Any]) -> float:
    """Return the recorded rate in Hz: from the spec, or from the file, or robosuite's 20."""
    if "recorded_hz" in spec.options:
        return spec.number("recorded_hz", RATE_HZ)
    if (rate := arguments.get("control_freq")) is None:
        return RATE_HZ
    return positive(rate, MOST_HZ, f"{spec}: control_freq in env_args (or give ?recorded_hz=)")


def descriptions(file: Any, demos: list[str], spec: Spec) -> list[str] | None:
    """Return the task text of each demonstration, from its own attributes or the file's; None if there is none."""
    data = group_of(file, "data", str(spec))
    common = _instruction(data, str(spec))
    found = [_instruction(data[name], f"{spec}, {name}") or common for name in demos]
    if any(found) and not all(found):
        name = demos[found.index(None)]
        raise BadData(f"{spec}: {name} has no task text, but others do. Add the attribute language_instruction to it.")
    return [text for text in found if text] or None


def _instruction(node: Any, where: str) -> str | None:
    """Return the task text from `language_instruction`, LIBERO's `problem_info` or robocasa's `ep_meta`."""
    if text := text_attribute(node, "language_instruction", where):
        return _clean(text, where)
    for name, key in (("problem_info", "language_instruction"), ("ep_meta", "lang")):
        found = json_attribute(node, name, where)
        if isinstance(found, dict) and found.get(key):
            return _clean(found[key], f"{where}: {name}")
    return None


def _clean(text: object, where: str) -> str | None:
    """Return the text. LIBERO writes it as a string or a list of characters, sometimes in quotes."""
    if isinstance(text, list) and all(isinstance(part, str) for part in text):
        text = "".join(text)
    if not isinstance(text, str):
        raise BadData(f"{where}: language_instruction must be text, but is {short(text)}.")
    return text.strip().strip('"').strip() or None
