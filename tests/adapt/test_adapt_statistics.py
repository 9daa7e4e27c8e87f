"""Statistics in `action-heads adapt` have a floor, NaN is reported by episode, and a declared gripper is used."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from recorded import LENGTH, episode, hdf5, tiny

from action_heads.actions.layout_checks import UNDECLARED, Undeclared
from action_heads.adapt.build import build
from action_heads.adapt.settings import AdaptConfig
from action_heads.cli.command_line import parse

STATES = {"encoder": "none", "cameras": (), "observation_steps": 1}


@pytest.mark.parametrize("tremble", [0.0, 1e-6, 1e-5])
def test_a_state_that_never_moved_stays_small(folder, tremble):
    """A column that hardly moved is at most one unit off at 0.1 mm, and others are divided by their deviation."""
    position = episode(0)["position"]
    position[:, 2] = 0.2 + tremble * np.random.default_rng(0).normal(size=LENGTH)
    hdf5(folder / "demos.hdf5", episodes=1, position=position)
    built = build(tiny(folder, **STATES))
    standard = built.policy.policy.adapter.standard
    state = built.windows.state
    seen = standard(state + torch.tensor([1e-4, 0, 1e-4, 0]))
    assert seen[:, [0, 2]].abs().max() < 1
    assert standard(state + torch.tensor([1.0, 0, 1.0, 0]))[:, 0].abs().max() <= 1.01
    torch.testing.assert_close(seen[:, [1, 3]].std(0, correction=0), torch.ones(2))


def test_a_nan_is_named_by_episode_step_and_dimension(folder):
    broken = episode(0)["position"]
    broken[5, 1] = np.nan
    hdf5(folder / "demos.hdf5", episodes=1, position=broken)
    with pytest.raises(ValueError, match=r"--state: .*row 5 \(demo_0, time step 5\) in position\[1\]"):
        build(tiny(folder, **STATES))


@pytest.mark.parametrize(("values", "declared"), [((0.0, 1.0), (-1.0, 1.0)), ((1.0, 1.0), UNDECLARED)])
@pytest.mark.filterwarnings("ignore:column 9, the gripper")
def test_a_gripper_that_was_declared_or_stays_is_trained_on(folder, values, declared):
    actions = episode(0)["actions"]
    actions[:, 9] = np.linspace(*values, LENGTH)
    hdf5(folder / "demos.hdf5", episodes=1, actions=actions)
    assert build(tiny(folder, gripper=declared, **STATES)).policy.contract.gripper == tuple(declared)
    if values == (0.0, 1.0):
        with pytest.raises(ValueError, match=r"--gripper: column 9.*declare these"):
            build(tiny(folder, **STATES))


def test_the_command_line_tells_a_declaration_from_the_default():
    assert isinstance(parse(AdaptConfig, [], prog="adapt").actions.gripper, Undeclared)
    assert type(parse(AdaptConfig, ["--gripper", "-1", "1"], prog="adapt").actions.gripper) is tuple
