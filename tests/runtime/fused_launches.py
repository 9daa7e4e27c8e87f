"""Launches of the fused kernels as they are recorded without a GPU, and their compilation for one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from action_heads.diffusion.samplers import Sampling
from action_heads.runtime import fused

Launch = tuple[str, tuple[int, int], tuple[Any, ...], dict[str, Any]]
POINTERS = {torch.float32: "*fp32", torch.bfloat16: "*bf16"}


def record(policy, monkeypatch, batch: int = 1, dtype=torch.float32, tiles=None, **options) -> list[Launch]:
    """Return the launches of a chunk: kernel, grid, arguments and options, as on a GPU."""
    monkeypatch.setattr(fused, "why_not_fused", lambda head: "")
    monkeypatch.setattr(fused, "is_interpreted", lambda: False)
    head = fused.FusedHead(policy.head, dtype, tiles)
    launches: list[Launch] = []
    head.launch = lambda kernel, grid, *given, **meta: launches.append((kernel, grid, given, meta))
    plan = head.plan(Sampling(**options))
    with torch.no_grad():
        values = policy.modulate(torch.zeros(batch, policy.adapter.config.cond_dim))
        given = policy.step_values(), values, policy.modulation, head.noise(batch), plan
        head.denoise_fused(fused.coefficients(head.objective, plan), *given)
    return launches


def compiled(launch: Launch, capability: int = 90) -> Any:
    """Compile the kernel of a launch for a GPU of this capability; needs no GPU."""
    import triton
    from triton.backends.compiler import GPUTarget

    from action_heads.runtime import fused_kernels

    name, _, given, meta = launch
    kernel = getattr(fused_kernels, name)
    options = {key: meta[key] for key in ("num_warps", "num_stages") if key in meta}
    constants = {key: value for key, value in meta.items() if key not in options}
    names = kernel.arg_names
    signature = dict(zip(names, map(kind, given), strict=False)) | dict.fromkeys(constants, "constexpr")
    aligned = {(i,): [["tt.divisibility", 16]] for i, value in enumerate(given) if isinstance(value, Tensor)}
    source = triton.compiler.ASTSource(kernel, signature, {(names.index(k),): v for k, v in constants.items()}, aligned)
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)


def kind(value: Any) -> str:
    """Return Triton's name of the type of an argument."""
    return POINTERS[value.dtype] if isinstance(value, Tensor) else "fp32" if isinstance(value, float) else "i32"
