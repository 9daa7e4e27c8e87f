"""docs/guides/replace-expert.md runs on tiny builds of LeRobot's own classes, and its statements hold."""

from __future__ import annotations

import importlib
import sys
from importlib.util import find_spec
from types import SimpleNamespace

import pytest
import torch
from pages import DOCS, ROOT, blocks

pytest.importorskip("transformers")
pytest.importorskip("diffusers")
if find_spec("lerobot") is None or find_spec("lerobot.policies") is None:  # tests/lerobot is a package of that name.
    pytest.skip("needs lerobot, which asks for Python 3.12", allow_module_level=True)

import tiny_lerobot as tiny
import transformers
from lerobot.policies.groot import groot_n1_7
from small import actions, tiny_head
from together import check_together
from torch import nn

from action_heads.adapters import AdaLNZero
from action_heads.vlm import Tap, prefix_tokens

PAGE = DOCS / "guides" / "replace-expert.md"
PREFIXES = {"smolvla": tiny.smolvla, "pi0": lambda: tiny.pi("pi0"), "pi05": lambda: tiny.pi("pi05")}
TOKENS = {
    "smolvla": tiny.PATCHES + tiny.WORDS + 1,
    "pi0": tiny.PI_PATCHES + tiny.WORDS,
    "pi05": tiny.PI_PATCHES + tiny.WORDS,
}


def gradients(module: nn.Module) -> set[str]:
    return {name for name, p in module.named_parameters() if p.grad is not None and p.grad.any()}


@pytest.mark.parametrize("name", PREFIXES)
def test_tokens_are_what_the_last_keys_and_values_are_made_of(name, monkeypatch):
    policy = PREFIXES[name]()
    batch = tiny.batch()
    tokens, mask = prefix_tokens(policy, batch)
    assert tokens.shape == (2, TOKENS[name], tiny.WIDTH)
    assert mask.shape == (2, TOKENS[name])
    assert mask.dtype == torch.bool
    assert (~mask).nonzero().tolist() == [[0, i] for i in (range(8, 10) if name == "smolvla" else range(20, 22))]

    def read(self, *args, past_key_values, **kwargs):
        raise Read(past_key_values.layers[-1].values)

    monkeypatch.setattr(type(policy.model), "denoise_step", read)
    with pytest.raises(Read) as seen:
        policy.predict_action_chunk(batch)
    model = policy.model
    inside = model.vlm_with_expert.vlm.model.text_model if name == "smolvla" else language(model)
    values = inside.layers[-1].self_attn.v_proj(tokens)
    cached = seen.value.values.transpose(1, 2).flatten(2)
    assert torch.allclose(values[mask], cached[mask], atol=1e-5)


class Read(Exception):
    def __init__(self, values: torch.Tensor):
        self.values = values


def language(model) -> nn.Module:
    return model.paligemma_with_expert.paligemma.model.language_model


def test_the_prefix_does_not_need_the_expert():
    smolvla, pi = PREFIXES["smolvla"](), PREFIXES["pi0"]()
    before = [prefix_tokens(policy, tiny.batch())[0] for policy in (smolvla, pi)]
    expert = smolvla.model.vlm_with_expert.lm_expert
    expert.layers = nn.ModuleList(nn.Identity() for _ in expert.layers)
    del pi.model.paligemma_with_expert.gemma_expert
    after = [prefix_tokens(policy, tiny.batch())[0] for policy in (smolvla, pi)]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_smolvlas_state_is_the_last_token_and_pi0s_is_none():
    for name, moved in (("smolvla", [10]), ("pi0", [])):
        policy, batch = PREFIXES[name](), tiny.batch()
        was = prefix_tokens(policy, batch)[0]
        now = prefix_tokens(policy, batch | {"observation.state": batch["observation.state"] + 1})[0]
        differ = (was - now)[1].abs().amax(-1) > 1e-5  # Row 1 has no padding.
        assert differ.nonzero().flatten().tolist() == moved


