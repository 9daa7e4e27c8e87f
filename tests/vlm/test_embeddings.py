"""A cache returns what the tap returns, embeds nothing twice, and never mixes models or preprocessing."""

from __future__ import annotations

import pickle

import pytest
import torch

pytest.importorskip("transformers")
pytest.importorskip("tqdm")

import tiny_vlms
from small import actions, tiny_head

from action_heads import WeightFileError
from action_heads.adapters import AdaLNZero
from action_heads.fit import FitConfig, fit
from action_heads.vlm import Tap, embed

NAME = "smolvlm"


class Counting(Tap):
    """A tap that counts the rows it embeds, and can fail after some."""

    rows, most = 0, 10**6

    def forward(self, **inputs):
        if self.rows >= self.most:
            raise KeyboardInterrupt
        self.rows += len(inputs["input_ids"])
        return super().forward(**inputs)


def counting(seed: int = 0, **options) -> Counting:
    return Counting(tiny_vlms.build(NAME, seed), **options)


def samples(n: int = 10) -> list[dict[str, torch.Tensor]]:
    """Return samples with a batch axis of one, every third with fewer words."""
    rows = [tiny_vlms.inputs(NAME, batch=2, seed=seed) for seed in range(n)]
    rows = [{name: value[1:] for name, value in row.items()} for row in rows]
    for row in rows[::3]:
        row["input_ids"], row["attention_mask"] = row["input_ids"][:, :-2], row["attention_mask"][:, :-2]
    return rows


@pytest.mark.parametrize("select", ["all", "image"])
def test_it_gives_what_the_tap_gives(tmp_path, select):
    tap = counting(select=select)
    cached = embed(tap, samples(), tmp_path, batch_size=4, shard_size=3)
    assert len(cached) == 10
    tokens, mask = cached[torch.tensor([7, 0, 4])]
    for row, i in enumerate([7, 0, 4]):
        expected, valid = tap(**samples()[i])
        assert tokens.dtype == torch.bfloat16
        torch.testing.assert_close(tokens[row][mask[row]].float(), expected[valid], atol=0.02, rtol=0.02)
    again = pickle.loads(pickle.dumps(cached))
    assert torch.equal(again[2:4][0], cached[2:4][0])


def test_nothing_is_made_twice(tmp_path):
    tap = counting()
    embed(tap, samples() + samples(), tmp_path)
    assert tap.rows == 10
    embed(tap, samples(12), tmp_path)
    assert tap.rows == 12


def test_a_killed_run_continues(tmp_path):
    tap = counting()
    tap.most = 6
    with pytest.raises(KeyboardInterrupt):
        embed(tap, samples(), tmp_path, batch_size=2, shard_size=4)
    rows, tap.most = tap.rows, 10**6
    cached = embed(tap, samples(), tmp_path, batch_size=2)
    assert tap.rows == 10 > rows
    straight = embed(counting(), samples(), tmp_path / "other", batch_size=2)
    assert torch.equal(cached[:][0], straight[:][0])
    assert not [path for path in tmp_path.iterdir() if path.suffix == ".tmp"]


def test_another_model_or_preprocessing_has_other_keys(tmp_path):
    keys = set(embed(counting(), samples(), tmp_path).keys)
    others = {
        "weights": embed(counting(seed=1), samples(), tmp_path),
        "layer": embed(counting(layer=1), samples(), tmp_path),
        "pictures": embed(
            counting(), samples(), tmp_path, lambda row: row | {"pixel_values": 0.5 * row["pixel_values"]}
        ),
    }
    for name, cached in others.items():
        assert keys.isdisjoint(cached.keys), name
    assert len(embed(counting(), samples(), tmp_path)) == 10


def test_fit_reads_it_beside_a_state(tmp_path):
    cached = embed(counting(), samples(), tmp_path)
    policy = tiny_head().attach(AdaLNZero({"tokens": tiny_vlms.WIDTH, "state": 3}, pool="attention"))
    tokens, mask = cached[:]
    state = torch.randn(10, 3)
    policy.adapter.standardize({"tokens": tokens, "state": state}, {"tokens": mask})
    losses = fit(
        policy,
        actions(10),
        {"tokens": cached, "state": state},
        config=FitConfig(steps=3, batch_size=4, precision="fp32"),
    )
    assert len(losses) == 3
    assert torch.tensor(losses).isfinite().all()
    policy.sample({"tokens": tokens, "state": state}, mask={"tokens": mask})


def test_refusals(tmp_path):
    embed(counting(), samples(2), tmp_path)
    shard = next(tmp_path.glob("*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:50])
    with pytest.raises(WeightFileError, match="Delete it"):
        embed(counting(), samples(2), tmp_path)
    with pytest.raises(ValueError, match="return_tensors='pt'"):
        embed(counting(), [{"input_ids": [1, 2]}], tmp_path / "b")
    with pytest.raises(ValueError, match="only the output of a frozen tap of one layer can be cached"):
        embed(Tap(tiny_vlms.build(NAME), train="full"), samples(1), tmp_path)
