"""Check what was built: `contents.py SDIST WHEEL WHEEL_OF_THE_SDIST`.

Both wheels must hold the same files, and sdist and wheel what users and type checkers look for.
"""

import sys
import tarfile
import zipfile

CODE = ("action_heads/head.py", "action_heads/adapters/film.py", "action_heads/py.typed")
CODE += ("action_heads/runtime/native.cpp", "action_heads/weights/mlp-5m-fk/model.safetensors")


def contents(wheel: str) -> dict[str, bytes]:
    """Name -> content."""
    with zipfile.ZipFile(wheel) as file:
        return {name: file.read(name) for name in file.namelist()}


def main(sdist: str, wheel: str, again: str) -> None:
    """Compare, and say what differs or is missing."""
    with tarfile.open(sdist) as file:
        source = {member.name.partition("/")[2] for member in file.getmembers()}
    one, other = contents(wheel), contents(again)
    differ = sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))
    problems = [f"the wheel of the sdist differs in {', '.join(differ)}"] if differ else []
    for kind, names, wanted in (
        ("sdist", source, (*CODE, "pyproject.toml", "README.md", "LICENSE", "NOTICE")),
        ("wheel", one.keys(), CODE),
    ):
        problems += [f"the {kind} lacks {name}" for name in wanted if name not in names]
    if any(name.startswith(("tests/", "docs/", "results/")) for name in {*source, *one}):
        problems.append("tests, docs or results were packed, which belong to the repository")
    if problems:
        sys.exit("\n".join(problems))


if __name__ == "__main__":
    main(*sys.argv[1:])
