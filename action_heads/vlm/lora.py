"""The trainable parameters of a tapped model: none, all, or those of its PEFT adapter."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from torch import nn

from action_heads._util.extras import pip, require

TRAIN = ("frozen", "lora", "full")


def trained(model: Any, how: str, config: Any = None) -> set[nn.Parameter]:
    """Return the parameters of a model that train.

    Args:
        model: the model of a tap.
        how: one of `TRAIN`. With "lora", a LoRA is added in place if the model has no adapter.
        config: the `peft.LoraConfig` for a new LoRA.

    Raises:
        ImportError: PEFT is missing or not supported by transformers.
        ValueError: the model cannot train in this way.
    """
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
        raise ValueError(f"a LoRA config was given, but the model already has {names(layers)}: {OTHERWISE}")
    check_active(layers)
    if any(getattr(module, "gradient_checkpointing", False) for module in model.modules()):
        # Checkpointed blocks pass gradients on only if their input requires one. Frozen embeddings do not.
        with suppress(NotImplementedError, AttributeError):
            model.enable_input_require_grads()
    own = {p for layer in layers for p in parameters(layer)}
    # Keep what PEFT has set up: it may freeze part of an adapter, or train biases too.
    biases = {p for name, p in model.named_parameters() if name.endswith("bias") and p.requires_grad}
    return {p for p in own if p.requires_grad} | (biases if train_bias(model) else set()) or own


OTHERWISE = (
    "leave out lora to train that one, or load the model again. To start from its trained weights, use "
    "model = peft_model.merge_and_unload()"
)


def adapted(model: nn.Module) -> Iterator[Any]:
    """Yield the modules of PEFT in a model, added by get_peft_model, add_adapter or a tap."""
    if "peft" in sys.modules:
        from peft.tuners.tuners_utils import BaseTunerLayer
        from peft.utils.other import AuxiliaryTrainingWrapper

        yield from (each for each in model.modules() if isinstance(each, (BaseTunerLayer, AuxiliaryTrainingWrapper)))


def parameters(layer: Any) -> Iterator[nn.Parameter]:
    """Yield the parameters of the active adapters in a module of PEFT."""
    for attribute in layer.adapter_layer_names:
        by_name = getattr(layer, attribute, {})
        for name in active(layer):
            if name in by_name:
                part = by_name[name]
                yield from part.parameters() if isinstance(part, nn.Module) else (part,)


def active(layer: Any) -> list[str]:
    """Return the names of the active adapters in a module of PEFT."""
    found = getattr(layer, "active_adapters", [])
    return [found] if isinstance(found, str) else list(found)


def names(layers: list[Any]) -> str:
    """Return the names of the active adapters, for a message."""
    found = sorted({name for layer in layers for name in active(layer)})
    return f"the adapter {', '.join(map(repr, found))} of PEFT" if found else "an adapter of PEFT"


def train_bias(model: Any) -> bool:
    """Return whether an adapter of a model also trains biases."""
    configs = getattr(model, "peft_config", None) or {}
    return any(getattr(config, "bias", "none") != "none" for config in configs.values())


def check_full(model: nn.Module, layers: list[Any]) -> None:
    """Raise if not all of a model can train, since it has an adapter or quantised weights."""
    if layers:
        raise ValueError(
            f"this model has {names(layers)}, and train='full' would also train the weights below it. Use train='lora' "
            "to train the adapter, or merge it into the weights first: model = peft_model.merge_and_unload()."
        )
    for name, p in model.named_parameters():
        if not (p.is_floating_point() or p.is_complex()):
            raise ValueError(
                f"{name} is {p.dtype}; quantised weights can't train. Use train='lora', or load the model in bfloat16."
            )


def check_active(layers: list[Any]) -> None:
    """Raise if the adapters are inactive, disabled or merged, since they would get no gradient."""
    if not any(active(layer) for layer in layers):
        raise ValueError("no adapter of this model is active, so none can train; call model.set_adapter(name) first")
    if any(getattr(layer, "disable_adapters", False) for layer in layers):
        raise ValueError(
            f"{names(layers)} is disabled, so it can't train. Enable it first with model.enable_adapters() or, for a "
            "PeftModel, with model.base_model.enable_adapter_layers()."
        )
    if any(getattr(layer, "merged", False) for layer in layers):
        raise ValueError(
            f"{names(layers)} is merged into the weights, so it can't train; call peft_model.unmerge_adapter() first"
        )


def add(model: Any, config: Any) -> None:
    """Add a LoRA to a model in place, by transformers, so that `model.save_pretrained` writes the adapter."""
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
            f"transformers {transformers.__version__} does not support peft {peft.__version__} ({error}). Install "
            f"another version, {pip()} install 'transformers!=5.24.*', or add the adapter without transformers: "
            "Tap(peft.get_peft_model(model, config), ..., train='lora')."
        ) from error
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"this LoRA does not fit {type(model).__name__}: {error}") from error
    finally:
        if not any(True for _ in adapted(model)):  # A model without the adapter must not claim to have one.
            model._hf_peft_config_loaded = had


def state(model: nn.Module) -> list[Any]:
    """Return the settings of adapters that affect the output besides their weights; [] without adapters."""
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
