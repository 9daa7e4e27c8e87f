"""The `action-heads` command is quick, describes itself, and its errors name the mistake and the remedy."""

from __future__ import annotations

import dataclasses
import os
import re
import runpy
import signal
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import get_args

import pytest

from action_heads import cli
from action_heads._util.extras import MODULES, missing, reduced
from action_heads._util.flags import option as flag_of
from action_heads._util.flat import build, leaves
from action_heads._util.names import nearest
from action_heads.cli import command_line
from action_heads.cli.command_line import Mistake, parse, plain_errors
from action_heads.cli.commands import known

ROOT = Path(__file__).parents[2]
EVERY_EXTRA = sorted({module for modules in MODULES.values() for module in modules})
# Runs the command without the packages of the extras, like `pip install .`, and prints what it has imported.
BARE = f"""
import sys
for name in {EVERY_EXTRA!r}:
    sys.modules[name] = None
from action_heads.cli import main
try:
    main(sys.argv[1:])
finally:
    print([name for name in ("torch", "numpy", "huggingface_hub") if name in sys.modules], file=sys.stderr)
"""


def settings() -> list:
    """Return the settings class of every sub-command that can be imported here, and of reproduce.py."""
    found = []
    for name, command in known().items():
        module, _, kind = command.settings.partition(":")
        try:
            found.append(pytest.param(getattr(import_module(module), kind), id=name))
        except ImportError:  # its extra is not installed
            continue
    try:
        from action_heads_lab.reproduce.grid import Reproduce

        found.append(pytest.param(Reproduce, id="reproduce"))
    except ImportError:
        pass
    return found


def bare(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", BARE, *arguments], capture_output=True, text=True)


def said(arguments: list[str], capsys) -> str:
    """Return the error message of a command that is used wrongly."""
    with pytest.raises(SystemExit) as end:
        cli.main(arguments)
    assert end.value.code == 2
    text = capsys.readouterr().err
    assert text.startswith("error: ")
    assert "Traceback" not in text
    return text


NEEDED = {"task": "Lift", "out": "policy.onnx"}


def numbers(kind: type) -> list[tuple[str, type]]:
    """Return the options that take one number, with its type."""
    found = []
    for name, leaf in leaves(kind).items():
        hint = leaf.hint(extras=False)
        kinds = {part for part in get_args(hint) or (hint,) if part is not type(None)}
        found += [(name, number) for number in (int, float) if kinds == {number}]
    return found


@pytest.mark.parametrize("kind", settings())
def test_a_number_out_of_range_is_refused_before_anything_is_done(kind):
    """Nothing that a flag counts or weighs can be negative."""
    needed = [name for name, leaf in leaves(kind).items() if leaf.default is dataclasses.MISSING]
    arguments = [NEEDED.get(name, "x") for name in needed]
    if "task" in leaves(kind) and "task" not in needed:
        arguments += ["--task", "Lift"]
    for name, number in numbers(kind):
        for value in ("-5",) if number is int else ("-5.0", "nan"):
            with pytest.raises(Mistake) as error:
                parse(kind, [*arguments, f"{flag_of(name)}={value}"], prog="it")
            assert flag_of(name) in str(error.value), (name, value, str(error.value))


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["--version"], ["heads"]])
def test_the_quick_ones_need_no_extra_and_no_torch(arguments):
    done = bare(*arguments)
    assert done.returncode == 0, done.stderr
    assert done.stdout
    assert done.stderr.strip() == "[]", "neither torch nor numpy is waited for"


def test_help_describes_every_command_and_says_what_it_lacks():
    text = re.sub(r"\s+", " ", bare("--help").stdout)
    for name, command in known().items():
        lacking = f" Needs [{','.join(reduced(*command.extras))}], not installed." if command.extras else ""
        assert f" {name} {command.about}{lacking}" in text


