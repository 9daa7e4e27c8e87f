"""Many runs: which they are, what they will cost, and the loop over them."""

from __future__ import annotations

import shlex
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from tqdm import tqdm

from action_heads.adapt.settings import KINDS
from action_heads.extras import require
from action_heads.machine import cores
from action_heads.pretrain.sources import Spec
from action_heads.reproduce import heads, results
from action_heads.reproduce.config import ALL_MODES, EXPERTS, RECIPES, SEEDS, Run, on_images, with_recipe
from action_heads.reproduce.families import family_of
from action_heads.reproduce.run import Place, finished, perform
from action_heads.reproduce.studies import STUDIES

tyro = require("tyro", "train")

ALL_BACKBONES = ("mlp", "mixer")
OFFICIAL = "official"
GUESS = 200.0  # CPU seconds a run, before one has finished


@dataclass(frozen=True)
class Reproduce:
    """Train and roll out, and leave one result a run. What is finished is skipped; what was killed goes on.

    Attributes:
        all: every task, decoupled, normal and random-frozen, mlp and mixer; and decoupled once blind.
        task: of the family; several by commas.
        mode: decoupled, normal, random-frozen, blind; several by commas.
        backbone: mlp, mixer, transformer, unet; several by commas.
        seeds: of training, by commas.
        observe: states, or images: of two cameras, by an encoder that trains along, as in the paper.
        data: demonstrations: of our experts; official, those of the paper from the Hub; or lerobot:FOLDER_OR_REPO or
            robomimic:FILE.hdf5, where {task} stands for the task. What is not the experts' is seen through cameras.
        recipe: of the adapter: paper (FiLM through every block), code (a few thousand parameters), or both.
        head: small (128 x 4, pretrained here in minutes), paper (its size), or a name, a folder or a Hub id.
        study: a table or figure of the paper instead of modes and backbones: table-2, table-3, table-4 or figure-3.
        stage1: data of Stage 1, as for `action-heads pretrain --data`, or own; several by commas.
        signal: what conditions Stage 1: code, joints, pose or none.
        demos: demonstrations; 0 for the task's own number.
        steps: of Stage 2; 0 for the task's own number.
        episodes: to roll out, of each task.
        checkpoints: to roll out, evenly spaced over training; 0 for the family's own number, 5 on MimicGen, else 1.
        share: this process' part of the runs, such as 0/2 and 1/2.
        workers: processes of simulation; if not given, one a core, divided among the shares.
        device: cpu or cuda.
        out: where results go; results/<family> if not given.
        work: where recordings, heads and trained policies go.
        film: so many episodes of every 25 are filmed.
        dry_run: list the runs and what they will cost, and stop.
    """

    all: bool = False
    task: Annotated[str, tyro.conf.arg(aliases=("--suite",))] = ""
    mode: str = "decoupled"
    backbone: str = "mlp"
    seeds: str = ",".join(map(str, SEEDS))
    observe: str = "states"
    data: str = EXPERTS
    recipe: str = "paper"
    head: str = heads.SMALL
    study: str = ""
    stage1: str = ",".join(Run.stage1)
    signal: str = Run.signal
    demos: int = 0
    steps: int = 0
    episodes: int = Run.episodes
    checkpoints: int = 0
    share: str = "0/1"
    workers: int | None = None
    device: str = "cpu"
    out: Path | None = None
    work: Path = Path("outputs/reproduce")
    film: int = 0
    dry_run: bool = False

    def __post_init__(self):
        if not self.all and not self.task:
            raise ValueError("name a --task, or take --all")
        if self.recipe not in RECIPES:
            raise ValueError(f"unknown recipe {self.recipe!r}; choose from {', '.join(RECIPES)}")
        if self.observe not in ("states", "images"):
            raise ValueError(f"unknown observe {self.observe!r}; choose from states, images")
        if self.data != EXPERTS and self.observe != "images":
            raise ValueError(f"--data {self.data} is seen through its cameras: add --observe images")
        if self.data != EXPERTS and self.demos:
            raise ValueError(f"of --data {self.data} all demonstrations are taken: leave --demos out")
        if self.data not in (EXPERTS, OFFICIAL) and Spec.parse(self.data).kind not in KINDS:
            kinds = ", ".join(f"{kind}:..." for kind in KINDS)
            raise ValueError(f"--data {self.data} has no pictures; choose from {EXPERTS}, {OFFICIAL}, {kinds}")
        if self.study and self.study not in STUDIES:
            raise ValueError(f"unknown study {self.study!r}; choose from {', '.join(STUDIES)}")
        part, of = self.part
        if not 0 <= part < of:
            raise ValueError(f"a share is part/of with part counted from 0, such as 0/2; got {self.share}")

    @property
    def part(self) -> tuple[int, int]:
        part, _, of = self.share.partition("/")
        return int(part), int(of)


