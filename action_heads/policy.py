"""`ConditionedHead`: a frozen head and one trainable adapter, which together are a policy.

Axes: b batch, h horizon, a action, c condition, n tokens.
"""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from action_heads import adapter_file
from action_heads._util.checks import check_count, check_generator, check_pad
from action_heads._util.conditions import Condition, Mask, on_host, parts
from action_heads.acting import Policy
from action_heads.actions.normalize import Normalizer, check_units
from action_heads.adapters import Adapter
from action_heads.card import adapter_card
from action_heads.diffusion import continuing
from action_heads.diffusion.loss import Noise, denoising_loss
from action_heads.frozen import thawed
from action_heads.head import ActionHead
from action_heads.io import files, hub


class ConditionedHead(Policy):
    """What `ActionHead.attach` returns: `loss` to train the adapter, `sample` to act.

    Only the adapter's parameters train. If the head is not frozen (Stage 1, or normal training as a control), it
    trains along.
    """

    head: ActionHead  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(self, head: ActionHead, adapter: Adapter, normalizer: Normalizer | None = None):
        if adapter.is_built:
            raise ValueError(
                "this adapter is attached to a head already: attach a fresh one, or move its weights with "
                "policy.save_adapter(folder) and head.load_adapter(folder)"
            )
        if normalizer is not None and len(normalizer.scale) != head.config.space.dim:
            raise ValueError(
                f"the normalizer has {len(normalizer.scale)} dimensions, the head's actions {head.config.space.dim}: "
                "fit it with Normalizer.fit(actions, head.config.space)"
            )
        own = head.modulation_of(adapter.name)
        head.build(adapter)
        if adapter.config.relearn_step:
            adapter.step = thawed(own).float()
        for name, other in head.modulation.items():
            if name != adapter.name and not head.frozen:  # not computed with here, so not trained here
                other.requires_grad_(False)
        super().__init__(head, adapter.to(head.device))
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
    ) -> Tensor:
        """Denoising loss, a scalar: the mean squared error of the prediction at a random noise level a row.

        Shapes are always checked, and that a frozen head is what it was. NaNs and units are looked for in every call on
        a CPU, in the first on an accelerator.

        Args:
            actions: chunks (b h a) in robot units.
            cond: (b, c), or tokens (b, n, c); a dict of them for an adapter of several sources.
            mask: (b, n), true where a token counts; a dict for several sources.
            is_pad: (b, h), true where an action is padding and must not count.
            generator: for the noise and its level.
            levels: how levels are drawn: "uniform", "logit_normal" (the middle), "beta" (the noisier) or "last".
            noise_samples: how often each chunk is noised; its condition is read once.
            prefixes: show the first steps of half of the chunks clean, as `sample` does with committed ones, and count
                the others alone. On backbones that mix time.
        """
        self.head.assert_frozen()
        look = self._look(actions, "loss")
        check_generator(generator)
        self.head.config.space.validate(actions, self.head.config.horizon, values=look)
        self.check_cond(cond, mask, look)
        if len(actions) != (rows := len(parts(cond)[0])):
            raise ValueError(f"{len(actions)} action chunks came with {rows} conditions: the batch sizes must agree")
        objective = self.head.objective
        x0 = self.normalizer.normalize(actions.float())
        if look:
            check_units(x0, objective.config.clip, self.head.config.space)
        x0 = torch.cat([x0] * check_count("noise_samples", noise_samples))
        t = objective.random_steps((len(x0), 1), generator, levels)
        noise = objective.random_noise(x0.shape, generator)
        pad = clean = None
        if is_pad is not None:
            check_pad(is_pad, *actions.shape[:2], values=look)
            pad = torch.cat([is_pad] * noise_samples)
        if prefixes:
            clean = continuing.random_prefixes(self.head, x0.shape, generator)
            if continuing.takes_levels_per_step(self.head, self.modulation):
                t = t.masked_fill(clean, 0)
        values = self.step_values(t) + torch.cat([self.modulate(cond, mask)] * noise_samples)
        loss = denoising_loss(self.head, x0, Noise(t, noise, clean), values, self.modulation, pad)
        # A batch of padding alone is an error; where saying so would wait for an accelerator, NaN says it.
        return loss if look or is_pad is None else loss.masked_fill(is_pad.all(), torch.nan)

    # accelerate and DDP wrap `forward`, and what they are to synchronise is the loss
    forward = loss

    def _look(self, tensor: Tensor, call: str) -> bool:
        """Whether to look for NaNs and odd units in training: an accelerator would wait, so there the first time."""
        if torch.compiler.is_compiling():
            return False
        look = on_host(tensor) or call not in self._looked_at
        self._looked_at.add(call)
        return look

    # ── files ────────────────────────────────────────────────────────────────────────────────────────────────────

    def save_adapter(self, folder: str | Path) -> Path:
        """Write adapter.safetensors: the adapter alone, with a pointer to its head (place, revision, fingerprint).

        With it go the policy's own statistics, and the projections of a reshaped head.
        """
        return adapter_file.save(self, Path(folder))

    def push_adapter(self, repo_id: str, **kwargs) -> str:
        """Publish the adapter as a model repository of its own; options as in `action_heads.io.hub.push`."""
        path = self.head.pointer()["path"]
        if path is None or Path(path).is_dir():
            raise ValueError(f"the head is only here ({path or 'in memory'}): publish it first with head.push_to_hub")
        with tempfile.TemporaryDirectory() as folder:
            self.save_adapter(folder)
            files.write_text(Path(folder) / "README.md", adapter_card(self, repo_id))
            return hub.push(folder, repo_id, **kwargs)

    def load_adapter(self, path: str | Path, **kwargs) -> ConditionedHead:
        """Load weights saved by `save_adapter` into this policy: a folder, or a Hub id. All or nothing."""
        adapter_file.load_into(self, self.load(self.head, path, **kwargs), path)
        return self

    @classmethod
    def load(cls, head: ActionHead, path: str | Path, **kwargs) -> ConditionedHead:
        """A new policy from a head and a saved adapter; see `ActionHead.load_adapter`."""
        names = [adapter_file.NAME]
        return hub.load(path, lambda folder: adapter_file.load(head, folder / names[0]), names, **kwargs)[0]

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        *,
        head: ActionHead | str | Path | None = None,
        revision: str | None = None,
        dtype: torch.dtype | str = torch.float32,
        device: torch.device | str = "cpu",
        **kwargs,
    ) -> ConditionedHead:
        """Load an adapter and the head it points to; for a robot, which needs nothing else.

        A head that was moved is found near the adapter, by its fingerprint, or is passed as `head`. `revision` is the
        adapter's; the other options (`cache_dir`, `token`, `local_files_only`, ...) are for both.
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
            f"cond_dim={self.adapter.config.cond_dim}: {self.num_frozen:,} frozen, {self.num_trainable:,} trainable)"
        )
