"""A save over an older one that fails changes nothing, and one that is killed leaves nothing mixed that loads."""

from __future__ import annotations

import functools
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from forked import done_before, needs_fork, outcome
from small import tiny_head, trained_policy

from action_heads import ActionHead, ObservedPolicy
from action_heads.actions.contract import Contract
from action_heads.actions.normalize import Normalizer
from action_heads.adapters import AdaLNZero
from action_heads.encoders import ObservationConfig, ObservationEncoder, VisionConfig
from action_heads.io import files
from action_heads.io.hub import HeadNotFoundError

resource = pytest.importorskip("resource")
pytestmark = needs_fork
EYES = {"cameras": ("front",), "vision": VisionConfig("resnet18", features=4, resize=(48, 48))}

MIXED = "different saves, which a save that was killed leaves too.*(?:save them|policy) again|not fit its config.*again"


def policy(head: ActionHead, seed: int, **observed: Any) -> ObservedPolicy:
    torch.manual_seed(seed)
    config = ObservationConfig(**{"observation_steps": 1, "state_dim": 3} | observed)
    encoder = ObservationEncoder(config).eval()
    conditioned = head.attach(AdaLNZero(encoder.cond_dim), normalizer=Normalizer.identity(head.config.space))
    torch.nn.init.normal_(conditioned.adapter.aim.weight)
    contract = Contract(("position",), {}, "action", "pose_6d", (-1.0, 1.0), rate_hz=20.0)
    return ObservedPolicy(encoder, conditioned, contract)


def kept(place: Path, seed: int, **observed: Any) -> ObservedPolicy:
    """Return a policy whose head is saved in a folder of its own."""
    head = ActionHead.from_pretrained(tiny_head(seed=0).save_pretrained(place.parent / "kept"))
    return policy(head, seed, **observed)


def seeing(place: Path, seed: int) -> ObservedPolicy:
    pytest.importorskip("torchvision")
    return kept(place, seed, **EYES)


def with_its_head(place: Path, seed: int) -> ObservedPolicy:
    return policy(tiny_head(seed=seed), seed)


def of_other_shapes(place: Path, seed: int) -> ObservedPolicy:
    return policy(tiny_head(seed=seed, width=16 + 8 * seed), seed, state_dim=3 + seed)


def first_with_its_head(place: Path, seed: int) -> ObservedPolicy:
    """Return policies of which only the second one's head is saved along."""
    return with_its_head(place, seed) if seed else kept(place, seed)


@dataclass
class Kind:
    """A kind of object that is saved: functions that make it for a place and a seed, save it and load it."""

    make: Callable[[Path, int], Any]
    save: Callable[[Any, Path], object]
    load: Callable[[Path], Any]


def a_policy(make: Callable[[Path, int], ObservedPolicy]) -> Kind:
    return Kind(make, ObservedPolicy.save, ObservedPolicy.from_pretrained)


def adapted(place: Path, seed: int) -> Any:
    head = ActionHead.from_pretrained(tiny_head(seed=0).save_pretrained(place.parent / "kept"))
    torch.manual_seed(seed)
    return trained_policy(head)


KINDS = {
    "states": a_policy(kept),
    "images": a_policy(seeing),
    "with its head": a_policy(with_its_head),
    "of other shapes": a_policy(of_other_shapes),
    "first with its head": a_policy(first_with_its_head),
    "head": Kind(lambda _, seed: tiny_head(seed=seed), ActionHead.save_pretrained, ActionHead.from_pretrained),
    "adapter": Kind(
        adapted,
        lambda made, place: made.save_adapter(place),
        lambda place: ActionHead.from_pretrained(place.parent / "kept").load_adapter(place),
    ),
}


def fingerprint(made: torch.nn.Module) -> str:
    return files.fingerprint(made.state_dict())


def contents(place: Path) -> dict[str, bytes]:
    return {str(path.relative_to(place)): path.read_bytes() for path in place.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", KINDS)
def test_a_save_that_fails_changes_nothing(name, tmp_path):
    kind, place = KINDS[name], tmp_path / "saved"
    older, newer = (kind.make(place, seed) for seed in (0, 1))
    kind.save(older, place)
    kind.save(newer, tmp_path / "other")
    before, sizes = contents(place), {path.stat().st_size for path in (tmp_path / "other").rglob("*") if path.is_file()}
    for limit in (0, *(size - 1 for size in sorted(sizes))):

        def full(limit: int = limit) -> None:
            made = kind.make(place, 1)
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            kind.save(made, place)

        said = outcome(full)
        assert f"could not write {place}" in said, limit
        assert "unchanged. Free some space" in said, limit
        assert contents(place) == before, limit
        assert fingerprint(kind.load(place)) == fingerprint(older)


@pytest.mark.parametrize("over", [True, False])
@pytest.mark.parametrize("name", KINDS)
def test_a_save_that_is_killed_leaves_one_of_both_or_says_so(name, over, tmp_path):
    kind, older = KINDS[name], tmp_path / "older"
    first, second = (kind.make(older, seed) for seed in (0, 1))
    kind.save(first, older)
    found, refused = set(), list[str]()
    for change in range(1, 100):
        place = tmp_path / f"{change}"
        if over:
            shutil.copytree(older, place)
        ended = done_before(change, functools.partial(kind.save, second, place))
        try:
            found.add(fingerprint(kind.load(place)))
        except HeadNotFoundError:
            refused.append("not there")
        except files.WeightFileError as error:
            refused.append(str(error))
        if ended:
            break
    for says in refused:
        assert re.search(MIXED if over else "not there", says, re.IGNORECASE), says
    assert found == {fingerprint(made) for made in ((first, second) if over else (second,))}
    assert fingerprint(kind.load(place)) == fingerprint(second)
