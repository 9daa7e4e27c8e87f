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

from action_heads.actions.layouts import NORMED, UNDECLARED, ActionLayout
from lerobot_policy_dae.heads import flag

logger = logging.getLogger(__name__)

SHOWN = 5  # episodes that a message names


def check_actions(layout: ActionLayout, stats: Any, dataset_meta: Any) -> tuple[Tensor, Tensor]:
    """Return the range (d) of a dataset's actions; raise a ValueError if they can't be what the layout says.

    The message names dimension and episode. The gripper is not checked.
    """
    try:
        low, high = layout.check_range(stats)
    except ValueError as error:
        raise ValueError(f"The dataset's column {ACTION!r}: {error}{where_not_finite(dataset_meta)}") from error
    with flag("action_layout"):
        layout.check_rotations(low, high)
        check_rows(layout, dataset_meta)
    return low, high


def check_rows(layout: ActionLayout, dataset_meta: Any) -> None:
    """Raise a ValueError if a row's rotation is none, such as a quaternion of zeros, on which training would be NaN.

    Statistics don't show it, so the column is read. Datasets that are not on this disk are not checked.
    """
    root = getattr(dataset_meta, "root", None)
    if root is None or not any(part.form in NORMED for part in layout.parts):
        return
    bad: Counter[int] = Counter()  # rows by episode
    for file in sorted((Path(root) / "data").glob("*/*.parquet")):
        columns, episodes = _actions_of(file, layout.width)
        bad.update(episodes[layout.impossible(columns).numpy()].tolist())
    if bad:
        named = ", ".join(f"{episode} ({count})" for episode, count in sorted(bad.items())[:SHOWN])
        raise ValueError(
            f"{sum(bad.values())} rows of the dataset's column {ACTION!r} hold no rotation where the layout '{layout}' "
            f"has one. By episode: {named}{', ...' if len(bad) > SHOWN else ''}. Declare the layout that the columns "
            "have, or remove these episodes from the dataset."
        )


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
        layout.check_gripper(low, high)
    if layout.gripper == UNDECLARED:
        try:
            replace(layout, gripper=UNDECLARED).check_gripper(low, high)
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
