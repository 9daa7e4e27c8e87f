"""Build an untrained policy and its training data from the settings and the recording, and check both.

N rows, a action of the head, d state, c condition, s observation steps
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from action_heads import modes
from action_heads._util.flags import FlagError, called, check_unset, option
from action_heads.actions.contract import Contract
from action_heads.actions.layouts import ActionLayout, layout_of
from action_heads.actions.normalize import ANY_UNIT, check_units, floored
from action_heads.adapt.cached import cached_outputs, encoding_on, some_outputs
from action_heads.adapt.inputs import content_of, weights_read
from action_heads.adapt.settings import AdaptConfig, flag
from action_heads.adapters import Adapter
from action_heads.data.formats import Recording, open_recording
from action_heads.data.windows import ObservedWindows, held_out
from action_heads.diffusion.continuing import check_mixes_time
from action_heads.encoders import ObservationEncoder
from action_heads.encoders.observation import GREY
from action_heads.head import ActionHead
from action_heads.io.output_cache import Outputs
from action_heads.observed_policy import ObservedPolicy

SAMPLED = 256  # rows whose keypoints give the statistics, if the keypoints of all rows are not cached
MOSTLY = 0.5  # share of rows without a rotation above which the layout is wrong, not the rows


class Built(NamedTuple):
    """A policy before its training, and the windows of its training.

    Attributes:
        policy: the policy.
        windows: the windows it trains on.
        held_out: the held-out windows if there are any.
        inputs: a hash of all that was read, by flag; see `Training.inputs`.
    """

    policy: ObservedPolicy
    windows: ObservedWindows
    held_out: ObservedWindows | None
    inputs: dict[str, str]


def build(config: AdaptConfig, device: torch.device | str = "cpu") -> Built:
    """Build the policy, on the CPU, and its data.

    Args:
        config: the settings.
        device: the device that computes what a frozen vision network gives for the images.

    Raises:
        FlagError: the settings do not fit the recording or the head. The message names the flags.
    """
    with flag("data"):
        recording = open_recording(config.spec)
    cameras = cameras_of(config, recording)
    state = state_of(config, recording)
    action = config.actions.action or recording.default_action
    with flag("action"):
        recording.check_columns([action])
    with flag("action_layout"):
        declared, names = config.actions, recording.column_names(action)
        layout = layout_of(declared.action_layout, recording.widths[action], names, declared.gripper)
    columns = torch.from_numpy(recording.column(action))
    numbers = torch.from_numpy(recording.numbers(state)) if state else torch.zeros(len(columns), 0)
    if config.spec.options.get("bad") == "skip":
        with flag("data"):
            kept = leave_out_bad(recording, layout, columns, numbers)
        columns, numbers = columns[kept], numbers[kept]
    check_finite(columns, "action", recording, [action])
    check_finite(numbers, "state", recording, state)
    check_rotations(columns, layout, recording)
    check_described(config, recording)
    out = held_out(recording, config.held_out, config.seed)
    trained_rows = np.repeat(~out, recording.lengths)
    contract = Contract(
        state,
        {name: recording.cameras[name] for name in cameras},
        action,
        str(layout),
        config.actions.gripper,
        recording.rate_hz,
        config.blind,
    )
    if config.start_from is None:
        policy = fresh(config, recording, contract, layout, columns[trained_rows], numbers[trained_rows])
    else:
        policy = continued(config, recording, contract)
        check_data(layout, columns[trained_rows])
    with encoding_on(device, policy.encoder):
        outputs = encode_images(config, policy, recording, np.flatnonzero(trained_rows))
    horizon = policy.policy.head.config.horizon
    check_horizon(config, policy.policy.head)
    actions = layout.encode(columns)
    with flag("action_layout"):
        x0 = policy.policy.normalizer.normalize(actions[trained_rows][:, None])
        check_units(x0, policy.policy.head.config.objective.clip, layout.space())
    seen = (recording, actions, numbers, cameras)
    windows = ObservedWindows(*seen, ~out, horizon, config.observation_steps, outputs)
    others = ObservedWindows(*seen, out, horizon, config.observation_steps, outputs) if out.any() else None
    read = {"--data": content_of(recording, (columns, numbers), policy)} | weights_read(config, policy)
    return Built(policy, windows, others, read)


def encode_images(
    config: AdaptConfig, policy: ObservedPolicy, recording: Recording, rows: np.ndarray
) -> dict[str, Outputs] | None:
    """Return the cached outputs of the vision network, if they are asked for, and standardise a new policy's keypoints.

    Args:
        config: the settings.
        policy: the policy.
        recording: the recording.
        rows: the rows (n,) that train.
    """
    encoder, outputs = policy.encoder, None
    if not encoder.cameras:
        return None
    if config.vision.cached:
        with flag("train_encoder"):
            outputs = cached_outputs(encoder, recording, config.blind)
    vision = encoder.config.vision
    if config.start_from is None and vision.pool == "keypoints" and not vision.train:
        if outputs is None:
            rows = rows[np.linspace(0, len(rows) - 1, min(len(rows), SAMPLED)).astype(int)]
            standardise_keypoints(policy, some_outputs(encoder, recording, rows, config.blind))
        else:
            standardise_keypoints(policy, {camera: outputs[camera][rows] for camera in encoder.cameras})
    return outputs


def cameras_of(config: AdaptConfig, recording: Recording) -> tuple[str, ...]:
    """Return the cameras named in the settings, or all of the recording."""
    if config.vision.encoder == "none":
        return ()
    with flag("cameras", "encoder"):
        recording.check_cameras(config.cameras)
    return config.cameras or tuple(recording.cameras)


def state_of(config: AdaptConfig, recording: Recording) -> tuple[str, ...]:
    """Return the state columns named in the settings, or the recording's usual ones."""
    if config.state == ("none",):
        return ()
    with flag("state"):
        recording.check_columns(config.state)
    own = config.state or recording.default_state(with_images=config.vision.encoder != "none")
    if not own:
        there = ", ".join(f"{name} ({width})" for name, width in recording.widths.items())
        warnings.warn(
            f"the policy reads no state, because {recording.source} has none of the usual columns. It has {there}. "
            "Choose columns with --state, or pass --state none to leave the state out",
            stacklevel=2,
        )
    return own


