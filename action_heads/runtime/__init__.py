"""Compiled policies, exported files, the server and its client, and the executor."""
