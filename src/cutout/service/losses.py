"""Warnings of frames and pages after the first, which an answer does not hold."""

from __future__ import annotations

import struct
from itertools import islice

from cutout.formats.checks.structure import gif, png_chunks

__all__ = ["losses"]

_MANY = "the picture has further frames or pages; only the first was cut out"
_MOST = 10_000  # parts of a file that are looked at: no count of a file is believed, and none is followed for long


def losses(data: bytes) -> tuple[str, ...]:
    """Warnings about what of a picture is not in its result.

    Args:
        data: The file; looked at by its structure alone, nothing is decoded.
    """
    return (_MANY,) if _has_more(data) else ()


def _has_more(data: bytes) -> bool:
    try:
        if data.startswith(b"\x89PNG\r\n\x1a\n"):
            return _png(data)
        if data[:4] == b"GIF8":
            found = gif(data, 2, most_blocks=_MOST)
            return found.frames + found.cut_short > 1
        if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            return _webp(data)
        if data[:4] in {b"II*\0", b"MM\0*"}:
            return _tiff(data)
    except (struct.error, IndexError):  # it is cut short: decoding says so
        return False
    return data[4:8] == b"ftyp" and b"avis" in {data[8:12], *(data[at : at + 4] for at in range(16, 64, 4))}


def _png(data: bytes) -> bool:
    """Whether it announces an animation before its pixels, and a second frame comes after them."""
    announced, frames = False, 0
    for chunk in islice(png_chunks(data), _MOST):
        announced |= chunk.name == b"acTL"
        frames += chunk.name == b"fcTL"
        if (chunk.name == b"IDAT" and not announced) or frames > 1:
            break
    return announced and frames > 1


def _webp(data: bytes) -> bool:
    at, frames = 12, 0
    for _ in range(_MOST):
        if at + 8 > len(data) or frames > 1:
            break
        kind, size = struct.unpack_from("<4sI", data, at)
        frames += kind == b"ANMF"
        at += 8 + size + size % 2
    return frames > 1


def _tiff(data: bytes) -> bool:
    """Whether a second directory follows that is a page, not a small copy of the first."""
    order = "<" if data[:2] == b"II" else ">"
    (start,) = struct.unpack_from(order + "I", data, 4)
    (count,) = struct.unpack_from(order + "H", data, start)
    (following,) = struct.unpack_from(order + "I", data, start + 2 + 12 * count)
    if not following:
        return False
    (count,) = struct.unpack_from(order + "H", data, following)
    for at in range(following + 2, following + 2 + 12 * min(count, 1000), 12):
        tag, _, _, value = struct.unpack_from(order + "HHII", data, at)
        if tag == 0xFE:  # NewSubfileType
            return not value & 1
    return True
