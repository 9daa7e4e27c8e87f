"""Tests of the layers that read a condition: pooling under masks, several sources, and older files without them."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from small import COND_DIM, actions, conditions, generator, tiny_head

from action_heads import adapter_file
from action_heads.adapters import AdaLNZero
from action_heads.adapters.condition_reader import POOLS, Read
from action_heads.fit import FitConfig, fit
from action_heads.io import files

SOURCES = {"tokens": COND_DIM, "state": 3, "text": 5}


def built(cond_dim=COND_DIM, **options):
    """Return a policy whose adapter and pooling are not at their initial values."""
    policy = tiny_head().attach(AdaLNZero(cond_dim, **options))
    with torch.no_grad():
        for p in policy.adapter.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=generator()))
    return policy.eval()


def tokens(batch: int = 3, n: int = 6, width: int = COND_DIM, seed: int = 0) -> torch.Tensor:
    return torch.randn(batch, n, width, generator=generator(seed))


def several(batch: int = 3) -> dict[str, torch.Tensor]:
    return {"tokens": tokens(batch), "state": tokens(batch, width=3)[:, 0], "text": tokens(batch, 4, 5)}


MASK = torch.tensor([[1, 1, 1, 0, 0, 0], [0, 0, 1, 1, 1, 0], [1, 1, 1, 1, 1, 1]])  # padding on either side


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.int32, torch.uint8])
def test_padding_never_matters(pool, dtype):
    """Neither the values nor the amount of padding changes a chunk, for any dtype of the mask."""
    policy, clean = built(pool=pool), tokens()
    expected = policy.sample(clean, mask=MASK.bool(), generator=generator())
    spoilt = clean.masked_fill(MASK[..., None] == 0, float("nan"))
    longer = torch.cat([spoilt, torch.full((3, 40, COND_DIM), float("inf"))], 1)
    mask = torch.cat([MASK, torch.zeros(3, 40, dtype=MASK.dtype)], 1).to(dtype)
    torch.testing.assert_close(policy.sample(longer, mask=mask, generator=generator()), expected)


@pytest.mark.parametrize("pool", POOLS)
def test_gradients_pass_padding_by(pool):
    policy, given = built(pool=pool), tokens().masked_fill(MASK[..., None] == 0, float("nan")).requires_grad_()
    policy.loss(actions(3), given, mask=MASK, generator=generator()).backward()
    assert given.grad is not None
    assert (given.grad[MASK == 0] == 0).all()
    assert (given.grad[MASK == 1].abs().sum(-1) > 0).any()
    assert all(p.grad.isfinite().all() for p in policy.trainable_parameters() if p.grad is not None)


def test_last_is_the_last_valid_token():
    policy, given = built(pool="last"), tokens()
    chosen = given[torch.arange(3), torch.tensor([2, 4, 5])]
    got, expected = (policy.sample(x, mask=m, generator=generator()) for x, m in ((given, MASK), (chosen, None)))
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("pool", POOLS)
def test_a_vector_is_its_own_only_token(pool):
    policy = built(pool=pool)
    got = (policy.sample(x, generator=generator()) for x in (conditions(), conditions()[:, None].repeat(1, 3, 1)))
    torch.testing.assert_close(*got)


def test_attention_begins_as_the_mean_and_is_multi_head_attention():
    """Attention pooling starts as the mean, and equals torch's multi-head attention with a learned query."""
    mean, fresh = (tiny_head().attach(AdaLNZero(COND_DIM, pool=pool)).adapter for pool in ("mean", "attention"))
    fresh.load_state_dict(mean.state_dict() | {"pool.query": fresh.pool.query})
    torch.testing.assert_close(*(a.read(a.pool(a.standard(tokens()), MASK)) for a in (mean, fresh)))
    adapter, x = built(pool="attention", hidden_dim=8).adapter, tokens()
    attention = torch.nn.MultiheadAttention(8, 4, kdim=COND_DIM, vdim=COND_DIM, batch_first=True)
    with torch.no_grad():  # With these weights W_q q · W_k x is the learned query · x.
        attention.in_proj_bias.zero_()
        attention.q_proj_weight.copy_(torch.eye(8))
        attention.k_proj_weight.copy_(torch.zeros(8, COND_DIM))
        attention.k_proj_weight[::2].copy_(adapter.pool.query)
        attention.v_proj_weight.copy_(adapter.read[0].weight)
        attention.out_proj.weight.copy_(torch.eye(8))
        attention.out_proj.bias.copy_(adapter.read[0].bias)
    query = torch.tensor([1.0, 0.0]).repeat(4).expand(3, 1, 8) * (2 / COND_DIM) ** 0.5
    expected, _ = attention(query, x, x, key_padding_mask=MASK == 0)
    torch.testing.assert_close(adapter.read[0](adapter.pool(x, MASK)), expected[:, 0])


