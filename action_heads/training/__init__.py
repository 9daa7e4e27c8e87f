"""The training loop of both stages, which can be interrupted and resumed to the same bits (extra: `train`)."""
