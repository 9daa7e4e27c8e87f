"""A cache on disk for the outputs of a frozen network.

The key of an output is a hash of the network and of one sample. Another network or preprocessing therefore has other
keys, a repeated sample is computed once, and a killed run continues after its last shard. Several processes may share a
folder.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import safetensors
import torch
from torch import Tensor

from action_heads._util.progress import progress_bar
from action_heads.io.drafts import sweep
from action_heads.io.files import WeightFileError, fingerprint, save_tensors

Inputs = Mapping[str, Tensor]
S = TypeVar("S")


def collect(
    samples: Iterable[S],
    folder: str | Path,
    identity: str,
    *,
    key: Callable[[S], str],
    shape: Callable[[S], Any],
    run: Callable[[list[S]], list[Tensor]],
    batch_size: int = 16,
    shard_size: int = 256,
    **bar: Any,
) -> Outputs:
    """Compute the outputs of the samples whose keys are not in the folder yet, and return those of all, in their order.

    Args:
        samples: the samples.
        folder: the folder of the cache.
        identity: identifies the network; the names of its files begin with it.
        key: a function from a sample to its key.
        shape: a function from a sample to what samples that run together have in common.
        run: a function from several samples to the output of each.
        batch_size: largest number of consecutive samples that run together.
        shard_size: number of samples per file. A killed run loses at most as many.
        **bar: options of the progress bar.

    Raises:
        WeightFileError: a file of the cache can't be read, or its header is damaged. Its values are not checked.
    """
    folder = Path(folder)
    sweep(folder, [f"{identity[:12]}-*.safetensors"])
    found, keys = shards(folder, identity), []
    waiting: dict[str, S] = {}
    done: dict[str, Tensor] = {}

    def write() -> None:
        if done:
            path = folder / f"{identity[:12]}-{fingerprint({}, ','.join(done))}.safetensors"
            save_tensors(done, path)
            found.update(dict.fromkeys(done, path))
            done.clear()

    def run_waiting() -> None:
        done.update(zip(waiting, run(list(waiting.values())), strict=True))
        waiting.clear()
        if len(done) >= shard_size:
            write()

    try:
        for sample in progress_bar(samples, **bar):
            keys.append(name := key(sample))
            if name in found or name in done or name in waiting:
                continue
            if waiting and shape(sample) != shape(next(iter(waiting.values()))):
                run_waiting()
            waiting[name] = sample
            if len(waiting) == batch_size:
                run_waiting()
        if waiting:
            run_waiting()
    finally:  # Outputs are kept even if the run fails or is interrupted.
        write()
    return Outputs([found[name] for name in keys], keys)


class Outputs:
    """Cached outputs of samples, which are read from disk when indexed.

    `outputs[rows]` returns them stacked (n ...). `rows` is a slice, or a list, an array or a tensor of indices or of
    bools.
    """

    def __init__(self, files: list[Path], keys: list[str]):
        self.files, self.keys = files, keys
        self._open: dict[Path, Any] = {}

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, rows: slice | Iterable[int] | Tensor) -> Any:
        return torch.stack(self.read(rows))

    def read(self, rows: slice | Iterable[int] | Tensor) -> list[Tensor]:
        """Read the outputs of these rows."""
        if isinstance(rows, slice):
            rows = range(*rows.indices(len(self)))
        rows = np.asarray(rows if isinstance(rows, Tensor) else list(rows))
        if rows.dtype == bool and len(rows) != len(self):
            raise IndexError(f"a mask of {len(rows)} rows does not fit {len(self)} outputs")
        return [self._read(i) for i in (np.flatnonzero(rows) if rows.dtype == bool else rows).tolist()]

    def _read(self, i: int) -> Tensor:
        path = self.files[i]
        if path not in self._open:
            self._open[path] = safetensors.safe_open(path, framework="pt", device="cpu")
        return self._open[path].get_tensor(self.keys[i])

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": {}}  # Workers of a data loader get a copy, and open files cannot be sent.


def shards(folder: Path, identity: str) -> dict[str, Path]:
    """Return the file of every key that this network has in the folder."""
    found = {}
    for path in sorted(folder.glob(f"{identity[:12]}-*.safetensors")):
        try:
            with safetensors.safe_open(path, framework="pt", device="cpu") as file:
                found |= dict.fromkeys(file.keys(), path)
        except (OSError, safetensors.SafetensorError) as error:  # type: ignore[attr-defined]  # a class without a stub
            raise WeightFileError(
                f"{path} is damaged or can't be read ({error}). Delete it, and its outputs are computed again."
            ) from error
    return found


def shapes(inputs: Inputs) -> dict[str, torch.Size]:
    """Return the shape of every input."""
    return {name: tensor.shape for name, tensor in inputs.items()}
