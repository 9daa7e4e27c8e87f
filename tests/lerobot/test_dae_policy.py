"""The head stays frozen, saved policies load without other files, and LeRobot's calls work."""

from __future__ import annotations

import json
from contextlib import nullcontext, suppress
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace

import draccus
import numpy as np
import pytest
import torch
from lerobot.configs import FeatureType, PolicyFeature, PreTrainedConfig
from lerobot.policies import PreTrainedPolicy
from lerobot.policies.factory import get_policy_class, make_pre_post_processors
from lerobot.rollout.inference.rtc import supports_rtc_inference
from lerobot.utils.constants import ACTION, OBS_ENV_STATE, OBS_STATE
from safetensors.torch import load_file, save_file
from small import tiny_head
from tiny_models import text_model, vision_model
from tiny_policy import STATS, batch, chunk, features, head_folder, meta, present, tiny_policy

from action_heads import WeightFileError
from action_heads.adapters import AdapterConfig
from action_heads.diffusion.levels import NoiseConfig
from action_heads.encoders import TextConfig, VisionConfig, VLMConfig
from action_heads.io import files, hub
from action_heads.observed_policy import ObservedPolicy
from lerobot_policy_dae import DAEConfig, DAEPolicy

WEIGHTS = "model.safetensors"


def trained(policy: DAEPolicy, steps: int = 2, **options) -> DAEPolicy:
    optimizer = policy.config.get_optimizer_preset().build(policy.get_optim_params())
    for _ in range(steps):
        policy.train()
        loss, _ = policy(batch(**options))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return policy


def optimised(policy: DAEPolicy) -> list[torch.Tensor]:
    return [p for group in policy.get_optim_params() for p in group["params"]]


