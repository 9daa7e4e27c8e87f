"""Damaged files of arms raise the documented error, name the file, end soon, and never mean something else.

To try thousands by hand, see arm_fuzz.py.
"""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("pinocchio")
pytest.importorskip("mujoco")

from arm_fuzz import outcome, run
from robots import mjcf, urdf

from action_heads.kinematics import markup, model

COUNT = 400


@pytest.mark.parametrize("kind", ["urdf", "mjcf"])
def test_no_damaged_file_does_harm(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # MuJoCo leaves its log there
    counts, told = run(kind, range(COUNT), tmp_path)
    faults = [line for line in told if line[1] != "alone"]
    assert not faults
    assert counts["refused"] > COUNT / 2
    assert counts["same"] > COUNT / 20, "too few files survive to tell whether they keep their meaning"


@pytest.mark.parametrize("kind", ["urdf", "xml"])
@pytest.mark.parametrize("fault", [KeyError("x"), RecursionError("deep"), AttributeError("x")])
def test_the_fuzz_sees_a_raw_error(
    kind: str, fault: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise fault

    monkeypatch.setattr(model, "find_tip", broken)
    path = tmp_path / f"arm.{kind}"
    path.write_text(urdf() if kind == "urdf" else mjcf())
    assert outcome(path)[0] == "raw"


def test_the_fuzz_sees_another_meaning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "arm.xml"
    path.write_text(mjcf())
    assert outcome(path)[0] == "same"
    monkeypatch.setattr(markup.Element, "numbers", half(markup.Element.numbers))
    assert outcome(path)[0] == "other"


def half(numbers):
    def halved(self, *arguments):
        values = numbers(self, *arguments)
        return values and [value / 2 for value in values]

    return halved


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not well-formed XML"),
        (b"<robot>" * 100_000, "nested at most 200 deep"),
        (b"<robot>" + b"<link/>" * 200_000 + b"</robot>", "at most 100000 elements"),
        (
            b'<!DOCTYPE r [<!ENTITY a "aa"><!ENTITY b "&a;&a;">]><robot name="&b;"/>',
            "line 1: entities are not supported",
        ),
        (b"<robot>" + b" " * 17_000_000 + b"</robot>", "17000015 bytes; expected URDF of at most 16 MiB"),
        (b'<?xml version="1.0" encoding="klingon"?><robot/>', "not well-formed XML"),
        (b"<robot>" + b"<link name='x'/>" * 3000 + b"</robot>", "3000 links; at most 2000"),
        (b"\xff\xfe\x00\x00", "not well-formed XML"),
        (b"<mujoco/>", "begins with <robot>; give an MJCF file the ending .xml"),
    ],
)
def test_sizes_are_bounded(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "arm.urdf"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as raised:
        model.read_arm(path)
    assert len(str(raised.value)) < 500


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    import os

    (tmp_path / "folder.urdf").mkdir()
    os.mkfifo(tmp_path / "pipe.xml")
    for name in ("folder.urdf", "pipe.xml"):
        with pytest.raises(ValueError, match="is not a regular file"):
            model.read_arm(tmp_path / name)
    for name in ("arm\0.urdf", "a" * 5000 + ".urdf"):
        with pytest.raises(FileNotFoundError, match="URDF or MJCF"):
            model.read_arm(name)
