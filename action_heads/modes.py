"""The training modes that the paper compares: the head pretrained or random, frozen or trained, all else equal."""

from __future__ import annotations

import copy
import dataclasses
from typing import TYPE_CHECKING

import torch

from action_heads._util.limits import check_choice
from action_heads._util.own_generator import OwnGenerator
from action_heads.io import files

if TYPE_CHECKING:
    from action_heads.actions.spaces import ActionSpace
    from action_heads.config import HeadConfig
    from action_heads.head import ActionHead

MODES = {
    "decoupled": "pretrained head, frozen; the adapter trains",
    "random-frozen": "random head in standard initialisation, frozen; the same adapter trains",
    "normal": "random head, everything trains",
}

# Random heads use other seeds than everything else. A head pretrained with seed 0 started from the weights that seed 0
# draws, and an adapter made after torch.manual_seed(0) starts from the same random numbers.
APART = 1000


def in_mode(head: ActionHead, mode: str, seed: int = 0) -> ActionHead:
    """Return the head to attach to: `head` itself, or a new random one. See `ActionHead.in_mode`."""
    check_choice("mode", mode, MODES)
    if mode == "decoupled":
        if not head.frozen:
            raise ValueError("mode 'decoupled' needs a frozen head, but this one is trainable; call head.freeze()")
        return head
    if head.original is not head:
        raise ValueError(
            f"in_mode({mode!r}) does not work on a reshaped head. "
            + (
                "For normal training with its shape, build a new head with ActionHead(head.config)."
                if mode == "normal"
                else f"Reshape a random head instead: head.original.in_mode({mode!r}).reshape(...)."
            )
        )
    random = random_like(head, f"{head.config.name}-{mode}", APART + seed).to(head.device)
    # A frozen head uses the precision of the pretrained one. A trainable head stays float32, for small updates.
    return random if mode == "normal" else random.to(head.dtype).freeze()


def shaped(head: ActionHead, mode: str, seed: int, space: ActionSpace, horizon: int | None = None) -> ActionHead:
    """Return a head in a training mode for an action space and a horizon, reshaped if they are not its own.

    Args:
        head: the pretrained head.
        mode: a key of `MODES`.
        seed: seed of random weights.
        space: layout of one action.
        horizon: time steps of a chunk; the head's if None.
    """
    own = head.config
    shape = dataclasses.replace(own, space=space, horizon=horizon or own.horizon)
    if own.space.parts == space.parts and own.space.mode == space.mode and own.horizon == shape.horizon:
        return head.in_mode(mode, seed=seed)
    if mode == "normal":  # Everything is random and trains, so there are no pretrained layers to keep.
        return fresh(type(head), shape, f"{own.name}-normal", APART + seed).to(head.device)
    return head.in_mode(mode, seed=seed).reshape(space=space, horizon=shape.horizon)


def taken_of(head: ActionHead, pretrained: bool) -> str:
    """Return what a run uses of its head, as a hash: all of it, or shape and statistics if it starts at random."""
    if pretrained:
        return head.fingerprint()
    return files.fingerprint(head.normalizer.state_dict(), head.config.contract())


def random_like(head: ActionHead, name: str, seed: int) -> ActionHead:
    """Build a random head with the same config and statistics on the CPU, without changing any random state."""
    random = fresh(type(head), head.config, name, seed)
    random.normalizer = copy.deepcopy(head.normalizer).cpu()
    return random


def fresh(kind: type[ActionHead], config: HeadConfig, name: str, seed: int) -> ActionHead:
    """Build a head in standard initialisation on the CPU, without changing any random state."""
    with OwnGenerator(seed), torch.device("cpu"):
        # The head is not trained, so it has no training record.
        return kind(dataclasses.replace(config, name=name, training={}, fingerprint=""))
