"""Tests of `ObservedPolicy`: its observations, the blind control, its loss, and its folder."""

from __future__ import annotations

import shutil
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from fake_hub import fake_hub_fixture  # noqa: F401
from small import generator, tiny_config, tiny_head

from action_heads import ActionHead, ActionSpace, BackgroundExecutor, Executor
from action_heads.actions.contract import Contract
from action_heads.actions.normalize import Normalizer
from action_heads.adapt import AdaptedPolicy
from action_heads.adapters import AdaLNZero
from action_heads.encoders import ObservationConfig, ObservationEncoder, VisionConfig
from action_heads.io.hub_push import PushError
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


@pytest.mark.parametrize("observed", OBSERVED)
def test_a_folder_is_read_within_a_meta_device(observed, tmp_path):
    """Such a context is that in which transformers builds models."""
    policy, given = made(observed), batch(observed)
    with torch.device("meta"):
        again = ObservedPolicy.from_pretrained(policy.save(tmp_path))
    noise = [torch.Generator().manual_seed(0) for _ in range(2)]
    chunk = policy.sample(given["images"], given["state"], generator=noise[0])
    assert torch.equal(again.sample(given["images"], given["state"], generator=noise[1]), chunk)


@pytest.mark.parametrize("wrong", [0, -1.0, float("nan"), "20"])
def test_a_rate_is_positive(wrong):
    with pytest.raises(ValueError, match="rate_hz"):
        replace(CONTRACT, rate_hz=wrong)


# ── chunks that continue one another, in the columns of the recording ────────────────────────────────────────────────

LAYOUTS = {
    "joints_6": (0.0, 100.0),
    "pose_quaternion": (1.0, 0.0),
    "position*0.001 euler_xyz*0.0174533 gripper": (0.0, 255.0),
    "pose_6d": (-1.0, 1.0),
    "libero": (0.0, 1.0),
}


def acting(name: str) -> ObservedPolicy:
    """Return a policy whose head mixes time, for actions of a layout."""
    contract = replace(CONTRACT, action_layout=name, gripper=LAYOUTS[name])
    encoder = ObservationEncoder(ObservationConfig(observation_steps=1, state_dim=3)).eval()
    torch.manual_seed(0)
    head = ActionHead(tiny_config("mixer", space=contract.layout.space())).freeze()
    policy = head.attach(AdaLNZero(encoder.cond_dim))
    torch.nn.init.normal_(policy.adapter.aim.weight)
    return ObservedPolicy(encoder, policy.eval(), contract)


def proper(policy: ObservedPolicy, actions: torch.Tensor) -> torch.Tensor:
    """Return actions with orthonormal rotations, which those of a random head are not."""
    return policy.layout.encode(policy.layout.decode(actions))


def state(seed: int = 0) -> torch.Tensor:
    return torch.rand(2, 1, 3, generator=generator(seed))


@pytest.mark.parametrize("options", [{"committed": 3}, {"start": 0.5}, {"committed": 2, "start": 0.5}], ids=str)
@pytest.mark.parametrize("name", LAYOUTS)
def test_the_rest_of_a_chunk_is_given_in_columns(name, options):
    """The head continues the same actions in robot units, and committed columns come back bit for bit."""
    policy = acting(name)
    left = policy.sample(state=state(), generator=generator())[:, 8:]
    left[..., policy.layout.width - 1] = torch.linspace(*LAYOUTS[name], left.shape[1])
    chunk = policy.sample(state=state(1), previous=left, generator=generator(1), **options)
    assert torch.equal(chunk[:, : options.get("committed", 0)], left[:, : options.get("committed", 0)])
    cond = policy.condition(state=state(1))
    robot = policy.layout.encode(left)
    expected = policy.policy.sample(cond, previous=robot, generator=generator(1), **options)
    torch.testing.assert_close(policy.layout.encode(chunk), proper(policy, expected), atol=1e-4, rtol=0)
    assert not torch.allclose(chunk, policy.sample(state=state(1), generator=generator(1)), atol=1e-3)


@pytest.mark.parametrize("turned", [1, -1])
@pytest.mark.parametrize("options", [{"committed": 3}, {"committed": 0}, {"start": 0.5}, {}], ids=str)
def test_rotations_go_on_from_the_chunk_before(options, turned):
    """The quaternions q and -q are one rotation. A chunk continues the sign, whichever it is."""
    policy = acting("pose_quaternion")
    left = policy.sample(state=state(), generator=generator())[:, 8:]
    left[..., 3:7] *= turned
    given = {"previous": left} | options if options else {"last": left[:, 0]}
    chunk = policy.sample(state=state(1), generator=generator(1), **given)
    numbers = torch.cat([left[:, :1], chunk], 1)[..., 3:7]
    assert ((numbers[:, 1:] * numbers[:, :-1]).sum(-1) >= 0).all()


