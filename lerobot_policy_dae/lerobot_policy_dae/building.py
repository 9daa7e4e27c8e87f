"""Build the parts of a policy: from its flags and a dataset, or from the record in a checkpoint."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from lerobot.utils.constants import ACTION

from action_heads._util.flags import called, check_unset
from action_heads.actions.layouts import ActionLayout, layout_of
from action_heads.actions.normalize import Normalizer
from action_heads.data.lerobot_info import names_of
from action_heads.encoders import ObservationConfig, ObservationEncoder, rebuild
from action_heads.policy import ConditionedHead
from lerobot_policy_dae import heads
from lerobot_policy_dae.configuration_dae import DAEConfig
from lerobot_policy_dae.heads import flag, spelled
from lerobot_policy_dae.observations import check_shapes, contract_of, settle
from lerobot_policy_dae.statistics import check_actions

logger = logging.getLogger(__name__)


def declared_layout(config: DAEConfig, dataset_meta: Any) -> ActionLayout:
    """Return the layout of the dataset's actions that a flag declares, or that the names of its columns determine."""
    if config.action_feature is None:
        raise ValueError("The dataset has no column 'action' to learn from. Use a dataset with recorded actions.")
    width = config.action_feature.shape[0]
    names = dataset_meta.features[ACTION].get("names") if dataset_meta is not None else None
    with flag("action_layout"):
        return layout_of(config.action_layout, width, names_of(names, width), config.gripper)


def make(
    config: DAEConfig, layout: ActionLayout, dataset_stats: Mapping[str, Any] | None, dataset_meta: Any
) -> tuple[ObservationEncoder, ConditionedHead]:
    """Return the encoder and the conditioned head of a new policy. `config.built` records what they were built from."""
    config.validate_features()
    config.check_effective(layout)
    head = heads.make_head(config, layout.space())
    config.horizon, config.action_layout = head.config.horizon, str(layout)
    config.chunk()
    with flag("vlm.model", "vlm.layer") if config.vlm else flag("vision", "text"), called(spelled):
        encoder = ObservationEncoder(settle(config))
    check_shapes(config)
    with flag("vision", "cameras"):
        encoder.check_sizes(contract_of(config).sizes)
    normalizer = _normalizer(layout, dataset_stats, dataset_meta)
    with flag("adapter"):
        adapter = config.adapter_config.make(encoder.cond_dim)
        conditioned = head.attach(adapter, normalizer=normalizer)
    observed = {"config": encoder.config.to_dict(), "architecture": encoder.architecture}
    config.built = {"head": heads.record(head), "encoder": observed, "flags": config.shape()}
    logger.info("%s", conditioned)
    return encoder, conditioned


def _normalizer(layout: ActionLayout, dataset_stats: Mapping[str, Any] | None, dataset_meta: Any) -> Normalizer:
    """Return the range of the task's actions. It is saved with the policy, and fine-tuning and resuming keep it."""
    if dataset_stats is None or ACTION not in dataset_stats:
        raise ValueError(
            "A new policy needs the range of its actions, which comes from a dataset's statistics. Train it with "
            "--dataset.repo_id, or load a trained policy with --policy.path."
        )
    check_actions(layout, dataset_stats[ACTION], dataset_meta)
    with flag("gripper"):
        return layout.normalizer(dataset_stats[ACTION])


def make_again(config: DAEConfig) -> tuple[ObservationEncoder, ConditionedHead]:
    """Return the encoder and the conditioned head that `config.built` records, whose weights are loaded afterwards."""
    if config.built is None:
        raise ValueError(
            "The checkpoint's config.json has no record 'built' of the policy's parts, so the policy was never "
            "built. Save it again from a trained policy."
        )
    config.check_unchanged()
    config.chunk()
    saved = config.built["encoder"]
    observed = ObservationConfig.from_dict(saved["config"])
    with flag("vlm.model", *(["vlm.revision"] if config.vlm and config.vlm.revision else [])):
        rebuild.check_architecture(saved["architecture"])
        encoder = ObservationEncoder(rebuild.at(observed, config.vlm), saved["architecture"])
        if encoder.vlm is not None:
            encoder.vlm.check()
    head = heads.make_again(config.built["head"])
    adapter = config.adapter_config.make(encoder.cond_dim)
    return encoder, head.attach(adapter, normalizer=Normalizer.identity(head.config.space))


def check_trains(config: DAEConfig, encoder: ObservationEncoder) -> None:
    """Raise a ValueError if a flag of training has no effect on this policy."""
    if not encoder.num_trainable:
        with called(spelled):
            why = "nothing of the encoder trains. Leave it out"
            check_unset(config, why, "optimizer_encoder_lr")
