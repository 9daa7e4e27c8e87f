"""A flag that has no effect beside the others is refused, and the message names it and says why."""

from __future__ import annotations

from pathlib import Path

import pytest
from recorded import describe, hdf5, tiny
from small import tiny_head

from action_heads._util.flags import option
from action_heads._util.flat import leaves
from action_heads.adapt.run import adapt
from action_heads.adapt.settings import AdaptConfig

NO_IMAGES = {"encoder": "none", "cameras": ()}
SEES = {"vlm": "smolvlm", "vlm_dtype": "float32"}
NO_WORDS = {"vlm": "siglip", "vlm_dtype": "float32"}
NETWORK = {"train_encoder": "frozen", "features": 16, "pool": "cls", "shared": True}
IMAGES = {"resize": (32, 32), "crop": (12, 12), "jitter": 0.1}
TEXT = {name: value for name, value in (("vlm_prompt", "do {task}"), ("vlm_template", "plain"))}
ROLLOUTS = {"episodes": 5, "videos": 1, "execute": 4, "sampler": "euler", "sampling_steps": 4, "simulations": 1}
VLM = {"vlm_layer": (1,), "vlm_select": "text", "vlm_train": "lora", "vlm_dtype": "float32", "vlm_pool": "mean"}
VLM |= {"vlm_revision": "main", "vlm_cache": "off", "vlm_lora_rank": 2, **TEXT}

# What makes a flag ineffective, the flags, and what the message says.
CASES = [
    (NO_IMAGES, NETWORK | IMAGES | {"weights": "imagenet", "stride": 16}, "--encoder is none"),
    (SEES, {"encoder": "resnet18", "features": 16, "pool": "cls", "shared": True}, "smolvlm encodes the images"),
    (SEES, {"encoder": "resnet50", "weights": "imagenet"}, "smolvlm encodes the images"),
    (SEES, {"vlm_lora_rank": 2}, "it is for LoRA"),
    (SEES, {"encoder_lr": 1e-3}, "nothing of the encoder trains"),
    (NO_WORDS, TEXT, "siglip reads no words"),
    ({}, {"pool": "cls"}, "a ResNet are keypoints"),
    ({}, {"text_features": 8}, "no text model is given"),
    ({}, ROLLOUTS, "no task is given"),
    ({}, VLM, "no model is given"),
]
# Flags that have an effect beside any others, or are refused by a check of their own beside those that rule them out.
EFFECTIVE = """
action action_layout adapter batch_size blind cameras checkpoints clip data ema graph gripper head held_out hidden
horizon levels lr mode noise_samples observation_steps out precision prefixes relearn_step save_every schedule seed
start_from state steps task text through vlm warmup weight_decay workers
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    pytest.importorskip("num2words")
    from tiny_processors import saved

    folder = tmp_path_factory.mktemp("ineffective")
    describe(hdf5(folder / "demos.hdf5", episodes=1))
    tiny_head("mlp").save_pretrained(folder / "head")
    for name in ("smolvlm", "siglip"):
        saved(folder / name, name)
    return folder


@pytest.mark.parametrize(
    ("others", "name", "value", "why"),
    [(others, name, value, why) for others, flags, why in CASES for name, value in flags.items()],
)
def test_a_flag_without_effect_is_refused(place, others, name, value, why):
    others = others | ({"vlm": str(place / others["vlm"])} if "vlm" in others else {})
    changes = {"features": 64, **others, name: value}
    with pytest.raises(ValueError, match=rf"^{option(name)}\b.*no effect.*{why}.*(Leave it out|Name one)"):
        adapt(tiny(place, **changes))


def test_every_flag_is_covered():
    ruled_out = {name for _, flags, _ in CASES for name in flags}
    assert ruled_out | {*EFFECTIVE.split()} == {*leaves(AdaptConfig)}
    assert not ruled_out & {*EFFECTIVE.split()}
