"""What decides a run of Stage 2: one frozen, validated dataclass, which is also the command line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from action_heads._util.names import nearest
from action_heads.actions.layouts import UNDECLARED, ActionLayout
from action_heads.adapt.checkpoints import evenly
from action_heads.adapters import ADAPTERS
from action_heads.adapters.base import AdapterConfig
from action_heads.data import Spec
from action_heads.diffusion.levels import check_levels
from action_heads.diffusion.samplers import SAMPLERS
from action_heads.encoders import TextConfig, VisionConfig
from action_heads.fit import PRECISIONS, cosine
from action_heads.modes import MODES

SCHEDULES = ("cosine", "constant")
KINDS = ("lerobot", "robomimic")  # what has observations
OPTIONS = ("revision", "tolerance_s", "filter_key", "recorded_hz", "short", "bad")  # of recordings, in this stage too
# Where things go, when they are saved, and what is done afterwards: nothing that a weight depends on.
WEIGHTLESS = ("out", "save_every", "workers", "task", "episodes", "film", "execute", "sampler", "sampling_steps")
WEIGHTLESS = (*WEIGHTLESS, "simulations", "checkpoints")


def shown(default: str, metavar: str = "STR") -> Any:
    """How a flag without a fixed default presents itself."""
    return tyro.conf.arg(metavar=metavar, help_behavior_hint=f"(default: {default})")


@dataclass(frozen=True)
class AdaptConfig:
    """Stage 2: teach a frozen head a task, from a recording with images or of states alone.

    Attributes:
        data: lerobot:FOLDER_OR_REPO or robomimic:FILE.hdf5.
        out: folder of the policy, and of the state to go on from.
        head: a bundled name, a folder or a Hub id.
        mode: decoupled (the head as it is), random-frozen or normal: the paper's controls.
        blind: hide the pictures, or without cameras the state, in training and in rollouts: a control.
        adapter: film, adaln_zero, adarmsnorm, and what else the head was pretrained for.
        hidden: width of the adapter's reading network.
        through: code, blocks or both: where the adapter acts.
        relearn_step: also train the head's own modulation, as the paper does.
        start_from: folder of a run whose weights to begin with; with its statistics.
        action: the column of actions.
        action_layout: what its columns mean, such as pose_6d, libero or joints_6: docs/lerobot.md.
        gripper: what the recording writes for open and for closed.
        horizon: steps of a chunk; another than the head's reshapes it.
        cameras: which to see; all if not given.
        state: columns of numbers to see, such as observation.state[0:7]; none for none.
        observation_steps: how many observations the policy sees, the last of them now.
        encoder: resnet18, resnet50, any transformers vision model, or none: states alone.
        train_encoder: trained or frozen.
        weights: of a ResNet: imagenet, or none.
        features: numbers per camera and observation.
        pool: of a transformer's tokens: mean or cls.
        resize: pixels (height width) that pictures are brought to.
        crop: pixels (height width) cut out: anywhere in training, the centre in acting.
        jitter: brightness, contrast and saturation vary by factors within 1 ± jitter.
        shared: one network for all cameras, or one each.
        text: a transformers text model that reads the task's description, such as distilbert-base-uncased.
        text_features: numbers that a trained map makes of its vector; the vector itself if not given.
        steps: optimiser steps.
        batch_size: chunks a step, all processes together.
        lr: of adapter, projections and a head that trains, at its peak.
        encoder_lr: of the encoder, at its peak.
        warmup: steps of linear warm-up.
        schedule: after warm-up: cosine to zero, or constant.
        weight_decay: of AdamW.
        clip: largest norm of the gradient.
        ema: largest decay of the weights' average, the later policy.
        levels: of noise: uniform, logit_normal, beta or last.
        noise_samples: how often each chunk is noised.
        prefixes: also train to continue committed steps, for real-time chunking.
        precision: fp32, bf16, or auto: bf16 where it is faster.
        seed: of weights, batches, noise and crops.
        held_out: share of episodes to look at the loss of, never trained on.
        save_every: steps between saved states and held-out losses.
        checkpoints: so many evenly spaced points of training whose policies are kept, all but the last in checkpoints/.
        workers: processes that read and decode ahead; 0 for none.
        task: roll out in this task of the simulation afterwards, such as Lift.
        episodes: to roll out, from seeds 0, 1, 2 ...
        film: so many of them, into rollouts.mp4.
        execute: actions of a chunk that are carried out.
        sampler: of rollouts.
        sampling_steps: of rollouts; the sampler's own number if not given.
        simulations: processes of simulation.
    """

    data: Annotated[str, shown("none: it is needed", "SOURCE")] = ""
    out: Path = Path("runs/adapt")
    head: str = "dae/mlp-5m-fk"
    mode: str = "decoupled"
    blind: bool = False
    adapter: str = "adaln_zero"
    hidden: Annotated[int | None, shown("the head's width", "INT")] = None
    through: Annotated[str | None, shown("all that the head has")] = None
    relearn_step: bool = False
    start_from: Annotated[Path | None, shown("none", "DIR")] = None
    action: Annotated[str | None, shown("action or actions")] = None
    action_layout: Annotated[str | None, shown("by the names, if they leave no doubt")] = None
    gripper: tuple[float, float] = UNDECLARED
    horizon: Annotated[int | None, shown("the head's", "INT")] = None
    cameras: Annotated[tuple[str, ...], shown("all", "NAMES")] = ()
    state: Annotated[tuple[str, ...], shown("the robot's own; without cameras, everything", "COLUMNS")] = ()
    observation_steps: int = 2
    encoder: str = "resnet18"
    train_encoder: str = "trained"
    weights: Annotated[str | None, shown("none")] = None
    features: int = 64
    pool: str = "mean"
    resize: Annotated[tuple[int, int] | None, shown("as they are", "H W")] = None
    crop: Annotated[tuple[int, int] | None, shown("none", "H W")] = None
    jitter: float = 0.0
    shared: bool = False
    text: Annotated[str | None, shown("none")] = None
    text_features: Annotated[int | None, shown("none", "INT")] = None
    steps: int = 10_000
    batch_size: int = 64
    lr: float = 2.5e-3
    encoder_lr: float = 3e-4
    warmup: int = 100
    schedule: str = "cosine"
    weight_decay: float = 1e-6
    clip: float = 1.0
    ema: float = 0.999
    levels: str = "uniform"
    noise_samples: int = 1
    prefixes: bool = False
    precision: str = "auto"
    seed: int = 0
    held_out: float = 0.05
    save_every: int = 1000
    checkpoints: int = 1
    workers: int = 2
    task: Annotated[str | None, shown("none")] = None
    episodes: int = 50
    film: int = 4
    execute: int = 8
    sampler: str = "ddim"
    sampling_steps: Annotated[int | None, shown("the sampler's", "INT")] = None
    simulations: Annotated[int | None, shown("one a core", "INT")] = None

    def __post_init__(self):
        if self.data:
            self.spec  # noqa: B018 - its own checks
        choices = {
            "mode": MODES,
            "adapter": ADAPTERS,
            "train_encoder": ("trained", "frozen"),
            "schedule": SCHEDULES,
            "precision": PRECISIONS,
            "sampler": SAMPLERS,
        }
        for name, known in choices.items():
            if getattr(self, name) not in known:
                given = getattr(self, name)
                raise ValueError(
                    f"{option(name)} is {given!r}{nearest(given, known)}; choose one of {', '.join(known)}"
                )
        counts = ("steps", "batch_size", "warmup", "save_every", "observation_steps", "noise_samples", "execute")
        for name in (*counts, "episodes", "simulations", "checkpoints"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"{option(name)} must be at least 1, got {value}")
        for name in ("lr", "encoder_lr", "clip"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{option(name)} must be positive, got {getattr(self, name)}")
        for name in ("seed", "workers", "film"):
            if getattr(self, name) < 0:
                raise ValueError(f"{option(name)} must be 0 or more, got {getattr(self, name)}")
        for name in ("ema", "held_out"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{option(name)} lies from 0 to below 1, got {getattr(self, name)}")
        if self.encoder == "none" and self.cameras:
            raise ValueError("--cameras were named and --encoder is none: leave one of the two out")
        with flag("levels"):
            check_levels(self.levels)
        with flag("hidden", "through"):
            AdapterConfig(self.adapter, 1, self.hidden, self.relearn_step, self.through)
        if self.action_layout is not None:
            with flag("action_layout", "gripper"):
                ActionLayout.parse(self.action_layout, self.gripper)
        if self.encoder != "none":
            self.vision()
        self.language()

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
        return evenly(self.steps, self.checkpoints)

    def vision(self) -> VisionConfig:
        """The pathway of a camera."""
        with flag("encoder", "weights", "features", "resize", "crop"):
            return VisionConfig(
                backbone=self.encoder,
                weights=self.weights,
                train=self.train_encoder == "trained",
                features=self.features,
                pool=self.pool,
                resize=self.resize,
                crop=self.crop,
                jitter=self.jitter,
                shared=self.shared,
            )

    def language(self) -> TextConfig | None:
        """What reads the task's description."""
        with flag("text", "text_features"):
            return TextConfig(self.text, features=self.text_features) if self.text else None

    def outcome(self) -> dict[str, Any]:
        """What decides the weights, ready for JSON: all but `WEIGHTLESS`."""
        values = json.loads(json.dumps(asdict(self), default=str))
        return {key: value for key, value in values.items() if key not in WEIGHTLESS}


def learning_rate(step: int, config: AdaptConfig) -> float:
    """Linear warm-up, then the schedule, of the adapter."""
    if config.schedule == "constant":
        return config.lr * min(1.0, (step + 1) / config.warmup)
    return cosine(step, config)


def option(name: str) -> str:
    """A field as a flag."""
    return f"--{name.replace('_', '-')}"


class FlagError(ValueError):
    """A mistake in the flags with which the message begins."""


@contextmanager
def flag(*names: str) -> Iterator[None]:
    """Name these flags in an error from here, unless a `flag` further in has named the ones at fault."""
    try:
        yield
    except FlagError:
        raise
    except (ValueError, OSError) as error:
        flags = list(map(option, names))
        said = "" if str(error).startswith(tuple(flags)) else f"{', '.join(flags)}: "
        raise FlagError(f"{said}{error}") from error
