"""How a file is built, found before a decoder sees it: frames, pages, scans, segments and chunks.

Every walk is linear in what it looks at, believes no count that a file announces, and ends where its caller has enough.
"""

from __future__ import annotations

import re
import struct
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "Gif",
    "Jpeg",
    "JpegSegment",
    "PngChunk",
    "announced_size",
    "gif",
    "icon_pixels",
    "jpeg",
    "jpeg_2000_tiles",
    "png_chunks",
    "png_frames",
    "tiff_pages",
    "webp_first",
]


class Gif(NamedTuple):
    """The first frames of a GIF."""

    frames: int
    """How many are there to their last byte."""
    cut_short: bool
    """Another one begins and is not all there."""
    size: tuple[int, int]
    """Width and height of what a decoder needs for them: the screen, made larger by frames that reach beyond it."""
    first: tuple[int, int]
    """Width and height of the first one."""
    blocks: int
    """Of the longest row of comments and the like, with their parts, before a frame."""


_BLOCK = re.compile(rb"[!,;]")


def gif(data: bytes, most: int, *, most_blocks: int = 1 << 30) -> Gif:
    """Look at no more than `most` frames, nor at much more than so many blocks before one of them.

    Decoders take what is there of a file that was cut short for all of it. A missing end mark alone is no loss. What
    follows bytes that are no block is not looked at, as browsers do, except before the first frame.
    """
    count, at = 0, 13 + _color_table(data, 10)
    size = _two("<HH", data, 6) if len(data) >= 10 else (0, 0)
    first = (0, 0)
    blocks = row = 0
    while count < most and blocks <= most_blocks:
        if not count:
            found = _BLOCK.search(data, at)
            at = len(data) if found is None else found.start()
        if at >= len(data) or data[at] not in {0x21, 0x2C}:
            break
        is_frame = data[at] == 0x2C
        if is_frame and len(data) >= at + 9:
            left, top, width, height = struct.unpack_from("<4H", data, at + 1)
            size = max(size[0], left + width), max(size[1], top + height)
            first = first if count else (width, height)
        at += 11 + _color_table(data, at + 9) if is_frame else 2
        row += 1
        while at < len(data) and data[at] and row <= most_blocks:
            at += 1 + data[at]
            row += not is_frame
        blocks = max(blocks, row)
        if at >= len(data):
            return Gif(count, cut_short=True, size=size, first=first, blocks=blocks)
        count, row = count + is_frame, 0 if is_frame else row
        at += 1
    return Gif(count, cut_short=False, size=size, first=first, blocks=blocks)


def _color_table(data: bytes, at: int) -> int:
    """Bytes of the colour table that these flags announce."""
    flags = data[at] if at < len(data) else 0
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


class PngChunk(NamedTuple):
    """A chunk of a PNG."""

    name: bytes
    start: int
    """Where its length stands."""
    end: int
    """Behind its checksum."""

    @property
    def content(self) -> slice:
        """What lies between."""
        return slice(self.start + 8, self.end - 4)


def png_chunks(data: bytes, at: int = 0) -> Iterator[PngChunk]:
    """The chunks of the PNG that starts at `at`, to its end or to the first that is not all there."""
    unpack, at, end = struct.Struct(">I4s").unpack_from, at + 8, len(data)
    while at + 12 <= end:
        length, name = unpack(data, at)
        after = at + 12 + length
        if after > end:
            return
        yield PngChunk(name, at, after)
        if name == b"IEND":
            return
        at = after


def png_frames(data: bytes, most: int) -> tuple[int, bool]:
    """How many frames of an animated PNG begin, up to `most`, and whether the file is there to its end mark."""
    count = 0
    for found in png_chunks(data):
        count += found.name == b"fcTL"
        if count >= most or found.name == b"IEND":
            return count, found.name == b"IEND"
    return count, False


_PURPOSE = 254
_NO_PAGE = 1 | 4
"""Bits of a TIFF directory that is a smaller copy of another one, or a mask for it."""
_ENTRIES = 4096
"""Entries of a directory; programs write some dozens."""
_WIDTHS = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
"""Bytes of one value by its type."""


