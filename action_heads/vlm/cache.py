"""A cache on disk for the embeddings of a frozen tap; see `action_heads.io.output_cache`.

Axes: b batch, n tokens, c width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from action_heads.io.files import fingerprint
from action_heads.io.output_cache import Inputs, Outputs, collect, shapes
from action_heads.vlm.tap import Tap


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
        RuntimeError: the model is in training mode. Nothing that was computed in it is stored.
        WeightFileError: a file of the cache is damaged.
    """
    identity = tap.identity()
    outputs = collect(
        map(prepare, samples),
        folder,
        identity,
        key=lambda inputs: fingerprint(tensors_only(inputs), identity),
        shape=shapes,
        run=lambda waiting: embed_batch(tap, waiting),
        batch_size=batch_size,
        shard_size=shard_size,
        desc="embedding",
        unit="sample",
    )
    return Embeddings(outputs.files, outputs.keys)


class Embeddings(Outputs):
    """Cached embeddings, which are read from disk when indexed. `fit` takes them as a condition.

    `tokens, mask = embeddings[rows]` returns tokens (b n c) in bfloat16, padded to the longest row, and a mask (b n).
    `rows` is a slice, a list or a tensor of indices.
    """

    def __getitem__(self, rows: slice | Iterable[int] | Tensor) -> tuple[Tensor, Tensor]:
        return padded(self.read(rows))

    def at(self, rows: Iterable[int] | Tensor) -> Embeddings:
        """Return the embeddings of these rows, in this order and not read yet; a row may come more than once."""
        chosen = [int(i) for i in rows]
        return Embeddings([self.files[i] for i in chosen], [self.keys[i] for i in chosen])


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


def tensors_only(inputs: Any) -> Inputs:
    """Return the inputs as a dict, or raise if a value is not a tensor."""
    if other := [name for name, value in inputs.items() if not isinstance(value, Tensor)]:
        raise ValueError(
            f"prepare() must return torch tensors; {', '.join(other)} is of another type. Pass return_tensors='pt'."
        )
    return dict(inputs)
