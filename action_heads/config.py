"""The one object that configures a head: frozen, validated, and JSON there and back."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any

from action_heads.adapters import ADAPTERS
from action_heads.backbones import BACKBONES
from action_heads.checks import check_width
from action_heads.objectives import ObjectiveConfig
from action_heads.spaces import EE_ABSOLUTE, ActionSpace

VERSION = 2
UNIVERSAL = ("film", "adaln_zero", "adarmsnorm")  # what one head is pretrained for at once


@dataclass(frozen=True)
class HeadConfig:
    """Shape, objective and action space of a head, and what is known of its training.

    Attributes:
        name: published name, `owner/family-size-corpus`.
        backbone: a key of `action_heads.backbones.BACKBONES`.
        width, depth, expansion: residual width w, number of blocks, hidden units of a block as a multiple of w.
            Of `unet`: channels of the first level, number of levels, hidden units of the step embedding alone.
        horizon: steps h in a chunk.
        rank: dimensions through which the head's own modulation passes: that of the diffusion step, and of a code.
        coded: whether Stage 1 taught the head to be steered by a code of so many dimensions.
        mechanisms: adapters this head can take, each with a modulation of its own by the diffusion step; if none are
            named, `UNIVERSAL`, as far as the backbone can.
        objective: noise path and prediction target.
        space: layout of one action.
        training: data, licence, command, seed, duration: the provenance printed on the card.
        fingerprint: of the weights this config was saved with; empty while in training.
    """

    name: str = "unnamed"
    backbone: str = "mlp"
    width: int = 256
    depth: int = 8
    expansion: int = 4
    horizon: int = 16
    rank: int = 64
    coded: bool = True
    mechanisms: tuple[str, ...] = ()
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    space: ActionSpace = EE_ABSOLUTE
    training: dict[str, Any] = field(default_factory=dict)
    fingerprint: str = ""

    def __post_init__(self):
        for name in ("width", "depth", "expansion", "horizon", "rank"):
            check_width(name, getattr(self, name))
        if self.width % 2 or self.width < 4:
            raise ValueError(
                f"width must be even and at least 4, for the sines and cosines of the step, got {self.width}"
            )
        if self.backbone not in BACKBONES:
            raise ValueError(f"unknown backbone {self.backbone!r}; choose one of {', '.join(BACKBONES)}")
        BACKBONES[self.backbone].check(width=self.width, depth=self.depth, horizon=self.horizon)
        if isinstance(self.mechanisms, str):
            raise ValueError(f"mechanisms is a tuple of names, got {self.mechanisms!r}: write ({self.mechanisms!r},)")
        object.__setattr__(self, "mechanisms", tuple(self.mechanisms))
        able = BACKBONES[self.backbone].mechanisms
        if not self.mechanisms:
            object.__setattr__(self, "mechanisms", tuple(name for name in UNIVERSAL if name in able))
        if unable := [name for name in self.mechanisms if name not in able]:
            known = [name for name in unable if name in ADAPTERS]
            raise ValueError(
                f"{self.backbone} can't be conditioned by {', '.join(map(repr, unable))}: it takes {', '.join(able)}"
                + (f"; {', '.join(known)} acts on what it does not have" if known else "")
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, strings and numbers, ready for JSON."""
        values = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
        return values | {
            "version": VERSION,
            "objective": dataclasses.asdict(self.objective),
            "space": self.space.to_dict(),
            "mechanisms": list(self.mechanisms),
        }

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=2, sort_keys=True) + "\n"

    def contract(self) -> str:
        """What the weights mean, as text for the fingerprint: everything but name, provenance and fingerprint."""
        values = self.to_dict()
        return json.dumps(
            {k: v for k, v in values.items() if k not in ("name", "training", "fingerprint")}, sort_keys=True
        )

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> HeadConfig:
        """Strict: an unknown version or key means another release wrote this, and guessing would load nonsense."""
        if not isinstance(values, dict):
            raise ValueError(f"a head's config is a JSON object, got {type(values).__name__}")
        values = dict(values)
        version = values.pop("version", None)
        if version != VERSION:
            remedy = (
                "it was made by an older release: pretrain it again, or install that release"
                if type(version) is int and version < VERSION
                else "upgrade with `pip install -U action-heads`, or publish the head again"
            )
            raise ValueError(
                f"this config has version {version!r}, this release of action-heads reads version {VERSION}: {remedy}"
            )
        if "objective" in values:
            values["objective"] = strict(ObjectiveConfig, values["objective"], "the objective")
        if isinstance(values.get("space"), dict):
            values["space"] = ActionSpace.from_dict(values["space"])
        if isinstance(values.get("mechanisms"), list):
            values["mechanisms"] = tuple(values["mechanisms"])
        return strict(cls, values, "the head's config")


def strict(cls: type, values: Any, what: str, since: dict[str, Any] | None = None):
    """Build a dataclass from parsed JSON: every field, no other, and each of the type of its default.

    `since` are fields that older files lack, with what they were then.
    """
    if not isinstance(values, dict):
        raise ValueError(f"{what} is a JSON object, got {values!r}")
    values = (since or {}) | values
    fields = {item.name: item for item in dataclasses.fields(cls)}
    if unknown := sorted(values.keys() - fields.keys()):
        raise ValueError(f"unknown keys in {what}: {', '.join(unknown)}; known are {', '.join(sorted(fields))}")
    if missing := sorted(fields.keys() - values.keys()):
        raise ValueError(f"{what} lacks {', '.join(missing)}: it is not complete")
    for name, item in fields.items():
        default = item.default if item.default_factory is dataclasses.MISSING else item.default_factory()
        if default in (None, dataclasses.MISSING):
            continue
        right = (int, float) if type(default) is float else type(default)
        if not isinstance(values[name], right) or (type(default) is not bool and type(values[name]) is bool):
            raise ValueError(f"{name} in {what} must be of type {type(default).__name__}, got {values[name]!r}")
    return cls(**values)
