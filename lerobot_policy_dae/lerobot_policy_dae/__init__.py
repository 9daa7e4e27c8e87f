"""LeRobot's `--policy.type=dae`: pretrained, frozen action heads and small trainable adapters.

LeRobot imports this package because of its name; importing registers the policy and its processors, which LeRobot finds
by the names of their modules: `configuration_dae`, `modeling_dae`, `processor_dae`.
"""

from lerobot_policy_dae.configuration_dae import DAEConfig
from lerobot_policy_dae.modeling_dae import DAEPolicy
from lerobot_policy_dae.processor_dae import make_dae_pre_post_processors

__all__ = ["DAEConfig", "DAEPolicy", "make_dae_pre_post_processors"]
