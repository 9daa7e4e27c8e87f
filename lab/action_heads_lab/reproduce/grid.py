"""Choose runs by options, estimate their cost, and do them."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import tyro

from action_heads import golden
from action_heads._util.flags import check_choices, check_least, check_unset, mistake
from action_heads._util.machine import cores
from action_heads._util.names import nearest
from action_heads._util.progress import progress_bar
from action_heads.data.spec import OBSERVED, Spec
from action_heads_lab.reproduce import heads, results
from action_heads_lab.reproduce.config import ALL_MODES, EXPERTS, RECIPES, SEEDS, Place, Run, on_images
from action_heads_lab.reproduce.costs import Costs, preparing
from action_heads_lab.reproduce.families import family_of
from action_heads_lab.reproduce.run import finished, perform, read
from action_heads_lab.reproduce.studies import STUDIES
from action_heads_lab.sim.tasks import check_starts

ALL_BACKBONES = ("mlp", "mixer")
OFFICIAL = "official"
PUBLISHED = Path("results")  # results of the repository; runs write there only with --out


@dataclass(frozen=True)
class Reproduce:
    """Train and roll out policies, with one result per run. Finished runs are skipped, interrupted ones resume.

    Attributes:
        all: run every task in the modes decoupled, normal and random-frozen with mlp and mixer, and once blind.
        task: task of the family, or several separated by commas.
        mode: decoupled, normal, random-frozen or blind, or several separated by commas.
        backbone: mlp, mixer, transformer or unet, or several separated by commas.
        seeds: training seeds, separated by commas.
        observe: states, or images of two cameras with an encoder that trains too, as in the paper.
        data: demonstrations: experts (recorded here), official (those of the paper, from the Hub), or
            lerobot:FOLDER_OR_REPO or robomimic:FILE.hdf5, where {task} stands for the task. All but experts need
            --observe images.
        recipe: settings of the adapter: paper (FiLM through every block), code (a few thousand parameters), or both.
        head: small (128 x 4, pretrained here in minutes), paper (its size), or a name, a folder or a Hub id.
        study: table or figure of the paper to run instead of --mode and --backbone: table-2, table-3, table-4 or
            figure-3.
        stage1: data of Stage 1, as for `action-heads pretrain --data`, or own; several separated by commas.
        signal: conditioning of Stage 1: code, joints, pose or none.
        demos: number of demonstrations; 0 for the default of the task.
        steps: training steps of Stage 2; 0 for the default of the task.
        episodes: number of episodes to roll out in each task.
        checkpoints: evenly spaced policies to roll out; 0 for the default of the family, 5 on MimicGen and 1 elsewhere.
        share: part of the runs that this process does, such as 0/2 and 1/2.
        workers: number of simulation processes; by default one per core, divided among the shares.
        device: cpu or cuda.
        out: folder of the results; by default results/<family> in the folder of --work.
        work: folder of recordings, heads and trained policies.
        videos: number of episodes to film in every block of 25.
        dry_run: list the runs and their estimated cost, and stop.
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
    videos: int = 0
    dry_run: bool = False

    def __post_init__(self):
        if not self.all and not self.task:
            raise ValueError("no task is given. Name one with --task, or use --all")
        check_least(self, 0, "demos", "steps", "checkpoints", "videos")
        check_least(self, 1, "episodes", "workers")
        check_choices(self, recipe=RECIPES, observe=("states", "images"), **({"study": STUDIES} if self.study else {}))
        if self.data != EXPERTS and self.observe != "images":
            raise ValueError(f"--data {self.data} needs --observe images, since its policies use the cameras")
        if self.data != EXPERTS and self.demos:
            raise ValueError(f"--data {self.data} is used whole. Leave --demos out")
        if self.data not in (EXPERTS, OFFICIAL) and Spec.parse(self.data).kind not in OBSERVED:
            kinds = ", ".join(f"{kind}:..." for kind in OBSERVED)
            raise ValueError(f"--data {self.data} has no images; choose from {EXPERTS}, {OFFICIAL}, {kinds}")
        if self.all or self.study:
            chosen = f"--study {self.study}" if self.study else "--all"
            check_unset(self, f"{chosen} says which modes and backbones run", "mode", "backbone")
        if self.study:
            self._check_study()
        if self.head not in heads.SHAPES:
            check_unset(self, f"--head {self.head} is pretrained already", "stage1", "signal")
        if not all(map(str.isdecimal, listed(self.seeds))):
            raise mistake("seeds", f"must be numbers separated by commas, such as 0,42, got {self.seeds!r}")
        part, _, of = self.share.partition("/")
        if not (part.isdecimal() and of.isdecimal() and int(part) < int(of)):
            raise mistake("share", f"is PART/PARTS with parts counted from 0, such as 0/2, got {self.share!r}")

    def _check_study(self) -> None:
        """Raise if a flag is set that the study decides in any of its runs."""
        cells = STUDIES[self.study]
        decided = [name for name in ("stage1", "signal") if any(name in cell for cell in cells)]
        check_unset(self, f"--study {self.study} says which adapter every run has", "recipe")
        check_unset(self, f"--study {self.study} decides it", *decided)
        compared = [name for name in ("backbone", *decided) if len({cell.get(name) for cell in cells}) > 1]
        if compared and self.head not in heads.SHAPES:
            raise ValueError(
                f"--study {self.study} compares heads that differ in {' and '.join(compared)}, but --head {self.head} "
                f"is one head. Choose --head {' or '.join(heads.SHAPES)}"
            )

    @property
    def part(self) -> tuple[int, int]:
        """The part of the runs that this process does, counted from 0, and the number of parts."""
        part, of = map(int, self.share.split("/"))
        return part, of


