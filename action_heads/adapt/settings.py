"""Settings of a Stage 2 run, from which the flags of `action-heads adapt` are made."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any

from action_heads._util.flags import (
    FlagError,
    Shown,
    about,
    called,
    check_choices,
    check_least,
    check_positive,
    check_share,
    check_unset,
    flag,
    mistake,
    option,
)
from action_heads._util.flat import Settings
from action_heads.actions.layout_checks import UNDECLARED
from action_heads.actions.layouts import ActionLayout
from action_heads.adapters.config import AdapterConfig
from action_heads.data.spec import OBSERVED, Spec
from action_heads.diffusion.levels import NoiseConfig
from action_heads.diffusion.samplers import SAMPLERS
from action_heads.encoders import ObservationConfig, TextConfig, VisionConfig, VLMConfig
from action_heads.encoders.vlm_config import TASK
from action_heads.fit import PRECISIONS
from action_heads.modes import MODES
from action_heads.training.optimiser import NO_DEVICE, OptimiserConfig
from action_heads.vlm.lora import TRAIN

__all__ = ["AdaptConfig", "FlagError", "flag"]

RESNET = "resnet18"
ADAPTER = {"mechanism": "adapter", "hidden_dim": "hidden", "cond_dim": None, "pool": None, "per_step": None}  # as flags
AS_FLAGS = {"model": "vlm"} | {
    name: f"vlm_{name}"
    for name in ("layer", "select", "train", "lora_rank", "prompt", "template", "dtype", "pool", "revision", "cache")
}
OPTIONS = ("revision", "tolerance_s", "filter_key", "recorded_hz", "short", "bad")  # those that Stage 2 takes


@dataclass(frozen=True)
class Columns:
    """Settings of the actions of a recording, and of the chunks made from them.

    Attributes:
        action: column of the actions.
        action_layout: layout of its values, such as pose_6d, libero or joints_6; see docs/guides/lerobot.md.
        gripper: values of the recording for an open and a closed gripper.
        horizon: time steps of a chunk; the head is reshaped if it has another horizon.
    """

    action: Annotated[str | None, Shown("action or actions")] = None
    action_layout: Annotated[str | None, Shown("by the names, if they leave no doubt")] = None
    gripper: tuple[float, float] = UNDECLARED
    horizon: Annotated[int | None, Shown("the head's", "INT")] = None

    def __post_init__(self):
        check_least(self, 1, "horizon")
        if self.action_layout is not None:
            with about("action_layout", "gripper"):
                ActionLayout.parse(self.action_layout, self.gripper)


@dataclass(frozen=True)
class Vision:
    """Settings of the image encoder; see `VisionConfig`.

    Attributes:
        encoder: resnet18, resnet50, any transformers vision model, or none to use the state only.
        train_encoder: trained, frozen, or cached (frozen, and its outputs for the recording are kept on disk).
        weights: initial weights of a ResNet: imagenet or none.
        features: size of the feature vector per camera and observation.
        pool: how to pool the output of the encoder: mean, cls, spatial_softmax or keypoints; see `VisionConfig`.
        resize: height and width in pixels that images are resized to.
        crop: height and width in pixels of a crop, random in training and central in acting.
        jitter: brightness, contrast and saturation are scaled by random factors within 1 ± jitter.
        shared: use one network for all cameras instead of one per camera.
        stride: stride in pixels of the feature map of a frozen convolutional encoder: 8, 16 or 32.
    """

    encoder: Annotated[str | None, Shown(RESNET)] = None
    train_encoder: str = "trained"
    weights: Annotated[str | None, Shown("none")] = None
    features: int = 64
    pool: str = "mean"
    resize: Annotated[tuple[int, int] | None, Shown("as they are", "H W")] = None
    crop: Annotated[tuple[int, int] | None, Shown("none", "H W")] = None
    jitter: float = 0.0
    shared: bool = False
    stride: Annotated[int | None, Shown("the last map's", "INT")] = None

    def __post_init__(self):
        check_choices(self, train_encoder=("trained", "frozen", "cached"))
        if self.cached and (self.crop or self.jitter):
            with about("train_encoder", "crop", "jitter"):
                raise ValueError(
                    "a cache keeps one output per image, but --crop and --jitter make a random one in every training "
                    "step. Leave them out, or set --train-encoder frozen"
                )
        self.config  # noqa: B018 - its own checks

    @property
    def network(self) -> str:
        """The encoder, with the default resolved."""
        return RESNET if self.encoder is None else self.encoder

    @property
    def cached(self) -> bool:
        """True if the outputs of the encoder are kept on disk."""
        return self.encoder != "none" and self.train_encoder == "cached"

    @property
    def config(self) -> VisionConfig | None:
        """Settings of the encoder of a camera, or None without cameras."""
        if self.encoder == "none":
            return None
        values = {name: value for name, value in vars(self).items() if name not in ("encoder", "train_encoder")}
        try:
            return VisionConfig(self.network, train=self.train_encoder == "trained", **values)
        except ValueError as error:
            flags = {"backbone": "encoder", "train": "train_encoder"} | {name: name for name in values}
            named = [field for name, field in flags.items() if re.search(rf"\b(vision\.)?{name}\b", str(error))]
            with about(*(named or flags.values())):
                raise


@dataclass(frozen=True)
class Text:
    """Settings of the text encoder, which reads the task description.

    Attributes:
        model: transformers text model that reads the task description, such as distilbert-base-uncased.
        features: size of a trained projection of its text vector; without it the vector itself is used.
    """

    model: Annotated[str | None, Shown("none")] = None
    features: Annotated[int | None, Shown("none", "INT")] = None

    def __post_init__(self):
        check_least(self, 1, "features")
        self.config  # noqa: B018 - its own checks

    @property
    def config(self) -> TextConfig | None:
        """Settings of the text encoder, or None without one."""
        with about("model", "features"):
            return TextConfig(self.model, features=self.features) if self.model else None


@dataclass(frozen=True)
class VLM:
    """Settings of a vision-language, vision or language model as the encoder; see `VLMConfig`.

    Attributes:
        model: Hub id or folder of a transformers model that encodes images and task in place of --encoder and --text.
        layer: layers to read, as in hidden_states; several are mixed with trained weights.
        select: tokens that count: all, image or text.
        train: training of the model: frozen, lora or full.
        lora_rank: rank of the LoRA matrices.
        prompt: text of the prompt, in which {task} stands for the task description.
        template: chat, plain (image tokens, then the prompt) or auto, which is chat if the model has a chat template.
        dtype: bfloat16, float32, float16, or auto, which is float32 for full training and bfloat16 otherwise.
        pool: pooling of the tokens in the adapter: attention, last or mean.
        revision: branch, tag or commit of the model on the Hub.
        cache: embeddings of a frozen model: on, off (the model runs in every training step), or a folder for them.
    """

    model: Annotated[str | None, Shown("none")] = None
    layer: tuple[int, ...] = (-1,)
    select: str = "all"
    train: str = "frozen"
    lora_rank: int = 16
    prompt: str = TASK
    template: str = "auto"
    dtype: str = "auto"
    pool: str = "attention"
    revision: Annotated[str | None, Shown("the default branch")] = None
    cache: Annotated[str | None, Shown("on, unless the model trains, layers are mixed or images are augmented")] = None

    def __post_init__(self):
        if self.model is None:
            check_unset(self, "no model is given. Name one with --vlm", *(item.name for item in fields(VLM)))
        elif self.cache not in (None, "off") and not self.is_fixed:
            raise mistake(
                "cache",
                f"is {self.cache!r}, but the embeddings change while a model trains or layers are mixed; use off",
            )
        check_choices(self, train=TRAIN)
        self.config  # noqa: B018 - its own checks

    @property
    def config(self) -> VLMConfig | None:
        """Settings of the model, or None without one."""
        if self.model is None:
            return None
        return VLMConfig(**{name: value for name, value in vars(self).items() if name != "cache"})

    @property
    def is_fixed(self) -> bool:
        """True if equal images and words have equal embeddings during the whole run."""
        return self.train == "frozen" and len(self.layer) == 1


@dataclass(frozen=True)
class Optimiser(OptimiserConfig):
    """Settings of the optimiser of Stage 2.

    Attributes:
        lr: peak learning rate of the adapter, the projections and a head that trains.
        ema: largest decay of the average of the weights, which becomes the policy.
        encoder_lr: peak learning rate of the encoder.
        weight_decay: weight decay of AdamW.
    """

    batch_size: int = 64
    lr: float = 2.5e-3
    warmup: int = 100
    encoder_lr: float = 3e-4
    weight_decay: float = 1e-6

    def __post_init__(self):
        super().__post_init__()
        check_positive(self, "encoder_lr")
        check_least(self, 0, "weight_decay")


@dataclass(frozen=True)
class Rollout:
    """Settings of the rollouts of the trained policy in a simulation.

    Attributes:
        task: simulated task to roll out in after training, such as Lift.
        episodes: number of episodes to roll out, from seeds 0, 1, 2 ...
        videos: number of episodes to film into rollouts.mp4.
        execute: actions of a chunk to execute before the next one is sampled.
        sampler: sampler of the rollouts.
        sampling_steps: denoising steps of the rollouts.
        simulations: number of simulation processes.
    """

    task: Annotated[str | None, Shown("none")] = None
    episodes: int = 50
    videos: int = 4
    execute: int = 8
    sampler: str = "ddim"
    sampling_steps: Annotated[int | None, Shown("the sampler's", "INT")] = None
    simulations: Annotated[int | None, Shown("one per core", "INT")] = None

    def __post_init__(self):
        check_choices(self, sampler=SAMPLERS)
        check_least(self, 1, "execute", "episodes", "sampling_steps", "simulations")
        check_least(self, 0, "videos")


@dataclass(frozen=True)
class AdaptConfig(Settings):
    """Stage 2: train a policy on a frozen head, from a recording with images or states.

    Attributes:
        data: recording: lerobot:FOLDER_OR_REPO or robomimic:FILE.hdf5.
        out: folder for the policy and for the training state.
        head: bundled name, folder or Hub id of the head.
        mode: decoupled (the pretrained head, frozen), or a control of the paper: random-frozen or normal.
        blind: control run: grey images, or a state of zeros if there are no cameras, in training and rollouts.
        start_from: folder of a run whose weights and statistics to start from.
        cameras: cameras that the policy observes.
        state: state columns that the policy observes, such as observation.state[0:7], or none.
        observation_steps: number of observations that the policy gets, the last of which is current.
        precision: fp32, bf16, or auto, which is bf16 where it is faster.
        graph: on CUDA, replay each training step as a CUDA graph if no image or text is encoded in it; not run on a GPU
            yet.
        seed: seed of weights, batches, noise and crops.
        held_out: share of the episodes that is used only for the held-out loss.
        save_every: training steps between saved states and held-out losses.
        checkpoints: number of evenly spaced policies to keep; all but the last are in checkpoints/.
        workers: processes that read and decode batches ahead; 0 for none.
    """

    data: Annotated[str, Shown("none; required", "SOURCE")] = ""
    out: Path = Path("runs/adapt")
    head: str = "dae/mixer-5m-fk"
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
    vlm: VLM = field(default=VLM(), metadata=AS_FLAGS)
    optimiser: Optimiser = field(default=Optimiser())
    noise: NoiseConfig = field(default=NoiseConfig())
    precision: str = "auto"
    graph: bool = False
    seed: int = 0
    held_out: float = 0.05
    save_every: int = 1000
    checkpoints: int = 1
    workers: int = 2
    rollout: Rollout = field(default=Rollout())

    # Settings that no weight depends on: where files go, when they are saved, and the rollouts.
    WEIGHTLESS = ("out", "save_every", "workers", "checkpoints", *vars(Rollout()))
    LATER = ("stride", "graph")
    NO_OPTION = NO_DEVICE

    def __post_init__(self):
        if self.data:
            self.spec  # noqa: B018 - its own checks
        check_choices(self, mode=MODES, precision=PRECISIONS)
        check_least(self, 1, "save_every", "observation_steps", "checkpoints")
        check_least(self, 0, "seed", "workers")
        check_share(self, "held_out")
        if self.vision.encoder == "none" and self.cameras:
            raise ValueError("--cameras names cameras, but --encoder is none. Leave one of the two out")
        if self.vlm.cache not in (None, "off") and self.augments:
            raise mistake(
                "vlm_cache", "can't be used with --crop or --jitter, which change the images; set --vlm-cache off"
            )

    @property
    def augments(self) -> bool:
        """True if the images of an observation differ from one training step to another."""
        return self.vision.crop is not None or self.vision.jitter > 0

    @property
    def caches(self) -> bool:
        """True if the embeddings of a VLM are computed once and kept on the disk."""
        vlm = self.vlm
        return vlm.model is not None and vlm.cache != "off" and vlm.is_fixed and not self.augments

    def check_effective(self) -> None:
        """Raise a FlagError if a flag has no effect beside the others. Older runs may have such flags."""
        with called(option):
            if self.vision.encoder == "none":
                others = (item.name for item in fields(Vision) if item.name != "encoder")
                check_unset(self.vision, "--encoder is none, so there are no images. Leave it out", *others)
            if self.text.model is None:
                check_unset(self.text, "no text model is given. Name one with --text", "features", prefix="text_")
            if self.rollout.task is None:
                others = (item.name for item in fields(Rollout))
                check_unset(self.rollout, "no task is given. Name one with --task", *others)

    def outcome(self) -> dict[str, Any]:
        """Return the settings that affect the weights. A run without a VLM has none of its settings."""
        values = super().outcome() | {"encoder": self.vision.network}
        if self.vlm.model is None:
            return {name: value for name, value in values.items() if name not in AS_FLAGS.values()}
        # Where embeddings are kept does not matter, but whether they are, since the kept ones are rounded.
        return values | {"vlm_cache": "on" if self.caches else "off"}

    @property
    def folder(self) -> Path:
        """The folder of all output."""
        return self.out

    @property
    def spec(self) -> Spec:
        """The specification of the recording."""
        with flag("data"):
            if not self.data:
                raise ValueError("no recording is given. Name one: lerobot:FOLDER_OR_REPO or robomimic:FILE.hdf5")
            spec = Spec.parse(self.data, OBSERVED)
            if spec.kind not in OBSERVED:
                raise ValueError(f"{self.data!r} has no observations. Stage 2 reads {':... and '.join(OBSERVED)}:...")
            if spec.weight != 1 or spec.options.keys() - {*OPTIONS}:
                known = ", ".join(f"?{name}=" for name in OPTIONS)
                raise ValueError(f"{self.data!r} has a weight or options of Stage 1. Stage 2 takes {known}")
            return spec

    @property
    def checkpoint_steps(self) -> list[int]:
        """The training steps after which a policy is kept, including the last."""
        return evenly(self.optimiser.steps, self.checkpoints)

    def observation(self, cameras: tuple[str, ...], state_dim: int) -> ObservationConfig:
        """Return the settings of the encoder for these cameras and this width of the state."""
        with flag("cameras", "state", "text"):
            vision = self.vision.config if cameras else None
            steps, text = self.observation_steps, self.text.config
            return ObservationConfig(cameras, state_dim, steps, vision or VisionConfig(), text, self.vlm.config)


def evenly(steps: int, checkpoints: int) -> list[int]:
    """Return the training steps after which checkpoints are kept, including the last step."""
    return sorted({max(1, steps * i // checkpoints) for i in range(1, checkpoints + 1)})
