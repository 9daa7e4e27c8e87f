"""Calls of one model in several threads do not disturb each other: taps, plain forward passes, and `generate`."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import nn

pytest.importorskip("transformers")

import tiny_processors
import tiny_vlms
from together import CALLS, check_together

from action_heads.encoders.vlm import VLMEncoder
from action_heads.encoders.vlm_config import VLMConfig
from action_heads.vlm import Tap, files

INPUTS = [tiny_vlms.inputs("qwen3", seed=seed) for seed in range(8)]


def tokens(model: nn.Module, layer: Any, i: int) -> Callable[[], torch.Tensor]:
    tap = Tap(model, layer)
    return lambda: tap(**INPUTS[i])[0]


def logits(model: Any, i: int) -> Callable[[], torch.Tensor]:
    return torch.no_grad()(lambda: model(**INPUTS[i], use_cache=False).logits)


def words(model: Any, i: int) -> Callable[[], torch.Tensor]:
    return lambda: model.generate(**INPUTS[i], max_new_tokens=2, do_sample=False)


@pytest.mark.parametrize("layer", [2, (0, 2), "model.layers.1.mlp"])
def test_a_tap_beside_the_users_own_calls(layer):
    model = tiny_vlms.build("qwen3")
    check_together(tokens(model, layer, 0), logits(model, 1), words(model, 2))


def test_taps_of_different_layers():
    model = tiny_vlms.build("qwen3")
    layers = 1, 2, 2, -1, (0, 2), "model.layers.1.mlp", "model.layers.1"
    check_together(*(tokens(model, layer, i) for i, layer in enumerate(layers)), logits(model, 7))


def test_a_compiled_block_is_compiled_again_afterwards():
    model = tiny_vlms.build("qwen3")
    model.model.layers[1].compile(backend="eager")
    compiled = model.model.layers[1]._compiled_call_impl
    check_together(*(tokens(model, "model.layers.1.mlp", i) for i in range(3)))
    assert model.model.layers[1]._compiled_call_impl is compiled


def test_a_tap_inside_the_call_of_another_tap():
    model = tiny_vlms.build("qwen3")
    inner, outer = tokens(model, 1, 1), tokens(model, (1, 2), 0)
    alone, nested = (inner(), outer()), []

    def run_inner(*_: Any) -> None:
        handle.remove()
        nested.append(inner())

    handle = model.model.layers[1].mlp.register_forward_hook(run_inner)
    nested.append(outer())
    assert all(torch.equal(one, other) for one, other in zip(alone, nested, strict=True))


def test_checkpointing_in_a_thread_beside_another_tap():
    """The recomputation in the backward pass belongs to no tap, and no tap disturbs it."""
    model = tiny_vlms.build("qwen3")
    training = Tap(model, 2, train="full")
    model.gradient_checkpointing_enable()

    def gradient() -> torch.Tensor:
        loss = training(**INPUTS[0])[0].square().sum()
        return torch.autograd.grad(loss, model.model.layers[0].mlp.up_proj.weight)[0]

    stop, errors = threading.Event(), []
    other = Tap(model, (1, 2), train="full")

    def disturb() -> None:
        while not stop.is_set():
            try:
                with torch.no_grad():
                    other(**INPUTS[1])
            except Exception as error:
                errors.append(error)

    expected = gradient()
    thread = threading.Thread(target=disturb)
    thread.start()
    try:
        found = [gradient() for _ in range(CALLS)]
    finally:
        stop.set()
        thread.join()
    assert not errors
    assert all(torch.equal(each, expected) for each in found)


def test_a_model_is_loaded_once(tmp_path, monkeypatch):
    encoder = VLMEncoder(VLMConfig(tiny_processors.saved(tmp_path, "siglip"), dtype="float32"), ("front",))
    load, loads = files.load, []

    def slowly(*given: Any) -> Any:
        loads.append(given)
        time.sleep(0.2)
        return load(*given)

    files.shared.cache_clear()
    monkeypatch.setattr(files, "load", slowly)
    with ThreadPoolExecutor(3) as threads:
        taps = list(threads.map(lambda _: encoder.tap, range(3)))
    files.shared.cache_clear()
    assert len(loads) == 1
    assert taps[0] is taps[1] is taps[2]
