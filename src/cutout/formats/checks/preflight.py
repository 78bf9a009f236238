"""What a file's structure forbids before a decoder opens it, and what decoders would not survive taken out of it.

Decoders believe what a file announces and walk through all that it holds: most of them allocate, or take time by the
square of a count, before anybody can ask them for a size. Every walk here is linear in what it looks at, believes no
count that a file announces, and ends where its caller has enough.
"""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from PIL import Image

from cutout.errors import PictureError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

__all__ = [
    "CheckedFile",
    "TooLargeError",
    "allowing",
    "check_format",
    "check_size",
    "implausible",
    "too_large",
    "without",
]

COPY = "copy it again from where it came from"
SAVE_ANEW = "open it in another program and save it anew"


class TooLargeError(PictureError):
    """The picture has more pixels than are allowed."""


class CheckedFile(NamedTuple):
    """A file as a decoder gets it."""

    data: bytes
    """The file's bytes, without what was taken out."""
    info: Mapping[str, Any] = {}
    """What was taken out and still counts, by the names that Pillow gives it."""
    notes: tuple[str, ...] = ()
    """What was left out."""


def check_format(data: bytes, kind: str | None, max_pixels: int) -> CheckedFile:
    """Check a file as far as its first frame, of the format that `sniff` found.

    Raises:
        TooLargeError: It announces more pixels than are allowed.
        PictureError: No program writes such a file, or its first frame is cut short.
    """
    match kind:
        case "JPEG":
            from cutout.formats.checks import jpeg

            return jpeg.check(data, max_pixels)
        case "PNG":
            from cutout.formats.checks import png

            return png.check(data, max_pixels)
        case "TIFF":
            from cutout.formats.checks import tiff

            tiff.find_pages(data, 1)
            return CheckedFile(data)
        case _:
            from cutout.formats.checks import others

            return others.check(data, kind, max_pixels)


def check_size(size: tuple[int, int], max_pixels: int) -> None:
    """Refuse a picture of more pixels.

    Raises:
        TooLargeError: It is.
    """
    width, height = size
    if width * height > max_pixels:
        raise too_large(f"{width}×{height} = {width * height / 1e6:.0f} megapixels", max_pixels)


def too_large(pixels: str, max_pixels: int) -> TooLargeError:
    """The error that a picture has so many pixels."""
    return TooLargeError(
        f"the picture has {pixels}, more than the limit of {max_pixels / 1e6:.0f}",
        hint="if it is what it should be, raise max_pixels",
        options=("max_pixels",),
    )


def implausible(kind: str, what: str) -> PictureError:
    """The error that a file of this format has something that no program writes."""
    return PictureError(f"the {kind} file has {what}: no program writes that", hint=SAVE_ANEW)


def without(data: bytes, cuts: Iterable[tuple[int, int]]) -> bytes:
    """The same without these pieces, which are in order."""
    parts, at = [], 0
    for start, end in cuts:
        if start > at:
            parts.append(data[at:start])
        at = end
    return b"".join((*parts, data[at:]))


class _Hard(int):
    """A limit that is an error from its first pixel on: Pillow only warns up to twice its limit."""

    def __rmul__(self, _factor: int) -> int:
        return self


class _PillowsLimit:
    """Pillow's limit of pixels is one variable for all threads: the largest of what they allow holds.

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


allowing = _PillowsLimit().allowing
