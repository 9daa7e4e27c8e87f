"""Checks of a recording, a policy and the settings before training, and the episodes that are left out.

Axes: N rows, d columns.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from action_heads._util.flags import FlagError, called, check_unset, option
from action_heads.actions import layout_checks
from action_heads.actions.contract import Contract
from action_heads.actions.layouts import ActionLayout
from action_heads.adapt.settings import AdaptConfig, flag
from action_heads.data.formats import Recording
from action_heads.diffusion.continuing import check_mixes_time
from action_heads.encoders import ObservationEncoder
from action_heads.encoders.observation import GREY
from action_heads.head import ActionHead

MOSTLY = 0.5  # share of rows without a rotation above which the layout is wrong, not the rows


def leave_out_bad(recording: Recording, layout: ActionLayout, columns: Tensor, numbers: Tensor) -> Tensor:
    """Leave out episodes with rows that are not finite or hold no rotation, and return which rows (N) are kept.

    If most rows hold no rotation, the layout is wrong: `check_rotations` refuses it.
    """
    bad, none = ~(columns.isfinite().all(-1) & numbers.isfinite().all(-1)), layout_checks.impossible(layout, columns)
    if none.double().mean() <= MOSTLY:
        bad |= none
    kept = recording.leave_out_rows(bad.numpy(), "is NaN or infinite, or its action holds no rotation.")
    return torch.from_numpy(kept)


def check_finite(rows: Tensor, name: str, recording: Recording, columns: Sequence[str]) -> None:
    """Refuse rows that are not finite. Training would find a NaN too, but not say where it is."""
    wrong = ~rows.isfinite()
    if (bad := wrong.any(-1)).any():
        labels = recording.labels(columns)
        named = ", ".join(labels[i] for i in wrong[int(bad.int().argmax())].nonzero().flatten().tolist()[:5])
        with flag(name):
            raise ValueError(where(bad, recording, "are NaN or infinite", f" in {named}"))


def check_rotations(columns: Tensor, layout: ActionLayout, recording: Recording) -> None:
    """Refuse rows with rotations that are none, such as quaternions of zeros, which would train on NaN."""
    bad = layout_checks.impossible(layout, columns)
    with flag("action_layout"):
        if bad.double().mean() > MOSTLY:
            raise ValueError(
                f"the layout '{layout}' has a rotation, but most rows of the action hold none there, such as "
                f"{columns[bad][0].tolist()}. Declare the layout that the columns have"
            )
        if bad.any():
            raise ValueError(where(bad, recording, f"hold no rotation where the layout '{layout}' has one"))


def where(bad: Tensor, recording: Recording, what: str, more: str = "") -> str:
    """Return the text of an error about these rows (n) of a recording, with the first of them and their episodes."""
    first = int(bad.int().argmax())
    episodes = sorted({recording.place(row).split(",")[0] for row in bad.nonzero().flatten().tolist()[:100_000]})
    listed = ", ".join(episodes[:5]) + (", ..." if len(episodes) > 5 else "")
    return (
        f"{int(bad.sum())} of {len(bad)} rows {what}, the first is row {first} ({recording.place(first)}){more}. These "
        f"episodes have such rows: {listed}. Correct or delete them in {recording.source}, or leave "
        "these episodes out with ?bad=skip"
    )


def check_data(layout: ActionLayout, columns: Tensor) -> None:
    """Check the actions (n d) that a trained policy goes on with, as those of a new one are for its normalizer."""
    low, high = columns.amin(0), columns.amax(0)
    with flag("action_layout"):
        layout_checks.check_rotations(layout, low, high)
    with flag("gripper"):
        layout_checks.check_gripper(layout, low, high)


def check_described(config: AdaptConfig, recording: Recording) -> None:
    """Refuse a text model for a recording without task descriptions."""
    vlm = config.vlm.config
    if config.text.model:
        reader, remedy = "text", "train without --text"
    elif vlm is not None and vlm.reads_task:
        reader, remedy = "vlm", "set a --vlm-prompt without {task}"
    else:
        return
    if not all(recording.tasks):
        with flag(reader):
            raise ValueError(
                f"{recording.source} has no descriptions of its tasks, in meta/tasks.parquet or language_instruction. "
                f"Add them, or {remedy}"
            )


def check_horizon(config: AdaptConfig, head: ActionHead) -> None:
    """Refuse to execute more actions than a chunk has, and prefixes on a head that cannot continue a chunk."""
    if config.rollout.task and (execute := config.rollout.execute) > head.config.horizon:
        raise ValueError(
            f"--execute {execute} is more than the {head.config.horizon} actions of a chunk. Lower it, or set --horizon"
        )
    if config.noise.prefixes:
        with flag("prefixes", "head"):
            check_mixes_time(head)


def check_encoder(config: AdaptConfig, encoder: ObservationEncoder) -> None:
    """Refuse an encoder of images beside a VLM that sees them, and a learning rate of what does not train."""
    if config.vision.encoder is not None and encoder.vlm is not None and encoder.vlm.cameras:
        given, vlm = config.vision.encoder, config.vlm.model
        raise FlagError(f"--encoder is {given!r}, which has no effect: {vlm} encodes the images. Leave it out")
    if not encoder.num_trainable:
        with called(option):
            check_unset(config.optimiser, "nothing of the encoder trains. Leave it out", "encoder_lr")


def check_images(contract: Contract, encoder: ObservationEncoder) -> None:
    """Check that the encoder takes images of the cameras' sizes.

    A VLM does not run, but its processor does, which must leave places for the images in the prompt.
    """
    with flag("crop", "resize", "encoder"):
        encoder.check_sizes(contract.sizes)
    if encoder.vlm is not None:
        # Not black: SmolVLM takes images of zeros for padding.
        images = {name: torch.full((1, 3, *size), GREY) for name, size in contract.sizes.items()}
        with flag("vlm", "vlm_prompt", "vlm_template"):
            encoder.vlm.inputs(images, ["move"])