def leave_out_bad(recording: Recording, layout: ActionLayout, columns: Tensor, numbers: Tensor) -> Tensor:
    """Leave out episodes with rows that are not finite or hold no rotation, and return which rows (N) are kept.

    If most rows hold no rotation, the layout is wrong: `check_rotations` refuses it.
    """
    bad, none = ~(columns.isfinite().all(-1) & numbers.isfinite().all(-1)), layout.impossible(columns)
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
    bad = layout.impossible(columns)
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
        layout.check_rotations(low, high)
    with flag("gripper"):
        layout.check_gripper(low, high)


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


def fresh(
    config: AdaptConfig,
    recording: Recording,
    contract: Contract,
    layout: ActionLayout,
    columns: Tensor,
    numbers: Tensor,
) -> ObservedPolicy:
    """Return a policy with a new adapter and encoder, and the statistics of the training episodes."""
    with flag("head"):
        pretrained = ActionHead.from_pretrained(config.head)
    with flag("mode", "horizon", "action_layout"):
        head = modes.shaped(pretrained, config.mode, config.seed, layout.space(), config.actions.horizon)
    torch.manual_seed(config.seed)
    observed = config.observation(tuple(contract.sizes), numbers.shape[1])
    with flag("vlm") if config.vlm.model else flag("encoder", "text"), called(spelled):
        encoder = ObservationEncoder(observed)
        if config.text.model:
            encoder.learn_tasks(recording.tasks)
    check_encoder(config, encoder)
    check_images(config, contract, encoder)
    with flag("action_layout", "gripper"):
        normalizer = layout.normalizer({"min": columns.amin(0).numpy(), "max": columns.amax(0).numpy()})
    torch.manual_seed(config.seed)  # the adapter starts with the same weights after any encoder
    with flag("adapter", "through", "head"):
        adapter = config.adapter if config.vlm.model is None else replace(config.adapter, pool=config.vlm.pool)
        policy = head.attach(adapter.make(encoder.cond_dim), normalizer=normalizer)
    standardise(policy.adapter, encoder, numbers, contract)
    return ObservedPolicy(encoder, policy, contract)


def spelled(field: str) -> str:
    """Return the flag of a field that an observation encoder refuses, such as "vision.train"."""
    known = {"vision.backbone": "encoder", "vision.train": "train_encoder"}
    return option(known.get(field, field.removeprefix("vision.").replace(".", "_")))


def check_encoder(config: AdaptConfig, encoder: ObservationEncoder) -> None:
    """Refuse an encoder of images beside a VLM that sees them, and a learning rate of what does not train."""
    if config.vision.encoder is not None and encoder.vlm is not None and encoder.vlm.cameras:
        given, vlm = config.vision.encoder, config.vlm.model
        raise FlagError(f"--encoder is {given!r}, which has no effect: {vlm} encodes the images. Leave it out")
    if not encoder.num_trainable:
        with called(option):
            check_unset(config.optimiser, "nothing of the encoder trains. Leave it out", "encoder_lr")


def check_images(config: AdaptConfig, contract: Contract, encoder: ObservationEncoder) -> None:
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


