"""The XMP packet of a picture: what no longer holds is cut out of its text, and the rest stays byte for byte.

Extensible Metadata Platform, ISO 16684-1.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING
from xml.parsers import expat

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["strip"]

_TIFF, _EXIF = "http://ns.adobe.com/tiff/1.0/", "http://ns.adobe.com/exif/1.0/"
# Sizes and the orientation of the old file; small pictures that still show the background; the rest of a packet that
# was too long for its JPEG, which is not read.
_STALE = frozenset(
    {(_TIFF, name) for name in ("Orientation", "ImageWidth", "ImageLength")}
    | {(_EXIF, name) for name in ("PixelXDimension", "PixelYDimension")}
    | {("http://ns.adobe.com/xap/1.0/", "Thumbnails"), ("http://ns.adobe.com/xmp/note/", "HasExtendedXMP")}
)
_MOST = 4 << 20
"""Bytes of a packet: the largest that cameras and programs write hold small pictures, or long histories."""
_MOST_PARTS = 200_000
"""Elements and attributes: each takes some microseconds."""


@lru_cache(maxsize=2)  # all frames of an animation have the same
def strip(packet: bytes, *, place: bool = True) -> bytes:
    """The packet (UTF-8) without what no longer holds, such as the orientation and thumbnails.

    Without `place`, whatever is named like one goes, in any namespace, and comments do.

    Raises:
        ValueError: It is not well-formed, or none that a camera or a program for pictures writes.
    """
    packet = packet.rstrip(b"\0 ")
    if len(packet) > _MOST:
        raise ValueError(f"it has {len(packet) / 1e6:.0f} MB")
    finder = _Finder(packet, place=place)
    parts, at = [], 0
    for start, end in sorted(finder.cuts):
        if start >= at:
            parts.append(packet[at:start])
            at = end
    cleaned = b"".join((*parts, packet[at:]))
    if not place and finder.found:  # a promise is proved
        try:
            found = _Finder(cleaned, place=False).found
        except ValueError as error:
            raise ValueError(f"places could not be taken out of it: {error}") from error
        if found:
            raise ValueError("places could not be taken out of it")
    return cleaned


class _Finder:
    """Where in the packet the elements and attributes stand that are to go."""

    def __init__(self, packet: bytes, *, place: bool) -> None:
        self.packet = packet
        self._is_place: Callable[[str, str], bool] | None = None
        self.cuts: list[tuple[int, int]] = []
        self.found = 0  # of what is to go
        self._depth = 0
        self._parts = 0
        self._open: tuple[int, int] | None = None  # depth and start of an element that goes
        self._parser = expat.ParserCreate("utf-8", namespace_separator="\n")
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        self._parser.StartDoctypeDeclHandler = self._refuse
        if not place:
            from cutout.formats.metadata.places import is_place

            self._is_place = is_place
            self._parser.CommentHandler = lambda _text: self._remark(b"-->")
            self._parser.ProcessingInstructionHandler = lambda name, _text: self._remark(b"?>", name)
        self.parse()

    def parse(self) -> None:
        """Fill `cuts`."""
        try:
            self._parser.Parse(self.packet, True)  # noqa: FBT003 - takes it by place only
        except (expat.ExpatError, LookupError) as error:
            raise ValueError(str(error)) from error

    @staticmethod
    def _refuse(*_: object) -> None:
        raise ValueError("it declares a document type")

    def _goes(self, name: str) -> bool:
        space, _, local = name.rpartition("\n")
        goes = (space, local) in _STALE or (self._is_place is not None and self._is_place(space, local))
        self.found += goes
        return goes

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        self._depth += 1
        self._parts += 1 + len(attributes)
        if self._parts > _MOST_PARTS:
            raise ValueError(f"it has more than {_MOST_PARTS} elements and attributes")
        if self._open is not None:
            return
        start = self._parser.CurrentByteIndex
        end = self._tag_end(start)
        if not self._goes(name):
            if any(map(self._goes, attributes)):
                self._cut_attributes(list(attributes), start, end)
        elif self.packet.endswith(b"/>", start, end):
            self.cuts.append((start, end))
        else:
            self._open = (self._depth, start)

    def _remark(self, end: bytes, name: str = "") -> None:
        """A comment or an instruction, which may say anything; a packet's own first and last line stay."""
        if name == "xpacket":
            return
        self.found += 1
        start = self._parser.CurrentByteIndex
        self.cuts.append((start, self.packet.index(end, start) + len(end)))

    def _end(self, _name: str) -> None:
        if self._open is not None and self._open[0] == self._depth:
            self.cuts.append((self._open[1], self._tag_end(self._parser.CurrentByteIndex)))
            self._open = None
        self._depth -= 1

    def _cut_attributes(self, names: list[str], start: int, end: int) -> None:
        """Those of a tag that go: `names` are in the order of its text, without declarations of namespaces."""
        found = [part for part in _ATTRIBUTE.finditer(self.packet, start, end) if not _DECLARATION.fullmatch(part[1])]
        for name, part in zip(names, found, strict=True):
            if self._goes(name):
                self.cuts.append(part.span())

    def _tag_end(self, start: int) -> int:
        """Just behind the `>` of the tag that starts here; one may stand inside a quoted value."""
        found = _TAG.match(self.packet, start)
        return len(self.packet) if found is None else found.end()


_TAG = re.compile(rb"<(?:[^\"'>]++|\"[^\"]*+\"|'[^']*+')*+>")
_ATTRIBUTE = re.compile(rb"\s([^\s=<>\"'/]++)\s*+=\s*+(?:\"[^\"]*+\"|'[^']*+')")
_DECLARATION = re.compile(rb"xmlns(?::.*)?", re.DOTALL)
