"""Tests of `ObservedPolicy`: its observations, the blind control, its loss, and its folder."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from small import tiny_head

from action_heads.actions.contract import Contract
from action_heads.actions.normalize import Normalizer
from action_heads.adapt import AdaptedPolicy
from action_heads.adapters import AdaLNZero
from action_heads.encoders import ObservationConfig, ObservationEncoder, VisionConfig
from action_heads.observed_policy import ObservedPolicy

CONTRACT = Contract(("position",), {}, "action", "pose_6d", (-1.0, 1.0), rate_hz=20.0)
EYES = {"cameras": ("front",), "vision": VisionConfig("resnet18", features=4, resize=(48, 48))}
OBSERVED = {"state": {"state_dim": 3}, "images": EYES, "both": {"state_dim": 3} | EYES}


def made(observed: str, contract: Contract = CONTRACT) -> ObservedPolicy:
    if "cameras" in OBSERVED[observed]:
        pytest.importorskip("torchvision")
    torch.manual_seed(0)
    encoder = ObservationEncoder(ObservationConfig(observation_steps=1, **OBSERVED[observed])).eval()
    head = tiny_head()
    policy = head.attach(AdaLNZero(encoder.cond_dim), normalizer=Normalizer.identity(head.config.space))
    torch.nn.init.normal_(policy.adapter.aim.weight)
    return ObservedPolicy(encoder, policy, contract)


def batch(observed: str, seed: int = 0) -> dict:
    g = torch.Generator().manual_seed(seed)
    state = torch.rand(2, 1, 3, generator=g) if "state_dim" in OBSERVED[observed] else None
    images = {"front": torch.rand(2, 1, 3, 32, 32, generator=g)} if "cameras" in OBSERVED[observed] else {}
    return {"actions": torch.rand(2, 16, 10, generator=g), "is_pad": None, "state": state, "images": images}


def test_the_earlier_name_is_kept():
    assert AdaptedPolicy is ObservedPolicy


@pytest.mark.parametrize("observed", OBSERVED)
def test_blind_hides_images_or_else_the_state(observed):
    """The control hides images and keeps a state beside them; a state without images becomes zero."""
    seeing, blind = made(observed), made(observed, replace(CONTRACT, blind=True))
    one, other = batch(observed, 0), batch(observed, 1)

    def conditions(policy):
        return [policy.condition(given["images"], given["state"]) for given in (one, other)]

    assert not torch.equal(*conditions(seeing))
    hidden = conditions(blind)
    assert torch.equal(*hidden) == (observed != "both")
    if observed == "both":
        assert torch.equal(hidden[0][:, 4:], one["state"][:, 0])
        assert torch.equal(hidden[0][:, :4], hidden[1][:, :4])


@pytest.mark.parametrize("blind", [False, True])
@pytest.mark.parametrize("observed", OBSERVED)
def test_the_loss_is_that_of_its_condition(observed, blind):
    policy, given = made(observed, replace(CONTRACT, blind=blind)), batch(observed)
    cond = policy.condition(given["images"], given["state"])
    noise = [torch.Generator().manual_seed(3) for _ in range(2)]
    expected = policy.policy.loss(given["actions"], cond, generator=noise[0])
    assert torch.equal(policy.loss(given, generator=noise[1]), expected)
    given["state"] = torch.zeros(2, 1, 0) if given["state"] is None else given["state"]
    assert torch.equal(policy.loss(given, generator=torch.Generator().manual_seed(3)), expected)


@pytest.mark.parametrize("observed", OBSERVED)
def test_what_trains_is_in_one_group(observed):
    policy = made(observed)
    adapter, encoder = policy.parameter_groups()
    assert {id(p) for p in adapter + encoder} == {id(p) for p in policy.parameters() if p.requires_grad}
    assert len(adapter + encoder) == len({id(p) for p in adapter + encoder})
    counts = policy.counts()["parameters"]
    assert counts["encoder"]["trained"] == sum(p.numel() for p in encoder)
    assert counts["head"]["trained"] + counts["adapter"]["trained"] == sum(p.numel() for p in adapter)


@pytest.mark.parametrize("observed", ["state", "images"])
def test_a_folder_without_a_rate_is_read_again(observed, tmp_path):
    """A policy without a rate, such as one of LeRobot, can be saved and loaded."""
    policy, given = made(observed, replace(CONTRACT, rate_hz=None)), batch(observed)
    again = ObservedPolicy.from_pretrained(policy.save(tmp_path))
    assert again.contract == policy.contract
    noise = [torch.Generator().manual_seed(0) for _ in range(2)]
    chunk = policy.sample(given["images"], given["state"], generator=noise[0])
    assert torch.equal(again.sample(given["images"], given["state"], generator=noise[1]), chunk)


@pytest.mark.parametrize("wrong", [0, -1.0, float("nan"), "20"])
def test_a_rate_is_positive(wrong):
    with pytest.raises(ValueError, match="rate_hz"):
        replace(CONTRACT, rate_hz=wrong)
