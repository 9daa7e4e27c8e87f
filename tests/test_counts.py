"""Tests that parameter counts before attaching are those after it, and agree in README, cards and code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from small import COND_DIM, tiny_head

from action_heads import ActionHead, HeadConfig
from action_heads.adapters import ADAPTERS, FiLM
from action_heads.adapters.config import THROUGH
from action_heads.backbones import BACKBONES
from action_heads.card import head_card
from action_heads.counts import WIDEST, match_trainable, trained
from action_heads.io import hub
from action_heads.io.listing import sizes, sizes_of_file, table


@pytest.mark.parametrize("options", [{}, {"hidden_dim": 5, "relearn_step": True}])
@pytest.mark.parametrize("through", [None, *THROUGH])
def test_counted_before_is_trained_after(head, mechanism, through, options):
    adapter, options = ADAPTERS[mechanism], {**options, "through": through}
    before = trained(head, adapter, COND_DIM, **options)
    assert before == head.attach(adapter(COND_DIM, **options)).num_trainable


@pytest.mark.parametrize("relearn_step", [False, True])
@pytest.mark.parametrize("through", THROUGH)
def test_no_other_hidden_dim_comes_closer(backbone, mechanism, through, relearn_step):
    head = tiny_head(backbone, depth=2 if backbone == "unet" else 1)
    options = {"through": through, "relearn_step": relearn_step}
    adapter = ADAPTERS[mechanism]
    least = trained(head, adapter, COND_DIM, hidden_dim=1, **options)
    for target in (least, 7 * least + 500):
        matched = match_trainable(head, adapter, COND_DIM, target, **options)
        hidden = matched.config.hidden_dim
        off = abs(head.attach(matched).num_trainable - target)
        for other in {max(1, hidden - 1), hidden + 1} - {hidden}:
            assert off <= abs(trained(head, adapter, COND_DIM, hidden_dim=other, **options) - target)


@pytest.mark.parametrize("name", sorted(hub.bundled()))
def test_readme_card_list_and_code_count_the_same(name):
    """The size in a name is that of the denoiser; a policy computes with it and with one modulation."""
    folder = hub.bundled()[name]
    head = ActionHead.from_pretrained(name)
    counts = sizes({key: parameter.shape for key, parameter in head.named_parameters()})
    assert counts == sizes_of_file(folder / "model.safetensors")
    assert counts.total == head.num_parameters
    assert counts.denoiser == sum(p.numel() for p in head.backbone.parameters())
    assert f"{counts.total:,} parameters" in repr(head)

    readme = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
    (row,) = [line for line in readme.splitlines() if line.startswith(f"| `{name}` |")]
    frozen = counts.denoiser + counts.modulation["adaln_zero"]  # with the adapter of the README's example
    assert row.split("|")[4].strip() == f"{frozen / 1e6:.1f} million"
    card = head_card(head, name, folder)
    assert f"| parameters | {counts.text(name)}; all frozen |" in card
    assert card == (folder / "README.md").read_text(encoding="utf-8")
    (line,) = [line for line in table().splitlines() if line.startswith(f"| `{name}` |")]
    assert line.split("|")[2].strip() == f"{counts.denoiser / 1e6:.1f}M"

    millions = re.findall(r"-(\d+(?:\.\d+)?)m-", name)
    assert float(millions[0]) == pytest.approx(counts.denoiser / 1e6, rel=0.05)
    for mechanism in head.config.mechanisms:
        policy = head.attach(ADAPTERS[mechanism](COND_DIM))
        assert policy.num_frozen == counts.denoiser + counts.modulation[mechanism]
        assert f"{policy.num_frozen:,} frozen" in repr(policy)


def test_a_size_means_the_denoiser_of_an_mlp():
    from action_heads.pretrain.settings import SIZES, SIZES_OF, PretrainConfig

    for arch, known in {"mlp": SIZES, **SIZES_OF}.items():
        for size in known:
            c = PretrainConfig(arch=arch, size=size).head()
            with torch.device("meta"):
                shape = {"horizon": c.horizon, "width": c.width, "depth": c.depth, "expansion": c.expansion}
                denoiser = BACKBONES[arch](action_dim=c.space.dim, **shape)
            count = sum(p.numel() for p in denoiser.parameters())
            assert float(size[:-1]) == pytest.approx(count / 1e6, rel=0.2), (arch, size, count)


def test_adapters_and_heads_can_be_compared_at_one_size():
    """All mechanisms can be compared at one size, unlike the 0.57M to 6.5M of the paper's table."""
    head = ActionHead(HeadConfig()).freeze()
    sizes = [head.attach(match_trainable(head, ADAPTERS[m], 512, 500_000)).num_trainable for m in head.modulation]
    assert max(abs(size - 500_000) for size in sizes) < 0.02 * 500_000


def test_what_trains_of_the_head_is_not_the_adapters():
    normal = tiny_head().in_mode("normal")
    policy = normal.attach(FiLM(COND_DIM))
    assert trained(normal, FiLM, COND_DIM) == sum(p.numel() for p in policy.adapter.parameters())


def test_counting_draws_nothing_and_holds_nothing():
    head, state = tiny_head(), torch.get_rng_state()
    assert trained(head, FiLM, COND_DIM, hidden_dim=WIDEST, through="code") > 2 * 10**8
    assert torch.equal(torch.get_rng_state(), state)
    match_trainable(head, FiLM, COND_DIM, 10_000, through="code")
    assert torch.equal(torch.get_rng_state(), state)


def test_a_matched_adapter_is_an_ordinary_one():
    adapter = match_trainable(tiny_head(), FiLM, COND_DIM, 1000, through="code")
    assert {p.device.type for p in (*adapter.parameters(), *adapter.buffers())} == {"cpu"}
    assert not adapter.is_built
    assert adapter.config.through == "code"


def test_targets_out_of_reach_are_refused():
    head = tiny_head()
    least = [trained(head, FiLM, COND_DIM, hidden_dim=1, through=path) for path in THROUGH]
    expected = f"are {least[0]:,} with through='code', {least[1]:,} with through='blocks', {least[2]:,} with"
    with pytest.raises(ValueError, match=f"film cannot train 99 parameters on test/tiny.*it trains .*{expected}"):
        match_trainable(head, FiLM, COND_DIM, 99, through="blocks")
    with pytest.raises(ValueError, match=f"hidden_dim from 1 to {WIDEST:,}"):
        match_trainable(head, FiLM, COND_DIM, 10**12)
    with pytest.raises(ValueError, match="pretrained for film"):
        match_trainable(tiny_head("unet"), ADAPTERS["adaln"], COND_DIM, 1000)
    with pytest.raises(ValueError, match=r"99 parameters.*smallest numbers are [0-9,]+ with through='blocks'$"):
        match_trainable(tiny_head(coded=False), FiLM, COND_DIM, 99)
