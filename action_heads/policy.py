"""`ConditionedHead`: a frozen head and one trainable adapter, which together are a policy.

Axes: b batch, h horizon, a action, c condition, n tokens, P modulation values of all sites, T diffusion steps.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from action_heads import adapter_file
from action_heads._util.checks import check_condition, check_count, check_generator, check_pad, check_units
from action_heads._util.conditions import Condition, Mask, parts
from action_heads.actions.normalize import Normalizer
from action_heads.adapters import Adapter
from action_heads.card import adapter_card
from action_heads.diffusion import continuing
from action_heads.diffusion.loss import Noise, denoising_loss
from action_heads.frozen import thawed
from action_heads.head import ActionHead
from action_heads.io import files, hub
from action_heads.modulation import HeadModulation

if TYPE_CHECKING:
    from action_heads.runtime.compiled import CompiledPolicy

CPU = torch.device("cpu")


def on_host(cond: Condition) -> bool:
    """Return whether looking at values waits for no accelerator; a compiler can't look at any."""
    return not torch.compiler.is_compiling() and all(getattr(part, "device", CPU) == CPU for part in parts(cond))


def is_capturing(tensor: Tensor) -> bool:
    """Return whether a CUDA graph is being recorded, in which nothing may wait."""
    return tensor.is_cuda and torch.cuda.is_current_stream_capturing()


