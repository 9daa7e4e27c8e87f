"""A run on cached outputs of a frozen encoder equals one that encodes the images, and encodes none of them twice."""

from __future__ import annotations

import shutil
from typing import Any

import numpy as np
import pytest
import torch
from recorded import LENGTH, SIZE, hdf5, tiny
from safetensors.torch import load_file, save_file
from small import generator

from action_heads.adapt import build, cached
from action_heads.adapt.run import adapt
from action_heads.adapt.trainer import Trainer
from action_heads.encoders import ObservationEncoder
from action_heads.observed_policy import ObservedPolicy


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ACTION_HEADS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "features"


@pytest.fixture
def encoded(monkeypatch) -> list[int]:
    """Return a list that grows by the number of images of every pass of a vision network."""
    counts, run = [], ObservationEncoder.backbone
    monkeypatch.setattr(
        ObservationEncoder, "backbone", lambda self, images: counts.append(len(images[0])) or run(self, images)
    )
    return counts


@pytest.fixture(scope="module")
def convnet(tmp_path_factory) -> str:
    """Return the folder of a small convolutional model with maps of stride 4, 8, 16 and 32."""
    import transformers as tr

    folder = tmp_path_factory.mktemp("convnet")
    torch.manual_seed(1)
    tr.ConvNextModel(tr.ConvNextConfig(hidden_sizes=[4, 6, 8, 8], depths=[1] * 4, image_size=32)).save_pretrained(
        folder
    )
    tr.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("pool", ["mean", "cls", "keypoints", "spatial_softmax"])
def test_cached_outputs_train_the_same_weights(folder, vit, pool):
    """Float32 outputs give the same condition as the images. Maps differ by their rounding to 16 bits."""
    losses = {}
    for how in ("frozen", "cached"):
        config = tiny(folder, encoder=vit, train_encoder=how, pool=pool, features=64 if pool == "keypoints" else 8)
        trainer = Trainer(config)
        noise = generator()
        batch = next(trainer.coming())
        losses[how] = trainer.policy.loss(batch, [""] * 8, generator=noise)
    torch.testing.assert_close(
        losses["cached"], losses["frozen"], rtol=1e-3 if pool == "spatial_softmax" else 1e-6, atol=0
    )


@pytest.mark.parametrize("how", ["cached", "frozen"])
def test_images_are_encoded_on_the_device_that_trains(folder, vit, how, monkeypatch):
    devices, on = [], build.encoding_on
    monkeypatch.setattr(build, "encoding_on", lambda device, encoder: devices.append(device) or on(device, encoder))
    trainer = Trainer(tiny(folder, encoder=vit, train_encoder=how, pool="keypoints", features=64))
    assert devices == [trainer.accelerator.device]


@pytest.mark.gpu
def test_a_gpu_gives_the_outputs_of_the_cpu(folder, vit, cache, monkeypatch):
    devices, run = set(), ObservationEncoder.backbone
    monkeypatch.setattr(
        ObservationEncoder, "backbone", lambda self, images: devices.add(images[0].device.type) or run(self, images)
    )
    config = tiny(folder, encoder=vit, train_encoder="cached", pool="keypoints", features=64)
    expected = build.build(config).windows.outputs["agentview"][:]
    shutil.rmtree(cache)
    policy, windows, *_ = build.build(config, "cuda")
    assert devices == {"cpu", "cuda"}
    assert policy.device.type == "cpu"
    torch.testing.assert_close(windows.outputs["agentview"][:], expected, rtol=1e-3, atol=1e-3)


def test_another_run_and_another_recording_encode_nothing_again(folder, vit, encoded, cache, capsys):
    settings = {"encoder": vit, "train_encoder": "cached", "cameras": ()}
    adapt(tiny(folder, **settings))
    images = 2 * sum(12 + i for i in range(6))  # two cameras
    assert f"{images} images, 16 each" in capsys.readouterr().out
    example = 1 + 2  # blank images of both cameras at once, to check them, and one of each, for the size
    assert sum(encoded) == images + example
    encoded.clear()
    hdf5(folder / "fewer.hdf5", episodes=3)
    adapt(
        tiny(folder, **settings, out=folder / "other", data=f"robomimic:{folder / 'fewer.hdf5'}", pool="mean", seed=5)
    )
    assert sum(encoded) == example
    assert len(list(cache.iterdir())) == 2  # a file for each camera


