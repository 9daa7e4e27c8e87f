"""`Contract`: what the numbers mean that go into a policy and come out of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from action_heads._util.limits import check_fields
from action_heads.actions.layouts import ActionLayout
from action_heads.actions.spaces import ActionSpace


@dataclass(frozen=True)
class Contract:
    """Say what the numbers of observations and actions are, as the recording had them.

    Attributes:
        state: columns that make up the state, in order.
        sizes: (height, width) of the images of each camera.
        action: the column of actions, and `action_layout` and `gripper` of its numbers.
        rate_hz: steps a second; None if unknown.
        blind: hide the observations, as a control: images are grey, or without cameras the state is zero.
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
        object.__setattr__(self, "state", tuple(self.state))  # JSON brings lists
        object.__setattr__(self, "gripper", tuple(self.gripper))
        object.__setattr__(self, "sizes", {name: tuple(size) for name, size in self.sizes.items()})

    @cached_property
    def layout(self) -> ActionLayout:
        """The layout of the action's columns."""
        return ActionLayout.parse(self.action_layout, self.gripper)

    def check_space(self, found: ActionSpace) -> None:
        """Raise unless the columns of the recording are what a head's actions are decoded to."""
        space = self.layout.space()
        if (space.parts, space.mode) != (found.parts, found.mode):
            raise ValueError(
                f"the contract names the layout {self.action_layout!r}, whose actions are {space.mode} {space.parts}; "
                f"the head makes {found.mode} {found.parts}: they are of different runs"
            )
