"""The outputs of a frozen vision network for a recording's images, cached on disk and shared by all runs.

Axes: N rows of the recording, H and W pixels, w width, y and x rows and columns of a map.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from action_heads._util.machine import cache_home
from action_heads.data.formats import Recording
from action_heads.encoders import ObservationEncoder
from action_heads.encoders.observation import GREY
from action_heads.io.files import fingerprint
from action_heads.io.output_cache import Inputs, Outputs, collect, shapes, shards

AT_ONCE, SHARD = 32, 1024  # images that run together, and images in a file
READ = 64  # time steps that are read at once
SAMPLED = 32  # rows that show how many are cached


def cached_outputs(encoder: ObservationEncoder, recording: Recording, blind: bool) -> dict[str, Outputs]:
    """Return the network's outputs for every row (N ...) of a recording, by camera, and compute those that are missing.

    Vectors and keypoints are stored as float32, and maps as bfloat16. The key of an output is a hash of the network
    and of the image, so runs and recordings share it.

    Args:
        encoder: the encoder with the frozen vision network.
        recording: the recording.
        blind: give the outputs for grey images.

    Raises:
        ValueError: the network trains, its images are augmented at random, or the disk has too little room.
    """
    encoder.eval()
    identity, folder, found = encoder.identity(), cache_home() / "features", {}
    announce(encoder, recording, folder, identity, blind)
    for camera in encoder.cameras:
        found[camera] = collect(
            grey(recording, camera) if blind else images(recording, camera),
            folder,
            identity,
            key=lambda inputs: fingerprint(inputs, identity),
            shape=shapes,
            run=lambda waiting: encoder.outputs_of([inputs["image"] for inputs in waiting]),
            batch_size=AT_ONCE,
            shard_size=SHARD,
            total=int(recording.lengths.sum()),
            desc=f"encoding {camera}",
            unit="image",
        )
    return found


def some_outputs(encoder: ObservationEncoder, recording: Recording, rows: np.ndarray, blind: bool) -> dict[str, Tensor]:
    """Return the network's outputs for n ascending rows (n ...) of a recording, by camera, without a cache.

    Images are cropped at the centre. `blind` gives the output for a grey image (1 ...), which all rows share.
    """
    training = encoder.training
    encoder.eval()
    found = {}
    for camera in encoder.cameras:
        seen = images_at(recording, camera, rows, blind)
        found[camera] = torch.stack([encoder.outputs_of([inputs["image"]])[0] for inputs in seen])
    encoder.train(training)
    return found


def images_at(recording: Recording, camera: str, rows: np.ndarray, blind: bool) -> Iterator[Inputs]:
    """Yield the images of ascending rows (n), or with `blind` the grey one that they share."""
    return islice(grey(recording, camera), 1) if blind else read(recording, camera, places(recording, rows))


def places(recording: Recording, rows: np.ndarray) -> list[tuple[int, np.ndarray]]:
    """Return the episode and the time steps of ascending rows (n), as many together as are read at once."""
    ends = np.cumsum(recording.lengths)
    episodes = np.searchsorted(ends, rows, side="right")
    steps = rows - (ends - recording.lengths)[episodes]
    cuts = np.flatnonzero(np.diff(episodes) | np.diff(steps // READ)) + 1
    return [(int(of[0]), at) for of, at in zip(np.split(episodes, cuts), np.split(steps, cuts), strict=True)]


def announce(encoder: ObservationEncoder, recording: Recording, folder: Path, identity: str, blind: bool) -> None:
    """Print how large the outputs of a recording are, and raise if the disk has too little room for those to come."""
    sizes = {camera: recording.cameras[camera] for camera in encoder.cameras}
    blank = {camera: torch.zeros(3, *size, dtype=torch.uint8) for camera, size in sizes.items()}
    each = {camera: encoder.outputs_of([image])[0] for camera, image in blank.items()}
    rows = 1 if blind else int(recording.lengths.sum())
    total = rows * sum(x.numel() * x.element_size() for x in each.values())
    shape = " x ".join(map(str, next(iter(each.values())).shape))
    print(f"outputs of the frozen encoder: {len(each) * rows:,} images, {shape} each, {size_of(total)} in {folder}")
    there = next(path for path in (folder, *folder.parents) if path.exists())
    lacking = total * (1 - share_kept(encoder, recording, folder, identity, blind))
    if (free := shutil.disk_usage(there).free) < lacking:
        raise ValueError(
            f"the outputs of the frozen encoder need {size_of(lacking)} more, but {there} has {size_of(free)} "
            "left. Free some space, set ACTION_HEADS_CACHE to another disk, or choose smaller outputs, such as "
            "--pool keypoints"
        )


def share_kept(encoder: ObservationEncoder, recording: Recording, folder: Path, identity: str, blind: bool) -> float:
    """Return the share of a recording's outputs that are in the cache, estimated from a few of its rows."""
    if not (found := shards(folder, identity)):
        return 0.0
    count = int(recording.lengths.sum())
    rows, kept = np.linspace(0, count - 1, min(count, SAMPLED)).astype(int), []
    for camera in encoder.cameras:
        kept += [fingerprint(inputs, identity) in found for inputs in images_at(recording, camera, rows, blind)]
    return float(np.mean(kept))


def size_of(count: float) -> str:
    """Return a number of bytes as text."""
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.1f} MB"


def images(recording: Recording, camera: str) -> Iterator[Inputs]:
    """Yield the image (3 H W), uint8, of every row."""
    for episode, length in enumerate(recording.lengths.tolist()):
        blocks = (np.arange(first, min(first + READ, length)) for first in range(0, length, READ))
        yield from read(recording, camera, ((episode, steps) for steps in blocks))


def read(recording: Recording, camera: str, places: Iterable[tuple[int, np.ndarray]]) -> Iterator[Inputs]:
    """Yield the images (3 H W), uint8, of places: an episode and its time steps, which are read at once."""
    for episode, steps in places:
        for image in recording.images_of(camera, episode, steps):
            yield {"image": torch.from_numpy(image).permute(2, 0, 1)}


def grey(recording: Recording, camera: str) -> Iterator[Inputs]:
    """Yield a grey image (3 H W) for every row."""
    image = torch.full((3, *recording.cameras[camera]), GREY)
    for _ in range(int(recording.lengths.sum())):
        yield {"image": image}


@contextmanager
def encoding_on(device: torch.device | str, encoder: ObservationEncoder) -> Iterator[None]:
    """Keep the vision network of an encoder on a device, and move it back to the CPU afterwards."""
    encoder.trunks.to(device)
    try:
        yield
    finally:
        encoder.trunks.cpu()