@pytest.fixture
def no_look_ups(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError(f"looked for {args}")

    return lambda: monkeypatch.setattr(hub, "find", refuse)


MODES = [
    {"head_mode": "decoupled"},
    {"head_mode": "random-frozen"},
    {"head_mode": "normal"},
    {"horizon": 8},
    {"relearn_step": True},
    {"adapter": "film", "action_layout": "pose_euler"},  # what the tiny head makes: nothing is reshaped
]


@pytest.mark.parametrize("flags", MODES, ids=str)
def test_reload_is_exact_and_offline(flags, tmp_path, no_look_ups):
    policy = tiny_policy(tmp_path, **flags)
    policy.save_pretrained(tmp_path / "saved")
    no_look_ups()
    again = DAEPolicy.from_pretrained(tmp_path / "saved", dataset_stats=None)
    assert torch.equal(chunk(again, batch()), chunk(policy, batch()))
    assert again.counts() == policy.counts()
    assert again.config.built == policy.config.built


@pytest.mark.parametrize("flags", MODES, ids=str)
def test_only_what_is_declared_trains(flags, tmp_path):
    """Only declared parameters change in training by LeRobot's calls, also after loading and training again."""
    policy = tiny_policy(tmp_path, **flags)
    policy.requires_grad_(False).requires_grad_(True)
    options = {"horizon": policy.config.chunk()}
    head = policy.conditioned.head
    frozen = {name: x.clone() for name, x in head.state_dict().items() if name not in head.projections}
    before = [p.detach().clone() for p in optimised(policy)]
    trained(policy, **options).save_pretrained(tmp_path / "saved")
    again = DAEPolicy.from_pretrained(tmp_path / "saved")
    trained(again, **options)
    same = all(torch.equal(x, again.conditioned.head.state_dict()[name]) for name, x in frozen.items())
    assert same == (flags.get("head_mode") != "normal")
    assert any(not torch.equal(a, b) for a, b in zip(before, optimised(again), strict=True))
    assert again.train().conditioned.head.training == (not same)


@pytest.mark.parametrize("key", ["conditioned.head.backbone.blocks.0.up.weight", "conditioned.own_normalizer.scale"])
def test_an_incomplete_checkpoint_is_refused(key, tmp_path):
    """An incomplete checkpoint is refused, although LeRobot asks for strict=False."""
    tiny_policy(tmp_path).save_pretrained(tmp_path / "saved")
    tensors = load_file(tmp_path / "saved" / WEIGHTS)
    del tensors[key]
    save_file(tensors, tmp_path / "saved" / WEIGHTS)
    with pytest.raises(WeightFileError, match=key):
        DAEPolicy.from_pretrained(tmp_path / "saved", strict=False)


def test_another_head_in_a_checkpoint_is_refused(tmp_path):
    tiny_policy(tmp_path).save_pretrained(tmp_path / "saved")
    tensors = load_file(tmp_path / "saved" / WEIGHTS)
    tensors["conditioned.head.backbone.blocks.0.up.weight"][0, 0] += 1e-3
    save_file(tensors, tmp_path / "saved" / WEIGHTS)
    with pytest.raises(WeightFileError, match="damaged"):
        DAEPolicy.from_pretrained(tmp_path / "saved")


def test_a_head_of_the_present_is_not_that_of_the_past(tmp_path):
    """A config that records a head but has no weights starts a new policy on the pretrained head."""
    policy = tiny_policy(tmp_path)
    policy.config.save_pretrained(tmp_path / "config")
    config = PreTrainedConfig.from_pretrained(tmp_path / "config")
    new = DAEPolicy(config, STATS)
    assert new.conditioned.head.original.fingerprint() == policy.conditioned.head.original.fingerprint()
    assert new.conditioned.head.frozen


def test_fine_tuning_keeps_the_statistics(tmp_path):
    policy = tiny_policy(tmp_path)
    policy.save_pretrained(tmp_path / "saved")
    wider = {ACTION: {name: np.array([3, 3, 3, 1, 1, 1, 1]) * x for name, x in STATS[ACTION].items()}}
    again = DAEPolicy.from_pretrained(tmp_path / "saved", dataset_stats=wider, dataset_meta=meta())
    assert torch.equal(again.conditioned.normalizer.scale, policy.conditioned.normalizer.scale)


@pytest.mark.parametrize(
    ("column", "low", "high", "said"),
    [
        (6, 0.0, 255.0, r"--policy\.gripper: column 6, the gripper, runs from 0 to 255 but"),
        (0, np.nan, 1.0, r"hold NaN or infinity in dimension 0"),
        (4, -30.0, 1.0, r"--policy\.action_layout: dimension 4 .* reaches 30"),
    ],
)
def test_fine_tuning_checks_the_actions_as_training_does(column, low, high, said, tmp_path):
    policy = tiny_policy(tmp_path)
    policy.save_pretrained(tmp_path / "saved")
    stats = {name: x.copy() for name, x in STATS[ACTION].items()}
    stats["min"][column], stats["max"][column] = low, high
    for made in (
        lambda: DAEPolicy.from_pretrained(tmp_path / "saved", dataset_stats={ACTION: stats}, dataset_meta=meta()),
        lambda: DAEPolicy(policy.config, {ACTION: stats}),
    ):
        with pytest.raises(ValueError, match=said):
            made()


def test_fine_tuning_on_another_gripper_warns(tmp_path, caplog):
    tiny_policy(tmp_path).save_pretrained(tmp_path / "saved")
    DAEPolicy.from_pretrained(tmp_path / "saved", dataset_stats=STATS, dataset_meta=meta())
    assert "convention" not in caplog.text
    stats = {name: x.copy() for name, x in STATS[ACTION].items()}
    stats["min"][6] = 0
    DAEPolicy.from_pretrained(tmp_path / "saved", dataset_stats={ACTION: stats}, dataset_meta=meta())
    assert "another convention: column 6, the gripper, runs from 0 to 1" in caplog.text


def test_fine_tuning_on_columns_in_another_order_is_refused(tmp_path):
    names = [f"joint_{i}.pos" for i in range(6)]
    policy = tiny_policy(tmp_path, action_layout="joints_6")
    policy.save_pretrained(tmp_path / "saved")
    data = meta()
    data.features[ACTION]["names"] = [*names, "gripper.pos"]
    DAEPolicy.from_pretrained(tmp_path / "saved", dataset_stats=STATS, dataset_meta=data)
    data.features[ACTION]["names"] = ["gripper.pos", *names]
    with pytest.raises(ValueError, match=r"--policy\.action_layout: .*gripper at column 6, but .* say column 0"):
        DAEPolicy.from_pretrained(tmp_path / "saved", dataset_stats=STATS, dataset_meta=data)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ({"delta_x": 0, "delta_y": 1, "delta_z": 2, "gripper": 3}, r"4 columns \(delta_x, delta_y, delta_z, gripper\)"),
        *((odd, r"4 columns, and their meaning is not known") for odd in ({}, [["a", "b"]], [None] * 4, "xyzg")),
    ],
)
def test_names_as_teleoperators_write_them(names, said, tmp_path):
    data = meta()
    data.features[ACTION]["names"] = names
    config = DAEConfig(head=head_folder(tmp_path), device="cpu", **features(action=4))
    with pytest.raises(ValueError, match=said):
        DAEPolicy(config, STATS, data)


