"""The accelerator of a run: its processes, their device and their precision."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path

import torch

from action_heads._util.extras import require
from action_heads._util.precision import bfloat16_is_faster
from action_heads.io import locks
from action_heads.training import checkpoint

# How long the processes wait for the main process, which downloads and converts a corpus. NCCL's own is 10 minutes.
PATIENCE = timedelta(hours=6)


def this_process():
    """Return the state of this process among those of the run."""
    accelerate = require("accelerate", "train")
    # On a machine without a GPU, accelerate would not join the processes unless it is told to use the CPU.
    cpu = accelerate.utils.parse_flag_from_env("ACCELERATE_USE_CPU") or not has_accelerator()
    return accelerate.PartialState(cpu=cpu, timeout=PATIENCE)


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Lock the folder of a run for all its processes.

    The main process takes the lock. If it cannot, all processes raise the same error.

    Raises:
        InUse: another run holds the folder.
    """
    process, failed = this_process(), [None]
    with ExitStack() as stack:
        if process.is_main_process:
            try:
                stack.enter_context(locks.held(folder))
            except (OSError, ValueError) as error:
                failed = [error]
        require("accelerate.utils", "train").broadcast_object_list(failed)
        if failed[0] is not None:
            raise failed[0]
        yield


def start(batch_size: int, precision: str, folder: Path, graph: bool = False):
    """Return the accelerator of the run in `folder`, in fp32, bf16 or `auto`.

    Raises:
        ValueError: the processes cannot share a batch evenly, or several are to train by CUDA graphs (`graph`).
    """
    accelerate, process = require("accelerate", "train"), this_process()
    if graph and process.num_processes > 1:  # Averaging gradients over processes looks for those that are missing.
        raise ValueError(
            f"--graph needs a single process, but this run has {process.num_processes}, whose averaging of gradients "
            "no graph can hold. Leave out --graph, or start one process"
        )
    if batch_size % process.num_processes:
        raise ValueError(
            f"a batch of {batch_size} chunks cannot be divided evenly among {process.num_processes} processes. "
            f"Set --batch-size to a multiple of {process.num_processes}"
        )
    # The precision is stored in a singleton, which would refuse a later run of another precision in this process.
    accelerate.state.AcceleratorState._reset_state()
    # In Stage 1 a step trains one mechanism, so the parameters of the others have no gradient.
    unused = accelerate.DistributedDataParallelKwargs(find_unused_parameters=True, broadcast_buffers=False)
    return accelerate.Accelerator(
        cpu=process.device.type == "cpu",
        mixed_precision="bf16" if _resolve(precision, folder, process.device) == "bf16" else "no",
        log_with="tensorboard",
        project_dir=folder / "state",
        kwargs_handlers=[unused],
    )


def has_accelerator() -> bool:
    """Return whether torch can use a GPU of any kind."""
    return torch.cuda.is_available() or torch.backends.mps.is_available() or torch.xpu.is_available()


def _resolve(precision: str, folder: Path, device: torch.device) -> str:
    """Return what `auto` means: the precision with which the run began, and the same in every process."""
    if precision != "auto":
        return precision
    began_with = (checkpoint.begun(folder / "state") or {}).get("precision")
    choice = [began_with or ("bf16" if bfloat16_is_faster(device) else "fp32")]
    require("accelerate.utils", "train").broadcast_object_list(choice)
    return choice[0]
