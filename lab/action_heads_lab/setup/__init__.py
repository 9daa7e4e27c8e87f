"""The command `action-heads setup`: fetch what a benchmark needs, check it, and say what is ready."""
