"""A frozen sentence encoder that encodes every sentence once.

Axes: b batch, m tokens, w width of the text model.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from action_heads._util.extras import require
from action_heads._util.quiet import quiet
from action_heads.encoders.config import TextConfig
from action_heads.io.contents import combined, sampled_all
from action_heads.io.files import parse_json
from action_heads.io.folders import refusal_of_path


class TextEncoder(nn.Module):
    """An encoder from sentences to vectors (b w), or (b features) with a trained projection.

    The text model is loaded at the first unknown sentence. It is never trained, and not part of this module or its
    state. The state holds the vectors of all sentences encoded so far.
    """

    place: Tensor

    def __init__(self, config: TextConfig, architecture: dict[str, Any] | None = None):
        """Use the saved attribute `architecture`, or look it up on the Hub if it is None."""
        super().__init__()
        self.config = config
        self.architecture = architecture or look_up(config.model)
        self.known: dict[str, Tensor] = {}  # Not buffers, since processes of one training may know different sentences.
        self._placed: dict[str, tuple[Tensor, Tensor]] = {}  # each, and its copy where and as `place` is
        width = self.architecture["width"]
        self.dim = config.features or width
        self.project = (
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, self.dim)) if config.features else nn.Identity()
        )
        self.register_buffer("place", torch.empty(0), persistent=False)  # Follows device and dtype.

    def learn(self, sentences: Iterable[str]) -> None:
        """Encode the sentences that are not known yet."""
        new = sorted(set(sentences) - self.known.keys())
        if not new:
            return
        # Not inference tensors, even if a policy acts now, since training may use them later.
        with torch.inference_mode(False), torch.no_grad(), quiet():
            tokenizer, model = self._model(new)
            for sentence in new:
                tokens = tokenizer(sentence, return_tensors="pt", truncation=True)
                hidden = model(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]).last_hidden_state
                self.known[sentence] = (hidden.sum(1) if self.config.pool == "sum" else hidden.mean(1))[0]

    def _model(self, new: list[str]) -> tuple[Any, nn.Module]:
        try:
            return text_model(self.config.model, self.architecture["revision"], folder_content(self.config.model))
        except (OSError, ValueError) as error:
            raise RuntimeError(
                f"{new[0]!r} is not among the {len(self.known)} sentences that this encoder knows, and the text model "
                f"{self.config.model!r} could not be loaded to encode it ({error}). Use one of "
                f"{', '.join(map(repr, list(self.known)[:5])) or '(none)'}, connect to the Hub, or set text.model to a "
                "folder."
            ) from error

    def forward(self, sentences: list[str]) -> Tensor:
        """Encode b sentences into vectors (b w) or (b features)."""
        self.learn(sentences)
        return self.project(torch.stack([self._vector(sentence) for sentence in sentences]))

    def _vector(self, sentence: str) -> Tensor:
        """Return the vector (w) of a known sentence with this module's device and dtype, copied there only once."""
        known, place = self.known[sentence], self.place
        source, vector = self._placed.get(sentence, (None, place))
        if source is not known or (vector.device, vector.dtype) != (place.device, place.dtype):
            with torch.inference_mode(False):  # as in `learn`
                vector = known.to(place)
            self._placed[sentence] = known, vector
        return vector

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        text = json.dumps(list(self.known)).encode()
        destination[prefix + "sentences"] = torch.frombuffer(bytearray(text), dtype=torch.uint8)
        empty = torch.empty(0, self.architecture["width"])
        destination[prefix + "vectors"] = torch.stack(list(self.known.values())) if self.known else empty

    def _load_from_state_dict(
        self, state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
    ) -> None:
        names = {prefix + "sentences", prefix + "vectors"}
        if names <= state_dict.keys():
            width = self.architecture["width"]
            try:
                self.known = learnt(state_dict[prefix + "sentences"], state_dict[prefix + "vectors"], width)
            except ValueError as error:
                error_msgs.append(f"{prefix}sentences and {prefix}vectors can't be read: {error}")
        else:
            missing_keys.extend(sorted(names - state_dict.keys()))
        rest = {name: value for name, value in state_dict.items() if name not in names}
        super()._load_from_state_dict(rest, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs)


def learnt(letters: Tensor, vectors: Tensor, width: int) -> dict[str, Tensor]:
    """Return the vectors (m w) by sentence, from a JSON list of sentences as bytes; raise if they are not valid."""
    if letters.dtype != torch.uint8 or letters.ndim != 1:
        raise ValueError(f"sentences are {letters.dtype} of shape {tuple(letters.shape)}; expected bytes in one axis")
    sentences = parse_json(bytes(letters.cpu().tolist()).decode(), "the list of sentences")
    if not isinstance(sentences, list) or not all(isinstance(sentence, str) for sentence in sentences):
        raise ValueError("sentences are not a list of strings")
    if len(set(sentences)) < len(sentences):
        raise ValueError("a sentence occurs twice")
    if vectors.shape != (len(sentences), width) or not vectors.is_floating_point():
        raise ValueError(
            f"vectors have shape {tuple(vectors.shape)}; expected {(len(sentences), width)} for this text model"
        )
    if not vectors.isfinite().all():
        raise ValueError("vectors hold NaN or infinity")
    return dict(zip(sentences, vectors.detach().cpu().float().clone(), strict=True))


def look_up(name: str) -> dict[str, Any]:
    """Return the width and revision of a text model, from its config alone."""
    transformers = require("transformers", "vision")
    if refusal := refusal_of_path(name):
        raise ValueError(f"text.model: {refusal}")
    try:
        config = transformers.AutoConfig.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"text.model {name!r} could not be found ({error}). Pass the Hub id or folder of a transformers text "
            "model, such as 'distilbert-base-uncased'."
        ) from error
    revision = getattr(config, "_commit_hash", None)
    return {"width": getattr(config, "text_config", config).hidden_size, "revision": revision}


def folder_content(name: str) -> str:
    """Return a hash of the files of a text model in a folder, or "" for one on the Hub, whose revision is known."""
    folder = Path(name).expanduser()
    files = {path.name: path for path in folder.iterdir() if path.is_file()} if folder.is_dir() else {}
    return combined(sampled_all(files)) if files else ""


@lru_cache(maxsize=1)
def text_model(name: str, revision: str | None, content: str) -> tuple[Any, nn.Module]:
    """Load a tokenizer and a text model on the CPU, the text tower of a two-tower model.

    The last one stays cached. `content` is that of `folder_content`, since the files of a folder may change meanwhile.
    """
    transformers = require("transformers", "vision")
    tokenizer = transformers.AutoTokenizer.from_pretrained(name, revision=revision)
    model = transformers.AutoModel.from_pretrained(name, revision=revision)
    model = model.get_encoder() if model.config.is_encoder_decoder else getattr(model, "text_model", model)
    return tokenizer, model.float().eval().requires_grad_(False)
