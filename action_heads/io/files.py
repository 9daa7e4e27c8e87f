"""Local files: tensors in safetensors, small texts, and the fingerprint that says which weights these are.

Whatever is written here appears whole or not at all, and nothing here unpickles.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from action_heads._util import limits
from action_heads.io import drafts

HEADER = "action_heads"  # the key of a safetensors header under which adapters and taps keep their config, as JSON
DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
DTYPES = (*DTYPES, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool)
JSON_BYTES = 2**28  # of the largest JSON file that is read
NESTING = 64  # lists and objects within each other


class WeightFileError(ValueError):
    """A weight file cannot be read: the message names the file, what was found in it and the remedy."""


@contextmanager
def naming(path: str | os.PathLike[str]) -> Iterator[None]:
    """Errors in here are about this file: put its name before a message that lacks it."""
    try:
        yield
    except ValueError as error:
        if str(path) in str(error):
            raise
        kind = WeightFileError if isinstance(error, WeightFileError) else ValueError
        raise kind(f"{path}: {error}") from error


def save_tensors(tensors: Mapping[str, Tensor], path: str | os.PathLike[str], metadata: dict | None = None) -> None:
    """Write named tensors, and string metadata, to a safetensors file; an older file there is replaced at once."""
    _write_whole(Path(path), tensors_as_bytes(tensors, metadata))


def tensors_as_bytes(tensors: Mapping[str, Tensor], metadata: dict | None = None) -> bytes:
    """Named tensors and string metadata as the content of a safetensors file."""
    metadata = {"format": "pt", **(metadata or {})}  # "pt" is what transformers looks for before it loads a file
    for key, value in metadata.items():
        if not isinstance(value, str):
            raise TypeError(f"metadata[{key!r}] is {type(value).__name__}; safetensors keeps strings: use json.dumps")
    # A copy each: safetensors refuses tensors that share memory, which tied or sliced weights do.
    whole = {name: t.detach().cpu().clone(memory_format=torch.contiguous_format) for name, t in tensors.items()}
    return _in_order(safetensors.torch.save(whole, metadata))


def _in_order(data: bytes) -> bytes:
    """The same file with its header in one order: safetensors writes the metadata in another one in every process."""
    start = 8 + int.from_bytes(data[:8], "little")  # the header's length, then the header, which is JSON
    header = json.loads(data[8:start])
    metadata = dict(sorted(header.pop("__metadata__").items()))
    text = json.dumps({"__metadata__": metadata} | header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # the format aligns what follows
    return b"".join([len(text).to_bytes(8, "little"), text, memoryview(data)[start:]])


def load_tensors(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read a safetensors file: its tensors (on the CPU, in the dtypes of the file) and its metadata."""
    path = Path(path)
    if path.is_dir():
        raise WeightFileError(f"{path} is a folder, not a weight file; name the .safetensors file in it")
    if not path.exists():
        beside = sorted(p.name for p in path.parent.glob("*.safetensors")) or "no .safetensors file"
        raise WeightFileError(f"{path} does not exist; its folder holds {beside}. Save the head again or mend the path")
    try:
        with safetensors.safe_open(path, framework="pt", device="cpu") as file:
            # Cloned out of the memory map, so that the file may be deleted or overwritten while the tensors live.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
            metadata = dict(file.metadata() or {})
    except OSError:  # of the disk, not of what is on it
        raise
    except Exception as error:  # a header that lies: SafetensorError, or whatever torch says of its shapes and dtypes
        raise WeightFileError(_diagnose(path, str(error))) from error
    if odd := [f"{name} is {tensor.dtype}" for name, tensor in tensors.items() if tensor.dtype not in DTYPES]:
        raise WeightFileError(f"{path} holds numbers that nothing here is made of: {', '.join(odd[:4])}; save it again")
    if HEADER in metadata:
        try:
            parse_json(metadata[HEADER], f"the config in the header of {path}")
        except ValueError as error:
            raise WeightFileError(str(error)) from error
    return tensors, metadata


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a UTF-8 text file; an older file there is replaced at once."""
    _write_whole(Path(path), text.encode("utf-8"))


def read_json(path: str | os.PathLike[str]) -> Any:
    """Read a JSON file; where it is not JSON, the `ValueError` gives line, column and what it seems to be."""
    path = Path(path)
    if (size := path.stat().st_size) > JSON_BYTES:
        raise ValueError(f"{path} has {size:,} bytes, and a JSON file here has at most {JSON_BYTES:,}: it is damaged")
    data = path.read_bytes()
    try:
        text = data.decode("utf-8-sig")  # some editors begin a file with the mark of its encoding
    except UnicodeDecodeError as error:
        remedy = _foreign(data[:64]) or "write it again"
        raise ValueError(f"{path} is not JSON but binary ({error}); {remedy}") from error
    return parse_json(text, path)


def parse_json(text: str, what: str | os.PathLike[str]) -> Any:
    """Parse JSON as `loads` does; the `ValueError` names `what` and the place."""
    try:
        return loads(text)
    except NotJson as error:
        raise ValueError(f"{what} is not valid JSON ({error.reason}); {error.remedy}") from error


class NotJson(ValueError):
    """A text is not JSON, or not as this library takes it: why, and the remedy."""

    def __init__(self, reason: str, remedy: str = "mend it or write it again"):
        super().__init__(f"{reason}; {remedy}")
        self.reason, self.remedy = reason, remedy


class KeyTwice(NotJson):
    """An object has a `key` twice, and readers differ in which of the two counts."""

    def __init__(self, key: str):
        super().__init__(f"the key {limits.shown(key)} comes twice in one object")
        self.key = key


def loads(text: str, numbers: bool = True) -> Any:
    """Parse JSON as the standard has it.

    Refused beyond Python's own parser: keys that come twice, halves of surrogate pairs, nesting deeper than `NESTING`
    and, unless whoever uses the `numbers` checks them, NaN, infinity and integers beyond 64 bits, which Python's own
    writer makes. Whatever passes can be shown, copied and written again.
    """
    hooks: dict[str, Any] = {"parse_constant": _no_number, "parse_int": _integer, "parse_float": _finite}
    try:
        value = json.loads(text, object_pairs_hook=_unique, **hooks if numbers else {})
        _check_within(value)
        return value
    except json.JSONDecodeError as error:
        head = text[:64].encode(errors="replace")
        remedy = _foreign(head) or ("mend that line or write it again" if text.strip() else "the file is empty")
        raise NotJson(f"line {error.lineno}, column {error.colno}: {error.msg}", remedy) from error
    except RecursionError as error:
        raise NotJson("lists or objects are nested thousands deep", "it is damaged: write it again") from error
    except NotJson:
        raise
    except ValueError as error:  # an integer of thousands of digits
        raise NotJson(str(error)) from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise KeyTwice(twice)
    return found


def _no_number(text: str) -> Any:
    raise NotJson(f"{text} is no number of JSON")


def _integer(text: str) -> int:
    if len(text) > 20 or abs(number := int(text)) >= 2**64:
        raise NotJson(f"an integer of {len(text.lstrip('-'))} digits")
    return number


def _finite(text: str) -> float:
    number = float(text)
    if number in (float("inf"), float("-inf")):
        raise NotJson(f"the number {text[:40]} is beyond what a float holds")
    return number


def _check_within(value: Any) -> None:
    """Look at nesting and texts, level by level rather than by recursion."""
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
                raise NotJson(f"the text {limits.shown(item)} holds half of a surrogate pair")
        if not below:
            return
        level = below
    raise NotJson(f"lists or objects are nested more than {NESTING} deep")


def fingerprint(tensors: Mapping[str, Tensor], contract: str = "") -> str:
    """Return 32 hex digits for these names, shapes and values, the same on any device.

    `contract` is what the values mean (layout, objective), as text: the same weights under another are another head.

    Floats are hashed as float32, so a bfloat16 file has the fingerprint of its float32 copy. Rounding a float32
    weight to bfloat16 changes its value and so, rightly, the fingerprint. Of integers the bits are hashed, which a
    float could have too: whoever reads a file also checks the kind of its numbers (`checks.check_layout`).
    """
    digest = hashlib.sha256(contract.encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        tensor = tensor.float() if tensor.is_floating_point() else tensor
        digest.update(f"{name}:{tuple(tensor.shape)};".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:32]


def _write_whole(path: Path, data: bytes) -> None:
    write_together(path.parent, {path.name: data})


def write_together(folder: str | os.PathLike[str], contents: Mapping[str, bytes]) -> None:
    """Write files beside their targets, force them to the disk, then rename: readers see the old ones or the new ones.

    If any of them can't be written, all the older ones stay.
    """
    folder = Path(folder)
    with drafts.writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    drafts.sweep(folder, map(glob.escape, contents))
    for name in contents:
        if (folder / name).is_dir():
            raise IsADirectoryError(f"could not write {folder / name}: it is a folder. Rename it, or write elsewhere")
    with ExitStack() as stack:
        # In the same folder, since a rename across file systems is a copy.
        ready = {folder / name: stack.enter_context(drafts.written(folder / name, contents[name])) for name in contents}
        for path, draft in ready.items():
            with drafts.writing(path):
                os.replace(draft, path)


def _foreign(head: bytes) -> str | None:
    """What a file that is not what it should be is instead, and the remedy, judged by its first bytes."""
    if head.startswith((b"\x80", b"PK")):
        return (
            "this is a PyTorch pickle; weights here are safetensors only, because unpickling runs code. Convert it "
            "where you trust it: safetensors.torch.save_file(torch.load(file, weights_only=True), 'model.safetensors')"
        )
    if head.startswith(b"version https://git-lfs"):
        return "this is a Git LFS pointer, the weights were not fetched: run `git lfs pull` in its repository"
    if head.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        return "this is a web page, saved in place of the file: download from the page's raw link, or use the Hub id"
    return None


def _diagnose(path: Path, error: str) -> str:
    """Say what is wrong with a file that safetensors refused.

    Asked only after it refused: a sound file starts with the length of its header, which may well read "PK" or 0x80.
    """
    size = path.stat().st_size
    with open(path, "rb") as file:
        head = file.read(64)
    if size == 0:
        return f"{path} is empty (0 bytes): writing or copying it stopped at once; copy or download it again"
    if found := _foreign(head):
        return f"{path} is not a safetensors file: {found}"
    if size < 9 or head[8:9] == b"{":  # the eight bytes of the header's length, then the header, which is JSON
        return f"{path} is a damaged or truncated safetensors file of {size} bytes ({error}); copy or download it again"
    return f"{path} is not a safetensors file: it starts with {head[:16]!r} ({error}); save the head again"
