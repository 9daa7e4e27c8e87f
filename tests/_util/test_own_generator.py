"""Loading in one thread leaves the global generator to the others, which draw from it meanwhile."""

from __future__ import annotations

import threading

import pytest
import torch
from small import tiny_config, tiny_head, trained_policy
from torch import nn

from action_heads import ActionHead, head_file
from action_heads._util.own_generator import OwnGenerator


@pytest.fixture(autouse=True)
def _restored():
    with torch.random.fork_rng(devices=[]):
        yield


DRAWS = {
    "a layer": lambda: nn.Linear(3, 2).weight,
    "uniform": lambda: torch.rand(100),
    "normal": lambda: torch.randn(101),
    "integers": lambda: torch.randint(1000, (50,)),
    "order": lambda: torch.randperm(50),
    "truncated": lambda: nn.init.trunc_normal_(torch.empty(64)),
    "orthogonal": lambda: nn.init.orthogonal_(torch.empty(8, 8)),
    "bernoulli": lambda: torch.full((64,), 0.5).bernoulli_(),
}


@pytest.mark.parametrize("name", DRAWS)
def test_it_draws_the_numbers_that_a_seed_gives_and_leaves_the_global_generator_alone(name):
    torch.manual_seed(7)
    expected = DRAWS[name]()
    before = torch.get_rng_state()
    with OwnGenerator(7):
        found = DRAWS[name]()
    assert torch.equal(found, expected)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_generator_that_is_given_and_the_meta_device_are_left_alone():
    given = torch.Generator().manual_seed(1)
    with OwnGenerator(7), torch.no_grad():
        found = torch.randn(5, generator=given)
        with torch.device("meta"):
            assert nn.Linear(3, 2).weight.is_meta
    assert torch.equal(found, torch.randn(5, generator=torch.Generator().manual_seed(1)))


def drawn_while(load, monkeypatch, module, name: str) -> torch.Tensor:
    """Return what this thread draws before, during and after a `load` in another one, which waits in `module.name`."""
    inside, go_on, original = threading.Event(), threading.Event(), getattr(module, name)

    def slowly(*args, **options):
        made = original(*args, **options)
        inside.set()
        assert go_on.wait(60)
        return made

    monkeypatch.setattr(module, name, slowly)
    torch.manual_seed(0)
    parts, thread = [torch.rand(2)], threading.Thread(target=load, daemon=True)
    thread.start()
    assert inside.wait(60)
    parts.append(torch.rand(2))
    go_on.set()
    thread.join(60)
    monkeypatch.undo()
    return torch.cat([*parts, torch.rand(2)])


def straight() -> torch.Tensor:
    torch.manual_seed(0)
    return torch.cat([torch.rand(2) for _ in range(3)])


def test_a_head_that_loads_in_another_thread_does_not_rewind_this_one(tmp_path, monkeypatch):
    folder = tiny_head().save_pretrained(tmp_path)
    drawn = drawn_while(lambda: ActionHead.from_pretrained(folder), monkeypatch, head_file, "ActionHead")
    assert torch.equal(drawn, straight())


def test_an_adapter_that_loads_in_another_thread_does_not_rewind_this_one(tmp_path, monkeypatch):
    head = tiny_head()
    folder = trained_policy(head).save_adapter(tmp_path)
    drawn = drawn_while(lambda: head.load_adapter(folder), monkeypatch, ActionHead, "attach")
    assert torch.equal(drawn, straight())


def test_a_random_head_that_is_made_in_another_thread_does_not_rewind_this_one(monkeypatch):
    from action_heads import backbones

    head = tiny_head()
    kind = backbones.BACKBONES[tiny_config().backbone]
    drawn = drawn_while(lambda: head.in_mode("random-frozen"), monkeypatch, kind, "__init__")
    assert torch.equal(drawn, straight())


def test_a_vlm_that_loads_in_another_thread_does_not_rewind_this_one(tmp_path, monkeypatch):
    pytest.importorskip("transformers")
    vlm = pytest.importorskip("action_heads.encoders.vlm")
    from transformers import SiglipVisionConfig, SiglipVisionModel

    from action_heads.encoders.vlm_config import VLMConfig
    from action_heads.vlm import files

    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    SiglipVisionModel(SiglipVisionConfig(**sizes, image_size=28, patch_size=14)).save_pretrained(tmp_path)
    encoder = vlm.VLMEncoder(VLMConfig(str(tmp_path), dtype="float32"), ("front",))
    files.shared.cache_clear()
    drawn = drawn_while(lambda: encoder.tap, monkeypatch, files, "load")
    files.shared.cache_clear()
    assert torch.equal(drawn, straight())
