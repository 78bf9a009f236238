"""Chunks of PNG files: what beside the pixels is put in, and animations of whole frames.

Portable Network Graphics (Third Edition), W3C: eXIf, iTXt, iCCP, pHYs; acTL, fcTL and fdAT for animations.
"""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["SIGNATURE", "Animation", "Chunk", "chunk", "insert", "profile_chunks", "text_chunks"]

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_HEADER_END = 33  # signature and IHDR


def chunk(name: bytes, data: bytes) -> bytes:
    """One chunk with its length and checksum."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(data, zlib.crc32(name)))


Chunk = tuple[bytes, bytes]
"""Name and content."""


def profile_chunks(icc: bytes | None, dpi: tuple[float, float] | None) -> list[Chunk]:
    """Colour profile and resolution."""
    found = []
    if icc:
        found.append((b"iCCP", b"ICC profile\0\0" + zlib.compress(icc, 6)))
    if dpi:
        found.append((b"pHYs", struct.pack(">IIB", *(round(value / 0.0254) for value in dpi), 1)))
    return found


def text_chunks(exif: bytes | None, xmp: bytes | None) -> list[Chunk]:
    """EXIF block and XMP packet."""
    found = []
    if exif:
        found.append((b"eXIf", exif))
    if xmp:
        found.append((b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp))
    return found


def insert(png: bytes, chunks: list[Chunk]) -> bytes:
    """A PNG file with further chunks, of those that may stand before the first IDAT."""
    if not chunks:
        return png
    return b"".join((png[:_HEADER_END], *(chunk(name, data) for name, data in chunks), png[_HEADER_END:]))


def _chunks(png: bytes) -> Iterator[Chunk]:
    at = len(SIGNATURE)
    while at + 8 <= len(png):
        length, name = struct.unpack_from(">I4s", png, at)
        yield name, png[at + 8 : at + 8 + length]
        at += length + 12


class Animation:
    """An animated PNG, frame by frame: each one whole, replacing the one before.

    Args:
        count: Frames that will be added.
        loop: How often it plays; 0 is for ever.
    """

    def __init__(self, count: int, loop: int) -> None:
        self._parts: list[bytes] = []
        self._control = struct.pack(">II", count, loop)
        self._header = b""
        self._sequence = 0

    def add(self, png: bytes, duration: float) -> None:
        """Append a frame.

        Args:
            png: The frame as a file of its own; all are of one size and kind. The first one's chunks are kept.
            duration: Milliseconds.

        Raises:
            ValueError: The frame is of another size or kind than the first.
        """
        found = list(_chunks(png))
        first = not self._header
        if first:
            self._header = found[0][1]
            self._parts += [SIGNATURE, chunk(*found[0]), chunk(b"acTL", self._control)]
            self._parts += [chunk(name, data) for name, data in found[1:] if name not in {b"IDAT", b"IEND"}]
        elif self._header != found[0][1]:
            raise ValueError("a frame is of another size or kind than the first")
        milliseconds = min(65535, max(0, round(duration)))
        frame = self._header[:8] + struct.pack(">IIHHBB", 0, 0, milliseconds, 1000, 0, 0)
        self._parts.append(chunk(b"fcTL", self._number() + frame))
        for name, data in found:
            if name == b"IDAT":
                self._parts.append(chunk(b"IDAT", data) if first else chunk(b"fdAT", self._number() + data))

    def finish(self) -> bytes:
        """The file."""
        return b"".join((*self._parts, chunk(b"IEND", b"")))

    def _number(self) -> bytes:
        self._sequence += 1
        return struct.pack(">I", self._sequence - 1)
