"""Checks of a LeRobot dataset's action statistics, which name the episodes that hold NaN."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lerobot.utils.constants import ACTION
from torch import Tensor

from action_heads.actions import layout_checks
from action_heads.actions.layout_checks import NORMED, UNDECLARED
from action_heads.actions.layouts import ActionLayout
from lerobot_policy_dae.draws import process
from lerobot_policy_dae.heads import flag

logger = logging.getLogger(__name__)

SHOWN = 5  # episodes that a message names


def check_actions(layout: ActionLayout, stats: Any, dataset_meta: Any) -> tuple[Tensor, Tensor]:
    """Return the range (d) of a dataset's actions; raise a ValueError if they can't be what the layout says.

    The message names dimension and episode. The gripper is not checked.
    """
    try:
        low, high = layout_checks.check_range(layout, stats)
    except ValueError as error:
        raise ValueError(f"The dataset's column {ACTION!r}: {error}{where_not_finite(dataset_meta)}") from error
    with flag("action_layout"):
        layout_checks.check_rotations(layout, low, high)
        check_rows(layout, dataset_meta)
    return low, high


def check_rows(layout: ActionLayout, dataset_meta: Any) -> None:
    """Check that each row of a dataset has a rotation, unlike a quaternion of zeros, on which training would be NaN.

    Statistics don't show it, so the first process reads the column. Datasets that are not on this disk are not checked.
    LeRobot doesn't say which episodes are trained on (`--dataset.episodes`). So episodes with such rows only cause a
    warning while there are others, and `check_batch` looks at what is trained on.

    Raises:
        ValueError: all episodes have such rows.
    """
    root = getattr(dataset_meta, "root", None)
    if root is None or not _has_norm(layout) or process():
        return
    bad: Counter[int] = Counter()  # rows by episode
    seen: set[int] = set()
    for file in sorted((Path(root) / "data").glob("*/*.parquet")):
        columns, episodes = _actions_of(file, layout.width)
        bad.update(episodes[layout_checks.impossible(layout, columns).numpy()].tolist())
        seen.update(episodes.tolist())
    if not bad:
        return
    named = ", ".join(f"{episode} ({count})" for episode, count in sorted(bad.items())[:SHOWN])
    found = (
        f"{sum(bad.values())} rows of the dataset's column {ACTION!r} hold no rotation where the layout '{layout}' "
        f"has one. By episode: {named}{', ...' if len(bad) > SHOWN else ''}."
    )
    if len(bad) == len(seen):
        raise ValueError(f"{found} Declare the layout that the columns have, or repair the dataset.")
    logger.warning("%s Training stops at the first of them: leave these episodes out with --dataset.episodes.", found)


def check_batch(layout: ActionLayout, actions: Tensor) -> None:
    """Raise a ValueError if a row of a batch (b h d) has no rotation.

    It waits for an accelerator. LeRobot does so too after each step, so there is nothing else to wait for.
    """
    if not _has_norm(layout):
        return
    bad = layout_checks.impossible(layout, actions.detach().cpu().flatten(0, -2)).view(actions.shape[:-1])
    if bad.any():
        raise ValueError(
            f"The batch has {int(bad.sum())} actions that hold no rotation where the layout '{layout}' has one, the "
            f"first in batch row {int(bad.nonzero()[0, 0])}. The warning before training names their episodes. "
            "Leave them out with --dataset.episodes, or declare the layout that the columns have with "
            "--policy.action_layout."
        )


def _has_norm(layout: ActionLayout) -> bool:
    return any(part.form in NORMED for part in layout.parts)


def _actions_of(file: Path, width: int) -> tuple[Tensor, np.ndarray]:
    """Return the actions (n d) of a file of data, and the episode (n) of each."""
    import pyarrow.parquet as pq

    table = pq.read_table(file, columns=["episode_index", ACTION]).combine_chunks()
    flat = table[ACTION].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return torch.from_numpy(flat.reshape(-1, width).astype(np.float32)), table["episode_index"].to_numpy()


def check_gripper(layout: ActionLayout, low: Tensor, high: Tensor) -> None:
    """Check a trained policy's gripper against the range (d) of other actions.

    Values that look like another convention only cause a warning, since a checkpoint does not say whether its own were
    declared or assumed.
    """
    with flag("gripper"):
        layout_checks.check_gripper(layout, low, high)
    if layout.gripper == UNDECLARED:
        try:
            layout_checks.check_gripper(replace(layout, gripper=UNDECLARED), low, high)
        except ValueError as error:
            logger.warning("The policy may have been trained on another convention: %s.", error)


def where_not_finite(dataset_meta: Any) -> str:
    """Return text that names the episodes whose statistics of the actions are not finite; "" if these are unknown."""
    episodes = _episodes(Path(root), ACTION) if (root := getattr(dataset_meta, "root", None)) is not None else []
    if not episodes:
        return ""
    more = f" and {len(episodes) - SHOWN} more" if len(episodes) > SHOWN else ""
    return f" They are in episode {', '.join(map(str, episodes[:SHOWN]))}{more}."


def _episodes(root: Path, column: str) -> list[int]:
    """Return the numbers of these episodes, from the table that LeRobot keeps beside the data (v3.0)."""
    import pyarrow.parquet as pq

    names, found = [f"stats/{column}/min", f"stats/{column}/max"], []
    for file in sorted((root / "meta" / "episodes").glob("*/*.parquet")):
        try:
            table = pq.read_table(file, columns=["episode_index", *names]).to_pydict()
        except Exception:  # The table only adds detail to another error, which its own errors must not hide.
            return found
        for i, number in enumerate(table["episode_index"]):
            if not all(_finite(table[name][i]) for name in names):
                found.append(int(number))
    return found


def _finite(values: Any) -> bool:
    return bool(np.isfinite(np.asarray(values, dtype=np.float64)).all())
