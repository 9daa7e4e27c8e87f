"""Images and words to the inputs of a model, by its own processor and chat template.

Axes: b batch, k cameras, H and W pixels, m tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from action_heads._util.extras import require
from action_heads._util.quiet import quiet
from action_heads.vlm.files import IMAGES, WORDS
from action_heads.vlm.model import image_ids_of


class Prompt:
    """A function from images and words to the inputs of a model.

    Args:
        folder: the folder of the model and its processor.
        reads: what the model reads, "images", "words" or both.
        text: the text of the prompt, in which `{task}` stands for the task's words.
        template: "chat", "plain", or "auto" for chat if there is a chat template.

    Raises:
        ValueError: the processor cannot be loaded, or has no chat template.
    """

    def __init__(self, folder: Path, reads: Sequence[str], text: str, template: str):
        self.folder, self.reads, self.text = folder, tuple(reads), text
        self.processor = _processor(folder, self.reads)
        self.chats = bool(getattr(self.processor, "chat_template", None)) and template != "plain"
        if template == "chat" and not self.chats:
            raise ValueError(
                f"the {type(self.processor).__name__} in {folder} has no chat template, which template=chat needs. Use "
                "template=plain, or auto"
            )
        config = require("transformers", "vlm").AutoConfig.from_pretrained(folder)
        self.image_ids = image_ids_of(config)
        tokenizer = getattr(self.processor, "tokenizer", None)
        self.image_token = getattr(self.processor, "image_token", None) or getattr(tokenizer, "image_token", None)
        if not self.image_token and self.image_ids and tokenizer is not None:
            self.image_token = tokenizer.convert_ids_to_tokens(self.image_ids[0])

    def __call__(self, images: Sequence[Sequence[Tensor]], tasks: Sequence[str]) -> dict[str, Tensor]:
        """Return the inputs of the model for b rows.

        Args:
            images: the images (3 H W) uint8 of k cameras in each row; of a model that reads no images, none.
            tasks: the task's words of each row.

        Raises:
            ValueError: the inputs have no places for the images.
        """
        if self.reads == (IMAGES,):
            return dict(self.processor(images=[image for row in images for image in row], return_tensors="pt"))
        texts = [self.rendered(task, len(row)) for task, row in zip(tasks, images, strict=True)]
        options: dict[str, Any] = {"text": texts, "return_tensors": "pt", "padding": True}
        if self.chats:
            options["add_special_tokens"] = False  # the template has written them
        if any(len(row) for row in images):
            options["images"] = [list(row) for row in images]
        try:
            inputs = dict(self.processor(**options))
        except (ValueError, TypeError, IndexError) as error:
            kind = "chat template" if self.chats else "plain prompt"
            if "images" in options:
                self._check_text(texts[0], error)
            raise ValueError(
                f"the {type(self.processor).__name__} does not take {len(images[0])} images with the {kind} "
                f"{texts[0]!r}: {error}"
            ) from error
        if "images" in options:
            self._check(inputs, texts[0])
        return inputs

    def rendered(self, task: str, cameras: int) -> str:
        """Return the prompt of one row as text, with its image tokens."""
        words = self.text.replace("{task}", task)
        if not self.chats:
            return (self.image_token or "<image>") * cameras + words
        content: Any = [{"type": "image"}] * cameras + [{"type": "text", "text": words}]
        if IMAGES not in self.reads:
            content = words
        message = [{"role": "user", "content": content}]
        try:
            return self.processor.apply_chat_template(message, add_generation_prompt=True, tokenize=False)
        except Exception as error:  # Templates are programs, which raise errors of any type.
            raise ValueError(
                f"the chat template in {self.folder} can't be filled ({error}). Use template=plain"
            ) from error

    def _check(self, inputs: dict[str, Tensor], text: str) -> None:
        """Raise a ValueError if a row has no image tokens, since the model would then not see the images."""
        ids = inputs.get("input_ids")
        if not self.image_ids or ids is None:
            return
        seen = torch.isin(ids, ids.new_tensor(self.image_ids)).any(1)
        if seen.all():
            return
        self._check_text(text)
        raise ValueError(
            f"the {type(self.processor).__name__} in {self.folder} yields no image tokens {self.image_ids} for the "
            f"text {text!r}, so the model would not see the images. Its files may belong to another model"
        )

    def _check_text(self, text: str, error: Exception | None = None) -> None:
        """Raise a ValueError if the prompt has no place for images: no token of one, and none that begins one."""
        tokens = [self.image_token, getattr(self.processor, "boi_token", None)]
        if self.image_token and not any(token in text for token in tokens if token):
            kind = "chat template" if self.chats else "prompt"
            raise ValueError(
                f"the {kind} drops the images: the text is {text!r}, without {self.image_token!r}. Use template=plain"
            ) from error


def _processor(folder: Path, reads: tuple[str, ...]) -> Any:
    """Load the processor of a vision-language model, the tokenizer or the image processor of another."""
    transformers = require("transformers", "vlm")
    kinds: dict[tuple[str, ...], str] = {(IMAGES,): "AutoImageProcessor", (WORDS,): "AutoTokenizer"}
    kind = getattr(transformers, kinds.get(reads, "AutoProcessor"))
    try:
        with quiet():
            found = kind.from_pretrained(folder)
    except (OSError, ValueError, ImportError, TypeError, KeyError) as error:
        raise ValueError(f"the processor in {folder} could not be loaded: {error}") from error
    if reads == (IMAGES, WORDS) and not hasattr(found, "image_processor"):
        raise ValueError(
            f"{folder} has no processor for images: {kind.__name__} found a {type(found).__name__}. Copy the files of "
            "the model's processor there"
        )
    if WORDS in reads:
        tokenizer = getattr(found, "tokenizer", found)
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    return found
