"""A queue that computes one request at a time, in an order that is fair to every client."""

from __future__ import annotations

import heapq
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


class Client:
    """A connection, which waits for one request at a time."""

    def __init__(self) -> None:
        self.finish = 0.0  # finishing time of its last request on the clock of `FairQueue`


@dataclass(order=True)
class Job:
    """A request that waits for its turn."""

    finish: float
    number: int  # order of arrival, which decides between equal finishing times
    cost: float = field(compare=False)
    call: Callable[[], Any] = field(compare=False)
    wanted: Callable[[], bool] = field(compare=False)
    done: threading.Event = field(compare=False, default_factory=threading.Event)
    result: Any = field(compare=False, default=None)


class FairQueue:
    """A thread that computes the job with the earliest virtual finishing time first (weighted fair queueing).

    A job of cost c finishes c after its client's last job, or c from now if that job is done. So a client with small
    jobs waits only for the running job and for other small jobs, not for large ones, however many there are. The clock
    advances, so large jobs get their turn too.
    """

    def __init__(self) -> None:
        self.waiting: list[Job] = []
        self.clock = 0.0
        self.count = 0
        self.stopped = False
        self.changed = threading.Condition()
        # One thread computes for all connections, because torch keeps a pool of threads for each computing thread.
        self.thread = threading.Thread(target=self._work, name="action-heads queue", daemon=True)
        self.thread.start()

    def run(self, client: Client, cost: float, call: Callable[[], Any], wanted: Callable[[], bool]) -> Any:
        """Wait for the client's turn and return the result of `call`, or None if it is no longer wanted."""
        with self.changed:
            if self.stopped:
                return None
            client.finish = max(client.finish, self.clock) + cost
            self.count += 1
            job = Job(client.finish, self.count, cost, call, wanted)
            heapq.heappush(self.waiting, job)
            self.changed.notify()
        job.done.wait()
        return job.result

    def stop(self) -> None:
        """Start no more jobs. Waiting calls of `run` return None."""
        with self.changed:
            self.stopped = True
            self.changed.notify()

    def _work(self) -> None:
        while True:
            with self.changed:
                self.changed.wait_for(lambda: self.waiting or self.stopped)
                if self.stopped:
                    for job in self.waiting:
                        job.done.set()
                    return
                job = heapq.heappop(self.waiting)
                self.clock = max(self.clock, job.finish - job.cost)
            try:
                if job.wanted():
                    job.result = job.call()
            except Exception as error:
                job.result = {"error": f"the server failed: {type(error).__name__}: {str(error)[:500]}"}
            finally:
                job.done.set()
