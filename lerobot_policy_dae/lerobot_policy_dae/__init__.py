"""LeRobot imports this package because of its name; importing registers `--policy.type=dae` and its processors."""

from action_heads.lerobot import DAEConfig, DAEPolicy

__all__ = ["DAEConfig", "DAEPolicy"]
