"""`policy.compile()`: the same policy on a head that computes faster, by the fastest method of its device.

Axes: b batch, h horizon, a action, c condition, n tokens.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from action_heads._util.conditions import Condition, Mask
from action_heads._util.limits import check_choice
from action_heads._util.precision import bfloat16_is_faster
from action_heads.acting import Policy
from action_heads.actions.normalize import Normalizer
from action_heads.adapters import Adapter
from action_heads.denoiser import Denoiser
from action_heads.diffusion.continuing import Prefix
from action_heads.diffusion.draws import Generator
from action_heads.diffusion.samplers import Schedule
from action_heads.runtime.fused import FusedHead, why_not_fused
from action_heads.runtime.graph import GraphHead
from action_heads.runtime.inductor import InductorHead, why_no_inductor
from action_heads.runtime.native import NativeHead, instructions, why_not_native
from action_heads.runtime.packed import PackedHead, why_not_packed
from action_heads.runtime.shared_weights import FastHead


class Compiled(NamedTuple):
    """The method and dtype of a compiled policy. `reason` says what ruled out a faster method, if anything did."""

    method: str
    dtype: torch.dtype
    reason: str


class CompiledPolicy(Policy):
    """A policy with a compiled head, which shares adapter and statistics with the policy it was compiled from.

    It only acts: train the original policy. Only the frozen head is compiled, so whatever the adapter learns or loads
    later takes effect here at once. The projections of a reshaped head do so too, or ask for compiling again where they
    were copied.

    Examples:
        >>> fast = policy.compile()
        >>> chunk = fast.sample(cond, steps=10)  # (b h a) in robot units
    """

    head: FastHead  # pyright: ignore[reportIncompatibleVariableOverride]
    only_acts = "A compiled policy only acts. Train the one it was compiled from; they share the adapter."

    def __init__(self, policy: Policy, head: FastHead, compiled: Compiled):
        super().__init__(head, policy.adapter)
        self.compiled = compiled
        self._source = (policy,)  # A tuple, so that torch does not register it as a submodule.
        self._compiled_from = _parts(policy)
        projections = _projections(policy)
        self._places = [p.data_ptr() for p in projections]
        self._values = [p.clone() for p in projections] if head.copied else []

    @property
    def source(self) -> Any:
        """The policy that this one was compiled from."""
        return self._source[0]

    @property
    def own_normalizer(self) -> Normalizer | None:  # type: ignore[override]
        """Statistics of the task's own actions, if the policy it was compiled from has any."""
        return self.source.own_normalizer

    def requires_grad_(self, requires_grad: bool = True) -> CompiledPolicy:
        """Do nothing. A compiled policy does not train, and the original policy may train the shared adapter."""
        return self

    def train(self, mode: bool = True) -> CompiledPolicy:
        """Stay in evaluation mode. The mode of the shared adapter does not change."""
        self.training = False
        return self

    def denoise(
        self, x: Tensor, plan: Schedule, cond: Condition, mask: Mask, generator: Generator, prefix: Prefix | None
    ) -> tuple[Tensor, Tensor]:
        """Denoise as `Policy.denoise` does, by the head's own graph of the whole computation if it has one."""
        plain = partial(super().denoise, x, plan, cond, mask, generator, prefix)
        if isinstance(self.head, FusedHead):
            return self.head.sample_at_once(self, plain, x, plan, cond, mask, prefix)
        return plain()

    def modulate(self, cond: Condition, mask: Mask = None) -> Tensor:
        return self.source.modulate(cond, mask)

    def save_adapter(self, folder: str | Path) -> Path:
        return self.source.save_adapter(folder)

    def push_adapter(self, repo_id: str, **kwargs) -> str:
        return self.source.push_adapter(repo_id, **kwargs)

    def load_adapter(self, path: str | Path, **kwargs) -> CompiledPolicy:
        self.source.load_adapter(path, **kwargs)
        return self

    def check_cond(self, cond: Condition, mask: Mask, values: bool) -> None:
        if self.stale:
            raise RuntimeError(
                "Since this policy was compiled, the original policy was moved, cast or given another head or adapter, "
                "or the projections of its reshaped head were trained, loaded or replaced. To use it, compile again."
            )
        self.source.check_cond(cond, mask, values)

    @property
    def stale(self) -> bool:
        """True if the original policy was moved, cast or rebuilt since then, or if copied projections changed."""
        if _parts(self.source) != self._compiled_from:
            return True
        projections = _projections(self.source)
        if not self.head.copied:  # What is written to the same memory counts here at once.
            return [p.data_ptr() for p in projections] != self._places
        if len(projections) != len(self._values):
            return True
        # Compare values, since fused optimisers do not increment a parameter's version.
        return not all(torch.equal(p, value) for p, value in zip(projections, self._values, strict=True))

    def __reduce__(self) -> tuple:
        """Compile again when a copy is made, because compiled code can't be copied."""
        return compile_policy, (self.source, self.compiled.method, self.compiled.dtype)

    def _apply(self, fn, recurse=True):
        raise RuntimeError("A compiled policy can't move. Instead, move the policy it was compiled from and recompile.")

    def __repr__(self) -> str:
        method, dtype, reason = self.compiled
        return f"{self.source!r}, compiled: {method} in {str(dtype).removeprefix('torch.')} ({reason})"


