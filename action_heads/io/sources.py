"""Specs of a head's motion, read as text: the origin of a source, and what it has of DROID."""

from __future__ import annotations

import re

WHOLE_DROID = "lerobot:lerobot/droid_1.0.1"
# What sources have of DROID. Of any other source nothing is known, whatever its name is.
DROID = {
    WHOLE_DROID: "DROID",
    "npz:droid_4_episodes_train.npz": "real DROID episodes",
    "synthetic:droid": "synthetic motion with DROID's published statistics",
    "recorded:droid_setup_ctrlworld": "recordings of a robot built as DROID's, not of DROID",
}


def origin(spec: str) -> str:
    """Return `kind:where` of a data source, without options and weight, which do not change its owner.

    `data.spec.Spec` is not used here, since it imports every reader and rejects what other releases wrote.
    """
    return re.sub(r"@(\d+(\.\d+)?|\.\d+)$", "", spec).partition("?")[0]


def words(text: str) -> set[str]:
    """Return the words of a name or a spec in small letters: `acme/mlp-5m-droid100` has acme, mlp, m and droid."""
    return set(re.findall(r"[a-z]+", text.lower()))