def test_attention_finds_a_token_that_the_mean_drowns():
    """Attention learns to read a number from the one token of twelve that is marked in its first channel."""
    numbers = torch.rand(512, 1, generator=generator()) * 2 - 1
    x = torch.randn(512, 12, COND_DIM, generator=generator())
    x[..., 0] = 0
    at = torch.randint(12, (512,), generator=generator())
    x[torch.arange(512), at] = torch.cat([torch.full((512, 1), 3.0), numbers.expand(-1, COND_DIM - 1)], 1)
    final = {}
    for name, make in POOLS.items():
        torch.manual_seed(0)
        pool, read = make(COND_DIM), torch.nn.Sequential(Read(COND_DIM, 16), torch.nn.Mish(), torch.nn.Linear(16, 1))
        optimizer = torch.optim.Adam([*pool.parameters(), *read.parameters()], 2e-2)
        for _ in range(200):
            optimizer.zero_grad()
            loss = (read(pool(x, None)) - numbers).square().mean()
            loss.backward()
            optimizer.step()
        final[name] = loss.item()
    assert final["attention"] < 0.2 * min(final["mean"], final["last"])


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("cond_dim", [COND_DIM, SOURCES], ids=["one", "several"])
def test_fresh_is_the_unconditional_head_and_files_round_trip(pool, cond_dim, tmp_path):
    head = tiny_head()
    cond, mask = (tokens(), MASK) if isinstance(cond_dim, int) else (several(), {"tokens": MASK})
    fresh = head.attach(AdaLNZero(cond_dim, pool=pool))
    assert torch.equal(
        fresh.sample(cond, mask=mask, generator=generator()),
        head.sample(3, mechanism="adaln_zero", generator=generator()),
    )
    policy = built(cond_dim, pool=pool)
    policy.adapter.standardize(cond, mask)
    loaded = head.load_adapter(policy.save_adapter(tmp_path))
    assert loaded.adapter.config == policy.adapter.config
    got = (each.sample(cond, mask=mask, generator=generator()) for each in (policy, loaded))
    assert torch.equal(*got)


def test_files_from_before_pooling_are_read(tmp_path):
    policy = built()
    file = policy.save_adapter(tmp_path) / adapter_file.NAME
    weights, metadata = files.load_tensors(file)
    assert set(weights) >= {"adapter.standard.mean", "adapter.read.0.weight", "adapter.read.2.bias"}  # their names
    config = json.loads(metadata["action_heads"]) | {"version": 2}
    del config["adapter"]["pool"], config["fingerprint"]
    files.save_tensors(weights, file, {"action_heads": json.dumps(config)})
    got = (each.sample(conditions(), generator=generator()) for each in (policy, tiny_head().load_adapter(tmp_path)))
    assert torch.equal(*got)


def test_every_source_matters_and_is_standardised_on_its_own():
    policy, cond = built(SOURCES), several(50)
    cond["state"] = 1000 + 5 * cond["state"]
    policy.adapter.standardize(cond)
    seen = policy.adapter.standard(cond)
    assert all(abs(float(part.mean())) < 0.01 and abs(float(part.std()) - 1) < 0.1 for part in seen.values())
    whole = policy.sample(cond, generator=generator())
    for name in SOURCES:
        other = policy.sample(cond | {name: cond[name] + 3}, generator=generator())
        assert (whole - other).abs().max() > 1e-3, name


def test_some_sources_alone_are_standardised():
    adapter = built(SOURCES).adapter
    adapter.standardize({"state": 7 + several(50)["state"]})
    seen = adapter.standard(several())
    assert torch.equal(seen["text"], several()["text"])
    assert (seen["state"] < -3).any()
    with pytest.raises(ValueError, match=r"got \['depth', 'state'\]"):
        adapter.standardize({"state": several()["state"], "depth": tokens()})


def test_the_order_of_sources_is_nothing():
    one, other = (built(dict(pairs)) for pairs in (SOURCES.items(), reversed(SOURCES.items())))
    cond = several()
    turned = dict(reversed(cond.items()))
    assert torch.equal(*(p.sample(c, generator=generator()) for p, c in ((one, cond), (other, turned))))


