"""`ObservationEncoder`: images, proprioception and language to the condition of an adapter.

Axes: b batch, s observation steps, H and W pixels, d state, f features of a camera, c condition.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from action_heads._util.building import in_float32_on_the_cpu, keep_values
from action_heads._util.conditions import Condition, Mask, on_host
from action_heads._util.own_generator import OwnGenerator
from action_heads.encoders.augment import prepare
from action_heads.encoders.checks import (
    check_effective,
    check_images,
    check_state,
    check_task,
    check_values,
    conclusive,
)
from action_heads.encoders.config import ObservationConfig, VisionConfig
from action_heads.encoders.keypoints import SpatialSoftmax
from action_heads.encoders.resnet import resnet_trunk
from action_heads.encoders.resnet import width as resnet_width
from action_heads.encoders.text import TextEncoder
from action_heads.encoders.transformer import transformer_trunk
from action_heads.encoders.trunk import Trunk
from action_heads.encoders.vlm import VLMEncoder
from action_heads.io.files import fingerprint

if TYPE_CHECKING:
    from typing_extensions import Self

GREY = 0.5  # every number of an image that hides what a camera sees
Tokens = tuple[Tensor, Tensor]  # tokens (b n c) of a VLM and their mask (b n)


class ObservationEncoder(nn.Module):
    """An encoder from observations to a condition (b c).

    The condition holds, for one observation step after another, the features of every camera and the state, and at the
    end the features of the task's description. With a VLM it has several sources: "tokens" (b n c) with a mask,
    "state", and, of what the VLM does not read, "images" and "text". All cameras share one network if `vision.shared`
    is set, or if it is frozen.

    Args:
        config: the observations and their networks.
        architecture: the attribute `architecture` of a saved encoder. With it nothing is downloaded, and pretrained
            networks start with random weights, for `load_state_dict` to fill.

    Attributes:
        cond_dim: width c of the condition, or with a VLM the widths of its sources, for an adapter's `cond_dim`.
        features: number f of features per camera and observation step.
        architecture: the parts of the networks that the config does not determine, ready for JSON.

    Raises:
        ImportError: the extra `vision` is not installed.
        ValueError: a pretrained model cannot be found, `architecture` does not fit the config, or a setting has no
            effect, such as a vision network beside a VLM that sees the images.

    Examples:
        >>> import torch
        >>> from action_heads.encoders import ObservationConfig, ObservationEncoder
        >>> encoder = ObservationEncoder(ObservationConfig(cameras=("front",), state_dim=8, observation_steps=2))
        >>> cond = encoder({"front": torch.rand(4, 2, 3, 96, 96)}, torch.randn(4, 2, 8))
        >>> cond.shape, encoder.cond_dim  # 2 steps of 64 features and 8 numbers of the state
        (torch.Size([4, 144]), 144)
    """

    @in_float32_on_the_cpu
    def __init__(self, config: ObservationConfig, architecture: dict[str, Any] | None = None):
        super().__init__()
        self.config = config
        self.architecture: dict[str, Any] = dict(architecture or {})
        self.vlm = None
        if config.vlm is not None and (architecture is None or "vlm" in architecture):
            self.vlm = VLMEncoder(config.vlm, config.cameras, self.architecture.get("vlm"))
            self.architecture["vlm"] = self.vlm.architecture
            if config.text is not None and self.vlm.reads_task:
                raise ValueError(f"{config.vlm.model!r} reads the task's words already. Leave out the text model")
        # The cameras whose images the vision networks see.
        self.cameras = () if self.vlm is not None and self.vlm.cameras else config.cameras
        if architecture is None:  # Files of older releases may have settings without effect.
            check_effective(config, self.cameras, self.vlm.reads if self.vlm else ())
        vision, count = config.vision, len(self.cameras)
        pretrained = {"vision": count and not vision.is_resnet, "text": config.text is not None}
        pretrained["vlm"] = config.vlm is not None
        if architecture is not None and (
            absent := [k for k, needed in pretrained.items() if needed and k not in architecture]
        ):
            raise ValueError(
                f"the architecture lacks {' and '.join(absent)}; pass the one of an encoder with this config"
            )
        self.trunks, self.readouts = nn.ModuleList(), nn.ModuleList()
        for _ in range(count if vision.train and not vision.shared else min(count, 1)):
            self.trunks.append(self._trunk(vision, loading=architecture is None))
        for _ in range(min(count, 1) if vision.shared else count):
            self.readouts.append(self._readout(vision))
        self.text = None
        if config.text is not None:
            self.text = TextEncoder(config.text, self.architecture.get("text"))
            self.architecture["text"] = self.text.architecture
        self.features = 0
        if count:  # Without `vision.features`, every channel is a keypoint.
            self.features = vision.features or (2 * resnet_width(vision) if vision.is_resnet else self._width)
        steps, text = config.observation_steps, self.text.dim if self.text else 0
        self.cond_dim: int | dict[str, int] = steps * (count * self.features + config.state_dim) + text
        if self.vlm is not None:
            sources = {"images": steps * count * self.features, "state": steps * config.state_dim, "text": text}
            self.cond_dim = {"tokens": self.vlm.width} | {name: width for name, width in sources.items() if width}
        self._looked_at: set[str] = set()
        keep_values(self)

    def _trunk(self, vision: VisionConfig, loading: bool) -> Trunk:
        if vision.is_resnet:
            return resnet_trunk(vision, load=loading)
        trunk, self.architecture["vision"] = transformer_trunk(vision, None if loading else self.architecture["vision"])
        return trunk

    def _readout(self, vision: VisionConfig) -> nn.Module:
        if vision.features is None:
            return nn.Identity()
        if vision.is_resnet:
            return SpatialSoftmax(resnet_width(vision), vision.features // 2)
        if vision.pool == "spatial_softmax":
            return SpatialSoftmax(self._width, vision.features // 2)
        return nn.Sequential(nn.LayerNorm(self._width), nn.Linear(self._width, vision.features))

    @property
    def _width(self) -> int:
        return self.architecture["vision"]["width"]

    def forward(
        self, images: Mapping[str, Tensor], state: Tensor | None = None, task: list[str] | None = None
    ) -> Condition:
        """Encode observations into a condition (b c); with a VLM, the condition of `encode` without its mask."""
        return self.encode(images, state, task)[0]

    def encode(
        self,
        images: Mapping[str, Tensor],
        state: Tensor | None = None,
        task: list[str] | None = None,
        tokens: Tokens | None = None,
        outputs: Mapping[str, Tensor] | None = None,
    ) -> tuple[Condition, Mask]:
        """Encode observations into a condition and its mask.

        Args:
            images: images (b s 3 H W) in [0, 1], by camera. Cameras that the config does not name are ignored.
            state: the state (b s d).
            task: b descriptions of the task.
            tokens: what `embed` returned, of these images and tasks or of earlier ones. The VLM then does not run.
            outputs: outputs of the vision network for the images (b s ...), by camera, in place of images. `backbone`
                computes them.

        Returns:
            The condition (b c), or with a VLM a dict of "tokens" (b n c), "state" (b c) and others.
            The mask: None, or with a VLM a dict of "tokens" (b n).

        Raises:
            ValueError: an observation is missing, or has the wrong shape, dtype or range.
        """
        if outputs is None:
            self._check(images, state, task, with_vlm=tokens is None)
            seen = self.see([images[camera] for camera in self.cameras])
        else:
            seen = self._read([outputs[camera] for camera in self.cameras])
        if self.vlm is not None:
            return self._sources(seen, state, task, self.embed(images, task) if tokens is None else tokens)
        observed = seen
        if state is not None:
            # The state gets the dtype of the weights. Under autocast, features have 16 bits, too few for positions.
            weights = [*self.readouts.parameters(), *self.trunks.parameters()]
            observed.append(state.to(weights[0]) if observed else state)
        parts = [torch.cat(observed, dim=-1).flatten(1)] if observed else []
        if self.text is not None and task is not None:
            parts.append(self.text(task))
        return torch.cat(parts, dim=-1), None

    def embed(self, images: Mapping[str, Tensor], task: list[str] | None = None) -> Tokens:
        """Return the VLM's tokens (b n c) of the current images, the last ones in (b s 3 H W), and their mask (b n)."""
        if self.vlm is None:
            raise ValueError("this encoder has no VLM; set vlm=VLMConfig(...) in its config")
        vision = self.config.vision
        shown = {name: prepare(images[name][:, -1:].float(), vision, self.training) for name in self.vlm.cameras}
        return self.vlm({name: x[:, 0] for name, x in shown.items()}, task)

    def _sources(
        self, seen: list[Tensor], state: Tensor | None, task: list[str] | None, tokens: Tokens
    ) -> tuple[Condition, Mask]:
        cond = {"tokens": tokens[0]}
        if seen:
            cond["images"] = torch.cat(seen, dim=-1).flatten(1)
        if state is not None:
            cond["state"] = state.flatten(1)
        if self.text is not None and task is not None:
            cond["text"] = self.text(task)
        return cond, {"tokens": tokens[1]}

    def see(self, images: list[Tensor]) -> list[Tensor]:
        """Encode images (b s 3 H W) of every camera, in order, into features (b s f)."""
        return self._read(self.backbone(images))

    def backbone(self, images: list[Tensor]) -> list[Tensor]:
        """Run the vision network on images (b s 3 H W) of every camera, in order.

        Returns:
            For every camera vectors or keypoints (b s w), or maps (b s w y x).
        """
        if not images:
            return []
        vision, count, lead = self.config.vision, len(images), images[0].shape[:2]
        size = self.architecture["vision"]["size"] if not vision.is_resnet else None
        seen = [prepare(x.float(), vision, self.training, size and tuple(size)).flatten(0, 1) for x in images]
        if len(self.trunks) == 1:
            if len({x.shape for x in seen}) > 1:
                sizes = ", ".join(str(tuple(x.shape[-2:])) for x in seen)
                raise ValueError(
                    f"cameras that share a network must have images of one size, got {sizes}. Set vision.resize."
                )
            maps = self.trunks[0](torch.cat(seen)).chunk(count)
        else:
            maps = [trunk(x) for trunk, x in zip(self.trunks, seen, strict=True)]
        return [x.unflatten(0, lead) for x in maps]

    def _read(self, maps: list[Tensor]) -> list[Tensor]:
        """Turn outputs of the vision network (b s ...) of every camera, in order, into features (b s f)."""
        readouts = [self.readouts[0]] * len(maps) if self.config.vision.shared and maps else self.readouts
        return [readout(x.flatten(0, 1)).unflatten(0, x.shape[:2]) for readout, x in zip(readouts, maps, strict=True)]

    @torch.no_grad()
    def check_sizes(self, sizes: Mapping[str, tuple[int, int]]) -> None:
        """Encode a grey image of each camera's (H W), so that crops and maps of a wrong size fail before training."""
        steps = self.config.observation_steps
        with OwnGenerator():
            self.see([torch.full((1, steps, 3, *sizes[camera]), GREY) for camera in self.cameras])

    @torch.no_grad()
    def outputs_of(self, images: list[Tensor]) -> list[Tensor]:
        """Return the outputs of the frozen vision network as they are kept, for images (3 H W) of one size.

        They are on the CPU: vectors and keypoints (w) as float32, and maps (w y x) as bfloat16. Images are uint8, or
        floating point in [0, 1].
        """
        batch = torch.stack(images).to(next(self.trunks.parameters()).device)
        batch = batch if batch.is_floating_point() else batch.float() / 255
        out = self.backbone([batch[:, None]])[0][:, 0]
        return list(out.to("cpu", torch.float32 if out.ndim == 2 else torch.bfloat16))

    def identity(self) -> str:
        """Return 32 hex digits that identify the output of the frozen vision network for an image.

        Raises:
            ValueError: the vision network trains, or draws random crops or colours in training.
        """
        vision = self.config.vision
        if vision.train or vision.crop or vision.jitter:
            raise ValueError(
                "only the output of a frozen vision network can be cached, and only without a random crop or colour "
                "jitter. Set vision.train=False, and leave vision.crop and vision.jitter out"
            )
        contract = [vision.pool in ("mean", "cls") and vision.pool, vision.pool == "keypoints", vision.stride]
        contract += [vision.backbone if vision.is_resnet else self.architecture["vision"], vision.resize]
        return fingerprint(self.trunks.state_dict(), json.dumps(contract, sort_keys=True))

    @property
    def reads_task(self) -> bool:
        """True if the condition depends on the task's description."""
        return self.text is not None or (self.vlm is not None and self.vlm.reads_task)

    def learn_tasks(self, tasks: Iterable[str]) -> None:
        """Encode descriptions of tasks in advance. Their vectors are saved with the weights."""
        if self.text is None:
            raise ValueError("this encoder has no text encoder; set text=TextConfig() in its config")
        self.text.learn(tasks)

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Set `requires_grad` as in torch, except for frozen trunks."""
        super().requires_grad_(requires_grad)
        for trunk in self.trunks:
            trunk.requires_grad_(requires_grad)  # A frozen trunk ignores this.
        return self

    def _check(
        self, images: Mapping[str, Tensor], state: Tensor | None, task: list[str] | None, with_vlm: bool
    ) -> None:
        cameras = self.config.cameras if self.vlm is None or with_vlm else self.cameras
        batch = check_images(images, self.config, cameras)
        batch = check_state(state, self.config, batch)
        if self.text is not None or (self.vlm is not None and with_vlm and self.vlm.reads_task):
            check_task(task, "text" if self.text is not None else "vlm", batch)
        for camera in cameras:
            unsure = camera not in self._looked_at
            if unsure or on_host(images[camera]):  # The check would wait for an accelerator.
                check_values(camera, images[camera])
                if unsure and conclusive(images[camera]):
                    self._looked_at.add(camera)

    @property
    def num_frozen(self) -> int:
        """The number of frozen parameters."""
        return sum(p.numel() for p in self.parameters() if not p.requires_grad)

    @property
    def num_trainable(self) -> int:
        """The number of trainable parameters."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad)
