"""Read LIBERO's init files, which are arrays of numbers pickled by torch.save, without running code.

Nothing that a pickle names is imported. Arrays of numpy are rebuilt here from shape, type and bytes, and any other name
is refused.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from action_heads._util.extras import pip

LARGEST = 256 * 2**20  # bytes; the files of LIBERO have 0.1 MB
ARRAY = "states.npy"  # in an .npz file
MEMBERS = ("data.pkl", ARRAY)  # the part of a zip archive that holds the states
MEMO = 1_000_000  # largest size of the memo of a pickle
MAGIC = 0x1950A86A20F9469CFC6C  # the first of the four pickles before torch 1.6
MODULES = ("numpy", "numpy.core.multiarray", "numpy._core.multiarray", "_codecs")


class NotStates(ValueError):
    """An error about a file that is not an array of numbers."""


def read_init_states(path: str | Path, remedy: str = "") -> np.ndarray:
    """Return the states (n, s) of a .pruned_init or .init file, or of one as .npz. Each state is one start of a task.

    Args:
        path: the file.
        remedy: what an error proposes; for the files of hf-libero if it is empty.

    Raises:
        NotStates: the file is damaged or holds something else.
    """
    path = Path(path)
    try:
        size = path.stat().st_size
        if size > LARGEST:
            raise NotStates(f"it has {size} bytes, more than {LARGEST}")
        states = np.asarray(_value(path.read_bytes()))
        if states.ndim != 2 or states.dtype.kind not in "fiu" or not np.isfinite(states).all():
            raise NotStates(f"expected finite numbers (n, s), but it has {states.dtype} {states.shape}")
        return states
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, EOFError, OSError, MemoryError) as error:
        reason = str(error) or type(error).__name__
    except (pickle.UnpicklingError, zipfile.BadZipFile, NotImplementedError, RuntimeError, OverflowError) as error:
        reason = str(error) or type(error).__name__
    raise NotStates(
        f"{path} is not an init file of LIBERO: {reason}. None of its code was run. "
        + (remedy or f"Install hf-libero again: {pip()} install --force-reinstall --no-deps hf-libero")
    )


def _value(content: bytes) -> Any:
    if zipfile.is_zipfile(io.BytesIO(content)):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            (member,) = [one for one in archive.infolist() if one.filename.rsplit("/", 1)[-1] in MEMBERS]
            if member.file_size > LARGEST:
                raise NotStates(f"it unpacks to {member.file_size} bytes, more than {LARGEST}")
            unpacked = io.BytesIO(archive.read(member))
            if member.filename == ARRAY:
                return np.lib.format.read_array(unpacked, allow_pickle=False)
            return _unpickled(unpacked)
    stream = io.BytesIO(content)
    first = _unpickled(stream)
    if not isinstance(first, int) or first != MAGIC:
        return first
    for _ in range(2):  # the version of the protocol, and the sizes of C types
        _unpickled(stream)
    return _unpickled(stream)


def _unpickled(stream: io.BytesIO) -> Any:
    """Return the next value of a stream of pickles."""
    begin = stream.tell()
    for opcode, argument, _ in pickletools.genops(stream):
        if opcode.name.endswith("PUT") and int(argument or 0) > MEMO:  # memory would be taken for all numbers below
            raise NotStates("its memo is larger than its contents can need")
    stream.seek(begin)
    return _made(_Reader(stream).load())


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        known = {"_reconstruct": _Array.empty, "ndarray": _Array, "dtype": _Type, "encode": _encoded}
        if module in MODULES and name in known:
            return known[name]
        raise NotStates(f"it names {module}.{name}, which an array of numbers does not need")

    def persistent_load(self, pid: Any) -> Any:
        raise NotStates("it holds tensors of torch instead of arrays of numpy")


class _Type:
    """A dtype while it is unpickled: kind and size first, then the byte order."""

    def __init__(self, code: str, *_: Any):
        self.code, self.order = code, "="

    def __setstate__(self, state: tuple) -> None:
        self.order = state[1]

    def made(self) -> np.dtype:
        if self.code not in ("f4", "f8", "i4", "i8", "u1"):
            raise NotStates(f"it has the type {str(self.code)[:20]!r}; expected floats or integers")
        return np.dtype((">" if self.order == ">" else "<") + self.code)


class _Array:
    """An array while it is unpickled, which is empty until its state is set."""

    state: tuple = ()

    @classmethod
    def empty(cls, *_: Any) -> _Array:
        return cls()

    def __setstate__(self, state: tuple) -> None:
        self.state = state

    def made(self) -> np.ndarray:
        _, shape, kind, fortran, raw = self.state
        dtype = kind.made()
        if len(raw) != math.prod(shape) * dtype.itemsize:
            raise NotStates(f"it has {len(raw)} bytes, which do not fit its shape {shape}")
        return np.frombuffer(raw, dtype).reshape(shape, order="F" if fortran else "C").astype(dtype.newbyteorder("="))


def _encoded(text: str, encoding: str) -> bytes:
    """Return bytes that a pickle of protocol 2 stores as text."""
    if encoding != "latin1":
        raise NotStates(f"it has bytes in {str(encoding)[:20]!r}")
    return text.encode("latin1")


def _made(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_made(one) for one in value]
    return value.made() if isinstance(value, _Array) else value