@pytest.mark.parametrize("name", LAYOUTS)
def test_executors_act_in_columns_as_in_robot_units(name):
    """A loop over the policy with its encoder gives the actions of one over its head."""
    policy = acting(name)

    class Columns:
        def sample(self, seen, **options):
            return policy.sample(state=seen, **options)

    class Robot:
        def sample(self, seen, **options):
            return proper(policy, policy.policy.sample(policy.condition(state=seen), **options))

    def played(kind, made_by, **options):
        executor = kind(made_by, execute=4, steps=4, generator=generator(), **options)
        return torch.stack([executor(state(tick) if executor.due else None) for tick in range(14)], 1)

    for kind, options in (
        (Executor, {"delay": 2}),
        (Executor, {"warm_start": 0.5}),
        (BackgroundExecutor, {"delay": 2}),
    ):
        found, expected = played(kind, Columns(), **options), played(kind, Robot(), **options)
        torch.testing.assert_close(policy.layout.encode(found), expected, atol=1e-3, rtol=0)


def test_what_cannot_be_continued_is_refused():
    policy, left = acting("joints_6"), torch.zeros(2, 8, 7)
    for given, message in (
        ({"previous": left}, "no effect without committed= or start="),
        ({"previous": left[..., :6], "committed": 2}, r"\(2, 8, 6\); expected \(..., 7\)"),
        ({"previous": left[:1], "committed": 2}, r"previous has shape \(1, 8, 7\)"),
        ({"previous": left.tolist(), "committed": 2}, "must be a torch tensor, got a list"),
        ({"previous": left, "committed": 9}, "committed=9 is out of range"),
        ({"previous": left, "committed": 1.5}, "committed must be an integer"),
        ({"committed": 2}, "need previous"),
        ({"last": torch.zeros(2, 6)}, r"\(2, 6\); expected \(..., 7\)"),
    ):
        with pytest.raises(ValueError, match=message):
            policy.sample(state=state(), **given)


# ── the place of the head ────────────────────────────────────────────────────────────────────────────────────────


def plain(head: ActionHead) -> ObservedPolicy:
    return around(head, CONTRACT)


def reshaped(head: ActionHead) -> ObservedPolicy:
    space = ActionSpace((("joint", 7), ("gripper", 1)))
    return around(head.reshape(space=space, horizon=8), replace(CONTRACT, action_layout="joints_7"))


def around(head: ActionHead, contract: Contract) -> ObservedPolicy:
    encoder = ObservationEncoder(ObservationConfig(observation_steps=1, state_dim=3))
    policy = head.attach(AdaLNZero(encoder.cond_dim), normalizer=Normalizer.identity(head.config.space))
    return ObservedPolicy(encoder, policy, contract).eval()


def chunk(policy: ObservedPolicy) -> torch.Tensor:
    return policy.sample(state=torch.ones(1, 1, 3), generator=torch.Generator().manual_seed(0))


def loses_nothing(head, make, folder):
    return make(head)


def fails_to_publish(head, make, folder):
    with pytest.raises(PushError):
        head.push_to_hub("me/tiny")
    assert head.source["path"] is None
    return make(head)


def fails_to_publish_a_loaded_head(head, make, folder):
    head = ActionHead.from_pretrained(head.save_pretrained(folder))
    with pytest.raises(PushError):
        head.push_to_hub("me/tiny")
    assert head.source["path"] == str(folder)
    shutil.rmtree(folder)
    return make(head)


def loses_the_folder_it_was_saved_in(head, make, folder):
    head.save_pretrained(folder)
    shutil.rmtree(folder)
    return make(head)


def loses_the_folder_it_was_loaded_from(head, make, folder):
    head = ActionHead.from_pretrained(head.save_pretrained(folder).parent, subfolder=folder.name)
    shutil.rmtree(folder)
    return make(head)


def has_another_head_in_its_folder(head, make, folder):
    head.save_pretrained(folder)
    tiny_head(seed=1).save_pretrained(folder)
    return make(head)


def comes_from_a_policy_that_moved(head, make, folder):
    policy = ObservedPolicy.from_pretrained(make(head).save(folder))
    shutil.move(folder, folder.with_name("moved"))
    return policy


def comes_from_a_policy_that_is_gone(head, make, folder):
    policy = make(head)
    policy.save(folder)
    shutil.rmtree(folder)
    return policy


LOST = [
    loses_nothing,
    fails_to_publish,
    fails_to_publish_a_loaded_head,
    loses_the_folder_it_was_saved_in,
    loses_the_folder_it_was_loaded_from,
    has_another_head_in_its_folder,
    comes_from_a_policy_that_moved,
    comes_from_a_policy_that_is_gone,
]


