"""Optional dependencies: which extra brings what, and one message for what is missing."""

from __future__ import annotations

import importlib
from importlib.util import find_spec
from types import ModuleType

# The modules that a command with this extra imports; `sim` includes `train`.
MODULES = {
    "train": ("accelerate", "matplotlib", "scipy", "tensorboardX", "tqdm"),
    "sim": ("robosuite", "mujoco", "imageio"),
    "data": ("pyarrow", "h5py"),
    "vision": ("torchvision", "transformers"),
    "vlm": ("transformers", "peft"),
    "lerobot": ("lerobot",),
    "export": ("onnx", "onnxruntime", "onnxscript"),
    "serve": ("websockets", "msgpack"),
}


def require(module: str, extra: str) -> ModuleType:
    """Import `module`, or raise an ImportError that names the extra which brings it."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ImportError(f"{module} is needed here and could not be imported ({error}). {remedy(extra)}") from error


def missing(*extras: str) -> list[str]:
    """Return the modules of these extras that are not installed, without importing any."""
    return [module for extra in extras for module in MODULES[extra] if find_spec(module) is None]


def remedy(*extras: str) -> str:
    """Say how these extras are installed, in a clone and from PyPI."""
    names = ",".join(dict.fromkeys(extra for extra in extras if extra != "lerobot"))
    clone = f"'.[{names}]'" if names else "."
    clone += " ./lerobot_policy_dae" if "lerobot" in extras else ""
    packages = f"'action-heads[{','.join(dict.fromkeys(extras))}]'"
    python = " (Python 3.12 or newer)" if "lerobot" in extras else ""
    return (
        f"Install it with `pip install {clone}` in a clone of the repository (`uv sync` there installs everything), "
        f"or `pip install {packages}` where action-heads comes from PyPI{python}"
    )
