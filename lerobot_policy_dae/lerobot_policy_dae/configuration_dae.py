"""`DAEConfig`: the flags of `--policy.type=dae`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from lerobot.configs import NormalizationMode, PreTrainedConfig
from lerobot.optim import AdamWConfig
from lerobot.optim.schedulers import CosineAnnealingWithWarmupSchedulerConfig

from action_heads._util.flags import called, check_choices, check_least
from action_heads.actions.layouts import UNDECLARED, ActionLayout, Undeclared
from action_heads.adapters.config import AdapterConfig
from action_heads.diffusion.levels import NoiseConfig
from action_heads.diffusion.samplers import SAMPLERS
from action_heads.encoders import TextConfig, VisionConfig
from action_heads.fit import FitConfig
from action_heads.modes import MODES
from action_heads.runtime.compiled import METHODS
from lerobot_policy_dae.heads import flag, horizon_of, spelled

FIT = FitConfig()
# What a checkpoint was made for: with other values its weights would mean nothing.
SHAPE = (
    *("head", "head_revision", "head_mode", "adapter", "hidden_dim", "through", "relearn_step"),
    *("n_obs_steps", "horizon", "action_layout", "gripper", "cameras", "state"),
)


# draccus calls the fields of a nested dataclass by two names. To keep the flags, those of one idea are a base class,
# which gives them to the shared dataclass that checks them. draccus finds help along single bases alone.


@dataclass
class AdapterFlags(PreTrainedConfig):
    """The adapter, as of `AdapterConfig`."""

    adapter: str = "adaln_zero"
    hidden_dim: int | None = None
    through: str | None = None
    relearn_step: bool = False

    @property
    def adapter_config(self) -> AdapterConfig:
        """The settings of the adapter, which `make` makes of the width of a condition."""
        with called(lambda name: spelled("adapter" if name == "mechanism" else name)):
            return AdapterConfig(self.adapter, 0, self.hidden_dim, self.relearn_step, self.through)


@dataclass
class NoiseFlags(AdapterFlags):
    """How training noises chunks, as of `NoiseConfig`."""

    levels: str = FIT.levels
    noise_samples: int = FIT.noise_samples
    prefixes: bool = FIT.prefixes

    @property
    def noise(self) -> NoiseConfig:
        """The settings of `ConditionedHead.loss`."""
        with called(spelled):
            return NoiseConfig(self.levels, self.noise_samples, self.prefixes)


@dataclass
class OptimizerFlags(NoiseFlags):
    """How a policy is optimised by LeRobot's trainer."""

    optimizer_lr: float = FIT.lr
    optimizer_encoder_lr: float = 3e-4
    optimizer_weight_decay: float = FIT.weight_decay
    optimizer_grad_clip_norm: float = FIT.clip
    scheduler_warmup_steps: int = FIT.warmup

    def get_optimizer_preset(self) -> AdamWConfig:
        return AdamWConfig(
            lr=self.optimizer_lr,
            weight_decay=self.optimizer_weight_decay,
            grad_clip_norm=self.optimizer_grad_clip_norm,
        )

    def get_scheduler_preset(self) -> CosineAnnealingWithWarmupSchedulerConfig:
        return CosineAnnealingWithWarmupSchedulerConfig(num_warmup_steps=self.scheduler_warmup_steps)