def runs(options: Reproduce, family: str) -> list[Run]:
    """Return the runs, seed by seed, so that an early stop leaves complete comparisons of fewer seeds."""
    seeds = list(dict.fromkeys(map(int, listed(options.seeds))))
    known = family_of(Run(family=family)).tasks
    data = demonstrations(options, family)
    tasks = listed(options.task) if options.task else list(known)
    if unknown := [task for task in tasks if task not in known]:
        near = nearest(unknown[0], known)
        raise ValueError(f"unknown task {', '.join(unknown)}{near} of {family}; its tasks are {', '.join(known)}")
    found = []
    for seed in seeds:
        for task in tasks:
            for cell in cells(options, blind=options.all and seed == seeds[0]):
                run = Run(family=family, task=task, seed=seed, head=options.head, episodes=options.episodes)
                run = replace(run, data=data, stage1=tuple(listed(options.stage1)), signal=options.signal)
                run = family_of(run).effort(replace(run, **RECIPES[options.recipe] | cell))
                run = on_images(run, options.recipe) if options.observe == "images" else run
                own = ("demos", "steps", "checkpoints")
                run = replace(run, **{name: getattr(options, name) or getattr(run, name) for name in own})
                found.append(heads.spelled(run))
    check_starts(family_of(found[0]).subtasks(found[0])[0], options.episodes)
    return list(dict.fromkeys(found))  # modes may share a run, as controls of several signals


def only_run(family: str, **options: Any) -> Run:
    """Return the one run that these options of `Reproduce` choose."""
    (run,) = runs(Reproduce(**options), family)
    return run


def listed(text: str) -> list[str]:
    """Return the parts of a list that is separated by commas, each once and without the spaces around it."""
    return list(dict.fromkeys(part.strip() for part in text.split(",")))


def demonstrations(options: Reproduce, family: str) -> str:
    """Return the demonstrations of a family's runs, a value of `Run.data`."""
    official = family_of(Run(family=family)).official
    if options.data == OFFICIAL and official is None:
        raise ValueError(f"there is no official recording of {family}. Name one: robomimic:FILE.hdf5 or lerobot:FOLDER")
    return official if official and options.data == OFFICIAL else options.data


def cells(options: Reproduce, blind: bool) -> list[dict[str, Any]]:
    """Return the settings in which the runs of one task and seed differ."""
    if options.study:
        return STUDIES[options.study]
    modes = (*ALL_MODES, *(["blind"] if blind else [])) if options.all else listed(options.mode)
    backbones = ALL_BACKBONES if options.all else listed(options.backbone)
    return [{"backbone": backbone, "mode": mode} for backbone in backbones for mode in modes]


def reproduce(options: Reproduce, family: str) -> None:
    """Do the share of the runs that belongs to this process."""
    part, of = options.part
    place = Place(
        results=options.out or options.work / "results" / family,
        work=options.work,
        device=options.device,
        workers=max(1, cores() // of) if options.workers is None else options.workers,
        videos=options.videos,
        command=shlex.join(["uv", "run", *sys.argv]),
    )
    here = family_of(Run(family=family)).installed()
    mine = [replace(run, assets=here) for run in runs(options, family)[part::of]]
    left = [run for run in mine if not _is_finished(run, place)]
    print(f"{len(mine)} runs, {len(mine) - len(left)} of them already finished; {estimate(left, place)}", flush=True)
    if others := published(left, PUBLISHED / family, place):
        print(f"{others} of the remaining runs are published in {PUBLISHED / family}; yours go to {place.results}")
    if options.dry_run:
        print("\n".join(map(str, left)))
        return
    bar = progress_bar(left, desc=f"{family}, share {options.share}", unit="run")
    for run in bar:
        bar.write(str(perform(run, place)))


def _is_finished(run: Run, place: Place) -> bool:
    """Return whether a run has a result, and raise a ValueError if its recording has changed since."""
    path = _finished(run, place)
    return path is not None and bool(read(path, run, place))


def _finished(run: Run, place: Place) -> Path | None:
    """Return the result file of a run, without pretraining its head to find out."""
    if config := heads.stage1(run, place.work):
        if path := results.by_recipe(place.results, run, str(config.name)):
            return path
        if run.uses_pretraining or not (config.folder / golden.NAME).exists():
            return None  # controls of several signals share results, whose heads have several names
    return finished(run, place, heads.pretrained(run, place))


def published(left: Sequence[Run], folder: Path, place: Place) -> int:
    """Return how many runs have a result in `folder`, unless results are written to that folder."""
    if not folder.is_dir() or folder.resolve() == place.results.resolve():
        return 0
    recipes = [(run, heads.stage1(run, place.work)) for run in left]
    return sum(results.by_recipe(folder, run, str(config.name)) is not None for run, config in recipes if config)


def estimate(left: Sequence[Run], place: Place) -> str:
    """Return the estimated cost as text, by the rates of finished runs, or of published ones until one finished."""
    costs = Costs(results.load_all(place.results) if place.results.is_dir() else [])
    guessed = [run for run in left if not costs.knows(run)]
    if any(run.observation == "image" for run in guessed):
        return "their cost is unknown, since no run on images has finished"
    runs_alone, before = sum(map(costs.seconds, left)), preparing(left, place.work)
    basis = "a guess from published runs" if guessed else "from finished runs"
    return f"about {hours(runs_alone)} remain ({basis})" + (
        f", and {hours(before)} for recordings and Stage 1 (a guess)" if before else ""
    )


def hours(seconds: float) -> str:
    """Return CPU seconds as hours, or as minutes below one hour."""
    return f"{seconds / 3600:.1f} CPU hours" if seconds >= 3600 else f"{max(1, round(seconds / 60))} CPU minutes"