def test_names_by_arm(tmp_path):
    data = meta()
    arm = [*[f"joint_{i}" for i in range(6)], "gripper"]
    data.features[ACTION]["names"] = {"left": arm, "right": arm}
    config = DAEConfig(head=head_folder(tmp_path), device="cpu", **features(action=14))
    stats = {ACTION: {"min": np.full(14, -1.0), "max": np.ones(14)}}
    assert str(DAEPolicy(config, stats, data).layout) == "joint:6 gripper joint:6 gripper"


def test_a_policy_that_was_rounded_is_not_saved(tmp_path):
    """Its head could not be told from a damaged one, so the file could never be loaded."""
    for dtype in (torch.float16, torch.bfloat16):
        policy = tiny_policy(tmp_path).to(dtype)
        with pytest.raises(ValueError, match="Save the policy before it is cast"):
            policy.save_pretrained(tmp_path / "rounded")
        assert not (tmp_path / "rounded" / "model.safetensors").exists()
    tiny_policy(tmp_path).double().save_pretrained(tmp_path / "exact")
    DAEPolicy.from_pretrained(tmp_path / "exact")


def test_another_flag_on_reload_is_an_error(tmp_path):
    tiny_policy(tmp_path).save_pretrained(tmp_path / "saved")
    config = PreTrainedConfig.from_pretrained(tmp_path / "saved", cli_overrides=["--adapter=film"])
    with pytest.raises(ValueError, match=r"--policy\.adapter='film', but the checkpoint has 'adaln_zero'"):
        DAEPolicy.from_pretrained(tmp_path / "saved", config=config)


def test_flags_that_may_change(tmp_path):
    tiny_policy(tmp_path).save_pretrained(tmp_path / "saved")
    config = PreTrainedConfig.from_pretrained(tmp_path / "saved", cli_overrides=["--num_inference_steps=2"])
    assert DAEPolicy.from_pretrained(tmp_path / "saved", config=config).sampling.steps == 2


def test_lerobot_weights_samples(tmp_path):
    """LeRobot's training step takes a loss for each sample. Weights of 0 and 2 leave only the second one."""
    from lerobot.scripts.lerobot_train import update_policy

    weights = torch.tensor([0.0, 2.0])
    accelerator = SimpleNamespace(
        autocast=nullcontext,
        backward=lambda loss: loss.backward(),
        clip_grad_norm_=torch.nn.utils.clip_grad_norm_,
        unwrap_model=lambda policy, **_: policy,
    )
    weighter = SimpleNamespace(compute_batch_weights=lambda batch: (weights, {}))
    policy, metrics = tiny_policy(tmp_path), SimpleNamespace()
    nothing = torch.optim.SGD(policy.get_optim_params(), lr=0.0)
    update_policy(metrics, policy, batch(2), nothing, 1.0, accelerator, sample_weighter=weighter)
    policy.config.noise_step = 0
    each, _ = policy.train().forward(batch(2), reduction="none")
    assert metrics.loss == pytest.approx(each[1].item(), rel=1e-5)
    assert metrics.loss != pytest.approx(each[0].item(), rel=1e-3)
    assert policy.config.chunk_size == 16, "LeRobot's RA-BC weights read it"