def test_an_interrupted_run_keeps_what_it_encoded(folder, vit, encoded, monkeypatch):
    monkeypatch.setattr(cached, "AT_ONCE", 8)
    whole = ObservationEncoder.outputs_of

    def failing(encoder, images):
        if sum(encoded) > 20:
            raise KeyboardInterrupt
        return whole(encoder, images)

    monkeypatch.setattr(ObservationEncoder, "outputs_of", failing)
    config = tiny(folder, encoder=vit, train_encoder="cached")
    with pytest.raises(KeyboardInterrupt):
        Trainer(config)
    kept = sum(encoded) - 2  # a blank image to check it, and one for the size
    encoded.clear()
    monkeypatch.setattr(ObservationEncoder, "outputs_of", whole)
    Trainer(config)
    assert kept == 24
    assert sum(encoded) - 2 == sum(12 + i for i in range(6)) - kept


def test_other_weights_strides_and_sizes_have_other_keys(convnet, vit):
    from action_heads.encoders import ObservationConfig, VisionConfig

    def identity(backbone=convnet, **changes):
        vision = VisionConfig(backbone, train=False, **changes)
        return ObservationEncoder(ObservationConfig(("front",), vision=vision)).identity()

    kinds = [
        {},
        {"stride": 16},
        {"stride": 8},
        {"pool": "keypoints", "stride": 8},
        {"resize": (16, 16)},
        {"pool": "spatial_softmax"},
    ]
    found = [identity(**kind) for kind in kinds] + [identity(vit)]
    assert len({*found}) == len(found)
    assert identity(features=12) == identity(), "the cached output is the one before the trained layers"


def test_the_policy_acts_on_images_by_standardised_keypoints(folder, convnet):
    config = tiny(
        folder, encoder=convnet, train_encoder="cached", pool="keypoints", stride=8, features=64, observation_steps=1
    )
    policy = adapt(config)
    assert isinstance(policy, ObservedPolicy)
    assert policy.encoder.features == 12
    assert policy.encoder.num_trainable == 0
    trainer = Trainer(tiny(folder, **vars(config.vision) | {"out": folder / "again", "observation_steps": 1}))
    assert trainer.windows.outputs is not None
    outputs = trainer.windows.outputs["agentview"][trainer.windows.rows]
    mean, std = (policy.policy.adapter.standard.get_buffer(name)[:12] for name in ("mean", "std"))
    torch.testing.assert_close(mean, outputs.mean(0))
    assert ((outputs - mean) / std).std(0).max() < 1.5
    image = {"agentview": torch.rand(2, 1, 3, 16, 16)}
    assert policy.sample(image, torch.zeros(2, 1, 4), steps=2, generator=generator()).shape[0] == 2


def test_outputs_of_some_rows_are_those_of_all(folder, vit, monkeypatch):
    monkeypatch.setattr(cached, "READ", 5)
    trainer = Trainer(tiny(folder, encoder=vit, train_encoder="cached", cameras=()))
    encoder, recording = trainer.policy.encoder.train(), trainer.windows.recording
    rows = np.array([0, 4, 5, 11, 12, 40, 41, int(recording.lengths.sum()) - 1])
    some = cached.some_outputs(encoder, recording, rows, blind=False)
    assert encoder.training
    assert trainer.windows.outputs is not None
    for camera in encoder.cameras:
        torch.testing.assert_close(some[camera], trainer.windows.outputs[camera][rows])


def test_keypoints_of_an_encoder_that_trains_are_not_standardised(folder, vit):
    trainer = Trainer(tiny(folder, encoder=vit, train_encoder="trained", pool="keypoints", features=64, state=()))
    standard: Any = trainer.policy.policy.adapter.standard
    assert (standard.mean == 0).all()
    assert (standard.std == 1).all()


def test_a_blind_run_without_a_cache_encodes_one_grey_image_of_a_camera(folder, vit, encoded):
    Trainer(tiny(folder, encoder=vit, train_encoder="frozen", pool="keypoints", features=64, blind=True))
    assert sum(encoded) == 2, "a grey image of each camera"


def test_a_blind_run_reads_grey_images(folder, vit, encoded):
    trainer = Trainer(tiny(folder, encoder=vit, train_encoder="cached", blind=True))
    assert sum(encoded) == 3, "two blank images for checks, and a single grey image"
    batch = next(trainer.coming())
    state = batch["state"]
    seen = trainer.policy.condition({"agentview": torch.rand(8, *state.shape[1:2], 3, 16, 16)}, state)
    torch.testing.assert_close(trainer.policy.encode(state=state, outputs=batch["outputs"])[0], seen)


