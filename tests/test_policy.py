"""Tests of `ConditionedHead`: what trains, what is frozen, and what is saved and loaded."""

from __future__ import annotations

import copy
import json
import re
from unittest.mock import patch

import pytest
import torch
from small import COND_DIM, actions, conditions, generator, tiny_head, trained_policy

from action_heads import EMA, ActionHead, ActionSpace, ConditionedHead, Normalizer
from action_heads.adapters import ADAPTERS, AdaLNZero, FiLM
from action_heads.diffusion.levels import LEVELS
from action_heads.io.files import WeightFileError, load_tensors, save_tensors


def bits(module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def train(policy, steps: int = 3):
    optimizer = torch.optim.SGD(policy.trainable_parameters(), lr=0.1)
    ema = EMA(policy.parameters())
    for _ in range(steps):
        policy.train()
        policy.loss(actions(), conditions()).backward()
        optimizer.step()
        optimizer.zero_grad()
        ema.update()
    ema.copy_to_model()


# ── frozen is a promise ──────────────────────────────────────────────────────────────────────────────────────────


def test_training_moves_the_adapter_and_not_one_bit_of_the_head(head, mechanism):
    policy = head.attach(ADAPTERS[mechanism](COND_DIM))
    before, adapter = bits(head), bits(policy.adapter)
    train(policy)
    assert same(before, bits(head))
    moved = {name for name, tensor in bits(policy.adapter).items() if not torch.equal(tensor, adapter[name])}
    assert moved == {name for name, _ in policy.adapter.named_parameters()}


def test_gradient_reaches_the_users_encoder(policy):
    cond = conditions().requires_grad_()
    policy.loss(actions(), cond).backward()
    assert cond.grad is not None
    assert cond.grad.abs().sum() > 0
    assert all(p.grad is None for p in policy.head.parameters())


@pytest.mark.parametrize("tamper", ["train", "requires_grad_", "load_state_dict", "deepcopy", "to"])
def test_nothing_thaws_a_frozen_head(policy, tamper):
    if tamper == "train":
        policy.train()
        policy.head.train(True)
    elif tamper == "requires_grad_":
        policy.requires_grad_(True)
        policy.head.requires_grad_(True)
    elif tamper == "load_state_dict":
        policy.head.load_state_dict(policy.head.state_dict())
        policy.load_state_dict(policy.state_dict(), strict=False)
    elif tamper == "deepcopy":
        policy = copy.deepcopy(policy)
        policy.train()
    else:
        policy.to(torch.float64).float()
    assert not policy.head.training
    assert not any(p.requires_grad for p in policy.head.parameters())
    assert all(p.requires_grad for p in policy.adapter.parameters())
    policy.head.assert_frozen()


@pytest.mark.parametrize("whole", [False, True])
def test_other_weights_cannot_be_loaded_into_a_frozen_head(backbone, mechanism, whole):
    """Other weights cannot be loaded directly or through a module around the head, and nothing is half-loaded."""
    policy, other = (trained_policy(tiny_head(backbone, seed=seed), mechanism) for seed in (0, 1))
    before = bits(policy)
    target, state = (policy, other.state_dict()) if whole else (policy.head, other.head.state_dict())
    with pytest.raises(ValueError, match="frozen, but the state to load has a different"):
        target.load_state_dict(state, strict=False)
    assert same(before, bits(policy))


def test_a_part_may_be_loaded_where_loading_need_not_be_complete(policy):
    """A partial state, such as a file of PEFT, can be loaded if loading is not strict."""
    before, part = bits(policy.head), {"adapter.read.0.bias": torch.ones_like(policy.adapter.read[0].bias)}
    policy.load_state_dict(part, strict=False)
    assert same(before, bits(policy.head))
    assert torch.equal(policy.adapter.read[0].bias, part["adapter.read.0.bias"])


def test_a_weight_thawed_behind_the_heads_back_is_caught(policy):
    next(policy.head.parameters()).requires_grad = True
    with pytest.raises(RuntimeError, match="frozen head were made trainable"):
        policy.loss(actions(), conditions())
    with pytest.raises(RuntimeError, match="frozen head were made trainable"):
        policy.trainable_parameters()


def test_an_unfrozen_head_trains_along():
    from small import tiny_config

    head = ActionHead(tiny_config())
    policy = head.attach(AdaLNZero(COND_DIM))
    before = bits(head.backbone)
    train(policy)
    assert not same(before, bits(head.backbone))
    assert policy.num_frozen == 0


def test_counts(policy):
    """Trainable parameters get gradients; frozen ones are all others that the output depends on."""
    policy.loss(actions(), conditions()).backward()
    assert policy.num_trainable == sum(p.grad.numel() for p in policy.parameters() if p.grad is not None)
    others = [m for name, m in policy.head.modulation.items() if name != policy.adapter.name]
    unused = sum(p.numel() for module in others for p in module.parameters())
    assert policy.num_frozen == policy.head.num_parameters - unused
    assert f"{policy.num_frozen:,} frozen and {policy.num_trainable:,} trainable" in repr(policy)


def test_two_adapters_share_one_head(head):
    one, two = (trained_policy(head, head.config.mechanisms[i]) for i in (0, -1))
    assert one.head is two.head
    before = two.sample(conditions(), generator=generator())
    train(one)
    assert torch.equal(before, two.sample(conditions(), generator=generator()))


# ── loss and sample ──────────────────────────────────────────────────────────────────────────────────────────────


def test_loss_falls(head, mechanism):
    policy = head.attach(ADAPTERS[mechanism](COND_DIM))
    optimizer = torch.optim.Adam(policy.trainable_parameters(), lr=1e-2)

    def loss():
        return policy.loss(actions(32), conditions(32), generator=generator(9))

    first = float(loss().detach())
    for i in range(40):
        policy.loss(actions(32), conditions(32), generator=generator(i)).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert float(loss().detach()) < 0.9 * first


def test_loss_is_the_mean_squared_error_of_the_prediction():
    """The loss equals the mean squared error computed by hand from the same noise."""
    policy = trained_policy(tiny_head())
    g, objective = generator(4), policy.head.objective
    t = torch.randint(100, (4, 1), generator=g)
    noise = torch.randn((4, 16, 10), generator=g)
    x0 = policy.head.normalizer.normalize(actions())
    x_t = objective.add_noise(x0, noise, t)
    with torch.no_grad():
        predicted = policy.head.predict(x_t, policy.step_values(t) + policy.modulate(conditions()), policy.modulation)
        ours = policy.loss(actions(), conditions(), generator=generator(4))
    torch.testing.assert_close(ours, (predicted - x0).square().mean())


@pytest.mark.parametrize("levels", sorted(LEVELS))
def test_noise_samples_are_so_many_copies_of_the_batch(policy, levels):
    is_pad = torch.zeros(4, 16, dtype=torch.bool)
    is_pad[1, 10:] = True
    drawn = {"generator": generator(2), "levels": levels, "noise_samples": 3}
    several = policy.loss(actions(), conditions(), is_pad=is_pad, **drawn)
    objective, g, single = policy.head.objective, generator(2), []
    steps = objective.random_steps((12, 1), g, levels).split(4)
    noise = objective.random_noise((12, 16, 10), g).split(4)
    for t, z in zip(steps, noise, strict=True):
        with patch.multiple(objective, random_steps=lambda *_, t=t: t, random_noise=lambda *_, z=z: z):
            single.append(policy.loss(actions(), conditions(), is_pad=is_pad))
    torch.testing.assert_close(several, torch.stack(single).mean())


def test_noise_samples_read_the_condition_once():
    policy = trained_policy(tiny_head())
    with patch.object(policy.adapter, "forward", wraps=policy.adapter.forward) as read:
        policy.loss(actions(), conditions(), noise_samples=8)
    assert [len(call.args[0]) for call in read.call_args_list] == [4]


@pytest.mark.parametrize("wrong", [{"levels": "cosine"}, {"noise_samples": 0}, {"noise_samples": 1.5}])
def test_bad_noise(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        trained_policy(tiny_head()).loss(actions(), conditions(), **wrong)


def test_padding_does_not_count(policy):
    is_pad = torch.zeros(4, 16, dtype=torch.bool)
    is_pad[1, 10:] = True
    other = actions()
    other[1, 10:] = 0.123
    one, two = (policy.loss(a, conditions(), is_pad=is_pad, generator=generator(2)) for a in (actions(), other))
    if not policy.head.backbone.mixes_time:  # Elsewhere the network sees padding, whose error does not count.
        torch.testing.assert_close(one, two)
    # The losses of rows with and without padding, weighted by their counted actions, give the same sum.
    whole = policy.loss(actions(), conditions(), generator=generator(2))
    rest = policy.loss(actions(), conditions(), is_pad=~is_pad, generator=generator(2))
    torch.testing.assert_close(one * (~is_pad).sum() + rest * is_pad.sum(), whole * is_pad.numel())


def test_a_batch_of_padding_alone_is_an_error(policy):
    with pytest.raises(ValueError, match="marks all 4 x 16 actions of this batch as padding"):
        policy.loss(actions(), conditions(), is_pad=torch.ones(4, 16, dtype=torch.bool))


def test_where_saying_so_would_wait_a_batch_of_padding_alone_has_no_loss(policy, monkeypatch):
    policy.loss(actions(), conditions())
    monkeypatch.setattr("action_heads._util.conditions.CPU", torch.device("meta"))  # The CPU acts as an accelerator.
    assert policy.loss(actions(), conditions(), is_pad=torch.ones(4, 16, dtype=torch.bool)).isnan()
    some = torch.arange(16).expand(4, 16) > 7
    assert policy.loss(actions(), conditions(), is_pad=some).isfinite()


BAD = {"nan": torch.nan, "inf": torch.inf, "-inf": -torch.inf}


@pytest.mark.parametrize("value", BAD.values(), ids=BAD)
@pytest.mark.parametrize("accelerator", [False, True], ids=["cpu", "as on an accelerator"])
def test_acting_never_lets_a_broken_condition_through(policy, value, accelerator, monkeypatch):
    policy.sample(conditions())
    policy.loss(actions(), conditions())
    if accelerator:
        monkeypatch.setattr("action_heads._util.conditions.CPU", torch.device("meta"))
    broken = conditions()
    broken[2, 1] = value
    with pytest.raises(ValueError, match="cond has NaN or infinite values, first in batch row 2"):
        policy.sample(broken)


@pytest.mark.parametrize("value", BAD.values(), ids=BAD)
def test_acting_never_lets_a_broken_adapter_through(policy, value):
    with torch.no_grad():
        next(p for p in reversed(list(policy.adapter.parameters())) if p.ndim == 1)[0] = value
    with pytest.raises(ValueError, match="NaN or infinite actions from a finite condition"):
        policy.sample(conditions())


@pytest.mark.parametrize("wrong", [0, "seed", torch.manual_seed])
def test_a_generator_is_one(policy, wrong):
    for call in (
        lambda: policy.sample(conditions(), generator=wrong),
        lambda: policy.loss(actions(), conditions(), generator=wrong),
        lambda: policy.head.sample(1, generator=wrong),
    ):
        with pytest.raises(ValueError, match=r"torch\.Generator\(\)\.manual_seed"):
            call()


@pytest.mark.parametrize(
    "cond", [torch.zeros(7), torch.zeros(4, 3, 5, 7), [[0.0] * 7], torch.zeros(4, 7).numpy(), None]
)
def test_a_condition_is_a_tensor_of_two_or_three_axes(cond):
    with pytest.raises(ValueError, match=r"cond must be|cond has shape .*expected"):
        tiny_head().attach(ADAPTERS["film"](COND_DIM)).sample(cond)


def test_samples_are_in_robot_units(head):
    adapter = ADAPTERS[head.config.mechanisms[0]](COND_DIM)
    policy = head.attach(adapter, normalizer=Normalizer.from_range([10] * 3, [12] * 3, head.config.space))
    position = policy.sample(conditions())[..., :3]
    assert ((position >= 10) & (position <= 12)).all()


def test_dtypes(policy):
    """A half-precision encoder works on a full-precision head, and the reverse."""
    reference = policy.sample(conditions(), generator=generator())
    half = policy.sample(conditions().bfloat16(), generator=generator())
    assert half.dtype == torch.float32
    assert (half - reference).abs().max() < 0.1
    low = copy.deepcopy(policy).to(torch.bfloat16)
    assert low.sample(conditions(), generator=generator()).dtype == torch.float32
    assert (low.sample(conditions(), generator=generator()) - reference).abs().mean() < 0.05
    low.loss(actions(), conditions()).backward()


@pytest.mark.parametrize("relearn_step", [False, True])
def test_adapter_stays_in_32_bits_on_a_half_precision_head(backbone, mechanism, relearn_step):
    full = tiny_head(backbone)
    reference = trained_policy(full, mechanism, relearn_step=relearn_step)
    policy = copy.deepcopy(full).to(torch.bfloat16).attach(ADAPTERS[mechanism](COND_DIM, relearn_step=relearn_step))
    assert {p.dtype for p in policy.adapter.parameters()} == {torch.float32}
    policy.adapter.load_state_dict(reference.adapter.state_dict())
    a, b = (p.sample(conditions(), generator=generator()) for p in (policy, reference))
    assert (a - b).abs().mean() < 0.02
    policy.loss(actions(), conditions()).backward()


# ── bad input ────────────────────────────────────────────────────────────────────────────────────────────────────

NAN = float("nan")
BAD = [
    (lambda a, c: {"actions": a.tolist()}, "actions are a list"),
    (lambda a, c: {"cond": c.numpy()}, "cond must be a torch tensor, got a ndarray"),
    (lambda a, c: {"actions": a[:, :8]}, "wrong horizon"),
    (lambda a, c: {"actions": a[..., :7]}, "wrong width"),
    (lambda a, c: {"actions": a[0]}, "batch axis"),
    (lambda a, c: {"actions": a.index_fill(0, torch.tensor([2]), NAN)}, "row 2"),
    (lambda a, c: {"actions": a / 0}, "infinite"),
    (lambda a, c: {"actions": a[:0], "cond": c[:0]}, "empty"),
    (lambda a, c: {"cond": c[:, :3]}, f"has shape \\(4, 3\\).*built for cond_dim={COND_DIM}"),
    (lambda a, c: {"cond": c[0]}, "with 1 axes; expected"),
    (lambda a, c: {"cond": c[:3]}, "4 action chunks came with 3 conditions"),
    (lambda a, c: {"cond": c.index_fill(0, torch.tensor([1]), NAN)}, "first in batch row 1"),
    (lambda a, c: {"cond": c.long()}, "must be floating point"),
    (lambda a, c: {"mask": torch.ones(4, 1, dtype=torch.bool)}, "no token axis"),
    (
        lambda a, c: {"cond": c[:, None], "mask": torch.ones(4, 2, dtype=torch.bool)},
        r"mask has shape \(4, 2\); expected \(4, 1\)",
    ),
    (lambda a, c: {"cond": c[:, None], "mask": torch.ones(4, 1)}, "mask must be boolean"),
    (
        lambda a, c: {"cond": c[:, None], "mask": torch.zeros(4, 1, dtype=torch.bool)},
        "is false for all tokens of batch row 0",
    ),
    (lambda a, c: {"is_pad": torch.zeros(4, 8, dtype=torch.bool)}, r"is_pad is .*\(4, 8\); expected .*\(4, 16\)"),
    (lambda a, c: {"is_pad": torch.zeros(4, 16)}, "is_pad is torch.float32"),
]


@pytest.mark.parametrize(("make", "message"), BAD)
def test_bad_input(make, message):
    policy, given = trained_policy(tiny_head()), {"actions": actions(), "cond": conditions()}
    given |= make(given["actions"], given["cond"])
    with pytest.raises(ValueError, match=message):
        policy.loss(**given)


def test_units_out_of_reach_are_warned_of():
    policy = trained_policy(tiny_head())
    with pytest.warns(UserWarning, match=r"dimension \d \(position\) reaches .*check the units"):
        policy.loss(actions() * torch.tensor([1000.0] * 3 + [1.0] * 7), conditions())
    with pytest.warns(UserWarning, match=r"dimension 9 \(gripper\) reaches 255"):
        policy.loss(actions().index_fill(2, torch.tensor([9]), 255.0), conditions())


def test_normalizer_of_another_space_is_refused(head):
    joints = ActionSpace((("joint", 7),))
    with pytest.raises(ValueError, match="7 dimensions, but the head's actions have 10"):
        head.attach(ADAPTERS[head.config.mechanisms[0]](COND_DIM), normalizer=Normalizer.identity(joints))


def test_an_adapter_belongs_to_one_head():
    adapter = tiny_head().attach(AdaLNZero(COND_DIM)).adapter
    with pytest.raises(ValueError, match="already attached to a head"):
        tiny_head("mixer").attach(adapter)


def test_acting_first_does_not_spoil_training(head):
    policy = head.attach(ADAPTERS[head.config.mechanisms[0]](COND_DIM))
    with torch.inference_mode():
        policy.sample(conditions())
    policy.loss(actions(), conditions()).backward()


# ── files ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("relearn_step", [False, True])
@pytest.mark.parametrize("own", [False, True])
def test_save_and_load_give_the_same_output(head, mechanism, relearn_step, own, tmp_path):
    policy = trained_policy(head, mechanism, relearn_step=relearn_step)
    if own:
        policy.own_normalizer = Normalizer.fit(actions(), head.config.space)
    folder = policy.save_adapter(tmp_path / "adapter")
    expected = policy.sample(conditions(), generator=generator())
    assert torch.equal(head.load_adapter(folder).sample(conditions(), generator=generator()), expected)
    fresh = head.attach(ADAPTERS[mechanism](COND_DIM, relearn_step=relearn_step))
    assert torch.equal(fresh.load_adapter(folder).sample(conditions(), generator=generator()), expected)


def test_from_pretrained_needs_the_adapter_alone(tmp_path):
    head = ActionHead.from_pretrained(tiny_head().save_pretrained(tmp_path / "head"))
    policy = trained_policy(head)
    policy.save_adapter(tmp_path / "adapter")
    loaded = ConditionedHead.from_pretrained(tmp_path / "adapter")
    assert torch.equal(
        loaded.sample(conditions(), generator=generator()), policy.sample(conditions(), generator=generator())
    )


def test_adapter_of_another_head_is_refused(tmp_path):
    ours, other = tiny_head(), tiny_head(seed=1)
    folder = trained_policy(ours).save_adapter(tmp_path / "a")
    with pytest.raises(ValueError, match=ours.fingerprint()) as caught:
        other.load_adapter(folder)
    assert other.fingerprint() in str(caught.value)


def test_adapter_of_another_kind_is_refused_and_nothing_is_loaded(head, tmp_path):
    folder = trained_policy(head, head.config.mechanisms[0]).save_adapter(tmp_path / "a")
    policy = trained_policy(head, head.config.mechanisms[-1], hidden_dim=5)
    before = bits(policy)
    with pytest.raises(ValueError, match=r"Build a new policy with head\.load_adapter"):
        policy.load_adapter(folder)
    assert same(before, bits(policy))


def edit_header(folder, **changes):
    tensors, metadata = load_tensors(folder / "adapter.safetensors")
    values = json.loads(metadata["action_heads"]) | changes
    values = {key: value for key, value in values.items() if value is not ...}
    save_tensors(tensors, folder / "adapter.safetensors", {"action_heads": json.dumps(values)})


def edit_tensor(folder, name, change):
    tensors, metadata = load_tensors(folder / "adapter.safetensors")
    save_tensors(tensors | {name: change(tensors[name])}, folder / "adapter.safetensors", metadata)


MECHANISM = {
    "mechanism": "adaln_zero",
    "cond_dim": COND_DIM,
    "hidden_dim": None,
    "relearn_step": False,
    "through": "both",
}  # Files written before `per_step` existed hold these entries.


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (lambda f: edit_header(f, version=1), ValueError, "version 1"),
        (lambda f: edit_header(f, version=...), WeightFileError, "lacks a config"),
        (lambda f: edit_header(f, colour="red"), ValueError, "colour"),
        (lambda f: edit_header(f, head=None), ValueError, "missing or unknown keys"),
        (lambda f: edit_header(f, adapter=None), ValueError, "must be a JSON object"),
        (lambda f: edit_header(f, adapter=MECHANISM | {"mechanism": "lora"}), ValueError, "choose one of film"),
        (
            lambda f: edit_header(f, adapter=MECHANISM | {"relearn_step": 3}),
            ValueError,
            "relearn_step .* must be of type",
        ),
        (lambda f: save_tensors({"w": torch.ones(1)}, f / "adapter.safetensors"), WeightFileError, "save_adapter"),
        (lambda f: (f / "adapter.safetensors").write_bytes(b"\x80\x02"), WeightFileError, "pickle"),
        (
            lambda f: (f / "adapter.safetensors").write_bytes((f / "adapter.safetensors").read_bytes()[:-100]),
            WeightFileError,
            "truncated",
        ),
        (lambda f: edit_tensor(f, "adapter.read.0.bias", lambda t: t / 0), WeightFileError, "holds NaN or infinity"),
        (lambda f: edit_tensor(f, "adapter.read.0.bias", lambda t: t.long()), WeightFileError, "of dtype torch.int64"),
        (lambda f: edit_tensor(f, "normalizer.scale", lambda t: 0 * t), WeightFileError, "scale is not positive"),
        (lambda f: (f / "adapter.safetensors").unlink(), FileNotFoundError, "lacks adapter.safetensors"),
    ],
)
def test_spoilt_adapter_files(spoil, error, message, tmp_path):
    head = tiny_head()
    policy = trained_policy(head)
    policy.own_normalizer = Normalizer.identity(head.config.space)
    folder = policy.save_adapter(tmp_path / "a")
    before = bits(policy)
    spoil(folder)
    with pytest.raises(error, match=message):
        policy.load_adapter(folder)
    assert same(before, bits(policy))


