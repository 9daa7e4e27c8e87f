"""LeRobot's parser prints the help for the flags of `--policy.type=dae`."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

import pytest
from draccus.argparsing import ArgumentParser
from lerobot.configs import PreTrainedConfig

from action_heads.encoders import TextConfig, VisionConfig, VLMConfig
from lerobot_policy_dae import DAEConfig

THEIRS = {entry.name for entry in fields(PreTrainedConfig)} - {"n_obs_steps", "normalization_mapping"}
PARTS = {"vision": VisionConfig, "text": TextConfig, "vlm": VLMConfig}
OURS = [entry.name for entry in fields(DAEConfig) if entry.name not in {*THEIRS, *PARTS}]
NESTED = [f"{part}.{entry.name}" for part, kind in PARTS.items() for entry in fields(kind)]


@dataclass
class Command:
    """A command with a policy, like `lerobot-train`."""

    policy: DAEConfig = field(default_factory=DAEConfig)


@pytest.fixture(scope="module")
def texts() -> dict[str, str]:
    parser = ArgumentParser(Command)
    return {action.option_strings[-1]: action.help or "" for action in parser.parser._actions if action.option_strings}


@pytest.mark.parametrize("name", OURS + NESTED)
def test_each_flag_has_a_help_text(texts, name):
    text = texts[f"--policy.{name}"].strip()
    assert len(text.split()) >= 3, text
    assert not {'"', "\n"} & {*text}, "draccus read beyond the text of the field"
