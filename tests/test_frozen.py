"""Tests that every change of a frozen head is prevented, or raises an error in the next call."""

from __future__ import annotations

import copy
import dataclasses
import pickle

import pytest
import torch
from small import COND_DIM, actions, conditions, generator, tiny_head
from torch import nn
from torch.nn.utils import parametrizations, prune

from action_heads import ActionHead, ConditionedHead, Normalizer
from action_heads.adapters import AdaLNZero
from action_heads.diffusion.objectives import ObjectiveConfig
from action_heads.diffusion.samplers import Sampling
from action_heads.frozen import thawed


def policy_of(**options) -> ConditionedHead:
    return tiny_head(**options).attach(AdaLNZero(COND_DIM))


def weight(head: ActionHead) -> nn.Parameter:
    return head.backbone.blocks[1].up.weight  # type: ignore[union-attr, index, return-value]


def in_place(change):
    def way(head: ActionHead) -> None:
        with torch.no_grad():
            change(weight(head))

    return way


def decay(head: ActionHead) -> None:
    for p in head.parameters():
        p.data.mul_(0.99)


def step(head: ActionHead) -> None:
    p = weight(head)
    p.requires_grad_(True)
    p.grad = torch.ones_like(p)
    torch.optim.AdamW([p]).step()
    p.requires_grad_(False)


def ema(head: ActionHead) -> None:
    torch._foreach_lerp_([p.data for p in head.parameters()], [torch.zeros_like(p) for p in head.parameters()], 0.1)


def vector(head: ActionHead) -> None:
    flat = nn.utils.parameters_to_vector(head.parameters())
    nn.utils.vector_to_parameters(flat + 1, head.parameters())


def swap(head: ActionHead) -> None:
    torch.utils.swap_tensors(weight(head), nn.Parameter(torch.zeros_like(weight(head)), requires_grad=False))


def of_block(head: ActionHead) -> nn.Module:
    return head.backbone.blocks[0]  # type: ignore[index, return-value]


def reset(module: nn.Module) -> None:
    if hasattr(module, "reset_parameters"):
        module.reset_parameters()  # type: ignore[operator]


def set_state(head: ActionHead) -> None:
    for tensor in head.state_dict().values():
        tensor.add_(1)


