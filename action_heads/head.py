"""`ActionHead`: what is pretrained, published, loaded and frozen.

Axes: h horizon, a action.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from action_heads._util.checks import as_device, as_dtype
from action_heads.actions.normalize import Normalizer
from action_heads.actions.spaces import ActionSpace
from action_heads.adapters import Adapter, check_adapter
from action_heads.config import HeadConfig
from action_heads.denoiser import Denoiser
from action_heads.diffusion.objectives import Objective
from action_heads.io import files, hub

if TYPE_CHECKING:
    from typing_extensions import Self

    from action_heads.policy import ConditionedHead


class ActionHead(Denoiser):
    """A denoising backbone with its step modulation, objective, action space and statistics.

    Modulation is the sum W_t·f(t) + E·z(c) + W_c·f(c). W_t, from the diffusion step, and E, from a code
    of motion, are pretrained and belong to the head; z and W_c are an adapter's and start at zero, so that a head with
    a fresh adapter is the unconditional head.

    A new head is random and trainable, for Stage 1. `freeze` (and every `from_pretrained`) makes it a constant: no
    gradients, evaluation mode whatever `train()` says, and loading weights that differ in a single bit is an error.
    """

    def __init__(self, config: HeadConfig):
        backbone, modulation = config.build()
        super().__init__(config, backbone, modulation, Objective(config.objective), Normalizer.identity(config.space))
        # Where an adapter's pointer leads: filled when the head is loaded or published.
        self.source: dict[str, str | None] = {"path": None, "revision": None, "subfolder": None}
        self._fingerprint: str | None = None

    def freeze(self) -> Self:
        """Make the head a constant: no gradients, evaluation mode, and an error where a weight is not what it was."""
        if not self.frozen:
            self._fingerprint = None
            self._tables.clear()
        return super().freeze()

    # ── identity ─────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def original(self) -> ActionHead:
        """Itself; of a reshaped head, the one it was made of."""
        return self

    def fingerprint(self) -> str:
        """Return 32 hex digits for all weights, statistics and what they mean.

        They are the same for a bfloat16 file loaded as float32, and stay those of the file if the head is cast.
        """
        self.assert_frozen()
        return self._fingerprint or files.fingerprint(self.state_dict(), self.config.contract())

    def pointer(self) -> dict[str, str | None]:
        """What an adapter's file says of its head: name, fingerprint, place. A reshaped head points to its origin."""
        head = self.original
        return {"name": head.config.name, "fingerprint": head.fingerprint(), **head.source}

    # ── attaching ────────────────────────────────────────────────────────────────────────────────────────────────

    def attach(self, adapter: Adapter, *, normalizer: Normalizer | None = None) -> ConditionedHead:
        """Put a trainable adapter on this head. Heads are shared, not copied: many adapters may use one.

        Args:
            adapter: a fresh one; it moves to the head's device and stays float32, whatever the head is.
            normalizer: statistics of the task's own actions, saved with the adapter; the head's if not given.
        """
        from action_heads.policy import ConditionedHead

        check_adapter(adapter)
        self.modulation_of(adapter.name)
        return ConditionedHead(self, adapter, normalizer)

    def build(self, adapter: Adapter) -> None:
        """Create the parameters of an adapter as this head needs them; `attach` does it."""
        own = self.modulation_of(adapter.name)
        code = self.config.rank if self.config.coded else None
        adapter.build(self.config.width, own.values, code, self.config.horizon if own.per_position else None)

    def reshape(self, *, space: ActionSpace | None = None, horizon: int | None = None) -> ActionHead:
        """The same frozen trunk for other actions: new projections from and to them train with the adapter.

        Args:
            space: layout of one action, such as `ActionSpace((("joint", 7), ("gripper", 1)))`.
            horizon: steps of a chunk.
        """
        from action_heads.reshape import reshape

        return reshape(self, space, horizon)

    def in_mode(self, mode: str, *, seed: int = 0) -> ActionHead:
        """The head to attach to in one of the paper's training modes; whatever else is done with it stays the same.

        "decoupled" is this frozen head itself. "random-frozen" and "normal" are new heads of the same config, device
        and statistics, with fresh weights by `seed`: the one frozen too, the other to train along with its adapter.
        """
        from action_heads.modes import in_mode

        return in_mode(self, mode, seed)

    def load_adapter(self, path: str | Path, **kwargs) -> ConditionedHead:
        """Attach a saved adapter: a folder, or a Hub id with the options of `from_pretrained`."""
        from action_heads.policy import ConditionedHead

        return ConditionedHead.load(self, path, **kwargs)

    # ── files ────────────────────────────────────────────────────────────────────────────────────────────────────

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        *,
        revision: str | None = None,
        subfolder: str | None = None,
        cache_dir: str | Path | None = None,
        token: str | bool | None = None,
        local_files_only: bool = False,
        force_download: bool = False,
        dtype: torch.dtype | str = torch.float32,
        device: torch.device | str = "cpu",
    ) -> ActionHead:
        """Load a head, frozen and in evaluation mode, from a bundled name, a local folder or a Hub id.

        Raises:
            HeadNotFoundError: nothing by that name, or the Hub can't be reached.
            WeightFileError: the weights are no safetensors file, truncated, or not this config's.
            ValueError: the config is of another version or has unknown keys.
        """
        from action_heads import head_file
        from action_heads.pointer import absolute

        dtype, device = as_dtype(dtype), as_device(device)
        head, folder = hub.load(
            name_or_path,
            head_file.load,
            revision=revision,
            subfolder=subfolder,
            cache_dir=cache_dir,
            token=token,
            local_files_only=local_files_only,
            force_download=force_download,
        )
        head.to(device).freeze()
        head._fingerprint = head.config.fingerprint
        head.to(dtype)
        head.source = {
            "path": absolute(name_or_path),
            "revision": hub.commit_of(folder) or revision,
            "subfolder": subfolder,
        }
        return head

    def save_pretrained(self, folder: str | Path, *, dtype: torch.dtype | str | None = None) -> Path:
        """Write config.json, model.safetensors and, if there is none yet, a card. `dtype` casts the weights."""
        from action_heads import head_file

        return head_file.save(self, Path(folder), None if dtype is None else as_dtype(dtype))

    def push_to_hub(self, repo_id: str, **kwargs) -> str:
        """Publish as a model repository in one commit; options as in `action_heads.io.hub.push`. Returns the URL.

        `action-heads publish` checks the folder first, and what arrived afterwards.
        """
        from action_heads.pretrain.publish import upload

        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            url, revision = upload(folder, repo_id, self, **kwargs)
        self.source = {"path": repo_id, "revision": revision, "subfolder": None}
        return url

    # ── showing ──────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def num_parameters(self) -> int:
        return sum(p.numel() for p in self.parameters())

    def __repr__(self) -> str:
        c = self.config
        return (
            f"ActionHead({c.name}: {c.backbone} {c.width}x{c.depth}, chunks of {c.horizon} x {c.space.dim} "
            f"({c.space.mode}), predicts {c.objective.prediction}, takes {', '.join(c.mechanisms)}"
            f"{f', has a code of {c.rank}' if c.coded else ''}; "
            f"{self.num_parameters:,} parameters, {'frozen' if self.frozen else 'trainable'})"
        )
