"""Heads of the runs: bundled, published, or pretrained here at first use and then shared by all runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from action_heads import ActionHead, golden
from action_heads.actions.layouts import ActionLayout
from action_heads.config import UNIVERSAL
from action_heads.io import files
from action_heads.pretrain.loop import pretrain
from action_heads.pretrain.settings import PretrainConfig
from action_heads.pretrain.trainer import before_training
from action_heads.training.optimiser import OptimiserConfig
from action_heads_lab.reproduce.config import EXPERTS, Place, Run
from action_heads_lab.reproduce.families import family_of, once
from action_heads_lab.reproduce.studies import OWN

# Width and depth (channels and levels of unet), and training steps of Stage 1. The Stage 2 bench compares "small".
SMALL, PAPER = "small", "paper"
SHAPES = {
    SMALL: {"mlp": (128, 4), "mixer": (128, 4), "transformer": (128, 4), "unet": (24, 3)},
    PAPER: {"mlp": (256, 8), "mixer": (256, 8), "transformer": (256, 8), "unet": (512, 3)},
}
STEPS = {SMALL: 1500, PAPER: 10_000}
BUNDLED = {
    ("mlp", "absolute"): "dae/mlp-5m-fk",
    ("mixer", "absolute"): "dae/mixer-5m-fk",
    ("mlp", "delta"): "dae/mlp-5m-fk-delta",
    ("mixer", "delta"): "dae/mixer-5m-fk-delta",
}


def action_of(run: Run) -> str:
    """Return whether the demonstrations have absolute or delta actions."""
    return ActionLayout.parse(run.dialect.layout).mode


def bundled(run: Run) -> str | None:
    """Return the bundled head of the paper's size, or None if the run uses another or there is none."""
    return BUNDLED.get((run.backbone, action_of(run))) if run.head == PAPER else None


def spelled(run: Run) -> Run:
    """Return the run with the head "paper" if it names the bundled head that this stands for, as one name of a run."""
    plain = replace(run, head=PAPER)
    return plain if run.head == bundled(plain) and _is_default(run) else run


def _is_default(run: Run) -> bool:
    """Return whether bundled heads were pretrained with the settings of a run."""
    return run.stage1 == Run.stage1 and run.signal == Run.signal and run.adapter in UNIVERSAL


def check(run: Run, head: ActionHead) -> None:
    """Raise a ValueError if a head cannot be that of a run."""
    found, name = head.config, f"the head {run.head}"
    if found.backbone != run.backbone:
        raise ValueError(
            f"{name} is a {found.backbone}, but the run is of a {run.backbone}. Choose "
            f"--backbone {found.backbone}, or another head with --head"
        )
    if found.space.mode != (mode := action_of(run)):
        raise ValueError(
            f"{name} predicts {found.space.mode} actions, but the demonstrations have {mode} ones. Name a head for "
            f"{mode} actions with --head, or leave --head out"
        )
    if found.horizon < run.execute:
        raise ValueError(
            f"{name} predicts {found.horizon} time steps, but the rollouts execute {run.execute} of each chunk. Name a "
            "head with a longer horizon with --head"
        )


def stage1(run: Run, root: Path) -> PretrainConfig | None:
    """Return the settings to pretrain the head of a run, or None if the head exists already."""
    if run.head not in SHAPES or (bundled(run) and _is_default(run)):
        return None
    if OWN in run.stage1 and run.data != EXPERTS:
        raise ValueError(
            f"--stage1 {OWN} is the motion of the experts. For {run.data}, name the source of its motion instead"
        )
    width, depth = SHAPES[run.head][run.backbone]
    own = f"npz:{family_of(run).motion(run, root)}?rate=native"
    data = tuple(own if source == OWN else source for source in run.stage1)
    config = PretrainConfig(
        name=f"{run.backbone}-{width}x{depth}",
        arch=run.backbone,
        width=width,
        depth=depth,
        data=data,
        signal=run.signal,
        mechanisms=() if run.adapter in UNIVERSAL else (run.adapter,),
        action=action_of(run),
        optimiser=OptimiserConfig(steps=STEPS[run.head]),
    )
    name = f"{config.name}-{files.fingerprint({}, str(sorted(config.outcome().items())))[:8]}"
    return replace(config, name=name, out=root / "heads" / name)


def needs_stage1(run: Run) -> bool:
    """Return whether a run needs the weights of its pretrained head, and not only its shape and statistics.

    A run on images is trained by `action-heads adapt`, which reads the head from its folder.
    """
    return run.uses_pretraining or run.observation == "image"


def pretrained(run: Run, place: Place) -> ActionHead:
    """Return the frozen head of a run, pretrained at the first use of a run that needs it.

    `in_mode` makes the heads of other modes from it.

    Raises:
        ValueError: a head given by name does not fit the run, see `check`.
    """
    config = stage1(run, place.work)
    if config is None:
        head = ActionHead.from_pretrained(bundled(run) or run.head, device=place.device)
        check(run, head)
        return head
    with once(config.folder):
        if not (config.folder / golden.NAME).exists():
            if OWN in run.stage1:
                family_of(run).make_motion(run, place)
            if not needs_stage1(run):
                return before_training(config).to(place.device)
            pretrain(config, f"action_heads_lab.reproduce for {run}")
    return ActionHead.from_pretrained(config.folder, device=place.device)
