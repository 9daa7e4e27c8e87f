"""`Contract`: the meaning of a policy's observations and actions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from action_heads._util.limits import check_fields
from action_heads.actions.layouts import ActionLayout
from action_heads.actions.spaces import ActionSpace


@dataclass(frozen=True)
class Contract:
    """The meaning of a policy's observations and actions, as in the recording that it was trained on.

    Attributes:
        state: names of the columns that are concatenated to the state, in order.
        sizes: (height, width) in pixels of the images of each camera, by the camera's name.
        action: name of the column that holds the actions.
        action_layout: layout of that column, a name of `LAYOUTS` or a line that `ActionLayout.parse` reads.
        gripper: values that the column holds for an open and for a closed gripper.
        rate_hz: control rate in ticks per second; None if unknown.
        blind: hide the observations, as a control. Images are grey; without cameras, the state is zero.

    Raises:
        ValueError: a value has the wrong type, or `rate_hz` is not positive.
    """

    state: tuple[str, ...]
    sizes: Mapping[str, tuple[int, int]]
    action: str
    action_layout: str
    gripper: tuple[float, float]
    rate_hz: float | None
    blind: bool = False

    def __post_init__(self):
        check_fields(vars(self), Contract, "the contract")
        if self.rate_hz is not None and self.rate_hz <= 0:
            raise ValueError(f"rate_hz of the contract must be positive, got {self.rate_hz}")
        object.__setattr__(self, "state", tuple(self.state))  # JSON has lists instead of tuples.
        object.__setattr__(self, "gripper", tuple(self.gripper))
        object.__setattr__(self, "sizes", {name: tuple(size) for name, size in self.sizes.items()})

    @cached_property
    def layout(self) -> ActionLayout:
        """The layout of the columns of an action."""
        return ActionLayout.parse(self.action_layout, self.gripper)

    def check_space(self, found: ActionSpace) -> None:
        """Raise a ValueError unless a head's action space `found` is the one of this contract's layout."""
        space = self.layout.space()
        if (space.parts, space.mode) != (found.parts, found.mode):
            raise ValueError(
                f"the contract has the layout {self.action_layout!r}, whose actions are {space.mode} {space.parts}, "
                f"but the head predicts {found.mode} {found.parts}. Use the head and the contract of the same run."
            )
