"""Import robosuite, free its OpenGL contexts in time, and explain what it lacks.

robosuite frees a context when Python collects it. At the end of a script this happens after EGL has shut down, and
Python prints tracebacks of "exceptions ignored".
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

ROBOSUITE, MUJOCO = (1, 4), ((3, 1), (3, 12))  # MuJoCo 3.12 and later fail an assertion of robosuite about joints
INSTALL = "pip install 'robosuite==1.4.1' 'mujoco>=3.1,<3.9'"
EGL = (
    "Install it (Debian, Ubuntu: apt-get install libegl1 libgl1), or render on the CPU: apt-get install libosmesa6 and "
    "set MUJOCO_GL=osmesa"
)

_alive: WeakSet[Any] = WeakSet()


def import_robosuite() -> Any:
    """Import robosuite, and make it free its contexts in time.

    Raises:
        ImportError: a package or EGL is missing, or has a wrong version. The message says what to install.
    """
    check_versions()
    try:
        robosuite = require("robosuite", extra="sim")
        binding = require("robosuite.utils.binding_utils", extra="sim")
    except (AttributeError, OSError) as error:  # PyOpenGL raises these for a missing library
        raise ImportError(f"robosuite cannot be imported, because EGL is missing ({error}). {EGL}") from error
    except ImportError as error:
        if not re.search("EGL|OSMesa|OpenGL", str(error)):
            raise
        raise ImportError(f"robosuite cannot be imported, because EGL is missing ({_line(error)}). {EGL}") from error
    free_before_exit(binding)
    return robosuite


def check_versions(robosuite: tuple[int, ...] = ROBOSUITE) -> None:
    """Refuse versions that are known to fail, and those of robosuite before the given one."""
    for name, first, after in (("robosuite", robosuite, (1, 5)), ("mujoco", *MUJOCO)):
        try:
            found = version(name)
        except PackageNotFoundError:
            continue  # `require` reports it
        numbers = tuple(int(part) for part in re.findall(r"\d+", found)[:3])
        if not first <= numbers < after:
            low, high = (".".join(map(str, bound)) for bound in (first, after))
            raise ImportError(
                f"{name} {found} is installed, but the simulation needs {low} or later, before {high}: {INSTALL}"
            )


def free_before_exit(binding: Any) -> None:
    """Free each context of robosuite once: when Python collects it, or at exit before EGL shuts down."""
    contexts = binding.MjRenderContext
    if contexts.__del__ is free:
        return
    begin = contexts.__init__

    def begin_and_remember(self: Any, *arguments: Any, **options: Any) -> None:
        begin(self, *arguments, **options)
        if not _alive:
            # Functions registered last run first, and the first context has registered the clean-up of EGL.
            atexit.unregister(free_all)
            atexit.register(free_all)
        _alive.add(self)

    contexts.__init__, contexts.__del__ = begin_and_remember, free
    if not hasattr(binding.GLContext, "_context"):
        binding.GLContext._context = None  # the __del__ of a context that could not be made reads it


def free(context: Any) -> None:
    """Free a context of MuJoCo and its OpenGL context. A second call does nothing."""
    for name in ("con", "gl_ctx"):
        part = context.__dict__.pop(name, None)
        if part is not None:
            with suppress(Exception):  # the display, and the context with it, may be gone
                part.free()


def free_all() -> None:
    """Free all contexts that are still alive."""
    for context in list(_alive):
        free(context)


@contextmanager
def named() -> Iterator[None]:
    """Turn the failure to make an OpenGL context into an ImportError with the remedy, within this context."""
    try:
        yield
    except Exception as error:
        if type(error).__name__ != "EGLError" and not re.search(r"\bEGL\b|OSMesa|OpenGL|framebuffer", str(error)):
            raise
        raise ImportError(f"no OpenGL context for images ({_line(error)}). If EGL is missing: {EGL}") from error


def _line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
