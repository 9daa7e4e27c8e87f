"""The formats of recordings, and how one is opened for its observations."""

from __future__ import annotations

from action_heads.data.lerobot import LeRobot
from action_heads.data.npz import Npz
from action_heads.data.recording import Recording
from action_heads.data.robomimic import Robomimic
from action_heads.data.spec import Spec

READERS: dict[str, type[Recording]] = {"npz": Npz, "lerobot": LeRobot, "robomimic": Robomimic}
OBSERVED = ("lerobot", "robomimic")  # those with observations

__all__ = ["READERS", "Recording", "open_recording"]


def open_recording(spec: Spec) -> Recording:
    """Open a recording for Stage 2; whatever is wrong with its episodes, tasks or columns is said now."""
    if spec.kind not in OBSERVED:
        raise ValueError(f"{spec} has no observations: Stage 2 reads lerobot:FOLDER_OR_REPO and robomimic:FILE.hdf5")
    return READERS[spec.kind](spec, observed=True)
