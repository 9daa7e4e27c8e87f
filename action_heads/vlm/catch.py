"""Catch hidden states in a forward pass of a model, and end the pass once all of them are caught.

Other threads and other taps may run the same model at the same time, and torch calls a hook for all of them. A hook of
this file therefore acts only within the call that it was registered for.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from torch import nn

# The values caught by the call that runs in this thread; by the innermost one, if calls are nested.
_current: ContextVar[dict[Any, Any] | None] = ContextVar("caught", default=None)
_lock = threading.Lock()  # torch can't register and remove hooks in several threads at once.


class Caught(Exception):
    """An exception that ends the forward pass once every value is caught."""


@contextmanager
def catching(points: Mapping[Any, tuple[nn.Module, str]], stop: bool = True) -> Iterator[dict[Any, Any]]:
    """Catch values in the forward pass that runs in this context.

    Args:
        points: a module and "input" or "output", by the key of its value. The value is the first input or output.
        stop: end the forward pass once every value is caught. The context then ends without an exception.

    Yields:
        The caught values, by key. Those of modules that did not run are missing.
    """
    caught: dict[Any, Any] = {}

    def catch(key: Any, value: Any) -> None:
        if _current.get() is not caught:  # Another call of the same model.
            return
        caught[key] = value[0] if isinstance(value, (tuple, list)) else value
        if stop and len(caught) == len(points):
            raise Caught

    with _lock:
        handles = [_listen(module, at, key, catch) for key, (module, at) in points.items()]
    token = _current.set(caught)
    try:
        yield caught
    except Exception:
        # It may be another exception than `Caught`: torch goes through the hooks of a module that raised, which fails
        # if another thread registers one at that moment.
        if not (stop and len(caught) == len(points)):
            raise
    finally:
        _current.reset(token)
        with _lock:
            for handle in handles:
                handle.remove()


def _listen(module: nn.Module, at: str, key: Any, catch: Any) -> Any:
    if at == "output":
        return module.register_forward_hook(lambda _, args, out: catch(key, out))

    # `options` has a default since torch leaves it out if another thread removes this hook at that moment.
    def entering(_: nn.Module, args: tuple, options: Mapping[str, Any] | None = None) -> None:
        catch(key, args[0] if args else (options or {}).get("hidden_states"))

    return module.register_forward_pre_hook(entering, with_kwargs=True)
