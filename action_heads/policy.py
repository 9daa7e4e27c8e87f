"""`ConditionedHead`: a frozen head and one trainable adapter, which together are a policy.

Axes: b batch, h horizon, a action, c condition, n tokens, l blocks, p modulation values of a block, T diffusion steps.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from action_heads import files, hub
from action_heads.adapters import ADAPTERS, Adapter
from action_heads.adapters.base import AdapterConfig
from action_heads.checks import check_condition, check_fingerprint, check_layout, check_pad
from action_heads.config import strict
from action_heads.head import ActionHead
from action_heads.normalize import Normalizer

VERSION = 1
FILES = ("adapter_config.json", "adapter.safetensors")


class ConditionedHead(nn.Module):
    """What `ActionHead.attach` returns: `loss` to train the adapter, `sample` to act.

    Only the adapter's parameters train. If the head is not frozen (Stage 1, or normal training as a control), it
    trains along.
    """

    table: Tensor | None

    def __init__(self, head: ActionHead, adapter: Adapter, normalizer: Normalizer | None = None):
        super().__init__()
        self.head = head
        device, dtype = head.objective.alpha.device, next(head.parameters()).dtype
        if not adapter.is_built:
            adapter.build(head.backbone)
            if adapter.config.relearn_step:
                adapter.step = copy.deepcopy(head.step_modulation[adapter.name]).requires_grad_(True)
        needed = (head.config.depth, adapter.values_per_block(head.backbone))
        if adapter.shape != needed:
            raise ValueError(
                f"the adapter was built for {adapter.shape[0]} blocks of {adapter.shape[1]} values; {head.config.name} "
                f"has {needed[0]} blocks of {needed[1]}: attach a fresh one"
            )
        self.adapter = adapter.to(device=device, dtype=dtype)
        self.own_normalizer = None if normalizer is None else normalizer.to(device)
        self.register_buffer("table", None, persistent=False)
        self._values_checked = False
        if head.frozen and not adapter.config.relearn_step:
            # Frozen for good, so f(t) of every diffusion step is computed once.
            with torch.no_grad():
                self.table = head.step_values(head.step_modulation[adapter.name])

    @property
    def normalizer(self) -> Normalizer:
        return self.head.normalizer if self.own_normalizer is None else self.own_normalizer

    # ── training ─────────────────────────────────────────────────────────────────────────────────────────────────

    def loss(
        self,
        actions: Tensor,
        cond: Tensor,
        *,
        mask: Tensor | None = None,
        is_pad: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Denoising loss, a scalar: the mean squared error of the prediction at a random noise level a row.

        Args:
            actions: chunks (b h a) in robot units.
            cond: (b, c), or tokens (b, n, c).
            mask: (b, n), true where a token counts.
            is_pad: (b, h), true where an action is padding and must not count.
            generator: for the noise and its level.
        """
        values = self._check_values(actions)
        self.head.config.space.validate(actions, self.head.config.horizon, values=values)
        self._check_cond(cond, mask, values, batch=len(actions))
        self.assert_frozen()
        objective = self.head.objective
        x0 = self.normalizer.normalize(actions.float())
        t = objective.random_steps((len(x0), 1), generator)
        noise = torch.randn(x0.shape, generator=generator, device=x0.device)
        modulation = self.step_values(t) + self.adapter(cond, mask)
        output = self.head.predict(objective.add_noise(x0, noise, t), modulation, type(self.adapter))
        error = (output - objective.target(x0, noise)).square().mean(-1)
        if is_pad is None:
            return error.mean()
        check_pad(is_pad, *error.shape)
        return error.masked_fill(is_pad, 0).sum() / (~is_pad).sum().clamp(min=1)

    # accelerate and DDP wrap `forward`, and what they are to synchronise is the loss
    forward = loss

    def step_values(self, t: Tensor | None = None) -> Tensor:
        """Modulation by the diffusion step at t (...), or at all steps -> (... or T, l, p).

        The head's, or the adapter's own if it relearns it.
        """
        if self.table is not None:
            return self.table if t is None else self.table[t]
        return self.head.step_values(self.adapter.step or self.head.step_modulation[self.adapter.name], t)

    def trainable_parameters(self) -> Iterator[nn.Parameter]:
        """For the optimiser: the adapter's parameters (and the head's, if it is not frozen)."""
        self.assert_frozen()
        return (p for p in self.parameters() if p.requires_grad)

    def assert_frozen(self) -> None:
        """A frozen head has no trainable weight and is in evaluation mode."""
        if self.head.frozen and (self.head.training or any(p.requires_grad for p in self.head.parameters())):
            raise RuntimeError(
                "a frozen head was made trainable behind its back: call head.freeze(), or build a new one"
            )

    def requires_grad_(self, requires_grad: bool = True) -> ConditionedHead:
        """As in torch, for the adapter; a frozen head stays frozen."""
        self.adapter.requires_grad_(requires_grad)
        self.head.requires_grad_(requires_grad)
        return self

    # ── acting ───────────────────────────────────────────────────────────────────────────────────────────────────

    @torch.no_grad()
    def sample(
        self,
        cond: Tensor,
        *,
        mask: Tensor | None = None,
        steps: int = 10,
        sampler: str = "ddim",
        generator: torch.Generator | None = None,
        **options,
    ) -> Tensor:
        """Action chunks (b h a) in robot units, for conditions (b, c) or tokens (b, n, c).

        Args:
            steps: network evaluations.
            sampler: "ddim" or "ddpm"; `options` are the sampler's own, such as spacing="leading".
            generator: makes the result reproducible.
        """
        self._check_cond(cond, mask, self._check_values(cond))
        modulation = self.adapter(cond, mask)
        x = self.head.denoise(
            self.step_values(),
            modulation,
            type(self.adapter),
            self.head.noise(len(cond), generator),
            self.head.plan(sampler, steps, **options),
            generator,
        )
        return self.normalizer.unnormalize(x)

    def _check_cond(self, cond: Tensor, mask: Tensor | None, values: bool, batch: int | None = None) -> None:
        check_condition(cond, mask, self.adapter.config.cond_dim, values)
        if batch not in (None, len(cond)):
            raise ValueError(f"{batch} action chunks came with {len(cond)} conditions: the batch sizes must agree")

    def _check_values(self, tensor: Tensor) -> bool:
        """Whether to look for NaNs: always on the CPU, on an accelerator only once, since looking waits for it."""
        if torch.compiler.is_compiling():
            return False
        look = tensor.device.type == "cpu" or not self._values_checked
        self._values_checked = True
        return look

    # ── files ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _adapter_state(self) -> dict[str, Tensor]:
        state = {f"adapter.{name}": tensor for name, tensor in self.adapter.state_dict().items()}
        if self.own_normalizer is not None:
            state |= {f"normalizer.{name}": tensor for name, tensor in self.own_normalizer.state_dict().items()}
        return state

    def save_adapter(self, folder: str | Path) -> Path:
        """Write the adapter alone, beside a pointer to its head: name, revision and fingerprint."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        state = self._adapter_state()
        config = {
            "version": VERSION,
            "adapter": self.adapter.settings(),
            "own_normalizer": self.own_normalizer is not None,
            "head": {"name": self.head.config.name, "fingerprint": self.head.fingerprint(), **self.head.source},
            "fingerprint": files.fingerprint(state),
        }
        files.save_tensors(state, folder / FILES[1])
        files.write_text(folder / FILES[0], json.dumps(config, indent=2, sort_keys=True) + "\n")
        return folder

    def push_adapter(self, repo_id: str, **kwargs) -> str:
        """Publish the adapter as a model repository of its own; options as in `action_heads.hub.push`."""
        from action_heads.card import adapter_card

        with tempfile.TemporaryDirectory() as folder:
            self.save_adapter(folder)
            files.write_text(Path(folder) / "README.md", adapter_card(self, repo_id))
            return hub.push(folder, repo_id, **kwargs)

    def load_adapter(self, path: str | Path, **kwargs) -> ConditionedHead:
        """Load weights saved by `save_adapter` into this policy: a folder, or a Hub id. All or nothing."""
        other = self.load(self.head, path, **kwargs)
        if other.adapter.config != self.adapter.config:
            raise ValueError(
                f"{path} holds {other.adapter.config}, this policy has {self.adapter.config}: "
                "use head.load_adapter(path) to build a policy from the file"
            )
        self.adapter.load_state_dict(other.adapter.state_dict())
        self.own_normalizer = other.own_normalizer
        return self

    @classmethod
    def load(cls, head: ActionHead, path: str | Path, **kwargs) -> ConditionedHead:
        """A new policy from a head and a saved adapter; see `ActionHead.load_adapter`."""
        folder = hub.find(path, files=FILES, **kwargs)
        config = read_config(folder)
        saved = config["head"]
        if saved["fingerprint"] != head.fingerprint():
            raise ValueError(
                f"the adapter in {folder} was trained on {saved['name']} with fingerprint {saved['fingerprint']}; "
                f"this head is {head.config.name} with fingerprint {head.fingerprint()}: load the one it was trained on"
            )
        adapter_config = strict(AdapterConfig, config["adapter"], "the adapter's config")
        if adapter_config.mechanism not in ADAPTERS:
            raise ValueError(f"unknown adapter {adapter_config.mechanism!r}; known are {', '.join(ADAPTERS)}")
        settings = dataclasses.asdict(adapter_config)
        adapter = ADAPTERS[settings.pop("mechanism")](**settings)
        normalizer = Normalizer.identity(head.config.space) if config["own_normalizer"] else None
        policy = head.attach(adapter, normalizer=normalizer)
        tensors, _ = files.load_tensors(folder / FILES[1])
        check_layout(tensors, policy._adapter_state(), folder / FILES[1])
        check_fingerprint(tensors, config["fingerprint"], folder / FILES[1])
        for prefix, module in (("adapter.", policy.adapter), ("normalizer.", policy.own_normalizer)):
            if module is not None:
                module.load_state_dict({k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)})
        return policy.eval()

    @classmethod
    def from_pretrained(cls, path: str | Path, *, dtype=torch.float32, device="cpu", **kwargs) -> ConditionedHead:
        """Load an adapter and the head it points to; for a robot, which needs nothing else."""
        source = read_config(hub.find(path, files=FILES, **kwargs))["head"]
        head = ActionHead.from_pretrained(source["path"], revision=source["revision"], dtype=dtype, device=device)
        return cls.load(head, path, **kwargs)

    # ── showing ──────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def num_frozen(self) -> int:
        """Frozen parameters that this policy computes with: the other adapters' step modulations do not count."""
        used: list[nn.Module] = [self.head.backbone]
        if not self.adapter.config.relearn_step:
            used.append(self.head.step_modulation[self.adapter.name])
        return sum(p.numel() for module in used for p in module.parameters() if not p.requires_grad)

    @property
    def num_trainable(self) -> int:
        return sum(p.numel() for p in self.parameters() if p.requires_grad)

    def __repr__(self) -> str:
        return (
            f"ConditionedHead({self.head.config.name} + {type(self.adapter).__name__}, "
            f"cond_dim={self.adapter.config.cond_dim}: {self.num_frozen:,} frozen, {self.num_trainable:,} trainable)"
        )


def read_config(folder: Path) -> dict:
    """adapter_config.json, checked for its version."""
    config = files.read_json(folder / FILES[0])
    if config.get("version") != VERSION:
        raise ValueError(
            f"{folder / FILES[0]} has version {config.get('version')!r} and this release reads version {VERSION}: "
            "upgrade with `pip install -U action-heads`, or save the adapter again"
        )
    expected = {"version", "adapter", "own_normalizer", "head", "fingerprint"}
    if config.keys() != expected:
        raise ValueError(f"{folder / FILES[0]} has keys {sorted(config)}, expected {sorted(expected)}")
    return config
