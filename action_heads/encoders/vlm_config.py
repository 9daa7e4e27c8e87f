"""The configuration of a vision-language, vision or language model as the encoder of observations."""

from __future__ import annotations

from dataclasses import dataclass

from action_heads._util import limits
from action_heads._util.flags import about, check_choices
from action_heads._util.limits import check_fields, check_width
from action_heads.adapters.condition_reader import POOLS
from action_heads.vlm.lora import TRAIN
from action_heads.vlm.tap import SELECT

TEMPLATES = ("auto", "chat", "plain")
DTYPES = ("auto", "bfloat16", "float32", "float16")
TASK = "{task}"


@dataclass(frozen=True)
class VLMConfig:
    """A transformers model whose hidden states are the tokens of the condition.

    The model sees the current image of every camera and the task's words, each as far as it can read them: a
    vision-language model both, a vision model images, a language model words.

    Attributes:
        model (str): Hub id or folder of the model, with its processor.
        layer: layer as in the `hidden_states` of transformers, -1 for the last, or several to mix with trained weights.
        select: the tokens that count: all, image or text.
        train (str): frozen, lora, or full.
        lora_rank (int): rank of the LoRA matrices on all linear layers.
        prompt: the text of the prompt, in which `{task}` stands for the task's words.
        template: chat (the processor's chat template), plain (image tokens, then the prompt), or auto: chat if there
            is a chat template.
        dtype: dtype of the weights that are frozen or train in full: bfloat16, float32 or float16. auto is float32 for
            full training and bfloat16 otherwise. LoRA matrices are float32.
        pool: how the adapter pools the tokens: attention, last or mean.
        revision (str): branch, tag or commit of the model on the Hub.

    Raises:
        ValueError: a value is not valid.
    """

    model: str = ""  # Hub id or folder of a transformers model with its processor
    layer: int | tuple[int, ...] = -1  # layers to read, as in hidden_states; several are mixed with trained weights
    select: str = "all"  # the tokens that count: all, image or text
    train: str = "frozen"  # training of the model: frozen, lora or full
    lora_rank: int = 16  # rank of the LoRA matrices
    prompt: str = TASK  # text of the prompt; {task} stands for the task's words
    template: str = "auto"  # chat, plain (image tokens, then the prompt), or auto: chat if the model has a template
    dtype: str = "auto"  # dtype of the model: bfloat16, float32, float16; auto: float32 for full training
    pool: str = "attention"  # pooling of the tokens in the adapter: attention, last or mean
    revision: str | None = None  # branch, tag or commit on the Hub

    def __post_init__(self):
        if isinstance(self.layer, (list, tuple)):
            alone = self.layer[0] if len(self.layer) == 1 else tuple(self.layer)
            object.__setattr__(self, "layer", alone)
        check_fields(vars(self), VLMConfig, "the vlm config")
        with about("layer"):
            if not self.layers or len(set(self.layers)) < len(self.layers):
                raise ValueError(f"needs one layer, or several different ones, got {self.layer}")
        with about("model"):
            if not self.model:
                raise ValueError("is empty; pass the Hub id or the folder of a transformers model")
        if self.train == "none":  # the word of older releases, in their files
            object.__setattr__(self, "train", "frozen")
        check_choices(self, select=SELECT, train=TRAIN, template=TEMPLATES, dtype=DTYPES, pool=POOLS)
        with about("lora_rank"):
            check_width("lora_rank", self.lora_rank, limits.RANK)
        if self.dtype == "float16" and self.train == "full":
            with about("dtype"):
                raise ValueError("float16 weights can't train in full; use float32 or bfloat16")

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers, also if it is one."""
        return (self.layer,) if isinstance(self.layer, int) else self.layer

    @property
    def torch_dtype(self) -> str:
        """The dtype of the model's weights, with auto resolved."""
        return ("float32" if self.train == "full" else "bfloat16") if self.dtype == "auto" else self.dtype

    @property
    def reads_task(self) -> bool:
        """True if the prompt depends on the task's words."""
        return TASK in self.prompt
