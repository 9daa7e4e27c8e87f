"""What trains of a tapped model: nothing, everything, or the adapter that PEFT has put or is to put into it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from torch import nn

from action_heads._util.extras import require

TRAIN = ("frozen", "lora", "full")


def trained(model: Any, how: str, config: Any = None) -> set[nn.Parameter]:
    """The parameters of a model that train, one of `TRAIN`; a LoRA is added in place if there is none."""
    layers = list(adapted(model))
    if how == "frozen":
        return set()
    if how == "full":
        check_full(model, layers)
        return set(model.parameters())
    if not layers:
        add(model, config)
        layers = list(adapted(model))
    elif config is not None:
        raise ValueError(f"a LoRA config was given, and the model has {names(layers)} already: {OTHERWISE}")
    check_active(layers)
    if any(getattr(module, "gradient_checkpointing", False) for module in model.modules()):
        # Checkpointed blocks pass gradients on only where their input wants one, which frozen embeddings do not.
        with suppress(NotImplementedError, AttributeError):
            model.enable_input_require_grads()
    own = {p for layer in layers for p in parameters(layer)}
    # As PEFT left it, where it trains: it may hold some of an adapter still, or train biases too.
    biases = {p for name, p in model.named_parameters() if name.endswith("bias") and p.requires_grad}
    return {p for p in own if p.requires_grad} | (biases if train_bias(model) else set()) or own


OTHERWISE = (
    "leave lora out to train that one, or load the model anew; to start from what it has learned, "
    "model = peft_model.merge_and_unload()"
)


def adapted(model: nn.Module) -> Iterator[Any]:
    """The modules that PEFT has put into a model, whoever called it: get_peft_model, add_adapter, or a tap."""
    if "peft" in sys.modules:
        from peft.tuners.tuners_utils import BaseTunerLayer
        from peft.utils.other import AuxiliaryTrainingWrapper

        yield from (each for each in model.modules() if isinstance(each, (BaseTunerLayer, AuxiliaryTrainingWrapper)))


def parameters(layer: Any) -> Iterator[nn.Parameter]:
    """The parameters of the active adapters of such a module."""
    for attribute in layer.adapter_layer_names:
        by_name = getattr(layer, attribute, {})
        for name in active(layer):
            if name in by_name:
                part = by_name[name]
                yield from part.parameters() if isinstance(part, nn.Module) else (part,)


def active(layer: Any) -> list[str]:
    """The names of the adapters that a module computes with."""
    found = getattr(layer, "active_adapters", [])
    return [found] if isinstance(found, str) else list(found)


def names(layers: list[Any]) -> str:
    found = sorted({name for layer in layers for name in active(layer)})
    return f"the adapter {', '.join(map(repr, found))} of PEFT" if found else "an adapter of PEFT"


def train_bias(model: Any) -> bool:
    configs = getattr(model, "peft_config", None) or {}
    return any(getattr(config, "bias", "none") != "none" for config in configs.values())


def check_full(model: nn.Module, layers: list[Any]) -> None:
    """All of a model trains only where it has no adapter, and where its weights are floats."""
    if layers:
        raise ValueError(
            f"this model has {names(layers)}, and train='full' would train the weights below it too: use train='lora' "
            "to train the adapter, or make it part of the weights first, model = peft_model.merge_and_unload()"
        )
    for name, p in model.named_parameters():
        if not (p.is_floating_point() or p.is_complex()):
            raise ValueError(
                f"{name} is {p.dtype}: quantised weights can't train. Use train='lora', or load the model in bfloat16"
            )


def check_active(layers: list[Any]) -> None:
    """An adapter that the model does not compute with gets no gradient."""
    if not any(active(layer) for layer in layers):
        raise ValueError("no adapter of this model is active, so none can train: model.set_adapter(name) first")
    if any(getattr(layer, "disable_adapters", False) for layer in layers):
        raise ValueError(
            f"{names(layers)} is disabled, so it can't train: enable it first, with model.enable_adapters() or, of a "
            "PeftModel, model.base_model.enable_adapter_layers()"
        )
    if any(getattr(layer, "merged", False) for layer in layers):
        raise ValueError(
            f"{names(layers)} is merged into the weights, so it can't train: peft_model.unmerge_adapter() first"
        )


def add(model: Any, config: Any) -> None:
    """Put a LoRA into a model in place, by transformers, so that `model.save_pretrained` writes the adapter."""
    peft = require("peft", "vlm")
    config = config or peft.LoraConfig(r=16, lora_alpha=32, target_modules="all-linear")
    if not isinstance(config, peft.PeftConfig):
        raise ValueError(f"lora must be a peft.LoraConfig, got a {type(config).__name__}")
    had = getattr(model, "_hf_peft_config_loaded", False)
    try:
        model.add_adapter(config)
    except ImportError as error:
        transformers = require("transformers", "vlm")
        raise ImportError(
            f"transformers {transformers.__version__} refuses peft {peft.__version__} ({error}): install another, "
            "pip install 'transformers!=5.24.*', or add the adapter yourself, which asks nothing of transformers: "
            "Tap(peft.get_peft_model(model, config), ..., train='lora')"
        ) from error
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"this LoRA does not fit {type(model).__name__}: {error}") from error
    finally:
        if not any(True for _ in adapted(model)):  # a model without it must not say that it has one
            model._hf_peft_config_loaded = had


def state(model: nn.Module) -> list[Any]:
    """What of adapters decides the output beside weights; nothing for a model without."""
    return [
        [
            type(layer).__name__,
            active(layer),
            sorted(scaling.items()) if isinstance(scaling := getattr(layer, "scaling", None), dict) else [],
            bool(getattr(layer, "disable_adapters", False)),
            bool(getattr(layer, "merged", False)),
        ]
        for layer in adapted(model)
    ]