@pytest.mark.parametrize("name", [name for name, command in known().items() if command.extras])
def test_without_its_extra_a_command_says_so_in_one_line_at_once(name):
    done = bare(name, "whatever")
    assert done.returncode == 2
    message, imported = done.stderr.splitlines()
    module = MODULES[known()[name].extras[0]][0]
    assert message.startswith(f"error: `action-heads {name}` needs {module}, ")
    wanted = reduced(*known()[name].extras)
    assert ("./lab" if "lab" in message else "pip install '.[") in message
    assert f"pip install 'action-heads[{','.join(wanted)}]'" in message
    assert imported == "[]", "before anything heavy is imported"
    helped = bare(name, "--help")
    assert helped.returncode == 0
    assert known()[name].about in helped.stdout


def test_the_help_of_a_command_begins_with_its_description():
    for name, command in known().items():
        module, _, kind = command.settings.partition(":")
        try:
            doc = getattr(import_module(module), kind).__doc__
        except ImportError:
            continue
        assert doc.splitlines()[0] == command.about, name


@pytest.mark.parametrize("kind", settings())
def test_help_is_written_for_every_option(kind, capsys):
    with pytest.raises(SystemExit) as end:
        parse(kind, ["--help"], prog="action-heads it")
    assert end.value.code == 0
    text = capsys.readouterr().out
    assert kind.__doc__.splitlines()[0][:40] in text
    for name, leaf in leaves(kind).items():
        if leaf.default is not dataclasses.MISSING:
            assert flag_of(name) in text


def flags_in(help_text: str) -> list[str]:
    """Return a line for every option in the help text, with its metavar, description and default."""
    found: list[str] = []
    for line in (line.strip(" │|") for line in help_text.splitlines()):
        if line.startswith("--") and line.strip("-"):
            found.append(line)
        elif not line.strip("-─╭╮╰╯ ") or line.startswith("-h"):
            found.append("")
        elif found and found[-1]:
            found[-1] += f" {line}"
    return sorted(re.sub(r"\s+", " ", line) for line in found if line)


@pytest.mark.parametrize("kind", settings())
def test_every_flag_is_what_it_was(kind, capsys, monkeypatch, request):
    """Every flag keeps its spelling, default and description, whichever settings class it belongs to."""
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit):
        parse(kind, ["--help"], prog="action-heads it")
    name = request.node.callspec.id
    known = [line.split(" ", 1) for line in (ROOT / "tests/data/flags.txt").read_text().splitlines()]
    assert flags_in(capsys.readouterr().out) == [flag for command, flag in known if command == name]


@pytest.mark.parametrize("kind", settings())
def test_mistyped_options_get_the_nearest_name(kind):
    for option in sorted(command_line.options(kind) - {"--help"}):
        letters = option[2:]
        if len(letters) < 4:
            continue
        typo = f"--{letters[:2]}{letters[3:]}"  # a letter is missing
        with pytest.raises(
            Mistake, match=r"unknown option --.*did you mean '--.*\. Run `action-heads it --help`"
        ) as error:
            parse(kind, [typo, "1"], prog="action-heads it")
        assert len(re.findall(r"'--", str(error.value))) <= 3


