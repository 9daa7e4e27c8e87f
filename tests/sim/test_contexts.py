"""Simulations end without output however they end, and missing packages are reported in one line."""

from __future__ import annotations

import copy
import itertools
import re
import subprocess
import sys
from importlib.metadata import version as real_version
from pathlib import Path
from types import SimpleNamespace
from weakref import WeakValueDictionary

import numpy as np
import pytest
from action_heads_lab.sim import contexts, make
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
    """A context of OpenGL or of MuJoCo that counts."""

    offWidth = offHeight = 480

    def __init__(self, log, name):
        self.log, self.name = log, name
        log.append(f"{name} made")

    def free(self):
        self.log.append(f"{self.name} freed")

    def make_current(self):
        self.log.append(f"{self.name} current")


@pytest.fixture
def binding(monkeypatch):
    """Return a stand-in for robosuite's binding of MuJoCo, whose log says what is made and freed."""
    log = []

    class MjRenderContext:
        def __init__(self, model, device_id=0):
            self.model, self.device_id = model, device_id
            self.gl_ctx = binding.GLContext(max_width=1, max_height=1, device_id=device_id)
            self._set_mujoco_context_and_buffers()

        def render(self, width):
            log.append(f"drawn with {width} pixels")

        def __del__(self):
            raise AssertionError("robosuite's own")

    class GLContext(Part):
        fails = False

        def __init__(self, max_width, max_height, device_id):
            if self.fails:
                raise RuntimeError("no display")
            super().__init__(log, "gl")

    mujoco = SimpleNamespace(
        MjrContext=lambda model, scale: Part(log, f"con of {model}"),
        mjr_setBuffer=lambda buffer, con: log.append(f"buffer of {con.name}"),
        mjtFontScale=SimpleNamespace(mjFONTSCALE_150=150),
        mjtFramebuffer=SimpleNamespace(mjFB_OFFSCREEN=1),
    )
    binding = SimpleNamespace(MjRenderContext=MjRenderContext, GLContext=GLContext, mujoco=mujoco, log=log)
    for name, empty in (("_opened", {}), ("_uploads", WeakValueDictionary()), ("_recent", [])):
        monkeypatch.setattr(contexts, name, empty)
    monkeypatch.setattr(contexts, "drawn_data", lambda model: model.encode())
    own = GLContext
    contexts.share_contexts(binding)
    contexts.share_contexts(binding)  # a second time changes nothing
    return binding, own


def test_contexts_are_shared_and_freed_once(binding):
    binding, _ = binding
    first, same, other = (binding.MjRenderContext(SimpleNamespace(_model=name)) for name in ("a", "a", "b"))
    made = [line for line in binding.log if line.endswith("made")]
    assert made == ["gl made", "con of a made", "con of b made"]
    assert first.con is same.con is not other.con
    assert first.gl_ctx is other.gl_ctx
    elsewhere = binding.MjRenderContext(SimpleNamespace(_model="a"), device_id=1)
    assert elsewhere.con is not first.con
    assert elsewhere.gl_ctx is not first.gl_ctx
    del elsewhere, binding.log[:]
    first.render(width=3)
    assert binding.log == ["gl current", "buffer of con of a", "drawn with 3 pixels"]
    del first, same
    assert {*contexts._uploads} == {(0, b"b"), (1, b"a")}  # those in use and the last one are kept
    del binding.log[:], other
    contexts.free_all()
    contexts.free_all()
    assert binding.log == ["gl freed", "gl freed"]  # uploads that nobody uses were dropped before, and free themselves


def test_an_upload_in_use_is_freed_at_exit(binding):
    binding, _ = binding
    kept = binding.MjRenderContext(SimpleNamespace(_model="a"))
    del binding.log[:]
    contexts.free_all()
    assert binding.log == ["con of a freed", "gl freed"]
    assert kept.con.name == "con of a"


def test_a_context_that_fails_never_complains(binding):
    binding, own = binding
    own.fails = True
    with pytest.raises(RuntimeError, match="no display"):
        binding.MjRenderContext(SimpleNamespace(_model="a"))
    assert own._context is None
    assert not contexts._opened


@pytest.fixture(scope="module")
def drawing():
    """Return a function that makes a simulation which renders."""
    made = []

    def drawing(task):
        try:
            sim = make(task, render=True)
            sim.reset(1)
        except ImportError as error:
            if "EGL" not in str(error):
                raise
            pytest.skip("this machine has no EGL")
        made.append(sim)
        return sim

    yield drawing
    for sim in made:
        sim.close()


