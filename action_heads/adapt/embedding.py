"""Embed the images and tasks of a recording by the VLM of a policy, once and on the disk, before training.

Axes: b batch, k windows, n tokens, c width.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from action_heads._util.extras import require
from action_heads._util.machine import cache_home
from action_heads.adapt.settings import AdaptConfig, flag
from action_heads.data.windows import ObservedWindows, Sample, start_worker
from action_heads.io.output_cache import collect, shards
from action_heads.observed_policy import ObservedPolicy
from action_heads.training.streams import generator
from action_heads.vlm.cache import Embeddings, valid_tokens

STATISTICS, LIVE_STATISTICS = 256, 64  # samples from which the statistics of tokens are taken: cached ones, others
AT_ONCE = 16  # samples that run together
SHARDED = 64e6  # bytes of a file of the cache, about


def cache_folder(config: AdaptConfig) -> Path:
    """Return the folder of the embeddings: --vlm-cache, or one in the user's cache, which all runs share."""
    if config.vlm.cache not in (None, "on"):
        return Path(config.vlm.cache).expanduser()
    return cache_home() / "embeddings"


class Present(Dataset):
    """The current observations of every window that this process embeds."""

    def __init__(self, windows: ObservedWindows, rank: int, processes: int):
        self.windows, self.indices = windows, range(rank, len(windows), processes)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Sample:
        return self.windows.present(self.indices[index])


class Embedder:
    """Computes the tokens of windows, which are cached in a folder.

    Args:
        policy: the policy, on the device that computes.
        config: the settings.
        tasks: the descriptions that the windows refer to.
    """

    def __init__(self, policy: ObservedPolicy, config: AdaptConfig, tasks: tuple[str, ...]):
        assert policy.encoder.vlm is not None
        self.policy, self.config, self.tasks = policy, config, tasks
        self.vlm = policy.encoder.vlm
        vision = config.vision
        made_of = [self.vlm.identity(), policy.contract.blind, vision.resize]
        self.identity = hashlib.sha256(repr(made_of).encode()).hexdigest()[:32]
        self.folder = cache_folder(config)

    def key(self, sample: Sample) -> str:
        """Return the key of a sample: a hash of the model, of what it is asked, and of the bytes of the images."""
        task = self.tasks[sample["task"]] if self.vlm.reads_task else ""
        digest = hashlib.sha256(f"{self.identity};{task}".encode())
        for name in self.vlm.cameras:
            image = sample["images"][name].contiguous()
            digest.update(f"{name}:{tuple(image.shape)}:{image.dtype};".encode())
            if not self.policy.contract.blind:
                digest.update(image.numpy())
        return digest.hexdigest()[:32]

    def shape(self, sample: Sample) -> Any:
        """Return what samples that run together have in common."""
        sizes = [sample["images"][name].shape for name in self.vlm.cameras]
        return (sample["task"] if self.vlm.reads_task else None, sizes)

    def run(self, samples: list[Sample]) -> list[Tensor]:
        """Return the tokens (n c) of each sample."""
        return tokens_of(self.policy, samples, self.tasks)

    def announce(self, count: int, first: Sample) -> int:
        """Return the bytes of one embedding, and print how many are made and how large all of them are."""
        found = shards(self.folder, self.identity)
        key = self.key(first)
        tokens = Embeddings([found[key]], [key])[[0]][0][0] if key in found else self.run([first])[0]
        size = tokens.numel() * tokens.element_size()
        print(
            f"embedding {count:,} samples of {len(tokens)} tokens x {tokens.shape[1]} by {self.config.vlm.model}, "
            f"about {count * size / 1e6:,.1f} MB in {self.folder} ({len(found):,} are there already)",
            flush=True,
        )
        return size

    def embed(self, windows: ObservedWindows, accelerator: Any) -> Embeddings:
        """Return the tokens of all windows. Each process embeds its share."""
        rank, processes = accelerator.process_index, accelerator.num_processes
        share = Present(windows, rank, processes)
        size = self.announce(len(windows), windows.present(0)) if rank == 0 else 1e5
        loader = DataLoader(
            share,
            batch_size=None,
            num_workers=self.config.workers,
            worker_init_fn=start_worker,
            generator=torch.Generator(),
        )
        found = collect(
            loader,
            self.folder,
            self.identity,
            key=self.key,
            shape=self.shape,
            run=self.run,
            shard_size=max(16, min(1024, int(SHARDED / size))),
            desc="embedding",
            unit="sample",
            disable=rank > 0,
        )
        pairs = [list(zip(found.files, found.keys, strict=True))]
        shares = require("accelerate.utils", "train").gather_object(pairs)
        joined = [shares[i % processes][i // processes] for i in range(len(windows))]
        return Embeddings(*map(list, zip(*joined, strict=True)))


@torch.no_grad()
def tokens_of(policy: ObservedPolicy, samples: list[Sample], tasks: tuple[str, ...]) -> list[Tensor]:
    """Return the tokens (n c) of samples of `ObservedWindows.present`, which run together."""
    assert policy.encoder.vlm is not None
    cameras = policy.encoder.vlm.cameras
    images = {name: torch.stack([sample["images"][name] for sample in samples]) for name in cameras}
    with flag("vlm", "vlm_dtype"):
        return valid_tokens(*policy.embed(images, [tasks[sample["task"]] for sample in samples]))


def drawn(windows: ObservedWindows, seed: int, most: int = STATISTICS) -> list[int]:
    """Return the indices of up to `most` windows, drawn by the seed."""
    return torch.randperm(len(windows), generator=generator("held-out batch", seed))[:most].tolist()


def standardise_tokens(policy: ObservedPolicy, windows: ObservedWindows, config: AdaptConfig) -> None:
    """Fit the adapter's statistics of tokens to a part of the windows, since hidden states are not normalised.

    Images are those of evaluation, without augmentation.
    """
    if windows.tokens is not None:
        tokens = [windows.tokens[[i]][0][0] for i in drawn(windows, config.seed)]
    else:
        policy.eval()
        samples, tokens = [windows.present(i) for i in drawn(windows, config.seed, LIVE_STATISTICS)], []
        for at in range(0, len(samples), AT_ONCE):
            tokens += tokens_of(policy, samples[at : at + AT_ONCE], windows.recording.tasks)
    policy.policy.adapter.standard["tokens"].fit(torch.cat(tokens).to(policy.device))  # type: ignore[index]
