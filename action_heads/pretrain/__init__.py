"""Stage 1: pretrain a head on observation-free kinematics (needs the `train` extra)."""