# Each of these changes what a frozen head computes.
WAYS = {
    "add_": in_place(lambda w: w.add_(1)),
    "one element": in_place(lambda w: w[0, 0].add_(1)),
    "copy_": in_place(lambda w: w.copy_(torch.zeros_like(w))),
    "init": lambda head: nn.init.normal_(weight(head)),
    "apply(init)": lambda head: head.apply(reset),
    "apply(init) of a part": lambda head: head.backbone.apply(reset),
    ".data =": lambda head: setattr(weight(head), "data", torch.zeros_like(weight(head))),
    ".data.add_": lambda head: weight(head).data.add_(1),
    ".data of one element": lambda head: weight(head).data[0, 0].add_(1),
    "detach().add_": lambda head: weight(head).detach().add_(1),
    "a view": lambda head: weight(head).detach().view(-1)[3:4].zero_(),
    "state_dict()": set_state,
    "weight decay by hand": decay,
    "an optimiser and back": step,
    "an average by foreach": ema,
    "vector_to_parameters": vector,
    "swap_tensors": swap,
    "thawed": lambda head: weight(head).requires_grad_(True),
    "training mode": lambda head: setattr(head, "training", True),
    "another parameter": lambda head: setattr(of_block(head).up, "weight", nn.Parameter(weight(head) + 1)),
    "a bias more": lambda head: setattr(
        head.modulation["adaln_zero"].reduce, "bias", nn.Parameter(torch.ones(4), requires_grad=False)
    ),
    "no bias": lambda head: setattr(of_block(head).up, "bias", None),
    "another part": lambda head: setattr(of_block(head), "up", nn.Linear(16, 64)),
    "another activation": lambda head: setattr(of_block(head), "act", nn.ReLU()),
    "a setting": lambda head: setattr(of_block(head).norm, "eps", 0.5),
    "a setting that torch does not print": lambda head: setattr(head.backbone.step, "waves", 4),
    "a block more": lambda head: head.backbone.blocks.append(nn.Identity()),
    "a block swapped": lambda head: head.backbone.blocks.__setitem__(0, head.backbone.blocks[1]),
    "a part deleted": lambda head: delattr(of_block(head), "norm"),
    "pruning": lambda head: prune.l1_unstructured(of_block(head).up, "weight", 0.5),
    "pruning for good": lambda head: prune.remove(
        prune.random_unstructured(of_block(head).up, "weight", 0.5), "weight"
    ),
    "weight norm": lambda head: parametrizations.weight_norm(of_block(head).up),
    "another normaliser": lambda head: setattr(head, "normalizer", Normalizer.identity(head.config.space)),
    "the normaliser's scale": lambda head: head.normalizer.scale.mul_(2),
    "the normaliser's offset by .data": lambda head: head.normalizer.offset.data.add_(1),
    "the normaliser by numpy": lambda head: head.normalizer.offset.numpy().__setitem__(0, 5.0),
    "another objective": lambda head: setattr(head.objective, "config", ObjectiveConfig("epsilon")),
    "another configuration": lambda head: setattr(head, "config", dataclasses.replace(head.config, horizon=8)),
    "to_empty": lambda head: head.to_empty(device="cpu"),
    "numpy": lambda head: weight(head).numpy().__setitem__(0, 5.0),
    "loading": lambda head: head.load_state_dict({k: v + 1 for k, v in head.state_dict().items()}),
    "loading a part": lambda head: head.backbone.load_state_dict(
        {k: v + 1 for k, v in head.backbone.state_dict().items()}
    ),
    "saying that it is not frozen": lambda head: setattr(head, "frozen", False),
}
# Writes that torch does not notice. The next call detects them in small tensors, a thorough check in all.
PAST_TORCH = {
    "numpy of detach()": lambda head: weight(head).detach().numpy().__setitem__(0, 5.0),
    "the storage": lambda head: weight(head).untyped_storage().fill_(1),
    "from_dlpack": lambda head: torch.from_dlpack(weight(head).detach()).numpy().fill(0.0),
    "values that change places": lambda head: weight(head).detach().numpy().reshape(-1)[::-1].sort(),
}
CALLS = {
    "loss": lambda policy, folder: policy.loss(actions(2), conditions(2)),
    "sample": lambda policy, folder: policy.sample(conditions(2), steps=1),
    "head.sample": lambda policy, folder: policy.head.sample(1, steps=1),
    "compiled": lambda policy, folder: policy.compile("eager").sample(conditions(2), steps=1),
    "fingerprint": lambda policy, folder: policy.head.fingerprint(),
    "save_adapter": lambda policy, folder: policy.save_adapter(folder / "adapter"),
    "save_pretrained": lambda policy, folder: policy.head.save_pretrained(folder / "head"),
    "trainable_parameters": lambda policy, folder: list(policy.trainable_parameters()),
    "reshape": lambda policy, folder: policy.head.reshape(horizon=8),
}
THOROUGH = {
    **{name: CALLS[name] for name in ("save_adapter", "save_pretrained", "reshape")},
    "to": lambda policy, folder: policy.to(torch.bfloat16),
    "push_adapter": lambda policy, folder: published(policy).push_adapter("me/adapter"),
    "push_to_hub": lambda policy, folder: policy.head.push_to_hub("me/head"),
}


def published(policy: ConditionedHead) -> ConditionedHead:
    policy.head.source = {"path": "me/head", "revision": "0" * 40, "subfolder": None}
    return policy


def prevented(way, head: ActionHead) -> bool:
    try:
        way(head)
    except (RuntimeError, ValueError, AttributeError):
        return True
    return False


@pytest.mark.parametrize("way", WAYS)
def test_every_way_to_touch_a_frozen_head_is_prevented_or_seen_by_the_next_call(way, tmp_path):
    for name, call in CALLS.items():
        policy = policy_of()
        call(policy, tmp_path / "before")  # Nothing is wrong yet, and this fills every cache.
        if prevented(WAYS[way], policy.head):
            assert torch.equal(
                policy.head.sample(1, generator=generator()), tiny_head().sample(1, generator=generator())
            )
            continue
        with pytest.raises((RuntimeError, ValueError), match=r"frozen head (was changed|were made trainable)"):
            call(policy, tmp_path / name)
        assert not (tmp_path / name).exists()


@pytest.mark.parametrize("way", PAST_TORCH)
@pytest.mark.parametrize("name", THOROUGH)
def test_writes_past_torch_are_seen_by_what_writes_files_moves_or_reshapes(name, way, tmp_path, monkeypatch):
    monkeypatch.setattr("action_heads.io.hub_push.push", lambda *_, **__: pytest.fail("it was published"))
    policy = policy_of()
    PAST_TORCH[way](policy.head)
    with pytest.raises(RuntimeError, match=r"frozen head was changed: .*backbone\.blocks\.1\.up\.weight"):
        THOROUGH[name](policy, tmp_path)


