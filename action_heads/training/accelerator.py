"""The accelerator of a run: this process, its device, and how it computes together with the others."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Protocol

import torch

from action_heads._util.extras import require
from action_heads._util.precision import bfloat16_is_faster
from action_heads.io import locks
from action_heads.training import checkpoint
from action_heads.training.optimiser import OptimiserConfig


class Settings(Protocol):
    """What is read of a configuration."""

    @property
    def optimiser(self) -> OptimiserConfig: ...
    @property
    def precision(self) -> str: ...
    @property
    def folder(self) -> Path: ...


def this_process():
    """Return the state of this process among those of the run."""
    accelerate = require("accelerate", "train")
    # Without being told so, accelerate takes several processes on a machine without a GPU for several lone ones.
    cpu = accelerate.utils.parse_flag_from_env("ACCELERATE_USE_CPU") or not has_accelerator()
    return accelerate.PartialState(cpu=cpu)


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold the folder of a run, for all its processes: the main one locks it, and if it cannot all of them raise.

    Raises:
        InUse: another run holds it.
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


def start(config: Settings):
    """The accelerator."""
    accelerate, process = require("accelerate", "train"), this_process()
    if config.optimiser.batch_size % process.num_processes:
        raise ValueError(
            f"a batch of {config.optimiser.batch_size} chunks cannot be shared by {process.num_processes} processes: "
            f"give a --batch-size that is a multiple of {process.num_processes}"
        )
    # The precision belongs to a singleton, which would refuse another run with another one in this process.
    accelerate.state.AcceleratorState._reset_state()
    # In Stage 1, the parameters of the mechanisms whose turn it is not have no gradient.
    unused = accelerate.DistributedDataParallelKwargs(find_unused_parameters=True, broadcast_buffers=False)
    return accelerate.Accelerator(
        cpu=process.device.type == "cpu",
        mixed_precision="bf16" if settled_precision(config, process.device) == "bf16" else "no",
        log_with="tensorboard",
        project_dir=config.folder / "state",
        kwargs_handlers=[unused],
    )


def has_accelerator() -> bool:
    """Whether there is anything but a CPU to compute on."""
    return torch.cuda.is_available() or torch.backends.mps.is_available() or torch.xpu.is_available()


def settled_precision(config: Settings, device: torch.device) -> str:
    """What `auto` means here: what it meant when the run began, and the same in every process."""
    if config.precision != "auto":
        return config.precision
    began_with = (checkpoint.begun(config.folder / "state") or {}).get("precision")
    choice = [began_with or ("bf16" if bfloat16_is_faster(device) else "fp32")]
    require("accelerate.utils", "train").broadcast_object_list(choice)
    return choice[0]
