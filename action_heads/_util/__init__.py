"""Internal helpers that the rest of the package shares."""
