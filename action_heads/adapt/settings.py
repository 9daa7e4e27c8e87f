"""What decides a run of Stage 2: one frozen, validated dataclass of small ones, which is also the command line."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from action_heads._util.flags import (
    FlagError,
    Shown,
    about,
    check_choices,
    check_least,
    check_positive,
    flag,
    mistake,
)
from action_heads._util.flat import Settings
from action_heads.actions.layouts import UNDECLARED, ActionLayout
from action_heads.adapters.config import AdapterConfig
from action_heads.data.spec import Spec
from action_heads.diffusion.levels import NoiseConfig
from action_heads.diffusion.samplers import SAMPLERS
from action_heads.encoders import ObservationConfig, TextConfig, VisionConfig
from action_heads.fit import PRECISIONS
from action_heads.modes import MODES
from action_heads.training.optimiser import OptimiserConfig

__all__ = ["AdaptConfig", "FlagError", "flag"]

KINDS = ("lerobot", "robomimic")  # what has observations
ADAPTER = {"mechanism": "adapter", "hidden_dim": "hidden", "cond_dim": None, "pool": None, "per_step": None}  # as flags
OPTIONS = ("revision", "tolerance_s", "filter_key", "recorded_hz", "short", "bad")  # of recordings, in this stage too


@dataclass(frozen=True)
class Columns:
    """The actions of a recording, and the chunks that are made of them.

    Attributes:
        action: the column of actions.
        action_layout: what its columns mean, such as pose_6d, libero or joints_6: docs/guides/lerobot.md.
        gripper: what the recording writes for open and for closed.
        horizon: steps of a chunk; another than the head's reshapes it.
    """

    action: Annotated[str | None, Shown("action or actions")] = None
    action_layout: Annotated[str | None, Shown("by the names, if they leave no doubt")] = None
    gripper: tuple[float, float] = UNDECLARED
    horizon: Annotated[int | None, Shown("the head's", "INT")] = None

    def __post_init__(self):
        if self.action_layout is not None:
            with about("action_layout", "gripper"):
                ActionLayout.parse(self.action_layout, self.gripper)


@dataclass(frozen=True)
class Vision:
    """The network that reads images, as `VisionConfig` has it, or none.

    Attributes:
        encoder: resnet18, resnet50, any transformers vision model, or none: states alone.
        train_encoder: trained or frozen.
        weights: of a ResNet: imagenet, or none.
        features: numbers per camera and observation.
        pool: of a transformer's tokens: mean or cls.
        resize: pixels (height width) that pictures are brought to.
        crop: pixels (height width) cut out: anywhere in training, the centre in acting.
        jitter: brightness, contrast and saturation vary by factors within 1 ± jitter.
        shared: one network for all cameras, or one each.
    """

    encoder: str = "resnet18"
    train_encoder: str = "trained"
    weights: Annotated[str | None, Shown("none")] = None
    features: int = 64
    pool: str = "mean"
    resize: Annotated[tuple[int, int] | None, Shown("as they are", "H W")] = None
    crop: Annotated[tuple[int, int] | None, Shown("none", "H W")] = None
    jitter: float = 0.0
    shared: bool = False

    def __post_init__(self):
        check_choices(self, train_encoder=("trained", "frozen"))
        self.config  # noqa: B018 - its own checks

    @property
    def config(self) -> VisionConfig | None:
        """The pathway of a camera; None without cameras."""
        if self.encoder == "none":
            return None
        values = {name: value for name, value in vars(self).items() if name not in ("encoder", "train_encoder")}
        with about("encoder", "weights", "features", "resize", "crop"):
            return VisionConfig(self.encoder, train=self.train_encoder == "trained", **values)


@dataclass(frozen=True)
class Text:
    """The network that reads the task's description, or none.

    Attributes:
        model: a transformers text model that reads the task's description, such as distilbert-base-uncased.
        features: numbers that a trained map makes of its vector; the vector itself if not given.
    """

    model: Annotated[str | None, Shown("none")] = None
    features: Annotated[int | None, Shown("none", "INT")] = None

    def __post_init__(self):
        self.config  # noqa: B018 - its own checks

    @property
    def config(self) -> TextConfig | None:
        """The sentence encoder."""
        with about("model", "features"):
            return TextConfig(self.model, features=self.features) if self.model else None


@dataclass(frozen=True)
class Optimiser(OptimiserConfig):
    """How Stage 2 is optimised.

    Attributes:
        lr: of adapter, projections and a head that trains, at its peak.
        ema: largest decay of the weights' average, the later policy.
        encoder_lr: of the encoder, at its peak.
        weight_decay: of AdamW.
    """

    batch_size: int = 64
    lr: float = 2.5e-3
    warmup: int = 100
    encoder_lr: float = 3e-4
    weight_decay: float = 1e-6

    def __post_init__(self):
        super().__post_init__()
        check_positive(self, "encoder_lr")


@dataclass(frozen=True)
class Rollout:
    """What is tried of the finished policy in a simulation.

    Attributes:
        task: roll out in this task of the simulation afterwards, such as Lift.
        episodes: to roll out, from seeds 0, 1, 2 ...
        film: so many of them, into rollouts.mp4.
        execute: actions of a chunk that are carried out.
        sampler: of rollouts.
        sampling_steps: of rollouts; the sampler's own number if not given.
        simulations: processes of simulation.
    """

    task: Annotated[str | None, Shown("none")] = None
    episodes: int = 50
    film: int = 4
    execute: int = 8
    sampler: str = "ddim"
    sampling_steps: Annotated[int | None, Shown("the sampler's", "INT")] = None
    simulations: Annotated[int | None, Shown("one a core", "INT")] = None

    def __post_init__(self):
        check_choices(self, sampler=SAMPLERS)
        check_least(self, 1, "execute", "episodes", "simulations")
        check_least(self, 0, "film")


@dataclass(frozen=True)
class AdaptConfig(Settings):
    """Stage 2: teach a frozen head a task, from a recording with images or of states alone.

    Attributes:
        data: lerobot:FOLDER_OR_REPO or robomimic:FILE.hdf5.
        out: folder of the policy, and of the state to go on from.
        head: a bundled name, a folder or a Hub id.
        mode: decoupled (the head as it is), random-frozen or normal: the paper's controls.
        blind: hide the pictures, or without cameras the state, in training and in rollouts: a control.
        start_from: folder of a run whose weights to begin with; with its statistics.
        cameras: which to see; all if not given.
        state: columns of numbers to see, such as observation.state[0:7]; none for none.
        observation_steps: how many observations the policy sees, the last of them now.
        precision: fp32, bf16, or auto: bf16 where it is faster.
        seed: of weights, batches, noise and crops.
        held_out: share of episodes to look at the loss of, never trained on.
        save_every: steps between saved states and held-out losses.
        checkpoints: so many evenly spaced points of training whose policies are kept, all but the last in checkpoints/.
        workers: processes that read and decode ahead; 0 for none.
    """

    data: Annotated[str, Shown("none: it is needed", "SOURCE")] = ""
    out: Path = Path("runs/adapt")
    head: str = "dae/mlp-5m-fk"
    mode: str = "decoupled"
    blind: bool = False
    adapter: AdapterConfig = field(default=AdapterConfig("adaln_zero"), metadata=ADAPTER)
    start_from: Annotated[Path | None, Shown("none", "DIR")] = None
    actions: Columns = field(default=Columns())
    cameras: Annotated[tuple[str, ...], Shown("all", "NAMES")] = ()
    state: Annotated[tuple[str, ...], Shown("the robot's own; without cameras, everything", "COLUMNS")] = ()
    observation_steps: int = 2
    vision: Vision = field(default=Vision())
    text: Text = field(default=Text(), metadata={"model": "text", "features": "text_features"})
    optimiser: Optimiser = field(default=Optimiser())
    noise: NoiseConfig = field(default=NoiseConfig())
    precision: str = "auto"
    seed: int = 0
    held_out: float = 0.05
    save_every: int = 1000
    checkpoints: int = 1
    workers: int = 2
    rollout: Rollout = field(default=Rollout())

    # Where things go, when they are saved, and what is done afterwards: nothing that a weight depends on.
    WEIGHTLESS = ("out", "save_every", "workers", "checkpoints", *vars(Rollout()))

    def __post_init__(self):
        if self.data:
            self.spec  # noqa: B018 - its own checks
        check_choices(self, mode=MODES, precision=PRECISIONS)
        check_least(self, 1, "save_every", "observation_steps", "checkpoints")
        check_least(self, 0, "seed", "workers")
        if not 0 <= self.held_out < 1:
            raise mistake("held_out", f"lies from 0 to below 1, got {self.held_out}")
        if self.vision.encoder == "none" and self.cameras:
            raise ValueError("--cameras were named and --encoder is none: leave one of the two out")

    @property
    def folder(self) -> Path:
        """Where everything goes."""
        return self.out

    @property
    def spec(self) -> Spec:
        """The recording."""
        with flag("data"):
            if not self.data:
                raise ValueError("name a recording: lerobot:FOLDER_OR_REPO or robomimic:FILE.hdf5")
            spec = Spec.parse(self.data)
            if spec.kind not in KINDS:
                raise ValueError(f"{self.data!r} holds no observations: Stage 2 reads {':... and '.join(KINDS)}:...")
            if spec.weight != 1 or spec.options.keys() - {*OPTIONS}:
                known = ", ".join(f"?{name}=" for name in OPTIONS)
                raise ValueError(f"{self.data!r}: weights and options are Stage 1's, but for {known}")
            return spec

    @property
    def checkpoint_steps(self) -> list[int]:
        """After which a policy is kept, the end among them."""
        return evenly(self.optimiser.steps, self.checkpoints)

    def observation(self, cameras: tuple[str, ...], state_dim: int) -> ObservationConfig:
        """What the encoder is made of, for the cameras and the width of the state that a recording has."""
        with flag("cameras", "state", "text"):
            vision = self.vision.config if cameras else None
            steps, text = self.observation_steps, self.text.config
            return ObservationConfig(cameras, state_dim, steps, vision or VisionConfig(), text)


def evenly(steps: int, checkpoints: int) -> list[int]:
    """Return after which steps checkpoints are kept, the last step among them; no more than there are steps."""
    return sorted({max(1, steps * i // checkpoints) for i in range(1, checkpoints + 1)})
