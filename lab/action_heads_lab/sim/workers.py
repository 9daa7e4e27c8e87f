"""Worker processes that each hold an object that cannot be pickled, and answer messages with it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from typing import Any


class Workers:
    """A pool of `n` processes. Each calls `build(*arguments)` once, and then `built(message)` for every message.

    Processes are spawned, since threads of torch and GL contexts do not survive a fork. An exception in a worker, or
    its death, is raised in the parent. Leaving the `with` block ends the processes at once.
    """

    def __init__(self, n: int, build: Callable[..., Callable[[Any], Any]], *arguments: Any):
        if n < 1:
            raise ValueError(f"n must be at least 1, got {n}")
        self._n, self._build, self._arguments = n, build, arguments

    def __enter__(self) -> Workers:
        context = multiprocessing.get_context("spawn")
        self._pipes: list[Connection] = []
        self._processes = []
        threads = os.environ.get("OMP_NUM_THREADS")
        os.environ["OMP_NUM_THREADS"] = "1"  # small matrices gain nothing from threads, and n workers fill the cores
        try:
            for _ in range(self._n):
                here, there = context.Pipe()
                process = context.Process(target=_serve, args=(there, self._build, self._arguments), daemon=True)
                with _uninterrupted():
                    process.start()
                there.close()  # the parent closes its copy, so that the pipe ends when the worker dies
                self._pipes.append(here)
                self._processes.append(process)
        finally:
            if threads is None:
                del os.environ["OMP_NUM_THREADS"]
            else:
                os.environ["OMP_NUM_THREADS"] = threads
        return self

    def __exit__(self, *_) -> None:
        for process, pipe in zip(self._processes, self._pipes, strict=True):
            process.terminate()
            process.join()
            pipe.close()

    def __len__(self) -> int:
        return self._n

    def ready(self) -> list[int]:
        """Wait for messages, and return the workers that have one."""
        some = wait(self._pipes)
        return [worker for worker, pipe in enumerate(self._pipes) if pipe in some]

    def send(self, worker: int, message: Any) -> None:
        """Send a message to a worker."""
        try:
            self._pipes[worker].send(message)
        except (BrokenPipeError, ConnectionResetError):
            self.receive(worker)  # the worker has died; this raises its error
            raise

    def receive(self, worker: int) -> Any:
        """Return the reply to the oldest unanswered message, or raise the error of the worker."""
        try:
            good, reply = self._pipes[worker].recv()
        except (EOFError, ConnectionResetError):
            self._processes[worker].join(timeout=5)
            raise RuntimeError(
                f"simulation worker {worker} died (exit code {self._processes[worker].exitcode}). If it is 1, the "
                "script may lack `if __name__ == '__main__':` around its calls. -9 means out of memory"
            ) from None
        if good is None:
            raise ImportError(reply)
        if not good:
            raise RuntimeError(f"simulation worker {worker} failed:\n{reply}")
        return reply


def in_order(n: int, messages: Sequence[Any], build: Callable[..., Any], *arguments: Any) -> Iterator[Any]:
    """Yield the replies to messages in the order of the messages, from `n` workers, or from this process if n is 1.

    At most two replies for each worker wait for their turn, so that memory does not grow with the number of messages.
    """
    if n == 1:
        built = build(*arguments)
        try:
            yield from map(built, messages)
        finally:
            built.close()
        return
    with Workers(n, build, *arguments) as pool:
        idle, sent, given = list(range(n)), 0, 0
        running: dict[int, int] = {}  # worker -> message
        replies: dict[int, Any] = {}
        while given < len(messages):
            while idle and sent < min(len(messages), given + 3 * n):
                running[worker := idle.pop()] = sent
                pool.send(worker, messages[sent])
                sent += 1
            for worker in pool.ready():
                replies[running.pop(worker)] = pool.receive(worker)
                idle.append(worker)
            while given in replies:
                yield replies.pop(given)
                given += 1


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Make processes started in this context ignore Ctrl-C, which reaches them too. The parent ends them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _serve(pipe: Connection, build: Callable, arguments: tuple) -> None:
    try:
        built = build(*arguments)
        while True:
            pipe.send((True, built(pipe.recv())))
    except (EOFError, BrokenPipeError, KeyboardInterrupt):
        pass  # the parent has ended
    except ImportError as error:
        pipe.send((None, str(error)))  # a package is missing, for which a traceback is not needed
    except BaseException:
        pipe.send((False, traceback.format_exc()))
    finally:
        pipe.close()
        os._exit(0)  # a regular exit would print errors of EGL's destructors
