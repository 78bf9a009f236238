"""Settings of the libraries below that keep a process small or quick; made once, before they are used."""

from __future__ import annotations

import contextlib
import os

__all__ = ["keep_for_the_next", "keep_small"]

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # of glibc's malloc.h
_LARGEST_BLOCK = 32 << 20  # that glibc gives from its heap
_NEVER = 1 << 30


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
