"""Checks of a LeRobot dataset's action statistics, which name the episodes that hold NaN."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from action_heads.actions.layouts import ActionLayout


def check_actions(layout: ActionLayout, stats: Any, dataset_meta: Any, column: str = "action") -> None:
    """Raise a ValueError if the range of the actions is missing or not finite. It names dimension and episode."""
    try:
        layout.check_range(stats)
    except ValueError as error:
        raise ValueError(f"The dataset's column {column!r}: {error}{where_not_finite(dataset_meta, column)}") from error


def where_not_finite(dataset_meta: Any, column: str, shown: int = 5) -> str:
    """Return text that names the episodes whose statistics of a column are not finite; "" if these are unknown."""
    episodes = _episodes(Path(root), column) if (root := getattr(dataset_meta, "root", None)) is not None else []
    if not episodes:
        return ""
    more = f" and {len(episodes) - shown} more" if len(episodes) > shown else ""
    return f" They are in episode {', '.join(map(str, episodes[:shown]))}{more}."


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
