"""A tap refuses objects that are not models, wrong inputs, and hidden states that overflow."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("transformers")

import tiny_vlms
import transformers
from tiny_vlms import MODELS, VISION_MODELS, VLMS

from action_heads.vlm import Tap

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
TOWER = SMALL | {"image_size": 32, "patch_size": 8}
PIXELS = torch.zeros(1, 3, 32, 32)


def two_towers() -> transformers.PreTrainedModel:
    words = SMALL | {"vocab_size": 64, "bos_token_id": 1, "eos_token_id": 2}
    return transformers.CLIPModel(transformers.CLIPConfig(text_config=words, vision_config=TOWER))


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (None, "got a NoneType: pass the output of your own encoder"),
        ("google/siglip", r"got a str: load it, such as transformers.AutoModel.from_pretrained\('google/siglip'\)"),
        (transformers.GemmaForCausalLM, r"got the class GemmaForCausalLM; pass a model, GemmaForCausalLM.from_pretr"),
        (transformers.GemmaConfig(), "got a GemmaConfig: a configuration has no weights"),
        (transformers.SiglipImageProcessor(), r"pass the model, and call the tap with .*tap\(\*\*processor\(...\)\)"),
    ],
)
def test_what_is_no_model(given, says):
    with pytest.raises(ValueError, match=says):
        Tap(given)


def test_models_that_have_no_tokens():
    words = {"input_ids": torch.ones(1, 4, dtype=torch.long)}
    with pytest.raises(ValueError, match=r"CLIPModel returns no last_hidden_state. Tap one of its parts"):
        Tap(two_towers())(**words, pixel_values=PIXELS)
    with pytest.raises(ValueError, match=r"CLIPModel can't run on these inputs \(use_cache, input_ids\)"):
        Tap(two_towers(), 1)(**words)
    resnet = transformers.ResNetModel(transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1]))
    with pytest.raises(ValueError, match=r"returns \(1, 16, 4, 4\); expected \(batch, n, c\)"):
        Tap(resnet)(pixel_values=PIXELS)
    t5 = transformers.T5Config(d_model=32, d_kv=8, d_ff=32, num_layers=2, num_heads=2, vocab_size=64)
    t5 = transformers.T5ForConditionalGeneration(t5)
    with pytest.raises(ValueError, match=r"has an encoder and a decoder.*Tap model.get_encoder\(\)"):
        Tap(t5)(**words)
    assert Tap(t5.get_encoder())(**words)[0].shape == (1, 4, 32)


@pytest.mark.parametrize("name", MODELS)
def test_inputs_that_are_not_what_a_processor_gives(name):
    tap, inputs = Tap(tiny_vlms.build(name), 1), tiny_vlms.inputs(name)
    with pytest.raises(ValueError, match=r"no inputs were given; call the tap with the output of the processor"):
        tap()
    with pytest.raises(ValueError, match=r"must be a tensor, got a list; pass return_tensors='pt'"):
        tap(**{key: value.tolist() for key, value in inputs.items()})


@pytest.mark.parametrize("absent", [{}, {"pixel_values": None}], ids=["left out", "None"])
@pytest.mark.parametrize("name", [*VLMS, *VISION_MODELS])
def test_a_processor_that_gave_no_image(name, absent):
    tap, inputs = Tap(tiny_vlms.build(name), 1), tiny_vlms.inputs(name)
    words = {key: inputs[key] for key in ("input_ids", "attention_mask") if key in inputs}
    says = (
        "takes images, but the inputs" if name in VISION_MODELS else "has image tokens, but the inputs have no images"
    )
    with pytest.raises(ValueError, match=says):
        tap(**(words | absent or {"input_ids": torch.ones(1, 2, dtype=torch.long)}))
    if name in VLMS:  # Words alone are accepted.
        words["input_ids"] = words["input_ids"].clamp(max=50)
        assert tap(**words)[0].isfinite().all()


@pytest.mark.parametrize("layer", [1, (0, 1), -1])
def test_overflow_within_the_model_is_named(layer):
    model = tiny_vlms.build("gemma").half()
    with torch.no_grad():
        model.model.layers[0].mlp.down_proj.weight.fill_(6e4)
        model.model.layers[0].mlp.up_proj.weight.fill_(6e4)
    with pytest.raises(
        ValueError, match=r"layer -?1 of the model has NaN or infinite values in torch.float16, batch row 0: .*bfl"
    ):
        Tap(model, layer)(**tiny_vlms.inputs("gemma"))


def test_what_stands_in_padding_is_no_overflow():
    model, inputs = tiny_vlms.build("gemma"), tiny_vlms.inputs("gemma")
    with torch.no_grad():
        model.model.embed_tokens.weight[0] = float("nan")
    inputs["input_ids"] = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, 0)
    tokens, mask = Tap(model, 0)(**inputs)
    assert tokens[mask].isfinite().all()
    inputs["input_ids"][1, 0] = 0
    with pytest.raises(ValueError, match=r"layer 0 of the model has NaN .*in torch.float32, batch row 1"):
        Tap(model, 0)(**inputs)


@pytest.mark.parametrize("layer", [1, (0, 2), "model.layers.1.mlp"])
def test_a_cache_that_would_be_extended_in_some_layers_only_is_refused(layer):
    model, ids = tiny_vlms.build("qwen3"), tiny_vlms.inputs("qwen3")["input_ids"]
    cache = model(input_ids=ids, use_cache=True).past_key_values
    before = [cache.get_seq_length(i) for i in range(3)]
    with pytest.raises(ValueError, match=r"past_key_values was given.*Pass the whole sequence without a cache, or tap"):
        Tap(model, layer)(input_ids=ids[:, :1], past_key_values=cache)
    assert [cache.get_seq_length(i) for i in range(3)] == before
    Tap(model, -1)(input_ids=ids[:, :1], past_key_values=cache)
    assert [cache.get_seq_length(i) for i in range(3)] == [length + 1 for length in before]