def test_a_small_source_is_not_drowned_by_a_wide_one():
    """At the start a source of eight numbers has as much weight as one of two thousand."""
    adapter = tiny_head(width=64).attach(AdaLNZero({"tokens": 2048, "state": 8})).adapter
    with torch.no_grad():
        size = {name: read(torch.randn(200, read.in_features)).std() for name, read in adapter.read[0].items()}
    assert 0.5 < size["state"] / size["tokens"] < 2


def test_several_sources_train_by_fit():
    policy = tiny_head().attach(AdaLNZero(SOURCES, pool="attention"))
    before = copy.deepcopy(policy.adapter.state_dict())
    mask = {"tokens": MASK.repeat(4, 1), "text": torch.ones(12, 4, dtype=torch.bool)}
    fit(policy, actions(12), several(12), mask=mask, config=FitConfig(steps=5, batch_size=4, precision="fp32"))
    moved = {name for name, p in policy.adapter.state_dict().items() if not torch.equal(p, before[name])}
    assert moved >= {f"read.0.{name}.weight" for name in SOURCES} | {"pool.tokens.query", "pool.text.query"}
    with pytest.raises(ValueError, match="same number of rows, one for each chunk; got 12, 12, 12, 9"):
        fit(policy, actions(12), several(12) | {"text": tokens(9, 4, 5)})
    with pytest.raises(ValueError, match=r"same number of rows.*got 12, 12, 12, 12, 24"):
        fit(policy, actions(12), several(12), mask={"tokens": MASK.repeat(8, 1)})


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("pool", POOLS)
def test_half_precision_tokens(dtype, pool):
    policy, given = built(pool=pool), tokens().to(dtype)
    got, expected = (policy.sample(x, mask=MASK, generator=generator()) for x in (given, given.float()))
    assert torch.equal(got, expected)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (MASK.float(), r"boolean or integer.*got torch.float32. Pass mask == 1, or mask == 0"),
        (2 * MASK, r"holds \[0, 2\]; expected only 0 and 1"),
        (MASK[:, :5], r"mask has shape \(3, 5\); expected \(3, 6\)"),
        (MASK * torch.tensor([[1], [0], [1]]), "mask is false for all tokens of batch row 1"),
        (MASK.tolist(), "mask must be a torch tensor, got a list"),
    ],
)
def test_masks_are_refused_with_the_remedy(mask, message):
    with pytest.raises(ValueError, match=message):
        built().sample(tokens(), mask=mask)


def nan(x: torch.Tensor) -> torch.Tensor:
    return x.index_fill(0, torch.tensor([1]), float("nan"))


@pytest.mark.parametrize(
    ("changes", "mask", "message"),
    [
        (
            {"text": None},
            None,
            r"dict of tensors for the sources \['state', 'text', 'tokens'\], got \['state', 'tokens'\]",
        ),
        ({"depth": tokens()}, None, "got .*'depth'"),
        ({"text": tokens(3, 4, 6)}, None, r"cond\['text'\] has shape \(3, 4, 6\).*cond_dim=5"),
        ({"state": nan(tokens(width=3)[:, 0])}, None, r"cond\['state'\] has NaN.* row 1"),
        ({"state": tokens(4, width=3)[:, 0]}, None, "same batch size, got .*state 4"),
        ({}, {"image": MASK}, "mask must be a dict with keys among the sources"),
        ({}, MASK, "mask must be a dict .*got a Tensor"),
        ({}, {"state": MASK}, r"mask\['state'\] was given, but cond has no token axis"),
        ({}, {"tokens": MASK.float()}, r"mask\['tokens'\] must be boolean or integer"),
    ],
)
def test_sources_are_refused_by_name(changes, mask, message):
    cond = {name: part for name, part in (several() | changes).items() if part is not None}
    with pytest.raises(ValueError, match=message):
        built(SOURCES).sample(cond, mask=mask)


def test_one_source_or_several():
    with pytest.raises(ValueError, match="got a Tensor"):
        built(SOURCES).sample(tokens())
    with pytest.raises(ValueError, match="takes one condition of width 7, but a dict of several was given"):
        built().sample(several())
    for sources, message in [
        ({}, "cond_dim is an empty dict"),
        ({"a.b": 3}, "cannot be called 'a.b'"),
        ({"values": 3}, "cannot be called 'values'"),
        ({"state": 0}, r"cond_dim\['state'\] must be a positive integer"),
    ]:
        with pytest.raises(ValueError, match=message):
            AdaLNZero(sources)
    with pytest.raises(ValueError, match="unknown pool 'max'; choose one of mean, last, attention"):
        AdaLNZero(COND_DIM, pool="max")
