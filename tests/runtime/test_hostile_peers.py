"""Whatever one client does on its connections, another client gets its chunk within a second."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import threading
import time
from collections.abc import Callable

import pytest
import torch
from small import COND_DIM, conditions, tiny_head, trained_policy

pytest.importorskip("websockets")
pytest.importorskip("msgpack")

import msgpack
from websockets.exceptions import ConnectionClosed, WebSocketException
from websockets.sync.client import connect

from action_heads import ConditionedHead
from action_heads.runtime import serve, wire
from action_heads.runtime.remote import RemoteError, RemotePolicy
from action_heads.runtime.request_queue import Client, FairQueue
from action_heads.runtime.serve import server

SECOND = 1.0
LARGE = wire.pack({"cond": torch.zeros(64, COND_DIM), "steps": 10})  # as much as one request may ask for
SMALL = wire.pack({"cond": torch.zeros(1, COND_DIM), "steps": 1})


@pytest.fixture
def policy():
    return trained_policy(tiny_head("mlp"))


@contextlib.contextmanager
def running(policy, **options):
    with server(policy, port=0, **options) as served:
        threading.Thread(target=served.serve_forever, daemon=True).start()
        yield served.socket.getsockname()[1]


def raw(port: int) -> socket.socket:
    """Return an open WebSocket connection without a client library, which would enforce the protocol."""
    peer = socket.create_connection(("127.0.0.1", port), timeout=5)
    head = "GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    peer.sendall(f"{head}Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n\r\n".encode())
    peer.recv(4096)
    return peer


def frame(data: bytes, opcode: int = 0x82) -> bytes:
    """Return a frame masked with zeros."""
    size = bytes([0x80 | len(data)]) if len(data) < 126 else b"\xff" + len(data).to_bytes(8, "big")
    return bytes([opcode]) + size + b"\0\0\0\0" + data


def keep_sending(peer: socket.socket, data: bytes, seconds: float = 2.0) -> None:
    """Send data again and again from another thread, until the connection or some seconds end."""

    def send() -> None:
        until = time.monotonic() + seconds
        with contextlib.suppress(OSError):
            while time.monotonic() < until:
                peer.sendall(data)

    threading.Thread(target=send, daemon=True).start()


def opened(port: int, count: int) -> list:
    return [connect(f"ws://127.0.0.1:{port}", compression=None) for _ in range(count)]


def too_large(port: int) -> list:
    peers = opened(port, 1)
    peers[0].send(wire.pack({"cond": torch.zeros(50_000, COND_DIM), "steps": 100}))
    return peers


def left(port: int) -> list:
    """Send the largest request from each of twenty clients, and disconnect."""
    for peer in opened(port, 20):
        peer.send(LARGE)
        peer.socket.shutdown(socket.SHUT_RDWR)
    return []


def stay(port: int) -> list:
    """Send the largest request from each of twenty clients, and wait."""
    peers = opened(port, 20)
    for peer in peers:
        peer.send(LARGE)
    return peers


def one_after_the_other(port: int) -> list:
    """Send more requests on one connection than are allowed, and read no answers."""
    peer = raw(port)
    keep_sending(peer, 50 * frame(LARGE))
    return [peer]


def garbage(port: int) -> list:
    peers = [raw(port) for _ in range(5)]
    for i, peer in enumerate(peers):
        keep_sending(peer, random.Random(i).randbytes(10_000))
    return peers


def tiny_frames(port: int) -> list:
    peers = [raw(port) for _ in range(3)]
    for peer, opcode in zip(peers, (0x82, 0x89, 0x02), strict=True):  # messages, pings, and one message of many parts
        keep_sending(peer, 2000 * frame(b"", opcode if opcode != 0x02 else 0x00))
    return peers


def no_handshake(port: int) -> list:
    """Open far more connections than there are places, and send only the first byte of a handshake."""
    peers = [socket.create_connection(("127.0.0.1", port), timeout=5) for _ in range(100)]
    for peer in peers:
        with contextlib.suppress(OSError):
            peer.sendall(b"G")
    return peers


def silent(port: int) -> list:
    return [raw(port) for _ in range(80)]


def half_a_message(port: int) -> list:
    peer = raw(port)
    peer.sendall(frame(bytes(10**7))[: 10**6])
    return [peer]


def bombs(port: int) -> list:
    peers = [raw(port) for _ in range(3)]
    for peer in peers:
        keep_sending(peer, frame(b"\xdd\x00\xff\xff\xff" + b"\xc0" * 0xFFFFFF), seconds=1.0)
    return peers


def compressed(port: int) -> list:
    """Send a frame that is marked as compressed although no compression was agreed on."""
    peer = raw(port)
    peer.sendall(frame(os.urandom(100), 0xC2))
    return [peer]


PEERS = (too_large, left, stay, one_after_the_other, garbage, tiny_frames, no_handshake, silent, half_a_message, bombs)


@pytest.mark.parametrize("hostile", [*PEERS, compressed], ids=lambda peer: peer.__name__)
def test_a_second_client_is_served_within_a_second(policy, hostile):
    for _ in range(3):  # each with a server and peers of its own, since a busy machine may hold one of them up
        took = slower_of_two_clients(policy, hostile)
        if took < (limit := SECOND * (1 + os.getloadavg()[0] / (os.cpu_count() or 1))):
            break
    assert took < limit


def slower_of_two_clients(policy: ConditionedHead, hostile: Callable[[int], list]) -> float:
    """Return the seconds that a new client, or one who was there before, waits for a chunk beside a hostile peer."""
    with running(policy) as port, RemotePolicy(f"ws://127.0.0.1:{port}", timeout=30) as first:
        first.sample(conditions(1))
        connection, peers = first.connection, hostile(port)
        try:
            began = time.monotonic()
            assert first.sample(conditions(1)).shape == (1, 16, 10)  # one who was there before
            known = time.monotonic() - began
            with RemotePolicy(f"ws://127.0.0.1:{port}", timeout=30) as second:
                second.sample(conditions(1))
            new = time.monotonic() - began - known
            assert first.connection is connection
            print(f"{hostile.__name__}: {known:.2f} s for one who was there, {new:.2f} s for one who came")
            return max(known, new)
        finally:
            for peer in peers:
                (peer if isinstance(peer, socket.socket) else peer.socket).close()


def test_those_who_left_are_not_computed(policy, monkeypatch):
    """Requests of clients that have disconnected are not computed."""
    computed, go = [], threading.Event()

    def slow(policy, request):
        computed.append(len(request["cond"]))
        go.wait(20)
        return {"error": "not computed here"}

    monkeypatch.setattr(serve, "compute", slow)
    with running(policy) as port:
        (busy,) = opened(port, 1)
        busy.send(SMALL)
        while not computed:  # The server may be slow to begin, and then it could begin with another client.
            time.sleep(0.001)
        peers = opened(port, 10)
        for peer in peers:
            peer.send(LARGE)
        last = opened(port, 1)[0]
        last.send(SMALL)
        time.sleep(0.5)
        for peer in peers:
            peer.socket.shutdown(socket.SHUT_RDWR)
        time.sleep(0.5)
        go.set()
        for peer in (busy, last):
            peer.recv(20)  # the server's greeting
            peer.recv(20)  # the answer
    assert computed == [1, 1]


def test_who_asks_for_little_goes_first():
    """A cheap request is served before twenty expensive ones that came earlier, and no client waits forever."""
    queue, order, go = FairQueue(), [], threading.Event()
    clients = {name: Client() for name in ("now", *range(20), "little")}

    def ask(name, cost: float) -> threading.Thread:
        thread = threading.Thread(
            target=queue.run, args=(clients[name], cost, lambda: (order.append(name), go.wait(20)), lambda: True)
        )
        thread.start()
        while not (
            order if name == "now" else any(True for job in queue.waiting if job.finish == clients[name].finish)
        ):
            time.sleep(0.001)
        return thread

    threads = [ask("now", 1), *(ask(i, 640) for i in range(20)), ask("little", 10)]
    go.set()
    for thread in threads:
        thread.join(20)
    assert order == ["now", "little", *range(20)]
    queue.stop()


def test_a_client_that_asks_again_and_again_waits_for_the_others():
    queue, greedy, other = FairQueue(), Client(), Client()
    for _ in range(5):
        queue.run(greedy, 100, lambda: None, lambda: True)
    assert (greedy.finish, queue.clock) == (500, 400)
    queue.run(other, 100, lambda: None, lambda: True)
    assert other.finish == 500  # beside the last of the other, not after all that it will ask for
    queue.stop()
    assert queue.run(other, 1, lambda: pytest.fail("computed"), lambda: True) is None


def test_a_job_that_fails_ends_nothing():
    queue = FairQueue()
    assert "ZeroDivisionError" in queue.run(Client(), 1, lambda: 1 / 0, lambda: True)["error"]
    assert queue.run(Client(), 1, lambda: 7, lambda: True) == 7
    queue.stop()


def test_only_so_many_connections_are_kept(policy):
    """At the limit of connections the one that was silent longest is closed, and one that works stays."""
    with running(policy, clients=4) as port, RemotePolicy(f"ws://127.0.0.1:{port}", timeout=30) as working:
        silent = []
        for _ in range(8):
            silent += opened(port, 1)
            working.sample(conditions(1))
        connection = working.connection
        time.sleep(0.2)
        with pytest.raises(ConnectionClosed):
            [silent[0].recv(5) for _ in range(2)]  # the greeting, and then the end
        working.sample(conditions(1))
        assert working.connection is connection


@pytest.mark.parametrize(
    "data", [b"", b"\xc1", b"\x80", SMALL[:-3], msgpack.packb({"cond": {"parts": {}}}) or b"", "text", "é" * 9]
)
def test_a_mistake_is_answered_and_the_connection_stays(policy, data):
    with running(policy) as port, connect(f"ws://127.0.0.1:{port}", compression=None) as peer:
        peer.recv(5)
        for _ in range(3):
            peer.send(data)
            assert len(wire.unpack(peer.recv(5))["error"]) > 10
        peer.send(SMALL)
        assert wire.unpack(peer.recv(5))["chunk"].shape == (1, 16, 10)


def test_a_message_that_is_too_large_is_named(policy, monkeypatch):
    """A message over the limit closes the connection with the reason, since the library cannot read on."""
    monkeypatch.setattr(wire, "LARGEST", 10_000)
    with running(policy) as port:
        peer = connect(f"ws://127.0.0.1:{port}", compression=None)
        peer.recv(5)
        with pytest.raises(WebSocketException, match="exceeds limit of 10000 bytes"):
            [peer.send(bytes(10_001)), peer.recv(5)]
        with RemotePolicy(f"ws://127.0.0.1:{port}", timeout=5) as remote:
            with pytest.raises(ValueError, match="over the limit of 10,000: send fewer rows"):
                remote.sample(torch.zeros(1000, COND_DIM))
            remote.sample(conditions(1))


def test_a_server_with_peers_that_read_nothing_ends(policy):
    """The server ends even while its threads are blocked in sending to clients that read nothing."""
    served = server(policy, port=0)
    thread = threading.Thread(target=served.serve_forever, daemon=True)
    thread.start()
    peer = raw(served.socket.getsockname()[1])
    keep_sending(peer, 200 * frame(wire.pack({"cond": torch.zeros(40, COND_DIM), "steps": 1})), seconds=3.0)
    time.sleep(1.0)
    began = time.monotonic()
    served.shutdown()
    assert time.monotonic() - began < 15
    peer.close()


def test_a_full_table_of_files_does_not_end_the_server(policy, monkeypatch):
    """The server goes on after `accept` fails, which the library would take for its end."""
    with running(policy) as port, RemotePolicy(f"ws://127.0.0.1:{port}", timeout=30) as first:
        from action_heads.runtime.listener import Listener

        fails = iter([OSError(24, "Too many open files"), OSError(103, "Software caused connection abort")])
        accept = socket.socket.accept

        def failing(self):
            if isinstance(self, Listener) and (error := next(fails, None)):
                raise error
            return accept(self)

        monkeypatch.setattr(socket.socket, "accept", failing)
        with RemotePolicy(f"ws://127.0.0.1:{port}", timeout=30) as second:
            second.sample(conditions(1))
        with contextlib.suppress(RemoteError):
            first.sample(conditions(1))
        first.sample(conditions(1))
