"""Embeddings that a server keeps: sent by another process or made by the server, and never older than allowed."""

from __future__ import annotations

import contextlib
import threading
import time
from typing import Any

import pytest
import torch
from small import COND_DIM, generator, tiny_head, trained_policy
from test_serve import drawn

from action_heads import Executor
from action_heads.adapters import AdaLNZero

pytest.importorskip("websockets")
pytest.importorskip("msgpack")

from action_heads.runtime import streams as module
from action_heads.runtime.remote import RemotePolicy, RemoteRefusal, RemoteStale
from action_heads.runtime.serve import server
from action_heads.runtime.slow_encoder import StaleEmbedding
from action_heads.runtime.streams import Streams

SOURCES = {"tokens": COND_DIM, "state": 3}


@pytest.fixture(scope="module")
def policy():
    policy = trained_policy(tiny_head("mixer")).head.attach(AdaLNZero(SOURCES, pool="mean"))
    torch.manual_seed(0)
    with torch.no_grad():
        for p in policy.adapter.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return policy.eval()


@contextlib.contextmanager
def serving(policy, embed=None):
    with server(policy, port=0, embed=embed) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"ws://127.0.0.1:{running.socket.getsockname()[1]}"
        running.shutdown()


@pytest.fixture(scope="module")
def url(policy):
    with serving(policy) as url:
        yield url


def tokens(seed: int, n: int = 4) -> tuple[dict, dict]:
    mask = torch.arange(n)[None] > 0
    return {"tokens": torch.randn(1, n, COND_DIM, generator=generator(seed))}, {"tokens": mask}


STATES = [torch.full((1, 3), 0.1 * tick) for tick in range(4)]


# ── embeddings that another process sends ────────────────────────────────────────────────────────────────────────────


def test_a_chunk_is_of_the_newest_embedding_and_state(policy, url):
    """It is that of a policy that was given both, bit for bit."""
    with RemotePolicy(url, 60, stream="a") as vlm, RemotePolicy(url, 60, stream="a") as robot:
        cond, mask = tokens(0)
        for seed, state in enumerate(STATES):
            if seed % 2 == 0:
                cond, mask = tokens(seed, 3 + seed)
                vlm.keep(cond, mask)
            chunk = robot.sample({"state": state}, steps=2, generator=generator(seed))
            expected = policy.sample({**cond, "state": state}, mask=mask, steps=2, generator=drawn(seed))
            assert torch.equal(chunk, expected)
        assert robot.seconds.count == 4


def test_an_executor_continues_across_a_new_embedding(url):
    with RemotePolicy(url, 60, stream="b") as remote:
        executor = Executor(remote, execute=4, delay=2, steps=2)
        remote.keep(*tokens(0))
        executor({"state": STATES[0]})
        left = executor.chunks[-1]
        remote.keep(*tokens(1))
        executor.renew()
        assert torch.equal(executor({"state": STATES[1]}), left[:, 0])
        assert torch.equal(executor.chunks[-1][:, 0], left[:, 1])


def test_ages_are_measured_and_bounded(url):
    with RemotePolicy(url, 60, stream="c", max_age=1.0) as robot:
        with pytest.raises(RemoteStale, match="stream 'c' has no embedding yet"):
            robot.sample({"state": STATES[0]})
        robot.keep(*tokens(0), age=5.0)
        with pytest.raises(StaleEmbedding, match=r"stream 'c' is 5\.0.. s old, more than max_age=1"):
            robot.sample({"state": STATES[0]})
        robot.max_age = 60.0
        robot.sample({"state": STATES[0]})
        assert 5 <= robot.seconds.max < 60
        robot.reset()
        with pytest.raises(RemoteStale, match="no embedding yet"):
            robot.sample({"state": STATES[0]})


def test_a_robot_may_wait_for_an_embedding(url):
    with RemotePolicy(url, 60, stream="d") as vlm, RemotePolicy(url, 60, stream="d", late="wait") as robot:
        later = threading.Timer(0.1, vlm.keep, tokens(0))
        later.start()
        assert robot.sample({"state": STATES[0]}).shape == (1, 16, 10)
        later.join()
        robot.reset()
        robot.timeout = 0.3
        began = time.monotonic()
        with pytest.raises(RemoteStale):
            robot.sample({"state": STATES[0]})
        assert time.monotonic() - began >= 0.3


