"""Optional dependencies: the modules of each extra, and one message for those that are missing."""

from __future__ import annotations

import importlib
import re
import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

# The modules that a command with each extra imports. `sim` includes `lab`, and `lab` includes `train`.
MODULES = {
    "train": ("accelerate", "matplotlib", "scipy", "tensorboardX", "tqdm"),
    "lab": ("action_heads_lab",),
    "sim": ("robosuite", "mujoco", "imageio"),
    "data": ("pyarrow", "h5py"),
    "vision": ("torchvision", "transformers"),
    "vlm": ("transformers", "peft"),
    "lerobot": ("lerobot",),
    "export": ("onnx", "onnxruntime", "onnxscript"),
    "serve": ("websockets", "msgpack"),
}


def require(module: str, extra: str) -> ModuleType:
    """Import `module`, or raise an ImportError that says how to install its extra."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ImportError(f"{module} is required but could not be imported ({error}). {remedy(extra)}") from error


def missing(*extras: str) -> list[str]:
    """Return the modules of these extras that are not installed. No module is imported."""
    return [module for extra in extras for module in MODULES[extra] if find_spec(module) is None]


# Extras that are separate distributions, with their folder in a clone.
CLONE = {"lab": "./lab", "sim": "'./lab[sim]'", "lerobot": "./lerobot_policy_dae"}
INCLUDED = {"sim": ("lab", "train"), "lab": ("train",)}


def reduced(*extras: str) -> list[str]:
    """Return these extras without those that another of them includes."""
    included = {name for extra in extras for name in INCLUDED.get(extra, ())}
    return [extra for extra in dict.fromkeys(extras) if extra not in included]


def packages(*extras: str) -> str:
    """Return what `pip install` needs in a clone for these extras."""
    wanted = reduced(*extras)
    names = ",".join(extra for extra in wanted if extra not in CLONE)
    return " ".join([f"'.[{names}]'" if names else ".", *(CLONE[extra] for extra in wanted if extra in CLONE)])


def pip() -> str:
    """Return the command for packages of this environment, "pip" or "uv pip".

    An environment that uv made has no pip. There `pip install` would change another Python.
    """
    return "uv pip" if made_by_uv() else "pip"


def made_by_uv() -> bool:
    """Return whether uv made this environment."""
    settings = Path(sys.prefix) / "pyvenv.cfg"
    return (
        settings.is_file() and re.search(r"^uv\s*=", settings.read_text("utf-8", "replace"), re.MULTILINE) is not None
    )


def remedy(*extras: str) -> str:
    """Return a sentence that says how to install these extras, in a clone and from PyPI."""
    wanted = reduced(*extras)
    python = " (Python 3.12 or newer)" if "lerobot" in wanted else ""
    return (
        f"Install it with `{pip()} install {packages(*extras)}` in a clone of the repository (`uv sync` installs "
        f"everything there), or with `{pip()} install 'action-heads[{','.join(wanted)}]'` "
        f"if action-heads comes from PyPI{python}"
    )
