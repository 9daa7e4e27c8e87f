"""The head of a run: bundled, published, or pretrained here at its first use, and then shared by all runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from action_heads import ActionHead
from action_heads.actions.layouts import ActionLayout
from action_heads.config import UNIVERSAL
from action_heads.io import files
from action_heads.pretrain.loop import pretrain
from action_heads.pretrain.settings import PretrainConfig
from action_heads.training.optimiser import OptimiserConfig
from action_heads_lab.reproduce.config import EXPERTS, Run
from action_heads_lab.reproduce.families import family_of, once
from action_heads_lab.reproduce.studies import OWN

# Width and depth (of unet: channels and levels), and steps of Stage 1. "small" is what the Stage 2 bench compares.
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
}


def action_of(run: Run) -> str:
    """Of its demonstrations: absolute or delta."""
    return ActionLayout.parse(run.dialect.layout).mode


def bundled(run: Run) -> str | None:
    """The head of the paper's size that is here, if the run wants that and there is one."""
    return BUNDLED.get((run.backbone, action_of(run))) if run.head == PAPER else None


def stage1(run: Run, root: Path) -> PretrainConfig | None:
    """How the head of a run is pretrained; None for one that exists already."""
    default = run.stage1 == Run.stage1 and run.signal == Run.signal and run.adapter in UNIVERSAL
    if run.head not in SHAPES or (bundled(run) and default):
        return None
    if OWN in run.stage1 and run.data != EXPERTS:
        raise ValueError(
            f"--stage1 {OWN} is the motion of our experts; of {run.data} name the set of its motion instead"
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


def pretrained(run: Run, root: Path, device: str = "cpu") -> ActionHead:
    """The pretrained, frozen head of a run, whatever its mode: `in_mode` makes the others of it."""
    config = stage1(run, root)
    if config is None:
        return ActionHead.from_pretrained(bundled(run) or run.head, device=device)
    with once(config.folder):
        if not (config.folder / "golden.safetensors").exists():
            if OWN in run.stage1:
                family_of(run).make_motion(run, root)
            pretrain(config, f"action_heads_lab.reproduce for {run}")
    return ActionHead.from_pretrained(config.folder, device=device)


def taken_of(run: Run, head: ActionHead) -> str:
    """What a run takes of its head: the fingerprint, or, of what starts at random, shape and statistics alone."""
    if run.uses_pretraining:
        return head.fingerprint()
    return files.fingerprint(head.normalizer.state_dict(), head.config.contract())
