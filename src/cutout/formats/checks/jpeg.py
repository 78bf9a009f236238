"""The structure of a JPEG: what stands before its pixels, and how many scans they come in."""

from __future__ import annotations

import re
from typing import NamedTuple

from cutout.errors import PictureError
from cutout.formats.checks.preflight import SAVE_ANEW, CheckedFile, check_size, without

__all__ = ["Jpeg", "check", "walk"]

_SCANS = 200
"""Programs write about ten; each goes through all of the picture, however little it says."""
_SEGMENTS = 20_000
"""Before the first scan; the pieces of the largest metadata are some hundred."""
_JUNK = 1 << 20
"""Bytes that belong to no segment, which Pillow reads one by one."""
_TABLES = 64 << 10
"""Bytes of quantization tables, of which there are four of 129."""
_EXIF_SEGMENTS, _EXIF_BYTES = 64, 4 << 20
"""Pillow joins them one to the other, which takes time by the square."""
_APP1, _DQT, _START_OF_SCAN, _END = 0xE1, 0xDB, 0xDA, 0xD9
_HEADERS = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_NOT_PROGRESSIVE = {0xC0, 0xC1, 0xC9}
_ALONE = {0x01, 0xD8, *range(0xD0, 0xD8)}
"""Markers without a length."""
_MARKER = re.compile(rb"\xff[^\x00\xff]", re.DOTALL)
_MARKER_IN_SCAN = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]", re.DOTALL)


class Jpeg(NamedTuple):
    """What stands before the first scan of a JPEG, and how many scans it has."""

    segments: list[tuple[int, int, int]]
    """Marker, where that stands, and where the segment ends."""
    junk: int
    """Bytes between them that are none."""
    scans: int


def walk(data: bytes, *, segments: int, scans: int) -> Jpeg:
    """Look at no more than so many segments, and scans of pixels, of a file."""
    found: list[tuple[int, int, int]] = []
    at, junk, many = 2, 0, 0
    while len(found) < segments and many < scans:
        mark = (_MARKER_IN_SCAN if many else _MARKER).search(data, at)
        if mark is None or (marker := data[mark.start() + 1]) == _END or mark.end() + 2 > len(data):
            break
        junk += 0 if many else mark.start() - at
        at = mark.end()
        if marker in _ALONE:
            continue
        start, at = at, at + int.from_bytes(data[at : at + 2], "big")
        if marker == _START_OF_SCAN:
            many += 1
            # decoders end with the first where it holds all; else no more than these, which are found much faster
            if many == 1 and (_holds_all(data, found, start) or data.count(b"\xff\xda", at) + 1 < scans):
                break
        elif not many:
            found.append((marker, mark.start(), at))
    return Jpeg(found, junk, many)


def _holds_all(data: bytes, found: list[tuple[int, int, int]], scan: int) -> bool:
    """Whether a scan holds all components of a picture that is no progressive one."""
    headers = [start for marker, start, _ in found if marker in _NOT_PROGRESSIVE]
    return len(headers) == 1 and data[scan + 2 : scan + 3] >= data[headers[0] + 9 : headers[0] + 10] != b""


def check(data: bytes, max_pixels: int) -> CheckedFile:
    """A JPEG as its decoder gets it: without an EXIF block that is larger than any other.

    Raises:
        PictureError: No program writes such a file, or it has too many pixels.
    """
    found = walk(data, segments=_SEGMENTS + 1, scans=_SCANS + 1)
    tables = sum(end - start - 2 for marker, start, end in found.segments if marker == _DQT)
    headers = [start for marker, start, _ in found.segments if marker in _HEADERS]
    for start in headers:
        height, width = (int.from_bytes(data[start + at : start + at + 2], "big") for at in (5, 7))
        check_size((width, height), max_pixels)
    for wrong, text in (
        (found.scans > _SCANS, f"more than {_SCANS} scans, which would take minutes"),
        (len(found.segments) > _SEGMENTS, f"more than {_SEGMENTS} segments before its pixels"),
        (found.junk > _JUNK, f"{found.junk / 1e6:.0f} MB between its segments that are none"),
        (tables > _TABLES, f"{tables // 1000} kB of quantization tables"),
        (len(headers) > 1, f"{len(headers)} headers"),
    ):
        if wrong:
            raise PictureError(f"the JPEG file has {text}: no camera or program writes that", hint=SAVE_ANEW)
    exif = [
        (start, end)
        for marker, start, end in found.segments
        if marker == _APP1 and data.startswith(b"Exif\0\0", start + 4)
    ]
    if not exif:
        return CheckedFile(data)
    from cutout.formats.metadata.exif import is_crowded

    size = sum(end - start for start, end in exif)
    crowded = is_crowded(data[exif[0][0] + 4 : exif[0][1]])
    if len(exif) <= _EXIF_SEGMENTS and size <= _EXIF_BYTES and not crowded:
        return CheckedFile(data)
    note = f"the EXIF block of {size / 1e6:.1f} MB in {len(exif)} pieces was left out: it is larger than any other"
    return CheckedFile(without(data, exif), notes=(note,))
