"""Import robosuite, share its OpenGL contexts, free them in time, and explain what it lacks.

At every reset robosuite makes an OpenGL context and uploads all meshes and textures to it, which takes seconds on a
CPU. Here all simulations of a process share one OpenGL context, and an upload where they draw from the same data.

robosuite frees a context when Python collects it. At the end of a script this happens after EGL has shut down, and
Python prints tracebacks of "exceptions ignored". Here contexts are freed before.
"""

from __future__ import annotations

import atexit
import getpass
import hashlib
import logging
import os
import re
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import numpy as np

from action_heads._util.extras import pip, require

# The first version that is accepted, and the first one that is not; lab/pyproject.toml requires the same. robosuite 1.4
# fails with MuJoCo 3.10, 3.11 and 3.12. With 3.9 only Lift and Stack were tried, which are the same.
ROBOSUITE, MUJOCO = ((1, 4), (1, 5)), ((3, 1), (3, 9))
REQUIREMENTS = "'robosuite==1.4.1' 'mujoco>={}.{},<{}.{}'".format(*MUJOCO[0], *MUJOCO[1])
EGL = (
    "Install it (Debian, Ubuntu: apt-get install libegl1 libgl1), or render on the CPU: apt-get install libosmesa6 and "
    "set MUJOCO_GL=osmesa"
)

UPLOADED = ("mesh_", "tex_", "mat_", "hfield_", "skin_", "flex_", "nmesh", "ntex", "nmat", "nhfield", "nskin", "nflex")

_opened: dict[int, Any] = {}  # the OpenGL context of each device
# Contexts of MuJoCo, by device and `drawn_data`.
_uploads: WeakValueDictionary[tuple[int, bytes], Any] = WeakValueDictionary()
_recent: list[Any] = []  # the last upload, kept between the simulations that use it


def prepare() -> None:
    """Set the environment variables that robosuite reads at its import."""
    if sys.platform == "linux":
        os.environ.setdefault("MUJOCO_GL", "egl")  # headless, and works with software Mesa
    # robosuite compiles numba code at import, which costs seconds in every worker without a writable cache.
    os.environ.setdefault("NUMBA_CACHE_DIR", str(Path(tempfile.gettempdir()) / f"numba-{getpass.getuser()}"))
    logging.getLogger("robosuite_logs").setLevel(logging.ERROR)  # hides three warnings about private macros


def import_robosuite() -> Any:
    """Import robosuite, and make it share its contexts and free them in time. Its warnings are not shown.

    Raises:
        ImportError: a package or EGL is missing, or has a wrong version. The message says what to install.
    """
    prepare()
    check_versions()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            robosuite = require("robosuite", extra="sim")
            binding = require("robosuite.utils.binding_utils", extra="sim")
    except (AttributeError, OSError) as error:  # PyOpenGL raises these for a missing library
        raise ImportError(f"robosuite cannot be imported, because EGL is missing ({error}). {EGL}") from error
    except ImportError as error:
        if "Numba needs NumPy" in str(error):
            raise ImportError(
                f"robosuite cannot be imported ({_line(error)}). Run `{pip()} install --upgrade numba`, or install "
                "such a NumPy"
            ) from error
        if not re.search("EGL|OSMesa|OpenGL", str(error)):
            raise
        raise ImportError(f"robosuite cannot be imported, because EGL is missing ({_line(error)}). {EGL}") from error
    share_contexts(binding)
    return robosuite


def check_versions(robosuite: tuple[int, ...] = ROBOSUITE[0]) -> None:
    """Refuse versions that fail or are not tested, and those of robosuite before the given one."""
    for name, first, after in (("robosuite", robosuite, ROBOSUITE[1]), ("mujoco", *MUJOCO)):
        try:
            found = version(name)
        except PackageNotFoundError:
            continue  # `require` reports it
        numbers = tuple(int(part) for part in re.findall(r"\d+", found)[:3])
        if not first <= numbers < after:
            low, high = (".".join(map(str, bound)) for bound in (first, after))
            raise ImportError(
                f"{name} {found} is installed, but the simulation needs {low} or later, before {high}: "
                f"{pip()} install {REQUIREMENTS}"
            )


def share_contexts(binding: Any) -> None:
    """Make robosuite share OpenGL contexts and uploads, and free them at exit before EGL shuts down."""
    contexts, make, render = binding.MjRenderContext, binding.GLContext, binding.MjRenderContext.render
    if contexts.__del__ is forget:
        return

    def shared(max_width: int, max_height: int, device_id: int = -1) -> Any:
        if device_id not in _opened:
            _opened[device_id] = make(max_width=max_width, max_height=max_height, device_id=device_id)
            # Functions registered last run first, and the first context has registered the clean-up of EGL.
            atexit.unregister(free_all)
            atexit.register(free_all)
        return _opened[device_id]

    def upload(self: Any) -> None:
        mujoco, key = binding.mujoco, (self.device_id, drawn_data(self.model._model))
        con = _uploads.get(key)
        if con is None:
            con = mujoco.MjrContext(self.model._model, mujoco.mjtFontScale.mjFONTSCALE_150)
            _uploads[key] = con
        self.con = con
        _recent[:] = [con]
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, con)

    def resize(self: Any, width: int, height: int) -> None:
        if (width, height) != (self.con.offWidth, self.con.offHeight):
            self.model.vis.global_.offwidth, self.model.vis.global_.offheight = width, height
            upload(self)

    def draw(self: Any, *arguments: Any, **options: Any) -> None:
        self.gl_ctx.make_current()
        binding.mujoco.mjr_setBuffer(binding.mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self.con)
        render(self, *arguments, **options)

    if not hasattr(make, "_context"):
        make._context = None  # the __del__ of a context that could not be made reads it
    binding.GLContext = shared
    contexts.__del__, contexts.render = forget, draw
    contexts._set_mujoco_context_and_buffers, contexts.update_offscreen_size = upload, resize


def drawn_data(model: Any) -> bytes:
    """Return a hash of all data of a model that MuJoCo uploads: meshes, textures, materials and the quality of images.

    Sizes, colours and poses of the shapes are not among them, since MuJoCo reads those for every image.
    """
    found = hashlib.sha1(repr([model.vis.quality, model.vis.map, model.vis.global_, model.stat.extent]).encode())
    for name in dir(model):
        if name.startswith(UPLOADED):
            value = getattr(model, name)
            found.update(f"{name} {getattr(value, 'shape', value)}".encode())
            if isinstance(value, np.ndarray):
                found.update(np.ascontiguousarray(value).data)
    return found.digest()


def forget(context: Any) -> None:
    """Drop what a context of robosuite shares with others."""
    context.__dict__.pop("con", None)


def free_all() -> None:
    """Free all uploads and OpenGL contexts."""
    _recent.clear()
    for part in [*_uploads.values(), *_opened.values()]:
        with suppress(Exception):  # the display, and the context with it, may be gone
            part.free()
    _opened.clear()
    _uploads.clear()


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
