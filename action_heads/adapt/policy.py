"""`AdaptedPolicy`: observation encoder, adapter and head together, from pictures to actions; saved and loaded whole.

Axes: b batch, s observation steps, H and W pixels, d state, c condition, h horizon, a action of the head,
e columns of the recording's action.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from action_heads import adapter_file, files, hub
from action_heads.config import strict
from action_heads.encoders import ObservationConfig, ObservationEncoder
from action_heads.head import ActionHead
from action_heads.layouts import ActionLayout
from action_heads.policy import ConditionedHead

VERSION = 1
CONFIG, ENCODER, HEAD = "policy.json", "encoder.safetensors", "head"
GREY = 0.5


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
        files.write_text(folder / CONFIG, json.dumps(record, indent=2) + "\n")
        return folder

    @classmethod
    def from_pretrained(cls, path: str | Path, *, device: str | torch.device = "cpu", **kwargs: Any) -> AdaptedPolicy:
        """Load the whole from a folder or a Hub id, in evaluation mode; `kwargs` as of `hub.find`.

        Neither the encoder's own weights nor its model are looked for again.
        """
        folder = hub.find(path, files=[CONFIG, ENCODER, adapter_file.NAME], **kwargs)
        record = files.read_json(folder / CONFIG)
        if record.get("version") != VERSION:
            raise ValueError(
                f"{folder / CONFIG} has version {record.get('version')!r}, this release of action-heads reads "
                f"{VERSION}: upgrade with `pip install -U action-heads`, or train again"
            )
        contract = strict(Contract, record["contract"], f"the contract in {folder / CONFIG}")
        with torch.random.fork_rng(devices=[]):  # building draws random weights
            encoder = ObservationEncoder(ObservationConfig.from_dict(record["observation"]), record["architecture"])
        weights, _ = files.load_tensors(folder / ENCODER)
        try:
            encoder.load_state_dict(weights)
        except RuntimeError as error:
            raise files.WeightFileError(f"{folder / ENCODER} does not fit {CONFIG} beside it: {error}") from error
        if (folder / HEAD).is_dir():
            policy = ActionHead.from_pretrained(folder / HEAD).load_adapter(folder)
        else:
            policy = ConditionedHead.from_pretrained(folder, **kwargs)
        found = {
            "encoder": files.fingerprint(encoder.state_dict()),
            "adapter": files.fingerprint(adapter_file.own_state(policy)),
        }
        if found != record["fingerprints"]:
            raise files.WeightFileError(f"encoder, adapter and {CONFIG} in {folder} are of different runs: save again")
        return cls(encoder, policy, contract, record["training"]).to(device).eval()


def kept_here_alone(head: ActionHead) -> bool:
    """Whether a head is in memory alone, or belongs to a saved policy."""
    place = head.original.source["path"]
    return place is None or (Path(place).name == HEAD and (Path(place).parent / CONFIG).exists())


def hidden(images: dict[str, Tensor], state: Tensor | None) -> tuple[dict[str, Tensor], Tensor | None]:
    """What a blind policy is shown: grey pictures beside its state, or, of states alone, zeros."""
    if images:
        return {name: torch.full_like(x, GREY) for name, x in images.items()}, state
    return images, None if state is None else torch.zeros_like(state)
