"""The bounded queue between requests and worker threads; clients are served in turn."""

from __future__ import annotations

import math
import threading
import time
from collections import Counter, OrderedDict
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from cutout.service.http.problems import Problem

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["WorkQueue"]

_LONGEST_RETRY = 600  # the largest Retry-After, in seconds
_Result = TypeVar("_Result")
_RESERVED_EACH = 2
_RESERVE = 4  # a quarter of the queue on top, for clients that have next to nothing in it


class WorkQueue:
    """Worker threads, and work that waits for them in one lane per client.

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
        self._lanes: OrderedDict[str, OrderedDict[Future[Any], Callable[[bool], Any]]] = OrderedDict()
        self._admitted: Counter[str] = Counter()
        self._seconds = 0.5  # that a picture takes, a moving average
        self._begun: dict[Future[Any], float] = {}  # what is worked on, and since when
        self._closed = False
        self._threads = [
            threading.Thread(target=self._work, name=f"cutout-worker-{number}", daemon=True)
            for number in range(workers)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def waiting(self) -> int:
        """Pictures that no worker has taken yet."""
        with self._lock:
            return sum(map(len, self._lanes.values()))

    @property
    def running(self) -> int:
        """Pictures that are being worked on."""
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
            Problem: There is no room.
        """
        with self._lock:
            total, own = self._admitted.total(), self._admitted[client]
            more = max(1, self.limit // _RESERVE) if own < _RESERVED_EACH else 0
            if self._closed or total >= self.limit + more:
                raise self._overloaded()
            self._admitted[client] += 1
        try:
            yield
        finally:
            with self._lock:
                self._admitted -= Counter([client])  # which keeps no zeros

    def submit(self, lane: str, work: Callable[[bool], _Result]) -> Future[_Result]:
        """Give work to the threads.

        Args:
            lane: Who asks; lanes are served in turn.
            work: Called in a worker's thread; its argument says whether nothing else is there to do.

        Returns:
            The future; as long as no worker has begun, cancelling it takes the work out of the queue.

        Raises:
            Problem: The queue was closed.
        """
        future: Future[_Result] = Future()
        future.add_done_callback(partial(self._give_up, lane))
        with self._lock:
            if self._closed:
                raise self._overloaded()
            self._lanes.setdefault(lane, OrderedDict())[future] = work
            self._lock.notify()
        return future

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

    def _overloaded(self) -> Problem:
        seconds = self._retry_after(self._admitted.total() / 2)
        hint = f"try again in {seconds} s"
        return Problem(503, "overloaded", "the service is busy: its queue is full", hint=hint, retry_after=seconds)

    def _next(self) -> tuple[Future[Any], Callable[[bool], Any], bool] | None:
        """What is first in the lane whose turn it is, and whether it is the only one; None when all is over."""
        with self._lock:
            while self._lock.wait_for(lambda: self._lanes or self._closed) and self._lanes:
                lane, waiting = next(iter(self._lanes.items()))
                future, work = waiting.popitem(last=False)
                if waiting:
                    self._lanes.move_to_end(lane)
                else:
                    del self._lanes[lane]
                if future.set_running_or_notify_cancel():
                    self._begun[future] = time.monotonic()
                    return future, work, len(self._begun) == 1 and not self._lanes
                del work  # it holds a picture
        return None

    def _give_up(self, lane: str, future: Future[Any]) -> None:
        """Take what was cancelled out of its lane, if no worker has."""
        if not future.cancelled():
            return
        with self._lock:
            waiting = self._lanes.get(lane)
            if waiting and waiting.pop(future, None) and not waiting:
                del self._lanes[lane]

    def _work(self) -> None:
        while (taken := self._next()) is not None:
            future, work, alone = taken
            try:
                result = work(alone)
            except BaseException as error:  # noqa: BLE001 - raised where the result is awaited
                self._ended(future, whole=False)
                future.set_exception(error)
            else:
                self._ended(future, whole=True)
                future.set_result(result)
                del result
            del future, work, taken  # a waiting worker keeps no picture alive

    def _ended(self, future: Future[Any], *, whole: bool) -> None:
        with self._lock:
            seconds = time.monotonic() - self._begun.pop(future)
            if whole:
                self._seconds += 0.1 * (seconds - self._seconds)
