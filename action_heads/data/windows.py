"""A torch Dataset of chunks with their observations, and the rows that each training step draws from it.

Axes: b batch, s observation steps, h horizon, a action of the head, d state, N rows, E episodes, H height and W width
in pixels.
"""

from __future__ import annotations

import signal
from collections.abc import Generator, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from action_heads.data.formats import Recording
from action_heads.io.output_cache import Outputs
from action_heads.training.streams import generator
from action_heads.vlm.cache import Embeddings, padded

Sample = dict[str, Any]  # see `ObservedWindows.__getitem__`


class ObservedWindows(Dataset):
    """A dataset of windows with their observations, one for every row of the chosen episodes.

    Before the start of an episode its first observation is repeated. After its end its last action is repeated, and
    `is_pad` is true. No window reaches into another episode.

    Args:
        recording: recording with observations.
        actions: actions of all rows in the head's action space (N a).
        state: state of all rows (N d); d may be 0.
        cameras: cameras whose images are read.
        episodes: chosen episodes, bool (E,).
        horizon: time steps of a chunk.
        steps: observation steps.
        outputs: cached outputs of a frozen vision network for the images of all rows, by camera. They are read in place
            of the images.
    """

    def __init__(
        self,
        recording: Recording,
        actions: Tensor,
        state: Tensor,
        cameras: tuple[str, ...],
        episodes: np.ndarray,
        horizon: int,
        steps: int,
        outputs: Mapping[str, Outputs] | None = None,
    ):
        self.recording, self.actions, self.state, self.cameras = recording, actions, state, cameras
        self.horizon, self.steps, self.outputs = horizon, steps, outputs
        length = recording.lengths
        self.starts = np.cumsum(length) - length
        self.episode_of = np.repeat(np.arange(len(length)), length)
        self.episodes = int(episodes.sum())
        self.rows = np.flatnonzero(np.repeat(episodes, length))
        self.tokens: Embeddings | None = None  # one for each window

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Sample:
        """Return `actions` (h a), `is_pad` (h), `state` (s d), `task` (an index), `images` (s 3 H W) by camera.

        With cached tokens, also return `tokens` (n c), and with cached outputs `outputs` (s ...) by camera in place of
        the images.
        """
        row, episode, start = self._place(index)
        end = start + int(self.recording.lengths[episode])
        ahead = row + torch.arange(self.horizon)
        past = np.maximum(row + np.arange(1 - self.steps, 1), start)
        sample: Sample = {
            "actions": self.actions[ahead.clamp(max=end - 1)],
            "is_pad": ahead >= end,
            "state": self.state[past],
            "task": int(self.recording.task_of[row]),
        }
        if self.tokens is not None:
            sample["tokens"] = self.tokens[[index]][0][0]
        if self.outputs is not None:
            sample["outputs"] = {camera: outputs[past] for camera, outputs in self.outputs.items()}
        return sample | {"images": {} if self.outputs is not None else self._images(episode, past - start)}

    def use(self, tokens: Embeddings, cameras: tuple[str, ...]) -> None:
        """Read a VLM's tokens of each window, and from now on only the images of those cameras that it does not see."""
        self.tokens, self.cameras = tokens, cameras

    def present(self, index: int) -> Sample:
        """Return the current observation of a window: `images` (1 3 H W) by camera, and `task` (an index)."""
        row, episode, start = self._place(index)
        return {"images": self._images(episode, np.array([row - start])), "task": int(self.recording.task_of[row])}

    def _place(self, index: int) -> tuple[int, int, int]:
        """Return the row of a window, its episode, and the first row of the episode."""
        row = int(self.rows[index])
        episode = int(self.episode_of[row])
        return row, episode, int(self.starts[episode])

    def _images(self, episode: int, steps: np.ndarray) -> dict[str, Tensor]:
        return {
            camera: torch.from_numpy(self.recording.images_of(camera, episode, steps)).permute(0, 3, 1, 2)
            for camera in self.cameras
        }


class Steps:
    """The rows of each training step in a range. They depend only on the step, the seed and the process."""

    def __init__(self, windows: ObservedWindows, share: int, seed: int, rank: int, steps: range):
        self.windows, self.share, self.seed, self.rank, self.steps = windows, share, seed, rank, steps

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[list[int]]:
        for step in self.steps:
            drawn = generator("batch", self.seed, step, self.rank)
            yield torch.randint(len(self.windows), (self.share,), generator=drawn).tolist()


def batches(windows: ObservedWindows, rows: Any, workers: int, pin: bool = False) -> Generator[Sample]:
    """Yield the requested rows as stacked samples, which `workers` processes read and decode in advance."""
    loader = DataLoader(
        windows,
        batch_sampler=rows,
        num_workers=workers,
        pin_memory=pin,
        worker_init_fn=start_worker,
        collate_fn=stacked,
        generator=torch.Generator(),  # Its own generator, since the loader would draw from torch's.
    )
    yield from loader


def stacked(samples: list[Sample]) -> Sample:
    """Stack samples. Tokens are padded to the longest row, and `mask` (b n) is true where they are not padding."""
    tokens = [sample.pop("tokens") for sample in samples if "tokens" in sample]
    batch = default_collate(samples)
    if tokens:
        batch["tokens"], batch["mask"] = padded(tokens)
    return batch


def start_worker(worker: int) -> None:
    """Use one thread in a worker, and ignore Ctrl-C and SIGTERM.

    A terminal sends Ctrl-C to all processes, but the trainer handles it.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    torch.set_num_threads(1)


def held_out(recording: Recording, share: float, seed: int) -> np.ndarray:
    """Return which episodes are held out, bool (E,): a share of all, drawn by the seed and rounded down."""
    count = int(share * len(recording.lengths))
    out = np.zeros(len(recording.lengths), dtype=bool)
    drawn = torch.randperm(len(out), generator=generator("episodes", seed))[:count]
    out[drawn.numpy()] = True
    return out