def test_random_crops_and_full_disks_are_refused(folder, vit, monkeypatch):
    with pytest.raises(ValueError, match=r"--crop.*one output per image.*--train-encoder frozen"):
        tiny(folder, encoder=vit, train_encoder="cached", crop=(8, 8))
    monkeypatch.setattr(cached.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 10}))
    with pytest.raises(ValueError, match=r"--train-encoder.*need 0.0 MB.*set ACTION_HEADS_CACHE to another disk"):
        Trainer(tiny(folder, encoder=vit, train_encoder="cached"))


def test_changed_images_sizes_and_encoders_are_encoded_anew(folder, vit, encoded, tmp_path):
    images, example = sum(12 + i for i in range(6)), 1 + 1
    settings = {"encoder": vit, "train_encoder": "cached"}
    Trainer(tiny(folder, **settings))
    encoded.clear()
    hdf5(folder / "changed.hdf5", 1, agentview_image=np.zeros((LENGTH, SIZE, SIZE, 3), np.uint8))
    Trainer(tiny(folder, **settings, out=folder / "changed", data=f"robomimic:{folder / 'changed.hdf5'}"))
    assert sum(encoded) == 1 + example, "all rows have the same image"
    encoded.clear()
    Trainer(tiny(folder, **settings, out=folder / "resized", resize=(24, 24)))
    assert sum(encoded) == images + example
    encoded.clear()
    other = tmp_path / "vit"
    shutil.copytree(vit, other)
    weights = load_file(other / "model.safetensors")
    save_file({name: 1.01 * x for name, x in weights.items()}, other / "model.safetensors", {"format": "pt"})
    Trainer(tiny(folder, **settings | {"encoder": str(other)}, out=folder / "tuned"))
    assert sum(encoded) == images + example


def test_a_cut_file_of_the_cache_is_named_with_a_remedy(folder, vit, cache):
    settings = {"encoder": vit, "train_encoder": "cached"}
    Trainer(tiny(folder, **settings))
    path = next(cache.iterdir())
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(ValueError, match=rf"{path.name} is damaged.*Delete it, and its outputs are computed again"):
        Trainer(tiny(folder, **settings, out=folder / "again"))
    path.unlink()
    Trainer(tiny(folder, **settings, out=folder / "mended"))


def test_room_is_asked_for_what_is_not_cached_yet(folder, vit, monkeypatch, capsys):
    """Outputs of another recording take no room of this one's, and a blind run has one output for each camera."""
    config = tiny(folder, encoder=vit, train_encoder="cached", cameras=())
    build.build(config)
    monkeypatch.setattr(cached.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 200}))
    build.build(config)
    other = np.random.default_rng(7).integers(0, 255, (LENGTH, SIZE, SIZE, 3), np.uint8)
    hdf5(folder / "others.hdf5", 1, agentview_image=other, wrist_rgb=other)
    others = tiny(folder, encoder=vit, train_encoder="cached", cameras=(), data=f"robomimic:{folder / 'others.hdf5'}")
    with pytest.raises(ValueError, match="of the frozen encoder need"):
        build.build(others)
    capsys.readouterr()
    build.build(tiny(folder, encoder=vit, train_encoder="cached", cameras=(), blind=True))
    assert "2 images, 16 each" in capsys.readouterr().out


@pytest.mark.parametrize("damage", ["a link to nothing", "a folder", "no header"])
def test_a_file_that_can_not_be_read_is_named(folder, vit, cache, damage):
    config = tiny(folder, encoder=vit, train_encoder="cached")
    build.build(config)
    file = next(cache.glob("*.safetensors"))
    file.unlink()
    if damage == "a link to nothing":
        file.symlink_to(cache / "nothing")
    elif damage == "a folder":
        file.mkdir()
    else:
        file.write_bytes(b"x")
    with pytest.raises(ValueError, match=rf"--train-encoder: .*{file.name} is damaged or can't be read .*Delete it"):
        build.build(config)


def test_rows_are_chosen_by_number_or_by_a_mask(folder, vit):
    outputs = build.build(tiny(folder, encoder=vit, train_encoder="cached")).windows.outputs["agentview"]
    chosen = torch.arange(len(outputs)) % 3 == 1
    for mask in (chosen, chosen.numpy(), chosen.tolist()):
        assert torch.equal(outputs[mask], outputs[chosen.nonzero()[:, 0]])
    with pytest.raises(IndexError, match="a mask of 2 rows"):
        outputs[torch.tensor([True, False])]
