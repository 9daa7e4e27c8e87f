"""The file formats that are fuzzed: how to make a valid folder of each, and what a loaded one means.

The meaning of a loaded object is what `load` returns: every tensor, and every value of the configuration that affects
a number. Provenance does not count: the name of a head, records of training, the name and place in the pointer of an
adapter, curves and times of a training state, and command, date and machine of a result.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from small import COND_DIM, tiny_head, trained_policy
from torch import Tensor, nn

from action_heads import EE_ABSOLUTE, ActionHead, ActionSpace, ConditionedHead, Normalizer, adapter_file, golden
from action_heads.adapters import ADAPTERS
from action_heads.ema import EMA
from action_heads.encoders import ObservationConfig, ObservationEncoder, TextConfig, VisionConfig
from action_heads.observed_policy import Contract, ObservedPolicy
from action_heads.training import checkpoint
from action_heads.training.base import Training
from action_heads.vlm.tap import Tap

JOINTS = ActionSpace((("joint", 7), ("gripper", 1)))


@dataclass(frozen=True)
class Format:
    """One format of folders.

    Attributes:
        make: writes a valid folder for a seed.
        load: reads a folder, and returns its meaning.
        share: how often the format is fuzzed, relative to 1 for the others.
    """

    name: str
    make: Callable[[Path, int], None]
    load: Callable[[Path], str]
    share: float = 1.0


def digest(tensors: dict[str, Tensor], *values: Any) -> str:
    """Return 32 hex digits for the exact bits of tensors and for values."""
    of = hashlib.sha256(repr(values).encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        of.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)};".encode())
        of.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")
    return of.hexdigest()[:32]


# ── heads ────────────────────────────────────────────────────────────────────────────────────────────────────────


def make_head(backbone: str, dtype: torch.dtype | None = None, **changes: Any) -> Callable[[Path, int], None]:
    def make(folder: Path, seed: int) -> None:
        tiny_head(backbone, seed, depth=2, training={"data": ["a"], "steps": 3}, **changes).save_pretrained(
            folder, dtype=dtype
        )

    return make


def load_head(folder: Path) -> str:
    head = ActionHead.from_pretrained(folder)
    return digest(head.state_dict(), head.config.contract())


def make_golden(folder: Path, seed: int) -> None:
    head = tiny_head("mixer", seed, depth=2)
    head.save_pretrained(folder)
    golden.save(head, folder)


def load_golden(folder: Path) -> str:
    """Return whether the head passes the check. The rest of a golden file is not used for anything."""
    head = ActionHead.from_pretrained(folder)
    off = golden.largest_difference(head, folder)
    if not off < 1e-4:
        raise ValueError(f"{folder}: the golden outputs are off by {off}")
    return digest(head.state_dict(), head.config.contract())


# ── adapters ─────────────────────────────────────────────────────────────────────────────────────────────────────

HEADS: dict[tuple[str, int], ActionHead] = {}


def the_head(backbone: str, seed: int = 0) -> ActionHead:
    if (backbone, seed) not in HEADS:
        HEADS[backbone, seed] = tiny_head(backbone, seed, depth=2)
    return HEADS[backbone, seed]


def make_adapter(backbone: str, mechanism: str, reshaped: bool = False, **options: Any) -> Callable[[Path, int], None]:
    def make(folder: Path, seed: int) -> None:
        head = the_head(backbone)
        torch.manual_seed(seed)
        if reshaped:
            policy = head.reshape(space=JOINTS, horizon=8).attach(
                ADAPTERS[mechanism](COND_DIM, **options), normalizer=Normalizer.identity(JOINTS)
            )
        elif "cond_dim" in options:
            policy = head.attach(ADAPTERS[mechanism](**options), normalizer=Normalizer.identity(EE_ABSOLUTE))
        else:
            policy = trained_policy(head, mechanism, **options)
        with torch.no_grad():
            for p in policy.adapter.parameters():
                p.add_(0.1 * torch.randn_like(p))
        policy.save_adapter(folder)

    return make


def meaning_of(policy: ConditionedHead) -> str:
    adapter = dataclasses.asdict(policy.adapter.config)
    state = adapter_file.own_state(policy) | policy.head.state_dict()
    return digest(state, policy.adapter.name, adapter, policy.own_normalizer is None, policy.head.config.contract())


def load_adapter(backbone: str) -> Callable[[Path], str]:
    return lambda folder: meaning_of(the_head(backbone).load_adapter(folder))


def make_pointed(folder: Path, seed: int) -> None:
    """Write an adapter next to the head that it points to."""
    tiny_head("mlp", 0, depth=2).save_pretrained(folder / "head")
    head = ActionHead.from_pretrained(folder / "head")
    torch.manual_seed(seed)
    trained_policy(head).save_adapter(folder)


def load_pointed(folder: Path) -> str:
    return meaning_of(ConditionedHead.from_pretrained(folder))


# ── taps ─────────────────────────────────────────────────────────────────────────────────────────────────────────


class Model(nn.Module):
    """A stand-in for a language model of transformers, with the parts that a tap needs."""

    def __init__(self):
        super().__init__()
        text = SimpleNamespace(hidden_size=8, num_hidden_layers=4)
        self.config = SimpleNamespace(get_text_config=lambda: text, image_token_id=5)
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(4))

    @property
    def base_model(self) -> Model:
        return self

    def get_decoder(self) -> Model:
        return self


def make_tap(*layers: Any, select: str = "all") -> Callable[[Path, int], None]:
    """Write a tap of one layer or several, which depend on the seed."""

    def make(folder: Path, seed: int) -> None:
        tap = Tap(Model(), [f"layers.{layer + seed}" for layer in layers], select=select)
        if tap.mix is not None:
            torch.manual_seed(seed)
            nn.init.normal_(tap.mix.weight)
        tap.save(folder)

    return make


def load_tap(folder: Path) -> str:
    tap = Tap.load(folder, Model())
    return digest({} if tap.mix is None else tap.mix.state_dict(), tap.layers, tap.select)


# ── encoders, in the folders of adapted policies ─────────────────────────────────────────────────────────────────


def make_policy(config: ObservationConfig, architecture: dict[str, Any], inside: bool) -> Callable[[Path, int], None]:
    def make(folder: Path, seed: int) -> None:
        torch.manual_seed(seed)
        encoder = ObservationEncoder(config, architecture)
        if encoder.text is not None:
            encoder.text.known = {"lift the cube": torch.randn(12), "stack": torch.randn(12)}
        head = tiny_head("mlp", 0, depth=2)
        if not inside:
            head.save_pretrained(folder / "elsewhere")
            head = ActionHead.from_pretrained(folder / "elsewhere")
        torch.manual_seed(seed)  # Making a head has set it.
        adapter = ADAPTERS["adaln_zero"](encoder.cond_dim, hidden_dim=8)
        policy = head.attach(adapter, normalizer=Normalizer.identity(EE_ABSOLUTE))
        nn.init.normal_(policy.adapter.aim.weight)
        sizes = dict.fromkeys(config.cameras, (32, 32))
        contract = Contract(("observation.state",), sizes, "action", "pose_6d", (-1.0, 1.0), 20.0)
        ObservedPolicy(encoder, policy, contract, {"settings": {"steps": 3}}).save(folder)

    return make


def load_policy(folder: Path) -> str:
    policy = ObservedPolicy.from_pretrained(folder)
    encoder = policy.encoder
    known = {} if encoder.text is None else dict(encoder.text.known)
    values = (encoder.config, encoder.architecture, policy.contract, str(policy.layout), meaning_of(policy.policy))
    return digest(policy.encoder.state_dict() | known, *values)


STATES = ObservationConfig(state_dim=5)
WORDS = ObservationConfig(state_dim=5, observation_steps=1, text=TextConfig("words", features=4))
WORDS_OF: dict[str, Any] = {"text": {"width": 12, "revision": None}}
PICTURES = ObservationConfig(("front",), 3, vision=VisionConfig("a/vit", features=4, crop=(28, 28)))
PICTURES_OF: dict[str, Any] = {
    "vision": {
        "config": {
            **{"model_type": "vit", "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1},
            **{"num_attention_heads": 2, "image_size": 32, "patch_size": 8},
        },
        **{"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "size": [32, 32], "width": 16},
    }
}


# ── states of training ───────────────────────────────────────────────────────────────────────────────────────────


class Run(Training):
    """A training run of a few numbers."""

    def __init__(self, seed: int):
        torch.manual_seed(seed)
        self.model = nn.Linear(3, 2)
        self.parameters = list(self.model.parameters())
        self.buffers = (torch.randn(4),)
        self.optimizer = torch.optim.AdamW(self.parameters)
        self.ema, self.step, self.progress = EMA(self.parameters, max_decay=0.9), 0, checkpoint.Progress()
        self.config = SimpleNamespace(outcome=lambda: {"steps": 9, "lr": 1e-3})
        self.inputs = {"--data": "0123456789abcdef"}
        self.accelerator = SimpleNamespace(
            num_processes=1, mixed_precision="no", is_main_process=True, device="cpu", gather=lambda x: x
        )


def make_state(folder: Path, seed: int) -> None:
    run = Run(seed)
    for _ in range(2):
        run.model(torch.randn(5, 3)).square().mean().backward()
        run.optimizer.step()
        assert run.ema
        run.ema.update()
        run.step += 1
        run.progress.add(50, 0.5)
    checkpoint.save(run, folder)


def load_state(folder: Path) -> str:
    run = Run(7)
    record = checkpoint.read(folder)
    if record is None:
        raise ValueError(f"{folder} holds no state")
    checkpoint.resume(run, folder)
    return digest(run.state_dict(), run.step, record["config"], record["precision"], record.get("inputs"))


# ── results of the reproduction ──────────────────────────────────────────────────────────────────────────────────


def make_result(folder: Path, seed: int) -> None:
    from action_heads_lab.reproduce import results
    from action_heads_lab.reproduce.config import Run
    from made_up import result

    run = Run(episodes=4, seed=seed, checkpoints=2)
    one = result(run, [bool(seed % 2), True, False, False])
    results.save(dataclasses.replace(one, earlier={run.checkpoint_steps[0]: one.episodes[::-1]}), folder / "run.json")


def load_result(folder: Path) -> str:
    from action_heads_lab.reproduce import results

    one = results.load(folder / "run.json")
    str(one)
    counted = (one.id, one.run, one.episodes, one.head, one.seconds, one.losses, one.earlier, one.best)
    return digest({}, *counted)


def make_progress(folder: Path, seed: int) -> None:
    from action_heads_lab.reproduce.results import Episode, Progress

    done = {600: [Episode("Lift", 3 + seed, True, 40, "a.mp4"), Episode("Lift", 5, False, 120)], 300: []}
    folder.mkdir(parents=True, exist_ok=True)
    Progress(folder / "p.json", {"training": 1.5, "policy": 0.0}, [0.1, 0.2], done).save()


def load_progress(folder: Path) -> str:
    from action_heads_lab.reproduce.results import Progress

    one = Progress.load(folder / "p.json")
    return digest({}, one.seconds, one.losses, one.rolled)


FORMATS = (
    Format("head-mlp", make_head("mlp"), load_head),
    Format("head-mixer", make_head("mixer"), load_head),
    Format("head-transformer", make_head("transformer"), load_head),
    Format("head-unet", make_head("unet", width=8), load_head),
    Format("head-bfloat16", make_head("mlp", torch.bfloat16), load_head),
    Format("golden", make_golden, load_golden),
    Format("adapter-both", make_adapter("mlp", "adaln_zero"), load_adapter("mlp")),
    Format("adapter-paper", make_adapter("mlp", "film", through="blocks", relearn_step=True), load_adapter("mlp")),
    Format("adapter-reshaped", make_adapter("mixer", "adaln_zero", reshaped=True), load_adapter("mixer")),
    Format(
        "adapter-sources",
        make_adapter("mlp", "adaln_zero", cond_dim={"tokens": 9, "state": 4}, pool="attention"),
        load_adapter("mlp"),
    ),
    Format("adapter-pointer", make_pointed, load_pointed),
    Format("tap-mix", make_tap(0, 1, 2), load_tap),
    Format("tap-one", make_tap(1, select="text"), load_tap, share=0.5),
    Format("policy-states", make_policy(STATES, {}, inside=True), load_policy),
    Format("policy-words", make_policy(WORDS, WORDS_OF, inside=False), load_policy),
    Format("policy-pictures", make_policy(PICTURES, PICTURES_OF, inside=True), load_policy),
    Format("state", make_state, load_state, share=1.5),
    Format("result", make_result, load_result, share=1.5),
    Format("progress", make_progress, load_progress, share=0.5),
)
