"""The bounded queue between requests and worker threads; clients are served in turn."""

from __future__ import annotations

import math
import threading
import time
from collections import Counter, OrderedDict, deque
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from cutout.errors import CutoutError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["ExpiredError", "OverloadedError", "WorkQueue"]

_LONGEST_RETRY = 600  # the largest Retry-After, in seconds
_RESERVED_EACH = 2
_RESERVE = 4  # a quarter of the queue on top, for clients that have next to nothing in it


class OverloadedError(CutoutError):
    """The queue is full; `retry_after` is a whole number of seconds."""

    kind = "overloaded"

    def __init__(self, retry_after: int) -> None:
        super().__init__("the service is busy: its queue is full", hint=f"try again in {retry_after} s")
        self.retry_after = retry_after


class ExpiredError(CutoutError):
    """The request waited longer than it was allowed to."""

    kind = "timeout"


@dataclass(eq=False, slots=True)
class _Ticket:
    lane: str
    work: Callable[[bool], Any] | None
    """Holds the picture; None once it is taken or given up, for futures may be kept for longer."""
    deadline: float
    future: Future[Any] = field(default_factory=Future)


class WorkQueue:
    """Worker threads, and tickets that wait for them in one lane per client.

    A request is admitted before its body is read, and leaves when it is answered (`admitted`): that bounds how
    many there are at once. What has come in (`submit`) waits in the lane of its client, and workers take from the lanes
    in turn.

    Args:
        workers: Threads.
        limit: Requests admitted at once. A client that has fewer than two of them is admitted beyond that, up to a
            quarter more, so that no other client can shut it out.
    """

    def __init__(self, workers: int, limit: int) -> None:
        self.workers = workers
        self.limit = limit
        self._lock = threading.Condition()
        self._lanes: OrderedDict[str, deque[_Ticket]] = OrderedDict()
        self._admitted: Counter[str] = Counter()
        self._seconds = 0.5  # of one ticket, a moving average
        self._begun: dict[Future[Any], float] = {}  # since when each ticket is worked on
        self._closed = False
        self._threads = [
            threading.Thread(target=self._work, name=f"cutout-worker-{number}", daemon=True)
            for number in range(workers)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def waiting(self) -> int:
        """Tickets that no worker has taken yet."""
        with self._lock:
            return sum(map(len, self._lanes.values()))

    @property
    def running(self) -> int:
        """Tickets that are being worked on."""
        with self._lock:
            return len(self._begun)

    @property
    def depth(self) -> int:
        """Requests that were admitted and are not answered yet."""
        with self._lock:
            return self._admitted.total()

    @property
    def full(self) -> bool:
        """Whether a further request of a busy client would be refused."""
        return self.depth >= self.limit

    @contextmanager
    def admitted(self, client: str) -> Iterator[None]:
        """Count a request in for the length of the `with` block.

        Raises:
            OverloadedError: There is no room.
        """
        with self._lock:
            total, own = self._admitted.total(), self._admitted[client]
            more = max(1, self.limit // _RESERVE) if own < _RESERVED_EACH else 0
            if self._closed or total >= self.limit + more:
                raise OverloadedError(self._retry_after(total / 2))
            self._admitted[client] += 1
        try:
            yield
        finally:
            with self._lock:
                self._admitted -= Counter([client])  # which keeps no zeros

    def submit(self, lane: str, work: Callable[[bool], Any], *, seconds: float = math.inf) -> Future[Any]:
        """Give work to the threads.

        Args:
            lane: Who asks; lanes are served in turn.
            work: Called in a worker's thread; its argument says whether nothing else is there to do.
            seconds: How long it may wait; its future ends with `ExpiredError` after that.

        Returns:
            The future; as long as no worker has begun, cancelling it takes the work out of the queue.
        """
        ticket = _Ticket(lane, work, time.monotonic() + seconds)
        ticket.future.add_done_callback(partial(self._give_up, lane))  # no ticket in it: a cycle would keep the result
        with self._lock:
            if self._closed:
                raise OverloadedError(self._retry_after(self._admitted.total() / 2))
            self._lanes.setdefault(lane, deque()).append(ticket)
            self._lock.notify()
        return ticket.future

    def close(self) -> None:
        """Accept nothing new, finish what is waiting, and end the threads."""
        with self._lock:
            self._closed = True
            self._lock.notify_all()
        for thread in self._threads:
            thread.join()

    def retry_after(self, pictures: float | None = None) -> int:
        """Seconds until about so many pictures are done, for `Retry-After`; 1 to 600.

        Args:
            pictures: None for half of the admitted requests, after which a new one is admitted.
        """
        with self._lock:
            return self._retry_after(self._admitted.total() / 2 if pictures is None else pictures)

    def _retry_after(self, pictures: float) -> int:
        # what takes long now shows in no average before it is finished
        longest = time.monotonic() - min(self._begun.values(), default=time.monotonic())
        return min(_LONGEST_RETRY, max(1, math.ceil(pictures * max(self._seconds, longest) / self.workers)))

    def _next(self) -> tuple[_Ticket, Callable[[bool], Any], bool] | None:
        """The next ticket of the lane whose turn it is, its work, whether it is the only one; None when all is over."""
        with self._lock:
            while True:
                while not self._lanes:
                    if self._closed:
                        return None
                    self._lock.wait()
                lane, tickets = next(iter(self._lanes.items()))
                ticket = tickets.popleft()
                if tickets:
                    self._lanes.move_to_end(lane)
                else:
                    del self._lanes[lane]
                work, ticket.work = ticket.work, None
                if work is not None and ticket.future.set_running_or_notify_cancel():
                    self._begun[ticket.future] = time.monotonic()
                    return ticket, work, len(self._begun) == 1 and not self._lanes

    def _give_up(self, lane: str, future: Future[Any]) -> None:
        """Take a cancelled ticket out of its lane, if no worker has."""
        if not future.cancelled():
            return
        with self._lock:
            tickets = self._lanes.get(lane, ())
            for ticket in [ticket for ticket in tickets if ticket.future is future]:
                ticket.work = None
                self._lanes[lane].remove(ticket)
                if not tickets:
                    del self._lanes[lane]

    def _work(self) -> None:
        while (taken := self._next()) is not None:
            ticket, work, alone = taken
            started = time.monotonic()
            try:
                if started > ticket.deadline:
                    raise ExpiredError("the request waited too long in the queue", hint="try again later")
                result = work(alone)
            except BaseException as error:  # noqa: BLE001 - raised where the result is awaited
                self._done(ticket.future, None)
                ticket.future.set_exception(error)
            else:
                self._done(ticket.future, time.monotonic() - started)
                ticket.future.set_result(result)
                del result
            del ticket, work, taken  # a waiting worker keeps no picture alive

    def _done(self, future: Future[Any], seconds: float | None) -> None:
        with self._lock:
            del self._begun[future]
            if seconds is not None:
                self._seconds += 0.1 * (seconds - self._seconds)