def test_weights_are_passed_on_only_if_there_are_any(tmp_path, monkeypatch):
    """LeRobot after 0.6.1 saves without an argument for weights."""
    policy, given = tiny_policy(tmp_path), []
    monkeypatch.setattr(PreTrainedPolicy, "_save_pretrained", lambda self, folder, *weights: given.append(weights))
    policy._save_pretrained(tmp_path)
    policy._save_pretrained(tmp_path, weights := policy.state_dict())
    assert given == [(), (weights,)]


# ── acting ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_settings_of_acting_may_change_until_reset(tmp_path):
    policy = tiny_policy(tmp_path, n_action_steps=8)
    policy.config.n_action_steps, policy.config.num_inference_steps = 1, 2
    policy.reset()
    for _ in range(3):
        assert policy.executor.due
        policy.select_action(present(batch()))
    assert policy.executor.sampling["steps"] == 2


def test_an_observation_may_be_overwritten(tmp_path):
    """A loop of the user's own may fill one array in every tick."""
    policy, state = tiny_policy(tmp_path), np.zeros((1, 4), np.float32)
    for value in range(2):
        state[:] = value
        policy.observations.add({OBS_STATE: torch.from_numpy(state)})
    assert policy.observations.stacked({})[OBS_STATE][0, :, 0].tolist() == [0.0, 1.0]


def test_a_chunk_every_few_ticks(tmp_path):
    policy, now = tiny_policy(tmp_path, n_action_steps=4), present(batch())
    torch.manual_seed(0)
    actions = [policy.select_action(now) for _ in range(5)]
    assert torch.allclose(torch.stack(actions[:4], 1), chunk(policy, now)[:, :4])  # the first observation is repeated
    assert not torch.allclose(actions[4], chunk(policy, now)[:, 4])
    policy.reset()
    torch.manual_seed(0)
    assert torch.equal(policy.select_action(now), actions[0])


def test_acting_sees_the_steps_that_training_saw(tmp_path):
    policy, both = tiny_policy(tmp_path, n_action_steps=1), batch()
    first = {key: x[:, 0] if key.startswith("observation.") else x for key, x in both.items() if key != ACTION}
    policy.select_action(first)
    torch.manual_seed(0)
    assert torch.allclose(policy.select_action(present(both)), chunk(policy, both)[:, 0])


def test_acting_does_not_disturb_training(tmp_path):
    policy = tiny_policy(tmp_path)
    with torch.inference_mode():
        policy.select_action(present(batch()))
    trained(policy)


@pytest.mark.parametrize("layout", ["libero", "pose_euler"])  # with projections of its own, and as the head is
def test_acting_compiled(tmp_path, layout):
    """Compiled chunks equal eager ones before training, after it and after loading. Checkpoints contain no more."""
    wide = str(tiny_head("mixer", width=64, depth=1).save_pretrained(tmp_path / "wide"))
    flags = {"head": wide, "action_layout": layout, "hidden_dim": 64}
    plain, fast = (tiny_policy(tmp_path, compile=method, **flags) for method in (None, "auto"))
    for _ in range(2):
        torch.testing.assert_close(chunk(fast, batch()), chunk(plain, batch()), rtol=1e-4, atol=1e-5)
        assert fast.acting is not fast.conditioned
        for policy in (plain, fast):
            torch.manual_seed(1)
            trained(policy).eval()
    assert fast.state_dict().keys() == plain.state_dict().keys()
    fast.save_pretrained(tmp_path / "saved")
    torch.testing.assert_close(chunk(DAEPolicy.from_pretrained(tmp_path / "saved"), batch()), chunk(fast, batch()))
    with pytest.raises(ValueError, match="'fast' is unknown; choose one of auto, native"):
        tiny_policy(tmp_path, compile="fast")


