"""The flags of `--policy.type=dae` by group: adapter, noise, optimiser and observation encoder."""

from __future__ import annotations

from dataclasses import dataclass, field

import draccus
from lerobot.configs import PreTrainedConfig
from lerobot.optim import AdamWConfig
from lerobot.optim.schedulers import CosineAnnealingWithWarmupSchedulerConfig

from action_heads._util.flags import called
from action_heads.adapters.config import AdapterConfig
from action_heads.diffusion.levels import NoiseConfig
from action_heads.encoders import TextConfig, VisionConfig, VLMConfig
from action_heads.fit import FitConfig
from lerobot_policy_dae.heads import spelled

draccus.encode.register(VisionConfig, lambda vision, _=None: draccus.encode(vision.to_dict()))  # type: ignore[attr-defined]  # draccus hides it

FIT = FitConfig()


# A nested dataclass would change the flags' names (`--policy.adapter.mechanism`). So each group of flags is a base
# class, which passes its values to the shared dataclass that checks them. The bases form a single chain, and each
# field has its text below it, because there draccus, LeRobot's parser, finds help texts.


@dataclass
class AdapterFlags(PreTrainedConfig):
    """The flags of the adapter, checked by `AdapterConfig`."""

    adapter: str = "adaln_zero"
    """Adapter mechanism: film, adaln_zero, adarmsnorm, or another for which the head was pretrained."""
    hidden_dim: int | None = None
    """Hidden width of the adapter; None for the head's width."""
    through: str | None = None
    """Part of the head through which the adapter acts: code, blocks or both; None for all that the head supports."""
    relearn_step: bool = False
    """Also train the head's own step modulation, as the paper does."""

    @property
    def adapter_config(self) -> AdapterConfig:
        """The adapter's settings; its `make` takes the width of a condition and builds the adapter."""
        with called(lambda name: spelled("adapter" if name == "mechanism" else name)):
            vlm = getattr(self, "vlm", None)
            pool = vlm.pool if vlm else "mean"
            return AdapterConfig(self.adapter, 0, self.hidden_dim, self.relearn_step, self.through, pool)


@dataclass
class NoiseFlags(AdapterFlags):
    """The flags of the noise that training adds to chunks, checked by `NoiseConfig`."""

    levels: str = FIT.levels
    """Distribution of noise levels in training: uniform, logit_normal, beta or last."""
    noise_samples: int = FIT.noise_samples
    """Number of times that each chunk is noised in a training step."""
    prefixes: bool = FIT.prefixes
    """Also train the policy to continue committed actions, for real-time chunking."""

    @property
    def noise(self) -> NoiseConfig:
        """The settings that `ConditionedHead.loss` takes."""
        with called(spelled):
            return NoiseConfig(self.levels, self.noise_samples, self.prefixes)


@dataclass
class OptimizerFlags(NoiseFlags):
    """The flags of the optimiser that LeRobot's trainer builds."""

    optimizer_lr: float = FIT.lr
    """Peak learning rate of the adapter, the projections and a head that trains along."""
    optimizer_encoder_lr: float = 3e-4
    """Peak learning rate of the observation encoder."""
    optimizer_weight_decay: float = FIT.weight_decay
    """Weight decay of AdamW."""
    optimizer_grad_clip_norm: float = FIT.clip
    """Largest norm of the gradient."""
    scheduler_warmup_steps: int = FIT.warmup
    """Training steps of linear warm-up."""

    def get_optimizer_preset(self) -> AdamWConfig:
        return AdamWConfig(
            lr=self.optimizer_lr,
            weight_decay=self.optimizer_weight_decay,
            grad_clip_norm=self.optimizer_grad_clip_norm,
        )

    def get_scheduler_preset(self) -> CosineAnnealingWithWarmupSchedulerConfig:
        return CosineAnnealingWithWarmupSchedulerConfig(num_warmup_steps=self.scheduler_warmup_steps)


@dataclass
class EncoderFlags(OptimizerFlags):
    """The flags of the observation encoder."""

    vision: VisionConfig = field(default_factory=VisionConfig)
    """Image encoder of every camera."""
    remember: bool = False
    """Encode each image once and keep the output in memory; needs vision.train=false, without crop and jitter."""
    text: TextConfig | None = None
    """Encoder of the task's description; None: the description is not read."""
    vlm: VLMConfig | None = None
    """Vision-language model that encodes images and the task's description in place of vision and text."""
    vlm_refresh: int | None = None
    """Ticks between two embeddings of the VLM in select_action; None: one for each chunk."""
    vlm_max_age: int | None = None
    """Largest age in ticks of an embedding made in the background; None: the VLM runs within the tick."""
