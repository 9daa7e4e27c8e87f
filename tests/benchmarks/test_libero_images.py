"""The pages on cached images: they hold what the results say, also for heads and rows that they did not plan."""

from __future__ import annotations

import json
import re
import shutil
import sys
from dataclasses import asdict, replace
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "docs" / "results"
OURS = ("common", "comparisons", "images", "images_answers", "images_report", "on_features")
OURS += ("libero_cells", "libero_images", "libero_images_report")


@pytest.fixture
def load(monkeypatch, tmp_path):
    """Return a function that imports a report, which writes into copies of the pages in `tmp_path`."""
    for name in ("transformers", "matplotlib", "robosuite"):
        pytest.importorskip(name)
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))

    def load(name: str, results: Path | None = None):
        monkeypatch.setenv("BENCHMARK_RESULTS", str(results or tmp_path))
        for page in ("cached-images.md", "libero-images.md", "mimicgen.md"):
            shutil.copy(RESULTS / page, tmp_path)
        for each in OURS:
            sys.modules.pop(each, None)
        module = import_module(name)
        monkeypatch.setattr(module, "DOCS", tmp_path, raising=False)
        if hasattr(module, "PAGE"):
            monkeypatch.setattr(module, "PAGE", tmp_path / module.PAGE.name)
        return module

    yield load
    for each in OURS:
        sys.modules.pop(each, None)


@pytest.fixture
def report(load):
    """Return the report of LIBERO from images, with results in `tmp_path`."""
    return load("libero_images_report")


def row(report, cell, won: int, **more) -> dict:
    """Return a finished row whose first `won` episodes succeed."""
    outcomes = [i < won for i in range(50)]
    rolled = {f"{cell.suite}/{i}": outcomes[5 * i : 5 * i + 5] for i in range(10)}
    costs = {"trained": 7, "training_cpu_seconds": 600, "rollout_seconds": 1200}
    return asdict(cell) | {"rolled": rolled} | costs | more


def part(page: Path, name: str) -> str:
    """Return a part of a page."""
    found = re.search(rf"<!-- {name} -->\n(.*?)\n<!-- end -->", page.read_text("utf-8"), re.DOTALL)
    assert found
    return found[1]


def written(report, rows: list[dict], tmp_path: Path, name: str) -> str:
    """Write results and the page, and return a part of it."""
    (tmp_path / "libero_images.json").write_text(json.dumps({"results": rows}))
    report.page()
    return part(tmp_path / "libero-images.md", name)


@pytest.mark.parametrize(
    ("script", "call", "command", "pages"),
    [
        ("libero_images_report", "page", "libero_images.py --page", ["libero-images.md"]),
        ("images_report", "main", "images_report.py", ["cached-images.md", "mimicgen.md"]),
    ],
)
def test_the_pages_hold_what_the_results_say(script, call, command, pages, load, tmp_path):
    getattr(load(script, ROOT / "benchmarks" / "results"), call)()
    for page in pages:
        was, now = (folder.joinpath(page).read_text("utf-8") for folder in (RESULTS, tmp_path))
        assert was == now, f"docs/results/{page} is behind the results: uv run benchmarks/{command}"


def test_a_run_of_another_head_adds_a_row_and_removes_none(report, tmp_path):
    cells = [report.Cell(suite, mode) for suite in report.SUITES for mode in report.MODES]
    others = [replace(cells[0], head="dae/mlp-5m-fk-delta"), replace(cells[0], demos=50), replace(cells[0], steps=4000)]
    before = written(report, [row(report, cell, 20) for cell in cells], tmp_path, "ours").splitlines()
    after = written(report, [row(report, cell, 20) for cell in (*others, *cells)], tmp_path, "ours").splitlines()
    new = [line for line in after if line not in before]
    assert [line for line in after if line in before] == before
    for line, said in zip(new, ("`dae/mlp-5m-fk-delta`", "4,000 training steps", "50 demonstrations"), strict=True):
        assert said in line


def test_the_aim_is_met_missed_or_open(report, tmp_path):
    """On the paper's scale: at most 2 points below normal training, and above its average of 84.2 %."""

    def first(decoupled: int, normal: int, suites=report.SUITES) -> str:
        rows = [row(report, report.Cell(suite), decoupled) for suite in suites]
        rows += [row(report, report.Cell(suite, "normal"), normal) for suite in suites]
        return written(report, rows, tmp_path, "answer").splitlines()[0]

    assert "is met: decoupled has 172 of 200, normal training 176 of 200" in first(43, 44)
    assert "is missed: decoupled has 168 of 200, normal training 168 of 200" in first(42, 42)
    assert "is missed: decoupled has 180 of 200, normal training 188 of 200" in first(45, 47)
    assert "is open: 3 of 4 suites" in first(50, 50, report.SUITES[:3])


