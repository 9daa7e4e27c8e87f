"""The command `action-heads statistics`, and the sources that its files make."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from lerobot_fixture import write

from action_heads.data import find_arm
from action_heads.kinematics import synthetic_chunks
from action_heads.kinematics.statistics import MotionStatistics
from action_heads.pretrain import data
from action_heads.pretrain.statistics import StatisticsConfig, statistics

SIX = Path(__file__).parents[1] / "kinematics" / "data" / "six.urdf"


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


@pytest.fixture
def lab(tmp_path, monkeypatch) -> Path:
    """Return a folder with recorded motion of an arm of six joints, its URDF and its column map."""
    pytest.importorskip("pyarrow")
    shutil.copy(SIX, tmp_path / "six.urdf")
    joints, _ = synthetic_chunks(4, 40, generator=torch.Generator().manual_seed(0), arm=find_arm(str(SIX)))
    episodes = [{"q": each.numpy(), "grip": np.zeros((40, 1))} for each in joints]
    write(tmp_path / "d", episodes, 15)
    (tmp_path / "map.json").write_text('{"joints": "q", "gripper": "grip", "arm": "six.urdf"}')
    monkeypatch.setenv("ACTION_HEADS_CACHE", str(tmp_path / "cache"))
    return tmp_path


@pytest.mark.filterwarnings("ignore:.*the gripper")
@pytest.mark.parametrize("tip", ["", "wrist3"])
def test_the_arm_and_the_tip_are_those_that_were_measured(lab, tip, monkeypatch) -> None:
    made = statistics(
        StatisticsConfig(f"lerobot:{lab}/d?columns={lab}/map.json" + f"&tip={tip}" * bool(tip), lab / "s.json")
    )
    assert (made.arm, made.frame) == ("six.urdf", tip or "hand")
    monkeypatch.chdir("/")
    source = data.source(f"synthetic:{lab}/s.json", 4)
    assert (len(source.arm), source.arm.frame) == (6, tip or "hand")
    other = "hand" if tip else "wrist3"
    with pytest.raises(ValueError, match=f"tip is {other}, but the statistics are of poses of {made.frame}"):
        data.source(f"synthetic:{lab}/s.json?tip={other}", 4)


@pytest.mark.filterwarnings("ignore:.*the gripper")
def test_an_arm_elsewhere_is_named_by_its_whole_path(lab) -> None:
    spec = f"lerobot:{lab}/d?columns={lab}/map.json"
    assert statistics(StatisticsConfig(spec, lab / "of" / "s.json")).arm == str(lab / "six.urdf")
    (lab / "s.json").write_text((lab / "of" / "s.json").read_text().replace(str(lab / "six.urdf"), "panda"))
    with pytest.raises(ValueError, match=r"of 6 joints, but panda has 7\. Write the file again"):
        data.source(f"synthetic:{lab}/s.json", 4)


@pytest.mark.filterwarnings("ignore:.*the gripper")
def test_the_printed_command_can_be_run(lab, capsys) -> None:
    statistics(StatisticsConfig(f"lerobot:{lab}/d?columns={lab}/map.json", lab / "my data.json"))
    assert f"--data 'synthetic:{lab}/my data.json' ..." in capsys.readouterr().out
