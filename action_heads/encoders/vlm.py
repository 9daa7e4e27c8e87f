"""`VLMEncoder`: a transformers model that turns images and words into the tokens of a condition.

The model itself is not part of this module or its state: the state holds the weights that train, and the saved
architecture a pointer to the model. It is loaded when tokens are needed first. A run on cached tokens never loads it.

Axes: b batch, k cameras, n tokens, c width, H and W pixels.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from action_heads._util.extras import require
from action_heads._util.own_generator import OwnGenerator
from action_heads.encoders.vlm_config import VLMConfig
from action_heads.io.hub import commit_of
from action_heads.vlm import Tap, files
from action_heads.vlm.files import IMAGES, WORDS
from action_heads.vlm.prompt import Prompt

if TYPE_CHECKING:
    from typing_extensions import Self

_loading = threading.Lock()  # While one thread loads a model, others wait and use it, instead of loading it again.


class Held(list):
    """A model that is not a part of the module that holds it. A copy of the module loads it again when needed."""

    def __deepcopy__(self, memo: dict[int, Any]) -> Held:
        return Held()

    def __reduce__(self) -> tuple[type[Held], tuple[()]]:
        return Held, ()


class VLMEncoder(nn.Module):
    """An encoder from images and words to tokens (b n c) and a mask (b n).

    Args:
        config: the model, and how it is read.
        cameras: names of the cameras, in the order of their images in the prompt.
        architecture: the attribute `architecture` of a saved encoder. The model must then be the same one.

    Attributes:
        width: width c of the tokens.
        architecture: the pointer to the model, ready for JSON.

    Raises:
        ImportError: the extra `vlm` is not installed.
        ValueError: the model is not found, is another one than in `architecture`, or does not fit the config.
    """

    place: Tensor

    def __init__(self, config: VLMConfig, cameras: Sequence[str], architecture: dict[str, Any] | None = None):
        super().__init__()
        require("transformers", "vlm")
        self.config = config
        self._held = Held()
        self._prompt: Prompt | None = None
        self.register_buffer("place", torch.empty(0), persistent=False)  # Follows the device.
        if architecture is None:
            folder = self.folder
            architecture = files.describe(folder) | {
                "revision": commit_of(folder),
                "fingerprint": files.fingerprint(folder),
                "parameters": files.parameters(folder),
                "trained": {},
            }
        self.architecture = architecture
        self.width: int = architecture["width"]
        self.reads: tuple[str, ...] = tuple(architecture["reads"])
        self.cameras = tuple(cameras) if IMAGES in self.reads else ()
        if self.reads == (IMAGES,) and not cameras:
            raise ValueError(f"{config.model!r} reads only images, and there is no camera")
        if (config.train != "frozen" or len(config.layers) > 1) and not architecture["trained"]:
            self._bind(tap := self._load())
            self._held.append(tap)
        else:
            empty = {
                name: torch.zeros(shape, dtype=self._dtype(name)) for name, shape in architecture["trained"].items()
            }
            self.weights = nn.ParameterDict({_key(name): nn.Parameter(x) for name, x in empty.items()})

    # ── the model ────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def folder(self) -> Path:
        """The local folder of the model. A saved encoder looks for the revision that it was trained with."""
        found = getattr(self, "architecture", {}).get("revision")
        if found and not Path(self.config.model).expanduser().is_dir():
            return files.find(self.config.model, found)
        return files.find(self.config.model, self.config.revision)

    def check(self) -> None:
        """Raise a ValueError unless the model is there and is the one that this encoder was trained with."""
        folder, saved = self.folder, self.architecture
        if (found := files.describe(folder)) != {name: saved[name] for name in found}:
            raise ValueError(
                f"the policy was trained with a {saved['class']} of width {saved['width']} that reads "
                f"{' and '.join(saved['reads'])}, but {self.config.model!r} is a {found['class']} of width "
                f"{found['width']} that reads {' and '.join(found['reads'])}. Pass the model of the training"
            )
        if (weights := files.fingerprint(folder)) != saved["fingerprint"]:
            raise ValueError(
                f"{self.config.model!r} in {folder} has weights with fingerprint {weights}, but the policy was trained "
                f"with {saved['fingerprint']}. Pass the model of the training, or its revision"
            )

    @property
    def tap(self) -> Tap:
        """The tap on the model, on the device of this module. The first use loads the model."""
        with _loading:
            if not self._held:
                self._held.append(self._loaded())
        tap: Tap = self._held[0]
        if next(tap.model.parameters()).device != self.place.device:
            tap.to(self.place.device)
        return tap

    def _loaded(self) -> Tap:
        """Return a tap on the model with the weights of this module."""
        self.check()
        with OwnGenerator(), torch.device("cpu"):  # A new LoRA is random until the weights replace it.
            tap = self._load()
        if odd := self.architecture["trained"].keys() ^ _trained(tap).keys():
            raise ValueError(f"the weights that train differ from those that were saved: {', '.join(sorted(odd)[:3])}")
        for name in _trained(tap):
            _put(tap, name, self.weights[_key(name)])
        return tap.train(self.training)

    def _load(self) -> Tap:
        config, folder, how = self.config, self.folder, self.config.train
        if how == "frozen":
            model = files.shared(folder, config.torch_dtype, files.fingerprint(folder))
        else:
            model = files.load(folder, config.torch_dtype)
        lora = None
        if how == "lora":
            rank = config.lora_rank
            lora = require("peft", "vlm").LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear")
        return Tap(model, config.layers, select=config.select, train=how, lora=lora)

    def _dtype(self, name: str) -> torch.dtype:
        own = name.startswith("model.") and "lora_" not in name
        return getattr(torch, self.config.torch_dtype) if own else torch.float32

    def _bind(self, tap: Tap) -> None:
        """Make the trained weights of a tap the parameters of this module."""
        self.weights = nn.ParameterDict({_key(name): p for name, p in _trained(tap).items()})
        self.architecture["trained"] = {name: list(p.shape) for name, p in _trained(tap).items()}

    def unload(self) -> None:
        """Give back the memory of a frozen model. The next use loads it again."""
        self._held.clear()
        files.shared.cache_clear()

    @property
    def prompt(self) -> Prompt:
        """The processor of the model with the prompt."""
        if self._prompt is None:
            self._prompt = Prompt(self.folder, self.reads, self.config.prompt, self.config.template)
        return self._prompt

    @property
    def reads_task(self) -> bool:
        """True if the tokens depend on the task's words."""
        return WORDS in self.reads and self.config.reads_task

    def identity(self) -> str:
        """Return 32 hex digits that identify the tokens of given images and words.

        Raises:
            ValueError: the tokens change in training.
        """
        c = self.config
        if c.train != "frozen" or len(c.layers) > 1:
            raise ValueError("only the tokens of one layer of a frozen model can be cached, since trained ones change")
        made_of = [self.architecture["fingerprint"], files.processing_fingerprint(self.folder)]
        made_of += [c.layers, c.select, c.torch_dtype, c.prompt, c.template, self.cameras]
        return hashlib.sha256(json.dumps(made_of).encode()).hexdigest()[:32]

    # ── tokens ───────────────────────────────────────────────────────────────────────────────────────────────────

    def forward(self, images: Mapping[str, Tensor], tasks: Sequence[str] | None = None) -> tuple[Tensor, Tensor]:
        """Return tokens (b n c) and a mask (b n), true where a token counts.

        Args:
            images: the current images (b 3 H W) by camera, as floats in [0, 1].
            tasks: b descriptions of the task; None if nothing depends on them.

        Raises:
            ValueError: the inputs do not fit the model, or its hidden states are not finite.
        """
        tap = self.tap
        inputs = self.inputs(images, tasks)
        inputs = {name: x.to(self.place.device) for name, x in inputs.items()}
        try:
            tokens, mask = tap(**inputs)
        except ValueError as error:
            if "NaN or infinite" not in str(error):
                raise
            raise ValueError(
                f"{error}. The dtype of the model is {self.config.torch_dtype}: choose bfloat16 or float32"
            ) from error
        if self.reads == (IMAGES,):  # One row for each image.
            rows = len(tokens) // len(self.cameras)
            tokens, mask = tokens.reshape(rows, -1, tokens.shape[-1]), mask.reshape(rows, -1)
        if not mask.any(1).all():
            raise ValueError(f"an observation has no token for select={self.config.select!r}. Use select='all'")
        return tokens, mask

    def inputs(self, images: Mapping[str, Tensor], tasks: Sequence[str] | None = None) -> dict[str, Tensor]:
        """Return the inputs of the model, as its processor makes them from images (b 3 H W) and words."""
        if tasks is None and (self.reads_task or not images):
            raise ValueError("no tasks were given, and the VLM reads them; pass one description for each batch row")
        batch = len(next(iter(images.values()))) if images else len(tasks or ())
        pixels = {name: (images[name].float().clamp(0, 1) * 255).round().byte().cpu() for name in self.cameras}
        rows = [[pixels[name][i] for name in self.cameras] for i in range(batch)]
        return self.prompt(rows, tasks if self.reads_task and tasks else [""] * batch)

    # ── what trains, and what is saved ───────────────────────────────────────────────────────────────────────────

    def train(self, mode: bool = True) -> Self:
        """Set the mode; a frozen model stays in evaluation mode."""
        super().train(mode)
        for tap in self._held:
            tap.train(mode)
        return self

    def counts(self) -> dict[str, int]:
        """Return the numbers of frozen and of trained parameters."""
        trained = sum(p.numel() for p in self.weights.values())
        own = {name: shape for name, shape in self.architecture["trained"].items() if "lora_" not in name}
        inside = sum(torch.Size(shape).numel() for name, shape in own.items() if name.startswith("model."))
        return {"frozen": self.architecture["parameters"] - inside, "trained": trained}


def _trained(tap: Tap) -> dict[str, nn.Parameter]:
    return {name: p for name, p in tap.named_parameters() if p.requires_grad}


def _put(tap: Tap, name: str, weight: nn.Parameter) -> None:
    """Replace a parameter of the tap by another one of the same shape."""
    path, _, leaf = name.rpartition(".")
    setattr(tap.get_submodule(path), leaf, weight)


def _key(name: str) -> str:
    """Return the name of a parameter without dots, which a ParameterDict does not allow."""
    return name.replace(".", "/")
