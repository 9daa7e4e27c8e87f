"""What a reader of a file format hands over.

Axes: `t` steps of one episode, `j` joints.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from action_heads.data.reading import BadData, BadEpisode
from action_heads.data.schema import Schema

__all__ = ["BadData", "BadEpisode", "Corpus", "Raw"]


@dataclass(frozen=True)
class Raw:
    """One episode as recorded, before units, frames and checks."""

    corpus: str  # of which a share is held out
    name: str
    joints: np.ndarray | None  # (t, j)
    position: np.ndarray | None  # (t, 3)
    rotation: np.ndarray | None  # (t, width of the form)
    gripper: np.ndarray | None  # (t,)

    def __len__(self) -> int:
        return len(next(part for part in (self.joints, self.position) if part is not None))


class Corpus(Protocol):
    """A recording on disk. `shards` gives episodes a file (or a demonstration) at a time, so that one is in memory."""

    source: str  # for messages
    identity: object  # JSON; another file gives another
    rate_hz: float
    schema: Schema
    normalises: bool  # whether robots of its kind are recorded with joints from -100 to 100

    def shards(self) -> Iterator[list[Raw]]: ...
