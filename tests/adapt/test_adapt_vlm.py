"""Stage 2 through a VLM: cached, live, LoRA and full; resumed, continued, and loaded again by a pointer to the VLM."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from killed import killed_at_step
from recorded import check_learns_by_looking, describe, hdf5, tiny
from small import generator

from action_heads import ObservedPolicy
from action_heads.adapt.run import adapt
from action_heads.adapt.settings import AdaptConfig
from action_heads.adapt.trainer import Trainer
from action_heads.io import files
from action_heads.vlm import files as vlm_files

pytest.importorskip("peft")
pytest.importorskip("num2words")

FAMILIES = ("smolvlm", "qwen2_5_vl", "paligemma", "qwen3", "siglip")
WAYS = {
    "cached": {},
    "live": {"vlm_cache": "off", "crop": (12, 12), "jitter": 0.2},
    "mixed": {"vlm_layer": (1, 2)},
    "lora": {"vlm_train": "lora", "vlm_lora_rank": 2},
    "full": {"vlm_train": "full"},
}
RATE = {way: {"encoder_lr": 0.1} for way in ("mixed", "lora", "full")}  # what trains of the encoder
STATE = torch.tensor([[[0.4, 0.1, 0.2, 0.03]] * 2] * 2)


@pytest.fixture(scope="session")
def models(tmp_path_factory) -> Path:
    from tiny_processors import saved

    folder = tmp_path_factory.mktemp("models")
    for name in FAMILIES:
        saved(folder / name, name)
    return folder


@pytest.fixture
def settings(folder, models, monkeypatch):
    """Return settings of a run of a second through a tiny VLM."""
    monkeypatch.setenv("ACTION_HEADS_CACHE", str(folder / "cache"))
    vlm_files.shared.cache_clear()
    describe(folder / "demos.hdf5", "lift the cube")

    def of(name: str = "smolvlm", **changes) -> AdaptConfig:
        values = {"vlm": str(models / name), "vlm_layer": (2,), "vlm_dtype": "float32", "vlm_prompt": "lift the cube"}
        if name == "qwen3":
            values |= {"encoder": "none", "cameras": ()}
        if name == "siglip":
            del values["vlm_prompt"]
        return tiny(folder, **values | changes)

    return of


def seen(policy: ObservedPolicy, value: float = 0.5, **images) -> dict:
    return images or {name: torch.full((2, 2, 3, 16, 16), value) for name in policy.contract.sizes}


def chunk(policy: ObservedPolicy, value: float = 0.5) -> torch.Tensor:
    return policy.eval().sample(seen(policy, value), STATE, ["lift the cube"] * 2, steps=2, generator=generator())


@pytest.mark.parametrize("way", ["cached", "live"])
def test_kept_embeddings_train_by_graphs_to_the_same_bits(settings, way):
    """A model that runs in every training step trains eagerly."""
    trainers = eager, graphed = [Trainer(settings(**WAYS[way], graph=graph)) for graph in (False, True)]
    losses = [[trainer.train_step(batch).item() for batch in trainer.coming()] for trainer in trainers]
    assert losses[0] == losses[1]
    assert [bool(trainer.take_step.recorded) for trainer in (eager, graphed)] == [False, way == "cached"]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_kind_of_model_conditions_a_policy(settings, family):
    policy = adapt(settings(family, lr=0.1, cameras=() if family == "qwen3" else ("agentview", "wrist")))
    tokens, mask = policy.embed(seen(policy), ["lift the cube"] * 2)
    assert tokens.shape[::2] == (2, 32)
    assert mask.shape == tokens.shape[:2]
    assert set(policy.encoder.cond_dim) == {"tokens", "state"}
    assert chunk(policy).shape == (2, 16, 10)
    if family != "qwen3":
        assert not torch.equal(chunk(policy, 0.1), chunk(policy, 0.9))
    given = policy.sample(None, STATE, tokens=(tokens, mask), steps=2, generator=generator())
    assert torch.equal(given, chunk(policy))


@pytest.mark.parametrize("cache", [{}, {"vlm_cache": "off"}], ids=["cached", "live"])
@pytest.mark.parametrize("vision", ["trained", "frozen", "cached"])
def test_a_vlm_that_reads_only_words_leaves_the_images_to_a_vision_network(settings, vit, vision, cache):
    policy = adapt(settings("qwen3", encoder=vit, train_encoder=vision, cameras=("agentview",), lr=0.1, **cache))
    assert not torch.equal(chunk(policy, 0.1), chunk(policy, 0.9))


@pytest.mark.parametrize("way", WAYS)
def test_only_what_is_declared_trains_and_is_saved(settings, models, way):
    config = settings(**WAYS[way], **RATE.get(way, {}))
    trainer = Trainer(config)
    before = {name: tensor.clone() for name, tensor in trainer.policy.state_dict().items()}
    held = [] if way == "cached" else [trainer.policy.encoder.vlm.tap]
    frozen = {name: p.clone() for tap in held for name, p in tap.named_parameters() if not p.requires_grad}
    for batch in trainer.coming():
        trainer.train_step(batch)
        assert ("tokens" in batch) == (way == "cached")
    now = trainer.policy.state_dict()
    moved = {name for name in now if not torch.equal(now[name], before[name])}
    through = {name for name in moved if name.startswith("encoder.vlm.")}
    assert bool(through) == (way in ("lora", "full", "mixed"))
    assert all("lora_" in name for name in through if way == "lora")
    assert not any(name.startswith("policy.head.") for name in moved)
    for tap in held:
        assert all(torch.equal(p, frozen[name]) for name, p in tap.named_parameters() if name in frozen)
    size = sum(tensor.numel() for name, tensor in now.items() if name.startswith("encoder."))
    total = vlm_files.parameters(models / "smolvlm")
    assert size < total if way == "full" else size < total / 5


@pytest.mark.parametrize("way", WAYS)
def test_loaded_again_it_does_the_same(settings, folder, way, capsys):
    policy = adapt(settings(**WAYS[way], **RATE.get(way, {}), lr=0.1))
    if way == "cached":
        assert "embedding 87 samples of 15 tokens x 32" in capsys.readouterr().out
    counts = files.read_json(folder / "run" / "results.json")["parameters"]
    assert counts["head"]["trained"] == 0 < counts["head"]["frozen"]
    assert counts["vlm"]["frozen"] > 0
    assert (counts["vlm"]["trained"] > 0) == (way in ("lora", "full", "mixed"))
    assert "| vlm |" in (folder / "run" / "README.md").read_text()
    vlm_files.shared.cache_clear()
    again = ObservedPolicy.from_pretrained(folder / "run")
    assert torch.equal(chunk(again), chunk(policy))
    copied = ObservedPolicy.from_pretrained(again.save(folder / "copy"))
    assert torch.equal(chunk(copied), chunk(policy))


@pytest.mark.slow
@pytest.mark.parametrize("way", ["cached", "live", "lora"])
def test_a_killed_run_resumes_to_the_same_bits(settings, folder, way):
    whole = adapt(settings(**WAYS[way], out=folder / "whole"))
    with killed_at_step(Trainer, 4):
        adapt(settings(**WAYS[way]))
    expected = whole.state_dict()
    assert all(torch.equal(x, expected[name]) for name, x in adapt(settings(**WAYS[way])).state_dict().items())


def test_a_second_run_uses_the_embeddings_of_the_first(settings, folder, monkeypatch, capsys):
    adapt(settings())
    made = sorted(path.name for path in (folder / "cache" / "embeddings").iterdir())
    capsys.readouterr()

    def never(*_):
        raise AssertionError("the model was loaded")

    monkeypatch.setattr(vlm_files, "load", never)
    vlm_files.shared.cache_clear()
    adapt(settings(out=folder / "second", seed=1))
    assert "(87 are there already)" in capsys.readouterr().out
    assert sorted(path.name for path in (folder / "cache" / "embeddings").iterdir()) == made
    with pytest.raises(AssertionError, match="was loaded"):
        adapt(settings(out=folder / "third", vlm_layer=(1,)))


@pytest.mark.parametrize("way", ["cached", "lora"])
def test_starts_from_another_run(settings, folder, way):
    first = adapt(settings(**WAYS[way], **RATE.get(way, {}), lr=0.1))
    trainer = Trainer(settings(**WAYS[way], out=folder / "second", start_from=folder / "run"))
    expected = first.state_dict()
    assert all(torch.equal(x, expected[name]) for name, x in trainer.policy.state_dict().items())
    batch = next(iter(trainer.coming()))
    trainer.train_step(batch)
    with pytest.raises(ValueError, match=r"--start-from: .*encoder"):
        adapt(settings(**WAYS[way], out=folder / "third", start_from=folder / "run", vlm_select="image"))


def test_blind_sees_no_image(settings):
    policy = adapt(settings(blind=True, lr=0.1))
    assert torch.equal(chunk(policy, 0.1), chunk(policy, 0.9))


def test_another_model_is_refused(settings, folder, models):
    from tiny_processors import saved

    policy = adapt(settings(lr=0.1))
    moved = shutil.copytree(models / "smolvlm", folder / "moved")
    assert torch.equal(chunk(ObservedPolicy.from_pretrained(folder / "run", vlm=moved)), chunk(policy))
    with pytest.raises(ValueError, match=r"weights with fingerprint \w+, but the policy was trained with"):
        ObservedPolicy.from_pretrained(folder / "run", vlm=saved(folder / "other", "smolvlm", seed=1))
    with pytest.raises(ValueError, match="was trained with a SmolVLMForConditionalGeneration of width 32"):
        ObservedPolicy.from_pretrained(folder / "run", vlm=models / "qwen2_5_vl")
    with pytest.raises(ValueError, match=r"is no folder, is not in the local cache of the Hub.*hf download"):
        ObservedPolicy.from_pretrained(folder / "run", vlm="nobody/nothing")


def test_a_run_does_not_go_on_with_another_model_in_the_folder(settings, folder, models):
    from tiny_processors import saved

    own = shutil.copytree(models / "smolvlm", folder / "own")
    config = settings(vlm=str(own))
    with killed_at_step(Trainer, 4):
        adapt(config)
    saved(own, "smolvlm", seed=1)
    with pytest.raises(ValueError, match=r"holds a run that began with other contents of --vlm, which"):
        adapt(config)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"vlm": "nobody/nothing"},
            "^--vlm: 'nobody/nothing' is no folder, is not in the local cache.*hf download nobody",
        ),
        ({"vlm_layer": (9,)}, "^--vlm.*layer 9 does not exist in this model of 3 blocks"),
        ({"vlm_select": "images"}, "^--vlm-select is 'images'"),
        ({"vlm_train": "qlora"}, "^--vlm-train is 'qlora'"),
        ({"vlm_cache": "on", "vlm_train": "lora"}, "^--vlm-cache is 'on', but the embeddings change"),
        ({"vlm_cache": "on", "crop": (12, 12)}, "^--vlm-cache can't be used with --crop or --jitter"),
        ({"vlm": None}, r"^--vlm-layer is \(2,\), which has no effect: no model is given. Name one with --vlm"),
        ({"vlm_template": "chat", "vlm": "paligemma"}, "^--vlm.*has no chat template, which template=chat needs"),
        ({"text": "bert", "vlm_prompt": "{task}"}, "^--vlm.*reads the task's words already"),
    ],
)
def test_mistakes_name_the_flag(settings, models, changes, message):
    named = changes.get("vlm")
    changes = changes | ({"vlm": str(models / named)} if named in FAMILIES else {})
    with pytest.raises(ValueError, match=message):
        Trainer(settings(**changes))


def edited(models: Path, folder: Path, file: str, **changes) -> str:
    """Return a copy of the tiny SmolVLM with a changed file."""
    copy = shutil.copytree(models / "smolvlm", folder / "edited")
    values = json.loads((copy / file).read_text())
    (copy / file).write_text(json.dumps(values | changes))
    return str(copy)


def test_a_template_that_drops_the_images_is_refused(settings, models, folder):
    copy = shutil.copytree(models / "smolvlm", folder / "edited")
    (copy / "chat_template.jinja").write_text("{% for m in messages %}{{ m['content'][-1]['text'] }}{% endfor %}")
    with pytest.raises(
        ValueError,
        match=r"^--vlm, .*--vlm-template: the chat template drops the images: .*'lift the cube'.*template=plain",
    ):
        Trainer(settings(vlm=str(copy)))


def test_a_processor_without_image_tokens_is_refused(settings, models, folder):
    """A processor of another model: its image token is not the one that this model replaces by images."""
    with pytest.raises(ValueError, match=r"^--vlm, .*yields no image tokens \(55,\)"):
        Trainer(settings(vlm=edited(models, folder, "config.json", image_token_id=55)))


def test_float16_that_overflows_names_the_dtype(settings, models, folder):
    from transformers import AutoModelForImageTextToText

    copy = shutil.copytree(models / "smolvlm", folder / "large")
    model = AutoModelForImageTextToText.from_pretrained(copy)
    with torch.no_grad():
        model.model.text_model.layers[0].mlp.down_proj.weight.mul_(1e9)
    model.save_pretrained(copy)
    with pytest.raises(ValueError, match=r"--vlm-dtype: .*NaN or infinite.*float16.*bfloat16 or float32"):
        Trainer(settings(vlm=str(copy), vlm_dtype="float16"))
    Trainer(settings(vlm=str(copy), vlm_dtype="bfloat16", out=folder / "other"))


def test_a_missing_camera_is_named(settings):
    policy = adapt(settings())
    with pytest.raises(ValueError, match="images of camera 'agentview' are missing; those of no camera were given"):
        policy.sample({"front": torch.zeros(2, 2, 3, 16, 16)}, STATE)


@pytest.mark.slow
def test_learns_by_looking_through_the_vlm(settings, folder):
    """Only the image tells the side, so a policy whose images are hidden cannot know it."""
    hdf5(folder / "demos.hdf5")
    check_learns_by_looking(lambda **values: settings("siglip", vlm_layer=(-1,), **values), folder)
