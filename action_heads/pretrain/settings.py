"""Settings of a pretraining run, which are also the options of its command line."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro

from action_heads._util.flags import Shown, check_choices, check_least, mistake
from action_heads._util.flat import Settings
from action_heads.actions.spaces import EE_ABSOLUTE, EE_DELTA
from action_heads.backbones import BACKBONES
from action_heads.config import UNIVERSAL, HeadConfig
from action_heads.diffusion.levels import LEVELS
from action_heads.diffusion.objectives import PREDICTIONS, ObjectiveConfig
from action_heads.fit import PRECISIONS
from action_heads.io.sources import origin
from action_heads.pretrain import objective
from action_heads.training.optimiser import NO_DEVICE, OptimiserConfig

SIZES = {
    "0.3m": (64, 8),
    "0.7m": (128, 4),
    "1m": (128, 8),
    "2m": (160, 8),
    "5m": (256, 8),
    "10m": (384, 8),
}  # width, depth
# Sizes of other backbones. The channels of a unet double at each level.
SIZES_OF = {"unet": {"1m": (24, 3), "2m": (40, 3), "5m": (72, 3), "10m": (104, 3), "244m": (512, 3)}}
SPACES = {"absolute": EE_ABSOLUTE, "delta": EE_DELTA}
DATA = ("synthetic:panda",)  # recorded motion added nothing: docs/results/stage1-signals.md


@dataclass(frozen=True)
class PretrainConfig(Settings):
    """Stage 1: pretrain a head on motion alone, without observations.

    Attributes:
        out: folder for the head and for the training state.
        name: name of the head.
        arch: backbone: mixer, mlp (the paper's DP-MLP), transformer or unet (its DP-C).
        size: parameters of the denoiser, about: 0.3m to 10m; of a unet 1m to 10m or 244m.
        width: residual width, in place of that of the size.
        depth: number of blocks (of a unet: levels), in place of that of the size.
        horizon: time steps of a chunk.
        rank: numbers of the motion code, through which the step modulation passes too.
        action: absolute poses, or delta, the change of pose per time step.
        data: source of motion; repeat it to mix several.
        signal: signal that conditions Stage 1: code, joints, pose or none.
        prediction: prediction of the network: x0, epsilon, v or flow.
        levels: distribution of the noise levels: uniform, logit_normal, beta or last.
        task_boxes: share of chunks scaled to the workspace of a random task.
        mechanisms: mechanisms whose adapters the head can take.
        init: head of the same shape whose weights to start from.
        precision: fp32, bf16, or auto, which is bf16 where it is faster.
        graph: on CUDA, replay each training step as a CUDA graph; not run on a GPU yet.
        seed: seed of weights, data and noise.
        save_every: training steps between saved states and held-out losses.
        workers: threads that draw batches ahead.
        licence: licence of the head, for its record and card.
        credit: owner and licence of a source; repeat it for several.
    """

    out: Annotated[Path | None, Shown("heads/<arch>-<size>", "DIR")] = None
    name: Annotated[str | None, Shown("the folder's name")] = None
    arch: str = "mixer"
    size: str = "5m"
    width: Annotated[int | None, Shown("by size", "INT")] = None
    depth: Annotated[int | None, Shown("by size", "INT")] = None
    horizon: int = HeadConfig.horizon
    rank: int = HeadConfig.rank
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
    graph: bool = False
    seed: int = 0
    save_every: int = 500
    workers: int = 1
    licence: str = "apache-2.0"
    credit: Annotated[
        tuple[str, ...], tyro.conf.UseAppendAction, Shown("what is known of the source", "SPEC=TEXT")
    ] = ()

    # Settings that do not affect the weights: paths, names, credits, saving.
    WEIGHTLESS = ("out", "name", "licence", "credit", "save_every", "workers")
    LATER = ("init", "rank", "graph")
    NO_OPTION = NO_DEVICE

    def __post_init__(self):
        check_choices(self, arch=BACKBONES, action=SPACES, signal=objective.SIGNALS, prediction=PREDICTIONS)
        check_choices(self, levels=LEVELS, precision=PRECISIONS)
        if self.size not in self.sizes:
            raise mistake("size", f"is {self.size!r}; choose one of {', '.join(self.sizes)}, the sizes of {self.arch}")
        check_least(self, 1, "save_every", "workers", "width", "depth")
        check_least(self, 0, "seed")
        if not 0 <= self.task_boxes <= 1:
            raise mistake("task_boxes", f"must be between 0 and 1, got {self.task_boxes}")
        if not self.licence.strip():
            raise mistake("licence", "is empty. Name one, such as apache-2.0 or cc-by-4.0")
        self.credits  # noqa: B018 - checks the credits, and the next line the head, before any data is loaded
        self.head()

    @property
    def folder(self) -> Path:
        """Return the folder of the head. Its default does not name a corpus, since only the user knows the data."""
        resized = self.width or self.depth
        size = "{}x{}".format(*self.shape) if resized else self.size
        return self.out or Path("heads") / f"{self.arch}-{size}"

    @property
    def sizes(self) -> dict[str, tuple[int, int]]:
        """Return the width and depth of each size that `arch` has."""
        return SIZES_OF.get(self.arch, SIZES)

    @property
    def shape(self) -> tuple[int, int]:
        """Return width and depth."""
        width, depth = self.sizes[self.size]
        return self.width or width, self.depth or depth

    @property
    def sources(self) -> tuple[str, ...]:
        """Return the sources of motion to use."""
        return self.data or DATA

    @property
    def credits(self) -> dict[str, str]:
        """Return owner and licence by source. A source may itself contain "=", so the text is split at its end."""
        known = {*self.sources, *map(origin, self.sources)}
        found = {}
        for text in self.credit:
            spec = max((s for s in known if text.startswith(f"{s}=")), key=len, default="")
            if not spec or not (owed := text[len(spec) + 1 :].strip()):
                raise ValueError(
                    f"credit {text!r} does not name a source of this run with its owner and licence. Write "
                    f"'SPEC=owner, licence', where SPEC is one of {', '.join(self.sources)}"
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
            rank=self.rank,
            mechanisms=self.mechanisms,
            coded=self.signal == "code",
            objective=ObjectiveConfig(prediction=self.prediction),
            space=SPACES[self.action],
        )

    def outcome(self) -> dict[str, Any]:
        """Return the settings that decide the weights, ready for JSON: all but `WEIGHTLESS`, and the sources used."""
        return super().outcome() | {"data": list(self.sources)}
