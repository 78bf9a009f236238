"""The memory that pictures may take together: a share of the machine's or container's, and who waits for it."""

from __future__ import annotations

import math
import os
import re
import sys
import threading
import time
from collections import deque
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from cutout.errors import CutoutError, PictureError, UsageError
from cutout.system import cgroup_folders

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from contextlib import AbstractContextManager

__all__ = ["Budget", "MemoryBusyError", "OverBudgetError", "budget_of", "parse_bytes", "size_text", "usable_memory"]

SHARE = 0.6
"""Of the machine's memory: the rest is for the system, the model, and what the estimates miss."""
_SMALL_FILE = 1 / 32
"""Of the limit: files up to this size are read side by side before their pictures have memory."""
VARIABLE = "CUTOUT_MEMORY_LIMIT"
_UNITS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}
_SIZE = re.compile(r"(\d+(?:\.\d+)?|\.\d+)\s*([kmgt]?)(i?)b?", re.IGNORECASE)


class OverBudgetError(PictureError):
    """One picture alone would take more memory than all of them may take together."""

    kind = "memory"


class MemoryBusyError(CutoutError):
    """Others have held the memory for longer than anybody waits."""

    kind = "memory"


def size_text(size: float) -> str:
    """A number of bytes for people: `8.3 GB`, `120 MB`."""
    return f"{size / 1e9:.1f} GB" if size >= 0.95e9 else f"{max(1, math.ceil(size / 1e6))} MB"


def parse_bytes(text: str | int) -> int:
    """`2GB`, `1500 MB`, `1.5GiB` or a number of bytes.

    Raises:
        UsageError: Anything else, and 0.
    """
    found = _SIZE.fullmatch(str(text).strip())
    size = 0
    if found is not None:
        number, unit, binary = found.groups()
        size = int(float(number) * (1024 if binary else 1000) ** _UNITS[unit.lower()])
    if size < 1 or (found is not None and found[3] and not found[2]):
        raise UsageError(
            f"memory_limit is {text!r}, but it must be a size such as 2GB or 1500MB", options=("memory_limit",)
        )
    return size


class Budget:
    """So many bytes, lent to pictures while they are worked on: a picture waits until it fits beside those that run.

    Who came first is served first, so that small pictures cannot keep a large one waiting for ever. What holds
    memory never waits for more of it, so there is always somebody who will give some back.

    Args:
        limit: Bytes.
        patience: Seconds that anybody waits at most.
    """

    def __init__(self, limit: int, *, patience: float = math.inf) -> None:
        self.limit = limit
        self._patience = patience
        self._free = limit
        self._running = 0
        self._line: deque[object] = deque()
        self._change = threading.Condition()
        self._reader = threading.Lock()

    @property
    def running(self) -> int:
        """Pictures that hold memory now."""
        with self._change:
            return self._running

    @property
    def waiting(self) -> int:
        """Pictures that wait for it."""
        with self._change:
            return len(self._line)

    def check(self, need: int, what: str = "the picture", ways: str = "max_size") -> None:
        """Refuse so many bytes if they can never be lent.

        For the message: `what` needs them, `ways` would need less.

        Raises:
            OverBudgetError: It is more than there is at all.
        """
        if need > self.limit:
            raise OverBudgetError(
                f"{what} would take about {size_text(need)} of memory, more than the limit of {size_text(self.limit)}",
                hint=f"{ways}, or a higher memory_limit where there is more memory",
                options=("max_size", "canvas", "memory_limit"),
            )

    def reading(self, size: int) -> AbstractContextManager[object]:
        """Around the reading of a file of so many bytes, until its picture holds memory: large ones take turns.

        Those that hold memory never wait for this, so whoever reads gets its turn.
        """
        return self._reader if size > self.limit * _SMALL_FILE else nullcontext()

    @contextmanager
    def hold(self, need: int, what: str = "the picture", ways: str = "max_size") -> Iterator[None]:
        """Wait for so many bytes, and keep them for the length of the `with` block.

        Raises:
            OverBudgetError: As in `check`, whose arguments it takes.
            MemoryBusyError: They were not free in time.
        """
        self.check(need, what, ways)
        self._take(need)
        try:
            yield
        finally:
            with self._change:
                self._free += need
                self._running -= 1
                self._change.notify_all()

    def _take(self, need: int) -> None:
        ticket, deadline = object(), time.monotonic() + self._patience
        with self._change:
            self._line.append(ticket)
            try:
                while self._line[0] is not ticket or self._free < need:
                    left = deadline - time.monotonic()
                    if left <= 0:
                        raise MemoryBusyError("other pictures take all the memory now", hint="try again later")
                    self._change.wait(None if math.isinf(left) else left)
                self._free -= need
                self._running += 1
            finally:
                self._line.remove(ticket)
                self._change.notify_all()  # the next in line may fit as well


_shared: dict[int, Budget] = {}
_sharing = threading.Lock()


def budget_of(limit: Budget | str | int | None, environ: Mapping[str, str]) -> Budget:
    """The budget that is meant; the same limit is the same budget everywhere in this process.

    A limit of None is looked up in the environment, and is a share of `usable_memory` if nothing is said there.

    Raises:
        UsageError: It is no size.
    """
    if isinstance(limit, Budget):
        return limit
    given = limit if limit is not None else environ.get(VARIABLE) or None
    if given is not None:
        size = parse_bytes(given)
    else:
        there = usable_memory()
        size = sys.maxsize if there is None else int(there * SHARE)
    with _sharing:
        return _shared.setdefault(size, Budget(size))


def usable_memory(root: Path = Path("/")) -> int | None:
    """Bytes that this process can have: the machine's, its container's or its own limit; None where nobody tells.

    `sys/fs/cgroup` and `proc/self/cgroup` lie below `root`, another folder in tests.
    """
    found = [size for folder in cgroup_folders(root, "memory") if (size := _limit_of(folder)) is not None]
    with suppress(ImportError, OSError, ValueError):
        import resource

        own = resource.getrlimit(resource.RLIMIT_AS)[0]
        if own != resource.RLIM_INFINITY:
            found.append(own)
    if (machine := _machine()) is not None:
        found.append(machine)
    return min(found, default=None)


def _limit_of(folder: Path) -> int | None:
    """Of one cgroup, version 2 or 1; without a limit it says `max`, or a number beyond any machine's memory."""
    for name in ("memory.max", "memory.limit_in_bytes"):
        with suppress(OSError, ValueError):
            return int((folder / name).read_text())
    return None


def _machine() -> int | None:
    with suppress(AttributeError, OSError, ValueError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return _windows()


def _windows() -> int | None:
    import ctypes

    class Status(ctypes.Structure):
        _fields_ = (
            ("length", ctypes.c_uint32),
            ("load", ctypes.c_uint32),
            ("total", ctypes.c_uint64),
            ("others", ctypes.c_uint64 * 6),
        )

    status = Status()
    status.length = ctypes.sizeof(Status)
    with suppress(AttributeError, OSError):
        if getattr(ctypes, "windll").kernel32.GlobalMemoryStatusEx(ctypes.byref(status)):  # noqa: B009 - Windows alone
            return int(status.total)
    return None
