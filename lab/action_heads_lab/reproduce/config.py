"""Settings of the experiments: `Run` decides an outcome and identifies it, `Place` says where the run is done."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from action_heads._util.flags import check_choices, check_least
from action_heads.adapt.settings import evenly
from action_heads.adapters import ADAPTERS
from action_heads.adapters.config import THROUGH
from action_heads.backbones import BACKBONES
from action_heads.modes import MODES
from action_heads_lab.policies import BLIND
from action_heads_lab.sim.conventions import DIALECTS, Dialect

VERSION = 1  # of what a run does: raised when the same settings come to mean another outcome
EXPERTS = "experts"  # as data of Stage 2: demonstrations of the scripted experts of `action_heads_lab.sim`
# Settings that older results lack, and what they were; so those keep their names.
LATER = {"checkpoints": 1, "data": EXPERTS}
FAMILIES = ("robosuite", "mimicgen", "libero")
RUN_MODES = MODES | BLIND
SEEDS = (0, 42, 420)  # the paper's
ALL_MODES = ("decoupled", "normal", "random-frozen")  # what is compared

# How an adapter reaches the head. The paper's way: a map to every block, the head's own modulation trained along.
RECIPES: dict[str, dict[str, Any]] = {
    "paper": {"adapter": "film", "through": "blocks", "relearn_step": True, "hidden": None, "lr": 2.5e-3},
    "code": {"adapter": "adaln_zero", "through": "code", "relearn_step": False, "hidden": 64, "lr": 1e-2},
    "both": {"adapter": "adaln_zero", "through": "both", "relearn_step": False, "hidden": 128, "lr": 2.5e-3},
}

# How pictures are recorded and read, by family: the paper's two cameras, networks and schedule. It decides the outcome,
# so it is in a run's identity; what else pictures want, a run may set otherwise: `IMAGE_EFFORT`.
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
# About the paper's 50 epochs, of 100 demonstrations; on LIBERO its steps, batches and noise samples.
IMAGE_EFFORT: dict[str, dict[str, Any]] = {
    "robosuite": {"steps": 8_000},
    "mimicgen": {"steps": 8_000},
    "libero": {"steps": 25_000, "batch_size": 128, "noise_samples": 8},
}
OFFICIAL_STEPS = {"robosuite": 80_000, "mimicgen": 80_000}  # the same of the 1000 demonstrations of an official set
IMAGE_LR = 1e-4  # of the paper's recipe; the others keep theirs


@dataclass(frozen=True)
class Run:
    """One training run of Stage 2 and the rollouts of what it made.

    Attributes:
        family, task: a robosuite or MimicGen task, or a LIBERO suite.
        observation: state or image.
        backbone, mode: as in `BACKBONES` and `RUN_MODES`.
        head: "small" or "paper", a size that is bundled or pretrained at its first use; or any name, folder or Hub id.
        stage1: data of its Stage 1, as `action-heads pretrain --data`; of a head given by name it says nothing.
        signal: what conditioned its Stage 1; likewise.
        adapter, through, relearn_step, hidden: of the adapter, as in `Adapter`.
        data: whose demonstrations: `EXPERTS`, or a recording with pictures, as of `action-heads adapt`; {task} in it
            is the task.
        demos: demonstrations of the experts, of each task of a suite; of a recording all are taken, and this is 0.
        steps, batch_size, lr, noise_samples: of Stage 2, as in `FitConfig`.
        execute, sampler, sampling_steps: of rollouts.
        episodes: of each task, from `evaluation_seeds`.
        checkpoints: evenly spaced points of training, the end among them, of which each is rolled out.
        seed: of weights, batches, noise and rollouts. All runs of a task share one recording.
    """

    family: str = "robosuite"
    task: str = "Lift"
    observation: str = "state"
    backbone: str = "mlp"
    mode: str = "decoupled"
    head: str = "small"
    stage1: tuple[str, ...] = ("synthetic:panda",)
    signal: str = "code"
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

    def __post_init__(self):
        object.__setattr__(self, "stage1", tuple(self.stage1))  # JSON brings lists
        check_choices(self, family=FAMILIES, observation=("state", "image"), backbone=BACKBONES, mode=RUN_MODES)
        check_choices(self, adapter=ADAPTERS, through=THROUGH)
        check_least(self, 1, "steps", "batch_size", "noise_samples", "execute", "sampling_steps", "episodes")
        check_least(self, 1, "checkpoints", *(["demos"] if self.data == EXPERTS else []))
        if self.mode == "normal" and self.relearn_step:
            # Everything trains anyway; one spelling, so that one run has one name.
            object.__setattr__(self, "relearn_step", False)

    @property
    def head_mode(self) -> str:
        """The mode of its head, as in `MODES`."""
        return "decoupled" if self.mode in BLIND else self.mode

    @property
    def uses_pretraining(self) -> bool:
        return self.head_mode == "decoupled"

    @property
    def recording(self) -> str:
        """Of other demonstrations than the experts': where they are."""
        return self.data.replace("{task}", self.task)

    @property
    def dialect(self) -> Dialect:
        """In which its demonstrations are written."""
        if self.data == EXPERTS:
            return DIALECTS["own"]
        if self.data.startswith("robomimic:"):
            return DIALECTS["robomimic"]
        return DIALECTS["libero" if self.family == "libero" else "mimicgen"]

    @property
    def checkpoint_steps(self) -> list[int]:
        """After which a policy is kept, the last step last."""
        return evenly(self.steps, self.checkpoints)

    @property
    def condition(self) -> dict[str, Any]:
        """What runs that are compared by mode have in common, seeds aside."""
        settings = asdict(self)
        for name in ("mode", "seed", "relearn_step"):  # relearn_step follows from adapter and mode
            del settings[name]
        return settings

    def identity(self, head: str) -> str:
        """16 hex digits of everything that decides the outcome; `head` is what it takes of the head, see heads.py.

        Names of heads and data are not part of it: the weights are.
        """
        left_out = {"head", "stage1", "signal"} | {key for key, value in LATER.items() if getattr(self, key) == value}
        settings = {key: value for key, value in asdict(self).items() if key not in left_out}
        if self.observation == "image":
            settings["eyes"] = EYES[self.family]
        text = json.dumps([VERSION, settings, head], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Run:
        values = LATER | values
        known = {field.name for field in fields(cls)}
        if set(values) != known:
            raise ValueError(
                f"a run has {', '.join(sorted(known))}; this one lacks {sorted(known - set(values))} and has "
                f"{sorted(set(values) - known)} beside: run it again with this release"
            )
        for field in fields(cls):
            given, default = values[field.name], field.default
            right = {"hidden": (int, type(None)), "stage1": (list, tuple), "lr": (int, float)}.get(
                field.name, (type(default),)
            )
            if not isinstance(given, right) or (isinstance(given, bool) and type(default) is not bool):
                raise ValueError(f"{field.name} of a run must be of the type of {default!r}, got {str(given)[:80]!r}")
        if not all(isinstance(source, str) for source in values["stage1"]):
            raise ValueError(f"stage1 of a run is a list of names, got {values['stage1']!r}")
        return cls(**values)

    def __str__(self) -> str:
        return f"{self.task} {self.backbone} {self.mode} seed {self.seed}"


@dataclass(frozen=True)
class Place:
    """Where and how a run is done. A result depends on none of it.

    Attributes:
        results: folder of the results.
        work: folder of what can be made again: recordings, heads, trained policies, videos.
        device: device to train on.
        workers: number of simulation processes.
        film: number of episodes of every block that are filmed.
        command: the command line, which is recorded.
    """

    results: Path = Path("outputs/reproduce/results")
    work: Path = Path("outputs/reproduce")
    device: str = "cpu"
    workers: int = 1
    film: int = 0
    command: str = ""


def on_images(run: Run, recipe: str) -> Run:
    """The run on pictures, with the steps and batches that they want, and the paper's learning rate in its recipe."""
    effort = IMAGE_EFFORT[run.family] | ({"lr": IMAGE_LR} if recipe == "paper" else {})
    if run.data != EXPERTS and run.family in OFFICIAL_STEPS:
        effort |= {"steps": OFFICIAL_STEPS[run.family]}
    return replace(run, observation="image", **effort)