def tiff_pages(data: bytes, most: int) -> dict[int, int]:
    """The first `most` directories that are pages: the number of each among all, and where it starts.

    Where none is a page, the first of all; empty where none can be read.

    Raises:
        ValueError: One of them has far more entries, values, strips or tiles than there is room for.
    """
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    pages: dict[int, int] = {}
    seen: dict[int, None] = {}
    if order is None:
        return pages
    # of the two kinds of TIFF, how a number of entries, an entry and an address are written
    count, entry, address = ("Q", "HHQQ", "Q") if data[2:4] in {b"+\0", b"\0+"} else ("H", "HHII", "I")
    head, width = struct.calcsize(order + count), struct.calcsize(order + entry)
    try:
        (at,) = struct.unpack_from(order + address, data, 8 if count == "Q" else 4)
        # copies and masks lie beside pages: of a file of them alone, no more is looked at
        while at and at not in seen and len(pages) < most and len(seen) < 4 * most + 60:
            (number,) = struct.unpack_from(order + count, data, at)
            seen[at] = None
            if number > _ENTRIES:
                raise ValueError(f"a directory of {number} entries")
            wanted = data[at + head : at + head + width * number]
            entries = list(struct.iter_unpack(order + entry, wanted[: len(wanted) - len(wanted) % width]))
            said = {tag: (kind, many, value) for tag, kind, many, value in entries if tag in _SAID}
            _check_pieces(said, order, address)
            sizes = (_WIDTHS.get(kind, 0) * many for _, kind, many, _ in entries)
            if sum(size for size in sizes if size <= len(data)) > 2 * len(data) + _SHARED:  # larger ones are not read
                raise ValueError("more values than bytes")
            if not _number(said.get(_PURPOSE), order, address) & _NO_PAGE:
                pages[len(seen) - 1] = at
            (at,) = struct.unpack_from(order + address, data, at + head + width * number)
    except (struct.error, OverflowError):
        pass
    return pages or dict(enumerate(list(seen)[:1]))


_WIDTH, _HEIGHT, _SAMPLES, _PLANES, _STRIPS, _TILES = 256, 257, 277, 284, 273, 324
_SAID = frozenset({_PURPOSE, _WIDTH, _HEIGHT, _SAMPLES, _PLANES, _STRIPS, _TILES})
_FEW = 1000
_SHARED = 1 << 20
"""Bytes of values that may stand in for one another: some programs let equal ones share their place."""
_Entry = tuple[int, int, int]
"""Kind, how many, and the value or where the values stand."""


def _check_pieces(said: dict[int, _Entry], order: str, address: str) -> None:
    """Decoders make a list of all strips or tiles, also of those that lie outside."""
    width, height, samples, planes = (
        _number(said.get(tag), order, address) for tag in (_WIDTH, _HEIGHT, _SAMPLES, _PLANES)
    )
    room = height + (width // 16 + 1) * (height // 16 + 1)  # strips of one row, or the smallest tiles
    room *= min(samples, 8) if planes == 2 else 1
    pieces = max(said.get(tag, (0, 0, 0))[1] for tag in (_STRIPS, _TILES))
    if pieces > max(room, _FEW):
        raise ValueError(f"{pieces} strips or tiles for {width}×{height} pixels")


def _number(entry: _Entry | None, order: str, address: str) -> int:
    """A short or long value that stands in its entry; 0 for another."""
    if entry is None or entry[0] not in {3, 4}:
        return 0
    packed = struct.pack(order + address, entry[2])
    return int(struct.unpack_from(order + ("H" if entry[0] == 3 else "I"), packed)[0])


class JpegSegment(NamedTuple):
    """A segment before the first scan of a JPEG."""

    marker: int
    start: int
    """Where its marker stands."""
    end: int


class Jpeg(NamedTuple):
    """What stands before the first scan of a JPEG, and how many scans it has."""

    segments: list[JpegSegment]
    junk: int
    """Bytes between them that are none."""
    scans: int


_MARKER = re.compile(rb"\xff[^\x00\xff]", re.DOTALL)
_MARKER_IN_SCAN = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]", re.DOTALL)
_START_OF_SCAN, _END = 0xDA, 0xD9
_ALONE = {0x01, 0xD8, *range(0xD0, 0xD8)}
"""Markers without a length."""


def jpeg(data: bytes, *, segments: int, scans: int) -> Jpeg:
    """Look at no more than so many segments, and scans of pixels, of a file."""
    found: list[JpegSegment] = []
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
            if many > 1:
                continue
            # decoders end with the first where it holds all; else no more than these, which are found much faster
            if _holds_all(data, found, start) or data.count(b"\xff\xda", at) + 1 < scans:
                break
        elif not many:
            found.append(JpegSegment(marker, mark.start(), at))
    return Jpeg(found, junk, many)


