"""Settings of a pretraining run: one frozen, validated dataclass, which is also the command line."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro

from action_heads._util.flags import Shown, check_choices, check_least, mistake
from action_heads._util.flat import Settings
from action_heads.actions.spaces import EE_ABSOLUTE, EE_DELTA
from action_heads.backbones import BACKBONES
from action_heads.card import origin
from action_heads.config import UNIVERSAL, HeadConfig
from action_heads.diffusion.levels import LEVELS
from action_heads.diffusion.objectives import PREDICTIONS, ObjectiveConfig
from action_heads.fit import PRECISIONS
from action_heads.pretrain import objective
from action_heads.training.optimiser import OptimiserConfig

SIZES = {
    "0.3m": (64, 8),
    "0.7m": (128, 4),
    "1m": (128, 8),
    "2m": (160, 8),
    "5m": (256, 8),
    "10m": (384, 8),
}  # width, depth
# Of what is built otherwise: a unet's channels double at each of its levels.
SIZES_OF = {"unet": {"1m": (24, 3), "2m": (40, 3), "5m": (72, 3), "10m": (104, 3), "244m": (512, 3)}}
SPACES = {"absolute": EE_ABSOLUTE, "delta": EE_DELTA}
DATA = ("synthetic:panda",)  # recorded motion added nothing: docs/results/stage1-signals.md


@dataclass(frozen=True)
class PretrainConfig(Settings):
    """Stage 1: pretrain a head on motion alone, without a single observation.

    Attributes:
        out: folder of the head, and of the state to go on from.
        name: what the head will be called.
        arch: mlp (the paper's DP-MLP), mixer or transformer (both mix time), or unet (its DP-C).
        size: 0.3m to 10m, parameters of an mlp's denoiser; of unet 1m to 10m or 244m.
        width: residual width, instead of the size's.
        depth: blocks (of unet: levels), instead of the size's.
        horizon: steps of a chunk.
        action: absolute poses, or delta: the change of pose in a step.
        data: source of motion; repeat it to mix several.
        signal: what conditions Stage 1: code, joints, pose or none.
        prediction: of the network: x0, epsilon, v or flow.
        levels: of noise: uniform, logit_normal, beta or last.
        task_boxes: share of chunks scaled to a random task's workspace.
        mechanisms: adapters the head will take.
        init: head of the same shape to go on from, instead of random weights.
        precision: fp32, bf16, or auto: bf16 where it is faster.
        seed: of weights, data and noise.
        save_every: steps between saved states and held-out losses.
        workers: threads that draw batches ahead.
        licence: of the head, for its record and card.
        credit: SPEC=whose a source is and its licence; repeat it.
    """

    out: Annotated[Path | None, Shown("heads/<arch>-<size>", "DIR")] = None
    name: Annotated[str | None, Shown("the folder's name")] = None
    arch: str = "mlp"
    size: str = "5m"
    width: Annotated[int | None, Shown("by size", "INT")] = None
    depth: Annotated[int | None, Shown("by size", "INT")] = None
    horizon: int = 16
    action: str = "absolute"
    # Empty stands for `DATA`: a default that is not empty would be extended by the user's values, not replaced.
    data: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, Shown(" ".join(DATA), "SOURCE")] = ()
    signal: str = "code"
    prediction: str = "x0"
    levels: str = "uniform"
    task_boxes: float = 0.8
    mechanisms: Annotated[tuple[str, ...], Shown(f"{' '.join(UNIVERSAL)}, as far as arch can", "NAMES")] = ()
    init: Annotated[str | None, Shown("random weights", "HEAD")] = None
    optimiser: OptimiserConfig = field(default=OptimiserConfig())
    precision: str = "auto"
    seed: int = 0
    save_every: int = 500
    workers: int = 1
    licence: str = "apache-2.0"
    credit: Annotated[
        tuple[str, ...], tyro.conf.UseAppendAction, Shown("what is known of the source", "SPEC=TEXT")
    ] = ()

    # Where things go, what they are called and owed to, what is saved when: nothing that a weight depends on.
    WEIGHTLESS = ("out", "name", "licence", "credit", "save_every", "workers")

    def __post_init__(self):
        check_choices(self, arch=BACKBONES, action=SPACES, signal=objective.SIGNALS, prediction=PREDICTIONS)
        check_choices(self, levels=LEVELS, precision=PRECISIONS)
        if self.size not in self.sizes:
            raise ValueError(f"{self.arch} has no size {self.size!r}; choose one of {', '.join(self.sizes)}")
        check_least(self, 1, "save_every", "workers")
        check_least(self, 0, "seed")
        if not 0 <= self.task_boxes <= 1:
            raise mistake("task_boxes", f"is a share between 0 and 1, got {self.task_boxes}")
        if not self.licence.strip():
            raise mistake("licence", "is empty; name one, such as apache-2.0 or cc-by-4.0")
        self.credits  # noqa: B018 - its own checks, as those of the head, before any data is loaded
        self.head()

    @property
    def folder(self) -> Path:
        """Return the folder of the head. No default names a corpus: only the user knows what the data is."""
        resized = self.width or self.depth
        size = "{}x{}".format(*self.shape) if resized else self.size
        return self.out or Path("heads") / f"{self.arch}-{size}"

    @property
    def sizes(self) -> dict[str, tuple[int, int]]:
        """Width and depth by name, as far as `arch` has them."""
        return SIZES_OF.get(self.arch, SIZES)

    @property
    def shape(self) -> tuple[int, int]:
        """Width and depth."""
        width, depth = self.sizes[self.size]
        return self.width or width, self.depth or depth

    @property
    def sources(self) -> tuple[str, ...]:
        """The data to use."""
        return self.data or DATA

    @property
    def credits(self) -> dict[str, str]:
        """Source -> whose it is, its licence. Split at a source's end: its options may hold a = too."""
        known = {*self.sources, *map(origin, self.sources)}
        found = {}
        for text in self.credit:
            spec = max((s for s in known if text.startswith(f"{s}=")), key=len, default="")
            if not spec or not (owed := text[len(spec) + 1 :].strip()):
                raise ValueError(
                    f"credit {text!r} names no source of this run, or nothing that it is owed: write "
                    f"'SPEC=whose it is, its licence', where SPEC is one of {', '.join(self.sources)}"
                )
            found[spec] = owed
        return found

    def head(self) -> HeadConfig:
        """Return the head that this run makes."""
        width, depth = self.shape
        return HeadConfig(
            name=self.name or self.folder.resolve().name,
            backbone=self.arch,
            width=width,
            depth=depth,
            horizon=self.horizon,
            mechanisms=self.mechanisms,
            coded=self.signal == "code",
            objective=ObjectiveConfig(prediction=self.prediction),
            space=SPACES[self.action],
        )

    def outcome(self) -> dict[str, Any]:
        """Return what decides the weights, ready for JSON: all but `WEIGHTLESS`, and the data that is used."""
        values = super().outcome() | {"data": list(self.sources)}
        # Runs of before `init` existed have no such key.
        return {key: value for key, value in values.items() if key != "init" or value is not None}