@pytest.mark.parametrize("name", PREFIXES)
def test_only_the_adapter_moves_or_what_was_declared(name):
    policy = PREFIXES[name]()
    for declared in (False, True):
        policy.requires_grad_(False)
        (policy.model.state_proj if name == "smolvla" else language(policy.model).layers[0]).requires_grad_(declared)
        tokens, mask = prefix_tokens(policy, tiny.batch())
        attached = tiny_head().attach(AdaLNZero(tokens.shape[-1], pool="attention"))
        with torch.no_grad():  # At its zero initialisation, it would pass no gradient back.
            for p in attached.adapter.parameters():
                p.add_(0.1 * torch.randn_like(p))
        attached.loss(actions(2), tokens, mask=mask).backward()
        assert gradients(attached) == {name for name, _ in attached.adapter.named_parameters(prefix="adapter")}
        assert gradients(policy) == {name for name, p in policy.named_parameters() if p.requires_grad}
        assert bool(gradients(policy)) == declared
        assert attached.sample(tokens, mask=mask, steps=2).shape == (2, 16, 10)


@pytest.mark.parametrize("name", PREFIXES)
def test_calls_in_several_threads(name):
    policy = PREFIXES[name]()
    given = [(tiny.batch(seed=seed), block) for seed, block in enumerate((-1, 0, -1))]
    check_together(*(lambda each=each: prefix_tokens(policy, *each)[0].detach() for each in given))


def test_refusals_name_the_remedy():
    with pytest.raises(ValueError, match=r"DiffusionPolicy; expected .*docs/guides/replace-expert\.md"):
        prefix_tokens(tiny.diffusion(), {})
    with pytest.raises(ValueError, match=r"block 3 does not exist"):
        prefix_tokens(tiny.smolvla(), tiny.batch(), block=3)


class OpenVLAStyle(transformers.PreTrainedModel):
    """A model in the layout of OpenVLA: patches after the first word, a causal language model, no last_hidden_state."""

    config_class = transformers.LlamaConfig
    base_model_prefix = "model"

    def __init__(self, config: transformers.LlamaConfig):
        super().__init__(config)
        self.projector = nn.Linear(12, config.hidden_size)
        self.language_model = transformers.LlamaForCausalLM(config)
        self.post_init()

    def forward(self, input_ids, attention_mask, pixel_values, use_cache=None):
        patches = self.projector(pixel_values.reshape(len(pixel_values), 4, 12))
        words = self.language_model.get_input_embeddings()(input_ids)
        mask = torch.cat([attention_mask[:, :1], torch.ones(patches.shape[:2]), attention_mask[:, 1:]], 1)
        embeddings = torch.cat([words[:, :1], patches, words[:, 1:]], 1)
        return self.language_model(inputs_embeds=embeddings, attention_mask=mask.long(), use_cache=use_cache)


def openvla() -> tuple[OpenVLAStyle, dict[str, torch.Tensor]]:
    torch.manual_seed(0)
    words = tiny.batch()
    inputs = {
        "input_ids": words["observation.language.tokens"],
        "attention_mask": words["observation.language.attention_mask"].long(),
        "pixel_values": torch.randn(2, 3, 4, 4),
    }
    return OpenVLAStyle(transformers.LlamaConfig(**tiny.tiny_vlms.TEXT)).eval(), inputs


def test_openvlas_last_word_is_what_its_own_next_word_is_made_of():
    vla, inputs = openvla()
    tap = Tap(vla, layer="language_model.model.norm")
    tokens, _ = tap(**inputs)
    assert tokens.shape == (2, 10, tiny.WIDTH)
    assert torch.allclose(vla.language_model.lm_head(tokens), vla(**inputs).logits, atol=1e-5)
    with pytest.raises(ValueError, match="no last_hidden_state"):
        Tap(vla)(**inputs)


def test_the_unets_condition_is_what_the_page_takes():
    policy, batch = tiny.diffusion(num_inference_steps=2), tiny.batch(steps=2, state=2)
    batch["observation.images"] = torch.stack([batch[tiny.CAMERA]], dim=-4)
    seen = []
    policy.diffusion.unet.register_forward_pre_hook(
        lambda *call: seen.append(call[-1]["global_cond"]), with_kwargs=True
    )
    policy.diffusion.generate_actions(batch)
    cond = policy.diffusion._prepare_global_conditioning(batch)
    assert cond.shape == (2, 2 * (2 + 2 * 4))  # Two steps, each with the state and four keypoints.
    assert all(torch.equal(cond, other) for other in seen)


