"""Tests that the code of README and documentation runs, and that successes in their tables are measured ones."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from pages import DOCS, ROOT, blocks, run

from action_heads.io import hub, listing

GUIDES = DOCS / "guides"
MODES = ("decoupled", "random-frozen", "normal")
ADAPTERS = {"small": {"through": "code", "hidden": 128}, "default": {"through": "both", "hidden": 256}}


def test_first_block_runs_offline(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    exec(compile(blocks(ROOT / "README.md")[0], "README.md", "exec"), {})
    assert "frozen" in capsys.readouterr().out
    assert list(tmp_path.rglob("adapter.safetensors"))


def test_links_work_on_pypi_and_lead_to_what_is_here():
    """Links use the repository address of pyproject.toml and none is relative, since PyPI has no such pages."""
    project, page = ((ROOT / name).read_text(encoding="utf-8") for name in ("pyproject.toml", "README.md"))
    (address,) = re.findall(r'^Repository = "(https://[^"]+)"$', project, re.MULTILINE)
    links = re.findall(r"(!?)\[[^\]]*\]\(([^)\s]+)\)", page)
    assert len(links) > 15
    assert [target for _, target in links if not target.startswith(("https://", "#"))] == []
    ours = [(image, target) for image, target in links if "github.com" in target]
    for image, target in ours:
        kind, _, path = target.removeprefix(f"{address}/").partition("/main/")
        assert (ROOT / path).exists(), target
        assert kind == ("raw" if image else "tree" if (ROOT / path).is_dir() else "blob"), target
    assert [image for image, _ in ours].count("!") == 1
    assert f"repository-code: {address}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    for line in re.findall(r"^(?:Issues|Documentation|Changelog) = .*$", project, re.MULTILINE):
        assert f'"{address}/' in line


def test_acting_runs_from_top_to_bottom(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = GUIDES / "act-in-real-time.md"
    assert len(blocks(page)) == 9
    assert run(page)["left"].shape == (4, 8, 10)


def test_other_actions_run_from_top_to_bottom():
    names = run(GUIDES / "other-actions.md")
    assert names["wide"].config.horizon == 50
    assert names["targets"].shape == (4, 16, 10)
    assert names["action"].shape == (4, 7)


def test_many_tasks_run_from_top_to_bottom():
    names = run(GUIDES / "many-tasks.md")
    assert len(names["bank"]) == 3
    assert names["chunk"].shape == (4, 16, 10)


def test_installing_runs():
    assert run(DOCS / "install.md")["chunk"].shape == (1, 16, 10)


def test_encoders_run_offline(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pytest.importorskip("torchvision")
    page = GUIDES / "attach-encoder.md"
    assert len(blocks(page)) == 8
    assert run(page)["chunk"].shape == (4, 16, 10)


def test_the_papers_systems_run_by_name():
    page = GUIDES / "reproduce.md"
    assert len(blocks(page)) == 1
    assert run(page)["policy"].num_frozen == 4_782_346


def rows(name: str) -> list[dict]:
    """Return the rows of a file of benchmarks/results."""
    return json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text(encoding="utf-8"))["results"]


def images(mode: str, **cell: object) -> tuple[int, int]:
    """Return successes and episodes of a task from images, with the usual training and sampling."""
    usual = {"mode": mode, "steps": 800, "seed": 0, "per_step": False, "denoising": 10}
    (row,) = [row for row in rows("images") if row.items() >= {**usual, **cell}.items()]
    return row["successes"], row["episodes"]


def libero_row(suite: str, mode: str, through: str) -> dict:
    """Return the row of a suite of LIBERO from images."""
    cell = {"suite": suite, "mode": mode, "through": "both" if mode == "normal" else through}
    cell |= {"head": "dae/mixer-5m-fk-delta", "seed": 0}
    (row,) = [row for row in rows("libero_images") if row.items() >= cell.items()]
    return row


def libero(suite: str, mode: str, through: str) -> tuple[int, int]:
    """Return successes and episodes of a suite of LIBERO from images."""
    won = [success for task in libero_row(suite, mode, through)["rolled"].values() for success in task]
    return sum(won), len(won)


def runs(pattern: str) -> list[dict]:
    """Return the runs of `reproduce.py` whose files match a pattern."""
    return [json.loads(path.read_text(encoding="utf-8")) for path in (ROOT / "results").glob(pattern)]


def states(pattern: str) -> tuple[int, int]:
    """Return successes and episodes of all runs of `reproduce.py` whose files match a pattern."""
    won = [episode["success"] for run in runs(pattern) for episode in run["episodes"]]
    return sum(won), len(won)


def table(page: Path, after: str) -> list[list[str]]:
    """Return the cells of the first table after a text, without the header. Of links they have the text."""
    text = page.read_text(encoding="utf-8").partition(after)[2]
    found = re.search(r"^\|.*?(?=^[^|])", text, re.MULTILINE | re.DOTALL)
    assert found, f"{page.name} has no table after {after!r}"
    lines = [re.sub(r"\[(.*?)\]\(.*?\)", r"\1", line) for line in found[0].splitlines()[2:]]
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line]


def written(*rates: tuple[int, int]) -> list[str]:
    """Return rates as the pages write them."""
    return [f"{won} of {of}" for won, of in rates]


def test_the_readme_says_where_pretraining_pays():
    trial = hub.bundled()["dae/mixer-5m-fk"] / "trial.json"
    demo = {row["name"]: row for row in json.loads(trial.read_text(encoding="utf-8"))["rows"]}
    expected = [
        [demo["decoupled"]["trainable"], *((demo[mode]["successes"], demo[mode]["episodes"]) for mode in MODES[:2])]
    ]
    suite = "libero_object"
    trained = libero_row(suite, "decoupled", "code")["trained"]
    expected.append([trained, *(libero(suite, mode, "code") for mode in MODES)])
    for name in ("robosuite/PickPlaceCan-mixer", "mimicgen/stack_d1-mixer"):
        (trained,) = {run["head"]["trainable"] for run in runs(f"{name}-decoupled-*.json")}
        expected.append([trained, *(states(f"{name}-{mode}-*.json") for mode in MODES)])
    found = [[cell for cell in row[1:] if cell] for row in table(ROOT / "README.md", "## When to use it")]
    assert found == [[f"{trained:,}", *written(*rates)] for trained, *rates in expected]

    rate = {
        (family, mode): share(states(f"{family}/*-mixer-{mode}-*.json"))
        for family in ("robosuite", "mimicgen")
        for mode in MODES
    }
    assert all(rate[name, "decoupled"] - rate[name, "random-frozen"] > 0.1 for name in ("robosuite", "mimicgen"))
    assert abs(rate["robosuite", "decoupled"] - rate["robosuite", "normal"]) < 0.02, "it matched normal training"
    assert rate["mimicgen", "normal"] - rate["mimicgen", "decoupled"] > 0.05, "but not on MimicGen"


def test_the_readme_compares_libero_with_the_paper():
    theirs = pytest.importorskip("action_heads_lab.reproduce.paper").TABLE_2["libero"]["mlp", "decoupled"][-1][0]
    suites = [libero(row["suite"], "decoupled", "both") for row in rows("libero_images") if is_usual(row)]
    won, of = (sum(column) for column in zip(*suites, strict=True))
    text = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    assert f"on LIBERO from images {won} of {of} rollouts, where the paper has {theirs:.0f} %" in text


def is_usual(row: dict) -> bool:
    """Return whether a row of LIBERO from images is that of the usual head with the default adapter, decoupled."""
    return row.items() >= {"mode": "decoupled", "through": "both", "head": "dae/mixer-5m-fk-delta", "seed": 0}.items()


def share(counted: tuple[int, int]) -> float:
    """Return the success rate of successes and episodes."""
    return counted[0] / counted[1]


def test_small_adapters_mostly_failed_on_hard_tasks_whatever_the_head():
    def cell(task: str, mode: str, adapter: str) -> float:
        if task.startswith("libero"):
            return share(libero(task, mode, ADAPTERS[adapter]["through"]))
        return share(images(mode, task=task, demos=50, **ADAPTERS[adapter]))

    for task in ("Stack", "PickPlaceCan", "libero_spatial", "libero_goal"):
        small, default = (cell(task, "decoupled", adapter) for adapter in ADAPTERS)
        assert small < 0.2, f"the small adapter did not fail on {task}"
        assert default > small
        random = cell(task, "random-frozen", "default")
        assert default - random < random - small, f"pretraining brings much on {task}"


def test_the_guide_to_adapting_compares_the_two_adapters():
    tasks = [{"task": "Lift", "demos": 25}, {"task": "PickPlaceCan", "demos": 50}, {"task": "Stack", "demos": 50}]
    robosuite = [written(*(images("decoupled", **task, **cell) for cell in ADAPTERS.values())) for task in tasks]
    suites = ("libero_object", "libero_spatial", "libero_goal")
    of = [written(*(libero(suite, "decoupled", through) for through in ("code", "both"))) for suite in suites]
    expected = [robosuite[0], of[0], *robosuite[1:], *of[1:]]
    assert [row[1:] for row in table(GUIDES / "adapt.md", "Successes with either")] == expected


@pytest.mark.parametrize("entry", listing.entries(), ids=lambda entry: entry.name)
def test_the_readme_has_the_successes_of_each_head(entry):
    (row,) = [row for row in table(ROOT / "README.md", "## Heads") if row[0] == f"`{entry.name}`"]
    assert row[4:] == [str(entry.trial[run][0]) for run in listing.RUNS]
