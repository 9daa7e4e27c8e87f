"""Action spaces: the order, the mode and the frame of the numbers of an action.

Axes: `b` batch, `h` horizon, `a` action width, `n` parts of one kind (arms), `...` any leading axes.
Units: m, rad; the gripper is -1 open, +1 closed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, NamedTuple

import torch
from torch import Tensor

from action_heads._util import limits
from action_heads._util.limits import check_width
from action_heads.actions.deltas import BETWEEN, CHAINED, ONTO
from action_heads.actions.rotations import from_matrix, to_matrix
from action_heads.actions.unwrap import continued

WIDTHS = {"position": 3, "rotation": 6, "gripper": 1, "joint": None}  # None: any number of joints.
NORMALIZED = ("position", "joint")  # Rotations and grippers lie in [-1, 1] already.
MODES = ("absolute", "delta")
RELATIVE_TO = ("previous", "current")


class Parts(NamedTuple):
    """A decoded action. A field is None if the space lacks it. The axis n exists only for several parts of a kind."""

    position: Tensor | None = None  # (... 3) or (... n 3), m
    rotation: Tensor | None = None  # (... *form) or (... n *form)
    gripper: Tensor | None = None  # (...) or (... n), -1 open, +1 closed
    joint: Tensor | None = None  # (... all joints), rad


@dataclass(frozen=True)
class ActionSpace:
    """The meaning of the numbers of an action.

    Robot units: positions in m, joints in rad, rotations as the first two rows of the rotation matrix (row-major, Zhou
    et al. 2019), grippers from -1 (open) to +1 (closed).

    Attributes:
        parts: pairs of kind and width, in order. The kinds are "position" (3), "rotation" (6), "gripper" (1) and
            "joint" (any width). A kind may occur several times, for example once for each arm.
        mode: "absolute" for poses, or "delta" for changes from one time step to the next. Grippers are always absolute.
        frame: a description of the frame in which positions and rotations are given.
        version: version of this format.

    Raises:
        ValueError: a part, the mode, the frame or the version is not valid.

    Examples:
        >>> import torch
        >>> from action_heads import EE_ABSOLUTE
        >>> EE_ABSOLUTE.parts
        (('position', 3), ('rotation', 6), ('gripper', 1))
        >>> actions = EE_ABSOLUTE.encode(
        ...     position=torch.tensor([[0.4, 0.0, 0.2]]),
        ...     rotation=torch.tensor([[0.0, 0.0, 0.0, 1.0]]),  # x y z w
        ...     gripper=torch.tensor([-1.0]),
        ...     rotation_form="quaternion",
        ... )
        >>> actions
        tensor([[ 0.4000,  0.0000,  0.2000,  1.0000,  0.0000,  0.0000,  0.0000,  1.0000,
                  0.0000, -1.0000]])
        >>> EE_ABSOLUTE.decode(actions, rotation_form="quaternion").rotation
        tensor([[0., 0., 0., 1.]])
    """

    parts: tuple[tuple[str, int], ...]
    mode: str = "absolute"
    frame: str = "robot base"
    version: int = 1

    def __post_init__(self) -> None:
        if not isinstance(self.parts, (tuple, list)) or not all(
            isinstance(part, (tuple, list)) and len(part) == 2 for part in self.parts
        ):
            raise ValueError(
                "parts must be pairs of a kind and a width, such as (('position', 3), ('joint', 7)), got "
                f"{limits.shown(self.parts)}"
            )
        object.__setattr__(self, "parts", tuple((kind, width) for kind, width in self.parts))  # JSON has lists.
        if not self.parts:
            raise ValueError(
                "parts is empty; an action space needs parts, for example (('position', 3), ('rotation', 6))"
            )
        check_width("the number of parts", len(self.parts), limits.PARTS)
        for kind, width in self.parts:
            if not isinstance(kind, str) or kind not in WIDTHS:
                raise ValueError(f"unknown part {limits.shown(kind)}; choose from {', '.join(map(repr, WIDTHS))}")
            expected = WIDTHS[kind]
            if type(width) is not int or width < 1 or (expected and width != expected):
                found = limits.shown(width)
                raise ValueError(f"part {kind!r} has width {found}; expected {expected or 'a positive integer'}")
        check_width("the width of an action", self.dim, limits.ACTION)
        if not isinstance(self.mode, str) or self.mode not in MODES:
            raise ValueError(f"unknown mode {limits.shown(self.mode)}; choose from {', '.join(map(repr, MODES))}")
        if not limits.fits(self.frame, str):
            raise ValueError(f"frame must be a string that names the frame, got {limits.shown(self.frame)}")
        if type(self.version) is not int or self.version != 1:
            raise ValueError(
                f"action space has version {limits.shown(self.version)}; this release reads 1. Upgrade action-heads."
            )

    def to_dict(self) -> dict[str, Any]:
        """Return a dict of lists, strings and numbers, ready for JSON."""
        return asdict(self) | {"parts": [list(part) for part in self.parts]}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ActionSpace:
        """Return the space that `to_dict` described.

        Raises:
            ValueError: a key is unknown or missing, or a value is not valid.
        """
        if not isinstance(data, Mapping):
            raise ValueError(f"an action space must be an object with parts, mode and frame, got {limits.shown(data)}")
        known = {field.name for field in fields(cls)}
        if unknown := set(data) - known:
            raise ValueError(f"unknown action space keys {sorted(map(str, unknown))}; known are {sorted(known)}")
        if missing := {"parts", "mode", "frame"} - set(data):
            raise ValueError(f"an action space needs the keys {sorted(missing)}, which are missing")
        return cls(**data)

    @property
    def dim(self) -> int:
        """Width `a` of an action."""
        return sum(width for _, width in self.parts)

    @property
    def pose_dim(self) -> int:
        """Width of a pose: an action without its grippers."""
        return sum(width for kind, width in self.parts if kind != "gripper")

    def slices(self, kind: str) -> tuple[slice, ...]:
        """Return the slices of an action that hold the parts of one kind; empty if the space has none."""
        if kind not in WIDTHS:
            raise ValueError(f"unknown part {kind!r}; choose from {', '.join(map(repr, WIDTHS))}")
        return tuple(where for name, where in self._layout() if name == kind)

    @property
    def position_mask(self) -> Tensor:
        """Boolean mask (a) of the position dimensions."""
        return self._mask("position")

    @property
    def normalized_mask(self) -> Tensor:
        """Boolean mask (a) of the dimensions that a `Normalizer` scales: positions and joints."""
        return self._mask(*NORMALIZED)

    def encode(
        self,
        position: Tensor | None = None,
        rotation: Tensor | None = None,
        gripper: Tensor | None = None,
        joint: Tensor | None = None,
        rotation_form: str = "matrix",
    ) -> Tensor:
        """Convert parts to actions (... a). The parts are those of this space, with shapes as in `Parts`.

        Args:
            position: positions in m.
            rotation: rotations in the form `rotation_form`.
            gripper: grippers, from -1 (open) to +1 (closed), without an axis of their own.
            joint: angles of all joints in rad.
            rotation_form: "matrix", "6d" (first two rows), "quaternion" (x y z w), "quaternion_wxyz", "axis_angle" or
                "euler_xyz", as `rotations.SHAPES` defines them.

        Raises:
            ValueError: a part is missing, is not in this space or has the wrong shape, or the form is unknown.
        """
        if rotation is not None:
            rotation = from_matrix(to_matrix(rotation, rotation_form), "6d")
        given = Parts(position, rotation, gripper, joint)._asdict()
        pieces = {kind: self._split(kind, part) for kind, part in given.items()}
        leads = {kind: tuple(piece[0].shape[:-1]) for kind, piece in pieces.items() if piece}
        if len(set(leads.values())) > 1:
            raise ValueError(
                f"leading axes of the parts differ: {leads}; pass grippers without an axis for their width"
            )
        return torch.cat([pieces[kind].pop(0) for kind, _ in self.parts], dim=-1)

    def decode(
        self,
        actions: Tensor,
        rotation_form: str = "matrix",
        last: Parts | None = None,
        canonical: bool = False,
    ) -> Parts:
        """Convert actions (... a) to `Parts`, with orthonormalised rotations: the inverse of `encode`.

        A rotation can be written in several ways, such as q and -q. Along a chunk (b h a) of absolute actions, each
        rotation is written in the way closest to the previous one, so that no number jumps by a whole turn. Single
        actions (a) or (b a) are continued only from `last`. A delta always gets its shortest rotation.

        Args:
            actions: actions in robot units.
            rotation_form: the form of the rotations, as in `encode`.
            last: the parts decoded just before, without the axis h.
            canonical: write each rotation on its own, as `rotations.from_matrix` does (w >= 0, angles up to pi).

        Raises:
            ValueError: the width of `actions`, the shape of `last` or the form is wrong.
        """
        self._check_width(actions)
        parts: dict[str, Tensor] = {}
        for kind in dict(self.parts):
            pieces = [actions[..., where] for where in self.slices(kind)]
            parts[kind] = torch.cat(pieces, -1) if kind == "joint" else torch.stack(pieces, -2)
            if kind == "rotation":
                parts[kind] = from_matrix(to_matrix(parts[kind], "6d"), rotation_form)
            if kind == "gripper":
                parts[kind] = parts[kind].squeeze(-1)
            if kind != "joint" and len(pieces) == 1:
                parts[kind] = parts[kind].squeeze(actions.dim() - 1)
        if "rotation" in parts and self.mode == "absolute" and not canonical:
            before = None if last is None else last.rotation
            parts["rotation"] = continued(parts["rotation"], rotation_form, actions.dim(), before)
        return Parts(**parts)

    def to_delta(self, actions: Tensor, pose: Tensor, relative_to: str = "previous") -> Tensor:
        """Convert absolute actions (b h a) to deltas (b h a).

        Positions and joints are differences. Rotations are R_i R_{i-1}^T, about the axes of the BASE frame; those
        of R_{i-1}^T R_i would be about the axes of the tool. Grippers stay absolute.

        Args:
            actions: absolute actions in robot units.
            pose: the robot's pose before the chunk (b pose_dim), laid out like an action without its grippers.
            relative_to: "previous" for changes from the previous time step, the first from `pose`, as delta controllers
                expect them (OSC of robosuite and LIBERO); "current" for changes from `pose` at every time step, so that
                errors do not accumulate along a chunk.

        Raises:
            ValueError: a shape is wrong, or `relative_to` is unknown.
        """
        start = self._start(actions, pose, relative_to)
        before = torch.cat((start, actions[:, :-1]), 1) if relative_to == "previous" else start.expand_as(actions)
        pieces = [BETWEEN[kind](actions[..., part], before[..., part]) for kind, part in self._layout()]
        return torch.cat(pieces, dim=-1)

    def to_absolute(self, actions: Tensor, pose: Tensor, relative_to: str = "previous") -> Tensor:
        """Convert deltas (b h a) to absolute actions (b h a): the inverse of `to_delta`.

        Args:
            actions: deltas in robot units.
            pose: as in `to_delta`.
            relative_to: as in `to_delta`.

        Raises:
            ValueError: a shape is wrong, or `relative_to` is unknown.
        """
        start = self._start(actions, pose, relative_to)
        onto = CHAINED if relative_to == "previous" else ONTO
        return torch.cat([onto[kind](actions[..., part], start[..., part]) for kind, part in self._layout()], dim=-1)

    def validate(self, actions: Tensor, horizon: int, values: bool = True) -> None:
        """Raise a ValueError unless actions are finite floats (b h a).

        Args:
            actions: the actions to check.
            horizon: the expected number of time steps h.
            values: also check that the values are finite, which makes the host wait for an accelerator.

        Raises:
            ValueError: the type, the shape, the dtype or a value is wrong.
        """
        expected = f"expected (batch, horizon {horizon}, action {self.dim}: {self._legend()})"
        if not isinstance(actions, Tensor):
            raise ValueError(f"actions are a {type(actions).__name__}; {expected} as a tensor. Use torch.as_tensor.")
        shape = tuple(actions.shape)
        if actions.dim() != 3:
            raise ValueError(
                f"actions have shape {shape}; {expected}. Add a batch axis to a single chunk: actions[None]."
            )
        if shape[0] == 0:
            raise ValueError(f"actions have shape {shape}, an empty batch; {expected} with at least one row")
        if shape[1:] != (horizon, self.dim):
            wrong = "width" if shape[2] != self.dim else "horizon"
            raise ValueError(f"actions have shape {shape}, the wrong {wrong}; {expected}")
        if not actions.is_floating_point():
            raise ValueError(f"actions have dtype {actions.dtype}; expected floating point. Use actions.float().")
        if values and len(bad := (~actions.isfinite()).nonzero()):
            row, step, dim = bad[0].tolist()
            raise ValueError(
                f"actions have {len(bad)} NaN or infinite values, the first in batch row {row}, time step {step}, "
                f"dimension {dim} ({self._kind(dim)}). Check the recording of that episode, for example for zero "
                "quaternions."
            )

    def _layout(self) -> list[tuple[str, slice]]:
        """Return the kind and the slice of every part, in order."""
        ends = [sum(width for _, width in self.parts[: i + 1]) for i in range(len(self.parts))]
        return [(kind, slice(end - width, end)) for (kind, width), end in zip(self.parts, ends, strict=True)]

    def _legend(self) -> str:
        return ", ".join(f"{kind} {width}" for kind, width in self.parts)

    def _kind(self, dim: int) -> str:
        return next(kind for kind, part in self._layout() if part.start <= dim < part.stop)

    def _mask(self, *kinds: str) -> Tensor:
        return torch.tensor([kind in kinds for kind, width in self.parts for _ in range(width)], device="cpu")

    def _check_width(self, actions: Tensor) -> None:
        if actions.shape[-1:] != (self.dim,):
            raise ValueError(f"actions have shape {tuple(actions.shape)}; expected (..., {self.dim}): {self._legend()}")

    def _split(self, kind: str, part: Tensor | None) -> list[Tensor]:
        """Split an argument of `encode` into pieces (... width), one for each part of its kind."""
        places = self.slices(kind)
        if part is None and not places:
            return []
        if part is None or not places:
            problem = "was not given" if part is None else "was given"
            raise ValueError(f"{kind} {problem}, but this space has {self._legend()}")
        given = tuple(part.shape)
        if kind == "gripper":
            part = part[..., None]  # Grippers come without an axis for their width.
        if kind != "joint" and len(places) == 1:
            part = part.unsqueeze(-2)
        widths = [place.stop - place.start for place in places]
        expected = (sum(widths),) if kind == "joint" else (len(places), widths[0])
        if tuple(part.shape[-len(expected) :]) != expected:
            arms = f"an axis of {len(places)} arms and " if len(places) > 1 and kind != "joint" else ""
            raise ValueError(f"{kind} has shape {given}; expected {arms}{expected[-1]} values along its last axis")
        return list(part.split(widths, dim=-1) if kind == "joint" else part.unbind(-2))

    def _start(self, actions: Tensor, pose: Tensor, relative_to: str) -> Tensor:
        """Lay out a pose (b pose_dim) like an action (b 1 a), with zeros for the grippers, which deltas ignore."""
        if relative_to not in RELATIVE_TO:
            raise ValueError(f"unknown relative_to {relative_to!r}; choose from {', '.join(map(repr, RELATIVE_TO))}")
        self._check_width(actions)
        if actions.dim() != 3 or tuple(pose.shape) != (actions.shape[0], self.pose_dim):
            raise ValueError(
                f"actions have shape {tuple(actions.shape)} and pose {tuple(pose.shape)}; expected (b, h, {self.dim}) "
                f"and (b, {self.pose_dim}), the pose laid out like an action without its grippers"
            )
        pieces = iter(pose.split([width for kind, width in self.parts if kind != "gripper"], dim=-1))
        zero = pose.new_zeros(len(pose), 1)
        return torch.cat([zero if kind == "gripper" else next(pieces) for kind, _ in self.parts], dim=-1)[:, None]


_EE = (("position", 3), ("rotation", 6), ("gripper", 1))

EE_ABSOLUTE = ActionSpace(_EE, "absolute", "TCP pose in the robot base frame (z up), metres")
EE_DELTA = ActionSpace(
    _EE, "delta", "TCP change from one step to the next, along and about the robot base frame's axes"
)
