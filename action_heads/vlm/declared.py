"""The state of a model that all its taps share: which parameters train, and the mode.

A tap declares its state. The newest tap of a model sets it, and every tap checks it when it is used.
"""

from __future__ import annotations

from collections.abc import Set
from weakref import WeakKeyDictionary

from torch import nn

_trained: WeakKeyDictionary[nn.Module, Set[str]] = WeakKeyDictionary()
AGAIN = "Load the model again for each tap"


def declare(model: nn.Module, names: Set[str]) -> None:
    """Let only these parameters of a model train, and remember that a tap declared it."""
    for name, p in model.named_parameters():
        p.requires_grad_(name in names)
    _trained[model] = names


def trains(model: nn.Module) -> bool:
    """Return whether a tap of the model trains it."""
    return bool(_trained.get(model))


def overruled(model: nn.Module, names: Set[str]) -> bool:
    """Return whether a newer tap of the model has frozen some of the parameters that an older one declared."""
    return not names <= _trained.get(model, names)


def check_trains(model: nn.Module, names: Set[str]) -> None:
    """Raise a RuntimeError if a newer tap of the model has frozen some of the parameters that an older one declared."""
    if overruled(model, names):
        raise RuntimeError(
            f"this tap trains its model, but another tap of the same {type(model).__name__} was made later and has "
            f"frozen parameters that this one trains. {AGAIN}. To go on with this tap, call requires_grad_() and "
            "train() on it."
        )


def check_evaluates(model: nn.Module) -> None:
    """Raise a RuntimeError if a part of a frozen tap's model is in training mode."""
    if not any(module.training for module in model.modules()):
        return
    part = next(name for name, module in model.named_modules() if module.training) or type(model).__name__
    cause = (
        f"Another tap trains the model. {AGAIN}, or call eval() on the model first."
        if trains(model)
        else "Something called train() on it. Call eval() on the tap afterwards."
    )
    raise RuntimeError(
        f"this tap is frozen, but {part} is in training mode, in which dropout changes the tokens from call to call. "
        f"{cause}"
    )