def _parts(policy: Policy) -> tuple[Denoiser, Adapter, torch.device, torch.dtype]:
    """Return what a compiled policy takes from a policy for good: head and adapter, and where and how they compute."""
    return policy.head, policy.adapter, policy.head.device, policy.head.dtype


def _projections(policy: Policy) -> list[Tensor]:
    """Return the projections of a reshaped head, which train on. Other heads have none that do."""
    parts = policy.head.backbone.projections if policy.head.left_out else ()
    return [p.detach() for part in parts for p in part.parameters()]


def compile_policy(policy: Policy, method: str, dtype: torch.dtype | None) -> CompiledPolicy:
    """Compile a policy; see `Policy.compile`."""
    check_choice("method", method, ("auto", *METHODS))
    policy = policy.source
    head = policy.head
    own = head.dtype
    given, dtype = dtype, dtype or own
    if dtype not in (torch.float32, torch.bfloat16):
        came = f"got {given!r}" if given else f"but the head was loaded in or cast to {own} and no dtype was passed"
        raise ValueError(
            f"compile computes in torch.float32 or torch.bfloat16, {came}. Pass dtype=torch.float32 or "
            "dtype=torch.bfloat16."
        )
    notes = []
    if not head.frozen:
        dtype = own  # A copy in another precision would not follow the training.
    elif dtype == torch.bfloat16 and not bfloat16_is_faster(head.device):
        dtype = torch.float32
        notes.append("this machine has no instructions for bfloat16")
    method, why = choose(head, method, dtype)
    notes += [why] if why else []
    fast = METHODS[method](head, dtype)
    return CompiledPolicy(policy, fast, Compiled(method, dtype, "; ".join(notes) or "as asked for"))


WHY = {"graph": "one CUDA graph runs the whole loop", "native": "one call of our own C++ computes the whole network"}


def choose(head: Denoiser, method: str, dtype: torch.dtype) -> tuple[str, str]:
    """Return the method to use for `auto`, or instead of one that can't be used here, and the reason."""
    if not head.frozen:
        return "eager", "the head trains along, and only a frozen head can be compiled: call head.freeze() first"
    device = head.device.type
    if method in ("graph", "auto") and device == "cuda":
        return "graph", WHY["graph"] if method == "auto" else ""
    if method == "graph":
        return "eager", f"CUDA graphs need a CUDA device, and this head is on {device}"
    obstacle = {
        "fused": lambda: why_not_fused(head),
        "graph": lambda: "",
        "native": lambda: why_not_native(head, dtype, by_name=method == "native"),
        "packed": lambda: why_not_packed(head, dtype),
        "inductor": why_no_inductor,
        "eager": lambda: "",
    }
    met: list[str] = []
    slower = ("graph",) if (method, device) == ("fused", "cuda") else ("packed", "eager")
    for name in dict.fromkeys(("native" if method == "auto" else method, *slower)):
        if why := obstacle[name]():
            met.append(why)
        elif met:
            return name, f"{'; '.join(met)}, so {name}"
        else:
            used = f", with {instructions(dtype)}" if name == "native" else ""
            return name, WHY.get(name, "") + used if method == "auto" else ""
    raise AssertionError("eager has no obstacle")


METHODS: dict[str, type[FastHead]] = {
    "native": NativeHead,
    "packed": PackedHead,
    "inductor": InductorHead,
    "fused": FusedHead,
    "graph": GraphHead,
    "eager": FastHead,
}
