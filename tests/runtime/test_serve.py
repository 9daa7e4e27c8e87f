"""A policy over a loopback connection equals the local policy, and a bad request ends in an error, not the server."""

from __future__ import annotations

import socket
import threading
import time

import numpy as np
import pytest
import torch
from small import COND_DIM, conditions, generator, tiny_head, trained_policy

from action_heads import BackgroundExecutor, Executor
from action_heads.adapters import AdaLNZero
from action_heads.runtime import wire

pytest.importorskip("websockets")
pytest.importorskip("msgpack")

from answers import answer

from action_heads.runtime.remote import RemotePolicy
from action_heads.runtime.serve import server


@pytest.fixture(scope="module")
def policy():
    return trained_policy(tiny_head("mixer"))


@pytest.fixture(scope="module")
def url(policy):
    with server(policy, port=0) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"ws://127.0.0.1:{running.socket.getsockname()[1]}"
        running.shutdown()


@pytest.fixture
def remote(url):
    with RemotePolicy(url, timeout=60) as connected:
        yield connected


def drawn(seed: int) -> torch.Generator:
    """Return the generator that the server makes from a client's generator."""
    return torch.Generator().manual_seed(int(torch.randint(2**62, (), generator=generator(seed))))


def test_remote_is_local(policy, remote):
    assert remote.served["horizon"] == 16
    for options in ({}, {"steps": 2, "sampler": "heun"}, {"sampler": "ddpm", "steps": 3}):
        expected = policy.sample(conditions(), generator=drawn(0), **options)
        assert torch.equal(remote.sample(conditions(), generator=generator(0), **options), expected)
    assert remote.last_ms > 0


def test_tokens_and_committed_steps_go_along(policy, remote):
    tokens, mask = torch.randn(2, 3, COND_DIM), torch.tensor([[True, True, False], [True, False, False]])
    left = policy.sample(conditions(2))[:, 8:]
    options = {"mask": mask, "previous": left, "committed": 2}
    expected = policy.sample(tokens, generator=drawn(1), **options)
    assert torch.equal(remote.sample(tokens, generator=generator(1), **options), expected)


def test_several_sources_whole_masks_and_numpy_s_counts():
    policy = trained_policy(tiny_head("mixer"))
    policy = policy.head.attach(AdaLNZero({"tokens": 5, "state": 3}))
    cond = {"tokens": torch.randn(2, 6, 5), "state": torch.randn(2, 3)}
    mask = {"tokens": torch.tensor([[1, 1, 1, 0, 0, 0], [0, 1, 1, 1, 1, 1]])}
    with server(policy, port=0) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        with RemotePolicy(f"ws://127.0.0.1:{running.socket.getsockname()[1]}", timeout=60) as remote:
            assert remote.served["cond_dim"] == {"state": 3, "tokens": 5}
            chunk = remote.sample(cond, mask=mask, steps=np.int64(2), generator=generator())  # pyright: ignore
        running.shutdown()
    assert torch.equal(chunk, policy.sample(cond, mask=mask, steps=2, generator=drawn(0)))


