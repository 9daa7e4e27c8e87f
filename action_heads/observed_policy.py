"""`ObservedPolicy`: observation encoder, adapter and head in one object, from observations to actions.

Axes: b batch, s observation steps, H and W pixels, d state, c condition, h horizon, a action of the head,
e columns of the recording's action.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from action_heads import adapter_file, observed_policy_file
from action_heads._util.checks import as_device
from action_heads._util.conditions import Condition, Mask
from action_heads.actions.contract import Contract
from action_heads.encoders import ObservationEncoder
from action_heads.encoders.observation import GREY, Tokens
from action_heads.head import ActionHead
from action_heads.io import hub
from action_heads.policy import ConditionedHead

if TYPE_CHECKING:
    from typing_extensions import Self

Images = Mapping[str, Tensor]


class ObservedPolicy(nn.Module):
    """A policy with the encoder of its observations. `action-heads adapt` trains one, and LeRobot's policy wraps one.

    Args:
        encoder: the encoder, which makes the condition.
        policy: the head with its adapter.
        contract: meaning of the recording's columns.
        training: record of the training run, which is saved with the policy.

    Raises:
        ValueError: the adapter's `cond_dim` is not that of the encoder.

    Examples:
        >>> import tempfile
        >>> import torch
        >>> from action_heads import ActionHead, ObservedPolicy
        >>> from action_heads.actions.contract import Contract
        >>> from action_heads.adapters import AdaLNZero
        >>> from action_heads.encoders import ObservationConfig, ObservationEncoder
        >>> encoder = ObservationEncoder(ObservationConfig(state_dim=7, observation_steps=2))  # joint angles alone
        >>> policy = ActionHead.from_pretrained("dae/mlp-0.7m-fk").attach(AdaLNZero(encoder.cond_dim))
        >>> contract = Contract(("joints",), {}, "action", "pose_6d", gripper=(-1.0, 1.0), rate_hz=20.0)
        >>> observed = ObservedPolicy(encoder, policy, contract)
        >>> observed.sample(state=torch.zeros(1, 2, 7)).shape  # columns as in the recording
        torch.Size([1, 16, 10])
        >>> loaded = ObservedPolicy.from_pretrained(observed.save(tempfile.mkdtemp()))
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
                f"the adapter was built for cond_dim={policy.adapter.config.cond_dim}, but the encoder makes "
                f"conditions of width {encoder.cond_dim}. Attach an adapter with cond_dim=encoder.cond_dim."
            )
        self.encoder, self.policy, self.contract = encoder, policy, contract
        self.layout = contract.layout
        self.training_record = training or {}

    # ── observing, training, acting ──────────────────────────────────────────────────────────────────────────────

    def condition(
        self, images: Images | None = None, state: Tensor | None = None, task: list[str] | None = None
    ) -> Condition:
        """Encode observations to conditions (b c); for an encoder with a VLM, use `encode`, which returns a mask too.

        Args:
            images: as in `encode`.
            state: as in `encode`.
            task: as in `encode`.
        """
        return self.encode(images, state, task)[0]

    def encode(
        self,
        images: Images | None = None,
        state: Tensor | None = None,
        task: list[str] | None = None,
        tokens: Tokens | None = None,
        outputs: Mapping[str, Tensor] | None = None,
    ) -> tuple[Condition, Mask]:
        """Encode observations to conditions and their mask, as `ConditionedHead.sample` takes them.

        Args:
            images: images (b s 3 H W) by camera, uint8, or floats in [0, 1].
            state: proprioception (b s d), in the units of the recording.
            task: b descriptions of the task.
            tokens: what `embed` returned. The VLM then does not run, and images are not needed.
            outputs: outputs of the frozen vision network (b s ...), by camera, in place of images. Those of a blind
                policy are of grey images.

        Returns:
            The condition (b c), or with a VLM a dict of "tokens" (b n c), "state" (b c) and others.
            The mask: None, or with a VLM a dict of "tokens" (b n).

        Raises:
            ValueError: an observation is missing, or has another shape or type than the encoder expects.
        """
        if outputs is not None:
            return self.encoder.encode({}, state, task, tokens, outputs)
        observed, state = self._shown(images, state)
        return self.encoder.encode(observed, state, task, tokens)

    def embed(self, images: Images | None = None, task: list[str] | None = None) -> Tokens:
        """Return the tokens (b n c) of the VLM for the current images, and their mask (b n).

        They may be computed less often than the policy acts: `encode` and `sample` join them with a newer state.

        Args:
            images: as in `encode`.
            task: as in `encode`.

        Raises:
            ValueError: the policy has no VLM, or an observation is missing.
        """
        return self.encoder.embed(self._shown(images, None)[0], task)

    def _shown(self, images: Images | None, state: Tensor | None) -> tuple[dict[str, Tensor], Tensor | None]:
        """Return images as floats in [0, 1], and the state; both hidden in a blind policy."""
        given = images or {}
        observed = {
            name: (given[name] if given[name].is_floating_point() else given[name].float() / 255)
            for name in self.encoder.config.cameras
            if name in given
        }
        return hidden(observed, state, self.encoder.config.cameras) if self.contract.blind else (observed, state)

    def loss(self, batch: Mapping[str, Any], task: list[str] | None = None, **options: Any) -> Tensor:
        """Return the denoising loss of a batch, a scalar, or (b) with `reduction="none"`.

        Args:
            batch: `actions` (b h a) in robot units, `is_pad` (b h) or None, `images` or `outputs` by camera, and
                `state` (b s d), which may be None or of width 0. With `tokens` (b n c) and `mask` (b n) the VLM does
                not run.
            task: b descriptions of the task.
            **options: other options of `ConditionedHead.loss`.
        """
        state = batch["state"]
        tokens = (batch["tokens"], batch["mask"]) if "tokens" in batch else None
        state = state if state is not None and state.shape[-1] else None
        cond, mask = self.encode(batch["images"], state, task, tokens, batch.get("outputs"))
        return self.policy.loss(batch["actions"], cond, mask=mask, is_pad=batch["is_pad"], **options)

    @torch.no_grad()
    def sample(
        self,
        images: Images | None = None,
        state: Tensor | None = None,
        task: list[str] | None = None,
        tokens: Tokens | None = None,
        *,
        previous: Tensor | None = None,
        committed: int | None = None,
        start: float | None = None,
        last: Tensor | None = None,
        **sampling: Any,
    ) -> Tensor:
        """Denoise chunks (b h e) for observations, in the columns and units of the recording.

        Args:
            images: as in `encode`.
            state: as in `encode`.
            task: as in `encode`.
            tokens: as in `encode`.
            previous: the rest of the previous chunk (b n e) that `sample` returned, from the first time step of the new
                chunk.
            committed: number of time steps of `previous` that are being executed, as in `ConditionedHead.sample`. The
                new chunk begins with these columns, bit for bit.
            start: share of noise that is added to `previous` to start from, as in `ConditionedHead.sample`.
            last: the columns (b e) of the time step before the chunk. Each rotation of the chunk is then written in the
                way closest to the one before, as in `ActionLayout.decode`. With `previous` it can be left out.
            **sampling: other options of `ConditionedHead.sample`, such as `steps` and `generator`.

        Raises:
            ValueError: as in `encode` and `ConditionedHead.sample`.
        """
        cond, mask = self.encode(images, state, task, tokens)
        left = self.layout.encode(previous) if isinstance(previous, Tensor) else previous
        chunk = self.policy.sample(cond, mask=mask, previous=left, committed=committed, start=start, **sampling)
        if previous is None:
            return self.layout.decode(chunk, last)
        return self.layout.decode_after(chunk, previous[:, : committed or 0], previous[:, 0] if last is None else last)

    @property
    def device(self) -> torch.device:
        """The device of the head."""
        return self.policy.head.device

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Do as torch does, except that the frozen parts of encoder and head stay frozen."""
        self.encoder.requires_grad_(requires_grad)
        self.policy.requires_grad_(requires_grad)
        return self

    def parameter_groups(self) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """Return the parameters that train, in two lists: those of adapter and head, and those of the encoder."""
        return list(self.policy.trainable_parameters()), [p for p in self.encoder.parameters() if p.requires_grad]

    def parts(self) -> dict[str, dict[str, int]]:
        """Count the frozen and the trained parameters of every part."""

        def count(part: nn.Module, trains: bool) -> int:
            return sum(p.numel() for p in part.parameters() if p.requires_grad == trains)

        parts = {"head": self.policy.head, "adapter": self.policy.adapter, "encoder": self.encoder}
        counts = {name: {"frozen": count(part, False), "trained": count(part, True)} for name, part in parts.items()}
        if self.encoder.vlm is not None:
            counts["vlm"] = self.encoder.vlm.counts()
            for kind, trains in (("frozen", False), ("trained", True)):  # the encoder's other parts
                counts["encoder"][kind] -= count(self.encoder.vlm, trains)
        return counts

    def counts(self) -> dict[str, Any]:
        """Return the parameter counts for the training record: by part, and those that head and adapter compute with.

        A policy does not compute with the whole head, which also has modulation for other mechanisms.
        """
        used = {"frozen": self.policy.num_frozen, "trained": self.policy.num_trainable}
        return {"parameters": self.parts(), "computed_with": used}

    # ── files ────────────────────────────────────────────────────────────────────────────────────────────────────

    def save(self, folder: str | Path) -> Path:
        """Save the policy: policy.json, encoder.safetensors, adapter.safetensors and, if needed, the head.

        A head that is saved nowhere else, or no longer, is written into the subfolder head/, and so is a head that
        trains along. Saving changes neither, so training can go on.

        Args:
            folder: the folder, created if needed.

        Returns:
            The folder.

        Raises:
            ValueError: the head would have to be written, but was rounded to a shorter dtype after it was loaded; or
                weights hold NaN.
        """
        return observed_policy_file.save(self, Path(folder).expanduser())

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        *,
        head: ActionHead | str | Path | None = None,
        vlm: str | Path | None = None,
        device: torch.device | str = "cpu",
        **kwargs: Any,
    ) -> ObservedPolicy:
        """Load a saved policy in evaluation mode.

        Pretrained weights of the encoder are in the folder, so nothing else is downloaded for it. Only the frozen
        weights of a VLM are not: they are found by its folder or Hub id, and are loaded when the policy acts first. If
        the head's folder was moved, the head is searched near the policy's folder by its name and fingerprint.

        Args:
            path: a folder, or a Hub id.
            head: the head, or its place, in place of the saved pointer.
            vlm: folder or Hub id of the VLM, in place of the saved one.
            device: device of the policy.
            **kwargs: options for the Hub, as in `ActionHead.from_pretrained`.

        Raises:
            HeadNotFoundError: there is no policy at `path`, or its head is not found.
            WeightFileError: a file is damaged, or files of different runs were mixed.
            ValueError: another release wrote a file, or the VLM is not there or is another one.
        """
        device = as_device(device)
        place = None if vlm is None else str(vlm)
        names = [observed_policy_file.CONFIG, observed_policy_file.ENCODER, adapter_file.NAME]
        policy, _ = hub.load(
            path, lambda folder: cls(*observed_policy_file.load(folder, head, place, **kwargs)), names, **kwargs
        )
        return policy.to(device).eval()


def hidden(
    images: dict[str, Tensor], state: Tensor | None, cameras: tuple[str, ...]
) -> tuple[dict[str, Tensor], Tensor | None]:
    """Hide observations, as a control: images become grey, and the state of a policy without cameras becomes zero."""
    if cameras:
        return {name: torch.full_like(x, GREY) for name, x in images.items()}, state
    return images, None if state is None else torch.zeros_like(state)
