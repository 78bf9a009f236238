"""Settings of the libraries below that keep a process small; made once, before they are used."""

from __future__ import annotations

import contextlib
import os

__all__ = ["keep_small"]

_M_ARENA_MAX = -8  # of glibc's malloc.h


def keep_small() -> None:
    """One heap for all threads instead of one each, and no threads of BLAS.

    Threads that work on pictures of 50 MB each leave large holes in heaps of their own: one heap takes 15 MB less with
    two of them. Products of matrices are small here, BLAS would only keep buffers for threads that never help.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    if "MALLOC_ARENA_MAX" in os.environ:
        return
    import ctypes

    with contextlib.suppress(OSError, AttributeError, TypeError):  # another C library than glibc has no such setting
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)