@PreTrainedConfig.register_subclass("dae")
@dataclass
class DAEConfig(OptimizerFlags):
    """A frozen action head, an adapter and an observation encoder.

    Attributes:
        head: a bundled name, a folder or a Hub id, with `head_revision` of the last.
        head_mode: "decoupled" (pretrained, frozen), "random-frozen" or "normal" (trains), both fresh by `head_seed`.
        adapter: "film", "adaln_zero", "adarmsnorm" and others; `hidden_dim`, `through` and `relearn_step` as of
            `action_heads.adapters.Adapter`.
        action_layout: what the columns of the dataset's action mean: see `action_heads.actions.layouts`.
        gripper: what the dataset writes for open and for closed. Given as a flag, it is a declaration and counts.
        canonical_rotations: write every decoded rotation by itself (w >= 0, angles up to pi), for a controller that
            refuses other numbers. They jump by a whole turn; otherwise each is written nearest to the one before it.
        n_obs_steps: observations that the policy sees, the last of them now.
        horizon: steps of a chunk; the head's if not given. Another one reshapes the head.
        n_action_steps: ticks until the next chunk.
        ensemble, warm_start: as of `action_heads.Executor`.
        sampler, num_inference_steps: of sampling.
        compile: how chunks are computed when acting: "auto", or another method of `ConditionedHead.compile`.
        levels, noise_samples, prefixes: of training, as of `ConditionedHead.loss`.
        cameras: keys of the images that the policy sees, all of the dataset's if not given; [] for none.
        state: whether it sees observation.state, and observation.environment_state as far as the next flag says.
        environment_state: whether it sees observation.environment_state, the poses of objects that only a simulation
            knows. If not given, a policy without cameras does, and one with cameras does not.
        vision, text: as of `action_heads.encoders`. Without `text` the task's description is not read.
        optimizer_lr, optimizer_encoder_lr: of adapter (and projections, and a head that trains), and of the encoder.
        built: what the policy was built as; written by it, so that reloading needs no other file.
        noise_step: batches that the policy was trained on; written by it, so that a resumed run draws on.
    """

    head: str = "dae/mlp-5m-fk"
    head_revision: str | None = None
    head_mode: str = "decoupled"
    head_seed: int = 0

    action_layout: str | None = None
    gripper: tuple[float, float] = UNDECLARED
    canonical_rotations: bool = False

    n_obs_steps: int = 2
    horizon: int | None = None
    n_action_steps: int = 8
    ensemble: float | None = None
    warm_start: float | None = None
    sampler: str = "ddim"
    num_inference_steps: int | None = None
    compile: str | None = None

    cameras: list[str] | None = None
    state: bool = True
    environment_state: bool | None = None
    vision: VisionConfig = field(default_factory=VisionConfig)
    text: TextConfig | None = None

    normalization_mapping: dict[str, NormalizationMode] = field(
        default_factory=lambda: {
            "VISUAL": NormalizationMode.IDENTITY,
            "STATE": NormalizationMode.MEAN_STD,
            "ENV": NormalizationMode.MEAN_STD,
            "ACTION": NormalizationMode.IDENTITY,
        }
    )

    built: dict[str, Any] | None = None
    noise_step: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.gripper, Undeclared):
            opened, closed = self.gripper
            self.gripper = (opened, closed)  # JSON brings a list
        with called(spelled):
            check_choices(self, head_mode=MODES, sampler=SAMPLERS)
            check_least(self, 1, "n_obs_steps", "n_action_steps")
        self.adapter_config  # noqa: B018 - its own checks
        self.noise  # noqa: B018
        if self.compile not in (None, "auto", *METHODS):
            raise ValueError(f"--policy.compile={self.compile!r} is unknown; choose one of auto, {', '.join(METHODS)}")
        if self.action_layout is not None:
            with flag("action_layout", "gripper"):
                ActionLayout.parse(self.action_layout, self.gripper)
        if self.normalization_mapping.get("ACTION", NormalizationMode.IDENTITY) is not NormalizationMode.IDENTITY:
            raise ValueError(
                "--policy.normalization_mapping: ACTION must be IDENTITY, since the head normalises actions itself"
            )

    def chunk(self) -> int:
        """Steps of a chunk; looks at the head's config file if no flag says it."""
        horizon = self.horizon or horizon_of(self)
        if self.n_action_steps > horizon:
            raise ValueError(
                f"--policy.n_action_steps={self.n_action_steps} is more than a chunk has, {horizon}: lower it, or set "
                "--policy.horizon"
            )
        return horizon

    @property
    def observation_delta_indices(self) -> list[int]:
        return list(range(1 - self.n_obs_steps, 1))

    @property
    def action_delta_indices(self) -> list[int]:
        return list(range(self.chunk()))

    @property
    def reward_delta_indices(self) -> None:
        return None

    def validate_features(self) -> None:
        """What the policy needs of a dataset, by the flag that asks for it."""
        if absent := [camera for camera in self.cameras or [] if camera not in self.image_features]:
            raise ValueError(
                f"--policy.cameras names {', '.join(absent)}; the images here are "
                f"{', '.join(self.image_features) or 'none'}: choose among them, or --rename_map them"
            )
        used = list(self.image_features) if self.cameras is None else self.cameras
        if not used and not (self.state and self.state_features) and self.text is None:
            raise ValueError(
                "nothing is observed: the dataset needs images (--policy.cameras), or observation.state "
                "(--policy.state=true), or the policy a text encoder (--policy.text.model)"
            )

    @property
    def state_features(self) -> dict[str, int]:
        """Width of every column of numbers that the policy sees, in order."""
        found = {"observation.state": self.robot_state_feature, "observation.environment_state": self.env_state_feature}
        return {key: feature.shape[0] for key, feature in found.items() if feature is not None}

    def shape(self) -> dict[str, Any]:
        """The flags that a checkpoint's weights depend on, as plain JSON."""
        values = {name: getattr(self, name) for name in SHAPE}
        return values | {"gripper": list(self.gripper)}

    def check_unchanged(self) -> None:
        """A checkpoint is what it was trained as: a flag that says otherwise is an error, not ignored."""
        assert self.built is not None
        saved, given = self.built["flags"], self.shape()
        if changed := [name for name in SHAPE if saved[name] != given[name]]:
            raise ValueError(
                "; ".join(
                    f"--policy.{name}={given[name]!r}, but the checkpoint has {saved[name]!r}" for name in changed
                )
                + ": leave it out, or train anew with --policy.type=dae"
            )
