"""Pillow's own limit of pixels, set here and nowhere else: to ours, while pictures are decoded or composed."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["allowing"]


class _Hard(int):
    """A limit that is an error from its first pixel on: Pillow only warns up to twice its limit."""

    def __rmul__(self, _factor: int) -> int:
        return self


class _Limit:
    """It is one variable of Pillow's module, for all threads: the largest of what they allow holds.

    It is the calling program's to set, so it is put back when nobody needs ours.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._allowed: list[int] = []
        self._before: int | None = None

    @contextmanager
    def allowing(self, pixels: int) -> Iterator[None]:
        """Let Pillow make pictures of so many pixels, and of no more."""
        with self._lock:
            if not self._allowed:
                self._before = Image.MAX_IMAGE_PIXELS
            self._allowed.append(pixels)
            Image.MAX_IMAGE_PIXELS = _Hard(max(self._allowed))
        try:
            yield
        finally:
            with self._lock:
                self._allowed.remove(pixels)
                Image.MAX_IMAGE_PIXELS = _Hard(max(self._allowed)) if self._allowed else self._before


allowing = _Limit().allowing