def test_weights_of_another_shape_are_named(tmp_path):
    head = tiny_head()
    small, large = (head.attach(FiLM(n)).save_adapter(tmp_path / str(n)) for n in (3, 5))
    edit_header(large, adapter=json.loads(load_tensors(small / "adapter.safetensors")[1]["action_heads"])["adapter"])
    with pytest.raises(WeightFileError, match=re.escape("adapter.read.0.weight of shape (16, 5), expected (16, 3)")):
        head.load_adapter(large)


def test_a_write_that_fails_leaves_the_older_adapter(tmp_path, monkeypatch):
    head = tiny_head()
    policy = trained_policy(head)
    folder = policy.save_adapter(tmp_path / "a")
    expected = policy.sample(conditions(), generator=generator())
    train(policy)
    monkeypatch.setattr("safetensors.torch.save", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        policy.save_adapter(folder)
    monkeypatch.undo()
    assert torch.equal(head.load_adapter(folder).sample(conditions(), generator=generator()), expected)


def test_a_flipped_bit_of_an_adapter_is_refused(tmp_path):
    head = tiny_head()
    file = trained_policy(head).save_adapter(tmp_path) / "adapter.safetensors"
    whole = bytearray(file.read_bytes())
    begin = 8 + int.from_bytes(whole[:8], "little")
    for at in range(begin, len(whole), 997):
        whole[at] ^= 1
        file.write_bytes(whole)
        with pytest.raises(WeightFileError):
            head.load_adapter(tmp_path)
        whole[at] ^= 1
    file.write_bytes(whole)
    head.load_adapter(tmp_path)


@pytest.mark.parametrize("change", [{"pool": "last"}, {"relearn_step": True}, {"through": "code"}])
def test_another_setting_in_the_header_of_an_adapter_is_refused(change, tmp_path):
    head = tiny_head()
    trained_policy(head).save_adapter(tmp_path)
    tensors, metadata = load_tensors(tmp_path / "adapter.safetensors")
    config = json.loads(metadata["action_heads"])
    config["adapter"] |= change
    save_tensors(tensors, tmp_path / "adapter.safetensors", {"action_heads": json.dumps(config)})
    with pytest.raises(WeightFileError):
        head.load_adapter(tmp_path)


def test_an_adapter_of_before_fingerprints_loads_with_a_warning(tmp_path):
    head = tiny_head()
    policy = trained_policy(head)
    policy.save_adapter(tmp_path)
    tensors, metadata = load_tensors(tmp_path / "adapter.safetensors")
    config = json.loads(metadata["action_heads"]) | {"version": 2}
    del config["fingerprint"]
    save_tensors(tensors, tmp_path / "adapter.safetensors", {"action_heads": json.dumps(config)})
    with pytest.warns(UserWarning, match="older release and has no fingerprint"):
        old = head.load_adapter(tmp_path)
    assert torch.equal(
        old.sample(conditions(), generator=generator()), policy.sample(conditions(), generator=generator())
    )


def test_a_condition_on_another_device_is_refused(policy):
    with pytest.raises(ValueError, match=r"is on meta, but the head is on cpu. Move it by .to\('cpu'\)"):
        policy.sample(conditions().to("meta"))
