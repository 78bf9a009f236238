"""The formats that can be read, a row each, and which of them a file is: by its first bytes, never by its name."""

from __future__ import annotations

import re
import struct
from typing import NamedTuple

__all__ = ["CAMERA_RAW_NAMES", "HEAD", "INPUT_FORMATS", "VIDEO_NAMES", "InputFormat", "is_camera_raw", "sniff"]


class InputFormat(NamedTuple):
    """A format that can be read."""

    name: str
    pillow: tuple[str, ...]
    """Pillow's names of it."""
    suffixes: tuple[str, ...]
    """A file with one of them counts as a picture, though it may be empty or broken."""
    memory: float
    """Bytes a pixel while it is decoded, for the picture and what its decoder keeps beside it; see `estimate`."""
    signatures: tuple[bytes, ...] = ()
    """One of which a file begins with; for those without one, see `sniff`."""


# With a signature of their own, and none that runs another program (EPS), is only guessed at (TGA), or is decoded
# while Pillow opens it (ICO).
INPUT_FORMATS = (
    InputFormat("PNG", ("PNG",), (".png",), 4.5, (b"\x89PNG\r\n\x1a\n",)),
    InputFormat("JPEG", ("JPEG",), (".jpg", ".jpeg", ".jpe", ".jfif"), 4.5, (b"\xff\xd8\xff",)),
    InputFormat("WebP", ("WEBP",), (".webp",), 18.0),
    InputFormat("AVIF", ("AVIF",), (".avif",), 11.0),
    InputFormat("HEIC", ("HEIF",), (".heic", ".heif"), 10.0),
    InputFormat("TIFF", ("TIFF",), (".tif", ".tiff"), 8.0, (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")),
    InputFormat("BMP", ("BMP", "DIB"), (".bmp", ".dib"), 4.5),
    InputFormat("GIF", ("GIF",), (".gif",), 5.0, (b"GIF87a", b"GIF89a")),
    InputFormat(
        "JPEG 2000",
        ("JPEG2000",),
        (".jp2", ".j2k"),
        22.0,
        (b"\x00\x00\x00\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51"),
    ),
    InputFormat("PPM", ("PPM",), (".ppm", ".pgm", ".pbm"), 5.0),
    InputFormat("QOI", ("QOI",), (".qoi",), 9.0, (b"qoif",)),
)

HEAD = 32
"""Bytes from the start of a file that `sniff` wants."""

# TIFF by their first bytes, but what a decoder finds in them is a thumbnail; the last four say who they are
CAMERA_RAW_NAMES = frozenset(
    {".3fr", ".arw", ".cr2", ".dng", ".erf", ".fff", ".iiq", ".kdc", ".mef", ".mos", ".nef", ".nrw", ".pef", ".rwl"}
    | {".sr2", ".srf", ".srw", ".cr3", ".orf", ".raf", ".rw2"}
)
"""Extensions of the files that cameras write before development."""
VIDEO_NAMES = frozenset({".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm", ".wmv"})
"""Extensions of files whose pictures another program takes out."""
_RAW_SIGNATURES = (b"FUJIFILMCCD-RAW", b"IIRO", b"IIRS", b"MMOR", b"IIU\0")

_HEIF_BRANDS = {b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"}
_PORTABLE = re.compile(rb"P[1-6]\s+(#|\d+\s+(#|\d+\s))")


def sniff(head: bytes) -> str | None:
    """The name of the format that a file's first `HEAD` bytes announce, or None."""
    for row in INPUT_FORMATS:
        if head.startswith(row.signatures):
            return row.name
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WebP"
    return _iso_media(head) if head[4:8] == b"ftyp" else _weak(head)


def is_camera_raw(data: bytes) -> bool:
    """Whether a file is a camera's raw one, by its content, so far as that tells."""
    if data[4:8] == b"ftyp":
        return data[8:12] == b"crx "
    return data.startswith(_RAW_SIGNATURES) or (data[:4] in {b"II*\0", b"MM\0*"} and _is_raw_tiff(data))


def _is_raw_tiff(data: bytes) -> bool:
    """Canon's mark; a DNG's version; or a first directory that is a small copy of what lies in directories below it."""
    if data[:2] == b"II" and data[8:10] == b"CR":
        return True
    order = "<" if data[:2] == b"II" else ">"
    tags: dict[int, int] = {}
    try:
        (start,) = struct.unpack_from(order + "I", data, 4)
        (count,) = struct.unpack_from(order + "H", data, start)
        for at in range(start + 2, start + 2 + 12 * count, 12):
            tag, kind, _, value = struct.unpack_from(order + "HHII", data, at)
            tags[tag] = value >> 16 if order == ">" and kind == 3 else value
    except struct.error:
        pass
    return _DNG_VERSION in tags or (bool(tags.get(_PURPOSE, 0) & 1) and _BELOW in tags)


_DNG_VERSION, _PURPOSE, _BELOW = 0xC612, 0x00FE, 0x014A


def _iso_media(head: bytes) -> str | None:
    """AVIF and HEIC share a container that also holds films: the brands tell."""
    brands = {head[i : i + 4] for i in (8, *range(16, len(head) - 3, 4))}
    if brands & {b"avif", b"avis"}:
        return "AVIF"
    return "HEIC" if brands & _HEIF_BRANDS else None


def _weak(head: bytes) -> str | None:
    """Two signatures are so short that a second sign is wanted: BMP's header size, PPM's width and height."""
    if (
        head[:2] == b"BM"
        and head[6:10] == b"\0\0\0\0"
        and head[15:18] == b"\0\0\0"
        and head[14:15] in b"\x0c\x28\x38\x40\x6c\x7c"
    ):
        return "BMP"
    return "PPM" if _PORTABLE.match(head) else None