@pytest.mark.parametrize("way", PAST_TORCH)
def test_writes_past_torch_are_soon_seen_by_every_call(way):
    policy = policy_of()
    PAST_TORCH[way](policy.head)

    def many_calls() -> None:
        for _ in policy.head._watch.slices:
            policy.head.assert_frozen()

    with pytest.raises(RuntimeError, match=r"frozen head (was changed|were made trainable)"):
        many_calls()


def test_the_message_names_what_was_changed():
    policy = policy_of()
    weight(policy.head).data.add_(1)
    with pytest.raises(RuntimeError, match=r"backbone\.blocks\.1\.up\.weight differs"):
        policy.loss(actions(2), conditions(2))


SAME = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda policy: pickle.loads(pickle.dumps(policy)),
    "to": lambda policy: policy.to("cpu", torch.float64).to(torch.float32),
    "loading its own state": lambda policy: (policy.load_state_dict(policy.state_dict()), policy)[1],
    "the same values written again": lambda policy: (weight(policy.head).data.copy_(weight(policy.head)), policy)[1],
    "the same values elsewhere": lambda policy: (
        setattr(weight(policy.head), "data", weight(policy.head).detach().clone()),
        policy,
    )[1],
    "train and eval": lambda policy: policy.train().eval().requires_grad_(False).requires_grad_(True),
    "zero_grad": lambda policy: (policy.zero_grad(), policy)[1],
    "set_ of .data": lambda policy: (weight(policy.head).data.set_(torch.zeros(weight(policy.head).shape)), policy)[1],
    "resize_ of .data": lambda policy: (weight(policy.head).data.resize_(1, 1), policy)[1],
    "frozen again": lambda policy: (policy.head.freeze(), policy)[1],
    "functional_call": lambda policy: (
        torch.func.functional_call(policy, dict(policy.named_parameters()), (actions(2), conditions(2))),
        policy,
    )[1],
}


@pytest.mark.parametrize("way", SAME)
def test_what_changes_no_bit_is_no_change(way, tmp_path):
    policy = policy_of()
    expected = policy.sample(conditions(2), generator=generator())
    fingerprint = policy.head.fingerprint()
    same = SAME[way](policy)
    for call in CALLS.values():
        call(same, tmp_path)
    assert torch.equal(same.sample(conditions(2), generator=generator()), expected)
    assert same.head.fingerprint() == fingerprint


def test_a_cast_head_is_watched_too(tmp_path):
    policy = policy_of()
    policy.head.to(torch.bfloat16)
    policy.save_adapter(tmp_path / "a")
    weight(policy.head).data.add_(1)
    with pytest.raises(RuntimeError, match=r"frozen head (was changed|were made trainable)"):
        policy.sample(conditions(2))


def test_a_rounded_head_does_not_pass_for_the_one_it_was():
    policy = policy_of()
    expected = policy.head.half().sample(1, generator=generator())
    with pytest.raises(RuntimeError, match="rounded to a shorter dtype"):
        policy.float()
    assert torch.equal(policy.head.sample(1, generator=generator()), expected)


def test_a_reshaped_head_trains_its_projections_alone():
    head = tiny_head().reshape(horizon=8)
    policy = head.attach(AdaLNZero(COND_DIM), normalizer=Normalizer.identity(head.config.space))
    with torch.no_grad():
        for p in head.projections.values():
            p.add_(1)
    policy.sample(conditions(2))
    weight(head).data.add_(1)
    with pytest.raises(RuntimeError, match=r"frozen head (was changed|were made trainable)"):
        policy.sample(conditions(2))


def test_a_thawed_copy_may_change():
    head = tiny_head()
    part = thawed(head.backbone)
    assert all(type(p) is nn.Parameter and p.requires_grad for p in part.parameters())
    with torch.no_grad():
        next(part.parameters()).add_(1)
    head.assert_frozen(thorough=True)


def test_tables_that_somebody_wrote_to_are_made_again():
    policy = policy_of()
    expected = policy.sample(conditions(2), generator=generator())
    policy.head.step_table("adaln_zero").zero_()
    policy.head.plan(Sampling("ddim")).x0.zero_()
    policy.head.plan(Sampling("ddim")).timesteps.zero_()
    ((noise_path, _),) = policy.head.objective._paths.values()
    noise_path.zero_()
    assert torch.equal(policy.sample(conditions(2), generator=generator()), expected)


def test_a_head_frozen_after_training_has_the_fingerprint_of_its_weights(tmp_path):
    head = ActionHead(tiny_head().config)
    with torch.no_grad():
        weight(head).add_(1)
    assert head.freeze().fingerprint() == ActionHead.from_pretrained(head.save_pretrained(tmp_path)).fingerprint()