def test_real_time_chunking(tmp_path):
    """What is left of a chunk is committed without LeRobot's padding, whose zeros are no quaternions."""
    policy = tiny_policy(tmp_path, "mixer", prefixes=True, n_obs_steps=1)
    assert supports_rtc_inference(policy)
    now, left = present(batch(1)), chunk(policy, batch(1, steps=1))[0, 8:]
    padded = torch.cat([left[:5], torch.zeros(5, 7)])
    new = policy.predict_action_chunk(now, inference_delay=3, prev_chunk_left_over=padded)
    assert torch.equal(new[0, :3], left[:3])
    assert new.isfinite().all()
    assert not supports_rtc_inference(tiny_policy(tmp_path, "mlp"))
    assert not supports_rtc_inference(tiny_policy(tmp_path, "mixer"))  # Without the training its chunks would jump.
    assert not supports_rtc_inference(tiny_policy(tmp_path, "mixer", prefixes=True, n_obs_steps=2))


# ── what LeRobot asks for ────────────────────────────────────────────────────────────────────────────────────────────


def test_lerobot_finds_it_by_its_names(tmp_path):
    import lerobot_policy_dae

    assert lerobot_policy_dae.DAEPolicy is get_policy_class("dae") is DAEPolicy
    config = tiny_policy(tmp_path).config
    before, after = make_pre_post_processors(config, dataset_stats=None)
    steps = [*before.get_config()["steps"], *after.get_config()["steps"]]
    names = [
        step.get("registry_name") or step["class"].rsplit(".", 1)[1] for step in steps
    ]  # as its commands name them
    wanted = {"rename_observations_processor", "device_processor", "normalizer_processor", "unnormalizer_processor"}
    assert wanted <= set(names)


def test_flags_are_parsed():
    flags = ["--text.model=words", "--vision.crop=[84,76]", "--cameras=[observation.images.a]", "--gripper=[0,1]"]
    config = draccus.parse(DAEConfig, args=[*flags, "--device=cpu", "--through=code"])
    assert config.text == TextConfig(model="words")
    assert config.vision == VisionConfig(crop=(84, 76))
    assert (config.cameras, config.gripper, config.through) == (["observation.images.a"], (0.0, 1.0), "code")


def test_two_learning_rates(tmp_path):
    eyes = VisionConfig(backbone=vision_model("vit", tmp_path / "vit"))
    policy = tiny_policy(tmp_path, image=True, vision=eyes, optimizer_encoder_lr=1e-5)
    optimizer = policy.config.get_optimizer_preset().build(policy.get_optim_params())
    assert [group["lr"] for group in optimizer.param_groups] == [policy.config.optimizer_lr, 1e-5]
    assert set(optimised(policy)) == {p for p in policy.parameters() if p.requires_grad}


def test_cameras_and_language_are_reloaded(tmp_path, no_look_ups, monkeypatch):
    """A loaded policy encodes the descriptions of the dataset's tasks without loading either pretrained model again."""
    text = TextConfig(model=text_model(tmp_path / "text"))
    eyes = VisionConfig(backbone=vision_model("vit", tmp_path / "vit"))
    known = meta("lift the cube", "stack the cube")
    policy = tiny_policy(tmp_path, image=True, vision=eyes, text=text, dataset_meta=known)
    policy.save_pretrained(tmp_path / "saved")
    no_look_ups()
    monkeypatch.setattr("transformers.AutoModel.from_pretrained", None)
    monkeypatch.setattr("transformers.AutoConfig.from_pretrained", None)
    again = DAEPolicy.from_pretrained(tmp_path / "saved")
    lift, stack = batch(image=True), batch(image=True) | {"task": ["stack the cube"] * 3}
    assert torch.equal(chunk(again, lift), chunk(policy, lift))
    assert not torch.allclose(chunk(again, lift), chunk(again, stack))


