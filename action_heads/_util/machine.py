"""Description of the machine that a measurement ran on."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from action_heads import __version__

# Flags of vector instructions that speed depends on, since processors of several kinds may have one name ("AMD EPYC").
INSTRUCTIONS = frozenset(("avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "bf16"))


def cores() -> int:
    """Return the number of cores that this process may use. A container or scheduler may allow fewer than exist."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cache_home() -> Path:
    """Return the folder of all our caches: ACTION_HEADS_CACHE, or one in the user's cache.

    Raises:
        RuntimeError: the user has no home, and no variable names a folder.
    """
    if given := os.environ.get("ACTION_HEADS_CACHE"):
        return Path(given).expanduser().absolute()
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home).expanduser() if home else Path.home() / ".cache").absolute() / "action-heads"


def peak_memory() -> dict[str, float | None]:
    """Return the largest memory that this process has used so far, in MB: of the computer and of its GPU."""
    import torch

    try:
        import resource

        unit = 1e6 if sys.platform == "darwin" else 1e3  # bytes there, kilobytes on Linux
        used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
    except ImportError:  # Windows
        used = None
    gpu = torch.cuda.max_memory_allocated() / 1e6 if torch.cuda.is_available() else None
    return {name: None if value is None else round(value, 1) for name, value in (("ram_mb", used), ("gpu_mb", gpu))}


def processor_text(record: Mapping[str, Any]) -> str:
    """Return a recorded machine's processor and its vector instructions, if these were recorded."""
    names = record.get("instructions")
    processor = record.get("processor", "unknown processor")
    return f"{processor} ({', '.join(names)})" if names else processor


def cpu_facts(*keys: str) -> list[str]:
    """Return the lines of Linux's /proc/cpuinfo that begin with one of the keys; [] on other systems."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    return [line for line in lines if line.startswith(keys)]


def cpu_flags() -> set[str]:
    """Return the CPU flags that Linux reports, or an empty set on other systems."""
    return {flag for line in cpu_facts("flags", "Features") for flag in line.split(":")[1].split()}


def machine() -> dict:
    """Return the processor with its vector instructions, the number of threads and the versions of the software."""
    import torch  # Imported here, since simulation processes call `cores` without needing torch.

    names = [line.split(":")[1].strip() for line in cpu_facts("model name")]
    return {
        "processor": names[0] if names else platform.processor(),
        "instructions": sorted(INSTRUCTIONS & cpu_flags()),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "action_heads": __version__,
    }
