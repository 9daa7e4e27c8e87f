"""The metadata of an exported file: the meaning of its inputs and outputs, and its head and adapter."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

from torch import Tensor

from action_heads import adapter_file
from action_heads._util.extras import pip, require
from action_heads.acting import Policy
from action_heads.runtime.sampling_loop import SamplingLoop

KEY, VERSION = "action_heads", 1
LARGEST = 2**20  # bytes of the metadata
UNITS = {
    "position": "m",
    "rotation": "the first two rows of a rotation matrix",
    "gripper": "-1 open, +1 closed",
    "joint": "rad",
}


def describe(policy: Policy, loop: SamplingLoop, example: dict[str, Tensor]) -> dict[str, Any]:
    """Return the metadata of an exported file, ready for JSON."""
    own = policy.source
    head, adapter = own.head.config, own.adapter.config
    return {
        "version": VERSION,
        "head": head.name,
        "head_fingerprint": own.head.original.fingerprint(),
        "adapter": adapter.mechanism,
        "adapter_version": adapter_file.VERSION,
        "adapter_fingerprint": adapter_file.describe(own)["fingerprint"],
        "pool": adapter.pool,
        "cond_dim": adapter.cond_dim,
        "tokens": example["cond"].shape[1] if "mask" in example else None,
        "batch": len(example["cond"]),
        "horizon": head.horizon,
        "space": head.space.to_dict(),
        "units": {kind: UNITS[kind] for kind, _ in head.space.parts},
        "sampler": loop.sampling.sampler,
        "spacing": loop.sampling.spacing,
        "steps": (loop.plan.evaluations + 1) // 2 if loop.sampling.sampler == "heun" else loop.plan.evaluations,
        "evaluations": loop.plan.evaluations,
        "inputs": {name: list(tensor.shape) for name, tensor in example.items()},
    }


def read_metadata(path: str | Path) -> dict[str, Any]:
    """Return the metadata of an exported file of any format. No code of the file is executed.

    Raises:
        ValueError: the file is damaged, or was not written by `export`.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"There is no file {path}. Name a file that `action-heads export` wrote.")
    try:
        text = _onnx_text(path) if path.suffix == ".onnx" else _pt2_text(path)
        found = json.loads(text)
    except ImportError:
        raise
    except Exception as error:  # The readers of zip, protobuf and JSON have their own families of exceptions.
        raise ValueError(f"{path} has no metadata of action-heads ({error}). Export it again.") from error
    if not isinstance(found, dict) or found.get("version") != VERSION:
        version = found.get("version") if isinstance(found, dict) else None
        raise ValueError(
            f"The metadata of {path} have version {str(version)[:40]}, but this release reads {VERSION}. Export it "
            f"again, or upgrade with `{pip()} install -U action-heads`."
        )
    return found


def _onnx_text(path: Path) -> str:
    model = require("onnx", "export").load(path, load_external_data=False)
    return next(entry.value for entry in model.metadata_props if entry.key == KEY)


def _pt2_text(path: Path) -> str:
    """Return the metadata's text, which torch stores as a file of its own or as an entry beside the compiled code."""
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            if entry.file_size > LARGEST:
                continue
            if entry.filename.endswith(f"/{KEY}.json"):
                return archive.read(entry).decode()
            if entry.filename.endswith("_metadata.json"):
                said = json.loads(archive.read(entry))
                if isinstance(said, dict) and KEY in said:
                    return said[KEY]
    raise ValueError("none of its entries has them")
