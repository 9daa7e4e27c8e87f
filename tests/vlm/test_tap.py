"""A tap returns the hidden states of transformers, for every family of models."""

from __future__ import annotations

import copy

import pytest
import torch

pytest.importorskip("transformers")

import tiny_vlms
from small import actions, generator, tiny_head
from tiny_vlms import BLOCKS, IMAGE, MODELS, TEXT_MODELS, VISION_MODELS, VLMS, WIDTH

from action_heads.adapters import AdaLNZero
from action_heads.vlm import Tap
from action_heads.vlm.tap import blocks_of


@pytest.fixture(params=MODELS)
def name(request) -> str:
    return request.param


def hidden_states(name: str, model: torch.nn.Module) -> tuple[torch.Tensor, ...]:
    with torch.no_grad():
        return model(**tiny_vlms.inputs(name), output_hidden_states=True).hidden_states


def test_layers_are_transformers_hidden_states(name):
    model = tiny_vlms.build(name)
    expected = hidden_states(name, model.base_model)
    for layer in (0, 1, BLOCKS - 1, -2):
        tap = Tap(model, layer)
        tokens, mask = tap(**tiny_vlms.inputs(name))
        assert torch.equal(tokens, expected[layer])
        assert tap.width == tokens.shape[-1] == WIDTH
        assert mask.shape == tokens.shape[:2]
    for layer in (-1, BLOCKS):
        assert torch.equal(Tap(model, layer)(**tiny_vlms.inputs(name))[0], last(name, model))
    # The early exit leaves nothing behind in the model.
    assert all(torch.equal(a, b) for a, b in zip(expected, hidden_states(name, model.base_model), strict=True))