def test_the_conclusion_holds_what_the_rows_say(report, tmp_path):
    """By hand: of six starts that only one of two systems solves all go to the same one, so p = 2 / 2⁶ = 0.031."""
    cells = {(suite, mode): report.Cell(suite, mode) for suite in report.SUITES for mode in report.MODES}
    won = {"decoupled": 20, "normal": 20, "random-frozen": 20, "blind": 20}
    rows = {key: row(report, cell, won[key[1]]) for key, cell in cells.items()}
    rows["libero_object", "blind"] = row(report, report.Cell("libero_object", "blind"), 14)
    rows["libero_goal", "blind"] = row(report, report.Cell("libero_goal", "blind"), 26)
    rows["libero_10", "random-frozen"] = row(report, report.Cell("libero_10", "random-frozen"), 14)
    del rows["libero_10", "blind"]
    text = written(report, list(rows.values()), tmp_path, "conclusion")
    assert "succeeds in 80 of 200 rollouts over the four suites, normal training in 80 (p = 1), a random " in text
    assert "random frozen head in 74 (p = 0.031); the paper's frozen head has 84.2 %." in text
    assert "Images helped on LIBERO-Object; images hurt on LIBERO-Goal; no benefit of images was found on" in text
    assert text.endswith("found on LIBERO-Spatial.")
    del rows["libero_10", "decoupled"]
    text = written(report, list(rows.values()), tmp_path, "conclusion")
    assert text.startswith("The frozen pretrained head has not been run on all four suites. Images helped on")


def test_all_tests_of_the_table_are_counted(report, tmp_path):
    """Those over several suites were left out."""
    rows = [row(report, report.Cell(suite, mode), 20) for suite in report.SUITES[:3] for mode in report.MODES[:2]]
    rows.append(row(report, report.Cell(report.SUITES[0], "blind"), 20))
    text = written(report, rows, tmp_path, "pairs")
    assert text.count("(p = ") == 5  # three suites and all together; one suite
    assert "about 0.2 of these 5 tests would have p < 0.05" in text


def continued(row: dict, tasks: int, outcome: bool) -> dict:
    """Return a row with 15 more rollouts of its first tasks."""
    more = {task: each + 15 * [outcome] for task, each in list(row["rolled"].items())[:tasks]}
    return row | {"rolled": row["rolled"] | more}


@pytest.mark.parametrize("tasks", [3, 10])
def test_a_suite_that_was_continued_counts_no_more_than_the_others(report, tmp_path, tasks):
    """A suite with 20 rollouts of each task counted four times in the rate that is judged against the paper's."""
    cells = [report.Cell(suite, mode) for mode in ("decoupled", "normal") for suite in report.SUITES]
    rows = [row(report, cell, 40) for cell in cells]
    before = {name: written(report, rows, tmp_path, name) for name in ("answer", "pairs")}
    assert "decoupled has 160 of 200, normal training 160 of 200" in before["answer"]
    rows[0], rows[4] = continued(rows[0], tasks, True), continued(rows[4], tasks, False)
    now = {name: written(report, rows, tmp_path, name) for name in before}
    assert now["answer"].splitlines()[0] == before["answer"].splitlines()[0]
    assert now["pairs"].splitlines()[2].split(" | ")[-2:] == before["pairs"].splitlines()[2].split(" | ")[-2:]
    whole = tasks == report.Cell.tasks  # the rate of a suite, too, has as many rollouts of each of its tasks
    assert ("190 of 200" if whole else "40 of 50") in written(report, rows, tmp_path, "ours").splitlines()[2]
    assert f", {'5 or 20' if whole else '5'} rollouts of each task" in report.differs(rows)


def test_systems_are_compared_on_the_same_starts(report, tmp_path):
    """By hand: only one of the two succeeds in 6 episodes, always the same one, so p = 2 / 2⁶."""
    cells = report.Cell("libero_goal"), report.Cell("libero_goal", "random-frozen")
    rows = [row(report, cell, won) for cell, won in zip(cells, (26, 20), strict=True)]
    assert "better than random-frozen on LIBERO-Goal (p = 0.031)" in written(report, rows, tmp_path, "answer")
    assert "| 26 of 50 and 20 of 50 |" in written(report, rows, tmp_path, "pairs")
    rows[1] = row(report, cells[1], 21)
    assert "was not found to differ from random-frozen" in written(report, rows, tmp_path, "answer")


