"""The motion of one episode as recorded, which Stage 1 trains on.

Axes: `t` time steps of one episode, `j` joints.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from action_heads.data.schema import Schema


@dataclass(frozen=True)
class Raw:
    """One episode as recorded, before it is checked and converted."""

    corpus: str  # A share of every corpus is held out.
    name: str
    joints: np.ndarray | None  # (t, j)
    position: np.ndarray | None  # (t, 3)
    rotation: np.ndarray | None  # (t, width of the form)
    gripper: np.ndarray | None  # (t,)

    @classmethod
    def of(cls, corpus: str, name: str, columns: Mapping[str, np.ndarray], schema: Schema) -> Raw:
        """Build an episode from the columns (t, width) that a schema names."""
        parts = {key: columns[column.name][:, column.part] for key, column in schema.columns().items()}
        joints, position, rotation, gripper = map(parts.get, ("joints", "position", "rotation", "gripper"))
        return cls(corpus, name, joints, position, rotation, None if gripper is None else gripper[:, 0])

    def add_to(self, digest: Any) -> None:
        """Add all numbers and names to a hash."""
        parts = [None if part is None else part.shape for part in self.parts]
        digest.update(repr((self.corpus, self.name, parts)).encode())
        for part in self.parts:
            if part is not None:
                digest.update(np.ascontiguousarray(part, np.float64))

    @property
    def parts(self) -> tuple[np.ndarray | None, ...]:
        """Return joints, position, rotation and gripper."""
        return self.joints, self.position, self.rotation, self.gripper

    def __len__(self) -> int:
        return len(next(part for part in (self.joints, self.position) if part is not None))