def test_what_reaches_groots_action_head(monkeypatch):
    without_dm_tree(monkeypatch)
    policy, batch = tiny.groot(), tiny.groot_batch()
    seen = {}
    policy._groot_model.action_head.register_forward_pre_hook(lambda _, args: seen.update(args[0], **args[1]))
    policy(batch)
    n = batch["input_ids"].shape[1]
    assert seen["backbone_features"].shape == (2, n, tiny.WIDTH)
    assert torch.equal(seen["backbone_attention_mask"], batch["attention_mask"] == 1)
    assert torch.equal(seen["image_mask"], batch["input_ids"] == tiny.tiny_vlms.IMAGE)
    assert [seen[k].shape for k in ("state", "action", "action_mask")] == [(2, 1, 12), (2, 20, 12), (2, 20, 12)]


def test_the_counts_on_the_results_page_are_those_of_the_command(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    names = ("seams", "experts", "common")
    try:
        command = importlib.import_module("seams")
        experts = {name: build() for name, build in command.EXPERTS.items()}
    finally:
        for name in names:
            sys.modules.pop(name, None)
    assert command.counts_table(command.counts(experts)) in command.PAGE.read_text()


def without_dm_tree(monkeypatch) -> None:
    """Replace the package of LeRobot's extra with which GR00T maps over one dictionary."""
    plain = SimpleNamespace(map_structure=lambda call, data: type(data)({k: call(v) for k, v in data.items()}))
    monkeypatch.setattr(groot_n1_7, "tree", plain)
    monkeypatch.setattr(groot_n1_7, "require_package", lambda *_, **__: None)


def test_the_page_runs_from_top_to_bottom(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    without_dm_tree(monkeypatch)
    policies = {f"{kind}Policy": name for kind, name in (("SmolVLA", "smolvla"), ("PI0", "pi0"), ("PI05", "pi05"))}
    builds = {kind: PREFIXES[name] for kind, name in policies.items()}
    builds |= {"DiffusionPolicy": tiny.diffusion, "GrootPolicy": tiny.groot}
    for kind, build in builds.items():
        found = type(built := build())
        assert found.__name__ == kind
        monkeypatch.setattr(found, "from_pretrained", lambda _, built=built: built)
    vla, inputs = openvla()
    network = nn.Sequential()
    network.add_module("body", nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 24), nn.ReLU()))
    network.add_module("head", nn.Linear(24, 7))
    names = {
        "batch": tiny.batch(),
        "chunk": actions(2),
        "groot_batch": tiny.groot_batch(),
        "pusht": tiny.batch(steps=2, state=2),
        "coordinates": 500 * torch.rand(2, 16, 2),
        "demonstrations": 500 * torch.rand(64, 16, 2),
        "vla": vla,
        "inputs": inputs,
        "network": network,
        "images": torch.rand(2, 3, 8, 8),
        "state": torch.randn(2, 8),
    }
    # For each section: the shape of its chunk, and what the loss trained besides the adapter.
    shapes = {1: (2, 16, 10), 3: (2, 16, 10), 4: (2, 20, 8), 5: (2, 15, 2), 6: (2, 16, 10), 7: (2, 16, 10)}
    assert len(blocks(PAGE)) == 7
    for i, block in enumerate(blocks(PAGE), 1):
        exec(compile(block, str(PAGE), "exec"), names)
        if i in shapes:
            assert names["sampled"].shape == shapes[i], i
    for kind in ("smolvla", "pi0", "pi05", "vla"):
        assert not gradients(names[kind]), kind
    assert gradients(names["diffusion"]) <= {n for n, _ in names["diffusion"].named_parameters() if "rgb_encoder" in n}
    moved = gradients(names["groot"])
    assert moved
    assert all(name.startswith("_groot_model.action_head.policy.") for name in moved)
