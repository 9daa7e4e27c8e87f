"""Rows of earlier observations, which stay within their episode and no older than told."""

from __future__ import annotations

import pytest
import torch
from small import generator

from action_heads.vlm import Embeddings, earlier_rows

LENGTHS = [5, 1, 30]


def test_ages_are_within_the_episode_and_equally_likely():
    first = torch.tensor([0] * 5 + [5] + [6] * 30)
    seen = torch.stack([earlier_rows(LENGTHS, 3, generator(seed)) for seed in range(400)])
    ages = torch.arange(36) - seen
    assert (seen >= first).all()
    assert (ages >= 0).all()
    share = torch.stack([(ages[:, 9:] == age).float().mean() for age in range(5)])
    torch.testing.assert_close(share, torch.tensor([0.25] * 4 + [0.0]), atol=0.02, rtol=0)
    assert (seen[:, [0, 5, 6]] == torch.tensor([0, 5, 6])).all()


def test_no_age_is_the_row_itself_and_a_seed_repeats():
    assert torch.equal(earlier_rows(torch.tensor(LENGTHS), 0), torch.arange(36))
    assert torch.equal(earlier_rows(LENGTHS, 4, generator(3)), earlier_rows(LENGTHS, 4, generator(3)))


@pytest.mark.parametrize(
    ("lengths", "max_age", "message"),
    [
        ([3], -1, "max_age must be 0 rows or more, got -1"),
        ([], 1, "positive numbers of rows, got \\[\\]"),
        ([3, 0], 1, "positive numbers of rows, got \\[3, 0\\]"),
        (3, 1, "positive numbers of rows, got 3"),
    ],
)
def test_refusals(lengths, max_age, message):
    with pytest.raises(ValueError, match=message):
        earlier_rows(lengths, max_age)


def test_embeddings_at_rows(tmp_path):
    from action_heads.io.files import save_tensors

    tokens = {key: torch.randn(2 + i, 3).bfloat16() for i, key in enumerate("abc")}
    save_tensors(tokens, tmp_path / "x.safetensors")
    chosen = Embeddings([tmp_path / "x.safetensors"] * 3, list("abc")).at(torch.tensor([2, 0, 2]))
    found, mask = chosen[:]
    assert mask.sum(1).tolist() == [4, 2, 4]
    assert torch.equal(found[1][mask[1]], tokens["a"])
    assert torch.equal(found[2], tokens["c"])
