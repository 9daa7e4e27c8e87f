"""Simulators, scripted experts, the demo and the experiments of the paper, built on `action_heads`."""
