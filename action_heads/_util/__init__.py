"""What the rest of the package shares and nobody outside needs."""
