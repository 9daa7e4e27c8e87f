"""A cache on disk for the outputs of a frozen network.

The key of an output is a hash of the network and of one sample's prepared inputs. Another network or preprocessing
therefore has other keys, a repeated sample is computed once, and a killed run continues after its last shard.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import safetensors
import torch
from torch import Tensor

from action_heads._util.extras import require
from action_heads.io.drafts import sweep
from action_heads.io.files import WeightFileError, fingerprint, save_tensors

Inputs = Mapping[str, Tensor]


def compute(
    identity: str,
    samples: Iterable[Inputs],
    run: Callable[[Mapping[str, Inputs]], Mapping[str, Tensor]],
    folder: Path,
    *,
    batch_size: int,
    shard_size: int,
    **bar: Any,
) -> Outputs:
    """Compute the outputs that are not in the folder yet, and return those of all samples, in their order.

    Args:
        identity: 32 hex digits that identify the network.
        samples: inputs of each sample, as tensors.
        run: a function from the inputs of samples by key, all of equal shapes, to one output for each key.
        folder: the folder of the cache.
        batch_size: largest number of consecutive samples of equal shapes that run together.
        shard_size: number of samples per file. A killed run loses at most as many.
        **bar: options of the progress bar.

    Raises:
        WeightFileError: a file of the cache is damaged.
    """
    tqdm = require("tqdm.auto", "train").tqdm
    sweep(folder, [f"{identity[:12]}-*.safetensors"])
    found, keys = shards(folder, identity), []
    waiting: dict[str, Inputs] = {}
    done: dict[str, Tensor] = {}

    def write() -> None:
        if done:
            path = folder / f"{identity[:12]}-{fingerprint({}, ','.join(done))}.safetensors"
            save_tensors(done, path)
            found.update(dict.fromkeys(done, path))
            done.clear()

    def run_waiting() -> None:
        done.update(run(waiting))
        waiting.clear()
        if len(done) >= shard_size:
            write()

    try:
        for inputs in tqdm(samples, **bar):
            keys.append(key := fingerprint(inputs, identity))
            if key in found or key in done or key in waiting:
                continue
            if waiting and shapes(inputs) != shapes(next(iter(waiting.values()))):
                run_waiting()
            waiting[key] = inputs
            if len(waiting) == batch_size:
                run_waiting()
        if waiting:
            run_waiting()
    finally:  # Outputs are kept even if the run fails or is interrupted.
        write()
    return Outputs([found[key] for key in keys], keys)


class Outputs:
    """Cached outputs of samples, which are read from disk when indexed.

    `outputs[rows]` returns them stacked (n ...). `rows` is a slice, a list, an array or a tensor of indices.
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
        return [self._read(int(i)) for i in (rows.tolist() if isinstance(rows, Tensor) else rows)]

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
        except safetensors.SafetensorError as error:  # type: ignore[attr-defined]  # a Rust class without a stub
            raise WeightFileError(
                f"{path} is damaged ({error}). Delete it, and its samples are embedded again."
            ) from error
    return found


def shapes(inputs: Inputs) -> dict[str, torch.Size]:
    """Return the shape of every input."""
    return {name: tensor.shape for name, tensor in inputs.items()}
