"""OpenGL contexts that are freed before the interpreter ends, and what robosuite needs said in one line.

robosuite frees a context when Python collects it. At the end of a script that is after EGL has been shut down, and
Python prints tracebacks of "exceptions ignored", in an order that depends on how the script ended.
"""

from __future__ import annotations

import atexit
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from typing import Any
from weakref import WeakSet

from action_heads._util.extras import require

ROBOSUITE, MUJOCO = (1, 4), ((3, 1), (3, 12))  # MuJoCo 3.12 and later fail robosuite's assertion about joints
INSTALL = "pip install 'robosuite==1.4.1' 'mujoco>=3.1,<3.9'"
EGL = (
    "install it (Debian, Ubuntu: apt-get install libegl1 libgl1), or render on the CPU: apt-get install libosmesa6 and "
    "set MUJOCO_GL=osmesa"
)

_alive: WeakSet[Any] = WeakSet()


def import_robosuite() -> Any:
    """robosuite, whose contexts are freed in time; what keeps it from working is an ImportError with the remedy."""
    check_versions()
    try:
        robosuite = require("robosuite", extra="sim")
        binding = require("robosuite.utils.binding_utils", extra="sim")
    except (AttributeError, OSError) as error:  # PyOpenGL, of a library that is not there
        raise ImportError(f"robosuite can't be imported, for EGL is missing ({error}): {EGL}") from error
    except ImportError as error:
        if not re.search("EGL|OSMesa|OpenGL", str(error)):
            raise
        raise ImportError(f"robosuite can't be imported, for EGL is missing ({_line(error)}): {EGL}") from error
    free_before_exit(binding)
    return robosuite


def check_versions() -> None:
    """Refuse versions that are known to fail, before they do."""
    for name, first, after in (("robosuite", ROBOSUITE, (1, 5)), ("mujoco", *MUJOCO)):
        try:
            found = version(name)
        except PackageNotFoundError:
            continue  # `require` says so
        numbers = tuple(int(part) for part in re.findall(r"\d+", found)[:2])
        if not first <= numbers < after:
            low, high = (".".join(map(str, bound)) for bound in (first, after))
            raise ImportError(
                f"{name} {found} is installed; the simulation needs {low} or later, before {high}: {INSTALL}"
            )


def free_before_exit(binding: Any) -> None:
    """Let robosuite's contexts be freed once: by Python, or by us at exit, before EGL's own clean-up."""
    contexts = binding.MjRenderContext
    if contexts.__del__ is free:
        return
    begin = contexts.__init__

    def begin_and_remember(self: Any, *arguments: Any, **options: Any) -> None:
        begin(self, *arguments, **options)
        if not _alive:
            # What is registered last runs first, and EGL's clean-up was registered by the first context.
            atexit.unregister(free_all)
            atexit.register(free_all)
        _alive.add(self)

    contexts.__init__, contexts.__del__ = begin_and_remember, free
    if not hasattr(binding.GLContext, "_context"):
        binding.GLContext._context = None  # of one that could not be made: its __del__ looks for it


def free(context: Any) -> None:
    """Free a context, of MuJoCo and of OpenGL; a second time it does nothing."""
    for name in ("con", "gl_ctx"):
        part = context.__dict__.pop(name, None)
        if part is not None:
            with suppress(Exception):  # the display is gone, and the context with it
                part.free()


def free_all() -> None:
    for context in list(_alive):
        free(context)


@contextmanager
def named() -> Iterator[None]:
    """Within, an OpenGL context that can't be made is an ImportError with the remedy."""
    try:
        yield
    except Exception as error:
        if type(error).__name__ != "EGLError" and not re.search(r"\bEGL\b|OSMesa|OpenGL|framebuffer", str(error)):
            raise
        raise ImportError(f"no OpenGL context for pictures ({_line(error)}). Where there is no EGL, {EGL}") from error


def _line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
