"""`DAEConfig`: the flags of `--policy.type=dae`."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lerobot.configs import NormalizationMode, PreTrainedConfig
from lerobot.utils.constants import OBS_ENV_STATE

from action_heads._util.flags import called, check_choices, check_least, check_unset
from action_heads.actions.layout_checks import UNDECLARED, Undeclared
from action_heads.actions.layouts import ActionLayout
from action_heads.diffusion.samplers import SAMPLERS
from action_heads.encoders import ObservationConfig
from action_heads.io import files
from action_heads.modes import MODES
from action_heads.runtime.compiled import METHODS
from lerobot_policy_dae.flags import EncoderFlags
from lerobot_policy_dae.heads import flag, horizon_of, spelled

REFRESH = ("vlm_refresh", "vlm_max_age")
NEWER = ("vlm", *REFRESH, "remember")  # fields that older releases do not know
# The fields that give a checkpoint's weights their meaning. They can't change after training.
SHAPE = (
    *("head", "head_revision", "head_mode", "adapter", "hidden_dim", "through", "relearn_step"),
    *("n_obs_steps", "horizon", "action_layout", "gripper", "cameras", "state"),
    *("head_seed", "environment_state", "normalization_mapping"),  # not recorded by older releases
)


@PreTrainedConfig.register_subclass("dae")
@dataclass
class DAEConfig(EncoderFlags):
    """The settings of a policy: a frozen action head, an adapter and an observation encoder.

    Each field is a flag, `--policy.<field>`. LeRobot prints the text below a field as its help.

    Examples:
        >>> config = DAEConfig(head="dae/mixer-5m-fk-delta", action_layout="libero", hidden_dim=64)
        >>> config.adapter_config.mechanism
        'adaln_zero'
    """

    head: str = "dae/mixer-5m-fk"
    """Bundled name, folder or Hub id of the pretrained head."""
    head_revision: str | None = None
    """Revision of the head on the Hub: a branch, tag or commit."""
    head_mode: str = "decoupled"
    """Decoupled (pretrained and frozen), random-frozen, or normal (a fresh head that trains along)."""
    head_seed: int = 0
    """Seed of a fresh head, for head_mode random-frozen and normal."""

    action_layout: str | None = None
    """Meaning of the dataset's action columns, such as pose_6d, libero or joints_6; None: by their names."""
    gripper: tuple[float, float] = UNDECLARED
    """Two values that the dataset writes for an open and for a closed gripper."""
    canonical_rotations: bool = False
    """Decode each rotation by itself (w >= 0, angles up to pi), which may jump by a whole turn."""

    n_obs_steps: int = 2
    """Number of observations that the policy sees; the last one is the present."""
    horizon: int | None = None
    """Time steps of a chunk; None for the head's own, another value reshapes the head."""
    n_action_steps: int = 8
    """Ticks until the next chunk is made."""
    ensemble: float | None = None
    """Rate of temporal ensembling, such as 0.01; None to use the newest chunk alone."""
    warm_start: float | None = None
    """Share of noise, in (0, 1], at which a chunk starts from the previous one; None for pure noise."""
    sampler: str = "ddim"
    """Sampler of chunks: ddim, ddpm, dpmpp_2m, euler, heun or one_step."""
    num_inference_steps: int | None = None
    """Denoising steps of a chunk; None for the sampler's default."""
    compile: str | None = None
    """Method of computing actions: auto, native, packed, inductor, graph, fused or eager; None: not compiled."""

    cameras: list[str] | None = None
    """Keys of the images that the policy sees; None for all of the dataset's, [] for none."""
    state: bool = True
    """Let the policy see observation.state."""
    environment_state: bool | None = None
    """Let it see observation.environment_state; None: only if there are no cameras."""

    # LeRobot's normalisation by kind of feature; ACTION must be IDENTITY, since the head normalises actions itself.
    normalization_mapping: dict[str, NormalizationMode] = field(
        default_factory=lambda: {
            "VISUAL": NormalizationMode.IDENTITY,
            "STATE": NormalizationMode.MEAN_STD,
            "ENV": NormalizationMode.MEAN_STD,
            "ACTION": NormalizationMode.IDENTITY,
        }
    )

    built: dict[str, Any] | None = None
    """Record of the parts that the policy was built from; the policy writes it, do not set it."""
    noise_step: int = 0
    """Number of training batches so far; the policy writes it, do not set it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.gripper, Undeclared):
            opened, closed = self.gripper
            self.gripper = (opened, closed)  # JSON brings a list
        with called(spelled):
            check_choices(self, head_mode=MODES, sampler=SAMPLERS)
            check_least(self, 1, "n_obs_steps", "n_action_steps")
            check_least(self, 0, "optimizer_lr", "optimizer_encoder_lr", "optimizer_weight_decay")
            check_least(self, 0, "optimizer_grad_clip_norm", "scheduler_warmup_steps")
            if self.vlm is None:
                check_unset(self, "no VLM is given. Name one with --policy.vlm.model", *REFRESH)
            elif self.vlm_refresh is None:
                check_unset(self, "no refresh is given. Set it with --policy.vlm_refresh", "vlm_max_age")
        self.adapter_config  # noqa: B018 - its own checks
        self.noise  # noqa: B018
        if self.compile not in (None, "auto", *METHODS):
            raise ValueError(f"--policy.compile={self.compile!r} is unknown; choose one of auto, {', '.join(METHODS)}")
        if self.action_layout is not None:
            with flag("action_layout", "gripper"):
                ActionLayout.parse(self.action_layout, self.gripper)
        if self.normalization_mapping.get("ACTION", NormalizationMode.IDENTITY) is not NormalizationMode.IDENTITY:
            raise ValueError(
                "--policy.normalization_mapping must map ACTION to IDENTITY, since the head normalises actions itself"
            )

    def _save_pretrained(self, save_directory: Path) -> None:
        """Write config.json as LeRobot does, but no newer fields at their defaults, so that older releases read it."""
        super()._save_pretrained(save_directory)
        path = Path(save_directory) / "config.json"
        values = files.read_json(path)
        unset = {name for name in NEWER if values[name] == getattr(DAEConfig, name)}
        kept = {name: value for name, value in values.items() if name not in unset}
        if kept != values:
            files.write_text(path, json.dumps(kept, indent=4))

    def chunk(self) -> int:
        """Return the time steps of a chunk, read from the head's config file if no flag gives them."""
        horizon = self.horizon or horizon_of(self)
        if self.n_action_steps > horizon:
            raise ValueError(
                f"--policy.n_action_steps={self.n_action_steps} is more than the {horizon} time steps of a chunk. "
                "Lower it, or set a larger --policy.horizon."
            )
        return horizon

    @property
    def chunk_size(self) -> int:
        """The time steps of a chunk, by the name that LeRobot's sample weighting reads."""
        return self.chunk()

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
        """Raise a ValueError unless the dataset has what the flags ask for."""
        if absent := [camera for camera in self.cameras or [] if camera not in self.image_features]:
            raise ValueError(
                f"--policy.cameras names {', '.join(absent)}, but the dataset's images are "
                f"{', '.join(self.image_features) or 'none'}. Choose among them, or rename them with --rename_map."
            )
        used = list(self.image_features) if self.cameras is None else self.cameras
        if not used and not (self.state and self.state_features) and self.text is None and self.vlm is None:
            raise ValueError(
                "The policy has no observations. Use a dataset with images (--policy.cameras) or with "
                "observation.state (--policy.state=true), or give the policy a text encoder (--policy.text.model)."
            )

    def check_effective(self, layout: ActionLayout) -> None:
        """Raise a ValueError if a flag of a new policy has no effect beside the others or for this layout."""
        with called(spelled):
            if not any(part.kind == "gripper" for part in layout.parts):
                check_unset(self, f"the layout '{layout}' has no gripper. Leave it out", "gripper")
            if layout.mode != "absolute" or all(part.form in ("", "6d") for part in layout.parts):
                why = f"no rotation of the layout '{layout}' can be written in two ways. Leave it out"
                check_unset(self, why, "canonical_rotations")
            if self.head_mode == "decoupled":
                check_unset(self, "the head is the pretrained one. Leave it out, or set head_mode", "head_seed")
            if not self.state and self.environment_state:
                check_unset(self, "the policy sees no state. Leave it out, or set state", "environment_state")
            if self.environment_state and OBS_ENV_STATE not in (self.input_features or {}):
                check_unset(self, f"the dataset has no {OBS_ENV_STATE}. Leave it out", "environment_state")

    @property
    def state_features(self) -> dict[str, int]:
        """The width of each state column that the policy sees, in order."""
        found = {"observation.state": self.robot_state_feature, "observation.environment_state": self.env_state_feature}
        return {key: feature.shape[0] for key, feature in found.items() if feature is not None}

    def shape(self) -> dict[str, Any]:
        """Return the flags that a checkpoint's weights depend on, ready for JSON."""
        values = {name: getattr(self, name) for name in SHAPE}
        modes = {kind: mode.value for kind, mode in self.normalization_mapping.items()}
        return values | {"gripper": list(self.gripper), "normalization_mapping": modes}

    def check_unchanged(self) -> None:
        """Raise a ValueError if a flag differs from what the checkpoint was trained with."""
        assert self.built is not None
        encoder = ObservationConfig.from_dict(self.built["encoder"]["config"])
        saved = self.built["flags"] | encoder_flags(encoder)
        given = self.shape() | encoder_flags(self)
        if self.vlm is not None and encoder.vlm is not None:
            for name in ("vlm.model", "vlm.revision"):  # It may be in another place; its weights are compared.
                del saved[name]
        if changed := [name for name in saved if name in given and saved[name] != given[name]]:
            raise ValueError(
                "; ".join(
                    f"--policy.{name}={given[name]!r}, but the checkpoint has {saved[name]!r}" for name in changed
                )
                + ". Leave the flag out, or train a new policy with --policy.type=dae."
            )


def encoder_flags(config: DAEConfig | ObservationConfig) -> dict[str, Any]:
    """Return the settings of the encoder's networks by flag, such as "vision.crop". One that is absent has no model."""
    parts = {"vision": config.vision, "text": config.text, "vlm": config.vlm}
    values = {part: {"model": None} if of is None else asdict(of) for part, of in parts.items()}
    return {f"{part}.{name}": value for part, fields in values.items() for name, value in fields.items()}
