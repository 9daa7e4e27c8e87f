"""`ConditionedHead`: a frozen head with one trainable adapter, which is a policy.

Axes: b batch, h horizon, a action, c condition, n tokens.
"""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from action_heads import adapter_file
from action_heads._util.building import building_for, keep_values
from action_heads._util.checks import check_count, check_generator, check_pad, check_type
from action_heads._util.conditions import Condition, Mask, on_host, parts
from action_heads._util.limits import check_choice
from action_heads.acting import Policy
from action_heads.actions.normalize import Normalizer, check_units
from action_heads.adapters import Adapter
from action_heads.card import adapter_card
from action_heads.diffusion import continuing
from action_heads.diffusion.loss import Noise, denoising_loss
from action_heads.head import ActionHead
from action_heads.io import files, hub
from action_heads.io.upload import upload


class ConditionedHead(Policy):
    """A policy: a head with an adapter. `loss` trains the adapter, and `sample` makes action chunks.

    `ActionHead.attach` returns one. Only the adapter trains. A head that is not frozen trains along, which is the
    control "normal" of `ActionHead.in_mode`.

    Args:
        head: the head.
        adapter: a new adapter.
        normalizer: normalizer for the actions of the task; the head's if None.

    Raises:
        ValueError: the adapter is attached already, or does not fit the head.

    Examples:
        >>> import torch
        >>> from action_heads import ActionHead
        >>> from action_heads.adapters import AdaLNZero
        >>> policy = ActionHead.from_pretrained("dae/mlp-0.7m-fk").attach(AdaLNZero(cond_dim=512))
        >>> actions, cond = policy.head.sample(8), torch.randn(8, 512)  # in place of demonstrations
        >>> loss = policy.loss(actions, cond)  # a scalar, for backward()
        >>> policy.sample(cond).shape
        torch.Size([8, 16, 10])
    """

    head: ActionHead  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(self, head: ActionHead, adapter: Adapter, normalizer: Normalizer | None = None):
        check_type("head", head, ActionHead, "Load one with ActionHead.from_pretrained(name).")
        if adapter.is_built:
            raise ValueError(
                "this adapter is already attached to a head. Attach a new one, or move its weights with "
                "policy.save_adapter(folder) and head.load_adapter(folder)."
            )
        if normalizer is not None:
            check_type("normalizer", normalizer, Normalizer, "Pass Normalizer.fit(actions, head.config.space).")
        if normalizer is not None and len(normalizer.scale) != head.config.space.dim:
            raise ValueError(
                f"the normalizer has {len(normalizer.scale)} dimensions, but the head's actions have "
                f"{head.config.space.dim}. Fit it with Normalizer.fit(actions, head.config.space)."
            )
        own = head.modulation_of(adapter.name)
        needed = not (head.frozen or adapter.config.relearn_step)
        if needed and not any(p.requires_grad for p in own.parameters()):
            raise ValueError(
                f"this head trains along with another adapter, which does not use its modulation for {adapter.name}, "
                "so that does not train. Make another head, for example by in_mode."
            )
        with building_for(head.device):
            head.build(adapter)
        super().__init__(head, adapter.to(head.device, torch.float32))
        self._freeze_unused()
        keep_values(self.adapter)
        self.own_normalizer = None if normalizer is None else copy.deepcopy(normalizer).to(head.device)
        self._looked_at: set[str] = set()

    # ── training ─────────────────────────────────────────────────────────────────────────────────────────────────

    def loss(
        self,
        actions: Tensor,
        cond: Condition,
        *,
        mask: Mask = None,
        is_pad: Tensor | None = None,
        generator: torch.Generator | None = None,
        levels: str = "uniform",
        noise_samples: int = 1,
        prefixes: bool = False,
        reduction: str = "mean",
    ) -> Tensor:
        """Return the denoising loss, a scalar: the mean squared error of the prediction at random noise levels.

        Shapes are checked in every call, and so is that a frozen head is unchanged. On a CPU every call also checks for
        NaN and for units; on an accelerator only the first call does, since these checks wait for it.

        Args:
            actions: chunks (b h a) in robot units.
            cond: conditions (b c), or tokens (b n c); a dict of these for an adapter of several sources.
            mask: (b n), true where a token counts; a dict for several sources.
            is_pad: (b h), true where an action is padding and must not count.
            generator: generator of the noise and its levels.
            levels: distribution of the noise levels: "uniform", "logit_normal" (prefers the middle), "beta" (prefers
                the noisier) or "last" (only the noisiest).
            noise_samples: number of noised copies of each chunk; they share one reading of the condition.
            prefixes: show the first actions of half of the chunks without noise, as `sample` shows committed ones, and
                do not count them. It needs a backbone that mixes time.
            reduction: "mean", or "none" to return a loss for each chunk (b), to weight them. Their mean is the loss.

        Raises:
            ValueError: an argument has a wrong shape, dtype or range.
            RuntimeError: the frozen head was changed.

        Examples:
            >>> import torch
            >>> from action_heads import ActionHead
            >>> from action_heads.adapters import AdaLNZero
            >>> policy = ActionHead.from_pretrained("dae/mlp-0.7m-fk").attach(AdaLNZero(cond_dim=32, pool="attention"))
            >>> actions = policy.head.sample(8)  # in place of demonstrations (8, 16, 10)
            >>> tokens, mask = torch.randn(8, 5, 32), torch.ones(8, 5, dtype=torch.bool)
            >>> policy.loss(actions, tokens, mask=mask).backward()
        """
        check_choice("reduction", reduction, ("mean", "none"))
        self.head.assert_frozen()
        look = self._look(actions, "loss")
        check_generator(generator)
        self.head.config.space.validate(actions, self.head.config.horizon, values=look)
        self.check_cond(cond, mask, look)
        if len(actions) != (rows := len(parts(cond)[0])):
            raise ValueError(
                f"{len(actions)} action chunks came with {rows} conditions; pass one condition for each chunk"
            )
        objective = self.head.objective
        x0 = self.normalizer.normalize(actions.float())
        if look:
            check_units(x0, objective.config.clip, self.head.config.space)
        x0 = torch.cat([x0] * check_count("noise_samples", noise_samples))
        t = objective.random_steps((len(x0), 1), generator, levels, x0.device)
        noise = objective.random_noise(x0.shape, generator, x0.device)
        pad = clean = None
        if is_pad is not None:
            check_pad(is_pad, *actions.shape[:2], values=look)
            pad = torch.cat([is_pad] * noise_samples)
        if prefixes:
            clean = continuing.random_prefixes(self.head, x0.shape, generator)
            if continuing.takes_levels_per_step(self.head, self.modulation):
                t = t.masked_fill(clean, 0)
        values = self.step_values(t) + torch.cat([self.modulate(cond, mask)] * noise_samples)
        each = reduction == "none"
        loss = denoising_loss(self.head, x0, Noise(t, noise, clean), values, self.modulation, pad, each)
        if each:
            loss = loss.unflatten(0, (noise_samples, -1)).mean(0)
        # A batch of only padding is an error. Where raising it would wait for an accelerator, the loss becomes NaN.
        return loss if look or is_pad is None else loss.masked_fill(is_pad.all(), torch.nan)

    # accelerate and DDP wrap `forward`, so it is the loss, whose gradients they synchronise.
    forward = loss

    def _look(self, tensor: Tensor, call: str) -> bool:
        """Return whether to check values in training: always on a CPU, in the first call on an accelerator."""
        if torch.compiler.is_compiling():
            return False
        look = on_host(tensor) or call not in self._looked_at
        self._looked_at.add(call)
        return look

    # ── files ────────────────────────────────────────────────────────────────────────────────────────────────────

    def save_adapter(self, folder: str | Path) -> Path:
        """Save the adapter alone as adapter.safetensors, with a pointer to its head.

        The file also holds the policy's own normalizer, if it has one, and the projections of a reshaped head. The
        pointer holds the head's name, place, revision and fingerprint.

        Args:
            folder: the folder, created if needed.

        Returns:
            The folder.

        Raises:
            ValueError: the head is not frozen, so it would have to be saved too.
            RuntimeError: the frozen head was changed.

        Examples:
            >>> import tempfile
            >>> from action_heads import ActionHead, ConditionedHead
            >>> from action_heads.adapters import AdaLNZero
            >>> policy = ActionHead.from_pretrained("dae/mlp-0.7m-fk").attach(AdaLNZero(cond_dim=512))
            >>> folder = policy.save_adapter(tempfile.mkdtemp())
            >>> ConditionedHead.from_pretrained(folder).head.config.name  # the head is found by the pointer
            'dae/mlp-0.7m-fk'
        """
        return adapter_file.save(self, Path(folder).expanduser())

    def push_adapter(self, repo_id: str, **kwargs: Any) -> str:
        """Publish the adapter with a model card as a model repository, and return the URL.

        The upload is downloaded again and verified.

        Args:
            repo_id: the repository, "owner/name".
            **kwargs: options of `action_heads.io.hub_push.push`, such as `private` and `token`.

        Raises:
            ValueError: the head is neither bundled nor on the Hub, so nobody could load the adapter.
            PushError: the Hub refused or could not be reached.
            PublishError: the downloaded files are not those that were sent.

        Examples:
            >>> policy.push_adapter("me/stack", private=True)  # doctest: +SKIP
            'https://huggingface.co/me/stack/commit/...'
        """
        from action_heads.pointer import is_folder

        path = self.head.pointer()["path"]
        if path is None or is_folder(path):
            raise ValueError(
                f"the head is only {'in memory' if path is None else f'in the local folder {path}'}, so nobody could "
                "load this adapter. Publish the head first with head.push_to_hub(repo_id)."
            )
        with tempfile.TemporaryDirectory() as folder:
            self.save_adapter(folder)
            files.write_text(Path(folder) / "README.md", adapter_card(self, repo_id))
            # The adapter's file has its own fingerprint, which loading checks.
            return upload(
                folder, repo_id, lambda there: adapter_file.load(self.head, there / adapter_file.NAME), **kwargs
            ).url

    def load_adapter(self, path: str | Path, **kwargs: Any) -> ConditionedHead:
        """Load the weights of a saved adapter of the same shape into this policy, and return the policy.

        If an error is raised, the policy is unchanged.

        Args:
            path: a folder, or a Hub id.
            **kwargs: options for the Hub, as in `ActionHead.load_adapter`.

        Raises:
            HeadNotFoundError: there is no adapter at `path`.
            WeightFileError: the file is damaged.
            ValueError: the adapter has other settings, or was trained on another head.

        Examples:
            >>> import tempfile
            >>> from action_heads import ActionHead
            >>> from action_heads.adapters import AdaLNZero
            >>> policy = ActionHead.from_pretrained("dae/mlp-0.7m-fk").attach(AdaLNZero(cond_dim=512))
            >>> policy = policy.load_adapter(policy.save_adapter(tempfile.mkdtemp()))
        """
        adapter_file.load_into(self, self.load(self.head, path, **kwargs), path)
        return self

    @classmethod
    def load(cls, head: ActionHead, path: str | Path, **kwargs: Any) -> ConditionedHead:
        """Attach a saved adapter to a head; see `ActionHead.load_adapter`."""
        name = adapter_file.NAME
        return hub.load(path, lambda folder: adapter_file.load(head, folder / name), [name], **kwargs)[0]

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        *,
        head: ActionHead | str | Path | None = None,
        revision: str | None = None,
        dtype: torch.dtype | str | None = None,
        device: torch.device | str | None = None,
        **kwargs: Any,
    ) -> ConditionedHead:
        """Load an adapter and the head that it points to. A robot needs nothing else.

        If the head's folder was moved, the head is searched near the adapter by its name and fingerprint.

        Args:
            path: the adapter's folder, or its Hub id.
            head: the head, or its place, in place of the pointer.
            revision: branch, tag or commit of the adapter's repository.
            dtype: dtype of the head's weights, such as torch.bfloat16 or "bfloat16"; float32 if None. A head that is
                passed as a module keeps its own, and so its device. Of a reshaped head only the original is cast: its
                projections train, so it computes in float32, and `compile(dtype=...)` makes a faster copy to act.
            device: device of the policy; the CPU if None.
            **kwargs: options for the Hub, for both the adapter and the head: `cache_dir`, `token`, `local_files_only`,
                `force_download`.

        Raises:
            HeadNotFoundError: there is no adapter at `path`, or its head is not found.
            WeightFileError: a file is damaged.
            ValueError: the adapter was trained on another head than `head`, another release wrote a file, or `head` is
                a module of another dtype or on another device.

        Examples:
            >>> import tempfile
            >>> from action_heads import ActionHead, ConditionedHead
            >>> from action_heads.adapters import FiLM
            >>> policy = ActionHead.from_pretrained("dae/mlp-0.7m-fk").attach(FiLM(cond_dim=512))
            >>> folder = policy.save_adapter(tempfile.mkdtemp())
            >>> loaded = ConditionedHead.from_pretrained(folder, dtype="bfloat16")
        """
        from action_heads.pointer import load_head

        def read(folder: Path) -> ConditionedHead:
            file = folder / adapter_file.NAME
            pointer = adapter_file.read(file)[1]["head"]
            return adapter_file.load(load_head(pointer, file, head, dtype=dtype, device=device, **kwargs), file)

        return hub.load(path, read, [adapter_file.NAME], revision=revision, **kwargs)[0]

    def __repr__(self) -> str:
        return (
            f"ConditionedHead({self.head.config.name} + {type(self.adapter).__name__}, "
            f"cond_dim={self.adapter.config.cond_dim}: {self.num_frozen:,} frozen and {self.num_trainable:,} trainable "
            "parameters)"
        )
