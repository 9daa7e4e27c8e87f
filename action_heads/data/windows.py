"""Chunks of a recording with what was seen before them: a torch Dataset, and which of it each step trains on.

b batch, s observation steps, h horizon, a action of the head, d state, N rows, H and W pixels
"""

from __future__ import annotations

import signal
from collections.abc import Generator, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from action_heads.data.formats import Recording
from action_heads.training.streams import generator

Sample = dict[str, Any]  # see `Windows.__getitem__`


class Windows(Dataset):
    """One for every row of the chosen episodes.

    Before the start of an episode its first observation is repeated; after its end its last action, which `is_pad`
    says. No window looks into another episode.

    Args:
        actions: of all rows, as the head makes them (N a).
        state: of all rows (N d); d may be 0.
        cameras: whose pictures are read.
        episodes: bool (E,).
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
    ):
        self.recording, self.actions, self.state, self.cameras = recording, actions, state, cameras
        self.horizon, self.steps = horizon, steps
        length = recording.lengths
        self.starts = np.cumsum(length) - length
        self.episode_of = np.repeat(np.arange(len(length)), length)
        self.episodes = int(episodes.sum())
        self.rows = np.flatnonzero(np.repeat(episodes, length))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Sample:
        """`actions` (h a), `is_pad` (h), `state` (s d), `task` by its number, `images` (s 3 H W) uint8 by camera."""
        row = int(self.rows[index])
        episode = int(self.episode_of[row])
        start, end = int(self.starts[episode]), int(self.starts[episode] + self.recording.lengths[episode])
        ahead = row + torch.arange(self.horizon)
        past = np.maximum(row + np.arange(1 - self.steps, 1), start)
        return {
            "actions": self.actions[ahead.clamp(max=end - 1)],
            "is_pad": ahead >= end,
            "state": self.state[past],
            "task": int(self.recording.task_of[row]),
            "images": {
                camera: torch.from_numpy(self.recording.pictures(camera, episode, past - start)).permute(0, 3, 1, 2)
                for camera in self.cameras
            },
        }


class Steps:
    """The rows of each step, from one to another: a function of step, seed and process alone."""

    def __init__(self, windows: Windows, share: int, seed: int, rank: int, steps: range):
        self.windows, self.share, self.seed, self.rank, self.steps = windows, share, seed, rank, steps

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[list[int]]:
        for step in self.steps:
            drawn = generator("batch", self.seed, step, self.rank)
            yield torch.randint(len(self.windows), (self.share,), generator=drawn).tolist()


def batches(windows: Windows, rows: Any, workers: int, pin: bool = False) -> Generator[Sample]:
    """Yield the requested rows as stacked samples, read and decoded ahead by so many processes."""
    loader = DataLoader(
        windows,
        batch_sampler=rows,
        num_workers=workers,
        pin_memory=pin,
        worker_init_fn=deaf,
        generator=torch.Generator(),  # its own: torch's would move on by a number
    )
    yield from loader


def deaf(worker: int) -> None:
    """Ignore Ctrl-C, which goes to all processes of a terminal: the trainer decides when to stop."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    torch.set_num_threads(1)


def held_out(recording: Recording, share: float, seed: int) -> np.ndarray:
    """Bool (E,): about this share of the episodes, drawn by the seed; none where that is less than one."""
    count = int(share * len(recording.lengths))
    out = np.zeros(len(recording.lengths), dtype=bool)
    drawn = torch.randperm(len(out), generator=generator("episodes", seed))[:count]
    out[drawn.numpy()] = True
    return out
