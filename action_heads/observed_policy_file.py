"""The folder of a saved `ObservedPolicy`: policy.json, weights of encoder and adapter, and if needed the head."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from action_heads import adapter_file, head_file
from action_heads._util.extras import pip
from action_heads._util.limits import fits, shown
from action_heads.actions.contract import Contract
from action_heads.config import SEAL as SEAL_OF_HEAD
from action_heads.config import strict
from action_heads.encoders import ObservationEncoder, rebuild
from action_heads.head import ActionHead
from action_heads.io import files
from action_heads.io.seal import Seal
from action_heads.io.weights import check_savable
from action_heads.pointer import is_kept
from action_heads.policy import ConditionedHead

if TYPE_CHECKING:
    from action_heads.observed_policy import ObservedPolicy

VERSION = 1
CONFIG, ENCODER, HEAD = "policy.json", "encoder.safetensors", "head"
KINDS = {  # the keys of policy.json and their types, besides its fingerprint
    "version": int,
    "observation": dict[str, Any],
    "architecture": dict[str, Any],
    "contract": dict[str, Any],
    "fingerprints": dict[str, str],
    "training": dict[str, Any],
}
# policy.json and the adapter's file hold the fingerprints of the adapter and the head, so this one covers them too.
DIFFERENT = (
    "one of them was changed, or they come from different saves, which a save that was killed leaves too. Save the "
    "policy again, download its folder again, or call `action-heads adapt` again if it wrote them"
)
SEAL = Seal(
    ("training",),
    f"{{path}} and {ENCODER} have fingerprint {{found}}, but were saved with {{given}}: {DIFFERENT}",
)
Parts = tuple[ObservationEncoder, ConditionedHead, Contract, dict[str, Any]]


def save(policy: ObservedPolicy, folder: Path) -> Path:
    """Write a policy, and its head if that is saved nowhere else. A head that trains along is written as it is now.

    All files are written together: a save that fails changes none. One that is killed between two renames leaves files
    of two saves, which `load` refuses. policy.json is the last, so that a folder without it holds no policy yet.
    """
    head, weights = policy.policy.head, policy.encoder.state_dict()
    original, place, contents = head.original, head.original.source, {}
    check_savable(weights, folder / ENCODER)
    check_savable(adapter_file.own_state(policy.policy), folder / adapter_file.NAME)  # before the head is written
    # A head that trains on is kept nowhere. One in the folder, of an older policy, would be taken for this one's.
    if not head.frozen or not is_kept(original) or in_a_policy(original) or has_head(folder):
        check_unchanged(original)
        of_head, fingerprint = head_file.contents(original, folder / HEAD)
        written = head_file.at(folder / HEAD)
        place = head_file.place(original, folder / HEAD, fingerprint) if head.frozen else written
        contents = {f"{HEAD}/{name}": data for name, data in of_head.items()}
    contents |= adapter_file.contents(policy.policy, folder, place)
    record = {
        "version": VERSION,
        "observation": policy.encoder.config.to_dict(),
        "architecture": policy.encoder.architecture,
        "contract": dataclasses.asdict(policy.contract),
        "fingerprints": {
            "encoder": files.fingerprint(weights),
            "adapter": files.fingerprint(adapter_file.own_state(policy.policy)),
        },
        "training": policy.training_record,
    }
    record["fingerprint"] = SEAL.of(record, weights)
    contents |= {ENCODER: files.tensors_as_bytes(weights), CONFIG: (json.dumps(record, indent=2) + "\n").encode()}
    files.write_together(folder, contents)
    if head.frozen:
        original.source = place
    return folder


def load(folder: Path, head: ActionHead | str | Path | None, vlm: str | None = None, **kwargs: Any) -> Parts:
    """Load the parts of an `ObservedPolicy`; `kwargs` as in `ObservedPolicy.from_pretrained`."""
    weights, _ = files.load_tensors(folder / ENCODER)
    record = read(folder / CONFIG, weights)
    with files.naming(folder / CONFIG):
        contract = strict(Contract, record["contract"], "the contract")
        encoder = rebuild.load(record["observation"], record["architecture"], weights, folder / ENCODER, vlm)
    options = {name: value for name, value in kwargs.items() if name not in ("revision", "subfolder")}
    own = head is None and has_head(folder)
    try:
        policy = ConditionedHead.from_pretrained(folder, head=folder / HEAD if own else head, **options)
    except adapter_file.WrongHead as error:
        if not own:
            raise
        raise files.WeightFileError(f"{adapter_file.NAME} and {HEAD}/ in {folder} do not fit: {DIFFERENT}") from error
    if files.fingerprint(adapter_file.own_state(policy)) != record["fingerprints"].get("adapter"):
        raise files.WeightFileError(f"{adapter_file.NAME} and {CONFIG} in {folder} do not fit: {DIFFERENT}")
    with files.naming(folder / CONFIG):
        contract.check_space(policy.head.config.space)
    return encoder, policy, contract, record["training"]


def read(path: Path, weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """Read policy.json, and check its version, its types, and that it belongs to the encoder's weights."""
    record = files.read_json(path)
    version = record.get("version") if isinstance(record, dict) else None
    if type(version) is not int or version != VERSION:
        raise ValueError(
            f"{path} has version {shown(version)}, but this release of action-heads reads version {VERSION}. Upgrade "
            f"with `{pip()} install -U action-heads`, or train again."
        )
    if record.keys() - {SEAL.key} != KINDS.keys() or not all(fits(record[key], kind) for key, kind in KINDS.items()):
        raise ValueError(
            f"{path} is damaged: it must hold {', '.join(KINDS)}, each of its type. Download or save it again."
        )
    SEAL.check_or_warn(record, weights, path, ". Load and save the policy once to add it")
    if record["fingerprints"].get("encoder") != files.fingerprint(weights):
        raise files.WeightFileError(f"{ENCODER} and {CONFIG} in {path.parent} do not fit: {DIFFERENT}")
    return record


def has_head(folder: Path) -> bool:
    """Return whether a policy's folder holds its head. One without a config is of a save that did not get that far."""
    return (folder / HEAD / head_file.CONFIG).exists()


def in_a_policy(head: ActionHead) -> bool:
    """Return whether the place of a head is in the folder of a saved policy."""
    place = Path(head.source["path"] or "")
    return place.name == HEAD and (place.parent / CONFIG).exists()


def check_unchanged(head: ActionHead) -> None:
    """Raise a ValueError unless a head can be written with the fingerprint that its adapter's file names.

    A head that was rounded to a shorter dtype after it was loaded, or that has no weights, can't.
    """
    if head.device.type != "meta" and SEAL_OF_HEAD.of(head.config.to_dict(), head.state_dict()) == head.fingerprint():
        return
    held = "no weights of it are" if head.device.type == "meta" else f"only a copy rounded to {head.dtype} is"
    raise ValueError(
        f"the policy can't be saved together with its head {head.config.name}, since {held} in memory. Load the head "
        "again in float32, or save it to a folder of its own first and load it from there."
    )