def test_peft_trains_its_own_weights_alone_and_is_reloaded(tmp_path):
    peft = pytest.importorskip("peft")
    policy = tiny_policy(tmp_path)
    policy.save_pretrained(tmp_path / "base")
    policy.config.pretrained_path = tmp_path / "base"
    wrapped = policy.wrap_with_peft(peft_cli_overrides={"method_type": "LORA", "r": 2})
    wrapped.train()
    wrapped.forward(batch())[0].backward()
    moved = {name for name, p in wrapped.named_parameters() if p.grad is not None}
    assert moved
    assert all("lora_" in name and "adapter" in name for name in moved)
    with torch.no_grad():
        for name, p in wrapped.named_parameters():
            p.add_(0.1 * ("lora_" in name))
    wrapped.save_pretrained(tmp_path / "peft")
    again = peft.PeftModel.from_pretrained(DAEPolicy.from_pretrained(tmp_path / "base"), tmp_path / "peft")
    assert torch.equal(chunk(again.base_model.model, batch()), chunk(policy, batch()))
    assert again.base_model.model.conditioned.head.frozen


def test_peft_may_train_a_copy_of_the_encoder(tmp_path):
    """`--peft.full_training_modules` replaces the encoder, and the condition comes from the new one."""
    pytest.importorskip("peft")
    eyes = VisionConfig(backbone=vision_model("vit", tmp_path / "vit"))
    policy = tiny_policy(tmp_path, image=True, vision=eyes)
    policy.save_pretrained(tmp_path / "base")
    policy.config.pretrained_path = tmp_path / "base"
    assert chunk(policy, batch(image=True)).isfinite().all()  # it has acted with the encoder that is replaced
    whole = {"method_type": "LORA", "r": 2, "full_training_modules": ["encoder"]}
    wrapped = policy.wrap_with_peft(peft_cli_overrides=whole).train()
    wrapped.forward(batch(image=True))[0].backward()
    copied = [p for name, p in wrapped.named_parameters() if "encoder.modules_to_save" in name and p.requires_grad]
    assert copied
    assert all(p.grad is not None for p in copied)


@pytest.mark.parametrize("image", [False, True])
def test_it_is_an_observed_policy(image, tmp_path):
    """The `ObservedPolicy` samples the same chunks, and its contract can hide the observations."""
    vision = VisionConfig(features=8, resize=(48, 48)) if image else VisionConfig()
    policy = tiny_policy(tmp_path, image=image, vision=vision, n_obs_steps=1)
    observed = policy.observed
    assert observed.contract.state == ("observation.state",)
    assert observed.contract.sizes == ({"observation.image": (32, 32)} if image else {})
    one, other = batch(image=image, steps=1), batch(image=image, steps=1)
    other = {key: 1 - x if key in (policy.config.cameras or [OBS_STATE]) else x for key, x in other.items()}
    inputs = [policy.observations.inputs(observations) for observations in (one, other)]
    torch.manual_seed(0)
    assert torch.equal(observed.sample(*inputs[0]), chunk(policy, one))
    blind = ObservedPolicy(policy.encoder, policy.conditioned, replace(observed.contract, blind=True))
    assert not torch.equal(*[observed.condition(*given) for given in inputs])
    assert torch.equal(*[blind.condition(*given) for given in inputs])


