"""A saved tap returns the same tokens of the same model, and refuses another model."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("transformers")

import tiny_vlms
from tiny_vlms import MODELS, VLMS

from action_heads.io.files import WeightFileError, save_tensors
from action_heads.vlm import Tap


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("layer", [1, -1, (0, 2, -1)])
def test_the_same_tokens(name, layer, tmp_path):
    select = "image" if name in VLMS else "all"
    tap = Tap(tiny_vlms.build(name), layer, select=select)
    if tap.mix is not None:
        torch.nn.init.normal_(tap.mix.weight)
    tap.save(tmp_path)
    again = Tap.load(tmp_path, tiny_vlms.build(name))
    for one, other in zip(tap(**tiny_vlms.inputs(name)), again(**tiny_vlms.inputs(name)), strict=True):
        assert torch.equal(one, other)


def test_how_it_trains_is_said_anew(tmp_path):
    Tap(tiny_vlms.build("gemma"), "model.layers.1", train="full").save(tmp_path)
    assert not list(Tap.load(tmp_path, tiny_vlms.build("gemma")).trainable_parameters())
    assert list(Tap.load(tmp_path, tiny_vlms.build("gemma"), train="full").trainable_parameters())


def test_refusals(tmp_path):
    with pytest.raises(WeightFileError, match=r"tap.safetensors does not exist"):
        Tap.load(tmp_path, tiny_vlms.build("gemma"))
    Tap(tiny_vlms.build("gemma"), (0, 1)).save(tmp_path)
    with pytest.raises(ValueError, match=r"belongs to .*Gemma.*this model is .*Qwen3.*load the one"):
        Tap.load(tmp_path, tiny_vlms.build("qwen3"))
    save_tensors({}, tmp_path / "tap.safetensors")
    with pytest.raises(WeightFileError, match=r"was not written by Tap.save"):
        Tap.load(tmp_path, tiny_vlms.build("gemma"))
