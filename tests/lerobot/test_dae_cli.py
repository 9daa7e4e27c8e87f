"""LeRobot's own commands record, train, evaluate, resume and fine-tune offline. Takes two minutes on one free core."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from child import environment
from safetensors.torch import load_file

HERE = Path(__file__).parent
TRAIN = ["--policy.device=cpu", "--policy.push_to_hub=false", "--num_workers=0", "--batch_size=8", "--log_freq=100"]
# Several commands in one process: importing LeRobot is most of a short one.
TWO = """
import sys
from lerobot.scripts.lerobot_train import main
for line in sys.argv[1:]:
    sys.argv = ["lerobot-train", *line.split()]
    main()
"""


def run(*command: str) -> str:
    """Run a command that can import the reach task and has no network, and return its output."""
    quiet = environment(HERE, HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1")
    done = subprocess.run(command, env=quiet, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout + done.stderr


def script(name: str) -> str:
    return str(Path(sys.executable).with_name(name))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> list[str]:
    from reach import record

    folder = record(tmp_path_factory.mktemp("reach") / "dataset", episodes=60)
    return ["--dataset.repo_id=test/reach", f"--dataset.root={folder}"]


@pytest.fixture(scope="module")
def eyes(tmp_path_factory) -> str:
    """Return a small random ViT that knows positions from the start. It trains fast; a ResNet would take minutes."""
    import transformers as tr

    folder = tmp_path_factory.mktemp("eyes")
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    model = tr.ViTModel(tr.ViTConfig(**sizes, image_size=48, patch_size=8))
    torch.nn.init.normal_(model.embeddings.position_embeddings)
    model.save_pretrained(folder)
    size = {"height": 48, "width": 48}
    tr.ViTImageProcessor(image_mean=[0.5] * 3, image_std=[0.5] * 3, size=size).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def policy(tmp_path_factory, dataset, eyes) -> Path:
    """Return the folder of a policy that lerobot-train has trained on the bundled delta head."""
    out = tmp_path_factory.mktemp("trained") / "out"
    run(
        *(script("lerobot-train"), *TRAIN, *dataset, f"--output_dir={out}", "--steps=400", "--save_freq=400"),
        *("--policy.type=dae", "--policy.head=dae/mlp-5m-fk-delta", "--policy.action_layout=libero"),
        *("--policy.n_obs_steps=1", "--policy.n_action_steps=2", "--policy.hidden_dim=64", "--policy.noise_samples=2"),
        *(f"--policy.vision.backbone={eyes}", "--policy.optimizer_encoder_lr=1e-3"),
    )
    return out / "checkpoints" / "last" / "pretrained_model"


@pytest.mark.slow
def test_train_and_evaluate(policy, tmp_path):
    """A trained policy finds the disc at one of six places; without the image, one of six attempts would succeed."""
    run(
        *(
            script("lerobot-eval"),
            f"--policy.path={policy}",
            "--policy.device=cpu",
            f"--output_dir={tmp_path / 'eval'}",
        ),
        *("--env.type=reach", "--env.discover_packages_path=reach", "--eval.n_episodes=40", "--eval.batch_size=20"),
        *("--eval.use_async_envs=false", "--seed=10000"),  # starts that no demonstration had
    )
    info = json.loads((tmp_path / "eval" / "eval_info.json").read_text())
    print(info["overall"])
    assert info["overall"]["pc_success"] >= 35, "14 of 40, which at one in six happens in 4 of 1,000 cases"


@pytest.mark.slow
def test_resume_and_fine_tune(policy, dataset, tmp_path):
    """Resuming and fine-tuning start from the checkpoint, and change neither the head nor the range of the actions."""
    first = load_file(policy / "model.safetensors")
    resumed, tuned = policy.parents[2], tmp_path / "tuned"
    config = resumed / "checkpoints" / "000400" / "pretrained_model" / "train_config.json"
    resume = ["--resume=true", f"--config_path={config}", "--steps=405", "--save_freq=405"]
    tune = [f"--policy.path={policy}", *TRAIN, *dataset, f"--output_dir={tuned}", "--steps=5", "--save_freq=5"]
    run(sys.executable, "-c", TWO, " ".join(resume), " ".join(tune))
    for folder in (resumed / "checkpoints" / "000405", tuned / "checkpoints" / "000005"):
        after = load_file(folder / "pretrained_model" / "model.safetensors")
        moved = {name for name in first if not torch.equal(first[name], after[name])}
        assert moved
        assert not {name for name in moved if name.startswith(("conditioned.head.", "conditioned.own_normalizer."))}


@pytest.mark.slow
def test_through_a_vlm(dataset, tmp_path):
    """Train, resume, fine-tune and evaluate through a tiny VLM with LoRA, offline. It is random and learns little."""
    pytest.importorskip("num2words")
    sys.path.append(str(HERE.parent / "vlm"))
    from tiny_processors import saved

    vlm, out, tuned = saved(tmp_path / "vlm", "smolvlm"), tmp_path / "out", tmp_path / "tuned"
    train = [*TRAIN, *dataset, f"--output_dir={out}", "--steps=3", "--save_freq=3", "--policy.type=dae"]
    train += ["--policy.head=dae/mlp-5m-fk-delta", "--policy.action_layout=libero", "--policy.hidden_dim=64"]
    train += [f"--policy.vlm.model={vlm}", "--policy.vlm.layer=2", "--policy.vlm.train=lora"]
    train += ["--policy.vlm.dtype=float32"]
    config = out / "checkpoints" / "000003" / "pretrained_model" / "train_config.json"
    resume = ["--resume=true", f"--config_path={config}", "--steps=5", "--save_freq=5"]
    policy = out / "checkpoints" / "last" / "pretrained_model"
    tune = [f"--policy.path={policy}", *TRAIN, *dataset, f"--output_dir={tuned}", "--steps=2", "--save_freq=2"]
    run(sys.executable, "-c", TWO, " ".join(train), " ".join(resume), " ".join(tune))
    first = load_file(config.with_name("model.safetensors"))
    assert {name for name in first if "encoder.vlm" in name} == {name for name in first if "lora_" in name}
    for folder in (policy, tuned / "checkpoints" / "last" / "pretrained_model"):
        after = load_file(folder / "model.safetensors")
        moved = {name for name in first if not torch.equal(first[name], after[name])}
        assert any("lora_" in name for name in moved)
        assert not any(name.startswith(("conditioned.head.", "conditioned.own_normalizer.")) for name in moved)
        assert "conditioned.adapter.standard.tokens.mean" not in moved
    run(
        *(
            script("lerobot-eval"),
            f"--policy.path={policy}",
            "--policy.device=cpu",
            f"--output_dir={tmp_path / 'eval'}",
        ),
        *("--env.type=reach", "--env.discover_packages_path=reach", "--eval.n_episodes=2", "--eval.batch_size=2"),
        "--eval.use_async_envs=false",
    )
    assert (tmp_path / "eval" / "eval_info.json").exists()
