"""A cache on disk for the embeddings of a frozen model.

The key of an embedding is a hash of the model and of one sample. Another model or preprocessing therefore has other
keys, a repeated sample is embedded once, and a killed run continues after its last shard. Several processes may share
a folder.

Axes: b batch, n tokens, c width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import safetensors
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from action_heads._util.extras import require
from action_heads.io.drafts import sweep
from action_heads.io.files import WeightFileError, fingerprint, save_tensors
from action_heads.vlm.tap import Tap

Inputs = Mapping[str, Tensor]
S = TypeVar("S")


def embed(
    tap: Tap,
    samples: Iterable[Any],
    folder: str | Path,
    prepare: Callable[[Any], Inputs] = dict,
    *,
    batch_size: int = 16,
    shard_size: int = 256,
) -> Embeddings:
    """Embed the samples that are not in the folder yet, and return the embeddings of all, in the order of the samples.

    Args:
        tap: a frozen tap of one layer.
        samples: samples of a dataset, in any form that `prepare` takes.
        folder: the folder of the cache.
        prepare: a function from one sample to the inputs of the model, as tensors with a batch axis of 1. It runs for
            every sample, since its result determines the key.
        batch_size: largest number of consecutive samples of equal shapes that run together.
        shard_size: number of samples per file. A killed run loses at most as many.

    Raises:
        ValueError: the tap trains, or `prepare` returns something else.
        WeightFileError: a file of the cache is damaged.
    """
    identity = tap.identity()
    return collect(
        map(prepare, samples),
        folder,
        identity,
        key=lambda inputs: fingerprint(tensors_only(inputs), identity),
        shape=shapes,
        run=lambda waiting: embed_batch(tap, waiting),
        batch_size=batch_size,
        shard_size=shard_size,
    )


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
    quiet: bool = False,
) -> Embeddings:
    """Embed the samples whose keys are not in the folder yet, and return the embeddings of all, in their order.

    Args:
        samples: the samples.
        folder: the folder of the cache.
        identity: identifies the model; the names of its files begin with it.
        key: a function from a sample to its key.
        shape: a function from a sample to what samples that run together have in common.
        run: a function from several samples to the tokens (n c) of each.
        batch_size: largest number of consecutive samples that run together.
        shard_size: number of samples per file.
        quiet: show no progress bar.

    Raises:
        WeightFileError: a file of the cache is damaged.
    """
    tqdm, folder = require("tqdm.auto", "train").tqdm, Path(folder)
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

    def embed_waiting() -> None:
        done.update(zip(waiting, run(list(waiting.values())), strict=True))
        waiting.clear()
        if len(done) >= shard_size:
            write()

    try:
        for sample in tqdm(samples, desc="embedding", unit="sample", disable=quiet):
            keys.append(name := key(sample))
            if name in found or name in done or name in waiting:
                continue
            if waiting and shape(sample) != shape(next(iter(waiting.values()))):
                embed_waiting()
            waiting[name] = sample
            if len(waiting) == batch_size:
                embed_waiting()
        if waiting:
            embed_waiting()
    finally:  # Embeddings are kept even if the run fails or is interrupted.
        write()
    return Embeddings([found[name] for name in keys], keys)


class Embeddings:
    """Cached embeddings, which are read from disk when indexed. `fit` takes them as a condition.

    `tokens, mask = embeddings[rows]` returns tokens (b n c) in bfloat16, padded to the longest row, and a mask (b n).
    `rows` is a slice, a list or a tensor of indices.
    """

    def __init__(self, files: list[Path], keys: list[str]):
        self.files, self.keys = files, keys
        self._open: dict[Path, Any] = {}

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, rows: slice | Iterable[int] | Tensor) -> tuple[Tensor, Tensor]:
        if isinstance(rows, slice):
            rows = range(*rows.indices(len(self)))
        return padded([self._read(int(i)) for i in (rows.tolist() if isinstance(rows, Tensor) else rows)])

    def at(self, rows: Iterable[int] | Tensor) -> Embeddings:
        """Return the embeddings of these rows, in this order and not read yet; a row may come more than once."""
        chosen = [int(i) for i in rows]
        return Embeddings([self.files[i] for i in chosen], [self.keys[i] for i in chosen])

    def _read(self, i: int) -> Tensor:
        path = self.files[i]
        if path not in self._open:
            self._open[path] = safetensors.safe_open(path, framework="pt", device="cpu")
        return self._open[path].get_tensor(self.keys[i])

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": {}}  # Workers of a data loader get a copy, and open files cannot be sent.


def embed_batch(tap: Tap, waiting: list[Inputs]) -> list[Tensor]:
    """Embed samples of equal shapes, and return the valid tokens (n c) of each."""
    device = next(tap.parameters()).device
    batch = {name: torch.cat([inputs[name] for inputs in waiting]).to(device) for name in waiting[0]}
    with torch.no_grad():
        tokens, mask = tap(**batch)
    if len(tokens) != len(waiting):
        raise ValueError(f"{len(waiting)} samples became {len(tokens)} rows; prepare() must return a batch of one")
    if not mask.any(1).all():
        raise ValueError(f"a sample has no token for select={tap.select!r}; its inputs are {', '.join(batch)}")
    return valid_tokens(tokens, mask)


def padded(tokens: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Return tokens (n c) of several rows as (b n c), padded to the longest row, and a mask (b n)."""
    valid = [torch.ones(len(each), dtype=torch.bool) for each in tokens]
    return pad_sequence(tokens, batch_first=True), pad_sequence(valid, batch_first=True)


def valid_tokens(tokens: Tensor, mask: Tensor) -> list[Tensor]:
    """Return the tokens (n c) of each row of (b n c) where the mask (b n) is true, in bfloat16 on the CPU."""
    return [token[valid].to("cpu", torch.bfloat16) for token, valid in zip(tokens, mask, strict=True)]


def shards(folder: Path, identity: str) -> dict[str, Path]:
    """Return the file of every key that this model has in the folder."""
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


def tensors_only(inputs: Any) -> Inputs:
    """Return the inputs as a dict, or raise if a value is not a tensor."""
    if other := [name for name, value in inputs.items() if not isinstance(value, Tensor)]:
        raise ValueError(
            f"prepare() must return torch tensors; {', '.join(other)} is of another type. Pass return_tensors='pt'."
        )
    return dict(inputs)


def shapes(inputs: Inputs) -> dict[str, torch.Size]:
    """Return the shape of every input."""
    return {name: tensor.shape for name, tensor in inputs.items()}
