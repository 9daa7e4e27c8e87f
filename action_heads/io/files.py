"""Local files: tensors in safetensors, JSON and text, and the fingerprint of weights.

Every file is written completely or not at all, and nothing is ever unpickled.
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

from action_heads._util.checks import FLOATING
from action_heads.io import drafts, strict_json
from action_heads.io.foreign import ending, foreign

HEADER = "action_heads"  # Key in the metadata of a safetensors file where adapters and taps store their config as JSON.
DTYPES = (*FLOATING, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool)


class WeightFileError(ValueError):
    """An error about a weight file that cannot be read. It names the file, what was found in it and the remedy."""


@contextmanager
def naming(path: str | os.PathLike[str]) -> Iterator[None]:
    """Put the name of this file in front of a ValueError from this context, unless the message has it already."""
    try:
        yield
    except ValueError as error:
        if str(path) in str(error):
            raise
        kind = WeightFileError if isinstance(error, WeightFileError) else ValueError
        raise kind(f"{path}: {error}") from error


def save_tensors(tensors: Mapping[str, Tensor], path: str | os.PathLike[str], metadata: dict | None = None) -> None:
    """Write named tensors and string metadata to a safetensors file. An existing file is replaced atomically."""
    path = Path(path)
    write_together(path.parent, {path.name: tensors_as_bytes(tensors, metadata)})


def tensors_as_bytes(tensors: Mapping[str, Tensor], metadata: dict | None = None) -> bytes:
    """Return the content of a safetensors file with these tensors and this string metadata."""
    metadata = {"format": "pt", **(metadata or {})}  # transformers requires "pt" to load a file.
    for key, value in metadata.items():
        if not isinstance(value, str):
            raise TypeError(
                f"metadata[{key!r}] is of type {type(value).__name__}; safetensors stores only strings: use json.dumps"
            )
    # Each tensor is copied, since safetensors rejects tensors that share memory, as tied or sliced weights do.
    whole = {name: t.detach().cpu().clone(memory_format=torch.contiguous_format) for name, t in tensors.items()}
    return _in_order(safetensors.torch.save(whole, metadata))


def _in_order(data: bytes) -> bytes:
    """Sort the metadata in the header, which safetensors writes in a different order in every process."""
    start = 8 + int.from_bytes(data[:8], "little")  # The length of the header, then the header as JSON.
    header = json.loads(data[8:start])
    metadata = dict(sorted(header.pop("__metadata__").items()))
    text = json.dumps({"__metadata__": metadata} | header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # The format aligns the data that follows.
    return b"".join([len(text).to_bytes(8, "little"), text, memoryview(data)[start:]])


def load_tensors(path: str | os.PathLike[str], remedy: str | None = None) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read a safetensors file.

    Args:
        path: the file.
        remedy: the end of every error, for a file that cannot be saved or downloaded again by hand.

    Returns:
        Its tensors, on the CPU in the dtypes of the file, and its metadata.

    Raises:
        WeightFileError: the file does not exist or cannot be read.
    """
    path = Path(path)
    if path.is_dir():
        raise WeightFileError(
            f"{path} is a folder, not a weight file{ending(remedy, '; pass the .safetensors file in it')}"
        )
    if not path.exists():
        beside = sorted(p.name for p in path.parent.glob("*.safetensors")) or "no .safetensors file"
        end = ending(remedy, ". Save it again, or fix the path.")
        raise WeightFileError(f"{path} does not exist; its folder holds {beside}{end}")
    try:
        with safetensors.safe_open(path, framework="pt", device="cpu") as file:
            # Cloned out of the memory map, so that the file may be deleted or overwritten afterwards.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
            metadata = dict(file.metadata() or {})
    except OSError:  # The disk failed; the content of the file is not at fault.
        raise
    except Exception as error:  # A wrong header: SafetensorError, or any error of torch about its shapes and dtypes.
        raise WeightFileError(_diagnose(path, str(error), remedy)) from error
    if odd := [f"{name} is {tensor.dtype}" for name, tensor in tensors.items() if tensor.dtype not in DTYPES]:
        end = ending(remedy, ". Save it again.")
        raise WeightFileError(f"{path} holds tensors of unsupported dtypes: {', '.join(odd[:4])}{end}")
    if HEADER in metadata:
        try:
            parse_json(metadata[HEADER], f"the config in the header of {path}", remedy)
        except ValueError as error:
            raise WeightFileError(str(error)) from error
    return tensors, metadata


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a UTF-8 text file. An existing file is replaced atomically."""
    path = Path(path)
    write_texts(path.parent, {path.name: text})


def write_texts(folder: str | os.PathLike[str], texts: Mapping[str, str]) -> None:
    """Write UTF-8 text files by name, as `write_together` does."""
    write_together(folder, {name: text.encode("utf-8") for name, text in texts.items()})


def read_json(path: str | os.PathLike[str], remedy: str | None = None) -> Any:
    """Read a JSON file.

    Args:
        path: the file.
        remedy: as in `load_tensors`.

    Raises:
        ValueError: the file is not JSON. The message gives line and column, or what the file seems to be.
    """
    with _valid(path, remedy):
        return strict_json.read(path)


def parse_json(text: str, what: str | os.PathLike[str], remedy: str | None = None) -> Any:
    """Parse JSON as `strict_json.loads` does, with an error that names `what`; `remedy` is as in `load_tensors`."""
    with _valid(what, remedy):
        return strict_json.loads(text)


@contextmanager
def _valid(what: str | os.PathLike[str], remedy: str | None) -> Iterator[None]:
    """Raise an error that names what is not valid JSON."""
    try:
        yield
    except strict_json.NotJson as error:
        raise ValueError(f"{what} is not valid JSON ({error.reason}){ending(remedy, f'; {error.remedy}')}") from error


def fingerprint(tensors: Mapping[str, Tensor], contract: str = "") -> str:
    """Return 32 hex digits that identify named tensors, the same on any device.

    Floats are hashed as float32, so a bfloat16 file has the fingerprint of its float32 copy. Rounding a float32 weight
    to bfloat16 changes its value and therefore the fingerprint. Integers are hashed by their bits, which a float may
    share, so readers of a file also check its dtypes (`weights.check_layout`).

    Args:
        tensors: the tensors by name. Names, shapes and values count.
        contract: the meaning of the values as text, such as layout and objective. It counts too.
    """
    digest = hashlib.sha256(contract.encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        tensor = tensor.float() if tensor.is_floating_point() else tensor
        digest.update(f"{name}:{tuple(tensor.shape)};".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:32]


def write_together(folder: str | os.PathLike[str], contents: Mapping[str, bytes]) -> None:
    """Write files next to their targets, flush them to the disk and rename them, so that readers see no partial file.

    No file is renamed before all are flushed. So if one of them cannot be written, or if the process is killed until
    then, all existing files stay. The renames follow one another with nothing between them, but each is one change of
    the disk: a process that is killed between two of them leaves some new files among old ones. Whoever reads files
    that belong together must compare their fingerprints, and say what to do if they differ.

    Args:
        folder: the folder, created if needed.
        contents: the contents by name, in the order in which they are renamed. A name may lie in a folder below.
    """
    paths = {Path(folder) / name: data for name, data in contents.items()}
    stays = f"{_listed(list(contents))} unchanged"
    for below in dict.fromkeys(path.parent for path in paths):
        with drafts.writing(below, stays=stays):
            below.mkdir(parents=True, exist_ok=True)
        drafts.sweep(below, [glob.escape(path.name) for path in paths if path.parent == below])
    for path in paths:
        if path.is_dir():
            raise IsADirectoryError(f"could not write {path}: it is a folder. Rename it, or write elsewhere.")
    with ExitStack() as stack:
        ready = []
        for path, data in paths.items():
            with drafts.writing(path, stays=stays):
                # Drafts lie in the same folder, since a rename across file systems would be a copy.
                ready.append((stack.enter_context(drafts.written(path, data)), path))
        for i, (draft, path) in enumerate(ready):
            if i:
                stays = f"{_listed(list(contents)[:i])} replaced already, and the others are not, so save them again"
            with drafts.writing(path, stays=stays):
                os.replace(draft, path)


def _listed(names: list[str]) -> str:
    return f"{' and '.join(names)} {'is' if len(names) == 1 else 'are'}"


def _diagnose(path: Path, error: str, remedy: str | None) -> str:
    """Return what is wrong with a file that safetensors rejected.

    Only such files are diagnosed, since a valid file starts with the length of its header, which may read "PK" or 0x80.
    """
    size, again = path.stat().st_size, "; copy or download it again"
    with open(path, "rb") as file:
        head = file.read(64)
    if size == 0:
        return f"{path} is empty (0 bytes), since writing or copying it failed{ending(remedy, again)}"
    if remedy is None and (found := foreign(head)):
        return f"{path} is not a safetensors file: {found}"
    if size < 9 or head[8:9] == b"{":  # Eight bytes with the length of the header, then the header as JSON.
        return f"{path} is a damaged or truncated safetensors file of {size} bytes ({error}){ending(remedy, again)}"
    end = ending(remedy, "; save it again")
    return f"{path} is not a safetensors file: it starts with {head[:16]!r} ({error}){end}"
