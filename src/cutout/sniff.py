"""Is it a picture? Judged by the first bytes, never by the name; reads nothing and decodes nothing."""

from __future__ import annotations

import re

__all__ = ["HEAD", "sniff"]

HEAD = 32
"""Bytes from the start of a file that `sniff` wants."""

_HEIF_BRANDS = {b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"}
_PORTABLE = re.compile(rb"P[1-6]\s+(#|\d+\s+(#|\d+\s))")
_SIGNATURES: tuple[tuple[bytes, str], ...] = (
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"\xff\xd8\xff", "JPEG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"II*\x00", "TIFF"),
    (b"MM\x00*", "TIFF"),
    (b"II+\x00", "TIFF"),
    (b"MM\x00+", "TIFF"),
    (b"\x00\x00\x00\x0cjP  \r\n\x87\n", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"qoif", "QOI"),
    (b"\x00\x00\x01\x00", "ICO"),
)


def sniff(head: bytes) -> str | None:
    """The picture format that a file's first `HEAD` bytes announce, or None."""
    for signature, name in _SIGNATURES:
        if head.startswith(signature):
            return name
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WebP"
    return _iso_media(head) if head[4:8] == b"ftyp" else _weak(head)


def _iso_media(head: bytes) -> str | None:
    """AVIF and HEIF share a container that also holds films: the brands tell."""
    brands = {head[i : i + 4] for i in (8, *range(16, len(head) - 3, 4))}
    if brands & {b"avif", b"avis"}:
        return "AVIF"
    return "HEIF" if brands & _HEIF_BRANDS else None


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
