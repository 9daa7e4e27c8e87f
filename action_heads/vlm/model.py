"""The models that a tap takes: what is refused, what is taken off, and which parameters a tapped layer hears.

Classes are told by their names, so that nothing here imports transformers, PEFT or torch.distributed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn

Layer = int | str
# Modules that gather gradients or weights in their own `forward`, which a tap would pass by.
DISTRIBUTED = {"DistributedDataParallel", "DataParallel", "FullyShardedDataParallel", "FSDPModule", "DeepSpeedEngine"}
# What follows the blocks of a model: no block's input has seen it.
AFTER_BLOCKS = ("norm", "layernorm", "layer_norm", "ln_f", "final_layernorm", "final_layer_norm", "post_layernorm")
POOLERS = ("pooler", "head")  # beside `last_hidden_state`
POOLING_HEAD, MASK_TOKEN = "PoolingHead", "mask_token"  # SigLIP's, also in a tower; DINOv2's, for its own pretraining


def unwrap(model: Any) -> Any:
    """The model of transformers within what `torch.compile` and PEFT put around it.

    Its weights and adapters are the same tensors. Raises a `ValueError` for what no tap can be put on.
    """
    for _ in range(8):  # compiled, wrapped, compiled again ...
        if isinstance(model, type):
            raise ValueError(f"got the class {model.__name__}: pass a model, {model.__name__}.from_pretrained(...)")
        if names := class_names(model) & DISTRIBUTED:
            raise ValueError(
                f"got a model in {' and '.join(sorted(names))}, which gathers gradients in its own forward, and a tap "
                "does not call that: put the tap on the plain model and wrap the tap, such as "
                "DistributedDataParallel(Tap(model, ...))"
            )
        if (inner := within(model)) is model:
            break
        model = inner
    if not isinstance(model, nn.Module) or not hasattr(model, "base_model") or not hasattr(model, "config"):
        raise ValueError(f"a tap is for a model of transformers, got a {type(model).__name__}: {instead(model)}")
    for name, module in model.named_modules():
        if names := class_names(module) & DISTRIBUTED:
            raise ValueError(
                f"{name or 'the model'} is in {' and '.join(sorted(names))}: make the tap first, then wrap the tap"
            )
    return model


@contextmanager
def uncompiled(model: nn.Module, layer: Layer) -> Iterator[None]:
    """Run the modules around a named one as they are: compiled ones do not see hooks that come later."""
    parts = layer.split(".") if isinstance(layer, str) else []
    around = [model.get_submodule(".".join(parts[:i])) for i in range(1, len(parts) + 1)]
    compiled = [(module, module._compiled_call_impl) for module in around]
    for module in around:
        module._compiled_call_impl = None
    try:
        yield
    finally:
        for module, call in compiled:
            module._compiled_call_impl = call


def within(model: Any) -> Any:
    """What is in one layer of wrapping, by PEFT or `torch.compile`; the model itself if there is none."""
    if class_names(model) & {"PeftModel", "PeftMixedModel"}:
        check_no_prompt(model)
        return model.get_base_model()
    return model._orig_mod if "OptimizedModule" in class_names(model) else model


def instead(given: Any) -> str:
    """What to pass in place of something that is no model."""
    if isinstance(given, str):
        return f"load it, such as transformers.AutoModel.from_pretrained({given!r})"
    if isinstance(getattr(given, "model", None), nn.Module):  # a pipeline, say
        return "pass its .model"
    if hasattr(given, "model_type"):
        return "a configuration has no weights: pass a model, such as transformers.AutoModel.from_pretrained(name)"
    if hasattr(given, "from_pretrained"):
        return "pass the model, and call the tap with what the processor returns: tap(**processor(...))"
    return "pass what your own encoder returns to the policy as cond"


def check_no_prompt(model: Any) -> None:
    """Refuse adapters of PEFT that act in PEFT's own `forward`, which a tap does not call."""
    for name, config in getattr(model, "peft_config", {}).items():
        if getattr(config, "is_prompt_learning", False):
            raise ValueError(
                f"the adapter {name!r} of this model ({type(config).__name__}) acts on the prompt, which a tap "
                "does not read: use LoRA or another adapter that lies in the layers"
            )


def class_names(model: Any) -> set[str]:
    return {cls.__name__ for cls in type(model).__mro__}


def blocks_of(model: Any) -> nn.ModuleList:
    """The transformer blocks of the language model, or of a vision model's encoder."""
    depth = getattr(model.config.get_text_config(), "num_hidden_layers", None)
    for module in model.base_model.get_decoder().modules():
        if isinstance(module, nn.ModuleList) and len(module) == depth:
            return module
    raise ValueError(
        f"{type(model).__name__} has no list of {depth} blocks: name a module, such as layer='encoder.layers.3'"
    )


def image_ids_of(config: Any) -> tuple[int, ...]:
    """The token ids that stand for pieces of images and videos; none for a model without any."""
    names = ("image_token_id", "image_token_index", "video_token_id", "video_token_index")
    return tuple(sorted({number for name in names if isinstance(number := getattr(config, name, None), int)}))


def heard(model: Any, layers: Sequence[Layer]) -> set[nn.Parameter]:
    """The parameters that may reach one of the tapped layers, and so get a gradient.

    Left out is what surely does not: language heads, the blocks behind the last that is tapped, and the norm after
    them. What the inputs decide, such as a vision tower without an image, is in.
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
            return found  # where in the order of things a module runs, its name does not say
    for block in blocks[reached:]:
        found -= set(block.parameters())
    for name in AFTER_BLOCKS:
        found -= own(decoder, name)
    return found


def find_blocks(model: Any) -> nn.ModuleList | None:
    try:
        return blocks_of(model)
    except (ValueError, AttributeError):
        return None


def own(module: nn.Module, child: str) -> set[nn.Parameter]:
    """The parameters of a child, if a module has it."""
    part = getattr(module, child, None)
    return set(part.parameters()) if isinstance(part, nn.Module) else set()