@pytest.mark.parametrize("make", [plain, reshaped])
@pytest.mark.parametrize("lose", LOST)
def test_a_saved_policy_can_be_loaded_wherever_its_head_was(lose, make, fake_hub, tmp_path):
    fake_hub.commit_status = 500
    policy = lose(tiny_head(), make, tmp_path / "lost")
    with pytest.raises(ValueError, match=r"nobody could load this adapter\. Publish the head first"):
        policy.policy.push_adapter("me/stack")
    for name in ("first", "second"):  # The second is saved while the first one keeps the head.
        loaded = ObservedPolicy.from_pretrained(policy.save(tmp_path / name))
        assert torch.equal(chunk(loaded), chunk(policy))
        assert (tmp_path / name / "head").is_dir()
    shutil.rmtree(tmp_path / "first")
    assert torch.equal(chunk(ObservedPolicy.from_pretrained(tmp_path / "second")), chunk(policy))


@pytest.mark.parametrize("make", [plain, reshaped])
def test_a_head_saved_again_is_found_where_it_is(make, tmp_path):
    """After the first place of the head is gone, saving it gives its adapters and policies the new one."""
    head = tiny_head()
    head.save_pretrained(tmp_path / "lost")
    policy = make(head)
    shutil.rmtree(tmp_path / "lost")
    head.save_pretrained(tmp_path / "kept")
    assert head.source["path"] == str(tmp_path / "kept")
    loaded = ObservedPolicy.from_pretrained(policy.save(tmp_path / "policy"))
    assert not (tmp_path / "policy" / "head").exists()
    assert torch.equal(chunk(loaded), chunk(policy))


def test_a_policy_saved_over_another_ones_head_has_its_own(tmp_path):
    plain(tiny_head(seed=1)).save(tmp_path / "policy")
    head = ActionHead.from_pretrained(tiny_head().save_pretrained(tmp_path / "kept"))
    policy = plain(head)
    loaded = ObservedPolicy.from_pretrained(policy.save(tmp_path / "policy"))
    assert torch.equal(chunk(loaded), chunk(policy))


@pytest.mark.parametrize(("make", "place"), [(plain, torch.bfloat16), (reshaped, torch.bfloat16), (reshaped, "meta")])
def test_a_head_that_can_t_be_written_again_is_refused(make, place, tmp_path):
    """Its weights would have another fingerprint than the one that the adapter names."""
    head = ActionHead.from_pretrained(tiny_head().save_pretrained(tmp_path / "lost"))
    policy = make(head)
    head.to(place)
    policy.save(tmp_path / "while it is kept")
    shutil.rmtree(tmp_path / "lost")
    with pytest.raises(ValueError, match=r"can't be saved together with its head .* Load the head again in float32"):
        policy.save(tmp_path / "policy")
    assert not (tmp_path / "policy").exists()


def test_a_head_that_trains_along_goes_on_after_a_save(tmp_path):
    """Each save holds the policy as it was then, and changes neither its gradients nor the place of its head."""
    policy = plain(tiny_head().in_mode("normal")).train()
    place = policy.policy.head.source
    trained, count = policy.parameter_groups()[0], policy.policy.num_trainable
    optimizer = torch.optim.AdamW(trained, lr=1e-2)
    given = batch("state")
    saves = []
    for name in ("first", "second", "first"):
        policy.loss(given).backward()
        optimizer.step()
        optimizer.zero_grad()
        policy.save(tmp_path / name)
        assert policy.training
        assert policy.policy.head.training
        assert policy.policy.head.source == place
        assert policy.policy.num_trainable == count == sum(p.numel() for p in policy.policy.trainable_parameters())
        loaded = ObservedPolicy.from_pretrained(tmp_path / name)
        assert loaded.policy.head.frozen
        assert loaded.policy.head.source["path"] == str(tmp_path / name / "head")
        assert torch.equal(chunk(loaded), chunk(policy))
        saves.append(chunk(loaded))
    assert not any(torch.equal(one, other) for one, other in pairwise(saves))


@pytest.mark.parametrize("mode", ["decoupled", "random-frozen", "normal"])
def test_requires_grad_off_and_on_changes_nothing(mode):
    """`requires_grad_` of torch would let everything train, also a frozen head."""
    policy = plain(tiny_head().in_mode(mode))
    before = {name for name, p in policy.named_parameters() if p.requires_grad}
    policy.requires_grad_(False)
    assert not any(p.requires_grad for p in policy.parameters())
    policy.requires_grad_(True)
    assert {name for name, p in policy.named_parameters() if p.requires_grad} == before
    assert sum(p.numel() for p in policy.policy.trainable_parameters()) == policy.policy.num_trainable
