"""`ObservedPolicy`: observation encoder, adapter and head as one object, from observations to actions.

Axes: b batch, s observation steps, H and W pixels, d state, c condition, h horizon, a action of the head,
e columns of the recording's action.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from action_heads import adapter_file, observed_policy_file
from action_heads._util.checks import as_device
from action_heads.actions.contract import Contract
from action_heads.encoders import ObservationEncoder
from action_heads.head import ActionHead
from action_heads.io import hub
from action_heads.policy import ConditionedHead

GREY = 0.5
Images = Mapping[str, Tensor]


class ObservedPolicy(nn.Module):
    """A conditioned head with the encoder of its observations. `action-heads adapt` trains one and LeRobot wraps one.

    Args:
        encoder: makes the condition.
        policy: the head with its adapter.
        contract: what the numbers mean.
        training: the record of the training run, which is saved along.
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
        self.layout = contract.layout
        self.training_record = training or {}

    # ── observing, learning, acting ──────────────────────────────────────────────────────────────────────────────

    def condition(
        self, images: Images | None = None, state: Tensor | None = None, task: list[str] | None = None
    ) -> Tensor:
        """Encode observations: images (b s 3 H W) by camera, state (b s d), b descriptions of the task -> (b c).

        Images are uint8, or floats in [0, 1].
        """
        given = images or {}
        seen = {
            name: (given[name] if given[name].is_floating_point() else given[name].float() / 255)
            for name in self.encoder.config.cameras
            if name in given
        }
        if self.contract.blind:
            seen, state = hidden(seen, state)
        return self.encoder(seen, state, task)

    def loss(self, batch: Mapping[str, Any], task: list[str] | None = None, **options: Any) -> Tensor:
        """Denoising loss (scalar) of a batch with `actions` (b h a), `is_pad`, `state` and `images`.

        `state` may have the width 0 or be None, and `is_pad` may be None.
        """
        state = batch["state"]
        cond = self.condition(batch["images"], state if state is not None and state.shape[-1] else None, task)
        return self.policy.loss(batch["actions"], cond, is_pad=batch["is_pad"], **options)

    @torch.no_grad()
    def sample(
        self,
        images: Images | None = None,
        state: Tensor | None = None,
        task: list[str] | None = None,
        **sampling: Any,
    ) -> Tensor:
        """Observations -> chunks (b h e) in the columns of the recording. `sampling` as of `ConditionedHead.sample`."""
        return self.layout.decode(self.policy.sample(self.condition(images, state, task), **sampling))

    @property
    def device(self) -> torch.device:
        """Where the head is."""
        return self.policy.head.device

    def parameter_groups(self) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """List the parameters that train: those of the adapter and of a head that trains along, and the encoder's."""
        return list(self.policy.trainable_parameters()), [p for p in self.encoder.parameters() if p.requires_grad]

    def parts(self) -> dict[str, dict[str, int]]:
        """Count frozen and trained parameters of every part."""

        def count(part: nn.Module, trains: bool) -> int:
            return sum(p.numel() for p in part.parameters() if p.requires_grad == trains)

        parts = {"head": self.policy.head, "adapter": self.policy.adapter, "encoder": self.encoder}
        return {name: {"frozen": count(part, False), "trained": count(part, True)} for name, part in parts.items()}

    def counts(self) -> dict[str, Any]:
        """Return the counts that a record of training holds: `parts`, and what head and adapter compute with.

        The latter is less than the whole head, which has modulations for other adapters too.
        """
        used = {"frozen": self.policy.num_frozen, "trained": self.policy.num_trainable}
        return {"parameters": self.parts(), "computed_with": used}

    # ── files ────────────────────────────────────────────────────────────────────────────────────────────────────

    def save(self, folder: str | Path) -> Path:
        """Write policy.json, encoder.safetensors, adapter.safetensors, and a head that is nowhere else into head/.

        A head that trained along is frozen first: from here on it is a head like any other.
        """
        return observed_policy_file.save(self, Path(folder))

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        *,
        head: ActionHead | str | Path | None = None,
        device: torch.device | str = "cpu",
        **kwargs: Any,
    ) -> ObservedPolicy:
        """Load the whole from a folder or a Hub id, in evaluation mode; `kwargs` as of `hub.find`.

        Neither the encoder's own weights nor its model are looked for again. A head that was moved is found near the
        folder, by its fingerprint, or is passed as `head`.
        """
        device = as_device(device)
        names = [observed_policy_file.CONFIG, observed_policy_file.ENCODER, adapter_file.NAME]
        policy, _ = hub.load(
            path, lambda folder: cls(*observed_policy_file.load(folder, head, **kwargs)), names, **kwargs
        )
        return policy.to(device).eval()


AdaptedPolicy = ObservedPolicy  # the name by which `action_heads.adapt` offers it


def hidden(images: dict[str, Tensor], state: Tensor | None) -> tuple[dict[str, Tensor], Tensor | None]:
    """Hide observations, as a control: images become grey and the state stays; a state without images becomes zero."""
    if images:
        return {name: torch.full_like(x, GREY) for name, x in images.items()}, state
    return images, None if state is None else torch.zeros_like(state)
