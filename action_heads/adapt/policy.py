"""`AdaptedPolicy`: observation encoder, adapter and head together, from pictures to actions; saved and loaded whole.

Axes: b batch, s observation steps, H and W pixels, d state, c condition, h horizon, a action of the head,
e columns of the recording's action.
"""

from __future__ import annotations

import dataclasses
import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from action_heads import adapter_file
from action_heads._util.checks import as_device
from action_heads._util.limits import check_fields, fits, shown
from action_heads.actions.layouts import ActionLayout
from action_heads.config import strict
from action_heads.encoders import ObservationEncoder, saved
from action_heads.head import ActionHead
from action_heads.io import files, hub
from action_heads.io.seal import Seal
from action_heads.policy import ConditionedHead

VERSION = 1
CONFIG, ENCODER, HEAD = "policy.json", "encoder.safetensors", "head"
GREY = 0.5
KINDS = {  # what policy.json holds, beside its fingerprint
    "version": int,
    "observation": dict[str, Any],
    "architecture": dict[str, Any],
    "contract": dict[str, Any],
    "fingerprints": dict[str, str],
    "training": dict[str, Any],
}
# The adapter's and the head's own fingerprints are among what policy.json says, and in the adapter's file.
SEAL = Seal(
    ("training",),
    f"{{path}} and {ENCODER} have fingerprint {{found}}, but were saved as {{given}}: one was changed, or they are of "
    "different runs. Download or save them again",
)


@dataclass(frozen=True)
class Contract:
    """What the numbers that go in and come out are, as the recording had them.

    Attributes:
        state: columns that are the state, in order.
        sizes: (height, width) of each camera's pictures.
        action: the column of actions, and `action_layout` and `gripper` of its numbers.
        rate_hz: steps a second.
        blind: whether pictures are greyed, or without cameras the state zeroed.
    """

    state: tuple[str, ...]
    sizes: Mapping[str, tuple[int, int]]
    action: str
    action_layout: str
    gripper: tuple[float, float]
    rate_hz: float
    blind: bool = False

    def __post_init__(self):
        check_fields(vars(self), Contract, "the contract")
        if self.rate_hz <= 0:
            raise ValueError(f"rate_hz of the contract must be positive, got {self.rate_hz}")
        object.__setattr__(self, "state", tuple(self.state))  # JSON brings lists
        object.__setattr__(self, "gripper", tuple(self.gripper))
        object.__setattr__(self, "sizes", {name: tuple(size) for name, size in self.sizes.items()})


