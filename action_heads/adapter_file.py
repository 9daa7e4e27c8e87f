"""The file of a saved adapter: one safetensors file with the adapter's config and a pointer to its head in the header.

Weights and config are in one file, so they cannot be separated. The file holds the adapter, the policy's own normalizer
if it has one, and the projections of a reshaped head.
"""

from __future__ import annotations

import dataclasses
import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from action_heads._util.extras import pip
from action_heads._util.limits import fits, shown
from action_heads._util.own_generator import OwnGenerator
from action_heads.actions.normalize import Normalizer
from action_heads.actions.spaces import ActionSpace
from action_heads.adapters.config import AdapterConfig
from action_heads.config import strict
from action_heads.io import files
from action_heads.io.files import HEADER, WeightFileError, load_tensors, naming, parse_json
from action_heads.io.seal import Seal
from action_heads.io.weights import check_layout, check_same_build, check_savable, check_values

if TYPE_CHECKING:
    from action_heads.adapters import Adapter
    from action_heads.head import ActionHead
    from action_heads.policy import ConditionedHead

VERSION = 3
UNSEALED = 2  # the version of files without their own fingerprint
NAME = "adapter.safetensors"
SEAL = Seal()
SINCE = {"pool": "mean", "per_step": False}  # settings that older files lack, with their values then
KEYS = {"version", "adapter", "own_normalizer", "head"}  # and "reshape" for a reshaped head
KINDS = {"version": int, "adapter": Any, "own_normalizer": bool, "head": dict[str, str | None]}
RESHAPE = dict[str, Any] | None
RESHAPE_KEYS = {"space", "horizon"}  # and "over_time" if maps over time were resampled
# How `reshape.resample` does that. Files that lack it are of a release that did it otherwise.
OVER_TIME = "interpolated"
POINTER = {"name", "fingerprint", "path", "revision", "subfolder"}


class WrongHead(ValueError):
    """An error about an adapter that was trained on another head."""


def save(policy: ConditionedHead, folder: Path) -> Path:
    """Write the policy's own tensors and the pointer to its head, replacing an older file atomically."""
    files.write_together(folder, contents(policy, folder))
    return folder


def contents(policy: ConditionedHead, folder: Path, place: Mapping[str, str | None] | None = None) -> dict[str, bytes]:
    """Check the policy's own tensors, and return the file to write to `folder`, as a dict from its name to its content.

    Args:
        policy: the policy.
        folder: the folder, for messages.
        place: the place of the head, if it is written together with the adapter: path, revision and subfolder. Only
            then may the head train along.
    """
    head = policy.head
    if not head.frozen and place is None:
        raise ValueError(
            "save_adapter does not save the head, whose weights train along here and would be lost. Call head.freeze() "
            "and head.save_pretrained(folder) first."
        )
    head.assert_frozen(thorough=True)
    weights = own_state(policy)
    check_savable(weights, folder / NAME)
    check_same_build(policy.adapter, rebuilt(policy), folder / NAME, weights)
    header = describe(policy)
    header["head"] |= place or {}
    return {NAME: files.tensors_as_bytes(weights, {HEADER: json.dumps(header, sort_keys=True)})}


def rebuilt(policy: ConditionedHead) -> Adapter:
    """Return the adapter that loading would build, without memory for its weights."""
    config = policy.adapter.config
    with torch.device("meta"):
        adapter = config.make(config.cond_dim)
        policy.head.build(adapter)
    return adapter


def describe(policy: ConditionedHead) -> dict[str, Any]:
    """Return the content of the header: the adapter's config, the pointer to its head, and the fingerprint of both."""
    head = policy.head
    config: dict[str, Any] = {
        "version": VERSION,
        "adapter": dataclasses.asdict(policy.adapter.config),
        "own_normalizer": policy.own_normalizer is not None,
        "head": head.pointer(),
    }
    if head.original is not head:
        config["reshape"] = {"space": head.config.space.to_dict(), "horizon": head.config.horizon}
        if resamples(head.original, head.config.horizon):
            config["reshape"]["over_time"] = OVER_TIME
    return config | {"fingerprint": SEAL.of(sealed(config), own_state(policy))}


def resamples(original: ActionHead, horizon: int) -> bool:
    """Return whether a head has maps over time that `reshape` resamples for this horizon."""
    return bool(original.backbone.over_time) and horizon != original.config.horizon


def sealed(config: dict[str, Any]) -> dict[str, Any]:
    """Return the part of a header that its fingerprint covers: not the head's place, since the head may move."""
    return config | {"head": config["head"]["fingerprint"]}


def load(head: ActionHead, file: Path) -> ConditionedHead:
    """Return a new policy of a head and an adapter's file."""
    with naming(file):
        return _load(head, file)


