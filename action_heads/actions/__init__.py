"""Action spaces, the layouts of datasets, rotations and normalisation."""
