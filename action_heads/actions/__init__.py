"""Action spaces: what the numbers of an action mean, their conversion, rotations, normalisation."""