def test_mistyped_commands_get_the_nearest_name(capsys):
    for name in known():
        typo = name[:-2] + name[-1] + name[-2]
        text = said([typo], capsys)
        assert f"unknown command {typo!r} (did you mean {name!r}?)" in text
        assert text.count("\n") == 1
    assert "no command. The commands are demo, " in said([], capsys)
    assert "did you mean" not in said(["zzz"], capsys)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["adapt", "--steps", "many"], "--steps: .*'many'"),
        (["adapt", "--steps"], "--steps"),
        (["adapt", "extra"], "extra"),
        (["export"], r"required but not given: adapter\. Run `action-heads export --help`"),
        (["record"], r"required but not given: task and out\."),
        (["record", "Lift"], r"required but not given: out\."),
        (["setup"], r"required but not given: benchmark \(\{libero,libero-pro,mimicgen\}\)\."),
        (
            ["record", "lft", "out"],
            r"unknown task 'lft' \(did you mean 'Lift'\?\); .*, libero_goal/0 to libero_goal/9, ",
        ),
        (
            ["adapt", "--data", "me/demos"],
            r"'me/demos' \(did you mean 'lerobot:me/demos'\?\); choose from lerobot:\S+ or r",
        ),
        (["adapt", "--device", "cuda"], "unknown option --device: training uses a GPU if torch finds one.* Run `"),
        (["pretrain", "--device", "cuda"], "unknown option --device: training uses a GPU if torch finds one"),
        (["adapt", "--mode", "normall"], "did you mean 'normal'"),
        (["adapt", "--adapter", "flim"], "did you mean 'film'"),
        (["pretrain", "--arch", "mixr"], "did you mean 'mixer'"),
        (["demo", "--runs", "decopled"], "did you mean 'decoupled'"),
        (["demo", "--task", "lift"], "did you mean 'Lift'"),
        (["demo", "--head", "./mlp-5m-kf"], "did you mean 'dae/mlp-5m-fk'"),
        (["export", "no/folder/here"], "no adapter 'no/folder/here'"),
        (["serve", "no/folder/here"], r"'owner/name'\)\n  needed is a saved adapter: .*`action-heads adapt`\n$"),
        (
            ["export", "dae/mlp-5m-fk"],
            r"mlp-5m-fk lacks adapter.safetensors\. It is an action head: .*\n  needed is a saved",
        ),
    ],
)
def test_mistakes(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if missing(*known()[arguments[0]].extras):
        pytest.skip("its extra is not installed")
    text = said(arguments, capsys)
    assert re.search(message, text)
    assert "ACTION_HEADS_TRACEBACK" not in text
    assert len(text) < 1000


@pytest.mark.parametrize("kind", settings())
def test_arguments_without_a_flag_are_shown_by_name(kind, capsys):
    """The usage showed their types, such as STR, while errors named them."""
    needed = [name for name, leaf in leaves(kind).items() if leaf.default is dataclasses.MISSING]
    with pytest.raises(SystemExit):
        parse(kind, ["--help"], prog="it")
    usage = capsys.readouterr().out.splitlines()[0]
    assert not re.search(r" (STR|PATH)( |$)", re.sub(r"\[.*?\]", "", usage))
    assert all(name.upper() in usage or name == "benchmark" for name in needed)


def test_an_error_of_the_settings_is_whole_and_in_one_line(capsys):
    text = said(["adapt", "--encoder", "none", "--cameras", "agentview"], capsys)
    assert text == "error: --cameras names cameras, but --encoder is none. Leave one of the two out\n"


@pytest.mark.parametrize("kind", settings())
def test_no_message_names_its_flags_twice(kind):
    """No message about a wrong value names its flag twice, for any option of any settings class."""
    messages = []
    for name in leaves(kind):
        for value in ("no such thing", -7, ("no such thing",), "lerobot:", "npz:a.npz"):
            given = {name: "x" for name, leaf in leaves(kind).items() if leaf.default is dataclasses.MISSING}
            try:
                made = build(kind, given | {name: value})
                if "spec" in dir(made):
                    made.spec  # noqa: B018
            except ValueError as error:
                messages.append(str(error))
            except (TypeError, AttributeError):
                pass  # The command line gives no values of this type.
    assert [text for text in messages if re.search(r"(--[\w-]+): (\S+, )*\1: ", text)] == []


def test_flags_are_named_once_however_deep():
    from action_heads.adapt.settings import FlagError, flag

    def nested(*levels):
        with flag(*levels[0]):
            if levels[1:]:
                nested(*levels[1:])
            raise OSError("it is gone")

    for levels in ([["data"]], [["data"], ["data"]], [["cameras", "encoder"], ["data"], ["data"]]):
        with pytest.raises(FlagError) as error:
            nested(*levels)
        assert str(error.value) == "--data: it is gone"
    with pytest.raises(ValueError, match=r"^--data x is odd$"), flag("data"):
        raise ValueError("--data x is odd")


def test_names():
    known = ["dae/mlp-5m-fk", "Lift", "PickPlaceCan"]
    assert nearest("mlp-5m-kf", known) == " (did you mean 'dae/mlp-5m-fk'?)"
    assert nearest("dea/mlp-5m-fk", known) == " (did you mean 'dae/mlp-5m-fk'?)"
    assert nearest("lift", known) == " (did you mean 'Lift'?)"
    assert nearest("pick-place-can", known) == " (did you mean 'PickPlaceCan'?)"
    assert nearest("Lift", known) == ""  # It is no suggestion to offer what was given.
    assert nearest("steps", ["--steps", "--step", "--seed"], most=3) == " (did you mean '--steps' or '--step'?)"
    assert nearest("juggle", known) == nearest("", known) == nearest(None, []) == ""


def test_a_mistyped_head_or_task_gets_the_nearest_name():
    from action_heads.io import hub

    for name in hub.bundled():
        for typo in (name[:-2] + name[-1] + name[-2], f"./{name}".replace("dae", "dea")):
            with pytest.raises(FileNotFoundError, match=f"did you mean '{name}'"):
                hub.find(typo, local_files_only=True)
    tasks = pytest.importorskip("action_heads_lab.sim.tasks")
    for name in tasks.TASKS:
        with pytest.raises(ValueError, match=f"did you mean '{name}'"):
            tasks.get_task(name.lower())


# ── how a command ends ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("error", [ValueError("too few"), OSError("no disk"), ImportError("no package")])
def test_a_mistake_ends_with_its_message_and_2(error, capsys, monkeypatch):
    monkeypatch.setattr("action_heads.cli.commands.heads", lambda config: (_ for _ in ()).throw(error))
    text = said(["heads"], capsys)
    assert text.splitlines()[0] == f"error: {error}"
    monkeypatch.setenv("ACTION_HEADS_TRACEBACK", "1")
    with pytest.raises(type(error)):
        cli.main(["heads"])


@pytest.mark.parametrize("error", [RuntimeError("a bug"), KeyError("a bug"), TypeError("a bug"), AssertionError()])
def test_a_bug_keeps_its_traceback(error, monkeypatch):
    monkeypatch.setattr("action_heads.cli.commands.heads", lambda config: (_ for _ in ()).throw(error))
    with pytest.raises(type(error)):
        cli.main(["heads"])


def test_diverging_is_no_bug(capsys):
    from action_heads.training.loop import Diverged

    with pytest.raises(SystemExit) as end, plain_errors():
        raise Diverged("at step 3: lower --lr")
    assert end.value.code == 2
    assert capsys.readouterr().err.startswith("error: at step 3: lower --lr")


def test_ctrl_c_in_the_middle_of_a_command():
    code = (
        "import signal, time; from action_heads import cli; from action_heads.cli import commands\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # A shell's background job ignores the signal.
        "def heads(config): print('begun', flush=True); time.sleep(60)\n"
        "commands.heads = heads; cli.main(['heads'])"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as run:
        assert run.stdout
        assert run.stderr
        assert run.stdout.readline() == "begun\n"
        time.sleep(0.1)
        run.send_signal(signal.SIGINT)
        assert run.wait(timeout=30) == 130
        assert run.stderr.read() == "stopped by Ctrl-C\n"


@pytest.mark.skipif(os.name == "nt", reason="pipes break otherwise there")
@pytest.mark.parametrize("arguments", [["heads"], ["--help"], ["heads", "--help"]])
def test_a_reader_that_leaves_is_no_error(arguments):
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "action_heads", *arguments]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    os.close(write)
    assert done.stderr == ""
    assert done.returncode == 141


def test_a_pipe_to_another_process_that_breaks_is_an_error(capsys):
    with pytest.raises(SystemExit) as end, plain_errors():
        raise BrokenPipeError("worker 3 is gone")
    assert end.value.code == 2
    assert "error: worker 3 is gone" in capsys.readouterr().err


@pytest.mark.parametrize("module", ["action_heads", "action_heads.adapt", "action_heads.pretrain"])
def test_modules_run_as_the_command_does(module, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [module, "--hlep"])
    with pytest.raises(SystemExit) as end:
        runpy.run_module(module, run_name="__main__")
    assert end.value.code == 2
    assert capsys.readouterr().err.startswith("error: unknown ")
