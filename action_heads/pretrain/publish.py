"""The command `action-heads publish`: check a finished head, upload it to the Hub and verify the upload.

The command checks the folder, writes the card and uploads both in one commit. It then downloads this commit into an
empty cache and raises an error unless it equals what was checked.
"""

from __future__ import annotations

import shlex
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from action_heads import golden, head_file
from action_heads.card import KEPT, credit, head_card, measured
from action_heads.head import ActionHead
from action_heads.io import files, locks
from action_heads.io.sources import origin, words
from action_heads.io.upload import Published, PublishError, upload

NEEDED = ("config.json", "model.safetensors", golden.NAME, "curves.json", "curves.png")
WELCOME = ("evaluation.json", "evaluation.md", "evaluation.png", "trial.json", "latency.json")
TOLERANCE = 1e-4  # For golden outputs, in robot units. The order of additions differs between processors.
# A name with one of these words claims that the head was trained on it.
CORPORA = ("droid", "libero", "mimicgen", "robomimic", "openx")


@dataclass(frozen=True)
class PublishConfig:
    """Check a head, write its card, upload both in one commit, and verify the upload.

    Attributes:
        folder: folder of a head that `action-heads pretrain` wrote.
        repo: repository to upload to, `owner/name`; required without --dry-run.
        private: make the repository private, if it is new.
        create_pr: propose the commit as a pull request.
        dry_run: write the card and list what would be uploaded, without any request.
    """

    folder: Path
    repo: str = ""
    private: bool = False
    create_pr: bool = False
    dry_run: bool = False


def publish(config: PublishConfig) -> Published | None:
    """Publish a head and print what was done; return None after a dry run."""
    if not config.repo and not config.dry_run:
        raise PublishError(
            f"no repository was given for {config.folder}. Add --repo owner/name, or --dry-run to send nothing"
        )
    if not config.folder.is_dir():
        raise not_a_folder(config.folder)
    with locks.held(config.folder, remedy="publish a copy of it"):  # a run would replace what was checked
        return _publish(config)


def _publish(config: PublishConfig) -> Published | None:
    head = check(config.folder, config.repo)
    write_card(head, config.folder, config.repo or head.config.name)
    names = [name for name in (*NEEDED, *WELCOME, "README.md") if (config.folder / name).is_file()]
    print(f"{head!r}\nThe golden outputs agree. Fingerprint: {head.fingerprint()}. The commit has these files:")
    for name in names:
        print(f"  {name:20} {(config.folder / name).stat().st_size:>12,} bytes")
    folder = shlex.quote(str(config.folder))
    if "evaluation.json" not in names:
        print(f"  no evaluation: to show one in the card, run `action-heads evaluate-head {folder}`")
    if "trial.json" not in names:
        print(f"  no trial on a task: to show one in the card, run `action-heads demo --head {folder}`")
    if config.dry_run:
        print(f"Dry run: the card is {config.folder / 'README.md'}. Nothing was sent")
        return None
    with tempfile.TemporaryDirectory() as staging:  # Training state and notes are not uploaded.
        for name in names:
            shutil.copyfile(config.folder / name, Path(staging) / name)
        done = upload(
            staging,
            config.repo,
            lambda there: _check_copy(head, there),
            private=config.private or None,
            create_pr=config.create_pr,
        )
    print(f"Published and verified: {done.url}")
    print(f'  ActionHead.from_pretrained("{config.repo}", revision="{done.revision}")')
    return done


def check(folder: Path, repo: str = "") -> ActionHead:
    """Return the head in a folder, frozen, or raise one error that lists all problems."""
    if not folder.is_dir():
        raise not_a_folder(folder)
    problems = [f"{name} is missing" for name in NEEDED if not (folder / name).is_file()]
    if any(problem.startswith(("config", "model")) for problem in problems):
        raise _refused(folder, problems)
    try:
        # Refuses an incomplete config, and weights that do not fit it or are not those it was saved with.
        head = ActionHead.from_pretrained(folder.resolve())
        finite = all(tensor.isfinite().all() for tensor in head.state_dict().values())
        off = golden.largest_difference(head, folder) if finite and (folder / golden.NAME).is_file() else 0.0
    except ValueError as error:
        raise _refused(folder, [*problems, str(error)]) from error
    if not finite:
        problems.append("its weights contain NaN or infinity, so the training diverged. Lower --lr and train again")
    if off > TOLERANCE:
        problems.append(
            f"its golden outputs differ by {off:.2g} in robot units, which is more than {TOLERANCE:g}. So the weights "
            "were changed after the golden outputs were saved. Train again, or, if the change is intended, call "
            "`golden.save`"
        )
    record = head.config.training
    problems += [
        f"the record in config.json has no {key!r}. Pretraining writes it{' (--licence)' * (key == 'licence')}. For a "
        "head that was made otherwise, add it to HeadConfig.training"
        for key in ("command", "licence", "data", "seed", "steps")
        if record.get(key) in (None, "", [])
    ]
    data = record.get("data") or ()
    problems += [
        f"no owner and licence is on record for {spec}. Pretrain with --credit "
        f"{shlex.quote(f'{origin(spec)}=owner, licence')}, or add "
        f"{{{spec!r}: 'owner, licence'}} to training['credits'] of config.json"
        for spec in data
        if credit(spec, record) is None
    ]
    problems += unearned_names((folder.resolve().name, repo, head.config.name), data)
    quoted = shlex.quote(str(folder))
    for name, again in (("evaluation.json", f"evaluate-head {quoted}"), ("trial.json", f"demo --head {quoted}")):
        if (folder / name).is_file() and (of := measured(folder / name)) != head.fingerprint():
            problems.append(
                f"{name} belongs to other weights (fingerprint {of}). Run `action-heads {again}` again, or remove it"
            )
    if problems:
        raise _refused(folder, problems)
    return head


def _check_copy(head: ActionHead, folder: Path) -> None:
    """Raise an error unless a folder holds this head, with golden outputs that it replays."""
    head_file.check_copy(folder, head.fingerprint())
    if (off := golden.largest_difference(ActionHead.from_pretrained(folder), folder)) > TOLERANCE:
        raise PublishError(f"the golden outputs differ by {off:.2g}")


def not_a_folder(folder: Path) -> PublishError:
    """Return the error for a path that is not a folder."""
    return PublishError(f"{folder} is not a folder. Publish the folder that `action-heads pretrain --out` wrote")


def unearned_names(names: Iterable[str], data: Sequence[str]) -> list[str]:
    """Return a problem for each dataset that a name claims but the recorded training data does not contain."""
    return [
        f"the name {name!r} claims {corpus}, but the head was trained on {', '.join(data) or 'nothing'}. Rename it"
        for name in dict.fromkeys(names)
        for corpus in CORPORA
        if corpus in words(name) and not any(corpus in words(origin(spec)) for spec in data)
    ]


def write_card(head: ActionHead, folder: Path, name: str) -> None:
    """Write README.md. An existing card without the marker of the user's own text is kept as .README.md.old."""
    card = folder / "README.md"
    contents = {"README.md": head_card(head, name, folder).encode()}
    if card.exists() and KEPT not in (old := card.read_text(encoding="utf-8")):
        contents[".README.md.old"] = old.encode()
    files.write_together(folder, contents)


def _refused(folder: Path, problems: Sequence[str]) -> PublishError:
    return PublishError(f"{folder} was not published, and nothing was sent:\n" + "\n".join(f"- {p}" for p in problems))
