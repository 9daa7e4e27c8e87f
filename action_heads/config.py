"""The configuration of a head: a frozen, validated dataclass that is saved as JSON."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from action_heads._util import limits
from action_heads._util.extras import pip
from action_heads._util.limits import check_choice, check_fields, check_parameters, check_width, shown
from action_heads.actions.spaces import EE_ABSOLUTE, ActionSpace
from action_heads.adapters import ADAPTERS
from action_heads.backbones import BACKBONES, Backbone
from action_heads.diffusion.objectives import ObjectiveConfig
from action_heads.io.seal import Seal
from action_heads.modulation import HeadModulation

VERSION = 2
SEAL = Seal(("name", "training"))
MOST = {
    "width": limits.WIDTH,
    "depth": limits.DEPTH,
    "expansion": limits.EXPANSION,
    "horizon": limits.HORIZON,
    "rank": limits.RANK,
}
UNIVERSAL = ("film", "adaln_zero", "adarmsnorm")  # the mechanisms that a head is pretrained for by default


@dataclass(frozen=True)
class HeadConfig:
    """Settings of a head: shape, objective, action space, and the record of its training.

    Attributes:
        name: published name, `owner/family-size-corpus`. The size, such as "5m" for about 5 million, is the number of
            parameters of the denoiser: the backbone with its step embedding.
        backbone: a key of `action_heads.backbones.BACKBONES`.
        width: residual width w; channels of the first level of a `unet`.
        depth: number of blocks; levels of a `unet`.
        expansion: hidden units of a block as a multiple of w; of the step embedding alone in a `unet`.
        horizon: time steps h of a chunk.
        rank: dimensions r through which step modulation and code pass.
        coded: whether Stage 1 taught the head a code of `rank` dimensions.
        mechanisms: adapters that the head supports, with step modulation for each. If empty, those of `UNIVERSAL` that
            the backbone supports.
        objective: noise path and prediction target.
        space: layout of one action.
        training: record of the training for the card: data, licence, command, seed, duration.
        fingerprint: fingerprint of the weights that the config was saved with; empty during training.

    Raises:
        ValueError: a value is out of range, or the backbone does not support a mechanism.

    Examples:
        >>> from action_heads import ActionHead, HeadConfig
        >>> head = ActionHead(HeadConfig(name="me/tiny", width=32, depth=2))  # random and trainable, for Stage 1
        >>> head.frozen
        False
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
        for name, most in MOST.items():
            check_width(name, getattr(self, name), most)
        if self.width % 2 or self.width < 4:
            raise ValueError(
                f"width must be even and at least 4, for the sines and cosines of the step embedding; got {self.width}"
            )
        check_choice("backbone", self.backbone, BACKBONES)
        BACKBONES[self.backbone].check(width=self.width, depth=self.depth, horizon=self.horizon)
        if isinstance(self.mechanisms, str):
            raise ValueError(
                f"mechanisms must be a tuple of names, got {self.mechanisms!r}; write ({self.mechanisms!r},)"
            )
        if not isinstance(self.mechanisms, (tuple, list)) or not all(isinstance(m, str) for m in self.mechanisms):
            raise ValueError(f"mechanisms must be a tuple of names, got {shown(self.mechanisms)}")
        object.__setattr__(self, "mechanisms", tuple(self.mechanisms))
        if len(set(self.mechanisms)) < len(self.mechanisms):
            raise ValueError(f"mechanisms must not contain a name twice, got {', '.join(self.mechanisms)}")
        able = BACKBONES[self.backbone].mechanisms
        if not self.mechanisms:
            object.__setattr__(self, "mechanisms", tuple(name for name in UNIVERSAL if name in able))
        if unable := [name for name in self.mechanisms if name not in able]:
            known = [name for name in unable if name in ADAPTERS]
            raise ValueError(
                f"the backbone {self.backbone} does not support {', '.join(map(repr, unable))}; it supports "
                f"{', '.join(able)}" + (f". {', '.join(known)} acts on layers that it does not have." if known else "")
            )
        check_fields(vars(self), HeadConfig, "the head's config")
        check_parameters("this head", self.about())

    def about(self) -> int:
        """Estimate the number of parameters from these settings, without building the head."""
        widest = self.width * 2 ** (self.depth - 1) if self.backbone == "unet" else self.width
        blocks = 40 * widest**2 if self.backbone == "unet" else 2 * self.depth * self.expansion * widest**2
        modulation = 2 * len(self.mechanisms) * self.rank * self.depth * widest
        over_time = self.depth * self.horizon**2 if self.backbone == "mixer" else 0
        return blocks + modulation + over_time + self.horizon * self.space.dim * self.width

    def build(self) -> tuple[Backbone, nn.ModuleDict]:
        """Build the backbone and the head's modulation for each mechanism, with random weights."""
        backbone = BACKBONES[self.backbone](
            action_dim=self.space.dim,
            horizon=self.horizon,
            width=self.width,
            depth=self.depth,
            expansion=self.expansion,
        )
        modulation = {name: HeadModulation(ADAPTERS[name], backbone, self.rank) for name in self.mechanisms}
        return backbone, nn.ModuleDict(modulation)

    def layout(self) -> dict[str, Tensor]:
        """Return every weight of such a head by name, on the meta device, which takes no memory."""
        statistics = torch.empty(self.space.dim, device="meta")
        return self.outline().state_dict() | {f"normalizer.{name}": statistics for name in ("offset", "scale")}

    def outline(self) -> nn.ModuleDict:
        """Return backbone and modulation of such a head on the meta device, which takes no memory."""
        with torch.device("meta"):
            backbone, modulation = self.build()
        return nn.ModuleDict({"backbone": backbone, "modulation": modulation})

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as a dict of lists, strings and numbers, ready for JSON."""
        values = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
        return values | {
            "version": VERSION,
            "objective": dataclasses.asdict(self.objective),
            "space": self.space.to_dict(),
            "mechanisms": list(self.mechanisms),
        }

    def to_json(self) -> str:
        """Return the settings as JSON text."""
        return json.dumps(self.to_dict(), indent=2, sort_keys=True) + "\n"

    def contract(self) -> str:
        """Return the meaning of the weights as text for the fingerprint: all but name, training and fingerprint."""
        return SEAL.meaning(self.to_dict())

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> HeadConfig:
        """Build a config from parsed JSON.

        Raises:
            ValueError: another version, an unknown or missing key, or an invalid value. An unknown key means that
                another release wrote the file, so nothing is guessed.
        """
        if not isinstance(values, dict):
            raise ValueError(f"a head's config must be a JSON object, got {type(values).__name__}")
        values = dict(values)
        version = values.pop("version", None)
        if type(version) is not int or version != VERSION:
            remedy = (
                "An older release wrote it: pretrain the head again, or install that release."
                if type(version) is int and version < VERSION
                else f"Upgrade with `{pip()} install -U action-heads`, or publish the head again."
            )
            raise ValueError(
                f"this config has version {shown(version)}, but this release of action-heads reads version {VERSION}. "
                f"{remedy}"
            )
        if "objective" in values:
            values["objective"] = strict(ObjectiveConfig, values["objective"], "the objective")
        if "space" in values:
            values["space"] = ActionSpace.from_dict(values["space"])
        return strict(cls, values, "the head's config")


def strict(cls: type, values: Any, what: str, since: dict[str, Any] | None = None):
    """Build a dataclass from parsed JSON, which must hold every field, no other, and values of the annotated types.

    Args:
        cls: the dataclass.
        values: the parsed JSON.
        what: the object's name, for messages.
        since: default values of fields that older files lack.

    Raises:
        ValueError: the JSON does not fit the dataclass.
    """
    if not isinstance(values, dict):
        raise ValueError(f"{what} must be a JSON object, got {shown(values)}")
    values = (since or {}) | values
    fields = limits.types_of(cls)
    if unknown := sorted(values.keys() - fields.keys()):
        raise ValueError(f"unknown keys in {what}: {', '.join(unknown)}; known are {', '.join(sorted(fields))}")
    if missing := sorted(fields.keys() - values.keys()):
        raise ValueError(f"{what} lacks {', '.join(missing)}")
    check_fields(values, cls, what)
    return cls(**values)
