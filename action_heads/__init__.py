"""Pretrained, frozen action heads for robot policies, and small trainable adapters that attach them to any encoder.

Names are imported at their first use (PEP 562), so that `action-heads --help` does not wait for torch.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from action_heads import _moved

if TYPE_CHECKING:
    from action_heads.actions.normalize import Normalizer
    from action_heads.actions.spaces import EE_ABSOLUTE, EE_DELTA, ActionSpace
    from action_heads.bank import AdapterBank
    from action_heads.config import HeadConfig
    from action_heads.diffusion.objectives import ObjectiveConfig
    from action_heads.ema import EMA
    from action_heads.head import ActionHead
    from action_heads.io.bundled_heads import HeadNotFoundError
    from action_heads.io.files import WeightFileError
    from action_heads.observed_policy import ObservedPolicy
    from action_heads.policy import ConditionedHead
    from action_heads.runtime.background import BackgroundExecutor
    from action_heads.runtime.execution import Executor

__version__ = "0.1.0"

__all__ = [
    "EE_ABSOLUTE",
    "EE_DELTA",
    "EMA",
    "ActionHead",
    "ActionSpace",
    "AdapterBank",
    "BackgroundExecutor",
    "ConditionedHead",
    "Executor",
    "HeadConfig",
    "HeadNotFoundError",
    "Normalizer",
    "ObjectiveConfig",
    "ObservedPolicy",
    "WeightFileError",
]

# The module that defines each name.
_MODULES = {
    "bank": ("AdapterBank",),
    "config": ("HeadConfig",),
    "ema": ("EMA",),
    "runtime.background": ("BackgroundExecutor",),
    "runtime.execution": ("Executor",),
    "io.files": ("WeightFileError",),
    "head": ("ActionHead",),
    "io.bundled_heads": ("HeadNotFoundError",),
    "actions.normalize": ("Normalizer",),
    "diffusion.objectives": ("ObjectiveConfig",),
    "observed_policy": ("ObservedPolicy",),
    "policy": ("ConditionedHead",),
    "actions.spaces": ("EE_ABSOLUTE", "EE_DELTA", "ActionSpace"),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}

_moved.install()


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        value = globals()[name] = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
        return value
    # Earlier releases imported these modules too, so `action_heads.head` must work after `import action_heads`.
    if not name.startswith("_") and find_spec(f"{__name__}.{name}"):
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
