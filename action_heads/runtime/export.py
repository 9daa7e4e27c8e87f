"""`action-heads export`: write head, adapter and sampling loop as one file that runs without this library.

Axes: b batch, h horizon, a action, c condition, n tokens.
"""

from __future__ import annotations

import json
import math
import secrets
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from action_heads._util.extras import require
from action_heads._util.flags import check_choices, mistake
from action_heads._util.limits import check_width
from action_heads.acting import Policy
from action_heads.diffusion.samplers import SAMPLERS, SPACINGS, Sampling
from action_heads.io.drafts import drafted
from action_heads.policy import ConditionedHead
from action_heads.runtime.inductor import why_no_inductor
from action_heads.runtime.metadata import KEY, describe, read_metadata
from action_heads.runtime.sampling_loop import SamplingLoop

ENDINGS = {"onnx": ".onnx", "torch": ".pt2", "aoti": ".pt2"}
OPSET = 20  # the first with GELU as one operator


@dataclass(frozen=True)
class ExportConfig:
    """Write a policy as one file: (noise, cond) -> chunk in robot units.

    Attributes:
        adapter: folder or Hub id of a saved adapter, which points to its head.
        out: the file to write.
        format: onnx (for onnxruntime), torch (torch.export, for Python) or aoti (compiled for this processor, for C++
            and for Python with torch).
        steps: denoising steps, fixed in the file; the sampler's own number if not given.
        sampler: sampler, fixed in the file; not ddpm, which draws noise in every step.
        spacing: spacing of the denoising steps, as in `policy.sample`, fixed in the file.
        batch: chunks that the file computes at once.
        tokens: number of tokens of a condition, which then comes with a mask. If not given, a condition is one vector;
            an adapter that pools by attention or by the last token needs tokens.
    """

    adapter: str
    out: Path = Path("policy.onnx")
    format: str = "onnx"
    steps: int | None = None
    sampler: str = "ddim"
    spacing: str = "trailing"
    batch: int = 1
    tokens: int | None = None

    def __post_init__(self):
        check_choices(self, format=ENDINGS, sampler=SAMPLERS, spacing=SPACINGS)
        if Path(self.out).suffix != ENDINGS[self.format]:
            raise mistake("out", f"must end in {ENDINGS[self.format]}, as files of format {self.format!r} do")
        check_width("batch", self.batch)
        for name in ("steps", "tokens"):
            if getattr(self, name) is not None:
                check_width(name, getattr(self, name))


def export(config: ExportConfig) -> Path:
    """Run `action-heads export`: write the file, compare it with the policy and print its metadata."""
    check_out(Path(config.out))
    encoder = Path(config.adapter) / "encoder.safetensors"
    if encoder.exists() and config.tokens is not None:
        raise ValueError(f"--tokens {config.tokens}: {encoder} makes one vector of an observation. Leave --tokens out.")
    policy = ConditionedHead.from_pretrained(config.adapter)
    print(f"exporting {config.adapter} to {config.out} in format {config.format!r} ...", flush=True)
    path = export_policy(policy, config)
    far = difference(policy, config)
    if not math.isfinite(far):
        raise ValueError(f"{path} was written, but it computes NaN or infinity. Don't use it; check the adapter.")
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB, differs from eager by at most {far:.1e}")
    for name, value in read_metadata(path).items():
        print(f"  {name}: {value if isinstance(value, str) else json.dumps(value)}")
    if encoder.exists():
        print(f"cond is the output of the encoder {encoder}, which the exported file does not contain.")
    elif config.tokens is None and policy.adapter.config.pool == "mean":
        print("cond is one vector. If the adapter was trained on tokens, pass their mean, or export with --tokens n.")
    print(f"wrote {path}")
    return path


@torch.no_grad()
def export_policy(policy: Policy, config: ExportConfig) -> Path:
    """Write `policy` as `config` says and return the file. An error leaves no partial file.

    Args:
        policy: A policy on the CPU whose head is frozen.
        config: The file, its format and the sampling; `config.adapter` is not read.

    Raises:
        ValueError: The file can't be written, the head is not frozen or not on the CPU, or `tokens` is needed.
    """
    check_out(Path(config.out))
    if not policy.head.frozen:
        raise ValueError("The head trains along, but only a frozen head can be exported. Call head.freeze() first.")
    if policy.head.device.type != "cpu":
        raise ValueError(f"The policy is on {policy.head.device}. Move it with policy.to('cpu') to export it.")
    policy.head.assert_frozen(thorough=True)
    loop = SamplingLoop(policy, Sampling(config.sampler, config.steps, config.spacing))
    if config.tokens is None and (pool := policy.adapter.config.pool) != "mean":
        raise ValueError(
            f"This adapter pools tokens ({pool!r}), but without --tokens the file would take one vector. Give the "
            "largest number of tokens of a condition with --tokens n; a mask leaves out the rest."
        )
    example = loop.example(config.batch, config.tokens)
    said = json.dumps(describe(policy, loop, example), sort_keys=True)
    with drafted(Path(config.out)) as draft:
        WRITERS[config.format](loop, example, draft, said)
    return Path(config.out)


