"""Stage 1: pretrain a head on motion without observations (extra: `train`)."""
