"""The folder of a saved head: config.json, model.safetensors and a model card."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch
from torch import nn

from action_heads._util.own_generator import OwnGenerator
from action_heads.card import head_card
from action_heads.config import SEAL, HeadConfig
from action_heads.head import ActionHead
from action_heads.io import files
from action_heads.io.weights import check_layout, check_same_build, check_savable, check_values
from action_heads.pointer import is_kept

CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"


def save(head: ActionHead, folder: Path, dtype: torch.dtype | None = None) -> Path:
    """Write a head, and note the folder as its place if it is kept nowhere else."""
    written, fingerprint = contents(head, folder, dtype)
    files.write_together(folder, written)
    head.source = place(head, folder, fingerprint)
    return folder


def place(head: ActionHead, folder: Path, fingerprint: str) -> dict[str, str | None]:
    """Return the place of a head that is written to a folder under a fingerprint; its own if it is kept there."""
    if not head.frozen or fingerprint != head.fingerprint() or is_kept(head):
        return head.source
    return at(folder)


def at(folder: Path) -> dict[str, str | None]:
    """Return a folder as the place of a head."""
    return {"path": str(folder.absolute()), "revision": None, "subfolder": None}


def contents(head: ActionHead, folder: Path, dtype: torch.dtype | None = None) -> tuple[dict[str, bytes], str]:
    """Check a head, and return the files to write to a folder, by name, and the head's fingerprint in them.

    Its weights are cast to `dtype`. There is a card among the files if the folder has none.
    """
    head.assert_frozen(thorough=True)
    weights = {
        name: tensor if dtype is None or name.startswith("normalizer.") else tensor.to(dtype)
        for name, tensor in head.state_dict().items()
    }
    check_savable(weights, folder / WEIGHTS)
    parts = nn.ModuleDict({"backbone": head.backbone, "modulation": head.modulation})
    check_same_build(parts, head.config.outline(), folder / WEIGHTS, weights)
    config = dataclasses.replace(head.config, fingerprint=SEAL.of(head.config.to_dict(), weights))
    found = {WEIGHTS: files.tensors_as_bytes(weights), CONFIG: config.to_json().encode()}
    if not (folder / CARD).exists():
        found[CARD] = head_card(head).encode()
    return found, config.fingerprint


def load(folder: Path) -> ActionHead:
    """Load the head in a folder, in float32 and not frozen yet."""
    with files.naming(folder / CONFIG):
        config = HeadConfig.from_dict(files.read_json(folder / CONFIG))
    tensors, _ = files.load_tensors(folder / WEIGHTS)
    check_layout(tensors, config.layout(), folder / WEIGHTS)  # The layout takes no memory, unlike a head.
    # Building draws random weights, which must not change the user's RNG. A surrounding `torch.device`, such as that in
    # which transformers builds models, does not count.
    with OwnGenerator(), torch.device("cpu"):
        head = ActionHead(config)
    check_values(tensors, head.state_dict(), folder / WEIGHTS)
    head.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
    # The check covers the loaded weights instead of the file's, so it would notice an error in loading too.
    SEAL.check(config.to_dict(), head.state_dict(), folder / WEIGHTS)
    return head


def check_copy(folder: Path, fingerprint: str) -> None:
    """Load the head in a folder, and raise a ValueError unless it has this fingerprint."""
    if (found := ActionHead.from_pretrained(folder).fingerprint()) != fingerprint:
        raise ValueError(f"the fingerprint is {found} instead of {fingerprint}")