def test_what_is_not_run_has_the_median_cost_of_what_is(report, tmp_path):
    rows = [row(report, report.Cell("libero_goal", mode), 20) for mode in report.MODES[:3]]
    rows[0] |= {"training_cpu_seconds": 99999, "rollout_seconds": 99999}
    lines = [line.split(" | ") for line in written(report, rows, tmp_path, "open").splitlines()]
    found = {(line[0].removeprefix("| "), line[1]): line[2:] for line in lines}
    head = "`dae/mixer-5m-fk-delta`"
    small = "decoupled, small adapter; random-frozen, small adapter"
    assert found["LIBERO-Goal", head] == [f"decoupled, without images; {small}", "30 min", "60 min |"]
    assert found["LIBERO-10", "`dae/mlp-5m-fk-delta`"] == ["decoupled; normal; random-frozen", "30 min", "60 min |"]
    more = [line[2:] for line in lines if "finished runs" in line[2]]
    assert [line[2] for line in more] == ["180 min |", "540 min |"]  # 150 and 450 more episodes of three runs


def test_an_unfinished_row_is_not_on_the_page(report, tmp_path):
    """A run that was killed after three tasks had counted like a finished one."""
    whole, begun = (row(report, report.Cell(suite), 50) for suite in ("libero_goal", "libero_10"))
    begun["rolled"] = dict(list(begun["rolled"].items())[:3])
    assert "libero_10" not in written(report, [whole, begun], tmp_path, "ours")


def test_a_row_that_goes_on_names_all_its_runs_and_their_inputs(load, monkeypatch, tmp_path):
    """The file named the machine of its last run for the rows of all."""
    script = load("libero_images")
    trained = SimpleNamespace(training_record={"trained": 7})
    monkeypatch.setattr(script, "policy_of", lambda *_: trained)
    monkeypatch.setattr(script, "roll_out", lambda *given: [True for _ in given[-1]])
    cell, data = script.Cell("libero_goal", tasks=2), SimpleNamespace(inputs={"--data": "now"})
    for command, episodes in (("first.py", 1), ("second.py", 3)):
        monkeypatch.setattr(sys, "argv", [command])
        script.run(cell, data, tmp_path, episodes, float("inf"))
    (row,) = script.finished()
    assert list(map(len, row["rolled"].values())) == [3, 3]
    assert [made["command"] for made in row["made"]] == ["uv run first.py", "uv run second.py"]
    assert row["inputs"] == data.inputs
    with pytest.raises(SystemExit, match="other contents of --data"):
        script.run(cell, SimpleNamespace(inputs={"--data": "other"}), tmp_path, 4, float("inf"))


@pytest.mark.parametrize("script", ["images", "libero_images"])
def test_a_recording_with_fewer_demonstrations_than_a_row_names_is_refused(script, load, monkeypatch, tmp_path):
    """A row of 100 demonstrations could be measured with 50."""
    module = load(script)
    on_features = import_module("on_features")
    monkeypatch.setattr(on_features, "ObservedPolicy", None)  # neither is a policy loaded, nor is one trained
    windows = SimpleNamespace(episode_of=np.repeat(np.arange(4), 2), outputs={})
    monkeypatch.setattr(module, "build", lambda _: (None, windows, None, {}))
    read = {
        "images": lambda: module.policy_of(
            module.Cell("Lift", demos=5), SimpleNamespace(episode=windows.episode_of), tmp_path
        ),
        "libero_images": lambda: module.demonstrations(module.Cell("libero_goal", demos=5), tmp_path, "", ""),
    }
    message = "has 4 demonstrations, but 5 are to be trained on. Remove it, and record at least 5"
    with pytest.raises(SystemExit, match=message):
        read[script]()
    first = on_features.first_episodes(windows.episode_of, 3, tmp_path)
    assert first.tolist() == [True] * 6 + [False] * 2
    assert on_features.first_episodes(windows.episode_of, 4, tmp_path).all()


def test_cells_without_outcomes_by_episode_are_compared_by_fisher_s_test(load):
    report = load("images_report")
    cells = [
        report.Cell("Lift"),
        report.Cell("Lift", "random-frozen"),
        report.Cell("Lift", **import_module("images").NORMAL),
    ]
    rows = [
        asdict(cell) | {"successes": won, "episodes": 3, "trained": trained}
        for cell, won, trained in zip(cells, (3, 0, 3), (5, 5, 9), strict=True)
    ]
    assert "| 3 of 3 | 0 of 3 (p = 0.1) |  | 3 of 3 (p = 1) |" in report.comparisons(rows)  # by hand: 2 / C(6, 3)
    answer = report.answer(rows)
    assert "- With 5 trained parameters, decoupled was not found to differ from random-frozen on Lift (25)." in answer
    assert "from 25 demonstrations or fewer, is missed: it is better on none." in answer


