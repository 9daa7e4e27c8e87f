"""Configurations of an observation encoder, which are validated and convert to JSON and back."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any

from action_heads._util import limits
from action_heads._util.extras import pip
from action_heads._util.limits import check_choice, check_fields, check_width, shown
from action_heads.config import strict
from action_heads.encoders.vlm_config import VLMConfig

VERSION = 1
RESNETS = ("resnet18", "resnet50")
VISION_POOLS = ("mean", "cls", "keypoints", "spatial_softmax")
STRIDES = (8, 16, 32)


@dataclass(frozen=True)
class VisionConfig:
    """The vision network of a camera.

    Attributes:
        backbone: "resnet18", "resnet50", or the Hub id or folder of a transformers vision model (SigLIP, DINOv2, CLIP,
            ViT ...), which always loads its pretrained weights.
        weights: pretrained weights of a ResNet, "imagenet", or None for random ones.
        train (bool): whether the backbone trains. A frozen backbone gets no gradient and stays in evaluation mode.
            The layers that turn its output into features always train.
        features (int): number of features per camera and observation step. Those of a ResNet are the coordinates of
            half as many keypoints. None for the pool keypoints, whose number the backbone determines.
        pool: how the output of the backbone is pooled. "mean" is the mean of a transformer's tokens and "cls" the first
            one. "spatial_softmax" learns keypoints from the tokens of image patches or from a feature map, as a ResNet
            does with "mean" and "cls" too. "keypoints" makes every channel of the map one keypoint without any trained
            layer, two coordinates each; with a frozen backbone, nothing of the camera trains.
        resize: (height, width) in pixels to which images are resized first.
        crop: (height, width) in pixels of the window cut out after that, at random positions in training and at the
            centre in evaluation.
        jitter: colour jitter in training. Brightness, contrast and saturation vary by factors within 1 ± jitter.
        shared (bool): whether all cameras share one network.
        stride: stride in pixels of the feature map of a frozen convolutional backbone, 8, 16 or 32; None for the last
            map.

    Raises:
        ValueError: a value is not valid, or two values contradict each other.
    """

    backbone: str = "resnet18"  # resnet18, resnet50, or the Hub id or folder of a transformers vision model
    weights: str | None = None  # weights of a ResNet: imagenet, or None for random ones
    train: bool = True  # whether the backbone trains
    features: int | None = 64  # numbers for each camera and observation
    pool: str = "mean"  # of a transformer's tokens: mean, cls, spatial_softmax; keypoints: one for each channel
    resize: tuple[int, int] | None = None  # height and width in pixels to which images are resized first
    crop: tuple[int, int] | None = None  # height and width in pixels of the crop, random in training
    jitter: float = 0.0  # in training, brightness, contrast and saturation vary within 1 ± jitter
    shared: bool = False  # use one network for all cameras instead of one for each
    stride: int | None = None  # stride of a frozen convolutional backbone's map: 8, 16 or 32; None for the last map

    def __post_init__(self):
        if self.pool == "keypoints":
            if self.features not in (None, VisionConfig.features):
                raise ValueError(
                    f"vision.features is {self.features}, but vision.pool='keypoints' has two numbers for each channel "
                    "of the backbone. Leave vision.features out, or set vision.pool='spatial_softmax'."
                )
            object.__setattr__(self, "features", None)
        else:
            check_width("vision.features", self.features, limits.WIDTH)
        for name in ("resize", "crop"):
            object.__setattr__(self, name, check_size(f"vision.{name}", getattr(self, name)))
        if self.resize and self.crop and (self.crop[0] > self.resize[0] or self.crop[1] > self.resize[1]):
            raise ValueError(f"vision.crop {self.crop} is larger than the images after vision.resize, {self.resize}")
        check_fields(vars(self), VisionConfig, "the vision config")
        if not 0 <= self.jitter < 1:
            raise ValueError(f"vision.jitter must be at least 0 and below 1, got {self.jitter!r}")
        check_choice("vision.pool", self.pool, VISION_POOLS)
        if self.stride is not None and (self.stride not in STRIDES or self.train):
            raise ValueError(
                f"vision.stride is {shown(self.stride)} and vision.train {self.train}; a stride is one of "
                f"{', '.join(map(str, STRIDES))}, and needs a frozen backbone (vision.train=False), since the layers "
                "after it would not train"
            )
        if self.weights not in (None, "imagenet"):
            raise ValueError(f"vision.weights must be 'imagenet' or none, got {self.weights!r}")
        if (self.is_resnet or self.pool == "spatial_softmax") and self.features and self.features % 2:
            network = "a ResNet" if self.is_resnet else "vision.pool='spatial_softmax'"
            raise ValueError(
                f"vision.features of {network} are pairs of coordinates, so give an even number, got {self.features}"
            )
        if self.is_resnet:
            if not self.train and self.weights is None:
                raise ValueError(
                    "a ResNet without weights can't be frozen: set vision.weights='imagenet' or vision.train=True"
                )
        elif self.weights:
            raise ValueError(
                f"vision.weights is only for {' and '.join(RESNETS)}; {self.backbone} loads its own. Leave it out."
            )

    def to_dict(self) -> dict[str, Any]:
        """Return all values by name. `stride` is left out while it is None, as in files of releases without it."""
        values = dataclasses.asdict(self)
        return values if self.stride else {name: value for name, value in values.items() if name != "stride"}

    @property
    def is_resnet(self) -> bool:
        """True if the backbone is a ResNet of torchvision."""
        return self.backbone in RESNETS


@dataclass(frozen=True)
class TextConfig:
    """A frozen encoder of the task's description.

    Attributes:
        model (str): Hub id or folder of a transformers text model.
        pool: how the last hidden states of the tokens are pooled, "sum" as in the paper, or "mean".
        features: width of a trained projection of the pooled vector; None for the vector itself.

    Raises:
        ValueError: a value is not valid.
    """

    model: str = "distilbert-base-uncased"  # Hub id or folder of a transformers text model
    pool: str = "sum"  # pooling of the tokens' last hidden states: sum or mean
    features: int | None = None  # width of a trained projection of the text vector; None for no projection

    def __post_init__(self):
        check_fields(vars(self), TextConfig, "the text config")
        check_choice("text.pool", self.pool, ("sum", "mean"))
        if self.features is not None:
            check_width("text.features", self.features, limits.WIDTH)


@dataclass(frozen=True)
class ObservationConfig:
    """The observations of a policy and their encoding.

    Attributes:
        cameras: names of the cameras, in the order of their features.
        state_dim: width d of the state (proprioception); 0 for none.
        observation_steps: number s of consecutive observations that the policy sees. The last one is the current one.
        vision: the vision network of every camera.
        text: the encoder of the task's description, or None.
        vlm: a transformers model whose tokens make the condition, or None. The cameras that it reads are not seen by
            `vision`, whose `resize`, `crop` and `jitter` apply to its images.

    Raises:
        ValueError: a value is not valid, or nothing is observed.
    """

    cameras: tuple[str, ...] = ()
    state_dim: int = 0
    observation_steps: int = 2
    vision: VisionConfig = field(default_factory=VisionConfig)
    text: TextConfig | None = None
    vlm: VLMConfig | None = None

    def __post_init__(self):
        if isinstance(self.cameras, str):
            raise ValueError(f"cameras must be a tuple of names, got {self.cameras!r}; pass ({self.cameras!r},)")
        if not limits.fits(self.cameras, tuple[str, ...]):
            raise ValueError(f"cameras must be a tuple of names, got {shown(self.cameras)}")
        object.__setattr__(self, "cameras", tuple(self.cameras))
        if len(set(self.cameras)) < len(self.cameras):
            raise ValueError(f"cameras has a duplicate name: {', '.join(self.cameras)}")
        if type(self.state_dim) is not int or self.state_dim < 0:
            raise ValueError(f"state_dim must be an integer of at least 0, got {shown(self.state_dim)}")
        for name, value, most in (
            ("the number of cameras", len(self.cameras), limits.SOURCES),
            ("state_dim", self.state_dim, limits.CONDITION),
        ):
            if value:
                check_width(name, value, most)
        check_width("observation_steps", self.observation_steps, limits.OBSERVATION_STEPS)
        check_fields(vars(self), ObservationConfig, "the observation config")
        if not self.cameras and not self.state_dim and self.text is None and self.vlm is None:
            raise ValueError("the config has no observations; set cameras, state_dim or text")

    def to_dict(self) -> dict[str, Any]:
        """Return a dict of lists, strings and numbers, ready for JSON."""
        values = {**dataclasses.asdict(self), "vision": self.vision.to_dict()}
        if self.vlm is None:  # Files of releases before this field lack it, and keep their fingerprints.
            del values["vlm"]
        return json.loads(json.dumps({"version": VERSION, **values}))

    def to_json(self) -> str:
        """Return the config as JSON."""
        return json.dumps(self.to_dict(), indent=2, sort_keys=True) + "\n"

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ObservationConfig:
        """Return the config that `to_dict` described.

        Raises:
            ValueError: the version or a key is unknown, as in a config of another release, or a value is not valid.
        """
        if not isinstance(values, dict):
            raise ValueError(f"the observation config must be a JSON object, got {shown(values)}")
        values = dict(values)
        version = values.pop("version", None)
        if type(version) is not int or version != VERSION:
            raise ValueError(
                f"this observation config has version {shown(version)}, but this release of action-heads reads "
                f"{VERSION}. Upgrade with `{pip()} install -U action-heads`, or create the encoder again."
            )
        values.setdefault("cameras", ())
        values["vision"] = strict(VisionConfig, values.get("vision"), "the vision config", {"stride": None})
        if values.get("text") is not None:
            values["text"] = strict(TextConfig, values["text"], "the text config")
        if values.get("vlm") is not None:
            values["vlm"] = strict(VLMConfig, values["vlm"], "the vlm config")
        return strict(cls, values, "the observation config", since={"vlm": None})


def check_size(name: str, size: Any) -> tuple[int, int] | None:
    """Return (height, width) as a tuple, given as a tuple or a list, or None."""
    if size is None:
        return None
    if not isinstance(size, (tuple, list)) or len(size) != 2 or any(type(x) is not int or x < 1 for x in size):
        raise ValueError(f"{name} must be (height, width) in pixels, got {shown(size)}")
    for pixels in size:
        check_width(name, pixels, limits.PIXELS)
    return size[0], size[1]