def test_the_card_counts(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.ModelCard.validate", lambda self: None)  # asks the Hub
    policy = tiny_policy(tmp_path)
    text = str(policy.generate_model_card("me/data", "dae", None, None))
    frozen, learned = policy.counts()["head"]
    assert f"| head | {frozen:,} | {learned:,} |" in text
    assert f"| adapter | 0 | {policy.counts()['adapter'][1]:,} |" in text
    assert "library_name: lerobot" in text


@pytest.mark.parametrize("image", [False, True])
@pytest.mark.parametrize("given", [None, False, True])
def test_with_cameras_the_poses_of_objects_are_not_seen_unless_asked_for(image, given, tmp_path):
    """`observation.environment_state`, which only a simulation has, is not used with cameras unless asked for."""
    flags = features(image=image)
    flags["input_features"][OBS_ENV_STATE] = PolicyFeature(FeatureType.ENV, (5,))
    vision = VisionConfig(features=8, resize=(48, 48)) if image else VisionConfig()
    policy = tiny_policy(tmp_path, environment_state=given, n_obs_steps=1, vision=vision, **flags)
    sees = not image if given is None else given
    assert (OBS_ENV_STATE in policy.config.input_features) == sees
    assert policy.encoder.config.state_dim == (9 if sees else 4)
    before = present(batch(image=image, steps=1)) | {OBS_ENV_STATE: torch.zeros(3, 5)}
    other = before | {OBS_ENV_STATE: torch.ones(3, 5)}
    assert torch.equal(chunk(policy, before), chunk(policy, other)) != sees
    policy.save_pretrained(tmp_path / "saved")
    again = DAEPolicy.from_pretrained(tmp_path / "saved")
    assert torch.equal(chunk(again, before), chunk(policy, before))


def test_a_checkpoint_that_was_changed_is_refused(tmp_path, caplog):
    """A checkpoint is refused after any change of a weight or dtype, also in the trained part."""
    policy = tiny_policy(tmp_path, n_obs_steps=1)
    folder = tmp_path / "saved"
    policy.save_pretrained(folder)
    file, whole = folder / "model.safetensors", (folder / "model.safetensors").read_bytes()
    begin = 8 + int.from_bytes(whole[:8], "little")
    for at in range(begin, len(whole), len(whole) // 40):
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(WeightFileError):
            DAEPolicy.from_pretrained(folder)
    file.write_bytes(whole.replace(b'"F32"', b'"I32"', 1))
    with pytest.raises(WeightFileError):
        DAEPolicy.from_pretrained(folder)
    file.write_bytes(whole)
    config = json.loads((folder / "config.json").read_text())
    config["built"]["head"]["config"]["objective"]["clip"] = 2.0
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(WeightFileError):
        DAEPolicy.from_pretrained(folder)
    config["built"]["head"]["config"]["objective"]["clip"] = 1.0
    del config["built"]["fingerprint"]
    (folder / "config.json").write_text(json.dumps(config))
    DAEPolicy.from_pretrained(folder)
    assert "before checkpoints had a fingerprint" in caplog.text


def test_a_checkpoint_of_before_loads_and_is_written_as_it_was(tmp_path, caplog):
    """A checkpoint of an earlier release loads without a warning and is saved with the same content and fingerprint."""
    before = Path(__file__).parents[1] / "data" / "sealed" / "lerobot"
    policy = DAEPolicy.from_pretrained(before)
    assert "fingerprint" not in caplog.text
    policy.save_pretrained(tmp_path)
    old, new = (json.loads((folder / "config.json").read_text())["built"] for folder in (before, tmp_path))
    assert old == new
    old, new = (load_file(folder / WEIGHTS) for folder in (before, tmp_path))
    assert old.keys() == new.keys()
    assert all(torch.equal(old[name], new[name]) for name in old)


def test_a_config_of_the_release_before_is_read_and_written_as_it_was(tmp_path):
    before = files.read_json(Path(__file__).parents[1] / "data/settings/dae_config.json")
    (tmp_path / "config.json").write_text(json.dumps(before))
    config = PreTrainedConfig.from_pretrained(tmp_path)
    assert isinstance(config, DAEConfig)
    config.check_unchanged()
    assert config.noise == NoiseConfig("beta", 2)
    assert config.adapter_config == AdapterConfig("adaln_zero", hidden_dim=8, relearn_step=True, through="both")
    config.save_pretrained(tmp_path / "again")
    assert files.read_json(tmp_path / "again" / "config.json") == before


def test_a_value_that_counts_as_false_is_reloaded(tmp_path):
    """0 ticks, False and no cameras are values, which differ from the default of some flags."""
    false = {"int": 0, "float": 0.0, "bool": False, "list[str]": []}
    vlm = {"vlm": VLMConfig("org/vlm"), "vlm_refresh": 1}
    tried = set()
    for item in fields(DAEConfig):
        if (value := false.get(str(item.type).removesuffix(" | None"))) is None:
            continue
        with suppress(ValueError):  # Not every flag may be 0.
            config = DAEConfig(**(vlm if item.name == "vlm_max_age" else {}) | {item.name: value})
            config.save_pretrained(tmp_path)
            assert getattr(PreTrainedConfig.from_pretrained(tmp_path), item.name) == value
            tried.add(item.name)
    assert {"vlm_max_age", "remember", "noise_step", "head_seed", "state", "cameras"} <= tried
