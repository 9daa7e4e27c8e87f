"""The command `action-heads statistics`, and the sources that its files make."""

import pytest
import torch

from action_heads.kinematics.statistics import MotionStatistics
from action_heads.pretrain import data
from action_heads.pretrain.statistics import StatisticsConfig, statistics


def test_a_file_shapes_a_source(tmp_path, capsys) -> None:
    out = tmp_path / "setup.json"
    statistics(StatisticsConfig("recorded:droid_setup_ctrlworld", out, credit="Ctrl-World, MIT"))
    assert "45 episodes, 0.28 hours at 15 Hz" in capsys.readouterr().out
    assert MotionStatistics.load(out).credit == "Ctrl-World, MIT"
    mixed = data.Mixture([f"synthetic:{out}", "synthetic:panda"], 16)
    assert mixed.record[0]["statistics_hash"] == MotionStatistics.load(out).hash
    assert "statistics_hash" not in mixed.record[1]
    motion = mixed(4096, torch.Generator().manual_seed(0))
    shaped, free = motion.joints[:2048], motion.joints[2048:]
    assert (shaped.std((0, 1)) < 0.6 * free.std((0, 1))).all()


def test_the_recordings_of_one_corpus() -> None:
    only = data.source("recorded:droid_setup_ctrlworld", 16, "held_out").episodes
    assert set(only) == {e for e in data.source("recorded:panda", 16, "held_out").episodes if "droid_setup" in e}
    with pytest.raises(ValueError, match="recorded:lila"):
        data.source("recorded:ur5", 16)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "--data is missing"),
        ({"data": "synthetic:panda"}, "is not a recording"),
        ({"data": "recorded:panda", "out": "x.txt"}, "must end in .json"),
    ],
)
def test_refusals(settings, message, tmp_path) -> None:
    if "out" in settings:
        settings = settings | {"out": tmp_path / settings["out"]}
    with pytest.raises(ValueError, match=message):
        StatisticsConfig(**settings)
