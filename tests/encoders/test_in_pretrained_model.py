"""A head inside a `PreTrainedModel`: transformers saves and loads the whole model, and the head stays what it was."""

from __future__ import annotations

import pytest
import torch
from packaging.version import Version
from small import generator, tiny_head, trained_policy
from torch import Tensor, nn

from action_heads import ActionHead
from action_heads.adapters import AdaLNZero
from action_heads.backbones import BACKBONES
from action_heads.encoders import ObservationConfig, ObservationEncoder, VisionConfig

transformers = pytest.importorskip("transformers")

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "vocab_size": 50,
}
HEAD = "dae/mlp-0.7m-fk"


class VLA(transformers.PreTrainedModel):
    """A language model with a frozen pretrained head, and cameras that an encoder of ours sees."""

    config_class = transformers.LlamaConfig
    base_model_prefix = "model"

    def __init__(self, config: transformers.LlamaConfig):
        super().__init__(config)
        self.language_model = transformers.LlamaModel(config)
        vision = VisionConfig(**config.vision) if config.vision else VisionConfig()
        self.cameras = ObservationEncoder(
            ObservationConfig(("front",), state_dim=3, observation_steps=1, vision=vision)
        )
        self.policy = ActionHead.from_pretrained(HEAD).attach(AdaLNZero(self.cameras.cond_dim))
        self.projector = nn.Linear(4, 4)
        self.built = {name: tensor.clone() for name, tensor in self.state_dict().items()}
        self.post_init()


@pytest.fixture(params=["resnet", "dinov2"])
def vla(request, vision_models) -> VLA:
    pretrained = {"backbone": vision_models["dinov2"], "train": False}
    torch.manual_seed(0)
    model = VLA(transformers.LlamaConfig(**SIZES, vision=pretrained if request.param == "dinov2" else None)).eval()
    with torch.no_grad():
        for p in model.policy.adapter.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return model


def seen(model: VLA) -> Tensor:
    images = {"front": torch.rand(2, 1, 3, 64, 64, generator=generator())}
    return model.cameras(images, torch.zeros(2, 1, 3))


def acted(model: VLA) -> Tensor:
    return model.policy.sample(seen(model), generator=generator())


def test_transformers_initialises_none_of_our_weights_again(vla):
    fresh = VLA(vla.config)
    changed = {
        name.split(".")[0] for name, tensor in fresh.state_dict().items() if not torch.equal(tensor, fresh.built[name])
    }
    assert changed == {"projector"}
    fresh.policy.head.assert_frozen(thorough=True)


@pytest.mark.parametrize("options", [{}, {"device_map": "cpu"}], ids=str)
def test_a_whole_model_acts_as_before_after_loading(options, vla, tmp_path):
    vla.save_pretrained(tmp_path / "vla")
    loaded = VLA.from_pretrained(tmp_path / "vla", **options)
    assert torch.equal(acted(loaded), acted(vla))
    chunk, cond = acted(vla), seen(vla)
    loss = loaded.policy.loss(chunk, cond, generator=generator())
    assert torch.equal(loss, vla.policy.loss(chunk, cond, generator=generator()))
    loaded.train()
    assert not loaded.policy.head.training
    trained = {name for name, p in loaded.named_parameters() if p.requires_grad}
    assert trained == {name for name, p in vla.named_parameters() if p.requires_grad}
    loaded.policy.save_adapter(tmp_path / "adapter")


def test_a_head_in_a_model_of_bfloat16_keeps_its_precision(vla, tmp_path):
    vla.save_pretrained(tmp_path / "vla")
    loaded = VLA.from_pretrained(tmp_path / "vla", dtype=torch.bfloat16)
    assert loaded.language_model.dtype == torch.bfloat16
    for name, tensor in vla.policy.state_dict().items():
        assert torch.equal(loaded.policy.state_dict()[name], tensor)
    assert acted(loaded).isfinite().all()


def test_a_model_from_files_without_the_policy_has_a_new_policy(vla, tmp_path):
    vla.language_model.save_pretrained(tmp_path / "base")
    vla.config.save_pretrained(tmp_path / "base")
    loaded = VLA.from_pretrained(tmp_path / "base").eval()
    if Version(transformers.__version__) < Version("5.15"):  # These releases give new values to all that files lack.
        with pytest.raises(RuntimeError, match="a frozen head was changed"):
            acted(loaded)
        return
    for name, tensor in loaded.built.items():
        if name.startswith(("policy", "cameras")):
            assert torch.equal(loaded.state_dict()[name], tensor), name
    loaded.policy.head.assert_frozen(thorough=True)
    assert acted(loaded).isfinite().all()


@pytest.mark.parametrize("make", [*BACKBONES, "policy", "encoder"])
def test_all_state_is_in_the_files(make):
    """Libraries that load whole models lose every buffer that is not saved. Empty ones only follow the device."""
    if make == "encoder":
        pytest.importorskip("torchvision")
        made = ObservationEncoder(ObservationConfig(cameras=("front",), state_dim=3, observation_steps=1))
    else:
        made = trained_policy(tiny_head()) if make == "policy" else tiny_head(make)
    saved = made.state_dict()
    assert [name for name, buffer in made.named_buffers() if buffer.numel() and name not in saved] == []
