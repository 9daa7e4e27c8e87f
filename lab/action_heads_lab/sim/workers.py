"""A few processes that each hold an object too heavy to pickle, and answer messages with it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from typing import Any


class Workers:
    """`n` processes; each calls `build(*arguments)` once and then `reply = built(message)` for every message.

    Spawned, not forked: neither torch's threads nor a GL context survive a fork. Exceptions in a worker, and its death,
    are raised in the parent. Leaving the `with` block ends the processes, whatever they are doing.
    """

    def __init__(self, n: int, build: Callable[..., Callable[[Any], Any]], *arguments: Any):
        if n < 1:
            raise ValueError(f"at least one worker is needed, got {n}")
        self._n, self._build, self._arguments = n, build, arguments

    def __enter__(self) -> Workers:
        context = multiprocessing.get_context("spawn")
        self._pipes: list[Connection] = []
        self._processes = []
        threads = os.environ.get("OMP_NUM_THREADS")
        os.environ["OMP_NUM_THREADS"] = "1"  # 7 x 7 matrices gain nothing from threads, and n workers fill the cores
        try:
            for _ in range(self._n):
                here, there = context.Pipe()
                process = context.Process(target=_serve, args=(there, self._build, self._arguments), daemon=True)
                with _uninterrupted():
                    process.start()
                there.close()  # ours: only then does the worker's death end the pipe
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
        """Wait until some workers have something to say; which."""
        some = wait(self._pipes)
        return [worker for worker, pipe in enumerate(self._pipes) if pipe in some]

    def send(self, worker: int, message: Any) -> None:
        try:
            self._pipes[worker].send(message)
        except (BrokenPipeError, ConnectionResetError):
            self.receive(worker)  # it is gone; its last words say why
            raise

    def receive(self, worker: int) -> Any:
        """The reply to the oldest unanswered message."""
        try:
            good, reply = self._pipes[worker].recv()
        except (EOFError, ConnectionResetError):
            self._processes[worker].join(timeout=5)
            raise RuntimeError(
                f"simulation worker {worker} died without a word (exit code {self._processes[worker].exitcode}). Exit "
                f"code 1: does the script guard its calls with `if __name__ == '__main__':`? -9: out of memory."
            ) from None
        if good is None:
            raise ImportError(reply)
        if not good:
            raise RuntimeError(f"simulation worker {worker} failed:\n{reply}")
        return reply


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Processes that are started here ignore Ctrl-C, which reaches them too: the parent ends them."""
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
        pass  # the parent is gone
    except ImportError as error:
        pipe.send((None, str(error)))  # something is to be installed: where it was missed is no matter
    except BaseException:
        pipe.send((False, traceback.format_exc()))
    finally:
        pipe.close()
        os._exit(0)  # EGL's destructors complain at a regular exit
