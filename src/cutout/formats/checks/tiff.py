"""The structure of a TIFF file: its pages, and what no program writes there."""

from __future__ import annotations

import struct
from typing import NamedTuple

from cutout.formats.checks.preflight import implausible

__all__ = ["Page", "find_pages"]


class Page(NamedTuple):
    """A directory of a TIFF file that is a picture to be seen."""

    at: int
    """Where it starts."""
    size: tuple[int, int]
    """Width and height, as it says them."""


_WIDTH, _HEIGHT, _SAMPLES, _PLANES, _STRIPS, _TILES = 256, 257, 277, 284, 273, 324
_PURPOSE = 254
_NO_PAGE = 1 | 4
"""Bits of a TIFF directory that is a smaller copy of another one, or a mask for it."""
_ENTRIES = 4096
"""Entries of a directory; programs write some dozens."""
_WIDTHS = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
"""Bytes of one value by its type."""
_SAID = frozenset({_PURPOSE, _WIDTH, _HEIGHT, _SAMPLES, _PLANES, _STRIPS, _TILES})
_FEW = 1000
_SHARED = 1 << 20
"""Bytes of values that may stand in for one another: some programs let equal ones share their place."""
_Entry = tuple[int, int, int]
"""Kind, how many, and the value or where the values stand."""


def find_pages(data: bytes, most: int) -> dict[int, Page]:
    """The first `most` pages of a TIFF file, by their numbers among all directories.

    Where none is a page, the first of all; empty where none can be read.

    Raises:
        PictureError: One of them has far more entries, values, strips or tiles than there is room for.
    """
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    pages: dict[int, Page] = {}
    seen: dict[int, Page] = {}
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
            if number > _ENTRIES:
                raise implausible("TIFF", f"a directory of {number} entries")
            wanted = data[at + head : at + head + width * number]
            entries = list(struct.iter_unpack(order + entry, wanted[: len(wanted) - len(wanted) % width]))
            said = {tag: (kind, many, value) for tag, kind, many, value in entries if tag in _SAID}
            page = Page(at, _check_pieces(said, order, address))
            seen[at] = page
            sizes = (_WIDTHS.get(kind, 0) * many for _, kind, many, _ in entries)
            if sum(size for size in sizes if size <= len(data)) > 2 * len(data) + _SHARED:  # larger ones are not read
                raise implausible("TIFF", "more values than bytes")
            if not _number(said.get(_PURPOSE), order, address) & _NO_PAGE:
                pages[len(seen) - 1] = page
            (at,) = struct.unpack_from(order + address, data, at + head + width * number)
    except (struct.error, OverflowError):
        pass
    return pages or dict(enumerate(list(seen.values())[:1]))


def _check_pieces(said: dict[int, _Entry], order: str, address: str) -> tuple[int, int]:
    """Decoders make a list of all strips or tiles, also of those that lie outside; gives width and height."""
    width, height, samples, planes = (
        _number(said.get(tag), order, address) for tag in (_WIDTH, _HEIGHT, _SAMPLES, _PLANES)
    )
    room = height + (width // 16 + 1) * (height // 16 + 1)  # strips of one row, or the smallest tiles
    room *= min(samples, 8) if planes == 2 else 1
    pieces = max(said.get(tag, (0, 0, 0))[1] for tag in (_STRIPS, _TILES))
    if pieces > max(room, _FEW):
        raise implausible("TIFF", f"{pieces} strips or tiles for {width}×{height} pixels")
    return width, height


def _number(entry: _Entry | None, order: str, address: str) -> int:
    """A short or long value that stands in its entry; 0 for another."""
    if entry is None or entry[0] not in {3, 4}:
        return 0
    packed = struct.pack(order + address, entry[2])
    return int(struct.unpack_from(order + ("H" if entry[0] == 3 else "I"), packed)[0])
