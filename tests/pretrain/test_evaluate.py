"""Evaluation of a head gives the same numbers every time, and better ones for a trained head."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
import torch
from small import generator, tiny_head

from action_heads import EE_ABSOLUTE, EE_DELTA, ActionHead, cli
from action_heads.io import files
from action_heads.pretrain import evaluate as module
from action_heads.pretrain.evaluate import EvaluateConfig, evaluate
from action_heads.pretrain.measures import Mean, chunk_measures, energy_distance, reach
from action_heads.pretrain.publish import PublishConfig, publish


def few(head, **options) -> EvaluateConfig:
    return EvaluateConfig(str(head), **{"data": ("synthetic:panda",), "chunks": 32, "samples": 16, **options})


@pytest.fixture
def saved(tmp_path):
    """Return the folder of a tiny head."""
    return tiny_head("mixer").save_pretrained(tmp_path / "tiny")


def test_a_trained_head_beats_a_random_one(tmp_path, capsys):
    config = EvaluateConfig("dae/mixer-5m-fk", out=tmp_path, chunks=32, samples=16)
    results = evaluate(config, "action-heads evaluate-head dae/mixer-5m-fk")
    trained, random = (results["heads"][name] for name in ("dae/mixer-5m-fk", "random"))
    assert results["data"] == ["synthetic:panda"]  # what its record names
    for spec in results["data"]:
        for mechanism in ("film", "adaln_zero", "adarmsnorm"):
            a, b = (head["error"][spec][mechanism]["all"] for head in (trained, random))
            assert a["mean"] + 3 * a["se"] < b["mean"] - 3 * b["se"]
            assert trained["loss"][spec][mechanism]["mean"] < 0.5 * random["loss"][spec][mechanism]["mean"]
    assert trained["distance"]["film"]["mean"] < 0.5 * random["distance"]["film"]["mean"]
    assert trained["samples"]["film"]["acceleration_mm"]["mean"] < random["samples"]["film"]["acceleration_mm"]["mean"]
    text = capsys.readouterr().out
    assert "| synthetic:panda " in text
    assert "was trained with 80% of the chunks enlarged" in text
    assert "action-heads evaluate-head dae/mixer-5m-fk" in text


def test_the_same_every_time_and_beside_the_head(saved, monkeypatch):
    torch.manual_seed(3)
    monkeypatch.setattr("sys.argv", ["action-heads", "evaluate-head", str(saved), "--data", "synthetic:panda"])
    cli.main()
    first = files.read_json(saved / "evaluation.json")
    assert first["command"] == f"action-heads evaluate-head {saved} --data synthetic:panda"
    assert (saved / "evaluation.png").read_bytes().startswith(b"\x89PNG")
    torch.manual_seed(4)
    torch.randn(7)
    again = evaluate(EvaluateConfig(str(saved), data=("synthetic:panda",)))
    assert {k: v for k, v in first.items() if k not in ("command", "seconds")} == {
        k: v for k, v in again.items() if k not in ("command", "seconds")
    }
    assert first["fingerprint"] == ActionHead.from_pretrained(saved).fingerprint()


def test_delta_heads_have_steps_and_no_reach(tmp_path):
    tiny_head("mlp", space=EE_DELTA).save_pretrained(tmp_path)
    results = evaluate(few(tmp_path))
    assert results["heads"]["test/tiny"]["samples"]["film"].keys() == {
        "step_mm",
        "acceleration_mm",
        "rotation_error",
        "gripper_decided",
    }
    real = results["held_out"]["samples"]["synthetic:panda"]
    assert 1 < real["step_mm"]["mean"] < 100
    text = (tmp_path / "evaluation.md").read_text()
    assert "in reach" not in text
    assert "denoises each time step of a chunk separately" in text


def test_errors_over_few_episodes_are_said_to_be_too_small(saved, tmp_path):
    droid = f"npz:{Path(__file__).parents[1] / 'data' / 'droid_3_episodes.npz'}"
    for spec, said in ((droid, True), ("synthetic:panda", False)):
        results = evaluate(EvaluateConfig(str(saved), data=(spec,), out=tmp_path, chunks=16, samples=8))
        assert bool(results["episodes"]) is said
        assert ("they are too small" in (tmp_path / "evaluation.md").read_text()) is said


def test_against_other_heads(saved, tmp_path):
    other = tiny_head("mlp", seed=1)
    other.config = dataclasses.replace(other.config, name="test/other")
    other.save_pretrained(tmp_path / "other")
    same = tiny_head("mixer").save_pretrained(tmp_path / "same")
    results = evaluate(few(saved, against=(str(tmp_path / "other"), str(same))))
    assert list(results["heads"]) == ["test/tiny", "test/other", str(same), "random"]
    assert results["heads"]["test/tiny"] == results["heads"][str(same)]
    delta = tiny_head("mlp", space=EE_DELTA).save_pretrained(tmp_path / "delta")
    with pytest.raises(ValueError, match="their errors cannot be compared"):
        evaluate(few(saved, against=(str(delta),)))


def test_errors_are_in_one_unit_whatever_the_heads_own():
    head = tiny_head("mixer")
    held = module.HeldOut(("synthetic:panda",), head.config.space, 16).draw(16, 0)["synthetic:panda"]
    wide = tiny_head("mixer")
    wide.normalizer = type(head.normalizer)(head.normalizer.offset, 10 * head.normalizer.scale)
    errors, share = module.clean_errors(wide, held, "film", wide.normalizer)
    common, _ = module.clean_errors(wide, held, "film", head.normalizer)
    assert (common >= errors).all()
    assert share.min() >= 0
    assert share.max() <= 1
    assert common.mean() > 2 * errors.mean()


def test_predictions_of_noise_are_compared_as_clean_chunks(tmp_path):
    from action_heads import ObjectiveConfig

    tiny_head("mlp", objective=ObjectiveConfig(prediction="epsilon")).save_pretrained(tmp_path)
    results = evaluate(few(tmp_path))
    bands = results["heads"]["test/tiny"]["error"]["synthetic:panda"]["film"]["bands"]
    assert bands[0]["mean"] < bands[-1]["mean"]  # little noise hides little, even from a network that knows nothing


def test_nothing_is_written_by_halves(saved, monkeypatch):
    evaluate(few(saved))
    before = {path.name: path.read_bytes() for path in saved.iterdir()}

    def broken(*args):
        raise RuntimeError("no pen")

    monkeypatch.setattr(module.evaluation_report, "draw", broken)
    with pytest.raises(RuntimeError, match="no pen"):
        evaluate(few(saved, samples=17))
    assert before == {path.name: path.read_bytes() for path in saved.iterdir()}


def test_where_the_results_go_and_what_is_refused(saved, tmp_path):
    assert EvaluateConfig("dae/mlp-5m-fk").folder.as_posix() == "outputs/evaluate-mlp-5m-fk"
    assert EvaluateConfig(str(saved)).folder == saved
    assert EvaluateConfig(str(saved), out=tmp_path).folder == tmp_path
    with pytest.raises(ValueError, match=r"names no data to evaluate it on.*--data"):
        evaluate(EvaluateConfig(str(saved)))
    with pytest.raises(ValueError, match="samples must be at least 8"):
        EvaluateConfig("x", samples=3)
    nine = tuple(f"synthetic:panda?rate={rate}" for rate in range(10, 19))
    with pytest.raises(ValueError, match=r"^--samples: 8 are fewer than the 9 sources\. Raise it"):
        evaluate(EvaluateConfig(str(saved), data=nine, chunks=16, samples=8))


def test_a_card_shows_the_evaluation(tmp_path, monkeypatch):
    from test_publish import save

    monkeypatch.chdir(tmp_path)
    save(tiny_head("mixer"), tmp_path / "tiny")
    evaluate(few("tiny"), "action-heads evaluate-head tiny")
    publish(PublishConfig(tmp_path / "tiny", dry_run=True))
    card = (tmp_path / "tiny" / "README.md").read_text()
    assert "## Evaluation of test/tiny" in card
    assert "    action-heads evaluate-head tiny\n" in card
    assert "](evaluation.png)" in card
    assert sum(line.startswith("# ") for line in card.splitlines()) == 1


# The measures


def test_mean_and_its_error():
    values = torch.tensor([1.0, 2.0, 3.0, 6.0])
    assert Mean.of(values) == pytest.approx((3.0, float(values.std()) / 2))
    assert Mean.of(values[:1]) == (1.0, None)


def test_measures_of_a_known_path():
    """The measures of a straight path at 10 mm per time step that turns back in the middle have known values."""
    x = torch.cat([torch.arange(8), torch.arange(6, -2, -1)]) * 0.01
    rotation = torch.eye(3).expand(1, 16, 3, 3)
    position = torch.stack([x, 0 * x, 0 * x], dim=-1)[None]
    actions = EE_ABSOLUTE.encode(position, rotation, torch.ones(1, 16))
    found = {name: float(value) for name, value in chunk_measures(actions, EE_ABSOLUTE, 0.055).items()}
    assert reach(actions, EE_ABSOLUTE) == pytest.approx(0.07)
    assert found["in_reach"] == pytest.approx(13 / 16)
    assert found["step_mm"] == pytest.approx(10)
    assert found["acceleration_mm"] == pytest.approx(20 / math.sqrt(14))
    assert found["rotation_error"] == pytest.approx(0)
    assert found["gripper_decided"] == 1


def test_energy_distance_tells_distributions_apart():
    x, y = (torch.randn((400, 4, 2), generator=generator(seed)) for seed in (0, 1))
    same, shifted = energy_distance(x, y), energy_distance(x, y + 0.5)
    assert abs(same.mean) < 0.01
    assert shifted.mean > 0.05
    assert shifted.se is not None
    assert shifted.mean > 5 * shifted.se
    assert energy_distance(x, x.roll(1, 0)).mean <= 0
    # against the definition, in one dimension
    a, b = torch.tensor([0.0, 1.0]), torch.tensor([3.0, 5.0])
    assert energy_distance(a[:, None, None], b[:, None, None]).mean == pytest.approx(2 * 3.5 - 1 - 2)