class ConditionedHead(nn.Module):
    """What `ActionHead.attach` returns: `loss` to train the adapter, `sample` to act.

    Only the adapter's parameters train. If the head is not frozen (Stage 1, or normal training as a control), it
    trains along.
    """

    def __init__(self, head: ActionHead, adapter: Adapter, normalizer: Normalizer | None = None):
        super().__init__()
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
        device = head.objective.alpha.device
        self.head = head
        self.adapter = adapter.to(device)
        self.own_normalizer = None if normalizer is None else copy.deepcopy(normalizer).to(device)
        self._looked_at: set[str] = set()

    @property
    def modulation(self) -> HeadModulation:
        """By the diffusion step and by the code: the head's, or the adapter's own if it relearns it."""
        return self.adapter.step or self.head.modulation_of(self.adapter.name)  # type: ignore[return-value]

    @property
    def normalizer(self) -> Normalizer:
        return self.head.normalizer if self.own_normalizer is None else self.own_normalizer

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
        self._check_cond(cond, mask, look, batch=len(actions))
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

    def step_values(self, t: Tensor | None = None) -> Tensor:
        """Modulation by the diffusion step at t (...), or at all steps -> (... or T, P).

        The head's, or the adapter's own if it relearns it.
        """
        if self.head.frozen and self.adapter.step is None:
            table = self.head.step_table(self.adapter.name)
            return table if t is None else table[t]
        return self.head.step_values(self.modulation, t)

    def modulate(self, cond: Condition, mask: Mask = None) -> Tensor:
        """Modulation by the condition (b, 1 or h, P), through the code and through the adapter's own map."""
        return self.adapter(cond, mask, self.modulation.steer)

    def trainable_parameters(self) -> Iterator[nn.Parameter]:
        """For the optimiser: the adapter's parameters (and the head's, if it is not frozen)."""
        self.head.assert_frozen()
        return (p for p in self.parameters() if p.requires_grad)

    def requires_grad_(self, requires_grad: bool = True) -> ConditionedHead:
        """As in torch, for the adapter; a frozen head stays frozen."""
        self.adapter.requires_grad_(requires_grad)
        self.head.requires_grad_(requires_grad)
        return self

    # ── acting ───────────────────────────────────────────────────────────────────────────────────────────────────

    @torch.no_grad()
    def sample(
        self,
        cond: Condition,
        *,
        mask: Mask = None,
        steps: int | None = None,
        sampler: str = "ddim",
        spacing: str = "trailing",
        generator: torch.Generator | None = None,
        previous: Tensor | None = None,
        committed: int | None = None,
        start: float | None = None,
    ) -> Tensor:
        """Action chunks (b h a) in robot units, for conditions (b, c) or tokens (b, n, c).

        Every call checks that the condition and the chunk are finite and the frozen head is what it was.

        Args:
            steps: of the sampler, 10 if not given, 1 for "one_step". Each is one network evaluation; with "heun" two,
                and one for the last.
            sampler: "ddim" or "euler", which are the same; "ddpm", with fresh noise at each step; "dpmpp_2m" or "heun",
                of second order; "one_step", for heads and adapters trained where noise is high.
            spacing: which noise levels are visited: "trailing", or "leading" as in the paper's configuration.
            generator: makes the result reproducible.
            previous: (b, n, a), what is left of the last chunk in robot units: its first step is the new one's first.
            committed: so many of its steps are being executed; the new chunk begins with them and continues them
                (real-time chunking). On backbones that mix time, trained with `prefixes=True`.
            start: share of noise in (0, 1] to start from, over `previous` (warm start): fewer steps then do.
        """
        self.head.assert_frozen()
        self._check_cond(cond, mask, on_host(cond))
        check_generator(generator)
        if previous is None and (committed or start is not None):
            raise ValueError("committed and start continue a chunk: pass what is left of it as previous")
        head = self.head
        x = head.noise(len(parts(cond)[0]), generator)
        level = None if start is None else continuing.level_of(head, start)
        plan, prefix = head.plan(sampler, steps, spacing, level), None
        if previous is not None:
            committed = continuing.check_previous(previous, committed, start, x, on_host(previous))
            last = self.normalizer.normalize(previous.float())
            prefix = continuing.prefix(head, self.modulation, last, committed)
            x = x if start is None else continuing.begin(head, last, x, plan)
        values = self.modulate(cond, mask)
        x = head.denoise(self.step_values(), values, self.modulation, x, plan, generator, prefix)
        chunk = self.normalizer.unnormalize(x)
        if prefix and previous is not None:  # bit for bit what is being executed
            chunk[:, :committed] = previous[:, :committed]
        self._assert_finite(chunk, values, cond, mask)
        return chunk

    def _assert_finite(self, chunk: Tensor, values: Tensor, cond: Condition, mask: Mask) -> None:
        """Raise if a chunk must not reach a robot. On an accelerator this waits for it, as whoever acts does anyway.

        Modulation values (b, 1 or h, P) are looked at too: sampling clips, which makes a number of an infinity.
        """
        if torch.compiler.is_compiling() or is_capturing(chunk) or (chunk.isfinite().all() & values.isfinite().all()):
            return
        self._check_cond(cond, mask, values=True)
        raise ValueError(
            "the policy made NaN or infinite actions of a finite condition: the adapter's weights are damaged or its "
            "training diverged; load an earlier checkpoint"
        )

    def compile(self, method: str = "auto", *, dtype: torch.dtype | None = None) -> CompiledPolicy:  # pyright: ignore
        """The same policy with its frozen head compiled for its device: the same `sample`, the same chunks, sooner.

        `.compiled` says what was chosen, and what stood in the way of more. The adapter is shared, and may learn on.

        Args:
            method: "auto"; "native" (CPU, our own C++, compiled in 2 s); "packed" (CPU, no compiler); "inductor" (a C++
                compiler and minutes); "graph" (CUDA).
            dtype: of the head's network, torch.bfloat16 or torch.float32; the head's own if not given.
        """
        from action_heads.runtime.compiled import compile_policy

        return compile_policy(self, method, dtype)

    def _check_cond(self, cond: Condition, mask: Mask, values: bool, batch: int | None = None) -> None:
        check_condition(cond, mask, self.adapter.config.cond_dim, values)
        if batch not in (None, len(parts(cond)[0])):
            raise ValueError(
                f"{batch} action chunks came with {len(parts(cond)[0])} conditions: the batch sizes must agree"
            )

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

    # ── showing ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _used_parameters(self) -> list[nn.Parameter]:
        """What this policy computes with: the step modulations of other adapters are not."""
        return list({p for module in (self.head.backbone, self.modulation, self.adapter) for p in module.parameters()})

    @property
    def num_frozen(self) -> int:
        return sum(p.numel() for p in self._used_parameters() if not p.requires_grad)

    @property
    def num_trainable(self) -> int:
        return sum(p.numel() for p in self._used_parameters() if p.requires_grad)

    def __repr__(self) -> str:
        return (
            f"ConditionedHead({self.head.config.name} + {type(self.adapter).__name__}, "
            f"cond_dim={self.adapter.config.cond_dim}: {self.num_frozen:,} frozen, {self.num_trainable:,} trainable)"
        )