WRONG = {
    "a source twice": (lambda r: r.sample({"state": STATES[0], **tokens(0)[0]}), "cond has tokens, as stream 'e' has"),
    "no dict": (lambda r: r.sample(STATES[0]), "cond must be a dict of some of the sources"),
    "an unknown source": (lambda r: r.sample({"speed": STATES[0]}), r"some of the sources .* got \['speed'\]"),
    "another width": (lambda r: r.sample({"state": torch.zeros(1, 4)}), "built for cond_dim=3"),
    "nan": (lambda r: r.sample({"state": STATES[0] / 0}), "NaN or infinite"),
    "another batch": (lambda r: r.sample({"state": torch.zeros(2, 3)}), "the same batch size"),
    "an embedding of another width": (lambda r: r.keep({"tokens": torch.zeros(1, 2, 9)}), "built for cond_dim=7"),
    "an embedding with nan": (lambda r: r.keep({"tokens": torch.zeros(1, 2, 7) / 0}), "NaN or infinite"),
    "an unknown embedding": (lambda r: r.keep({"text": torch.zeros(1, 7)}), "keep must be a dict of some"),
    "a mask of another shape": (lambda r: r.keep(tokens(0)[0], {"tokens": torch.ones(1, 9).bool()}), "has shape"),
    "an age below 0": (lambda r: r.keep(*tokens(0), age=-1), "age must be a number of seconds, 0 or more; got -1"),
    "no encoder": (lambda r: r.observe({"image": torch.zeros(3)}), "this server has no encoder"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_does_not_fit_is_named_and_the_embedding_stays(name, url):
    call, message = WRONG[name]
    with RemotePolicy(url, 60, stream="e") as robot:
        robot.keep(*tokens(0))
        with pytest.raises(RemoteRefusal, match=message):
            call(robot)
        assert robot.sample({"state": STATES[0]}).shape == (1, 16, 10)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"stream": "f", "keep": tokens(0)[0], "steps": 2}, "keep goes with stream alone"),
        ({"keep": tokens(0)[0]}, "keep goes with stream alone"),
        ({"stream": "f", "forget": True, "observe": {"x": 1}}, "goes with stream alone"),
        ({"stream": "f"}, "cond must be a dict of the sources that the stream lacks"),
        ({"stream": "f", "cond": {"state": STATES[0]}, "max_age": float("nan")}, "max_age must be a number of seconds"),
        ({"cond": {"state": STATES[0]}, "max_age": 1.0}, "max_age needs stream"),
    ],
)
def test_messages_that_make_no_sense(url, request_, message):
    with RemotePolicy(url, 60, stream="f") as robot, pytest.raises(RemoteRefusal, match=message):
        robot._server.request(request_, lambda reply, number: reply)


def test_settings_that_make_no_sense(url):
    options: dict[str, Any]
    for options, message in (
        ({"max_age": 1.0}, "needs stream="),
        ({"stream": "a", "max_age": -1}, "max_age must be"),
        ({"stream": 3}, "stream must be a name"),
        ({"stream": "a", "late": "never"}, "late must be one of wait, raise"),
    ):
        with pytest.raises(ValueError, match=message):
            RemotePolicy(url, **options)
    with RemotePolicy(url, 60) as plain, pytest.raises(ValueError, match="has no stream: pass a name"):
        plain.reset()


def test_an_adapter_of_one_source_has_no_streams():
    with (
        serving(trained_policy(tiny_head("mlp"))) as url,
        RemotePolicy(url, 60, stream="a") as robot,
        pytest.raises(RemoteRefusal, match="the adapter takes one condition"),
    ):
        robot.keep(*tokens(0))


def test_few_streams_are_kept(monkeypatch):
    """The ones used last stay."""
    monkeypatch.setattr(module, "STREAMS", 3)
    kept = Streams(SOURCES)
    for name in "abc":
        kept.keep(name, *tokens(0))
    assert kept.newest("a") is not None
    kept.keep("d", *tokens(0))
    assert [kept.newest(name) is not None for name in "abcd"] == [True, False, True, True]
    monkeypatch.setattr(module, "BYTES", 1000)
    kept.keep("e", {"tokens": torch.zeros(1, 40, COND_DIM)}, None)
    assert list(kept.kept) == ["e"]


# ── embeddings that the server makes ─────────────────────────────────────────────────────────────────────────────────


def test_the_server_embeds_in_the_background(policy):
    """Chunks are made of the embedding before, and observations that come meanwhile are dropped."""
    begun, go, seen = threading.Semaphore(0), threading.Semaphore(0), []

    def embed(observation):
        seen.append(observation["task"])
        begun.release()
        assert go.acquire(timeout=10)
        if observation["task"] == "fail":
            raise KeyError("camera")
        return tokens(int(observation["image"]))

    def expected(seed: int) -> torch.Tensor:
        cond, mask = tokens(seed)
        return policy.sample({**cond, "state": STATES[0]}, mask=mask, steps=1, generator=drawn(0))

    def sampled() -> torch.Tensor:
        return robot.sample({"state": STATES[0]}, steps=1, generator=generator(0))

    def sampled_until_it_fails() -> None:
        for _ in range(1000):
            sampled()

    with serving(policy, embed) as url, RemotePolicy(url, 60, stream="arm", late="wait") as robot:
        assert robot.observe({"image": torch.tensor(1), "task": "lift"})
        go.release()
        assert torch.equal(sampled(), expected(1))
        assert robot.observe({"image": torch.tensor(2), "task": "stack"})
        assert not robot.observe({"image": torch.tensor(3), "task": "pour"})
        assert torch.equal(sampled(), expected(1))
        go.release()
        while not robot.observe({"image": torch.tensor(4), "task": "fail"}):
            time.sleep(0.005)
        assert torch.equal(sampled(), expected(2))
        go.release()
        with pytest.raises(RemoteRefusal, match="KeyError: 'camera'"):
            sampled_until_it_fails()
        robot.observe({"image": torch.tensor(5), "task": "old episode"})
        robot.reset()
        robot.observe({"image": torch.tensor(6), "task": "new episode"})
        go.release(2)
        assert torch.equal(sampled(), expected(6))
        assert robot.seconds.count >= 4
        assert seen[:3] == ["lift", "stack", "fail"]


def test_an_encoder_that_does_not_fit_is_named(policy):
    for result in ((torch.zeros(1, 7), None), ({"tokens": torch.zeros(1, 9)}, None), tokens(0)[0]):
        with (
            serving(policy, lambda _, result=result: result) as url,
            RemotePolicy(url, 60, stream="a", late="wait") as robot,
        ):
            robot.observe({"image": torch.zeros(1)})
            with pytest.raises(RemoteRefusal, match=r"embed's result must be|cond_dim=7|embed must return"):
                robot.sample({"state": STATES[0]})
