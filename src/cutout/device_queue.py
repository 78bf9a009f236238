"""Pictures from many threads, grouped into batches that one thread for each device runs.

A device is busy or it takes what waits: nothing is held back for the sake of a fuller batch. A batch that is not full
is filled up with zeros: devices choose and compile their algorithms for one shape, and a picture's result must not
depend on how many others happened to wait.
"""

from __future__ import annotations

import threading
from collections import deque
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

import numpy as np

from cutout.diagnosis import is_out_of_memory
from cutout.errors import CutoutError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy.typing as npt

    Array = npt.NDArray[Any]
    Run = Callable[[Array], Array]

__all__ = ["DeviceQueue"]


class _Item:
    """One picture and whoever waits for its result."""

    def __init__(self, picture: Array) -> None:
        self.picture = picture
        self.result: Future[Array] = Future()


class DeviceQueue:
    """Runs single pictures in batches.

    Args:
        runs: One function for each device: (N, 3, H, W) → (N, …), each called by a single thread of its own.
        size: Pictures in a batch.
        fallback: Runs one picture elsewhere when a device has no memory even for it alone; None fails that picture.
        tell: Called with a line, at most once for each kind of trouble.
    """

    def __init__(
        self,
        runs: Sequence[Run],
        *,
        size: int,
        fallback: Run | None = None,
        tell: Callable[[str], None] = lambda _text: None,
    ) -> None:
        self.size = max(1, size)
        self._fallback = fallback
        self._tell = tell
        self._told: set[str] = set()
        self._waiting: deque[_Item] = deque()
        self._ready = threading.Condition()
        self._closed = False
        self._threads = [
            threading.Thread(target=self._serve, args=(run,), name=f"cutout-device-{number}", daemon=True)
            for number, run in enumerate(runs)
        ]
        for thread in self._threads:
            thread.start()

    def run(self, picture: Array) -> Array:
        """The result of one picture, (1, 3, H, W) → (1, …); waits for its batch.

        Raises:
            Exception: What the device raised for this picture.
        """
        item = _Item(picture)
        with self._ready:
            if self._closed:
                raise CutoutError("the device is closed")
            self._waiting.append(item)
            self._ready.notify()
        return item.result.result()

    def close(self) -> None:
        """Finish what waits, and let the threads go."""
        with self._ready:
            self._closed = True
            self._ready.notify_all()
        for thread in self._threads:
            thread.join()

    def _serve(self, run: Run) -> None:
        size = self.size
        while items := self._take(size):
            size = self._do(run, items, size)

    def _take(self, size: int) -> list[_Item]:
        """The first that waits and those of its shape, in the order they came; none when all is done."""
        with self._ready:
            while not self._waiting and not self._closed:
                self._ready.wait()
            shape = self._waiting[0].picture.shape if self._waiting else ()
            taken: list[_Item] = []
            left: deque[_Item] = deque()
            for item in self._waiting:
                fits = len(taken) < size and item.picture.shape == shape
                (taken if fits else left).append(item)
            self._waiting = left
            return taken

    def _do(self, run: Run, items: list[_Item], size: int) -> int:
        """Run some pictures as one batch; give the size of the batches from here on."""
        try:
            outputs = run(_stacked(items, size))
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
                self._do(run, [item], 1)
            return size
        smaller = size // 2
        self._say("halved", f"the memory of the device is full: going on with batches of {smaller}")
        while items:
            now, items = items[:smaller], items[smaller:]
            smaller = self._do(run, now, smaller)
        return smaller

    def _elsewhere(self, item: _Item, error: Exception, *, starved: bool) -> None:
        if not starved or self._fallback is None:
            item.result.set_exception(error)
            return
        self._say(
            "fallback", "the memory of the device is full even for one picture: the processor does what it cannot"
        )
        try:
            item.result.set_result(self._fallback(item.picture))
        except Exception as second:  # noqa: BLE001 - whatever it is, it is this picture's
            item.result.set_exception(second)

    def _say(self, kind: str, text: str) -> None:
        with self._ready:
            if kind in self._told:
                return
            self._told.add(kind)
        self._tell(text)


def _stacked(items: list[_Item], size: int) -> Array:
    first = items[0].picture
    if size == 1:
        return first
    batch = np.zeros((size, *first.shape[1:]), first.dtype)
    for number, item in enumerate(items):
        batch[number] = item.picture[0]
    return batch
