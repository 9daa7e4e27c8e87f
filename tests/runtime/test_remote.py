"""Every failure of a server is one error that says what to do, and no wrong chunk reaches a robot."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
import time

import numpy as np
import pytest
import torch
from forked import needs_fork, outcome
from small import COND_DIM, conditions, generator, tiny_head, trained_policy

pytest.importorskip("websockets")
pytest.importorskip("msgpack")

from websockets.sync.server import serve as plain_server

from action_heads.runtime import wire
from action_heads.runtime.remote import RemoteError, RemotePolicy, RemoteRefusal, RemoteTimeout
from action_heads.runtime.serve import server

HELLO = {"protocol": 1, "head": "x", "horizon": 16, "action_dim": 10, "cond_dim": COND_DIM}
CHUNK = torch.zeros(4, 16, 10)


@contextlib.contextmanager
def speaking(*replies, hello=HELLO, greet=None):
    """Run a server that sends these replies, a list per request.

    A number is a pause, an event is set, None closes the connection.
    """
    said = list(replies)

    def handle(connection):
        connection.send(wire.pack(hello) if greet is None else greet)
        for data in connection:
            request = wire.unpack(data)
            for reply in said.pop(0) if said else [{"chunk": CHUNK, "ms": 1.0}]:
                if reply is None:
                    return
                if isinstance(reply, float):
                    time.sleep(reply)
                    continue
                if isinstance(reply, threading.Event):
                    reply.set()
                    continue
                if isinstance(reply, dict):
                    reply = {k: (request.get("id") if v == "same" else v) for k, v in reply.items()}
                connection.send(wire.pack(reply) if isinstance(reply, dict) else reply)

    with plain_server(handle, "127.0.0.1", 0, compression=None, close_timeout=0.2) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"ws://127.0.0.1:{running.socket.getsockname()[1]}"


NAN = CHUNK.clone()
NAN[2, 3, 4] = float("nan")
WRONG = {
    "no chunk": {"ms": 1.0},
    "an empty answer": {},
    "a horizon more": {"chunk": torch.zeros(4, 17, 10), "ms": 1.0},
    "a row less": {"chunk": torch.zeros(3, 16, 10), "ms": 1.0},
    "a column less": {"chunk": torch.zeros(4, 16, 9), "ms": 1.0},
    "flat": {"chunk": torch.zeros(640), "ms": 1.0},
    "whole numbers": {"chunk": CHUNK.int(), "ms": 1.0},
    "half precision": {"chunk": CHUNK.half(), "ms": 1.0},
    "nan": {"chunk": NAN, "ms": 1.0},
    "infinity": {"chunk": CHUNK / 0 + 1 / torch.zeros(1), "ms": 1.0},
    "a text": {"chunk": "zeros", "ms": 1.0},
    "several": {"chunk": {"a": CHUNK}, "ms": 1.0},
    "garbage": b"\xc1\xc1",
    "a text frame": "hello",
    "nothing": b"",
    "a list": b"\x90",
    "a broken tensor": b"\x81\xa5chunk\x83\xa5shape\x91\x02\xa5dtype\xa7float32\xa4data\xc4\x01a",
    "a goodbye": None,
}


@pytest.mark.parametrize("reply", WRONG.values(), ids=WRONG)
def test_no_wrong_answer_reaches_a_robot(reply):
    """A wrong answer raises an error that names the server, and the next call works."""
    with speaking([reply]) as url, RemotePolicy(url, timeout=20) as remote:
        with pytest.raises(RemoteError) as error:
            remote.sample(conditions())
        assert url in str(error.value)
        assert len(str(error.value)) > len(url) + 20
        assert torch.equal(remote.sample(conditions()), CHUNK)


@pytest.mark.parametrize("ms", ["x", None, {"a": CHUNK}])
def test_a_time_that_is_none_harms_nothing(ms):
    with speaking([{"chunk": CHUNK, "ms": ms}]) as url, RemotePolicy(url, timeout=20) as remote:
        assert torch.equal(remote.sample(conditions()), CHUNK)


@pytest.mark.parametrize("number", [None, 0, -1, 2**40, "1"])
def test_an_answer_to_another_request_is_none(number):
    """The answer to another request is refused if the server returns the number of each request."""
    hello = HELLO | {"echo": True}
    good, wrong = {"chunk": CHUNK, "ms": 1.0, "id": "same"}, {"chunk": CHUNK + 1, "ms": 1.0, "id": number}
    with speaking([good], [wrong], [{"error": "no", "id": 77}], hello=hello) as url:
        remote = RemotePolicy(url, timeout=20)
        assert torch.equal(remote.sample(conditions()), CHUNK)
        with pytest.raises(RemoteError, match=r"answered request .* not 2"):
            remote.sample(conditions())
        with pytest.raises(RemoteError, match="answered request 77, not 3") as error:
            remote.sample(conditions())
        assert not isinstance(error.value, RemoteRefusal)


def test_an_answer_that_comes_twice_is_not_taken_for_the_next():
    """A repeated answer of an older server, which does not number its answers, is refused."""
    twice = [{"chunk": CHUNK + 1, "ms": 1.0}] * 2
    with speaking(twice) as url, RemotePolicy(url, timeout=20) as remote:
        assert torch.equal(remote.sample(conditions()), CHUNK + 1)
        time.sleep(0.2)
        with pytest.raises(RemoteError, match="unexpected message"):
            remote.sample(conditions())
        assert torch.equal(remote.sample(conditions()), CHUNK)


def test_a_late_answer_is_a_timeout_and_the_next_is_right():
    asked = threading.Event()
    with speaking([asked, 1.0, {"chunk": CHUNK + 1, "ms": 1.0}]) as url:
        remote = RemotePolicy(url, timeout=20)
        remote.timeout = 0.2
        while True:
            with pytest.raises(RemoteTimeout, match=r"within 0\.2 s\. .* longer timeout"):
                remote.sample(conditions())
            if asked.wait(1):  # on a busy machine the time may be over before the request is sent
                break
        remote.timeout = 20
        assert torch.equal(remote.sample(conditions()), CHUNK)


HELLOS = {
    "another version": (
        HELLO | {"protocol": 2},
        "uses version 2 of the protocol, but this client uses 1. Install the same release",
    ),
    "no version": ({"horizon": 16}, "uses version None"),
    "no horizon": ({"protocol": 1, "action_dim": 10}, "horizon=None"),
    "a horizon of 0": (HELLO | {"horizon": 0}, "horizon=0"),
    "a text as action_dim": (HELLO | {"action_dim": "10"}, "action_dim='10'"),
    "garbage": (b"\xff\xff", "invalid message"),
    "a text": ("welcome", "invalid message: got a text"),
}


@pytest.mark.parametrize(("hello", "said"), HELLOS.values(), ids=HELLOS)
def test_a_greeting_that_is_none(hello, said):
    greet = None if isinstance(hello, dict) else hello
    with speaking(hello=hello, greet=greet) as url, pytest.raises(RemoteError, match=said):
        RemotePolicy(url, timeout=20)


def test_no_server():
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
    with pytest.raises(RemoteError, match=r"no server at .* start `action-heads serve`"):
        RemotePolicy(f"ws://127.0.0.1:{port}", timeout=2)
    with pytest.raises(RemoteError, match="no server at"):
        RemotePolicy("ws://no-such-host.invalid:8765", timeout=2)


def test_a_server_of_something_else():
    with socket.create_server(("127.0.0.1", 0)) as other:

        def talk():
            peer, _ = other.accept()
            peer.recv(4096)
            peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")
            peer.close()

        threading.Thread(target=talk, daemon=True).start()
        with pytest.raises(RemoteError, match=r"is not a policy server .* Check the address and port"):
            RemotePolicy(f"ws://127.0.0.1:{other.getsockname()[1]}", timeout=5)


@pytest.mark.parametrize("url", ["192.168.1.5:8765", "http://x:1", "", None, 8765])
def test_what_is_no_url(url):
    with pytest.raises(ValueError, match="url must begin with ws:// or wss://"):
        RemotePolicy(url)


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf"), None, "1", True])
def test_what_is_no_timeout(timeout):
    with pytest.raises(ValueError, match="timeout must be a number of seconds"):
        RemotePolicy("ws://127.0.0.1:1", timeout=timeout)


def test_a_server_that_reads_nothing_is_not_waited_for():
    """A call ends in time even if the server reads nothing, although the library sets no limit on a blocked send."""
    go = threading.Event()

    def handle(connection):
        connection.send(wire.pack(HELLO))
        go.wait(20)

    with plain_server(
        handle, "127.0.0.1", 0, compression=None, max_queue=1, max_size=None, close_timeout=0.2
    ) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        remote = RemotePolicy(f"ws://127.0.0.1:{running.socket.getsockname()[1]}", timeout=1.0)
        filler = wire.pack({"cond": torch.zeros(1, 10, COND_DIM)})
        for _ in range(3):  # frames that it has not read hold it back from reading on
            remote.connection.send(filler)
        time.sleep(0.2)
        began = time.monotonic()
        with pytest.raises(RemoteTimeout):
            remote.sample(torch.zeros(1, 10**6, COND_DIM))
        assert time.monotonic() - began < 10
        go.set()


TENSORS = {
    "numpy": np.zeros((1, COND_DIM), np.float32),
    "a list": [[0.0] * COND_DIM],
    "nothing": None,
    "a number": 3.0,
    "no sources": {},
    "numpy by source": {"a": np.zeros((1, 3))},
}


@pytest.mark.parametrize("cond", TENSORS.values(), ids=TENSORS)
@pytest.mark.parametrize("name", ["cond", "mask", "previous"])
def test_what_is_no_tensor_is_named_before_anything_is_sent(cond, name):
    """A value that is not a tensor raises the error of a local policy before anything is sent."""
    if cond is None and name != "cond":
        return
    with speaking() as url, RemotePolicy(url, timeout=20) as remote:
        given = {"cond": conditions(), name: cond}
        with pytest.raises(ValueError, match=rf"{name} (must be a torch tensor, got a|is an empty dict)"):
            remote.sample(given.pop("cond"), **given)
        assert torch.equal(remote.sample(conditions()), CHUNK)


@pytest.mark.parametrize("cond", [torch.zeros(0, 7), torch.tensor(1.0), torch.zeros(2, 0, 7)])
def test_what_is_empty(cond):
    with (
        speaking() as url,
        RemotePolicy(url, timeout=20) as remote,
        pytest.raises(ValueError, match="needs a batch axis"),
    ):
        remote.sample(cond)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_conditions_of_every_float_work(dtype):
    policy = trained_policy(tiny_head("mixer"))
    with server(policy, port=0) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        with RemotePolicy(f"ws://127.0.0.1:{running.socket.getsockname()[1]}", timeout=30) as remote:
            cond = conditions().to(dtype).requires_grad_()
            chunk = remote.sample(cond, generator=generator())
            torch.testing.assert_close(chunk, remote.sample(cond.float(), generator=generator()))
            with pytest.raises(RemoteRefusal, match=r"must be floating point, got torch\.int64"):
                remote.sample(conditions().short())
            with pytest.raises(ValueError, match=r"complex64, which no message can hold; pass cond\.float"):
                remote.sample(conditions().to(torch.complex64))
            with pytest.raises(RemoteRefusal, match="NaN or infinite"):
                remote.sample(conditions() / 0)
            assert remote.sample(cond).shape == (4, 16, 10)


def test_refusals_keep_the_connection_and_restarts_are_noticed():
    """A client goes on with a restarted server of the same policy, and raises an error if the policy is another one."""
    policy, other = trained_policy(tiny_head("mlp")), trained_policy(tiny_head("mlp", seed=1))
    with server(policy, port=0) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        port = running.socket.getsockname()[1]
        remote = RemotePolicy(f"ws://127.0.0.1:{port}", timeout=20)
        connection = remote.connection
        with pytest.raises(RemoteRefusal, match=r"refused by the server: steps must be"):
            remote.sample(conditions(), steps=10**6 // 10**4 * 0)
        with pytest.raises(RemoteRefusal, match=r"more than the 640"):
            remote.sample(conditions(), steps=10**9)
        expected = remote.sample(conditions(), generator=generator())
        assert remote.connection is connection
    connection.recv_events_thread.join(20)  # until the client has seen that the connection ended
    with pytest.raises(RemoteError, match="no server at"):
        remote.sample(conditions())
    for served, same in ((policy, True), (other, False)):
        with server(served, port=port) as running:
            threading.Thread(target=running.serve_forever, daemon=True).start()
            if same:
                assert torch.equal(remote.sample(conditions(), generator=generator()), expected)
            else:
                with pytest.raises(RemoteError, match=r"serves another policy than before \(fingerprint changed"):
                    remote.sample(conditions())


def test_two_threads_have_their_own_chunks():
    policy = trained_policy(tiny_head("mlp"))
    conds = [conditions(1, seed) for seed in range(4)]
    with server(policy, port=0) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        remote = RemotePolicy(f"ws://127.0.0.1:{running.socket.getsockname()[1]}", timeout=30)
        found: dict[int, list] = {i: [] for i in range(4)}

        def ask(i: int) -> None:
            found[i] += [remote.sample(conds[i], generator=generator(), steps=2) for _ in range(5)]

        threads = [threading.Thread(target=ask, args=(i,)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        for i in range(4):
            assert len(found[i]) == 5
            assert all(torch.equal(chunk, found[i][0]) for chunk in found[i])
        assert len({re.sub(r"\s", "", str(found[i][0])) for i in range(4)}) == 4
        remote.close()


@needs_fork
def test_a_forked_process_has_a_connection_of_its_own():
    """Both processes would else read the answers of one connection, and number their requests alike."""
    policy = trained_policy(tiny_head())
    conds = [conditions(), 2 * conditions()]
    with server(policy, port=0) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        with RemotePolicy(f"ws://127.0.0.1:{running.socket.getsockname()[1]}", timeout=20) as remote:
            expected = [remote.sample(cond, steps=2, generator=generator()) for cond in conds]
            assert not torch.equal(*expected)

            def act(i: int) -> None:
                with contextlib.nullcontext() if i else remote:
                    for _ in range(20):
                        assert torch.equal(remote.sample(conds[i], steps=2, generator=generator()), expected[i])

            said: list[str] = []
            child = threading.Thread(target=lambda: said.append(outcome(lambda: act(0))))
            child.start()
            act(1)
            child.join()
            assert said == ["done"]
            act(1)  # The child's end did not close the connection.
