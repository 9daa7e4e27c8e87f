"""Build an untrained policy and its training data from the settings and the recording, and check both.

Axes: N rows, a action of the head, d state, c condition, s observation steps.
"""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from action_heads import modes
from action_heads._util.flags import called, option
from action_heads.actions.contract import Contract
from action_heads.actions.layouts import ActionLayout, layout_of
from action_heads.actions.normalize import check_units
from action_heads.adapt.cached import cached_outputs, encoding_on, some_outputs
from action_heads.adapt.checks import (
    check_data,
    check_described,
    check_encoder,
    check_finite,
    check_horizon,
    check_images,
    check_rotations,
    leave_out_bad,
)
from action_heads.adapt.inputs import content_of, weights_read
from action_heads.adapt.settings import AdaptConfig, flag
from action_heads.adapt.standardise import standardise, standardise_keypoints
from action_heads.data.formats import Recording, open_recording
from action_heads.data.windows import ObservedWindows, held_out
from action_heads.encoders import ObservationEncoder
from action_heads.head import ActionHead
from action_heads.io.output_cache import Outputs
from action_heads.observed_policy import ObservedPolicy

SAMPLED = 256  # rows whose keypoints give the statistics, if the keypoints of all rows are not cached


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
    check_images(contract, encoder)
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
