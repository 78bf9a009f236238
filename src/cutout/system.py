"""The machine below: processors that may be used, what is installed, settings that keep a process small or quick."""

from __future__ import annotations

import contextlib
import math
import os
import sys
from functools import lru_cache
from pathlib import Path

__all__ = [
    "cgroup_folders",
    "cgroup_quota",
    "distributions",
    "keep_for_the_next",
    "keep_small",
    "threads_each",
    "usable_cpus",
]

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # of glibc's malloc.h
_LARGEST_BLOCK = 32 << 20  # that glibc gives from its heap
_NEVER = 1 << 30


def usable_cpus(root: Path = Path("/")) -> int:
    """Whole processors this process may use, at least 1.

    The smaller of the affinity mask and the cgroup quota (rounded up: 1.5 processors keep two threads busy).

    Args:
        root: Where `sys/fs/cgroup` and `proc/self/cgroup` lie; another folder in tests.
    """
    try:
        count = len(os.sched_getaffinity(0))
    except AttributeError:  # macOS and Windows have no affinity call
        count = os.cpu_count() or 1
    quota = cgroup_quota(root)
    return max(1, count if quota is None else min(count, math.ceil(quota)))


def threads_each(workers: int) -> int:
    """Threads for one of so many workers that share the processors, at least 1."""
    return max(1, usable_cpus() // max(1, workers))


@lru_cache(maxsize=1)
def distributions() -> dict[str, str]:
    """The versions of all that is installed, by name in small letters with dashes.

    They are read from the names of folders: `importlib.metadata` takes 25 ms of a start to be loaded and asked.
    """
    found: dict[str, str] = {}
    for folder in sys.path:
        with contextlib.suppress(OSError):
            for entry in os.listdir(folder or "."):  # noqa: PTH208 - names alone are wanted
                name, _, version = entry.removesuffix(".dist-info").partition("-")
                if entry.endswith(".dist-info"):
                    found.setdefault(name.lower().replace("_", "-").replace(".", "-"), version)
    return found


def cgroup_quota(root: Path = Path("/")) -> float | None:
    """Processors granted by the container's cgroup (version 2 or 1), or None when there is no limit.

    The limit of a group counts for its children too, so the smallest on the way up is taken.
    """
    found = [quota for folder in cgroup_folders(root, "cpu", "cpu,cpuacct") if (quota := _quota_of(folder)) is not None]
    return min(found, default=None)


def cgroup_folders(root: Path, controller: str, *more: str) -> list[Path]:
    """Where the limits of this process' group and of those above it may stand, cgroup version 2 or 1.

    Args:
        root: As in `usable_cpus`.
        controller: Of version 1, whose folders bear its name.
        *more: Further names of such a folder.
    """
    base = root / "sys/fs/cgroup"
    folders = [base, *(base / name for name in (controller, *more))]
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return folders
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        if controllers == "":
            top = base
        elif controller in controllers.split(","):
            top = base / controllers
        else:
            continue
        inner = top / group.strip("/")
        while inner not in (top, inner.parent):
            folders.append(inner)
            inner = inner.parent
    return folders


def _quota_of(folder: Path) -> float | None:
    try:
        if (unified := folder / "cpu.max").is_file():
            limit, period = unified.read_text().split()
        else:
            limit = (folder / "cpu.cfs_quota_us").read_text().strip()
            period = (folder / "cpu.cfs_period_us").read_text().strip()
        return None if limit in {"max", "-1"} or int(period) <= 0 else int(limit) / int(period)
    except (OSError, ValueError):
        return None


def keep_small() -> None:
    """One heap for all threads instead of one each, and no threads of BLAS.

    Threads that work on pictures of 50 MB each leave large holes in heaps of their own: one heap takes 15 MB less with
    two of them. Products of matrices are small here, BLAS would only keep buffers for threads that never help.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    if "MALLOC_ARENA_MAX" not in os.environ:
        _tell_malloc({_M_ARENA_MAX: 1})


def keep_for_the_next() -> None:
    """Memory that one picture gave back stays with the process, for the next one.

    A new page is cleared by the system before it is handed out: 70 MB of them for each inference, 40 ms. This is for
    runs that end; what waits for work should give back what it does not use.
    """
    if not {"MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES"} & set(os.environ):
        _tell_malloc({_M_TRIM_THRESHOLD: _NEVER, _M_MMAP_THRESHOLD: _LARGEST_BLOCK})


def _tell_malloc(settings: dict[int, int]) -> None:
    import ctypes

    with contextlib.suppress(OSError, AttributeError, TypeError):  # another C library than glibc has no such setting
        library = ctypes.CDLL(None)
        for name, value in settings.items():
            library.mallopt(name, value)
