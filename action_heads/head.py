"""`ActionHead`: what is pretrained, published, loaded and frozen.

Axes: b batch, h horizon, a action, P modulation values of all sites, T diffusion steps.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn

from action_heads._util.checks import as_device, as_dtype, check_count, check_generator
from action_heads.actions.normalize import Normalizer
from action_heads.actions.spaces import ActionSpace
from action_heads.adapters import ADAPTERS, Adapter, check_adapter
from action_heads.backbones import BACKBONES
from action_heads.config import HeadConfig
from action_heads.diffusion import samplers
from action_heads.diffusion.continuing import Prefix
from action_heads.diffusion.objectives import Objective, noise_path
from action_heads.frozen import Freezable
from action_heads.io import files, hub
from action_heads.modulation import HeadModulation

if TYPE_CHECKING:
    from typing_extensions import Self

    from action_heads.policy import ConditionedHead

T = TypeVar("T", Tensor, samplers.Schedule)


def kept(tables: dict[Any, tuple[T, int]], key: Any, make: Callable[[], T]) -> T:
    """Return the table under a key; it is made if there is none yet, or if somebody wrote to it."""
    value, before = tables.get(key, (None, 0))
    if value is None or (not torch.compiler.is_compiling() and writes(value) != before):
        # No inference tensors, even if a table is first asked for while acting: training may use it later.
        with torch.inference_mode(False), torch.no_grad():
            value = make()
            tables[key] = value, writes(value)
    return value


def writes(table: Tensor | samplers.Schedule) -> int:
    """Return how often torch wrote to a table."""
    return sum(tensor._version for tensor in (table.tensors if isinstance(table, samplers.Schedule) else (table,)))


class ActionHead(Freezable):
    """A denoising backbone with its step modulation, objective, action space and statistics.

    Modulation is the sum W_t·f(t) + E·z(c) + W_c·f(c). W_t, from the diffusion step, and E, from a code
    of motion, are pretrained and belong to the head; z and W_c are an adapter's and start at zero, so that a head with
    a fresh adapter is the unconditional head.

    A new head is random and trainable, for Stage 1. `freeze` (and every `from_pretrained`) makes it a constant: no
    gradients, evaluation mode whatever `train()` says, and loading weights that differ in a single bit is an error.
    """

    def __init__(self, config: HeadConfig):
        super().__init__()
        self.config = config
        self.backbone = BACKBONES[config.backbone](
            action_dim=config.space.dim,
            horizon=config.horizon,
            width=config.width,
            depth=config.depth,
            expansion=config.expansion,
        )
        self.modulation = nn.ModuleDict(
            {name: HeadModulation(ADAPTERS[name], self.backbone, config.rank) for name in config.mechanisms}
        )
        self.objective = Objective(config.objective)
        self.normalizer = Normalizer.identity(config.space)
        # Where an adapter's pointer leads: filled when the head is loaded or published.
        self.source: dict[str, str | None] = {"path": None, "revision": None, "subfolder": None}
        self._fingerprint: str | None = None
        self._plans: dict[Any, tuple[samplers.Schedule, int]] = {}
        self._tables: dict[Any, tuple[Tensor, int]] = {}

    # ── the computation ──────────────────────────────────────────────────────────────────────────────────────────

    def step_values(self, modulation: HeadModulation, t: Tensor | None = None) -> Tensor:
        """W_t·f(t) at steps t (...), or at every diffusion step -> (... or T, P)."""
        steps = torch.arange(self.config.objective.train_steps, device=self.objective.alpha.device)
        return modulation(self.backbone.step(steps), steps if t is None else t)

    def step_table(self, mechanism: str) -> Tensor:
        """W_t·f(t) of a frozen head at every diffusion step (T, P), computed once."""
        modulation = self.modulation_of(mechanism)
        weight = modulation.expand.weight
        return kept(self._tables, (mechanism, weight.device, weight.dtype), lambda: self.step_values(modulation))

    def predict(self, x_t: Tensor, values: Tensor, modulation: HeadModulation) -> Tensor:
        """The objective's prediction (b h a) for a noisy chunk (b h a) under modulation values (b, 1 or h, P)."""
        dtype = next(self.backbone.out.parameters()).dtype
        return self.backbone(x_t.to(dtype), modulation.at_sites(values.to(dtype))).float()

    def denoise(
        self,
        table: Tensor,
        cond: Tensor | None,
        modulation: HeadModulation,
        noise: Tensor,
        plan: samplers.Schedule,
        generator: torch.Generator | None,
        prefix: Prefix | None = None,
    ) -> Tensor:
        """Run a sampler's plan from noise (b h a), under values by step (T P) and by condition (b, 1 or h, P).

        The network sees a prefix throughout; what it leads to is the rest of the chunk.
        """
        steps = table[plan.timesteps][:, None, None]
        if prefix:
            steps = prefix.step_values(table, steps, self.config.horizon)
        by_step = steps.unbind()  # views, made once: the loop itself only computes
        shares = self.objective.shares(plan.timesteps)

        def predict_x0(x: Tensor, i: int) -> Tensor:
            x = prefix.hold(x) if prefix else x
            values = by_step[i] if cond is None else by_step[i] + cond
            return self.objective.clean(self.predict(x, values, modulation), x, *shares[i])

        return samplers.run(plan, noise, predict_x0, lambda: self.noise(len(noise), generator))

    def plan(
        self, sampler: str, steps: int | None = None, spacing: str = "trailing", start: int | None = None
    ) -> samplers.Schedule:
        """A sampler's tables on this head's device, made once.

        `start`, for a chunk known in part, is the noisiest level: mix in noise as of the plan's `timesteps[0]`.
        """
        device = self.objective.alpha.device

        def make() -> samplers.Schedule:
            path = noise_path(self.config.objective)
            return samplers.schedule(sampler, path, steps, spacing=spacing, start=start).to(device)

        return kept(self._plans, (sampler, steps, spacing, start, device), make)

    def noise(self, batch: int, generator: torch.Generator | None = None) -> Tensor:
        """Where sampling starts: standard normal (b h a)."""
        return self.objective.random_noise((batch, self.config.horizon, self.config.space.dim), generator)

    @torch.no_grad()
    def sample(
        self,
        batch: int,
        *,
        mechanism: str | None = None,
        steps: int | None = None,
        sampler: str = "ddim",
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Unconditional chunks (b h a) in robot units: what the head knows of motion before it knows a task.

        Steps and samplers as in `ConditionedHead.sample`.
        """
        self.assert_frozen()
        check_count("batch", batch)
        check_generator(generator)
        modulation = self.modulation_of(mechanism or self.config.mechanisms[0])
        noise = self.noise(batch, generator)
        x = self.denoise(self.step_values(modulation), None, modulation, noise, self.plan(sampler, steps), generator)
        return self.normalizer.unnormalize(x)

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

    def modulation_of(self, mechanism: str) -> HeadModulation:
        """The head's own modulation for a mechanism; refuses one it was not pretrained for."""
        if mechanism not in self.modulation:
            raise ValueError(
                f"{self.config.name} was pretrained for {', '.join(self.modulation)}, not for {mechanism!r}: "
                "choose one of these adapters, or pretrain a head with that mechanism"
            )
        return self.modulation[mechanism]  # type: ignore[return-value]

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
