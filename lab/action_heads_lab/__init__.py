"""Simulators, scripted experts, the demo and the paper's experiments, built on `action_heads`."""
