"""The head of a policy: built from the flags, or rebuilt from the record in a checkpoint.

A policy's checkpoint has all weights, including the frozen head's, and its config records what they belong to. So
reloading needs no download. A rebuilt head has random weights until its own are loaded.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from action_heads import ActionHead, HeadConfig, adapter_file, modes
from action_heads._util import flags
from action_heads._util.limits import fits, shown
from action_heads._util.own_generator import OwnGenerator
from action_heads.actions.spaces import ActionSpace
from action_heads.io import files, hub
from action_heads.io.seal import Seal
from action_heads.reshape import ReshapedHead

if TYPE_CHECKING:
    from lerobot_policy_dae.configuration_dae import DAEConfig


SEAL = Seal()  # covers all weights of a checkpoint, trained ones included, and the record of what they belong to
RECORD = {
    "config": dict[str, Any],
    "original": dict[str, Any] | None,
    "pointer": dict[str, str | None] | None,
    "frozen": str | None,
}


logger = logging.getLogger(__name__)


spelled = "--policy.{}".format  # a field as a flag
flag = partial(flags.flag, spell=spelled)


def horizon_of(config: DAEConfig) -> int:
    """Return the time steps of a chunk of the named head, from its config file alone."""
    with flag("head"):
        folder = hub.find(config.head, ["config.json"], revision=config.head_revision)
        return HeadConfig.from_dict(files.read_json(folder / "config.json")).horizon


def make_head(config: DAEConfig, space: ActionSpace) -> ActionHead:
    """Return the head that the flags name, in its mode, for an action space and a horizon."""
    with flag("head"):
        pretrained = ActionHead.from_pretrained(config.head, revision=config.head_revision)
    return modes.shaped(pretrained, config.head_mode, config.head_seed, space, config.horizon)


def record(head: ActionHead) -> dict[str, Any]:
    """Return what rebuilding a head needs and the fingerprint of its frozen weights, ready for JSON."""
    reshaped = head.original is not head
    return {
        "config": _bare(head.config),
        "original": _bare(head.original.config) if reshaped else None,
        "pointer": head.pointer() if head.frozen else None,
        "frozen": frozen_fingerprint(head) if head.frozen else None,
    }


def make_again(saved: dict[str, Any]) -> ActionHead:
    """Rebuild a recorded head with random weights. Call `seal` once its own weights are loaded."""
    check_record(saved)
    config = HeadConfig.from_dict(saved["config"])
    with OwnGenerator(), torch.device("cpu"):
        if saved["original"] is None:
            head = ActionHead(config)
        else:
            # The checkpoint has only the backbone of the original head, so the original's other parts get no values.
            original = ActionHead(HeadConfig.from_dict(saved["original"])).to("meta")
            head = ReshapedHead(config, original)
    if saved["pointer"] is not None:
        pointer = dict(saved["pointer"])
        pointer.pop("name")
        head.original._fingerprint = pointer.pop("fingerprint")
        head.original.source = pointer
    return head


def check_record(saved: Any) -> None:
    """Raise a ValueError unless a record has the parts of `record`, each of its type."""
    if not isinstance(saved, dict) or saved.keys() != RECORD.keys():
        raise ValueError(
            f"The checkpoint's record of the head must have the keys {', '.join(RECORD)}, got {shown(saved)}. "
            "Train or save the policy again."
        )
    for name, kind in RECORD.items():
        if not fits(saved[name], kind):
            raise ValueError(
                f"The checkpoint's record of the head has the invalid value {shown(saved[name])} for {name!r}. The "
                "checkpoint is damaged; download or save it again."
            )
    if saved["pointer"] is not None and saved["pointer"].keys() != adapter_file.POINTER:
        found = shown(saved["pointer"])
        raise ValueError(
            f"'pointer' in the checkpoint's record of the head must have the keys {sorted(adapter_file.POINTER)}, got "
            f"{found}. The checkpoint is damaged; download or save it again."
        )


def seal(head: ActionHead, saved: dict[str, Any]) -> None:
    """Freeze a head whose weights were loaded. Raise a WeightFileError unless they have the recorded fingerprint."""
    if saved["frozen"] is None:
        return
    head.freeze()
    if (found := frozen_fingerprint(head)) != saved["frozen"]:
        raise files.WeightFileError(
            f"The frozen weights of {head.config.name} have fingerprint {found}, but the policy was trained with "
            f"{saved['frozen']}. The checkpoint is damaged or mixes two policies; download or save it again."
        )


def check_precise(head: ActionHead) -> None:
    """Raise a ValueError if the frozen weights to be saved were rounded by a cast, so could not be loaded."""
    if head.frozen and head.dtype.itemsize < torch.float32.itemsize:
        raise ValueError(
            f"The frozen weights of {head.config.name} are no longer those that the policy was built with; they are "
            f"{head.dtype} now. A cast rounds them. Save the policy before it is cast, or load it again."
        )


def frozen_fingerprint(head: ActionHead) -> str:
    """Return the fingerprint of the weights that never train: all but the projections of a reshaped head."""
    weights = {name: tensor for name, tensor in head.state_dict().items() if name not in head.projections}
    return files.fingerprint(weights, head.config.contract())


def check_whole(weights: Mapping[str, Tensor], built: Mapping[str, Any], file: str) -> None:
    """Raise an error if weights differ from those that were saved. Only warn if the checkpoint has no fingerprint."""
    if not SEAL.check(built, weights, file):
        logger.warning(
            "%s was saved before checkpoints had a fingerprint, so damage to its trained weights goes unnoticed",
            file,
        )


def _bare(config: HeadConfig) -> dict[str, Any]:
    """Return a config without its training record, which stays with the head's own files."""
    return dataclasses.replace(config, training={}, fingerprint="").to_dict()
