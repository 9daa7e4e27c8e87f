"""Models wrapped by PEFT, torch.compile or torch.distributed are tapped or refused, and the right parts train."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn

pytest.importorskip("transformers")
pytest.importorskip("peft")

import peft
import tiny_vlms
from small import actions, generator, tiny_head
from tiny_vlms import BLOCKS, MODELS, TEXT_MODELS, VISION_MODELS

from action_heads.adapters import AdaLNZero
from action_heads.vlm import Tap

INPUTS = {name: tiny_vlms.inputs(name) for name in MODELS}


def config(**changes: Any) -> Any:
    return peft.LoraConfig(
        **{"r": 4, "lora_alpha": 8, "target_modules": ["q_proj"], "init_lora_weights": False} | changes
    )


def added(model: Any) -> Any:
    model.add_adapter(config())
    return model


def injected(model: Any) -> Any:
    return peft.inject_adapter_in_model(config(), model)


def loaded(model: Any) -> Any:
    """Return a model like that of `PeftModel.from_pretrained` for inference: nothing requires a gradient."""
    return peft.get_peft_model(model, config(inference_mode=True)).requires_grad_(False)


# Ways in which a model may already have an adapter.
ADAPTED: dict[str, Callable[[Any], Any]] = {
    "get_peft_model": lambda model: peft.get_peft_model(model, config()),
    "add_adapter": added,
    "inject_adapter_in_model": injected,
    "loaded": loaded,
    "compiled": lambda model: torch.compile(peft.get_peft_model(model, config()), backend="eager"),
}


@pytest.fixture(params=ADAPTED)
def adapted(request) -> Any:
    torch.manual_seed(0)
    return ADAPTED[request.param](tiny_vlms.build("qwen3"))


def trainable(module: nn.Module) -> set[str]:
    return {name for name, p in module.named_parameters() if p.requires_grad}


def backward(tap: Tap, name: str = "qwen3") -> list[str]:
    """Return the trainable parameters that got no gradient in one backward pass."""
    tokens, mask = tap(**INPUTS[name])
    (tokens.float() * mask[..., None]).square().sum().backward()
    return [name for name, p in tap.named_parameters() if p.requires_grad and p.grad is None]


@pytest.mark.parametrize("layer", [1, 2, -1, (0, 2), "model.layers.1.mlp"])
def test_the_adapter_that_is_there_trains(adapted, layer):
    before = {name: p.clone() for name, p in adapted.named_parameters()}
    tap = Tap(adapted, layer, train="lora")
    names = trainable(tap.model)
    assert names
    assert all("lora_" in name for name in names)
    assert not [name for name, _ in tap.model.named_parameters() if "lora_" in name and ".default." not in name]
    assert backward(tap) == []
    torch.optim.AdamW(tap.trainable_parameters(), lr=0.1).step()
    moved = {name for name, p in adapted.named_parameters() if not torch.equal(p, before[name])}
    assert len(moved) == len(names)
    assert all("lora_" in name for name in moved)
    tap.requires_grad_(False)
    assert not trainable(tap)
    tap.requires_grad_()
    assert trainable(tap.model) == names
    assert tap.train().model.training
    assert not tap.eval().model.training


def test_all_of_it_trains_where_all_of_it_is_heard(adapted):
    every = {name for name, _ in Tap(adapted).model.named_parameters() if "lora_" in name}
    assert trainable(Tap(adapted, -1, train="lora").model) == every
    assert trainable(Tap(adapted, 1, train="lora", own_loss=True).model) == every


@pytest.mark.parametrize("layer", [1, -1])
def test_frozen_it_acts_with_its_adapter(adapted, layer):
    plain = tiny_vlms.build("qwen3")
    tap = Tap(adapted, layer, train="frozen").train().requires_grad_()
    assert not trainable(tap)
    assert not tap.model.training
    tokens = tap(**INPUTS["qwen3"])[0]
    with torch.no_grad():
        states = adapted(**INPUTS["qwen3"], output_hidden_states=True).hidden_states
    torch.testing.assert_close(tokens, states[layer])
    assert not torch.allclose(tokens, Tap(plain, layer)(**INPUTS["qwen3"])[0])


@pytest.mark.parametrize("layer", [1, -1])
def test_full_and_a_second_adapter_are_refused_and_change_nothing(adapted, layer):
    before = trainable(adapted)
    with pytest.raises(ValueError, match=r"has the adapter 'default' of PEFT.*train='lora'.*merge_and_unload"):
        Tap(adapted, layer, train="full")
    with pytest.raises(ValueError, match=r"already has the adapter 'default' of PEFT.*leave out lora"):
        Tap(adapted, layer, train="lora", lora=config())
    assert trainable(adapted) == before


def test_a_second_tap_trains_the_same_adapter():
    model = tiny_vlms.build("qwen3")
    names = trainable(Tap(model, train="lora").model)
    assert trainable(Tap(model, train="lora").model) == names


def test_an_adapter_that_is_off_is_refused():
    model = peft.get_peft_model(tiny_vlms.build("qwen3"), config())
    identities = {Tap(model).identity()}
    model.base_model.disable_adapter_layers()
    identities.add(Tap(model).identity())
    with pytest.raises(ValueError, match=r"'default' of PEFT is disabled.*enable_adapter_layers"):
        Tap(model, train="lora")
    model.base_model.enable_adapter_layers()
    model.merge_adapter()
    with pytest.raises(ValueError, match=r"'default' of PEFT is merged.*unmerge_adapter"):
        Tap(model, train="lora")
    model.unmerge_adapter()
    identities.add(Tap(tiny_vlms.build("qwen3")).identity())
    for module in model.modules():
        if isinstance(getattr(module, "scaling", None), dict):
            module.scaling["default"] *= 2
    identities.add(Tap(model).identity())
    assert len(identities) == 4


def test_prompts_and_wrappers_of_torch_distributed_are_refused():
    model = peft.get_peft_model(
        tiny_vlms.build("qwen3"), peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    )
    with pytest.raises(ValueError, match=r"PromptTuningConfig.*changes the prompt"):
        Tap(model)
    model = tiny_vlms.build("qwen3")
    with pytest.raises(ValueError, match=r"in DataParallel.*wrap the tap, such as DistributedDataParallel\(Tap\(model"):
        Tap(nn.DataParallel(model))
    block = model.model.layers[1]
    block.__class__ = type("FSDPBlock", (type("FSDPModule", (), {}), type(block)), {})  # As fully_shard does.
    with pytest.raises(ValueError, match=r"model.layers.1 is wrapped in FSDPModule\. Make the tap first"):
        Tap(model)


def test_a_compiled_model_is_the_model_within(tmp_path):
    model = tiny_vlms.build("qwen3")
    expected = Tap(model, 1)(**INPUTS["qwen3"])[0], Tap(model, 1).identity()
    compiled = Tap(torch.compile(model, backend="eager"), 1)
    assert torch.equal(compiled(**INPUTS["qwen3"])[0], expected[0])
    assert compiled.identity() == expected[1]
    compiled.save(tmp_path)
    Tap.load(tmp_path, peft.get_peft_model(tiny_vlms.build("qwen3"), config()), train="lora")
    for block in model.model.layers:
        block.compile(backend="eager")
    Tap(model, 2)(**INPUTS["qwen3"])  # From now on the first block runs compiled and ignores new hooks.
    mlp = Tap(model, "model.layers.0.mlp")(**INPUTS["qwen3"])[0]
    assert torch.equal(mlp, Tap(tiny_vlms.build("qwen3"), "model.layers.0.mlp")(**INPUTS["qwen3"])[0])
    assert model.model.layers[0]._compiled_call_impl is not None


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("first", ["tap", "checkpointing"])
@pytest.mark.parametrize("wrap", ["fresh", "get_peft_model", "add_adapter"])
def test_gradient_checkpointing(wrap, first, reentrant):
    """Gradients with checkpointing equal those without it, whether the tap or the checkpointing comes first."""
    found = []
    for checkpointed in (False, True):
        torch.manual_seed(0)
        given = model = tiny_vlms.build("qwen3")
        if wrap != "fresh":
            given = ADAPTED[wrap](model)
        options = {"gradient_checkpointing_kwargs": {"use_reentrant": reentrant}}
        if checkpointed and first == "checkpointing":
            given.gradient_checkpointing_enable(**options)
        tap = Tap(given, 2, train="lora", lora=config() if wrap == "fresh" else None)
        if checkpointed and first == "tap":
            given.gradient_checkpointing_enable(**options)
        assert backward(tap) == []
        found.append([p.grad for p in tap.trainable_parameters()])
    assert any(grad.abs().sum() > 0 for grad in found[0])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("how", ["full", "lora"])
@pytest.mark.parametrize("name", MODELS)
def test_what_trains_is_what_a_tap_hears(name, how):
    """One backward pass gives every trainable parameter a gradient, wherever the model is tapped."""
    for layer in (1, BLOCKS - 1, (0, 1), -1):
        tap = Tap(tiny_vlms.build(name), layer, train=how)
        assert trainable(tap.model)
        assert backward(tap, name) == [], layer


def test_with_a_loss_of_its_own_all_of_it_trains():
    for options in ({"own_loss": True}, {"isolate": True}):
        model = tiny_vlms.build("qwen3")
        tap = Tap(model, 1, train="full", **options)
        assert trainable(tap.model) == {name for name, _ in model.named_parameters()}


@pytest.mark.parametrize("name", [*TEXT_MODELS, *VISION_MODELS])
def test_quantised_weights(name):
    """Quantised weights are integers without gradients, and adapters beside them train."""
    model = tiny_vlms.build(name)
    model.register_parameter("packed", nn.Parameter(torch.ones(3, dtype=torch.int8), requires_grad=False))
    with pytest.raises(ValueError, match=r"packed is torch.int8; quantised weights can't train. Use train='lora'"):
        Tap(model, 1, train="full")
    Tap(model, 1).requires_grad_().identity()
    tap = Tap(model, 1, train="lora").requires_grad_(False).requires_grad_()
    assert backward(tap, name) == []


def test_a_lora_that_does_not_fit_leaves_the_model_as_it_was(tmp_path):
    model = tiny_vlms.build("qwen3")
    for wrong, says in [
        (config(target_modules=["nothing"]), "does not fit Qwen3"),
        ({"r": 4}, "must be a peft.LoraConfig"),
    ]:
        with pytest.raises(ValueError, match=says):
            Tap(model, train="lora", lora=wrong)
    model.save_pretrained(tmp_path / "plain")
    assert (tmp_path / "plain" / "model.safetensors").exists()
    Tap(model, train="lora", lora=config())
    model.save_pretrained(tmp_path / "adapter")
    written = {path.name for path in (tmp_path / "adapter").glob("*.safetensors")}
    assert written == {"adapter_model.safetensors"}


def test_transformers_that_refuses_the_peft_there_is(monkeypatch):
    """The error names the remedy, and a model that PEFT itself has wrapped does not need transformers' support."""
    model = tiny_vlms.build("qwen3")

    def refuse(*args: Any) -> None:
        raise ImportError("The version of PEFT you are using is not compatible")

    monkeypatch.setattr(type(model), "add_adapter", refuse)
    with pytest.raises(ImportError, match=r"does not support peft .*pip install 'transformers!=5.24.*get_peft_model"):
        Tap(model, train="lora")
    tap = Tap(peft.get_peft_model(model, config()), 2, train="lora")
    assert backward(tap) == []


# Two processes


def train_under_ddp(rank: int, port: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    try:
        for how, layer in (("lora", 2), ("full", (0, 2))):
            tap = Tap(tiny_vlms.build("qwen3"), layer, train=how)
            policy = tiny_head().attach(AdaLNZero(tap.width, pool="attention"))
            both = [nn.parallel.DistributedDataParallel(part) for part in (tap, policy)]
            for _ in range(2):
                tokens, mask = both[0](**INPUTS["qwen3"])
                both[1](actions(2, seed=rank), tokens, mask=mask, generator=generator(rank)).backward()
    finally:
        dist.destroy_process_group()


@pytest.mark.slow  # Each process imports transformers.
def test_two_processes_train_a_tap_in_plain_ddp():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    torch.multiprocessing.spawn(train_under_ddp, (port,), nprocs=2)
