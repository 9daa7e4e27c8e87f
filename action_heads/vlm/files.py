"""Find, identify and load a transformers model: a vision-language, vision or language model."""

from __future__ import annotations

import hashlib
import math
import shlex
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import safetensors
import torch

from action_heads._util.extras import require
from action_heads._util.quiet import quiet
from action_heads.io.files import read_json
from action_heads.io.folders import refusal_of_path
from action_heads.io.hub_errors import hub_errors, is_local, reason_of_snapshot

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
# The files besides weights that a model and its processor are read from.
READ = ("*.json", "*.jinja", "*.txt", "*.model")
FOREIGN = ("consolidated*", "original/*", "onnx/*")  # copies of the weights in other formats
IMAGES, WORDS = "images", "words"


def find(name: str, revision: str | None = None) -> Path:
    """Return the local folder of a model, which is downloaded if the cache of the Hub lacks it.

    Raises:
        ValueError: there is no such model, it is not in the cache and the Hub cannot be reached, or it has no weights
            in safetensors.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        if revision is not None:
            raise ValueError(f"{name!r} is a local folder, and folders have no revision {revision!r}. Leave it out")
    elif refusal := refusal_of_path(name, only_the_hub=revision is not None):
        raise ValueError(refusal)
    else:
        folder = _from_hub(name, revision)
    if not (folder / "config.json").is_file():
        raise ValueError(f"{folder} has no config.json, so it is not a model of transformers")
    if not weight_files(folder):
        raise ValueError(
            f"{folder} has no {WEIGHTS}, nor its parts. Other formats are pickled and are not read: load the model "
            "once and save it with save_pretrained"
        )
    return folder


def _from_hub(name: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download

    patterns: dict[str, Any] = {"allow_patterns": [*READ, "*.safetensors"], "ignore_patterns": [*FOREIGN]}
    try:
        return Path(snapshot_download(name, revision=revision, **patterns))
    except hub_errors() as error:
        if is_local(error):
            raise
        cause = reason_of_snapshot(error, name, revision)
        at = f" --revision {shlex.quote(revision)}" if revision else ""
        raise ValueError(
            f"{name!r} is no folder, is not in the local cache of the Hub, and could not be downloaded: {cause}. With "
            f"a connection, run `hf download {shlex.quote(name)}{at}` once, or pass a folder"
        ) from error


def weight_files(folder: Path) -> list[Path]:
    """Return the files that hold a model's weights, or []."""
    if (folder / INDEX).is_file():
        parts = read_json(folder / INDEX).get("weight_map", {})
        found = [folder / name for name in sorted(set(parts.values()))]
        if missing := [path.name for path in found if not path.is_file()]:
            raise ValueError(f"{folder} lacks {', '.join(missing)} of the model's weights. Download it again")
        return found
    return [folder / WEIGHTS] if (folder / WEIGHTS).is_file() else []


def fingerprint(folder: Path) -> str:
    """Return 32 hex digits that identify the weights of a model by names, dtypes, shapes and bits."""
    files = weight_files(folder)
    return _fingerprint(tuple((str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files))


@lru_cache
def _fingerprint(files: tuple[tuple[str, int, int], ...]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted_tensors([Path(path) for path, *_ in files]):
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)};".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:32]


def sorted_tensors(paths: list[Path]) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the tensors of weight files by their names, one at a time."""
    files = [safetensors.safe_open(path, framework="pt", device="cpu") for path in paths]
    where = {name: file for file in files for name in file.keys()}  # noqa: SIM118
    for name in sorted(where):
        yield name, where[name].get_tensor(name).contiguous()


def parameters(folder: Path) -> int:
    """Return the number of parameters in the weight files."""
    count = 0
    for path in weight_files(folder):
        with safetensors.safe_open(path, framework="pt", device="cpu") as file:
            count += sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
    return count


def processing_fingerprint(folder: Path) -> str:
    """Return 32 hex digits that identify the configuration of a model and of its processor."""
    digest = hashlib.sha256()
    for path in sorted({path for pattern in READ for path in folder.glob(pattern)} - {folder / INDEX}):
        digest.update(f"{path.name}:{path.stat().st_size};".encode() + path.read_bytes())
    return digest.hexdigest()[:32]


def describe(folder: Path) -> dict[str, Any]:
    """Return what is known of a model without its weights: `class`, `width` and what it `reads`.

    Raises:
        ValueError: transformers does not know the model, or it is neither a vision nor a language model.
    """
    config, kind = _class_of(folder)
    return {"class": kind.__name__, "width": config.get_text_config().hidden_size, "reads": _reads(config, kind)}


def _reads(config: Any, kind: Any) -> list[str]:
    if _sees_and_reads(config):
        return [IMAGES, WORDS]
    return [IMAGES if kind.main_input_name == "pixel_values" else WORDS]


def _class_of(folder: Path) -> tuple[Any, Any]:
    """Return config and class of a model; those of the vision tower for a two-tower model such as SigLIP."""
    transformers = require("transformers", "vlm")
    auto = require("transformers.models.auto.modeling_auto", "vlm")
    try:
        config = transformers.AutoConfig.from_pretrained(folder)
        if _sees_and_reads(config):
            return config, transformers.AutoModelForImageTextToText._model_mapping[type(config)]
        config = getattr(config, "vision_config", config)
        return config, transformers.AutoModel._model_mapping[type(config)]
    except (KeyError, ValueError, OSError) as error:
        known = len(auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES)
        raise ValueError(
            f"the model in {folder} is not one that transformers {transformers.__version__} loads by itself ({error}). "
            f"It knows {known} kinds of vision-language models; models with code of their own are not run"
        ) from error


def _sees_and_reads(config: Any) -> bool:
    transformers = require("transformers", "vlm")
    return type(config) in transformers.AutoModelForImageTextToText._model_mapping


def load(folder: Path, dtype: str) -> Any:
    """Load a model on the CPU, in evaluation mode.

    Raises:
        ValueError: the weights do not fit the model.
    """
    config, kind = _class_of(folder)
    with quiet():
        try:
            model, found = kind.from_pretrained(
                folder, config=config, dtype=getattr(torch, dtype), use_safetensors=True, output_loading_info=True
            )
        except (OSError, ValueError, RuntimeError) as error:
            raise ValueError(f"the model in {folder} could not be loaded: {error}") from error
    if missing := sorted(name for name in found["missing_keys"] if "pooler" not in name):
        raise ValueError(f"{folder} lacks weights of {kind.__name__}, such as {missing[0]}. Download it again")
    if WORDS in _reads(config, kind) and getattr(config, "is_encoder_decoder", False):
        model = model.get_encoder()
    return model.eval()


@lru_cache(maxsize=1)
def shared(folder: Path, dtype: str, weights: str) -> Any:
    """Load a model that nobody changes, or return the last one loaded so, which all its users share.

    `weights` is the `fingerprint` of the folder, since other weights may be saved there meanwhile.
    """
    return load(folder, dtype).requires_grad_(False)
