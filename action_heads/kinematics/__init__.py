"""Franka Panda motion for observation-free pretraining: forward kinematics, synthetic and recorded chunks."""

from action_heads.kinematics.panda import forward
from action_heads.kinematics.recorded import RecordedChunks, recorded_chunks
from action_heads.kinematics.synthetic import pose_actions, synthetic_chunks

__all__ = ["RecordedChunks", "forward", "pose_actions", "recorded_chunks", "synthetic_chunks"]