def test_an_interrupted_request_is_not_answered_later(policy, url, monkeypatch):
    """An interrupted request closes the connection, so that its answer is not taken for that of the next request."""
    remote = RemotePolicy(url, timeout=60)
    monkeypatch.setattr(remote.connection, "recv", lambda timeout: (_ for _ in ()).throw(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        remote.sample(conditions())
    monkeypatch.undo()
    assert remote.connection is None
    expected = policy.sample(conditions(seed=2), generator=drawn(0))
    assert torch.equal(remote.sample(conditions(seed=2), generator=generator()), expected)


def test_a_server_that_hangs_is_not_waited_for():
    """A client waits for neither the greeting nor the goodbye of a server that hangs."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        began = time.monotonic()
        with pytest.raises(TimeoutError):
            RemotePolicy(f"ws://127.0.0.1:{silent.getsockname()[1]}", timeout=0.5)
        assert time.monotonic() - began < 5


def test_an_executor_takes_it(remote):
    executor = Executor(remote, execute=4, delay=2, steps=2)
    assert all(executor(conditions()).shape == (4, 10) for _ in range(6))


def test_an_executor_in_the_background_takes_it(remote):
    options = {"execute": 4, "delay": 2, "steps": 2}
    within = Executor(remote, **options, generator=generator())
    expected = [within(conditions()) for _ in range(10)]
    with BackgroundExecutor(remote, **options, generator=generator()) as executor:
        assert all(torch.equal(executor(conditions()), action) for action in expected)


def test_errors_come_back_and_the_server_lives(policy, remote):
    with pytest.raises(ValueError, match="refused by the server: cond has shape"):
        remote.sample(torch.zeros(1, COND_DIM + 1))
    with pytest.raises(ValueError, match="unknown sampler 'fast'"):
        remote.sample(conditions(), sampler="fast")
    remote.connection.send("hello")
    assert "binary msgpack" in wire.unpack(remote.connection.recv())["error"]
    assert (
        "unknown keys in the request: device"
        in answer(policy, wire.pack({"cond": conditions(), "device": "cuda"}))["error"]
    )
    assert "cond must be a torch tensor" in answer(policy, wire.pack({"steps": 2}))["error"]
    assert remote.sample(conditions()).shape == (4, 16, 10)


def test_a_late_chunk_is_not_taken_for_the_next(policy, url):
    late = RemotePolicy(url, timeout=60)
    late.timeout = 0.0
    with pytest.raises(TimeoutError, match=r"no chunk within 0\.0 s"):
        late.sample(conditions())
    late.timeout = 60
    expected = policy.sample(conditions(seed=2), generator=drawn(0))
    assert torch.equal(late.sample(conditions(seed=2), generator=generator()), expected)


TENSORS = [
    torch.randn(2, 3),
    torch.randn(3).bfloat16(),
    torch.tensor([True]),
    torch.randn(2, 3).T,
    torch.ones(2).double(),
]


@pytest.mark.parametrize("tensor", TENSORS)
def test_tensors_round_trip(tensor):
    back = wire.unpack(wire.pack({"x": tensor}))["x"]
    torch.testing.assert_close(back, tensor.float() if tensor.dtype == torch.float64 else tensor)


@pytest.mark.parametrize(
    "value",
    [
        {"shape": [2], "dtype": "float32", "data": b"1234"},
        {"shape": [1], "dtype": "object", "data": b"1234"},
        {"shape": [-1], "dtype": "float32", "data": b""},
        {"shape": [1]},
    ],
)
def test_tensors_that_are_none(value):
    with pytest.raises(wire.WireError, match=r"^a value has "):
        wire.decode(value)


def test_what_is_no_message():
    for data in (b"\xc1", wire.require("msgpack", "serve").packb([1])):
        with pytest.raises(wire.WireError, match=r"not msgpack|a message must be a map"):
            wire.unpack(data)


def test_the_command_says_how_long_others_may_wait(policy, tmp_path, monkeypatch, capsys):
    """The command prints how long other clients may wait, and which limit would keep that below a second."""
    from action_heads.runtime import serve

    class Served:
        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def serve_forever(self):
            pass

    asked = {}
    monkeypatch.setattr(serve.ConditionedHead, "from_pretrained", lambda *_, **__: policy)
    monkeypatch.setattr(serve, "server", lambda *_, **options: asked.update(options) or Served())
    for time_of_one, largest, said in (
        (0.001, 640, "takes up to 0.64 s"),
        (0.01, 640, "--largest 100 would"),
        (0.01, None, "of 50 rows x evaluations, takes up to 0.5 s"),
        (1.0, None, "of 10 rows x evaluations, takes up to 10 s"),
        (1e-6, None, "of 640 rows"),
    ):
        monkeypatch.setattr(serve, "seconds", lambda _, t=time_of_one: t)
        serve.serve(serve.ServeConfig("x", method="eager", largest=largest, clients=3))
        assert said in capsys.readouterr().out
    assert asked == {"largest": 640, "clients": 3}
    monkeypatch.undo()
    assert 0 < serve.seconds(policy) < 10
    assert 0 < serve.seconds(policy.head.attach(AdaLNZero({"tokens": 5, "state": 3}))) < 10
    for wrong in ({"largest": 0}, {"clients": -1}, {"largest": 2.5}):
        with pytest.raises(ValueError, match=r"(largest|clients) must be a positive integer"):
            serve.ServeConfig("x", **wrong)
    for port in (0, 70_000):
        with pytest.raises(ValueError, match=f"port must be 1 to 65535, got {port}"):
            serve.ServeConfig("x", port=port)
    with pytest.raises(ValueError, match=r"method is 'natve' \(did you mean 'native'\?\)"):
        serve.ServeConfig("x", method="natve")


def test_a_port_that_is_taken_is_named(policy):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(ValueError, match=rf"can't listen at 127.0.0.1:{port} .*Choose another --host or --port"):
            server(policy, port=port)