def last(name: str, model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model.base_model(**tiny_vlms.inputs(name)).last_hidden_state


def test_the_mask_is_the_attention_mask(name):
    _, mask = Tap(tiny_vlms.build(name), 1)(**(inputs := tiny_vlms.inputs(name)))
    assert mask.dtype == torch.bool
    assert torch.equal(mask, inputs["attention_mask"] == 1) if "input_ids" in inputs else mask.all()


def test_later_blocks_do_not_run(name):
    model = tiny_vlms.build(name)
    tap, ran = Tap(model, 1), []
    for i, block in enumerate(blocks_of(model)):
        block.register_forward_hook(lambda *_, i=i: ran.append(i))
    tap(**tiny_vlms.inputs(name))
    assert ran == [0]
    assert tap.state_dict().keys() == {f"model.{key}" for key in model.state_dict()}  # Nothing is held twice.


@pytest.mark.parametrize("name", VLMS)
def test_selected_tokens(name):
    model, inputs = tiny_vlms.build(name), tiny_vlms.inputs(name)
    everything, image, text = (Tap(model, 1, select=s)(**inputs)[1] for s in ("all", "image", "text"))
    assert torch.equal(image, inputs["input_ids"] == IMAGE)
    assert image.sum(1).eq(VLMS[name][1]).all()
    assert torch.equal(image | text, everything)
    assert not (image & text).any()


@pytest.mark.parametrize("name", [name for name in MODELS if name not in TEXT_MODELS])
def test_a_picture_reaches_the_tokens(name):
    tap, inputs = Tap(tiny_vlms.build(name)), tiny_vlms.inputs(name)
    other = inputs | {"pixel_values": inputs["pixel_values"] + 0.5 * torch.randn_like(inputs["pixel_values"])}
    assert (tap(**inputs)[0] - tap(**other)[0]).abs().max() > 1e-4


def test_named_modules():
    tap = Tap(tiny_vlms.build("paligemma"), "model.multi_modal_projector")
    with pytest.raises(RuntimeError, match="call the tap once"):
        _ = tap.width
    tokens, mask = tap(**tiny_vlms.inputs("paligemma"))
    assert tokens.shape == (2, 16, WIDTH)
    assert mask.all()
    assert tap.width == WIDTH
    with pytest.raises(ValueError, match=r"no module 'model.connector'.*multi_modal_projector"):
        Tap(tiny_vlms.build("paligemma"), "model.connector")
    with pytest.raises(ValueError, match=r"'model.visual.merger' returns .*expected \(batch, n, c\)"):
        Tap(tiny_vlms.build("qwen2_vl"), "model.visual.merger")(**tiny_vlms.inputs("qwen2_vl"))
    words = {"input_ids": torch.ones(1, 3, dtype=torch.long)}
    with pytest.raises(ValueError, match=r"multi_modal_projector'\] did not run"):
        tap(**words)


def test_mixing_begins_as_the_mean_of_normalised_layers_and_trains(name):
    model = tiny_vlms.build(name)
    tap = Tap(model, (1, 2, -1))
    tokens, _ = tap(**tiny_vlms.inputs(name))
    layers = [*hidden_states(name, model.base_model)[1:3], last(name, model)]
    expected = torch.stack([torch.nn.functional.layer_norm(x, x.shape[-1:]) for x in layers]).mean(0)
    torch.testing.assert_close(tokens, expected)
    assert [p.shape for p in tap.trainable_parameters()] == [(3,)]
    tokens.square().sum().backward()
    assert tap.mix.weight.grad.abs().sum() > 0


def train_once(tap: Tap, name: str) -> torch.Tensor:
    """Return the gradients of the head's loss through a trained adapter."""
    torch.manual_seed(0)
    policy = tiny_head().attach(AdaLNZero(tap.width, pool="attention"))
    with torch.no_grad():
        policy.adapter.generate.weight.normal_()
    tokens, mask = tap(**tiny_vlms.inputs(name))
    policy.loss(actions(2), tokens, mask=mask, generator=generator()).backward()
    return tokens


def with_gradient(model: torch.nn.Module) -> set[str]:
    return {name for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}


def test_frozen_is_frozen(name):
    model = tiny_vlms.build(name)
    before = copy.deepcopy(model.state_dict())
    tap = Tap(model, train="frozen").train().requires_grad_()
    assert not model.training
    assert not list(tap.trainable_parameters())
    train_once(tap, name)
    assert not with_gradient(model)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_full_trains_all_that_the_tapped_layer_hears(name):
    tap = Tap(tiny_vlms.build(name), 2, train="full")
    train_once(tap, name)
    heard = with_gradient(tap.model)
    assert any("0" in each for each in heard)
    assert not [each for each in heard if f"layers.{BLOCKS - 1}." in each and "vision" not in each]
    assert tap.train().model.training


def test_lora_trains_its_own_and_starts_at_the_model(name):
    pytest.importorskip("peft")
    model = tiny_vlms.build(name)
    plain = Tap(model)(**tiny_vlms.inputs(name))[0]
    tap = Tap(model, train="lora").eval()
    names = {each for each, p in tap.named_parameters() if p.requires_grad}
    assert names
    assert all("lora" in each for each in names)
    torch.testing.assert_close(train_once(tap, name), plain)
    assert with_gradient(tap) <= names
    assert with_gradient(tap)
    tap.requires_grad_(False)
    assert not list(tap.trainable_parameters())
    tap.requires_grad_()
    assert {each for each, p in tap.named_parameters() if p.requires_grad} == names


@pytest.mark.parametrize("existing", [False, True])
def test_lora_weights_of_a_bfloat16_model_are_float32(existing):
    """Small steps are kept: bfloat16 would round away what is below a hundredth of a weight."""
    peft = pytest.importorskip("peft")
    model = tiny_vlms.build("qwen3").bfloat16()
    if existing:
        model = peft.get_peft_model(model, peft.LoraConfig(r=4), autocast_adapter_dtype=False)
    tap = Tap(model, train="lora")
    trains = {name for name, p in tap.named_parameters() if p.requires_grad}
    assert {p.dtype for name, p in tap.named_parameters() if name in trains} == {torch.float32}
    assert {p.dtype for name, p in tap.named_parameters() if "lora" not in name} == {torch.bfloat16}
    assert train_once(tap, "qwen3").dtype == torch.bfloat16


@pytest.mark.parametrize("name", ["gemma", "smolvlm"])
def test_isolated_the_model_hears_its_own_loss_alone(name):
    tap = Tap(tiny_vlms.build(name), train="full", isolate=True)
    train_once(tap, name)
    assert not with_gradient(tap.model)
    inputs = tiny_vlms.inputs(name)
    tap.model(**inputs, labels=inputs["input_ids"].masked_fill(inputs["input_ids"] == IMAGE, -100)).loss.backward()
    assert with_gradient(tap.model)


@pytest.mark.parametrize("name", ["qwen3", "siglip"])
def test_early_exit_with_gradient_checkpointing(name):
    """Gradients with an early exit and checkpointing equal those without checkpointing."""
    model = tiny_vlms.build(name)
    plain = Tap(model, 2, train="full")
    plain(**tiny_vlms.inputs(name))[0].square().sum().backward()
    grads = {each: p.grad.clone() for each, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    model.gradient_checkpointing_enable()
    plain(**tiny_vlms.inputs(name))[0].square().sum().backward()
    again = {each: p.grad for each, p in model.named_parameters() if p.grad is not None}
    assert grads.keys() == again.keys()
    for each in grads:
        torch.testing.assert_close(grads[each], again[each])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_model_under_a_float32_head(dtype):
    tap = Tap(tiny_vlms.build("smolvlm").to(dtype))
    assert train_once(tap, "smolvlm").dtype == dtype


def test_refusals():
    gemma, siglip = tiny_vlms.build("gemma"), tiny_vlms.build("siglip")
    with pytest.raises(ValueError, match="a tap needs a transformers model, got a Linear"):
        Tap(torch.nn.Linear(2, 2))
    with pytest.raises(ValueError, match="layer 9 does not exist in this model of 3 blocks; choose 0"):
        Tap(gemma, 9)
    with pytest.raises(ValueError, match="has a duplicate"):
        Tap(gemma, (-1, BLOCKS))
    with pytest.raises(ValueError, match="unknown train='half'; choose from 'frozen', 'lora', 'full'"):
        Tap(gemma, train="half")
    with pytest.raises(ValueError, match="has no image_token_id"):
        Tap(siglip, select="image")
    policy = tiny_head().attach(AdaLNZero(WIDTH + 1))
    tokens, mask = Tap(gemma)(**tiny_vlms.inputs("gemma"))
    with pytest.raises(ValueError, match=rf"built for cond_dim={WIDTH + 1}.*Pass cond_dim={WIDTH} to the adapter"):
        policy.sample(tokens, mask=mask)


@pytest.mark.parametrize("name", VISION_MODELS)
def test_identity_is_of_weights_and_settings(name):
    tap = Tap(tiny_vlms.build(name))
    assert tap.identity() == Tap(tiny_vlms.build(name)).identity()
    other = Tap(tiny_vlms.build(name, seed=1)).identity()
    assert len({tap.identity(), other, Tap(tap.model, 1).identity()}) == 3
    with pytest.raises(ValueError, match="only the output of a frozen tap of one layer can be cached"):
        Tap(tap.model, (0, 1)).identity()
