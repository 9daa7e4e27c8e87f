"""Objectives, noise levels, samplers, and chunks that continue an earlier one."""
