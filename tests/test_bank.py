"""Tests that each row of a bank's batch is what its own policy makes of it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from small import COND_DIM, conditions, generator, tiny_head, trained_policy
from together import check_together

from action_heads import AdapterBank, Normalizer
from action_heads import bank as bank_module
from action_heads.adapters import AdaLNZero

TASKS = ["stack", "lift", "stack", "pour"]


def policies(head, **options):
    """Return three trained policies, one of them with its own normalizer."""
    made = {}
    for seed, name in enumerate(("stack", "lift", "pour")):
        torch.manual_seed(seed)
        made[name] = trained_policy(head, "adaln_zero", **options)
        made[name].adapter.standardize(seed + conditions(50, seed=10 + seed))
    made["lift"].own_normalizer = Normalizer.from_range([-1, -1, -1], [2, 2, 2], head.config.space)
    return made


def bank_of(head, made) -> AdapterBank:
    bank = AdapterBank(head)
    for name, policy in made.items():
        bank.add(name, policy)
    return bank


@pytest.mark.parametrize("options", [{"through": "code"}, {}, {"through": "code", "per_step": True}])
def test_every_row_by_its_own_adapter(options):
    head = tiny_head()
    made = policies(head, **options)
    chunk = bank_of(head, made).on(TASKS).sample(conditions(4), generator=generator())
    for row, task in enumerate(TASKS):
        alone = made[task].sample(conditions(4), generator=generator())
        torch.testing.assert_close(chunk[row], alone[row])


def test_compiled_rows_are_still_each_its_own():
    head = tiny_head(width=64)
    rows = bank_of(head, policies(head)).on(TASKS)
    fast = rows.compile()
    chunks = [p.sample(conditions(4), generator=generator()) for p in (rows, fast)]
    torch.testing.assert_close(*chunks, rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="4 tasks came with 3 conditions"):
        fast.sample(conditions(3))


def test_policies_of_one_bank_in_two_threads():
    head = tiny_head()
    bank = bank_of(head, policies(head))

    def acting(task: str) -> Callable[[], torch.Tensor]:
        policy = bank.on([task])
        return lambda: policy.sample(conditions(1), generator=generator())

    check_together(acting("stack"), acting("lift"))


def test_the_same_tasks_again_copy_no_weights(monkeypatch):
    """A loop may call `on` in every tick. What changes the rows is seen at once."""
    head = tiny_head()
    made = policies(head)
    bank, stacked = bank_of(head, made), []
    monkeypatch.setattr(
        bank_module, "stacked", lambda *rows, each=bank_module.stacked: stacked.append(1) or each(*rows)
    )

    def chunk(tasks):
        return bank.on(tasks).sample(conditions(len(tasks)), generator=generator())

    first = chunk(TASKS)
    stacks = len(stacked)
    assert torch.equal(chunk(TASKS), first)
    assert len(stacked) == stacks
    assert not torch.equal(chunk(TASKS[::-1]), first)
    assert torch.equal(chunk(TASKS), first)
    bank.add("lift", made["pour"])
    assert not torch.equal(chunk(TASKS)[1], first[1])
    bank.remove("stack")
    with pytest.raises(ValueError, match="no adapter for 'stack'"):
        chunk(TASKS)


def test_rows_follow_where_they_are_moved():
    head = tiny_head()
    bank = bank_of(head, policies(head))
    rows, again = bank.on(TASKS), bank.on(TASKS)
    values = rows.modulate(conditions(4))
    moved = rows.double().modulate(conditions(4).double())
    assert moved.dtype == torch.float64
    torch.testing.assert_close(moved.float(), values)
    head.float()
    assert torch.equal(again.modulate(conditions(4)), values)  # It shared the weights, and was not moved.
    head.to("meta")
    assert bank.on(TASKS).modulate(conditions(4).to("meta")).is_meta


def test_rows_keep_their_statistics_in_float32():
    head, cond = tiny_head(), 1000 + conditions(4)
    made = policies(head)
    for policy in made.values():
        policy.adapter.standardize(cond)
    rows = bank_of(head, made).on(TASKS)
    exact = rows.modulate(cond)
    torch.testing.assert_close(rows.to(torch.bfloat16).modulate(cond).float(), exact, atol=0.05, rtol=0.05)


def test_a_policy_of_a_bank_only_acts(tmp_path):
    head = tiny_head()
    rows = bank_of(head, policies(head)).on(TASKS)
    for call in (lambda: rows.loss(0, 0), lambda: rows.save_adapter(tmp_path), lambda: rows.load_adapter(tmp_path)):
        with pytest.raises(RuntimeError, match="can only sample"):
            call()


@pytest.mark.parametrize("pool", ["mean", "last", "attention"])
def test_tokens_with_masks_and_several_sources(pool):
    head = tiny_head()
    made = {}
    for seed, name in enumerate(("stack", "lift")):
        torch.manual_seed(seed)
        made[name] = head.attach(AdaLNZero({"tokens": 5, "state": 3}, pool=pool))
        for p in made[name].adapter.parameters():
            p.data.add_(0.1 * torch.randn_like(p))
    cond = {"tokens": torch.randn(2, 6, 5), "state": torch.randn(2, 3)}
    mask = {"tokens": torch.tensor([[1, 1, 1, 0, 0, 0], [0, 1, 1, 1, 1, 1]], dtype=torch.bool)}
    chunk = bank_of(head, made).on(["lift", "stack"]).sample(cond, mask=mask, generator=generator())
    for row, task in enumerate(("lift", "stack")):
        alone = made[task].sample(cond, mask=mask, generator=generator())
        torch.testing.assert_close(chunk[row], alone[row])


def test_swapping_and_forgetting_touch_one_adapter_and_never_the_head(tmp_path):
    head = tiny_head()
    made = policies(head, through="code")
    bank, before = bank_of(head, made), head.fingerprint()
    old = bank.on(["lift", "pour"])
    was = old.sample(conditions(2), generator=generator())
    bank.add("lift", made["stack"].save_adapter(tmp_path))
    now = bank.on(["lift", "pour"]).sample(conditions(2), generator=generator())
    assert not torch.equal(now[0], was[0])
    torch.testing.assert_close(now[0], made["stack"].sample(conditions(2), generator=generator())[0])
    torch.testing.assert_close(now[1], was[1])
    assert torch.equal(old.sample(conditions(2), generator=generator()), was), "what was handed out keeps its adapters"
    bank.remove("stack")
    assert (bank.names, len(bank)) == (("lift", "pour"), 2)
    torch.testing.assert_close(bank.on(["pour"] * 2).sample(conditions(2), generator=generator())[1], was[1])
    assert head.fingerprint() == before


def test_training_on_changes_nothing_in_the_bank():
    head = tiny_head()
    made = policies(head, through="code")
    bank = bank_of(head, made)
    was = bank.on(["lift"]).sample(conditions(1), generator=generator())
    with torch.no_grad():
        for p in made["lift"].adapter.parameters():
            p.add_(1)
    assert torch.equal(bank.on(["lift"]).sample(conditions(1), generator=generator()), was)
    assert not list(bank.on(["lift"]).trainable_parameters())


def test_refusals():
    head = tiny_head()
    bank = bank_of(head, policies(head, through="code"))
    with pytest.raises(ValueError, match=r"the bank has no adapter for 'sweep'. It has stack, lift, pour"):
        bank.on(["sweep"])
    with pytest.raises(ValueError, match="must be a list of names, one for each row"):
        bank.on("stack")
    with pytest.raises(ValueError, match=r"the bank has no adapter for 'stack'. It has none yet"):
        AdapterBank(head).on(["stack"])
    with pytest.raises(ValueError, match="2 tasks came with 3 conditions"):
        bank.on(["stack", "lift"]).sample(conditions(3))
    with pytest.raises(ValueError, match="Use one bank for each setting"):
        bank.add("sweep", head.attach(AdaLNZero(COND_DIM, through="code", hidden_dim=5)))
    with pytest.raises(ValueError, match="relearn_step"):
        bank.add("sweep", head.attach(AdaLNZero(COND_DIM, relearn_step=True)))
    for other in (bank.on(["stack"]), bank.on(["stack"]).compile("eager"), bank, None, AdaLNZero(COND_DIM)):
        with pytest.raises(ValueError, match=r"'sweep' must be a policy that head\.attach.*; got \w+"):
            bank.add("sweep", other)  # type: ignore[arg-type]
    assert "sweep" not in bank
    with pytest.raises(ValueError, match="Use one bank for each head"):
        bank.add("sweep", trained_policy(tiny_head(seed=1), "adaln_zero", through="code"))


def test_a_compiled_policy_is_the_one_it_was_compiled_from():
    head = tiny_head()
    made = policies(head, through="code")
    bank = bank_of(head, {name: policy.compile("packed") for name, policy in made.items()})
    expected = made["lift"].sample(conditions(1), generator=generator())
    torch.testing.assert_close(bank.on(["lift"]).sample(conditions(1), generator=generator()), expected)


def test_a_bank_lists_its_tasks():
    head = tiny_head()
    bank = AdapterBank(head)
    assert (list(bank), repr(bank)) == ([], "AdapterBank(test/tiny: no adapter yet)")
    for task in ("stack", "lift"):
        bank.add(task, head.attach(AdaLNZero(COND_DIM)))
    assert list(bank) == ["stack", "lift"]
    assert repr(bank) == "AdapterBank(test/tiny: stack, lift)"


def test_only_settings_that_differ_are_named():
    head = tiny_head()
    bank = AdapterBank(head)
    bank.add("stack", head.attach(AdaLNZero(COND_DIM, through="code")))
    expected = (
        "^the adapter for 'lift' has cond_dim=9, which is 7 in the other adapters of this bank. Use one bank for each "
        "setting.$"
    )
    with pytest.raises(ValueError, match=expected):
        bank.add("lift", head.attach(AdaLNZero(9, through="code")))
