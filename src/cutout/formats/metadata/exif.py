"""The EXIF block (a small TIFF file inside a picture): read, changed and written, with every value kept as its bytes.

Exchangeable image file format, CIPA DC-008. Values are never interpreted, so texts in any encoding survive.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

__all__ = ["Exif", "Tag", "build", "is_crowded", "parse", "reorder"]

_WIDTHS = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
"""Bytes of one value by its type."""
_EXIF, _GPS, _INTEROP = 0x8769, 0x8825, 0xA005
_ORIENTATION, _WIDTH, _HEIGHT = 0x0112, 0xA002, 0xA003
_IPTC, _PRINT = 0x83BB, 0xC4A5
_POINTERS = {_EXIF, _GPS, _INTEROP}
# What the main directory may say of a picture whatever file it is stored in. All else describes how the pixels of the
# old file lay (strips, layers, previews, a profile), or is the maker's business with its own files.
_DESCRIPTIVE = frozenset(
    {0x010D, 0x010E, 0x010F, 0x0110, 0x0112, 0x011A, 0x011B, 0x0128, 0x0131, 0x0132, 0x013B, 0x013C, 0x0213}
    | {0x4746, 0x4749, 0x8298, 0x83BB, 0xC4A5, _EXIF, _GPS}
    | set(range(0x9C9B, 0x9CA0))
)
_MOST = 4 << 20
"""Bytes of values that are read from one block: entries may all point to the same ones."""


_MOST_ENTRIES = 4096
"""That are read from one block: cameras write some hundred."""


class Tag(NamedTuple):
    """One value as it stands in the file."""

    kind: int
    """The type, 1–13: byte, text, short, long, rational, ..."""
    number: int
    """How many values."""
    data: bytes


Directory = dict[int, Tag]
_NONE: Directory = {}


class Exif(NamedTuple):
    """The directories of a block, by tag; empty where there is none."""

    order: str = "<"
    """`<` or `>`, the byte order of all values."""
    main: Directory = _NONE
    """What describes the picture (IFD0), without pointers; thumbnails (IFD1) are not read."""
    exif: Directory = _NONE
    """How it was taken."""
    gps: Directory = _NONE
    """Where."""
    interop: Directory = _NONE
    """Which file-name rules it follows."""
    damaged: bool = False
    """Values were left out because they lie outside the block."""

    def __bool__(self) -> bool:
        return bool(self.main or self.exif or self.gps)

    @property
    def tells(self) -> bool:
        """It says more than how the pixels lie and how large they are to be printed."""
        return bool(self.exif or self.gps or set(self.main) - {_ORIENTATION, 0x011A, 0x011B, 0x0128, 0x0213})

    def upright(self) -> Exif:
        """The same, for pixels that lie as they are to be seen."""
        if _ORIENTATION not in self.main:
            return self
        return self._replace(main=self.main | {_ORIENTATION: Tag(3, 1, struct.pack(self.order + "H", 1))})

    def without_orientation(self) -> Exif:
        """The same without a word about how the pixels lie, which means upright too."""
        return self._replace(main={tag: entry for tag, entry in self.main.items() if tag != _ORIENTATION})

    def sized(self, width: int, height: int) -> Exif:
        """The same, for a picture of this size, where it says one."""
        sizes = {_WIDTH: width, _HEIGHT: height}
        new = {tag: Tag(4, 1, struct.pack(self.order + "I", size)) for tag, size in sizes.items() if tag in self.exif}
        return self._replace(exif=self.exif | new)

    def without_place(self) -> tuple[Exif, tuple[str, ...]]:
        """The same without the GPS directory, IPTC's places and what may hold one unseen; and warnings."""
        from cutout.formats.metadata.places import PLAIN_TAGS, without_places

        main = {tag: entry for tag, entry in self.main.items() if tag not in {_IPTC, _PRINT}}
        notes: tuple[str, ...] = ()
        if _IPTC in self.main:
            try:
                if records := without_places(self.main[_IPTC].data):
                    main[_IPTC] = Tag(7, len(records), records)
            except ValueError as error:
                notes = (f"the IPTC records may hold a place and were left out: {error}",)
        exif = {tag: entry for tag, entry in self.exif.items() if tag in PLAIN_TAGS}
        interop = {tag: entry for tag, entry in self.interop.items() if len(entry.data) <= 4}  # no coordinate
        return self._replace(main=main, exif=exif, gps={}, interop=interop), notes