class AdaptedPolicy(nn.Module):
    """What `action-heads adapt` makes.

    Args:
        encoder: of the observations.
        policy: the head with its adapter.
        contract: what the numbers mean.
        training: the record of the run, which is saved along.
    """

    def __init__(
        self,
        encoder: ObservationEncoder,
        policy: ConditionedHead,
        contract: Contract,
        training: dict[str, Any] | None = None,
    ):
        super().__init__()
        if policy.adapter.config.cond_dim != encoder.cond_dim:
            raise ValueError(
                f"the adapter reads conditions of {policy.adapter.config.cond_dim}, the encoder makes "
                f"{encoder.cond_dim}: attach one with cond_dim=encoder.cond_dim"
            )
        self.encoder, self.policy, self.contract = encoder, policy, contract
        self.layout = ActionLayout.parse(contract.action_layout, contract.gripper)
        self.training_record = training or {}

    # ── seeing, learning, acting ─────────────────────────────────────────────────────────────────────────────────

    def condition(
        self, images: Mapping[str, Tensor], state: Tensor | None = None, task: list[str] | None = None
    ) -> Tensor:
        """Pictures (b s 3 H W), uint8 or floats in [0, 1], by camera, state (b s d), b descriptions -> (b c)."""
        seen = {
            name: (images[name] if images[name].is_floating_point() else images[name].float() / 255)
            for name in self.encoder.config.cameras
            if name in images
        }
        if self.contract.blind:
            seen, state = hidden(seen, state)
        return self.encoder(seen, state, task)

    def loss(self, batch: Mapping[str, Any], task: list[str] | None = None, **options: Any) -> Tensor:
        """Denoising loss (scalar) of a batch with `actions` (b h a), `is_pad`, `state` and `images`."""
        state = batch["state"] if batch["state"].shape[-1] else None
        cond = self.condition(batch["images"], state, task)
        return self.policy.loss(batch["actions"], cond, is_pad=batch["is_pad"], **options)

    @torch.no_grad()
    def sample(
        self,
        images: Mapping[str, Tensor] | None = None,
        state: Tensor | None = None,
        task: list[str] | None = None,
        **sampling: Any,
    ) -> Tensor:
        """Observations -> chunks (b h e) in the columns of the recording. `sampling` as of `ConditionedHead.sample`."""
        return self.layout.decode(self.policy.sample(self.condition(images or {}, state, task), **sampling))

    def parts(self) -> dict[str, dict[str, int]]:
        """Frozen and trained parameters of every part."""
        trained_of = lambda module: sum(p.numel() for p in module.parameters() if p.requires_grad)  # noqa: E731
        modules = {"head": self.policy.head, "adapter": self.policy.adapter, "encoder": self.encoder}
        return {
            name: {
                "frozen": sum(p.numel() for p in module.parameters()) - trained_of(module),
                "trained": trained_of(module),
            }
            for name, module in modules.items()
        }

    # ── files ────────────────────────────────────────────────────────────────────────────────────────────────────

    def save(self, folder: str | Path) -> Path:
        """Write policy.json, encoder.safetensors, adapter.safetensors, and a head that is nowhere else into head/.

        A head that trained along is frozen first: from here on it is a head like any other.
        """
        folder, head = Path(folder), self.policy.head
        if not head.frozen:
            head.freeze()
        if kept_here_alone(head):
            head.original.save_pretrained(folder / HEAD)
        self.policy.save_adapter(folder)
        weights = self.encoder.state_dict()
        files.save_tensors(weights, folder / ENCODER)
        record = {
            "version": VERSION,
            "observation": self.encoder.config.to_dict(),
            "architecture": self.encoder.architecture,
            "contract": dataclasses.asdict(self.contract),
            "fingerprints": {
                "encoder": files.fingerprint(weights),
                "adapter": files.fingerprint(adapter_file.own_state(self.policy)),
            },
            "training": self.training_record,
        }
        record["fingerprint"] = SEAL.of(record, weights)
        files.write_text(folder / CONFIG, json.dumps(record, indent=2) + "\n")
        return folder

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        *,
        head: ActionHead | str | Path | None = None,
        device: torch.device | str = "cpu",
        **kwargs: Any,
    ) -> AdaptedPolicy:
        """Load the whole from a folder or a Hub id, in evaluation mode; `kwargs` as of `hub.find`.

        Neither the encoder's own weights nor its model are looked for again. A head that was moved is found near the
        folder, by its fingerprint, or is passed as `head`.
        """
        device = as_device(device)
        names = [CONFIG, ENCODER, adapter_file.NAME]
        policy, _ = hub.load(path, lambda folder: cls._read(folder, head, **kwargs), names, **kwargs)
        return policy.to(device).eval()

    @classmethod
    def _read(cls, folder: Path, head: ActionHead | str | Path | None, **kwargs: Any) -> AdaptedPolicy:
        weights, _ = files.load_tensors(folder / ENCODER)
        record = read(folder / CONFIG, weights)
        with files.naming(folder / CONFIG):
            contract = strict(Contract, record["contract"], "the contract")
            encoder = saved.load(record["observation"], record["architecture"], weights, folder / ENCODER)
        if head is None and (folder / HEAD).is_dir():
            head = folder / HEAD
        options = {name: value for name, value in kwargs.items() if name not in ("revision", "subfolder")}
        policy = ConditionedHead.from_pretrained(folder, head=head, **options)
        if files.fingerprint(adapter_file.own_state(policy)) != record["fingerprints"].get("adapter"):
            raise files.WeightFileError(f"encoder, adapter and {CONFIG} in {folder} are of different runs: save again")
        with files.naming(folder / CONFIG):
            check_space(contract, policy.head)
        return cls(encoder, policy, contract, record["training"])


def read(path: Path, weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """The content of policy.json, checked for its version, its types, and for belonging to the encoder's weights."""
    record = files.read_json(path)
    version = record.get("version") if isinstance(record, dict) else None
    if type(version) is not int or version != VERSION:
        raise ValueError(
            f"{path} has version {shown(version)}, this release of action-heads reads {VERSION}: "
            "upgrade with `pip install -U action-heads`, or train again"
        )
    if record.keys() - {SEAL.key} != KINDS.keys() or not all(fits(record[key], kind) for key, kind in KINDS.items()):
        raise ValueError(f"{path} needs {', '.join(KINDS)}, each of its type: it is damaged; download or save it again")
    if not SEAL.check(record, weights, path):
        warnings.warn(
            f"{path} has no fingerprint of its configuration, which older releases did not write: whether it was "
            "changed can't be told. Load and save the policy once to add it",
            stacklevel=4,
        )
    if record["fingerprints"].get("encoder") != files.fingerprint(weights):
        raise files.WeightFileError(f"{ENCODER} and {CONFIG} in {path.parent} are of different runs: save again")
    return record


def check_space(contract: Contract, head: ActionHead) -> None:
    """Raise unless the columns of the recording are what the head's actions are decoded to."""
    space = ActionLayout.parse(contract.action_layout, contract.gripper).space()
    if (space.parts, space.mode) != (head.config.space.parts, head.config.space.mode):
        raise ValueError(
            f"the contract names the layout {contract.action_layout!r}, whose actions are {space.mode} {space.parts}; "
            f"the head makes {head.config.space.mode} {head.config.space.parts}: they are of different runs"
        )


def kept_here_alone(head: ActionHead) -> bool:
    """Whether a head is in memory alone, or belongs to a saved policy."""
    place = head.original.source["path"]
    return place is None or (Path(place).name == HEAD and (Path(place).parent / CONFIG).exists())


def hidden(images: dict[str, Tensor], state: Tensor | None) -> tuple[dict[str, Tensor], Tensor | None]:
    """What a blind policy is shown: grey pictures beside its state, or, of states alone, zeros."""
    if images:
        return {name: torch.full_like(x, GREY) for name, x in images.items()}, state
    return images, None if state is None else torch.zeros_like(state)