def _holds_all(data: bytes, found: list[JpegSegment], scan: int) -> bool:
    """Whether a scan holds all components of a picture that is no progressive one."""
    frames = [part for part in found if part.marker in _ONE_BY_ONE]
    return len(frames) == 1 and data[scan + 2 : scan + 3] >= data[frames[0].start + 9 : frames[0].start + 10] != b""


_ONE_BY_ONE = {0xC0, 0xC1, 0xC9}
"""Headers of pictures that are not progressive."""


def announced_size(data: bytes, kind: str | None) -> tuple[int, int] | None:
    """Width and height, where the first bytes of this format say them; None where they do not."""
    head = data[:30].ljust(30, b"\0")
    match kind:
        case "PNG" if head[12:16] == b"IHDR":
            return _two(">II", head, 16)
        case "GIF":
            return _two("<HH", head, 6)
        case "QOI":
            return _two(">II", head, 4)
        case "BMP":
            width, height = _two("<HH", head, 18) if head[14] == 12 else _two("<ii", head, 18)
            return abs(width), abs(height)
        case "WebP":
            return _webp_size(head)
        case _:
            return None


def _two(kind: str, data: bytes, at: int) -> tuple[int, int]:
    first, second = struct.unpack_from(kind, data, at)
    return int(first), int(second)


def _webp_size(head: bytes) -> tuple[int, int] | None:
    match head[12:16]:
        case b"VP8X":
            return int.from_bytes(head[24:27], "little") + 1, int.from_bytes(head[27:30], "little") + 1
        case b"VP8L":
            bits = int.from_bytes(head[21:25], "little")
            return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        case b"VP8 ":
            return int.from_bytes(head[26:28], "little") & 0x3FFF, int.from_bytes(head[28:30], "little") & 0x3FFF
        case _:
            return None


def jpeg_2000_tiles(data: bytes) -> int:
    """How many tiles a JPEG 2000 picture announces; 0 where it says none."""
    at = data.find(b"\xff\x4f\xff\x51")
    if at < 0 or len(data) < at + 40:
        return 0
    width, height, left, top, across, down, tile_left, tile_top = struct.unpack_from(">8I", data, at + 8)
    if not across or not down or width <= left or height <= top:
        return 0
    columns, rows = -((tile_left - width) // across), -((tile_top - height) // down)
    return int(max(0, columns) * max(0, rows))


def webp_first(data: bytes) -> tuple[int, int] | None:
    """Width and height of the first frame of an animated WebP; None where there is none."""
    at = 12
    for _ in range(_MOST_BEFORE):
        if data[at : at + 4] == b"ANMF" and len(data) >= at + 20:
            width, height = (int.from_bytes(data[at + place : at + place + 3], "little") for place in (14, 17))
            return width + 1, height + 1
        length = int.from_bytes(data[at + 4 : at + 8], "little")
        at += 8 + length + length % 2
    return None


_MOST_BEFORE = 100
"""Chunks of a WebP before its first frame: three, and what nobody knows."""


def icon_pixels(data: bytes) -> int:
    """Pixels of the largest picture in an ICO file, as the pictures themselves say, not the directory; 0 for none.

    Raises:
        ValueError: It announces more pictures than any icon has, or a PNG in it is none.
    """
    count = int.from_bytes(data[4:6], "little")
    if count > _MOST_ICONS:
        raise ValueError(f"it announces {count} pictures")
    most = 0
    for entry in range(6, min(6 + 16 * count, len(data) - 15), 16):
        at = int.from_bytes(data[entry + 12 : entry + 16], "little")
        if data[at : at + 8] == b"\x89PNG\r\n\x1a\n" and len(data) >= at + 24:
            most = max(most, _png_pixels(data, at))
        elif len(data) >= at + 12:  # a bitmap, its mask below it
            width, height = struct.unpack_from("<ii", data, at + 4)
            most = max(most, abs(width * (height // 2)))
    return most


_MOST_ICONS = 1024


def _png_pixels(data: bytes, at: int) -> int:
    """By its one header: of several, decoders take the last."""
    if data[at + 12 : at + 16] != b"IHDR":
        raise ValueError("a PNG in it does not begin with its header")
    width, height = struct.unpack_from(">II", data, at + 16)
    for number, chunk in enumerate(png_chunks(data, at)):
        if number > 0 and chunk.name == b"IHDR":
            raise ValueError("a PNG in it has two headers")
        if number > _MOST_IN_ICON:
            raise ValueError(f"a PNG in it has more than {_MOST_IN_ICON} chunks before its pixels")
        if chunk.name == b"IDAT":
            break
    return int(width * height)


_MOST_IN_ICON = 60