def runs(options: Reproduce, family: str) -> list[Run]:
    """Seed by seed, so that an early stop leaves whole comparisons of fewer seeds."""
    seeds = [int(seed) for seed in options.seeds.split(",")]
    known = family_of(Run(family=family)).tasks
    data = demonstrations(options, family)
    tasks = options.task.split(",") if options.task else list(known)
    if unknown := [task for task in tasks if task not in known]:
        raise ValueError(f"unknown task {', '.join(unknown)} of {family}; it has {', '.join(known)}")
    found = []
    for seed in seeds:
        for task in tasks:
            for cell in cells(options, blind=options.all and seed == seeds[0]):
                run = Run(family=family, task=task, seed=seed, head=options.head, episodes=options.episodes)
                run = replace(run, data=data, stage1=tuple(options.stage1.split(",")), signal=options.signal)
                run = family_of(run).effort(replace(with_recipe(run, options.recipe), **cell))
                run = on_images(run, options.recipe) if options.observe == "images" else run
                own = ("demos", "steps", "checkpoints")
                found.append(replace(run, **{name: getattr(options, name) or getattr(run, name) for name in own}))
    return found


def demonstrations(options: Reproduce, family: str) -> str:
    """Of a family's runs, as of `Run.data`."""
    official = family_of(Run(family=family)).official
    if options.data == OFFICIAL and official is None:
        raise ValueError(f"there is no official recording of {family}: name one, robomimic:FILE.hdf5 or lerobot:FOLDER")
    return official if official and options.data == OFFICIAL else options.data


def cells(options: Reproduce, blind: bool) -> list[dict[str, Any]]:
    """What differs between the runs of one task and seed."""
    if options.study:
        return STUDIES[options.study]
    modes = (*ALL_MODES, *(["blind"] if blind else [])) if options.all else options.mode.split(",")
    backbones = ALL_BACKBONES if options.all else options.backbone.split(",")
    return [{"backbone": backbone, "mode": mode} for backbone in backbones for mode in modes]


def reproduce(options: Reproduce, family: str) -> None:
    """Do this process' share of the runs."""
    part, of = options.part
    place = Place(
        results=options.out or Path("results") / family,
        work=options.work,
        device=options.device,
        workers=max(1, cores() // of) if options.workers is None else options.workers,
        film=options.film,
        command=shlex.join(["uv", "run", *sys.argv]),
    )
    mine = runs(options, family)[part::of]
    left = [run for run in mine if not _is_finished(run, place)]
    print(f"{len(mine)} runs, {len(mine) - len(left)} of them finished before; {estimate(left, place)}", flush=True)
    if options.dry_run:
        print("\n".join(map(str, left)))
        return
    for run in tqdm(left, desc=f"{family}, share {options.share}", unit="run"):
        tqdm.write(str(perform(run, place)))


def _is_finished(run: Run, place: Place) -> bool:
    config = heads.stage1(run, place.work)
    if config and not (config.folder / "golden.safetensors").exists():
        return False  # its head is not even pretrained
    return finished(run, place, heads.pretrained(run, place.work)) is not None


def _alike(run: Run) -> tuple[tuple, ...]:
    """What runs of one cost have in common, the likest first."""
    seen, head = run.observation, run.head
    return (seen, head, run.task, run.steps), (seen, head), (seen,)


def estimate(left: Sequence[Run], place: Place) -> str:
    """What it will cost, from what finished runs took: of the same task and size, else of the same observation."""
    known: dict[tuple, list[float]] = {}
    for result in results.load_all(place.results) if place.results.is_dir() else []:
        took = result.seconds["cpu"]
        for key in _alike(result.run):
            known.setdefault(key, []).append(took)

    def seconds(run: Run) -> float:
        return next((statistics.median(known[key]) for key in _alike(run) if key in known), GUESS)

    guessed = [run for run in left if _alike(run)[-1] not in known]
    if any(run.observation == "image" for run in guessed):
        return "what they will cost is not known: none on images is finished"
    total = sum(map(seconds, left))
    basis = f"at a guess, {GUESS:.0f} s a run" if guessed else "by what finished runs took"
    return f"about {total / 3600:.1f} CPU hours are left, recordings and Stage 1 not counted ({basis})"
