"""A tap on a transformers model: the hidden states of one layer, or a mix of several, as tokens for an adapter.

Axes: b batch, n tokens, c width, l tapped layers.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from action_heads.io.files import fingerprint
from action_heads.vlm import lora as loras
from action_heads.vlm import tap_file
from action_heads.vlm.catch import catching
from action_heads.vlm.declared import check_evaluates, check_trains, declare, overruled, trains
from action_heads.vlm.inputs import check_finite, check_inputs, check_no_cache
from action_heads.vlm.lora import TRAIN
from action_heads.vlm.model import Layer, blocks_of, heard, image_ids_of, uncompiled, unwrap

SELECT = ("all", "image", "text")


class Tap(nn.Module):
    """A module that runs a transformers model and returns hidden states of a layer as tokens for an adapter.

    `tokens, mask = tap(**processor_inputs)` returns hidden states (b n c) and a mask (b n) that is true where a token
    counts. The model runs without its language or classification head, up to the last tapped layer. The mask is the
    model's attention mask, restricted to the selected tokens.

    Args:
        model: a language, vision or vision-language model of transformers. It may be wrapped by `torch.compile` or
            PEFT; the model inside runs and trains.
        layer: an index into the `hidden_states` of transformers: 0 for the embeddings, i for the output of the first
            i blocks, -1 for the last one, after the final norm. In a vision-language model these belong to the language
            model. Alternatively the path of a module, such as "model.multi_modal_projector", for its output. Several
            layers are normalised and summed with learned softmax weights, which are equal at first.
        select: the tokens that count, "all", "image" or "text".
        train: "frozen" for no gradients, and evaluation mode even under `train()`. "lora" to train only LoRA
            weights, existing or new ones, which are added in place and kept in float32. "full" to train everything.
            A model has one such state, which the newest of its taps sets.
        isolate: block the gradient of the head's loss to the model (knowledge insulation). A loss of its own may train
            the model.
        lora: a `peft.LoraConfig` for a model without LoRA weights. The default is rank 16 on all linear layers.
        own_loss: the model also has a loss of its own, so the layers after the tapped one train too. Without it they
            are frozen, since they get no gradient. `isolate` implies it.

    Raises:
        ValueError: the model cannot be tapped, a layer does not exist, or options contradict each other.

    Examples:
        >>> import torch
        >>> from transformers import LlamaConfig, LlamaModel
        >>> from action_heads import ActionHead
        >>> from action_heads.adapters import AdaLNZero
        >>> from action_heads.vlm import Tap
        >>> sizes = {"vocab_size": 99, "hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2}
        >>> vlm = LlamaModel(LlamaConfig(num_hidden_layers=4, **sizes))  # or any pretrained model
        >>> tap = Tap(vlm, layer=2)
        >>> tokens, mask = tap(input_ids=torch.randint(99, (1, 7)))
        >>> tokens.shape, mask.shape
        (torch.Size([1, 7, 32]), torch.Size([1, 7]))
        >>> head = ActionHead.from_pretrained("dae/mixer-5m-fk")
        >>> policy = head.attach(AdaLNZero(cond_dim=tap.width, pool="attention"))
        >>> policy.sample(tokens, mask=mask).shape
        torch.Size([1, 16, 10])
    """

    model: Any  # a PreTrainedModel

    def __init__(
        self,
        model: Any,
        layer: Layer | Sequence[Layer] = -1,
        *,
        select: str = "all",
        train: str = "frozen",
        isolate: bool = False,
        lora: Any = None,
        own_loss: bool = False,
    ):
        super().__init__()
        model = unwrap(model)
        for value, known, name in ((select, SELECT, "select"), (train, TRAIN, "train")):
            if value not in known:
                raise ValueError(f"unknown {name}={value!r}; choose from {', '.join(map(repr, known))}")
        if lora is not None and train != "lora":
            raise ValueError(f"a LoRA config was given with train={train!r}; pass train='lora'")
        self.model, self.select, self.how, self.isolate = model, select, train, isolate
        self.text = model.config.get_text_config()  # The config itself, if the model contains no language model.
        layers = [layer] if isinstance(layer, (int, str)) else list(layer)
        if not layers:
            raise ValueError("layer is empty; pass one layer, or several to mix")
        self.layers = [self._resolve(each) for each in layers]
        if len(set(self.layers)) < len(layers):
            raise ValueError(f"layer has a duplicate: {layers}")
        self.mix = Mix(len(layers)) if len(layers) > 1 else None
        self.image_ids = image_ids_of(model.config)
        if select != "all" and not self.image_ids:
            raise ValueError(
                f"{type(model.config).__name__} has no image_token_id, which select={select!r} needs; use select='all'"
            )
        self._found_width: int | None = None
        self._looked_at = False
        chosen = loras.trained(model, train, lora)
        if not (isolate or own_loss):
            chosen &= heard(model, self.layers)
        if train == "lora":
            for p in chosen:  # With 16 bits, small steps of the optimizer would be rounded away.
                p.data = p.data.float()
        self._trained = {name for name, p in model.named_parameters() if p in chosen}
        self.requires_grad_()
        self.train(train != "frozen")

    def _resolve(self, layer: Layer) -> Layer:
        """Return a layer as an index from the front, -1 for the last, or an existing path of a module."""
        if isinstance(layer, str):
            try:
                self.model.get_submodule(layer)
            except AttributeError as error:
                children = ", ".join(name for name, _ in self.model.base_model.named_children())
                raise ValueError(
                    f"the model has no module {layer!r} ({error}); its base model has {children}"
                ) from error
            return layer
        if layer == -1:
            return -1
        depth = len(blocks_of(self.model))
        if not -depth - 1 <= layer <= depth:
            raise ValueError(
                f"layer {layer} does not exist in this model of {depth} blocks; choose 0 (embeddings) to {depth}, or -1"
            )
        layer %= depth + 1
        return -1 if layer == depth else layer

    @property
    def width(self) -> int:
        """Width c of the tokens, for an adapter's `cond_dim`. For a named module, it is known after the first call."""
        if self._found_width is None and any(isinstance(layer, str) for layer in self.layers):
            raise RuntimeError(
                "the width of a named module's output is known after its first run; call the tap once before"
            )
        return self._found_width or self.text.hidden_size

    def forward(self, **inputs: Any) -> tuple[Tensor, Tensor]:
        """Run the model on the output of its processor.

        Returns:
            Tokens (b n c), and a mask (b n) that is true where a token counts.

        Raises:
            ValueError: the inputs do not fit the model, or a tapped layer is not finite.
            RuntimeError: this tap is frozen, but the model is in training mode; or a newer tap of the same model has
                frozen what this one trains. The tap does not repair it, since other threads may use the model.
        """
        check_inputs(inputs, self.model, self.image_ids)
        if -1 not in self.layers:
            check_no_cache(inputs)
        self._check_state()
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.how != "frozen" and not self.isolate):
            states = self._hidden_states(inputs)
        self._check_state()  # Another thread may have changed it meanwhile.
        for layer, state in zip(self.layers, states, strict=True):
            if not isinstance(state, Tensor) or state.ndim != 3:
                shape = tuple(state.shape) if isinstance(state, Tensor) else type(state).__name__
                raise ValueError(f"layer {layer!r} returns {shape}; expected (batch, n, c). Tap another layer.")
        mask = self._mask(states[0], inputs)
        if self._look(states[0]):
            for layer, state in zip(self.layers, states, strict=True):
                check_finite(f"layer {layer!r}", state, mask)
        tokens = states[0] if self.mix is None else self.mix(states)
        self._found_width = tokens.shape[-1]
        return tokens, mask

    def _look(self, state: Tensor) -> bool:
        """Return whether to check for NaN. Training checks only once on an accelerator, since the check waits."""
        if torch.compiler.is_compiling():
            return False
        look = state.device.type == "cpu" or not torch.is_grad_enabled() or not self._looked_at
        self._looked_at = True
        return look

    def _hidden_states(self, inputs: Mapping[str, Any]) -> list[Any]:
        """Run the model until every tapped layer has run, and return their hidden states in order."""
        if "input_ids" in inputs:
            inputs = {"use_cache": False, **inputs}  # A cache of keys and values is only needed to generate text.
        base = getattr(self.model.base_model, "_orig_mod", self.model.base_model)
        caught: dict[Layer, Any] = {}
        with ExitStack() as stack:
            for layer in self.layers:
                stack.enter_context(uncompiled(self.model, layer))
            if points := {layer: self._point(layer) for layer in self.layers if layer != -1}:
                caught = stack.enter_context(catching(points, stop=-1 not in self.layers))
            try:
                out = base(**inputs)
            except (TypeError, AttributeError) as error:  # An input is missing or unknown.
                raise ValueError(
                    f"{type(self.model).__name__} can't run on these inputs ({', '.join(inputs)}): {error}"
                ) from error
            if -1 in self.layers:
                if getattr(out, "last_hidden_state", None) is None:
                    raise ValueError(
                        f"{type(self.model).__name__} returns no last_hidden_state. Tap one of its parts, such as "
                        "model.vision_model, or pass the path of a module."
                    )
                caught[-1] = out.last_hidden_state
        if missed := [layer for layer in self.layers if layer not in caught]:
            raise ValueError(f"layers {missed} did not run with these inputs ({', '.join(inputs)})")
        return [caught[layer] for layer in self.layers]

    def _point(self, layer: Layer) -> tuple[nn.Module, str]:
        """Return the module to listen to, and whether the hidden states are its input or its output."""
        if isinstance(layer, str):
            return self.model.get_submodule(layer), "output"
        # The input of block i, not the output of the block before, so that no checkpointed block is interrupted.
        return blocks_of(self.model)[layer], "input"

    def _mask(self, tokens: Tensor, inputs: Mapping[str, Any]) -> Tensor:
        ids, valid = inputs.get("input_ids"), inputs.get("attention_mask")
        shape = tokens.shape[:2]
        mask = torch.ones(shape, dtype=torch.bool, device=tokens.device)
        if valid is not None and valid.shape == shape:  # A mask of another shape belongs to other tokens.
            mask = valid.to(tokens.device) > 0
        if self.select == "all":
            return mask
        if ids is None or ids.shape != shape:
            raise ValueError(f"select={self.select!r} needs input_ids of shape {tuple(shape)}; use select='all'")
        image = torch.isin(ids.to(tokens.device), torch.tensor(self.image_ids, device=tokens.device))
        return mask & (image if self.select == "image" else ~image)

    # ── what trains ──────────────────────────────────────────────────────────────────────────────────────────────

    def trainable_parameters(self) -> Iterator[nn.Parameter]:
        """Yield the parameters for the optimiser: those of the model that `train` selects, and the weights of a mix.

        Raises:
            RuntimeError: a newer tap of the same model has frozen some of them.
        """
        check_trains(self.model, self._declared)
        return (p for p in self.parameters() if p.requires_grad)

    def train(self, mode: bool = True) -> Tap:
        """Set the mode; a frozen model stays in evaluation mode.

        The mode of the model does not change if it belongs to another tap: one that trains the model of this frozen
        tap, or a newer one that has frozen what this tap trains.
        """
        frozen = self.how == "frozen"
        if overruled(self.model, self._declared) or (frozen and trains(self.model)):
            self.training = mode and not frozen
            return self
        return super().train(mode and not frozen)

    def requires_grad_(self, requires_grad: bool = True) -> Tap:
        """Set `requires_grad` of the parameters that `train` selects. The others stay frozen.

        An older tap of the same model that trains some of the others raises an error when it is used next.
        """
        self._declared = self._trained if requires_grad else set()
        declare(self.model, self._declared)
        if self.mix is not None:
            self.mix.requires_grad_(requires_grad)
        return self

    def _check_state(self) -> None:
        """Raise a RuntimeError if the model is not in the state that this tap declared."""
        if torch.compiler.is_compiling():
            return
        check_trains(self.model, self._declared)
        if self.how == "frozen":
            check_evaluates(self.model)

    def identity(self) -> str:
        """Return 32 hex digits that identify the output: weights, configuration, layer and selection.

        Raises:
            ValueError: the output changes in training.
            RuntimeError: the model is in training mode.
        """
        if self.how != "frozen" or self.mix is not None:
            raise ValueError("only the output of a frozen tap of one layer can be cached, since a trained one changes")
        self._check_state()
        config = {key: value for key, value in self.model.config.to_dict().items() if key != "_name_or_path"}
        contract = [
            type(self.model).__name__,
            self.layers,
            self.select,
            str(next(self.model.parameters()).dtype),
            config,
            *([adapters] if (adapters := loras.state(self.model)) else []),
        ]
        return fingerprint(self.model.state_dict(), json.dumps(contract, sort_keys=True, default=str))

    def save(self, folder: str | Path) -> None:
        """Write tap.safetensors with the layers, the selection and the weights of a mix, but without the model."""
        tap_file.save(self, Path(folder).expanduser())

    @classmethod
    def load(cls, folder: str | Path, model: Any, **options: Any) -> Tap:
        """Tap a model in the same way as a saved tap.

        Args:
            folder: the folder of `save`.
            model: the model that the saved tap was trained with.
            **options: `train`, `isolate`, `lora` and `own_loss`, as for a new tap.

        Raises:
            WeightFileError: the file is missing or damaged.
            ValueError: the file does not fit the model.
        """
        return tap_file.load(cls, Path(folder).expanduser(), model, **options)

    def extra_repr(self) -> str:
        return f"layers={self.layers}, select={self.select!r}, train={self.how!r}, isolate={self.isolate}"


class Mix(nn.Module):
    """The weighted sum Σ softmax(θ)_l norm(x_l) of layers, as in ELMo (Peters et al. 2018)."""

    def __init__(self, layers: int):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(layers))

    def forward(self, states: Sequence[Tensor]) -> Tensor:
        if len({state.shape for state in states}) > 1:
            raise ValueError(f"only layers of one shape can be mixed, got {[tuple(state.shape) for state in states]}")
        states = [nn.functional.layer_norm(state.float(), state.shape[-1:]) for state in states]
        return torch.einsum("l, l b n c -> b n c", self.weight.float().softmax(0), torch.stack(states))