def parse(block: bytes, *, directory: int | None = None) -> Exif:
    """Read a block, or one directory of a TIFF file.

    Args:
        block: From its byte order on; a leading `Exif` mark is skipped.
        directory: Where the directory starts; None takes the first.

    Raises:
        ValueError: It is no such block, or its directory lies outside.
    """
    if block[:6] == b"Exif\0\0":
        block = block[6:]
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(block[:4])
    if order is None:
        raise ValueError("no byte order at its start")
    try:
        start = struct.unpack_from(order + "I", block, 4)[0] if directory is None else directory
        reader = _Reader(block, order)
        main = reader.read(start)
    except struct.error as error:
        raise ValueError("its directory lies outside") from error
    exif = reader.child(main, _EXIF)
    found = Exif(
        order=order,
        main={tag: entry for tag, entry in main.items() if tag in _DESCRIPTIVE and tag not in _POINTERS},
        gps=reader.child(main, _GPS),
        interop=reader.child(exif, _INTEROP),
        exif={tag: entry for tag, entry in exif.items() if tag not in _POINTERS},
        damaged=reader.damaged,
    )
    if not found:
        raise ValueError("nothing in it can be read")
    return found


def is_crowded(block: bytes) -> bool:
    """Whether the main directory of a block has more entries than are read here: other readers are not to see it."""
    start = 6 if block[:6] == b"Exif\0\0" else 0
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(block[start : start + 4])
    try:
        (at,) = struct.unpack_from((order or "<") + "I", block, start + 4)
        (count,) = struct.unpack_from((order or "<") + "H", block, start + at)
    except struct.error:
        return False
    return order is not None and int(count) > _MOST_ENTRIES


class _Reader:
    def __init__(self, block: bytes, order: str) -> None:
        self.block, self.order = block, order
        self.damaged = False
        self._left = _MOST
        self._entries = _MOST_ENTRIES

    def read(self, start: int) -> Directory:
        found: Directory = {}
        (count,) = struct.unpack_from(self.order + "H", self.block, start)
        for at in range(start + 2, start + 2 + 12 * count, 12):
            if at + 12 > len(self.block) or self._entries == 0:
                self.damaged = True
                break
            self._entries -= 1
            tag, kind, number = struct.unpack_from(self.order + "HHI", self.block, at)
            length = _WIDTHS.get(kind, 0) * number
            place = at + 8
            if length > 4:
                (place,) = struct.unpack_from(self.order + "I", self.block, at + 8)
            self._left -= length
            if not length or place + length > len(self.block) or self._left < 0:
                self.damaged |= kind in _WIDTHS and number > 0
                continue
            found[tag] = Tag(kind, number, self.block[place : place + length])
        return found

    def child(self, parent: Directory, tag: int) -> Directory:
        entry = parent.get(tag)
        if entry is None:
            return {}
        try:
            return self.read(struct.unpack(self.order + "I", entry.data)[0])
        except struct.error:
            self.damaged = True
            return {}


def build(exif: Exif, *, base: int | None = None) -> bytes:
    """The block of these directories, thumbnail left out; directories and values follow one another at even addresses.

    With `base` it has no header: directories for a file in which they start at this even address, the main one first.
    """
    out, start = bytearray(), 8 if base is None else base

    def append(data: bytes) -> int:
        at = start + len(out)
        out.extend(data + bytes(len(data) % 2))
        return at

    def put(directory: Directory, children: list[_Child]) -> int:
        """Write a directory and those it points to; gives its address."""
        below = {tag: child for tag, child in children if child[0] or any(inner[0] for _, inner in child[1])}
        entries = directory | {tag: Tag(4, 1, b"") for tag in below}
        at = append(bytes(2 + 12 * len(entries) + 4))
        table = struct.pack(exif.order + "H", len(entries))
        for tag, entry in sorted(entries.items()):
            value = struct.pack(exif.order + "I", put(*below[tag])) if tag in below else entry.data
            if len(value) > 4:
                value = struct.pack(exif.order + "I", append(value))
            table += struct.pack(exif.order + "HHI", tag, entry.kind, entry.number) + value.ljust(4, b"\0")
        out[at - start : at - start + len(table)] = table
        return at

    first = put(exif.main, [(_EXIF, (exif.exif, [(_INTEROP, (exif.interop, []))])), (_GPS, (exif.gps, []))])
    head = (b"II*\0" if exif.order == "<" else b"MM\0*") + struct.pack(exif.order + "I", first)
    return bytes(out) if base is not None else head + bytes(out)


_Child = tuple[int, tuple[Directory, list["_Child"]]]
"""The tag that points to a directory, the directory, and its own children."""


def reorder(directory: Directory, order: str, wanted: str) -> Directory:
    """The same values in the other byte order."""
    if order == wanted:
        return directory
    return {tag: entry._replace(data=_swapped(entry)) for tag, entry in directory.items()}


def _swapped(entry: Tag) -> bytes:
    width = {5: 4, 10: 4}.get(entry.kind, _WIDTHS[entry.kind])  # a rational is two numbers
    return b"".join(entry.data[i : i + width][::-1] for i in range(0, len(entry.data), width))
