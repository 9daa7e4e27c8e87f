"""Checks of the tensors of a weight file, before a module loads them and before they are written."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from action_heads._util.change_detection import structure
from action_heads._util.limits import shown
from action_heads.io.files import WeightFileError, save_tensors


def check_layout(
    tensors: Mapping[str, Tensor],
    expected: Mapping[str, Tensor],
    path: Path,
    remedy: str = "Download or save it again.",
) -> None:
    """Check the names, shapes and dtypes of a weight file against a module, before anything is loaded.

    Args:
        tensors: the tensors of the file.
        expected: the state of the module, possibly on the meta device, so that a wrong file costs no memory. Floats may
            have another precision.
        path: path of the file, for messages.
        remedy: the end of the message.

    Raises:
        WeightFileError: the file does not fit.
    """
    problems = [f"lacks {name}" for name in sorted(expected.keys() - tensors.keys())]
    problems += [f"has an unknown tensor {shown(name)}" for name in sorted(tensors.keys() - expected.keys())]
    for name in sorted(expected.keys() & tensors.keys()):
        found, wanted = tensors[name], expected[name]
        if found.shape != wanted.shape:
            problems.append(f"has {name} of shape {tuple(found.shape)}, expected {tuple(wanted.shape)}")
        elif found.dtype != wanted.dtype and not (found.is_floating_point() and wanted.is_floating_point()):
            problems.append(f"has {name} of dtype {found.dtype}, expected {wanted.dtype}")
    if problems:
        more = f"; and {len(problems) - 4} more" if len(problems) > 4 else ""
        raise WeightFileError(f"{path} does not fit its config: it {'; '.join(problems[:4])}{more}. {remedy}")


def check_values(
    tensors: Mapping[str, Tensor],
    expected: Mapping[str, Tensor],
    path: Path,
    remedy: str = "Train or save it again.",
) -> None:
    """Check that the values of a weight file have the right kind of dtype and are finite, and divisors positive."""
    problems = [
        f"{name} is {tensors[name].dtype}, expected {tensor.dtype}"
        for name, tensor in expected.items()
        if name in tensors and tensors[name].is_floating_point() != tensor.is_floating_point()
    ]
    if problems := problems + unusable(tensors):
        raise WeightFileError(f"{path} can't be used: {'; '.join(problems[:4])}. {remedy}")


def check_savable(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Check that a weight file with these values could be loaded again, before it replaces one that can."""
    if problems := unusable(tensors):
        raise ValueError(
            f"{path} was not written, since nothing could load it: {'; '.join(problems[:4])}. If training diverged, "
            "begin again with a lower learning rate. A file that was there is kept."
        )


def check_same_build(found: nn.Module, expected: nn.Module, path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Check that a module is built as loading would build it, before its file replaces one that can be loaded.

    A module that was wrapped, pruned or replaced in part has other names, or would load as something else. Its weights
    are then written beside `path`, so that a long training is not lost.

    Args:
        found: the module to save.
        expected: the module that loading would build, possibly on the meta device.
        path: path of the file, for messages.
        tensors: the weights of `found`.

    Raises:
        ValueError: the builds differ.
    """
    here, there = ({name: rest for name, *rest in structure(module)} for module in (found, expected))
    problems = [
        f"{f'its part {name}' if name else 'it'} is {_part(here.get(name))}, and loading would build "
        f"{_part(there.get(name))}"
        for name in dict.fromkeys((*here, *there))
        if here.get(name) != there.get(name)
    ]
    shapes = [{name: tuple(tensor.shape) for name, tensor in part.state_dict().items()} for part in (found, expected)]
    problems += [f"{name} differs in shape or is new" for name, _ in sorted(shapes[0].items() - shapes[1].items())]
    if not problems and shapes[0].keys() == shapes[1].keys():
        return
    beside = path.with_name(f"{path.stem}-as-it-is{path.suffix}")
    save_tensors(dict(tensors), beside, {})
    raise ValueError(
        f"{path} was not written, since loading would not give this {type(found).__name__}: "
        f"{'; '.join(problems[:3]) or 'it lacks weights'}. Undo the change and save again: take the module out of "
        "torch.compile (module = module._orig_mod; module.compile() compiles in place), and use "
        "torch.nn.utils.parametrize.remove_parametrizations or torch.nn.utils.prune.remove. A class of your own can't "
        f"be saved under a name of this library. The weights as they are were written to {beside}"
    )


def _part(found: list[str] | None) -> str:
    return "missing" if found is None else f"{found[0]}({found[1]})"


def unusable(tensors: Mapping[str, Tensor]) -> list[str]:
    """Return what is wrong with the values of weights: they must be finite, and divisors positive."""
    problems = [f"{name} holds NaN or infinity" for name, tensor in tensors.items() if not tensor.isfinite().all()]
    return problems + [f"{name} is not positive" for name in tensors if divides(name) and (tensors[name] <= 0).any()]


def divides(name: str) -> bool:
    """Return whether a tensor is a divisor, in a normaliser or an adapter's standardisation."""
    return name == "normalizer.scale" or (name.startswith("adapter.standard.") and name.endswith("std"))