def finished(cell, won: list[bool], trained: int = 7) -> dict:
    """Return a finished row of the study of images."""
    counts = {"successes": sum(won), "episodes": len(won), "outcomes": won, "trained": trained}
    costs = {"training_cpu_seconds": 1, "rollout_cpu_seconds": 1, "loss": 0.1, "interval": [0, 1]}
    return asdict(cell) | counts | costs


MORE, FEWER = [True] * 8, [True] * 2 + [False] * 6  # by hand: only the first has six, so p = 2 / 2⁶ = 0.031


def test_an_adverse_result_is_in_the_answer_and_beside_what_was_tried(load):
    """A code for each time step is worse on a pretrained head than on a random one, which the answer left out."""
    report = load("images_report")
    usual = report.Cell("PickPlaceCan", demos=50)
    codes = replace(usual, per_step=True)
    rows = [
        finished(usual, MORE),
        finished(replace(usual, mode="random-frozen"), FEWER),
        finished(codes, FEWER, 9),
        finished(replace(codes, mode="random-frozen"), MORE, 9),
        finished(replace(usual, **import_module("images").NORMAL), MORE, 20),
        finished(replace(usual, denoising=2), MORE),
    ]
    answer = report.answer(rows)
    assert "With 7 trained parameters, decoupled is better than random-frozen on PickPlaceCan (50)." in answer
    named = "With 9 trained parameters and a code for each time step, decoupled is worse than "
    assert f"{named}random-frozen on PickPlaceCan (50). It is worse than normal training on PickPlaceCan" in answer
    assert report.conclusion(rows) == (
        "With at most 7 trained parameters, a frozen pretrained head is better than a random one in 1 of 1 comparisons "
        "on PickPlaceCan; with more, it is better in 0 of 1 and worse in 1. It is better than normal training in 0 of "
        "2 comparisons and worse in 1."
    )
    tried = report.tried(rows)
    cells = "| 2 of 8 | worse (p = 0.031) | 8 of 8 (p = 0.031) | 8 of 8 (p = 0.031) |"
    assert f"| 9 trained parameters and a code for each time step {cells}" in tried
    none = "| 8 of 8 | no difference found (p = 1) | not run | not run |"
    assert f"| 7 trained parameters and 2 denoising steps {none}" in tried


def test_a_difference_has_the_sign_of_its_common_starts(load):
    """A row that was continued has a rate over more starts than the test."""
    report = load("images_report")
    ours = finished(report.Cell("Lift"), [*MORE, *[False] * 24])
    other = finished(report.Cell("Lift", "random-frozen"), FEWER[::-1])
    assert sum(ours["outcomes"]) / 32 == sum(other["outcomes"]) / 8
    assert "is better than random-frozen on Lift (25)" in report.answer([ours, other])


@pytest.mark.parametrize(
    ("tasks", "where", "tests"),
    [
        (["coffee_d2"], "coffee_d2 (50)", 2),
        (["stack_d1", "coffee_d2", "mug_cleanup_d1"], "stack_d1 (100), coffee_d2 (50) and mug_cleanup_d1 (50)", 6),
        ([], "", 0),
    ],
)
def test_mimicgen_says_what_its_rows_do(tasks, where, tests, load, tmp_path):
    """The tasks whose controls are finished are compared."""
    report = load("images_report")
    planned = [cell for cell in report.CELLS if cell.task in report.MIMICGEN]
    won, trained = {"random-frozen": FEWER}, {"normal": 20}
    cells = [cell for cell in planned if cell.mode == "decoupled" or cell.task in tasks]
    report.mimicgen([finished(cell, won.get(cell.mode, MORE), trained.get(cell.mode, 7)) for cell in cells])
    found, rest = (part(tmp_path / "mimicgen.md", name) for name in ("image-comparisons", "images"))
    assert f"{len(cells)} of {len(planned)} planned cells are finished." in rest
    if tasks:
        assert f"decoupled is better than random-frozen on {where}. It was not found to differ from normal " in found
        assert f"of these {tests} tests would" in found
        assert found.endswith("Each p is that of McNemar's exact test on the same starts.")
    else:
        assert found == "No control is finished, so nothing is compared."


def test_counts_in_the_overview_are_on_the_pages_it_links_to():
    counts = 0
    for line in (RESULTS / "index.md").read_text("utf-8").splitlines():
        if link := re.match(r"\| \[[^]]*\]\(([\w-]+\.md)\)", line):
            page = (RESULTS / link[1]).read_text("utf-8")
            found = re.findall(r"\d+ of \d+", line)
            assert [each for each in found if each not in page] == [], f"{link[1]} has other numbers than index.md"
            counts += len(found)
    assert counts > 5
