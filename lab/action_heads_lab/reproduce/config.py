"""Settings of the experiments: `Run` decides an outcome and identifies it, `Place` says where the run is done."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from action_heads._util.flags import check_choices, check_least
from action_heads._util.limits import check_fields
from action_heads.adapt.settings import evenly
from action_heads.adapters import ADAPTERS
from action_heads.adapters.config import THROUGH
from action_heads.backbones import BACKBONES
from action_heads.modes import MODES
from action_heads_lab.policies import BLIND
from action_heads_lab.sim.conventions import DIALECTS, Dialect

VERSION = 1  # of the protocol; raised when the same settings come to give another outcome
EXPERTS = "experts"  # a value of `Run.data`: demonstrations of the scripted experts of `action_heads_lab.sim`
# Settings that older results lack, with the values they had. The identity leaves these values out, so it is unchanged.
LATER = {"checkpoints": 1, "data": EXPERTS, "assets": ""}
CODE, NO_SIGNAL = "code", "none"  # values of `Run.signal`; the first gives the head a motion code, no other does
FAMILIES = ("robosuite", "mimicgen", "libero")
RUN_MODES = MODES | BLIND
SEEDS = (0, 42, 420)  # those of the paper
ALL_MODES = ("decoupled", "normal", "random-frozen")  # the compared modes

# Settings of the adapter. In the recipe of the paper it acts through every block and the step modulation is trained.
RECIPES: dict[str, dict[str, Any]] = {
    "paper": {"adapter": "film", "through": "blocks", "relearn_step": True, "hidden": None, "lr": 2.5e-3},
    "code": {"adapter": "adaln_zero", "through": "code", "relearn_step": False, "hidden": 64, "lr": 1e-2},
    "both": {"adapter": "adaln_zero", "through": "both", "relearn_step": False, "hidden": 128, "lr": 2.5e-3},
}

# How images are recorded and encoded, by family: the two cameras, networks and schedule of the paper. This decides the
# outcome, so it is part of a run's identity. `IMAGE_EFFORT` holds the settings that a run may change.
_EYES: dict[str, Any] = {
    "cameras": ("agentview", "robot0_eye_in_hand"),
    "size": 84,
    "state": ("observation.eef", "observation.gripper"),  # position 3, rotation 6, fingers 2
}
_ALIKE: dict[str, Any] = {"ema": 0.9999, "encoder_lr": 1e-4}
_RESNET18 = _ALIKE | {"encoder": "resnet18", "features": 64, "crop": (76, 76), "warmup": 500}
_RESNET50 = _ALIKE | {"encoder": "resnet50", "weights": "imagenet", "features": 512, "crop": (116, 116)}
_RESNET50 |= {"text": "distilbert-base-uncased", "schedule": "constant"}
EYES: dict[str, dict[str, Any]] = {
    "robosuite": _EYES | {"flags": _RESNET18},
    "mimicgen": _EYES | {"flags": _RESNET18},
    "libero": _EYES | {"size": 128, "flags": _RESNET50},
}
# About the 50 epochs of the paper, for 100 demonstrations. On LIBERO its training steps, batches and noise samples.
IMAGE_EFFORT: dict[str, dict[str, Any]] = {
    "robosuite": {"steps": 8_000},
    "mimicgen": {"steps": 8_000},
    "libero": {"steps": 25_000, "batch_size": 128, "noise_samples": 8},
}
OFFICIAL_STEPS = {"robosuite": 80_000, "mimicgen": 80_000}  # the same for the 1000 demonstrations of an official set
IMAGE_LR = 1e-4  # in the recipe of the paper; the other recipes keep their own


@dataclass(frozen=True)
class Run:
    """Settings of one run: the training of Stage 2 and the rollouts of its policy.

    Attributes:
        family, task: a robosuite or MimicGen task, or a LIBERO suite.
        observation: state or image.
        backbone, mode: one of `BACKBONES` and of `RUN_MODES`.
        head: "small" or "paper", a size that is bundled or pretrained at its first use; or any name, folder or Hub id.
        stage1: data of Stage 1, as in `action-heads pretrain --data`. It is ignored for a head given by name.
        signal: conditioning of Stage 1. It is ignored for a head given by name. A head that starts at random has a
            motion code or not, so every signal but "code" becomes "none" there.
        adapter, through, relearn_step, hidden: settings of the adapter, see `Adapter`.
        data: demonstrations: `EXPERTS`, or a recording with images, as in `action-heads adapt`. {task} in it stands
            for the task.
        demos: demonstrations of the experts, for each task of a suite; 0 for a recording, which is used whole.
        steps, batch_size, lr, noise_samples: settings of Stage 2, see `FitConfig`.
        execute, sampler, sampling_steps: settings of the rollouts.
        episodes: number of episodes to roll out in each task.
        checkpoints: number of evenly spaced policies of the training that are rolled out, including the last.
        seed: seed of weights, batches, noise and rollouts. All runs of a task share one recording.
        assets: meshes and textures of LIBERO's scenes: "official", a hash of others, or "stand-in"; or a hash of
            MimicGen's files if they are not those of the tested commit. Else, and in results that do not say which they
            had, it is empty.
    """

    family: str = "robosuite"
    task: str = "Lift"
    observation: str = "state"
    backbone: str = "mlp"
    mode: str = "decoupled"
    head: str = "small"
    stage1: tuple[str, ...] = ("synthetic:panda",)
    signal: str = CODE
    adapter: str = "film"
    through: str = "blocks"
    relearn_step: bool = True
    hidden: int | None = None
    data: str = EXPERTS
    demos: int = 100
    steps: int = 1000
    batch_size: int = 64
    lr: float = 2.5e-3
    noise_samples: int = 1
    execute: int = 8
    sampler: str = "ddim"
    sampling_steps: int = 10
    episodes: int = 50
    checkpoints: int = 1
    seed: int = 0
    assets: str = ""

    def __post_init__(self):
        object.__setattr__(self, "stage1", tuple(self.stage1))  # JSON gives lists
        check_choices(self, family=FAMILIES, observation=("state", "image"), backbone=BACKBONES, mode=RUN_MODES)
        check_choices(self, adapter=ADAPTERS, through=THROUGH)
        check_least(self, 1, "steps", "batch_size", "noise_samples", "execute", "sampling_steps", "episodes")
        check_least(self, 1, "checkpoints", *(["demos"] if self.data == EXPERTS else []))
        if self.mode == "normal" and self.relearn_step:
            # Everything trains in this mode, so both values mean the same run. One value gives it one identity.
            object.__setattr__(self, "relearn_step", False)
        if not self.uses_pretraining and self.signal != CODE:
            object.__setattr__(self, "signal", NO_SIGNAL)

    @property
    def head_mode(self) -> str:
        """The mode of the head, one of `MODES`."""
        return "decoupled" if self.mode in BLIND else self.mode

    @property
    def uses_pretraining(self) -> bool:
        return self.head_mode == "decoupled"

    @property
    def recording(self) -> str:
        """The recording that is used instead of demonstrations of the experts."""
        return self.data.replace("{task}", self.task)

    @property
    def dialect(self) -> Dialect:
        """The dialect of the demonstrations."""
        if self.data == EXPERTS:
            return DIALECTS["own"]
        if self.data.startswith("robomimic:"):
            return DIALECTS["robomimic"]
        return DIALECTS["libero" if self.family == "libero" else "mimicgen"]

    @property
    def checkpoint_steps(self) -> list[int]:
        """The training steps after which a policy is kept, including the last."""
        return evenly(self.steps, self.checkpoints)

    @property
    def condition(self) -> dict[str, Any]:
        """The settings, except the seed, that runs share if they are compared by mode."""
        settings = asdict(self)
        for name in ("mode", "seed", "relearn_step"):  # relearn_step follows from adapter and mode
            del settings[name]
        return settings

    def identity(self, head: str) -> str:
        """Return 16 hex digits that identify everything that decides the outcome.

        Args:
            head: the part of the head that the run uses, see `modes.taken_of`. The weights of the head count, while
                its name and its data do not.
        """
        left_out = {"head", "stage1", "signal"} | {key for key, value in LATER.items() if getattr(self, key) == value}
        settings = {key: value for key, value in asdict(self).items() if key not in left_out}
        if self.observation == "image":
            settings["eyes"] = EYES[self.family]
        text = json.dumps([VERSION, settings, head], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Run:
        """Make a run from settings as JSON has them. Raises ValueError if they are not those of a run."""
        values = LATER | values
        known = {field.name for field in fields(cls)}
        if set(values) != known:
            raise ValueError(
                f"a run has {', '.join(sorted(known))}. This one lacks {sorted(known - set(values))} and has the "
                f"unknown {sorted(set(values) - known)}. Run it again with this release"
            )
        check_fields(values, cls, "a run")
        return cls(**values)

    def __str__(self) -> str:
        return f"{self.task} {self.backbone} {self.mode} seed {self.seed}"


@dataclass(frozen=True)
class Place:
    """Settings of where and how a run is done, on which its result does not depend.

    Attributes:
        results: folder of the results.
        work: folder of what can be made again: recordings, heads, trained policies, videos.
        device: device to train on.
        workers: number of simulation processes.
        videos: number of episodes of every block that are filmed.
        command: the command line, which is recorded.
    """

    results: Path = Path("outputs/reproduce/results")
    work: Path = Path("outputs/reproduce")
    device: str = "cpu"
    workers: int = 1
    videos: int = 0
    command: str = ""


def on_images(run: Run, recipe: str) -> Run:
    """Return the run on images: with other training steps and batches, and the learning rate of the paper."""
    effort = IMAGE_EFFORT[run.family] | ({"lr": IMAGE_LR} if recipe == "paper" else {})
    if run.data != EXPERTS and run.family in OFFICIAL_STEPS:
        effort |= {"steps": OFFICIAL_STEPS[run.family]}
    return replace(run, observation="image", **effort)