def _load(head: ActionHead, file: Path) -> ConditionedHead:
    tensors, config = read(file)
    saved, found, head = config["head"], head.pointer(), head.original
    if saved["fingerprint"] != found["fingerprint"]:
        raise WrongHead(
            f"the adapter in {file} was trained on the head {saved['name']} with fingerprint {saved['fingerprint']}, "
            f"but this head is {found['name']} with fingerprint {found['fingerprint']}. Load the head that the adapter "
            "was trained on."
        )
    what = f"the adapter's config in {file}"
    adapter = strict(AdapterConfig, config["adapter"], what, SINCE)
    # As in `head_file.load`: neither the user's RNG nor a surrounding `torch.device` has a part in this.
    with OwnGenerator(), torch.device("cpu"):
        if shape := config.get("reshape"):
            if resamples(head, shape["horizon"]) and shape.get("over_time") != OVER_TIME:
                raise ValueError(
                    f"{file} belongs to {saved['name']} in chunks of {shape['horizon']}, whose maps over time another "
                    "release of action-heads resampled in another way. Use that release, or train the adapter again."
                )
            # It stays in float32, since its projections train on.
            head = head.reshape(space=ActionSpace.from_dict(shape["space"]), horizon=shape["horizon"])
        normalizer = Normalizer.identity(head.config.space) if config["own_normalizer"] else None
        policy = head.attach(adapter.make(adapter.cond_dim), normalizer=normalizer)
    expected = own_state(policy)
    check_layout(tensors, expected, file)
    check_values(tensors, expected, file)
    SEAL.check(sealed(config), tensors, file)
    with torch.no_grad():
        for name, tensor in expected.items():
            tensor.copy_(tensors[name])
    return policy.eval()


def load_into(policy: ConditionedHead, other: ConditionedHead, path: str | Path) -> None:
    """Copy the own tensors of `other`, which was loaded from `path`, into a policy of the same shape."""
    if (mine := shape(policy)) != (theirs := shape(other)):
        raise ValueError(
            f"{path} holds {theirs}, but this policy has {mine}. Build a new policy with head.load_adapter(path)."
        )
    policy.adapter.load_state_dict(other.adapter.state_dict())
    with torch.no_grad():
        for name, p in policy.head.projections.items():
            p.copy_(other.head.projections[name])
    policy.own_normalizer = other.own_normalizer


def shape(policy: ConditionedHead) -> str:
    """Describe the settings that must agree so that weights fit."""
    return f"{policy.adapter.config} for chunks of {policy.head.config.horizon} x {policy.head.config.space.parts}"


def own_state(policy: ConditionedHead) -> dict[str, Tensor]:
    """Return views of the tensors to save: adapter, own normalizer, and projections of a reshaped head."""
    state = {f"adapter.{name}": tensor for name, tensor in policy.adapter.state_dict().items()}
    if policy.own_normalizer is not None:
        state |= {f"normalizer.{name}": tensor for name, tensor in policy.own_normalizer.state_dict().items()}
    return state | {f"head.{name}": tensor.detach() for name, tensor in policy.head.projections.items()}


def read(file: Path) -> tuple[dict[str, Tensor], dict]:
    """Read the tensors and the config of a saved adapter, and check the config's version, keys and types."""
    tensors, metadata = load_tensors(file)
    try:
        config = parse_json(metadata[HEADER], file)
        version = config["version"]
    except (KeyError, TypeError) as error:
        raise WeightFileError(f"{file} was not written by save_adapter: its header lacks a config") from error
    if version not in (UNSEALED, VERSION):
        raise ValueError(
            f"{file} has version {version!r}, but this release reads versions {UNSEALED} and {VERSION}. Upgrade with "
            f"`{pip()} install -U action-heads`, or save the adapter again."
        )
    wanted = KEYS if version == UNSEALED else KEYS | {"fingerprint"}
    if (
        config.keys() - {"reshape"} != wanted
        or not isinstance(config["head"], dict)
        or config["head"].keys() != POINTER
    ):
        raise ValueError(f"{file} has a config with missing or unknown keys in its header: {shown(config, 2000)}")
    if not all(fits(config.get(key), kind) for key, kind in KINDS.items()) or not fits(config.get("reshape"), RESHAPE):
        raise ValueError(f"{file} has a config with values of wrong types in its header: {shown(config)}")
    if config.get("reshape") is not None and config["reshape"].keys() - {"over_time"} != RESHAPE_KEYS:
        raise ValueError(
            f"{file} has an invalid reshape in its header: {shown(config['reshape'])}; expected space and horizon"
        )
    if version == UNSEALED:
        warnings.warn(
            f"{file} is of an older release and has no fingerprint, so damaged weights cannot be detected. Load and "
            "save it once with this release to add one.",
            stacklevel=4,
        )
    return tensors, config
