"""What of a picture's metadata says a place: names in XMP, tags in EXIF, records in IPTC.

XMP's names are judged by their words, whatever namespace they are in: City is a place in Photoshop's, in IPTC's and in
that of a program nobody here knows. Where it cannot be told whether a thing holds a place, it counts as one. Captions
and keywords are what somebody wrote, and stay.

IPTC-IIM 4.2; IPTC Photo Metadata Standard 2024.1; CIPA DC-008 for EXIF.
"""

from __future__ import annotations

import re
import struct

__all__ = ["PLAIN_TAGS", "is_place", "without_places"]

_PARTS = re.compile(
    # the last two hold what only their maker can read
    r"gps|latitude|longt?itude|altitude|country|province|location|locality|municipality|coordinate|postal"
    r"|geo(?:tag|cod|graph|hash)|w(?:hat)?3words|maker_?note|shot_?log",
    re.IGNORECASE,
)
_WORDS = re.compile(
    r"adr|address|city|continent|county|district|geo|islands?|landmark|neighborhood|place|street|suburb|town|venue|village",
    re.IGNORECASE,
)
_NAMES = re.compile(r"coverage|lat|lng|lon|long|places|spatial|state|worldregion|licensorregion", re.IGNORECASE)
_SPACES = re.compile(r"w3\.org/2003/01/geo|georss|opengis|/cell/|tdwg\.org/dwc")
# pictures inside the packet, with metadata of their own
_PICTURES = re.compile(r"^(?:https?://ns\.google\.com/photos/.*\n[Dd]ata|.*/xap/1\.0/g/img/\nimage)$")
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")

PLAIN_TAGS = frozenset(
    {0x829A, 0x829D, *range(0x8822, 0x8825), *range(0x8826, 0x8836), *range(0x9000, 0x927C), *range(0x9286, 0x9406)}
    | {*range(0xA000, 0xA005), *range(0xA20B, 0xA21D), *range(0xA300, 0xA502)}
)
"""Tags of the EXIF directory of which the standard says what they hold, and that it is no place; no maker's note."""

_RECORDS = {1, 2, 3}
"""Of IPTC: envelope, application, photograph. Others belong to one program each."""
_PLACES = {26, 27, 90, 92, 95, 100, 101, 200, 201, 202}
"""Of the application record: content location, city, sub-location, province or state, country; a smaller picture."""


def is_place(space: str, local: str) -> bool:
    """Whether an XMP property, by its namespace's URI and its name there, says a place or may hold one unseen."""
    return (
        _NAMES.fullmatch(local) is not None
        or _PARTS.search(local) is not None
        or _SPACES.search(space) is not None
        or _PICTURES.match(f"{space}\n{local}") is not None
        or any(map(_WORDS.fullmatch, _WORD.findall(local)))
    )


def without_places(records: bytes) -> bytes:
    """IPTC-IIM data sets without those that say a place; the others stay byte for byte.

    Raises:
        ValueError: They cannot be read to their end.
    """
    kept, at = [], 0
    while records[at : at + 1] == b"\x1c":
        start, at = at, at + 5
        if at > len(records):
            raise ValueError("a data set is cut short")
        record, number, length = struct.unpack_from(">BBH", records, start + 1)
        if length & 0x8000:  # the length of the length
            at += length & 0x7FFF
            length = int.from_bytes(records[start + 5 : at][:8], "big") if at - start <= 13 else len(records)
        at += length
        if at > len(records):
            raise ValueError("a data set is cut short")
        if record in _RECORDS and not (record == 2 and number in _PLACES):
            kept.append(records[start:at])
    if records[at:].strip(b"\0"):
        raise ValueError("they hold something else")
    return b"".join(kept)
