"""LeRobot's `--policy.type=dae`. Extra: `lerobot`, which brings the plugin package `lerobot_policy_dae`.

LeRobot finds a policy by the names of its modules: `configuration_dae`, `modeling_dae`, `processor_dae`.
"""

from action_heads.lerobot.configuration_dae import DAEConfig
from action_heads.lerobot.modeling_dae import DAEPolicy
from action_heads.lerobot.processor_dae import make_dae_pre_post_processors

__all__ = ["DAEConfig", "DAEPolicy", "make_dae_pre_post_processors"]