def standardise(adapter: Adapter, encoder: ObservationEncoder, numbers: Tensor, contract: Contract) -> None:
    """Set the statistics by which a new adapter standardises the condition; those of a VLM's tokens come later.

    States are in metres and radians, and text vectors are large, so both are brought to one scale. Image features pass
    unchanged. `floored` bounds the deviation of each from below, in its own unit.
    """
    steps, state, text = encoder.config.observation_steps, state_statistics(numbers, contract), text_statistics(encoder)
    if encoder.vlm is None:
        features = len(encoder.cameras) * encoder.features
        unchanged = torch.zeros(features), torch.ones(features)
        parts = zip(unchanged, state, text, strict=True)
        return adapter.standard.set(*(torch.cat([*steps * (u, s), t]) for u, s, t in parts))  # type: ignore[operator]
    if "state" in adapter.standard:  # type: ignore[operator]
        adapter.standard["state"].set(*(s.repeat(steps) for s in state))  # type: ignore[index]
    if encoder.text is not None:
        adapter.standard["text"].set(*text)  # type: ignore[index]


def state_statistics(numbers: Tensor, contract: Contract) -> tuple[Tensor, Tensor]:
    """Return mean and divisors (d) of the states (N d); 0 and 1 without any, or if a blind policy gets zeros."""
    if not numbers.numel() or (contract.blind and not contract.sizes):
        return torch.zeros(numbers.shape[1]), torch.ones(numbers.shape[1])
    mean = numbers.double().mean(0)
    return mean.float(), floored(numbers.double().std(0, correction=0), mean).float()


def text_statistics(encoder: ObservationEncoder) -> tuple[Tensor, Tensor]:
    """Return mean and divisors (w) of the tasks' vectors; 0 and 1 for a trained map, which scales its own output."""
    text, config = encoder.text, encoder.config.text
    if text is None or (config and config.features):
        width = text.dim if text else 0
        return torch.zeros(width), torch.ones(width)
    vectors = torch.stack(list(text.known.values())).float()
    mean = vectors.mean(0)
    return mean, floored(vectors.std(0, correction=0), mean, ANY_UNIT)


def standardise_keypoints(policy: ObservedPolicy, keypoints: Mapping[str, Tensor]) -> None:
    """Standardise keypoints by those of training rows (n w), by camera, since no layer of the encoder does."""
    read = torch.cat([keypoints[camera] for camera in policy.encoder.cameras], dim=-1)
    middle = read.mean(0)
    divisors = floored(read.std(0, correction=0), middle, ANY_UNIT)
    standard, steps = policy.policy.adapter.standard, policy.encoder.config.observation_steps
    per_step = len(middle) + policy.encoder.config.state_dim
    if policy.encoder.vlm is not None:  # The state is then a source of its own.
        standard, per_step = standard["images"], len(middle)  # type: ignore[index]
    mean, std = standard.mean.clone(), standard.std.clone()  # type: ignore[operator]
    for first in range(0, steps * per_step, per_step):
        mean[first : first + len(middle)], std[first : first + len(middle)] = middle, divisors
    standard.set(mean, std)  # type: ignore[operator]


def continued(config: AdaptConfig, recording: Recording, contract: Contract) -> ObservedPolicy:
    """Return the policy of another run, with its statistics.

    Raises:
        FlagError: its settings are not those of this run, so its weights would mean something else.
    """
    assert config.start_from is not None
    with flag("start_from"):
        policy = ObservedPolicy.from_pretrained(config.start_from)
        theirs, head = policy.contract, policy.policy.head
        widths, adapter = policy.encoder.config, policy.policy.adapter.config
        named = None if config.head == AdaptConfig.head else ActionHead.from_pretrained(config.head).fingerprint()
        observed = config.observation(tuple(contract.sizes), widths.state_dim)
        settings = {  # those of the other run and of this one
            "action_layout": (theirs.action_layout, contract.action_layout),
            "gripper": (theirs.gripper, contract.gripper),
            "rate of the data in Hz": (theirs.rate_hz or contract.rate_hz, contract.rate_hz),
            "horizon": (head.config.horizon, config.actions.horizon or head.config.horizon),
            "state": (theirs.state, contract.state),
            "cameras": (tuple(theirs.sizes), tuple(contract.sizes)),
            "observation_steps": (widths.observation_steps, config.observation_steps),
            "encoder": (widths, observed),
            "head": (head.original.fingerprint(), named or head.original.fingerprint()),
            "adapter": (adapter.mechanism, config.adapter.mechanism),
            "hidden": (adapter.hidden_dim, config.adapter.hidden_dim or adapter.hidden_dim),
            "through": (adapter.through, config.adapter.through or adapter.through),
            "relearn_step": (adapter.relearn_step, config.adapter.relearn_step or adapter.relearn_step),
            "vlm_pool": (adapter.pool, config.vlm.pool if config.vlm.model else "mean"),
        }
        if other := [f"{name} {was}, here {now}" for name, (was, now) in settings.items() if was != now]:
            raise ValueError(
                f"{config.start_from} was trained with other settings: {'; '.join(other)}. Its weights and statistics "
                "would not fit. Use the same settings, or train without --start-from"
            )
        if config.mode != "decoupled":
            raise ValueError("--mode chooses a fresh head, but the run to start from has a head. Leave --mode out")
    if config.text.model:
        policy.encoder.learn_tasks(recording.tasks)
    return ObservedPolicy(policy.encoder, policy.policy, contract)
