"""A tap on a transformers model: the hidden states of one layer, or of several mixed, as tokens for an adapter.

Axes: b batch, n tokens, c width, l tapped layers.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from action_heads.io.files import fingerprint
from action_heads.vlm import lora as loras
from action_heads.vlm import tap_file
from action_heads.vlm.inputs import check_finite, check_inputs
from action_heads.vlm.lora import TRAIN
from action_heads.vlm.model import Layer, blocks_of, heard, image_ids_of, uncompiled, unwrap

SELECT = ("all", "image", "text")


class Tap(nn.Module):
    """`tokens, mask = tap(**processor_inputs)`: hidden states (b n c) and a mask (b n), true where a token counts.

    It runs the model without its language or classification head, and no further than the last tapped layer. The mask
    is the model's attention mask, narrowed to what is selected.

    Args:
        model: a language, vision or vision-language model of transformers, also one that `torch.compile` or PEFT has
            wrapped. What runs and trains is the model within.
        layer: an index into what transformers calls `hidden_states`: 0 the embeddings, i what the first i blocks made
            of them, -1 the last, after the final norm. Of a vision-language model these are the language model's. Or
            a module's path, such as "model.multi_modal_projector", for what it returns. Several are mixed: each
            normalised, since later layers are larger, and summed with learned softmax weights, equal at first.
        select: which tokens count: "all", those of the "image", or the "text".
        train: "frozen": no gradients, evaluation mode whatever `train()` says. "lora": low-rank adapters alone: those
            that the model has, or new ones, added in place. "full".
        isolate: the head's loss gives the model no gradient (knowledge insulation); a loss of its own may train it.
        lora: a `peft.LoraConfig` for a model without an adapter; if not given, rank 16 on all linear layers.
        own_loss: the model has a loss of its own beside the head's, so that what lies behind the tapped layer trains
            too. Otherwise it does not, since it gets no gradient. `isolate` implies it.
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
            raise ValueError(f"a LoRA config was given with train={train!r}: pass train='lora'")
        self.model, self.select, self.how, self.isolate = model, select, train, isolate
        self.text = model.config.get_text_config()  # the model's own, if it has no language model within
        layers = [layer] if isinstance(layer, (int, str)) else list(layer)
        if not layers:
            raise ValueError("layer names none: give one, or several to mix")
        self.layers = [self._resolve(each) for each in layers]
        if len(set(self.layers)) < len(layers):
            raise ValueError(f"layer names one twice: {layers}")
        self.mix = Mix(len(layers)) if len(layers) > 1 else None
        self.image_ids = image_ids_of(model.config)
        if select != "all" and not self.image_ids:
            raise ValueError(
                f"{type(model.config).__name__} has no image_token_id to tell tokens apart by: use select='all'"
            )
        self._found_width: int | None = None
        self._looked_at = False
        chosen = loras.trained(model, train, lora)
        if not (isolate or own_loss):
            chosen &= heard(model, self.layers)
        self._trained = {name for name, p in model.named_parameters() if p in chosen}
        self.requires_grad_()
        self.train(train != "frozen")

    def _resolve(self, layer: Layer) -> Layer:
        """An index from the front, -1 for the last, or a path that leads to a module."""
        if isinstance(layer, str):
            try:
                self.model.get_submodule(layer)
            except AttributeError as error:
                children = ", ".join(name for name, _ in self.model.base_model.named_children())
                raise ValueError(f"the model has no module {layer!r} ({error}); its base has {children}") from error
            return layer
        if layer == -1:
            return -1
        depth = len(blocks_of(self.model))
        if not -depth - 1 <= layer <= depth:
            raise ValueError(
                f"layer {layer} of a model of {depth} blocks: choose from 0 (embeddings) to {depth}, or -1"
            )
        layer %= depth + 1
        return -1 if layer == depth else layer

    @property
    def width(self) -> int:
        """Of the tokens: the adapter's `cond_dim`. A named module's is known once the tap was called."""
        if self._found_width is None and any(isinstance(layer, str) for layer in self.layers):
            raise RuntimeError("how wide a named module's output is shows when it runs: call the tap once before")
        return self._found_width or self.text.hidden_size

    def forward(self, **inputs: Any) -> tuple[Tensor, Tensor]:
        """What the model's processor gives -> tokens (b n c), mask (b n)."""
        check_inputs(inputs, self.model, self.image_ids)
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.how != "frozen" and not self.isolate):
            states = self._hidden_states(inputs)
        for layer, state in zip(self.layers, states, strict=True):
            if not isinstance(state, Tensor) or state.ndim != 3:
                shape = tuple(state.shape) if isinstance(state, Tensor) else type(state).__name__
                raise ValueError(f"layer {layer!r} returns {shape}, expected (batch, n, c): tap another one")
        mask = self._mask(states[0], inputs)
        if self._look(states[0]):
            for layer, state in zip(self.layers, states, strict=True):
                check_finite(f"layer {layer!r}", state, mask)
        tokens = states[0] if self.mix is None else self.mix(states)
        self._found_width = tokens.shape[-1]
        return tokens, mask

    def _look(self, state: Tensor) -> bool:
        """Whether to look for NaNs, which waits for an accelerator: there always when acting, and once in training."""
        if torch.compiler.is_compiling():
            return False
        look = state.device.type == "cpu" or not torch.is_grad_enabled() or not self._looked_at
        self._looked_at = True
        return look

    def _hidden_states(self, inputs: Mapping[str, Any]) -> list[Any]:
        """What each tapped layer holds, in order; the model runs until the last of them is caught."""
        caught: dict[Layer, Any] = {}
        if "input_ids" in inputs:
            inputs = {"use_cache": False, **inputs}  # keys and values to generate from, which nobody does here

        def catch(layer: Layer, state: Any) -> None:
            caught[layer] = state[0] if isinstance(state, (tuple, list)) else state
            if len(caught) == len(self.layers):
                raise Caught

        base = getattr(self.model.base_model, "_orig_mod", self.model.base_model)
        with ExitStack() as stack, suppress(Caught):
            for layer in self.layers:
                stack.enter_context(uncompiled(self.model, layer))
                if handle := self._listen(layer, catch):
                    stack.callback(handle.remove)
            try:
                out = base(**inputs)
            except (TypeError, AttributeError) as error:  # an input that is missing, or one that it does not know
                raise ValueError(
                    f"{type(self.model).__name__} can't run on these inputs ({', '.join(inputs)}): {error}"
                ) from error
            if -1 in self.layers:
                if getattr(out, "last_hidden_state", None) is None:
                    raise ValueError(
                        f"{type(self.model).__name__} returns no last_hidden_state: tap one of its parts, such as "
                        "model.vision_model, or name a module"
                    )
                caught[-1] = out.last_hidden_state
        if missed := [layer for layer in self.layers if layer not in caught]:
            raise ValueError(f"{missed} did not run: these inputs ({', '.join(inputs)}) do not pass through it")
        return [caught[layer] for layer in self.layers]

    def _listen(self, layer: Layer, catch: Any) -> Any:
        if isinstance(layer, str):
            return self.model.get_submodule(layer).register_forward_hook(lambda _, args, out: catch(layer, out))
        if layer == -1:
            return None

        # What enters block i, not what leaves the one before: stopping there leaves no checkpointed block unfinished.
        def entering(_: nn.Module, args: tuple, options: dict) -> None:
            catch(layer, args[0] if args else options["hidden_states"])

        return blocks_of(self.model)[layer].register_forward_pre_hook(entering, with_kwargs=True)

    def _mask(self, tokens: Tensor, inputs: Mapping[str, Any]) -> Tensor:
        ids, valid = inputs.get("input_ids"), inputs.get("attention_mask")
        shape = tokens.shape[:2]
        mask = torch.ones(shape, dtype=torch.bool, device=tokens.device)
        if valid is not None and valid.shape == shape:  # of another shape, it is not of these tokens
            mask = valid.to(tokens.device) > 0
        if self.select == "all":
            return mask
        if ids is None or ids.shape != shape:
            raise ValueError(f"select={self.select!r} tells tokens apart by input_ids {tuple(shape)}: use select='all'")
        image = torch.isin(ids.to(tokens.device), torch.tensor(self.image_ids, device=tokens.device))
        return mask & (image if self.select == "image" else ~image)

    # ── what trains ──────────────────────────────────────────────────────────────────────────────────────────────

    def trainable_parameters(self) -> Iterator[nn.Parameter]:
        """For the optimiser: of the model what `train` says, and the weights of a mix."""
        return (p for p in self.parameters() if p.requires_grad)

    def train(self, mode: bool = True) -> Tap:
        super().train(mode)
        if self.how == "frozen":
            self.model.eval()
        return self

    def requires_grad_(self, requires_grad: bool = True) -> Tap:
        """As in torch, for what `train` says; the rest stays frozen, and may be integers."""
        for name, p in self.model.named_parameters():
            p.requires_grad_(requires_grad and name in self._trained)
        if self.mix is not None:
            self.mix.requires_grad_(requires_grad)
        return self

    def identity(self) -> str:
        """32 hex digits for everything that decides what comes out: weights, configuration, layer, selection."""
        if self.how != "frozen" or self.mix is not None:
            raise ValueError("only a frozen tap of one layer gives the same every time: what trains can't be cached")
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
        """Write tap.safetensors, beside the adapter say: layers, selection, the weights of a mix. Not the model."""
        tap_file.save(self, Path(folder))

    @classmethod
    def load(cls, folder: str | Path, model: Any, **options: Any) -> Tap:
        """Tap `model` as the saved tap did; `options` are `train`, `isolate`, `lora` and `own_loss`."""
        return tap_file.load(cls, Path(folder), model, **options)

    def extra_repr(self) -> str:
        return f"layers={self.layers}, select={self.select!r}, train={self.how!r}, isolate={self.isolate}"


class Mix(nn.Module):
    """Σ softmax(θ)_l norm(x_l), as ELMo mixes layers (Peters et al. 2018)."""

    def __init__(self, layers: int):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(layers))

    def forward(self, states: Sequence[Tensor]) -> Tensor:
        if len({state.shape for state in states}) > 1:
            raise ValueError(f"layers of one shape can be mixed, got {[tuple(state.shape) for state in states]}")
        states = [nn.functional.layer_norm(state.float(), state.shape[-1:]) for state in states]
        return torch.einsum("l, l b n c -> b n c", self.weight.float().softmax(0), torch.stack(states))


class Caught(Exception):
    """Thrown through the model's forward pass: every tapped layer has run, the others need not."""
