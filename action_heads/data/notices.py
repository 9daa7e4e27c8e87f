"""Warnings about recordings that are valid but probably not as intended. They are collected while a file is read."""

from __future__ import annotations

import numpy as np

from action_heads.data.checks import NORMALISED
from action_heads.data.convert import Steps
from action_heads.data.motion import Raw
from action_heads.data.schema import Schema

MOVES = 0.02  # share of the way from open to closed; sensor noise is smaller


class RangeNotices:
    """The range of the gripper and of the joints over all episodes of a recording."""

    def __init__(self, schema: Schema, normalises: bool, source: str):
        self.schema, self.normalises, self.source = schema, normalises, source
        self.low, self.high = np.inf, -np.inf
        self.cut: set[float] = set()
        self.largest = 0.0

    def add(self, raw: Raw, steps: Steps) -> None:
        """Add an episode, as recorded and as converted."""
        if raw.gripper is not None and np.isfinite(raw.gripper).any():
            self.low = min(self.low, float(np.nanmin(raw.gripper)))
            self.high = max(self.high, float(np.nanmax(raw.gripper)))
            self.cut |= set(np.unique(steps.gripper).tolist())
        if raw.joints is not None:
            self.largest = max(self.largest, float(np.abs(raw.joints).max()))

    def warnings(self) -> list[str]:
        """Return the warnings."""
        return [text for text in (self._gripper(), self._joints()) if text]

    def _gripper(self) -> str:
        if len(self.cut) != 1:
            return ""
        opened, closed = self.schema.gripper_open, self.schema.gripper_closed
        always = "open" if self.cut == {-1.0} else "closed"
        moved = self.high - self.low > MOVES * abs(closed - opened)
        seen = f"moves from {self.low:g} to {self.high:g}" if moved else f"stays at {self.low:g}"
        return (
            f"{self.source}: the gripper {seen}, and therefore counts as {always} at every time step: the boundary "
            f"is halfway between {opened:g} (open) and {closed:g} (closed). If it does open and close, set "
            '"gripper", "gripper_open" and "gripper_closed" in a column map (?columns=MAP.json).'
        )

    def _joints(self) -> str:
        if self.schema.joints_unit != "deg" or not self.normalises or self.largest > NORMALISED:
            return ""
        return (
            f"{self.source}: no joint exceeds {self.largest:.4g}. LeRobot records robots of this kind from -100 to 100 "
            "over each joint's calibrated range, unless use_degrees=true is set. The file does not say which it was. "
            "Check how it was recorded: normalised joints that are read as degrees are wrong."
        )
