"""Motion of arms for pretraining without observations: forward kinematics, synthetic motion and recorded windows."""

from action_heads.kinematics.arm import Arm
from action_heads.kinematics.panda import PANDA, forward
from action_heads.kinematics.recorded import recorded_chunks, recorded_trajectories
from action_heads.kinematics.synthetic import pose_actions, synthetic_chunks
from action_heads.kinematics.trajectories import Motion, Trajectories, Windows

__all__ = [
    "PANDA",
    "Arm",
    "Motion",
    "Trajectories",
    "Windows",
    "forward",
    "pose_actions",
    "recorded_chunks",
    "recorded_trajectories",
    "synthetic_chunks",
]