def write_onnx(loop: SamplingLoop, example: dict[str, Tensor], path: Path, said: str) -> None:
    """Write an ONNX file with its weights inside, which the format limits to 2 GB."""
    for module in ("onnx", "onnxscript"):
        require(module, "export")
    if torch.__version__ < "2.6":
        raise ValueError(f"Format 'onnx' needs torch 2.6 or newer, but torch {torch.__version__} is installed.")
    with ignored(r"`isinstance\(treespec, LeafSpec\)` is deprecated"):
        program = torch.onnx.export(
            loop,
            tuple(example.values()),
            input_names=list(example),
            output_names=["chunk"],
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    assert program is not None  # It is None only if a path is given.
    for node in program.model.graph:
        node.metadata_props.clear()  # These hold lines of our code and paths of this machine.
    program.model.metadata_props[KEY] = said
    program.save(path, external_data=False)


def write_torch(loop: SamplingLoop, example: dict[str, Tensor], path: Path, said: str) -> None:
    torch.export.save(exported(loop, example), path, extra_files={f"{KEY}.json": said})


def write_aoti(loop: SamplingLoop, example: dict[str, Tensor], path: Path, said: str) -> None:
    if why := why_no_inductor():
        raise ValueError(f"Format 'aoti' compiles the policy, which is not possible here: {why}")
    if torch.__version__ < "2.6":
        raise ValueError(f"Format 'aoti' needs torch 2.6 or newer, but torch {torch.__version__} is installed.")
    options = {"freezing": True, "aot_inductor.metadata": {KEY: said}}
    torch._inductor.aoti_compile_and_package(exported(loop, example), package_path=str(path), inductor_configs=options)


def exported(loop: SamplingLoop, example: dict[str, Tensor]) -> torch.export.ExportedProgram:
    return torch.export.export(loop, tuple(example.values()), strict=False)


WRITERS: dict[str, Callable[[SamplingLoop, dict[str, Tensor], Path, str], None]] = {
    "onnx": write_onnx,
    "torch": write_torch,
    "aoti": write_aoti,
}


@contextmanager
def ignored(message: str) -> Iterator[None]:
    """Ignore a warning of torch about its own code, whose message begins with this pattern."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message)
        yield


def check_out(path: Path) -> None:
    """Raise a ValueError if no file can be written there, before anything is loaded or traced."""
    if path.is_dir():
        raise ValueError(f"--out {path} is a folder. Name a file in it, such as {path / 'policy'}{path.suffix}.")
    probe = path.with_name(f".{path.stem}.{secrets.token_hex(4)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        probe.touch(exist_ok=False)
        probe.unlink()
    except OSError as error:
        raise ValueError(f"--out {path} can't be written ({error.strerror or error}). Choose another path.") from error


@torch.no_grad()
def difference(policy: Policy, config: ExportConfig) -> float:
    """Return the largest difference in robot units between the file and `policy`, on one batch of random inputs."""
    loop = SamplingLoop(policy, Sampling(config.sampler, config.steps, config.spacing))
    example = loop.example(config.batch, config.tokens)
    return float((run(Path(config.out), config.format, example) - loop(**example)).abs().max())


def run(path: Path, format: str, example: dict[str, Tensor]) -> Tensor:
    """Return the chunk (b h a) that a written file computes from named inputs."""
    if format == "onnx":
        session = require("onnxruntime", "export").InferenceSession(path, providers=["CPUExecutionProvider"])
        return torch.as_tensor(session.run(None, {name: tensor.numpy() for name, tensor in example.items()})[0])
    if format == "aoti":
        return torch._inductor.aoti_load_package(str(path))(*example.values())
    with ignored("The given buffer is not writable"):
        return torch.export.load(path).module()(*example.values())
