"""Simulations end without output however they end, and missing packages are reported in one line."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version as real_version
from types import SimpleNamespace

import pytest
from action_heads_lab.sim import contexts
from action_heads_lab.sim.workers import Workers
from forked import needs_fork

pytestmark = pytest.mark.sim

SCRIPT = """
import os, sys
from action_heads_lab.sim import make

make("Lift")  # without a context; imports and compiles once for all processes
assert "torch" not in sys.modules, "a process of simulation takes seconds longer to start"
for number, end in enumerate({ends!r}):
    if (pid := os.fork()) == 0:
        os.dup2(os.open(f"{{number}}", os.O_WRONLY | os.O_CREAT), 2)
        break
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
else:
    sys.exit()

def run():
    sim = make("Lift", render=True)
    sim.reset(1)
    sim.render(16)
    exec(end)
    return sim

kept = run()
"""
ENDS = {
    "an error": ("raise ValueError('mine')", 1, "ValueError: mine"),
    "an interrupt": ("raise KeyboardInterrupt", -2, "KeyboardInterrupt"),
    "two, one closed": ("sim.close(); sim = make('Lift', render=True); sim.reset(1); raise SystemExit(3)", 3, ""),
}


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """Return exit code and standard error of processes that end in different ways."""
    folder = tmp_path_factory.mktemp("ends")
    script = SCRIPT.format(ends=[code for code, *_ in ENDS.values()])
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300, cwd=folder)
    assert done.returncode == 0, done.stderr
    said = [(folder / str(number)).read_text() for number in range(len(ENDS))]
    return dict(zip(ENDS, zip(map(int, done.stdout.split()), said, strict=True), strict=True))


@needs_fork
@pytest.mark.parametrize("end", ENDS)
def test_nothing_is_printed_at_exit(end, ended):
    """An error is not followed by tracebacks of contexts that are freed after EGL has shut down."""
    (_, returned, last), (code, said) = ENDS[end], ended[end]
    if "no OpenGL context" in said or "EGL is missing" in said:
        pytest.skip("this machine has no EGL")
    assert code == returned
    assert "ignored" not in said
    assert "EGL" not in said
    assert (said.strip().splitlines() or [""])[-1] == last


class Part:
    def __init__(self, log, name):
        self.log, self.name = log, name

    def free(self):
        self.log.append(self.name)


def test_a_context_is_freed_once_and_never_complains():
    log = []

    class MjRenderContext:
        def __init__(self, fails=False):
            if fails:
                raise RuntimeError("no display")
            self.con, self.gl_ctx = Part(log, "con"), Part(log, "gl")

        def __del__(self):
            raise AssertionError("robosuite's own")

    class GLContext:
        pass

    binding = SimpleNamespace(MjRenderContext=MjRenderContext, GLContext=GLContext)
    contexts.free_before_exit(binding)
    contexts.free_before_exit(binding)  # a second time changes nothing
    context = binding.MjRenderContext()
    contexts.free_all()
    assert log == ["con", "gl"]
    del context
    assert log == ["con", "gl"]
    with pytest.raises(RuntimeError, match="no display"):
        binding.MjRenderContext(fails=True)
    assert GLContext._context is None


@pytest.mark.parametrize(
    ("name", "found", "message"),
    [
        (
            "robosuite",
            "1.5.1",
            r"robosuite 1\.5\.1 is installed, but .* 1\.4 or later, before 1\.5: pip install 'robosuite==1\.4\.1'",
        ),
        ("mujoco", "3.12.0", r"mujoco 3\.12\.0 is installed, but .* 3\.1 or later, before 3\.12: pip install"),
        ("mujoco", "2.3.7", r"mujoco 2\.3\.7 is installed"),
    ],
)
def test_a_version_that_fails_is_told_first(monkeypatch, name, found, message):
    contexts.check_versions()
    monkeypatch.setattr(contexts, "version", lambda asked: found if asked == name else real_version(asked))
    with pytest.raises(ImportError, match=message) as raised:
        contexts.import_robosuite()
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "error",
    [
        ImportError("Unable to load EGL library"),
        AttributeError("'NoneType' object has no attribute 'eglQueryString'"),
        OSError("libGL.so.1: cannot open shared object file"),
    ],
)
def test_a_machine_without_egl_is_told_what_to_install(monkeypatch, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(contexts, "require", fail)
    with pytest.raises(ImportError, match=r"EGL is missing .*apt-get install libegl1.*MUJOCO_GL=osmesa") as raised:
        contexts.import_robosuite()
    assert "\n" not in str(raised.value)


def test_what_is_not_installed_is_told_as_ever(monkeypatch):
    def fail(*_, **__):
        raise ImportError("robosuite is needed here")

    monkeypatch.setattr(contexts, "require", fail)
    with pytest.raises(ImportError, match=r"^robosuite is needed here$"):
        contexts.import_robosuite()


def test_a_context_that_cannot_be_made_is_named():
    message = r"no OpenGL context for images .Cannot initialize a EGL device.*libegl1"
    with pytest.raises(ImportError, match=message), contexts.named():
        raise ImportError("Cannot initialize a EGL device display.\nThis likely means")
    with pytest.raises(ValueError, match="mine"), contexts.named():
        raise ValueError("mine")


def build():
    raise ImportError("install this")


def test_a_worker_s_missing_package_is_one_line():
    with Workers(1, build) as pool, pytest.raises(ImportError, match=r"^install this$"):
        pool.receive(0)
