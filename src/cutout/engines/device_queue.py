"""Pictures from many threads, grouped into batches that one thread for each device runs.

A device is busy or it takes what waits: nothing is held back for the sake of a fuller batch. A batch that is not full
is filled up with zeros: devices choose and compile their algorithms for one shape, and a picture's result must not
depend on how many others happened to wait.
"""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections import deque
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

import numpy as np

from cutout.engines.known_errors import is_out_of_memory
from cutout.errors import ClosedError, CutoutError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy.typing as npt

    Array = npt.NDArray[Any]
    Run = Callable[[Array], Array]

__all__ = ["DeviceQueue"]

_LOOKS_UP = 60.0
"""Seconds after which an idle thread looks whether it is still needed: a queue is also closed by the garbage collector,
which may run in that very thread between its look and its sleep."""


class _Item:
    """One picture and whoever waits for its result."""

    def __init__(self, picture: Array) -> None:
        self.picture = picture
        self.result: Future[Array] = Future()


class DeviceQueue:
    """Runs single pictures in batches.

    Its threads hold what they need and never the queue itself: a queue that nobody refers to any more lets them go,
    as `close` does.

    Args:
        runs: One function for each device: (N, 3, H, W) → (N, …), each called by a single thread of its own.
        size: Pictures in a batch.
        fallback: Runs one picture elsewhere when a device has no memory even for it alone; None fails that picture.
        filled: Batches always have their size, as a device wants that chooses how to work by the shape; otherwise they
            have the pictures that are there.
        tell: Called with a line, at most once for each kind of trouble; what it raises is passed over.
    """

    def __init__(
        self,
        runs: Sequence[Run],
        *,
        size: int,
        fallback: Run | None = None,
        filled: bool = True,
        tell: Callable[[str], None] = lambda _text: None,
    ) -> None:
        self.size = max(1, size)
        self._tell = tell
        self._line = _Line(self.size, fallback, weakref.ref(self), filled=filled)
        self._threads = [
            threading.Thread(target=_serve, args=(self._line, run), name=f"cutout-device-{number}", daemon=True)
            for number, run in enumerate(runs)
        ]
        weakref.finalize(self, self._line.end).atexit = False  # the process takes its threads along
        for thread in self._threads:
            thread.start()

    def run(self, picture: Array) -> Array:
        """The result of one picture, (1, 3, H, W) → (1, …); waits for its batch.

        Raises:
            ClosedError: The queue was closed before the picture was begun.
            Exception: What the device raised for this picture.
        """
        return self._line.add(picture).result.result()

    def close(self) -> None:
        """Finish the batches that were begun, fail what waits, let the threads go; any number of times, anywhere."""
        self._line.end()
        for thread in self._threads:
            if thread is not threading.current_thread():  # `tell` may close the queue that calls it
                thread.join()
        self._line.fallback = None  # it may have opened a model of its own

    def say(self, text: str) -> None:
        """Tell of a trouble; a fault of the listener's is not the pictures'."""
        with contextlib.suppress(Exception):
            self._tell(text)


class _Line:
    """The pictures that wait: what the callers and the threads of one queue share.

    Attributes:
        size: Pictures in a batch.
        fallback: As in `DeviceQueue`.
    """

    def __init__(self, size: int, fallback: Run | None, queue: weakref.ref[DeviceQueue], *, filled: bool) -> None:
        self.size = size
        self._filled = filled
        self.fallback = fallback
        self._queue = queue
        self._told: set[str] = set()
        self._waiting: deque[_Item] = deque()
        self._ready = threading.Condition()
        self._closed = False

    def add(self, picture: Array) -> _Item:
        """Let a picture wait.

        Raises:
            ClosedError: Nothing is taken any more.
        """
        item = _Item(picture)
        with self._ready:
            if self._closed:
                raise _closed()
            self._waiting.append(item)
            self._ready.notify()
        return item

    def end(self) -> None:
        """Take nothing more, and fail what waits."""
        with self._ready:
            self._closed = True
            left, self._waiting = self._waiting, deque()
            self._ready.notify_all()
        for item in left:
            item.result.set_exception(_closed())

    def take(self, size: int) -> list[_Item]:
        """The first that waits and those of its shape, in the order they came; none when all is over."""
        with self._ready:
            while not self._waiting and not self._closed:
                self._ready.wait(_LOOKS_UP)
            shape = self._waiting[0].picture.shape if self._waiting else ()
            taken: list[_Item] = []
            left: deque[_Item] = deque()
            for item in self._waiting:
                fits = len(taken) < size and item.picture.shape == shape
                (taken if fits else left).append(item)
            self._waiting = left
            return taken

    def do(self, run: Run, items: list[_Item], size: int) -> int:
        """Run some pictures as one batch; give the size of the batches from here on."""
        try:
            outputs = run(_stacked(items, size if self._filled else len(items)))
            if len(outputs) < len(items):
                raise CutoutError(f"the device gave {len(outputs)} results for {len(items)} pictures")
        except Exception as error:  # noqa: BLE001 - the runtime's exceptions share no base
            return self._again(run, items, size, error)
        for number, item in enumerate(items):
            item.result.set_result(outputs[number : number + 1])
        return size

    def _again(self, run: Run, items: list[_Item], size: int, error: Exception) -> int:
        starved = is_out_of_memory(str(error))
        if size == 1:
            (item,) = items
            self._elsewhere(item, error, starved=starved)
            return size
        if not starved:  # one picture's fault must not become another's
            for item in items:
                self.do(run, [item], 1)
            return size
        smaller = size // 2
        self._say("halved", f"the memory of the device is full: going on with batches of {smaller}")
        while items:
            now, items = items[:smaller], items[smaller:]
            smaller = self.do(run, now, smaller)
        return smaller

    def _elsewhere(self, item: _Item, error: Exception, *, starved: bool) -> None:
        fallback = self.fallback
        if not starved or fallback is None:
            item.result.set_exception(error)
            return
        self._say(
            "fallback", "the memory of the device is full even for one picture: the processor does what it cannot"
        )
        try:
            item.result.set_result(fallback(item.picture))
        except Exception as second:  # noqa: BLE001 - whatever it is, it is this picture's
            item.result.set_exception(second)

    def _say(self, kind: str, text: str) -> None:
        with self._ready:
            if kind in self._told:
                return
            self._told.add(kind)
        if (queue := self._queue()) is not None:  # it is there as long as somebody waits
            queue.say(text)


def _serve(line: _Line, run: Run) -> None:
    """What a device's thread does until the queue is closed."""
    size = line.size
    while items := line.take(size):
        try:
            size = line.do(run, items, size)
        except BaseException as error:  # noqa: BLE001 - nobody may wait for a thread that has ended
            for item in items:
                if not item.result.done():
                    item.result.set_exception(error)
        del items  # an idle thread keeps no picture


def _closed() -> ClosedError:
    return ClosedError("the model was closed", hint="open it again")


def _stacked(items: list[_Item], size: int) -> Array:
    first = items[0].picture
    if size == 1:
        return first
    batch = np.zeros((size, *first.shape[1:]), first.dtype)
    for number, item in enumerate(items):
        batch[number] = item.picture[0]
    return batch
