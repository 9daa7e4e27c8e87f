"""What Stage 1 and Stage 2 share: a run that is resumed to the same bits, shown, and stopped (extra: `train`)."""
