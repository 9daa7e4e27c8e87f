"""Hashes of all that a Stage 2 run reads, by which a resumed run knows that it goes on with the same.

Only numbers that were read are hashed, not computed ones such as statistics, embeddings or random weights. Computed
ones follow from them, but may differ in their last bits on another machine, on which a run may be resumed.

Axes: N rows, a action, d state.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from torch import Tensor

from action_heads.adapt.settings import AdaptConfig
from action_heads.data.formats import Recording
from action_heads.encoders.text import folder_content
from action_heads.io import files
from action_heads.io.contents import combined, sampled_all
from action_heads.modes import taken_of
from action_heads.observed_policy import ObservedPolicy
from action_heads.observed_policy_file import CONFIG
from action_heads.vlm.files import processing_fingerprint


def content_of(recording: Recording, columns: Sequence[Tensor], policy: ObservedPolicy) -> str:
    """Return a hash of what a policy reads of a recording: episodes, action (N a), state (N d), images and tasks.

    Images are hashed by parts of their files, since decoding all of them takes as long as a part of the training.
    """
    seen = () if policy.contract.blind else tuple(policy.contract.sizes)
    parts: list[object] = [recording.names, recording.lengths.tolist(), recording.rate_hz]
    parts += [sampled_all(recording.image_paths(seen)) if seen else []]
    parts += [(recording.tasks, recording.task_of.tolist()) if policy.encoder.reads_task else ()]
    digest = hashlib.sha256(combined(parts).encode())
    for values in columns:
        digest.update(f"{tuple(values.shape)};".encode() + values.contiguous().numpy().tobytes())
    return digest.hexdigest()[:32]


def weights_read(config: AdaptConfig, policy: ObservedPolicy) -> dict[str, str]:
    """Return a hash of the head and of each pretrained model that a policy is made of, by flag."""
    head, encoder, vision = policy.policy.head.original, policy.encoder, policy.encoder.config.vision
    found = {"--head": taken_of(head, pretrained=config.mode == "decoupled")}
    if config.start_from is not None:
        return found | {"--start-from": combined([files.read_json(config.start_from / CONFIG)["fingerprints"]])}
    if encoder.cameras and (vision.weights or not vision.is_resnet):
        found["--encoder"] = files.fingerprint(encoder.trunks.state_dict())
    if encoder.text is not None:
        text = encoder.text
        found["--text"] = combined([text.architecture["revision"], folder_content(text.config.model)])
    if encoder.vlm is not None:
        vlm = encoder.vlm
        found["--vlm"] = combined([vlm.architecture["fingerprint"], processing_fingerprint(vlm.folder)])
    return found