def test_shared_uploads_draw_the_same_images(drawing):
    """Images depend neither on the episode before, nor on other simulations, nor on the size of other images."""
    alone = {}
    for task, seed in itertools.product(("Lift", "two_cubes"), (1, 2)):
        sim = drawing(task)
        contexts._recent.clear()
        sim.reset(seed)
        alone[task, seed] = [sim.render(size) for size in (32, 700)]
        assert alone[task, seed][1].std() > 10, "an empty image"
    sims = {task: drawing(task) for task in ("Lift", "two_cubes")}
    for (task, seed), images in alone.items():
        sims[task].reset(seed)
        for image, size in [*zip(images, (32, 700), strict=True), (images[0], 32)]:
            np.testing.assert_array_equal(sims[task].render(size), image)
    np.testing.assert_array_equal(sims["Lift"].render(32), alone["Lift", 2][0])


def test_a_reset_uploads_nothing_again(drawing):
    sim, other = drawing("Lift"), drawing("Lift")
    con = sim.mujoco._render_context_offscreen.con
    sim.reset(2)
    assert sim.mujoco._render_context_offscreen.con is con is other.mujoco._render_context_offscreen.con


@pytest.mark.parametrize("field", ["tex_data", "mesh_vert", "mat_texrepeat"])
def test_other_data_are_another_upload(lift, field):
    model = copy.copy(lift.env.sim.model._model)
    before = contexts.drawn_data(model)
    model.geom_size[0] += 1
    model.geom_rgba[0] = 0.5
    assert contexts.drawn_data(model) == before
    values = getattr(model, field)
    values.flat[0] += 1
    assert contexts.drawn_data(model) != before


def test_another_quality_is_another_upload(lift):
    model = copy.copy(lift.env.sim.model._model)
    before = contexts.drawn_data(model)
    model.vis.quality.offsamples += 4
    assert contexts.drawn_data(model) != before


@pytest.mark.parametrize(
    ("name", "found", "message"),
    [
        (
            "robosuite",
            "1.5.1",
            r"robosuite 1\.5\.1 is installed, but .* 1\.4 or later, before 1\.5: pip install 'robosuite==1\.4\.1'",
        ),
        ("mujoco", "3.12.0", r"mujoco 3\.12\.0 is installed, but .* 3\.1 or later, before 3\.9: .*mujoco>=3\.1,<3\.9"),
        ("mujoco", "3.10.0", r"mujoco 3\.10\.0 is installed"),
        ("mujoco", "2.3.7", r"mujoco 2\.3\.7 is installed"),
    ],
)
def test_a_version_that_fails_is_told_first(monkeypatch, name, found, message):
    contexts.check_versions()
    monkeypatch.setattr(contexts, "version", lambda asked: found if asked == name else real_version(asked))
    with pytest.raises(ImportError, match=message) as raised:
        contexts.import_robosuite()
    assert "\n" not in str(raised.value)


def test_the_extra_requires_the_versions_that_are_accepted():
    project = Path(__file__).resolve().parents[2] / "lab" / "pyproject.toml"
    extra = re.search(r"^sim = \[(.*)\]$", project.read_text(encoding="utf-8"), re.MULTILINE)
    assert extra
    assert contexts.REQUIREMENTS.replace("'", '"').replace('" "', '", "') in extra[1]


def refuse_robosuite(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """Let the import of robosuite end with an error."""

    def fail(*_, **__):
        raise error

    monkeypatch.setattr(contexts, "require", fail)


@pytest.mark.parametrize(
    "error",
    [
        ImportError("Unable to load EGL library"),
        AttributeError("'NoneType' object has no attribute 'eglQueryString'"),
        OSError("libGL.so.1: cannot open shared object file"),
    ],
)
def test_a_machine_without_egl_is_told_what_to_install(monkeypatch, error):
    refuse_robosuite(monkeypatch, error)
    with pytest.raises(ImportError, match=r"EGL is missing .*apt-get install libegl1.*MUJOCO_GL=osmesa") as raised:
        contexts.import_robosuite()
    assert "\n" not in str(raised.value)


def test_a_numpy_that_numba_refuses_is_told_with_the_remedy(monkeypatch):
    refuse_robosuite(monkeypatch, ImportError("Numba needs NumPy 2.2 or less. Got NumPy 2.5."))
    with pytest.raises(ImportError, match=r"NumPy 2\.2 or less\. Got NumPy 2\.5.*`pip install --upgrade numba`"):
        contexts.import_robosuite()


def test_what_is_not_installed_is_told_as_ever(monkeypatch):
    refuse_robosuite(monkeypatch, ImportError("robosuite is needed here"))
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
