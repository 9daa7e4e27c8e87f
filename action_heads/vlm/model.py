"""Checks and unwrapping of the models that a tap takes, and the parameters that affect a tapped layer.

Classes are recognised by their names, so that this module does not import transformers, PEFT or torch.distributed.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn

Layer = int | str
# The compiled calls of modules that run uncompiled at the moment, and the number of calls that need them so.
_set_aside: dict[nn.Module, tuple[Any, int]] = {}
_lock = threading.Lock()
# Modules that synchronise gradients or weights in their own `forward`, which a tap does not call.
DISTRIBUTED = {"DistributedDataParallel", "DataParallel", "FullyShardedDataParallel", "FSDPModule", "DeepSpeedEngine"}
# Modules after the blocks of a model. No block's input depends on them.
AFTER_BLOCKS = ("norm", "layernorm", "layer_norm", "ln_f", "final_layernorm", "final_layer_norm", "post_layernorm")
POOLERS = ("pooler", "head")  # They do not affect `last_hidden_state`.
POOLING_HEAD, MASK_TOKEN = "PoolingHead", "mask_token"  # Of SigLIP, also in a tower; of DINOv2, for its pretraining.


def unwrap(model: Any) -> Any:
    """Return the transformers model inside the wrappers of `torch.compile` and PEFT, with the same weights.

    Raises:
        ValueError: this is not a model that can be tapped.
    """
    for _ in range(8):  # Wrappers can be nested, as in a compiled PEFT model.
        if isinstance(model, type):
            raise ValueError(f"got the class {model.__name__}; pass a model, {model.__name__}.from_pretrained(...)")
        if names := class_names(model) & DISTRIBUTED:
            raise ValueError(
                f"the model is wrapped in {' and '.join(sorted(names))}, which synchronises gradients in its own "
                "forward, and a tap does not call that. Tap the plain model and wrap the tap, such as "
                "DistributedDataParallel(Tap(model, ...))."
            )
        if (inner := within(model)) is model:
            break
        model = inner
    if not isinstance(model, nn.Module) or not hasattr(model, "base_model") or not hasattr(model, "config"):
        raise ValueError(f"a tap needs a transformers model, got a {type(model).__name__}: {instead(model)}")
    for name, module in model.named_modules():
        if names := class_names(module) & DISTRIBUTED:
            raise ValueError(
                f"{name or 'the model'} is wrapped in {' and '.join(sorted(names))}. Make the tap first, then wrap it."
            )
    return model


@contextmanager
def uncompiled(model: nn.Module, layer: Layer) -> Iterator[None]:
    """Run the modules around a named one uncompiled, since compiled modules ignore hooks that are added later.

    If several threads do so at once, the last one to end restores the compiled module.
    """
    parts = layer.split(".") if isinstance(layer, str) else []
    around = [model.get_submodule(".".join(parts[:i])) for i in range(1, len(parts) + 1)]
    if not around:
        yield
        return
    with _lock:
        for module in around:
            call, users = _set_aside.get(module, (module._compiled_call_impl, 0))
            _set_aside[module] = call, users + 1
            module._compiled_call_impl = None
    try:
        yield
    finally:
        with _lock:
            for module in around:
                call, users = _set_aside.pop(module)
                if users > 1:
                    _set_aside[module] = call, users - 1
                else:
                    module._compiled_call_impl = call


def within(model: Any) -> Any:
    """Remove one wrapper of PEFT or `torch.compile`; return the model itself if it has none."""
    if class_names(model) & {"PeftModel", "PeftMixedModel"}:
        check_no_prompt(model)
        return model.get_base_model()
    return model._orig_mod if "OptimizedModule" in class_names(model) else model


def instead(given: Any) -> str:
    """Return what to pass instead of an object that is not a model, for a message."""
    if isinstance(given, str):
        return f"load it, such as transformers.AutoModel.from_pretrained({given!r})"
    if isinstance(getattr(given, "model", None), nn.Module):  # A pipeline, for example.
        return "pass its .model"
    if hasattr(given, "model_type"):
        return "a configuration has no weights; pass a model, such as transformers.AutoModel.from_pretrained(name)"
    if hasattr(given, "from_pretrained"):
        return "pass the model, and call the tap with the output of the processor, tap(**processor(...))"
    return "pass the output of your own encoder to the policy as cond"


def check_no_prompt(model: Any) -> None:
    """Raise if a PEFT adapter acts in PEFT's own `forward`, which a tap does not call."""
    for name, config in getattr(model, "peft_config", {}).items():
        if getattr(config, "is_prompt_learning", False):
            raise ValueError(
                f"the adapter {name!r} of this model ({type(config).__name__}) changes the prompt, which a tap does "
                "not support. Use LoRA or another adapter inside the layers."
            )


def class_names(model: Any) -> set[str]:
    """Return the names of an object's class and its base classes."""
    return {cls.__name__ for cls in type(model).__mro__}


def blocks_of(model: Any) -> nn.ModuleList:
    """Return the transformer blocks of the language model, or of a vision model's encoder."""
    depth = getattr(model.config.get_text_config(), "num_hidden_layers", None)
    for module in model.base_model.get_decoder().modules():
        if isinstance(module, nn.ModuleList) and len(module) == depth:
            return module
    raise ValueError(
        f"{type(model).__name__} has no list of {depth} blocks; pass the path of a module, such as "
        "layer='encoder.layers.3'"
    )


def image_ids_of(config: Any) -> tuple[int, ...]:
    """Return the token ids that stand for parts of images and videos; () for a model without them."""
    names = ("image_token_id", "image_token_index", "video_token_id", "video_token_index")
    return tuple(sorted({number for name in names if isinstance(number := getattr(config, name, None), int)}))


def heard(model: Any, layers: Sequence[Layer]) -> set[nn.Parameter]:
    """Return the parameters that may affect a tapped layer, and so get a gradient.

    Language heads, the blocks after the last tapped one and the norm after them never do, so they are left out. Modules
    that depend on the inputs, such as a vision tower without an image, are included.
    """
    base = model.base_model
    found = set(base.parameters())
    decoder = base.get_decoder() if hasattr(base, "get_decoder") else base
    for name in POOLERS:
        found -= own(base, name) | own(decoder, name)
    for module in base.modules():
        if type(module).__name__.endswith(POOLING_HEAD):
            found -= set(module.parameters())
        found.discard(getattr(module, MASK_TOKEN, None))  # type: ignore[arg-type]
    if -1 in layers or not (blocks := find_blocks(model)):
        return found
    paths = {module: name for name, module in model.named_modules()}
    reached = 0
    for layer in layers:
        if isinstance(layer, int):
            reached = max(reached, layer)
        elif layer.startswith(f"{paths[blocks]}."):
            reached = max(reached, 1 + int(layer.removeprefix(f"{paths[blocks]}.").split(".")[0]))
        else:
            return found  # The name of a module does not say when it runs.
    for block in blocks[reached:]:
        found -= set(block.parameters())
    for name in AFTER_BLOCKS:
        found -= own(decoder, name)
    return found


def find_blocks(model: Any) -> nn.ModuleList | None:
    """Return the transformer blocks, or None if there are none."""
    try:
        return blocks_of(model)
    except (ValueError, AttributeError):
        return None


def own(module: nn.Module, child: str) -> set[nn.Parameter]:
    """Return the parameters of a child module, or an empty set if it does not exist."""
    part = getattr(module, child, None)
    return set(part.parameters()) if isinstance(part, nn.Module) else set()
