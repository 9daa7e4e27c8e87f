"""LeRobot's policy through a VLM: flags, training, the model card, and offline reload without the frozen weights."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import draccus
import pytest
import torch
from lerobot.configs import PreTrainedConfig
from lerobot_policy_dae.card import section
from safetensors.torch import load_file
from tiny_policy import batch, chunk, meta, present, tiny_policy

from action_heads.encoders import VisionConfig, VLMConfig
from action_heads.vlm import files
from lerobot_policy_dae import DAEConfig, DAEPolicy, heads

pytest.importorskip("peft")
pytest.importorskip("num2words")
sys.path.append(str(Path(__file__).parents[1] / "vlm"))

WAYS = {"frozen": {}, "mixed": {"layer": (1, 2)}, "lora": {"train": "lora", "lora_rank": 2}, "full": {"train": "full"}}


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    from tiny_processors import saved

    return saved(tmp_path_factory.mktemp("models") / "smolvlm", "smolvlm")


def through(folder: Path, model: str, **vlm) -> DAEPolicy:
    config = VLMConfig(**{"model": model, "layer": 2, "dtype": "float32"} | vlm)
    return tiny_policy(folder, image=True, vlm=config, dataset_meta=meta("lift the red cube", "lift the green cube"))


def test_flags_are_parsed():
    flags = ["--vlm.model=org/vlm", "--vlm.layer=16", "--vlm.train=lora", "--vlm.prompt=do {task}", "--device=cpu"]
    config = draccus.parse(DAEConfig, args=flags)
    assert config.vlm == VLMConfig("org/vlm", 16, train="lora", prompt="do {task}")
    assert draccus.parse(DAEConfig, args=["--vlm.model=a", "--vlm.layer=[8,16]", "--device=cpu"]).vlm.layers == (8, 16)
    assert draccus.parse(DAEConfig, args=["--device=cpu"]).vlm is None


def test_a_checkpoint_of_a_frozen_model_from_an_older_release(tmp_path, model):
    """Older releases call the training of a frozen VLM "none", in the flags and in the record of what was built."""
    through(tmp_path / "head", model).save_pretrained(tmp_path / "old")
    path = tmp_path / "old" / "config.json"
    text = path.read_text()
    assert text.count('"train": "frozen"') == 2
    values = json.loads(text.replace('"train": "frozen"', '"train": "none"'))
    values["built"]["fingerprint"] = heads.SEAL.of(values["built"], load_file(tmp_path / "old/model.safetensors"))
    path.write_text(json.dumps(values))
    assert PreTrainedConfig.from_pretrained(tmp_path / "old").vlm.train == "frozen"
    policy = DAEPolicy.from_pretrained(tmp_path / "old")
    policy.config.check_unchanged()
    assert policy.encoder.vlm.config.train == "frozen"


@pytest.mark.parametrize("way", WAYS)
def test_trains_and_is_loaded_again_offline(tmp_path, model, way):
    policy = through(tmp_path, model, **WAYS[way])
    groups = policy.get_optim_params()
    assert len(groups) == (1 if way == "frozen" else 2)
    before = {name: x.clone() for name, x in policy.state_dict().items()}
    optimizer = torch.optim.SGD(groups, lr=0.1)
    policy.train().forward(batch(image=True))[0].backward()
    optimizer.step()
    moved = {name for name, x in policy.state_dict().items() if not torch.equal(x, before[name])}
    projections = {f"conditioned.head.{name}" for name in policy.conditioned.head.projections}
    assert not any(name.startswith("conditioned.head.") for name in moved - projections)
    assert "conditioned.adapter.standard.tokens.mean" in moved, "statistics come from the first batch"
    assert any(name.startswith("encoder.vlm.") for name in moved) == (way != "frozen")
    mean = policy.conditioned.adapter.standard["tokens"].mean.clone()
    policy.forward(batch(image=True))
    assert torch.equal(policy.conditioned.adapter.standard["tokens"].mean, mean)
    policy.save_pretrained(tmp_path / "saved")
    card = section(policy)
    assert f"| vlm | {policy.counts()['vlm'][0]:,} |" in card
    assert model in card
    files.shared.cache_clear()
    again = DAEPolicy.from_pretrained(tmp_path / "saved")
    red, green = batch(image=True), batch(image=True) | {"task": ["lift the green cube"] * 3}
    assert torch.equal(chunk(again, red), chunk(policy, red))
    assert not torch.equal(chunk(again, red), chunk(again, green))
    again.reset()
    assert again.select_action(present(red)).shape == (3, 7)


def test_another_model_and_other_flags_are_refused(tmp_path, model):
    from tiny_processors import saved

    policy = through(tmp_path, model)
    policy.save_pretrained(tmp_path / "saved")
    config = policy.config

    def load(**vlm):
        config.vlm = replace(config.vlm, **{"model": model, "layer": 2} | vlm)
        return DAEPolicy.from_pretrained(tmp_path / "saved", config=config)

    moved = str(shutil.copytree(model, tmp_path / "moved"))
    red = batch(image=True)
    assert torch.equal(chunk(load(model=moved), red), chunk(policy, red))
    with pytest.raises(ValueError, match=r"^--policy.vlm.model: .*the policy was trained with"):
        load(model=saved(tmp_path / "other", "smolvlm", seed=1))
    with pytest.raises(ValueError, match=r"^--policy.vlm.layer=1, but the checkpoint has 2"):
        load(layer=1)
    with pytest.raises(ValueError, match=r"^--policy.vlm.model, .*not in the local cache.*hf download no/body"):
        through(tmp_path, "no/body")
    with pytest.raises(ValueError, match=r"--policy.vlm.prompt.*the batch has none"):
        policy.forward({**red, "task": None})


def episode(policy: DAEPolicy, ticks: int, task: str = "lift the red cube") -> list[tuple[float, float]]:
    """Act for some ticks; tick i shows an image and a state of i / 100. Return the newest of both in every chunk."""
    used, encode, embed = [], policy.encoder.encode, policy.encoder.embed

    def embedding(images, words=None):
        tokens, mask = embed(images, words)
        return torch.full_like(tokens, float(next(iter(images.values()))[0, -1, 0, 0, 0])), mask

    def encoding(images, state, words, tokens=None):
        tokens = embedding(images, words) if tokens is None else tokens
        used.append((round(float(tokens[0][0, 0, 0]), 2), round(float(state[0, -1, 0]), 2)))
        return encode(images, state, words, tokens)

    policy.encoder.embed, policy.encoder.encode = embedding, encoding
    now = present(batch(1, image=True))
    for tick in range(ticks):
        shown = {key: torch.full_like(x, tick / 100) for key, x in now.items() if key.startswith("observation.")}
        policy.select_action(shown | {"task": [task]})
    del policy.encoder.embed, policy.encoder.encode
    return used


def refreshed(folder: Path, model: str, **flags) -> DAEPolicy:
    vlm = VLMConfig(model, 2, dtype="float32")
    return tiny_policy(folder, image=True, vlm=vlm, n_action_steps=2, **flags)


def test_the_embedding_is_renewed_every_few_ticks_beside_the_newest_state(tmp_path, model):
    now = [(0.0, 0.0), (0.02, 0.02), (0.04, 0.04), (0.06, 0.06)]
    assert episode(refreshed(tmp_path, model), 8) == now
    policy = refreshed(tmp_path, model, vlm_refresh=4)
    kept = [(0.0, 0.0), (0.0, 0.02), (0.04, 0.04), (0.04, 0.06)]
    assert episode(policy, 8) == kept
    assert policy.slow.ages.max == 3
    policy.reset()
    assert episode(policy, 8) == kept, "an episode begins with a new embedding"
    policy.reset()
    episode(policy, 2)
    assert episode(policy, 1, "lift the green cube") == [(0.0, 0.0)], "and so do other words"
    policy.save_pretrained(tmp_path / "saved")
    assert DAEPolicy.from_pretrained(tmp_path / "saved").config.vlm_refresh == 4


def test_an_embedding_made_in_the_background_is_not_older_than_allowed(tmp_path, model):
    policy = refreshed(tmp_path, model, vlm_refresh=2, vlm_max_age=3)
    used = episode(policy, 12)
    assert [state for _, state in used] == [0.0, 0.02, 0.04, 0.06, 0.08, 0.1]
    assert all(state - seen < 0.035 for seen, state in used)
    assert policy.slow.ages.max <= 3
    policy.reset()
    assert not policy.slow._thread.running, "the thread ends with the episode"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"vlm_refresh": 0}, r"^--policy.vlm_refresh, --policy.vlm_max_age: every must be at least 1 tick"),
        ({"vlm_refresh": 8, "vlm_max_age": 4}, r"^--policy.vlm_refresh, .*more than max_age=4"),
        ({"vlm_max_age": 4}, r"^--policy.vlm_max_age is 4, which has no effect: no refresh is given"),
        ({"vision": VisionConfig(features=8)}, r"^--policy.vision.features is 8, which has no effect: .*encodes the"),
        ({"lora_rank": 2}, r"^--policy.vlm.lora_rank is 2, which has no effect: it is for LoRA"),
    ],
)
def test_flags_without_effect_beside_a_vlm(tmp_path, model, flags, message):
    vlm = VLMConfig(model, 2, dtype="float32", lora_rank=flags.get("lora_rank", 16))
    with pytest.raises(ValueError, match=message):
        tiny_policy(tmp_path, image=True, vlm=vlm, **{k: v for k, v in flags.items() if k != "lora_rank"})
