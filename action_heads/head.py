"""`ActionHead`: a denoiser of action chunks that is pretrained, published, loaded and frozen.

Axes: h horizon, a action.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from action_heads._util.checks import as_device, as_dtype, check_type
from action_heads.actions.normalize import Normalizer
from action_heads.actions.spaces import ActionSpace
from action_heads.adapters import Adapter, check_adapter
from action_heads.config import HeadConfig
from action_heads.denoiser import Denoiser
from action_heads.diffusion.objectives import Objective
from action_heads.frozen import thawed
from action_heads.io import files, hub
from action_heads.io.upload import upload

if TYPE_CHECKING:
    from typing_extensions import Self

    from action_heads.policy import ConditionedHead


class ActionHead(Denoiser):
    """A denoiser of action chunks: a backbone with its own modulation, objective, action space and statistics.

    Load one with `from_pretrained` and attach an adapter with `attach`. A new `ActionHead(config)` is random and
    trainable, for Stage 1 (pretraining on motion without observations). `freeze` freezes it for good, as
    `from_pretrained` does: it has no gradients, stays in evaluation mode even after `train()`, and raises an error if
    weights are loaded that differ in a single bit.

    The modulation of its layers is the sum W_t·f(t) + E·z(c) + W_c·f(c), for a noise level t and a condition c. W_t and
    E, which maps a motion code z, are pretrained and belong to the head. z and W_c belong to an adapter and start at
    zero, so a head with a fresh adapter samples like the head alone.

    This follows Decoupled Action Expert (arXiv 2511.12101), section III; the motion code is this library's addition.

    Args:
        config: shape, objective and action space.

    Examples:
        >>> import torch
        >>> from action_heads import ActionHead
        >>> from action_heads.adapters import AdaLNZero
        >>> head = ActionHead.from_pretrained("dae/mixer-5m-fk")  # bundled with the package, frozen
        >>> policy = head.attach(AdaLNZero(cond_dim=2048))  # only the adapter trains
        >>> cond, actions = torch.randn(8, 2048), head.sample(8)  # conditions, and chunks in robot units
        >>> optimizer = torch.optim.AdamW(policy.trainable_parameters(), lr=1e-3)
        >>> policy.loss(actions, cond).backward()
        >>> optimizer.step()
        >>> policy.sample(cond, steps=10).shape
        torch.Size([8, 16, 10])
    """

    def __init__(self, config: HeadConfig):
        check_type("config", config, HeadConfig, "To load a pretrained head, call ActionHead.from_pretrained(name).")
        backbone, modulation = config.build()
        super().__init__(config, backbone, modulation, Objective(config.objective), Normalizer.identity(config.space))
        self.float()  # for any default dtype of torch
        # The place that an adapter's pointer names. Loading and publishing set it.
        self.source: dict[str, str | None] = {"path": None, "revision": None, "subfolder": None}
        self._fingerprint: str | None = None

    def freeze(self) -> Self:
        """Freeze the head for good: no gradients, evaluation mode, and an error if a weight changes."""
        if not self.frozen:
            self._fingerprint = None
            self._tables.clear()
        return super().freeze()

    # ── identity ─────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def original(self) -> ActionHead:
        """The head that a reshaped head was made from; otherwise this head."""
        return self

    def fingerprint(self) -> str:
        """Return 32 hex digits that identify the weights, the statistics and their meaning.

        A head loaded from a file keeps the file's fingerprint if it is cast to another dtype.

        Raises:
            RuntimeError: the frozen head was changed.
        """
        self.assert_frozen()
        return self._fingerprint or files.fingerprint(self.state_dict(), self.config.contract())

    def pointer(self) -> dict[str, str | None]:
        """Return what an adapter's file stores about its head: name, fingerprint and place of the original head."""
        head = self.original
        return {"name": head.config.name, "fingerprint": head.fingerprint(), **head.source}

    # ── attaching ────────────────────────────────────────────────────────────────────────────────────────────────

    def attach(self, adapter: Adapter, *, normalizer: Normalizer | None = None) -> ConditionedHead:
        """Attach a trainable adapter to this head, which gives a policy.

        The head is shared, not copied, so many adapters can use it.

        Args:
            adapter: a new adapter. It moves to the head's device, and its parameters are float32 for any head.
            normalizer: normalizer for the actions of your task, saved with the adapter; the head's if None. Pass one
                if your actions leave the range in which the head was trained.

        Returns:
            The policy, with `loss` to train and `sample` to act.

        Raises:
            ValueError: the adapter is not an adapter object or is attached already, the head was not pretrained for
                its mechanism, or the normalizer has another width than the head's actions.

        Examples:
            >>> import torch
            >>> from action_heads import ActionHead, Normalizer
            >>> from action_heads.adapters import AdaLNZero
            >>> head = ActionHead.from_pretrained("dae/mixer-5m-fk")
            >>> policy = head.attach(AdaLNZero(cond_dim=512, through="code", hidden_dim=64))
            >>> print(policy)
            ConditionedHead(dae/mixer-5m-fk + AdaLNZero, cond_dim=512: 5,200,266 frozen and 41,152 trainable parameters)

            With statistics of your own actions, chunks (n h a) in robot units:

            >>> actions = torch.randn(100, 16, 10)
            >>> normalizer = Normalizer.fit(actions, head.config.space)
            >>> policy = head.attach(AdaLNZero(cond_dim=512), normalizer=normalizer)
        """
        from action_heads.policy import ConditionedHead

        check_adapter(adapter)
        self.modulation_of(adapter.name)
        return ConditionedHead(self, adapter, normalizer)

    def build(self, adapter: Adapter) -> None:
        """Create the parameters of an adapter for this head. `attach` calls this."""
        own = self.modulation_of(adapter.name)
        code = self.config.rank if self.config.coded else None
        adapter.build(self.config.width, own.values, code, self.config.horizon if own.per_position else None)
        if adapter.config.relearn_step:
            adapter.step = thawed(own).float()

    def reshape(self, *, space: ActionSpace | None = None, horizon: int | None = None) -> ActionHead:
        """Return a head with the same frozen inner layers for another action space or horizon.

        Its projections from and to actions are new. They train with the adapter and are saved with it. A reshaped head
        takes one adapter, and `attach` needs a `normalizer` for the new actions.

        Args:
            space: layout of one action; this head's if None.
            horizon: time steps of a chunk; this head's if None.

        Raises:
            ValueError: the head is not frozen, or the backbone cannot have this horizon.

        Examples:
            >>> import torch
            >>> from action_heads import ActionHead, ActionSpace, Normalizer
            >>> from action_heads.adapters import AdaLNZero
            >>> head = ActionHead.from_pretrained("dae/mlp-0.7m-fk")
            >>> space = ActionSpace((("joint", 6), ("gripper", 1)))
            >>> reshaped = head.reshape(space=space, horizon=8)
            >>> actions = torch.rand(32, 8, 7)  # joint angles in radians, gripper from -1 to +1
            >>> policy = reshaped.attach(AdaLNZero(cond_dim=512), normalizer=Normalizer.fit(actions, space))
            >>> policy.sample(torch.randn(2, 512)).shape
            torch.Size([2, 8, 7])
        """
        from action_heads.reshape import reshape

        return reshape(self, space, horizon)

    def in_mode(self, mode: str, *, seed: int = 0) -> ActionHead:
        """Return the head to attach to in one of the training modes that the paper compares.

        Everything else in an experiment stays the same. The new heads have this head's config, device and statistics.

        Args:
            mode: "decoupled" for this frozen head itself, "random-frozen" for a new random head that is frozen, or
                "normal" for a new random head that trains along with its adapter.
            seed: seed of the random weights.

        Raises:
            ValueError: an unknown mode, "decoupled" for a head that is not frozen, or another mode for a reshaped head.

        Examples:
            >>> from action_heads import ActionHead
            >>> from action_heads.adapters import FiLM
            >>> head = ActionHead.from_pretrained("dae/mlp-0.7m-fk")
            >>> control = head.in_mode("random-frozen", seed=1).attach(FiLM(cond_dim=512))
            >>> head.in_mode("normal").attach(FiLM(cond_dim=512)).num_frozen
            0
        """
        from action_heads.modes import in_mode

        return in_mode(self, mode, seed)

    def load_adapter(self, path: str | Path, **kwargs: Any) -> ConditionedHead:
        """Attach a saved adapter to this head, which gives a policy in evaluation mode.

        Args:
            path: a folder, or a Hub id.
            **kwargs: options for the Hub, as in `from_pretrained`: `revision`, `cache_dir`, `token`,
                `local_files_only`, `force_download`.

        Raises:
            HeadNotFoundError: there is no adapter at `path`.
            WeightFileError: the file is damaged.
            ValueError: the adapter was trained on another head, or another release wrote it.

        Examples:
            >>> import tempfile
            >>> from action_heads import ActionHead
            >>> from action_heads.adapters import AdaLNZero
            >>> head = ActionHead.from_pretrained("dae/mlp-0.7m-fk")
            >>> folder = head.attach(AdaLNZero(cond_dim=512)).save_adapter(tempfile.mkdtemp())
            >>> policy = head.load_adapter(folder)
        """
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
        """Load a pretrained head, frozen and in evaluation mode.

        In a name such as `dae/mlp-5m-fk`, "mlp" is the backbone, "5m" stands for 5 million parameters of the denoiser
        (the backbone with its step embedding), and "fk" for the training data: motion made by forward kinematics.
        `action-heads heads` lists the bundled heads.

        Args:
            name_or_path: the name of a bundled head, a local folder, or a Hub id "owner/name".
            revision: branch, tag or commit of a Hub repository.
            subfolder: folder within the local folder or the repository.
            cache_dir: folder of the Hub's cache.
            token: token for the Hub, or whether to use the stored one.
            local_files_only: use only the cache, without network.
            force_download: download again what the cache already holds.
            dtype: dtype of the weights, such as torch.bfloat16 or "bfloat16".
            device: device of the head, such as "cuda".

        Raises:
            HeadNotFoundError: there is no head of that name, or the Hub cannot be reached.
            WeightFileError: the weights are damaged, or do not fit the config.
            ValueError: another release wrote the config, or an option is invalid.

        Examples:
            >>> from action_heads import ActionHead
            >>> head = ActionHead.from_pretrained("dae/mixer-5m-fk")
            >>> head.frozen, head.config.horizon, head.config.space.dim
            (True, 16, 10)
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
        """Save the head: config.json, model.safetensors and, if the folder has none, a model card (README.md).

        Args:
            folder: the folder, created if needed.
            dtype: dtype of the saved weights; the head's own if None.

        Returns:
            The folder.

        Raises:
            RuntimeError: the frozen head was changed.

        Examples:
            >>> import tempfile
            >>> from action_heads import ActionHead, HeadConfig
            >>> folder = ActionHead(HeadConfig(name="me/tiny", width=32, depth=2)).save_pretrained(tempfile.mkdtemp())
            >>> sorted(file.name for file in folder.iterdir())
            ['README.md', 'config.json', 'model.safetensors']
        """
        from action_heads import head_file

        return head_file.save(self, Path(folder).expanduser(), None if dtype is None else as_dtype(dtype))

    def push_to_hub(self, repo_id: str, **kwargs: Any) -> str:
        """Publish the head as one commit to a model repository, and return the URL.

        The upload is downloaded again and verified. The command `action-heads publish` also checks the head before.

        Args:
            repo_id: the repository, "owner/name".
            **kwargs: options of `action_heads.io.hub_push.push`, such as `private` and `token`.

        Raises:
            PushError: the Hub refused or could not be reached.
            PublishError: the downloaded files are not those that were sent.

        Examples:
            >>> head.push_to_hub("me/mlp-5m-mine", private=True)  # doctest: +SKIP
            'https://huggingface.co/me/mlp-5m-mine/commit/...'
        """
        from action_heads import head_file

        with tempfile.TemporaryDirectory() as folder:
            # `save_pretrained` would note this folder as its place.
            written, fingerprint = head_file.contents(self, Path(folder))
            files.write_together(folder, written)
            url, revision = upload(folder, repo_id, lambda there: head_file.check_copy(there, fingerprint), **kwargs)
        if fingerprint == self.fingerprint():  # Weights cast to another dtype are another head.
            self.source = {"path": repo_id, "revision": revision, "subfolder": None}
        return url

    # ── showing ──────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def num_parameters(self) -> int:
        """The number of all parameters, with the modulation for every mechanism."""
        return sum(p.numel() for p in self.parameters())

    def _used(self) -> str:
        """Return how many parameters a policy uses, which has one of the mechanisms; "" if that is all of them."""
        counts = [sum(p.numel() for p in each.parameters()) for each in self.modulation.values()]
        used = sorted({self.num_parameters - sum(counts) + count for count in counts})
        most = f" to {used[-1]:,}" if used[1:] else ""
        return f"; a policy uses {used[0]:,}{most} of them" if counts[1:] else ""

    def __repr__(self) -> str:
        c = self.config
        return (
            f"ActionHead({c.name}: {c.backbone} {c.width}x{c.depth}, chunks of {c.horizon} x {c.space.dim} "
            f"({c.space.mode}), predicts {c.objective.prediction}, adapters {', '.join(c.mechanisms)}"
            f"{f', motion code of {c.rank} numbers' if c.coded else ''}; "
            f"{self.num_parameters:,} parameters, {'frozen' if self.frozen else 'trainable'}{self._used()})"
        )
