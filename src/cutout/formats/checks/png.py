"""The structure of a PNG: its chunks, its frames, and the texts and profiles that Pillow would not take."""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING, Any, NamedTuple

from cutout.errors import PictureError
from cutout.formats.checks.preflight import COPY, CheckedFile, check_size, implausible, without

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Chunk", "check", "png_chunks", "png_frames"]

_MOST_INFLATED = 1032
"""Bytes that one packed byte can become at most, by how deflate is built."""
_CHANNELS = {2: 3, 4: 2, 6: 4}
"""By colour type, where they are more than one."""
_CHUNKS = 1_000_000
"""Most programs write the pixels in chunks of 8 kB or more."""
_LOOSE, _LOOSE_BYTES = 1000, 16 << 20
"""Chunks of texts and the like that are left to Pillow, which keeps them all."""
_PACKED = 900
"""Bytes that cannot become Pillow's limit for a packed chunk, one megabyte."""
_PILLOWS = 1 << 20
_TEXTS = frozenset({b"tEXt", b"zTXt", b"iTXt"})
_NEEDED = frozenset(
    {b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"gAMA", b"cHRM", b"sRGB", b"pHYs", b"eXIf"}
    | {b"acTL", b"fcTL", b"fdAT"}
)
_XMP, _RAW_EXIF, _TEXT_EXIF = b"XML:com.adobe.xmp", b"Raw profile type exif", b"exif"
_KEPT: dict[bytes, tuple[str, str, int]] = {
    b"iCCP": ("icc_profile", "colour profile", 16 << 20),
    _XMP: ("xmp", "XMP packet", 4 << 20),
    _RAW_EXIF: ("Raw profile type exif", "EXIF block", 8 << 20),
    _TEXT_EXIF: ("exif", "EXIF block", 4 << 20),
}
"""What counts: the name that Pillow gives it, ours, and how many bytes of it are read."""


class Chunk(NamedTuple):
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


def png_chunks(data: bytes, at: int = 0) -> Iterator[Chunk]:
    """The chunks of the PNG that starts at `at`, to its end or to the first that is not all there."""
    unpack, at, end = struct.Struct(">I4s").unpack_from, at + 8, len(data)
    while at + 12 <= end:
        length, name = unpack(data, at)
        after = at + 12 + length
        if after > end:
            return
        yield Chunk(name, at, after)
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


def check(data: bytes, max_pixels: int) -> CheckedFile:
    """A PNG as its decoder gets it: Pillow takes one for broken when a text or a profile has more than a megabyte.

    Of the texts, only those that hold metadata are of use here: where there are many or large ones, the others go.

    Raises:
        PictureError: No program writes such a file, it is cut short, or it has too many pixels.
    """
    if data[12:16] == b"IHDR" and len(data) >= 26:
        width, height, depth, color = struct.unpack_from(">IIBB", data, 16)
        check_size((width, height), max_pixels)
        # Pillow takes rows that are missing for black ones
        if (width * depth * _CHANNELS.get(color, 1) + 7) // 8 * height > len(data) * _MOST_INFLATED:
            text = f"the PNG file is cut short: its {len(data)} bytes cannot hold {width}×{height} pixels"
            raise PictureError(text, hint=COPY)
    loose = texts = 0
    heavy = False
    for number, chunk in enumerate(png_chunks(data)):
        if number == _CHUNKS:
            raise implausible("PNG", f"more than {_CHUNKS} chunks")
        if chunk.name not in _NEEDED:
            loose += 1
            length = chunk.end - chunk.start - 12
            texts += length
            heavy |= length > _PACKED and (chunk.name in {b"iCCP", b"zTXt"} or _is_packed_text(data, chunk))
    return _lightened(data) if heavy or loose > _LOOSE or texts > _LOOSE_BYTES else CheckedFile(data)


def _is_packed_text(data: bytes, chunk: Chunk) -> bool:
    """Whether it is an iTXt chunk that is packed."""
    if chunk.name != b"iTXt":
        return False
    key_end = data.find(b"\0", chunk.start + 8, chunk.start + 90)
    return key_end >= 0 and data[key_end + 1 : key_end + 2] != b"\0"


def _lightened(data: bytes) -> CheckedFile:
    """Without the texts that nobody asks for, and with what does not fit Pillow's limit beside it."""
    cuts: list[tuple[int, int]] = []
    last: dict[bytes, Chunk] = {}
    for chunk in png_chunks(data):
        if chunk.name in _NEEDED:
            continue
        key = _key(data, chunk)
        if key in _KEPT:
            if key in last:
                cuts.append((last[key].start, last[key].end))
            last[key] = chunk
        else:
            cuts.append((chunk.start, chunk.end))
    info: dict[str, Any] = {}
    notes = []
    for key, chunk in last.items():
        name, ours, most = _KEPT[key]
        value, packed = _value(data[chunk.content], chunk.name, most) or (b"", False)
        if len(value) <= (_PILLOWS if packed else most):
            continue  # Pillow reads it
        cuts.append((chunk.start, chunk.end))
        if len(value) > most:
            notes.append(f"the {ours} of more than {most >> 20} MB was left out")
        else:
            info[name] = value
    return CheckedFile(without(data, sorted(cuts)) if cuts else data, info=info, notes=tuple(notes))


def _key(data: bytes, chunk: Chunk) -> bytes:
    """By what a chunk is known: a text by its keyword."""
    if chunk.name not in _TEXTS:
        return chunk.name
    end = data.find(b"\0", chunk.start + 8, min(chunk.start + 90, chunk.end - 4))
    key = data[chunk.start + 8 : end] if end >= 0 else b""
    right = {_XMP: (b"iTXt",), _TEXT_EXIF: (b"tEXt",)}.get(key, (b"tEXt", b"zTXt"))
    return key if chunk.name in right else b""


def _value(content: bytes, kind: bytes, most: int) -> tuple[bytes, bool] | None:
    """What a profile or text holds, up to one byte beyond `most`, and whether it was packed; None for what is none."""
    _, found, rest = content.partition(b"\0")
    packed = kind in {b"iCCP", b"zTXt"}
    if kind == b"iTXt":
        packed, rest = rest[:1] != b"\0", rest[1:]
    if packed and rest[:1] != b"\0":  # the one method there is
        return None
    if kind == b"iTXt":  # language and translated keyword
        _, _, rest = rest[1:].partition(b"\0")
        _, found, rest = rest.partition(b"\0")
    elif packed:
        rest = rest[1:]
    if not found:
        return None
    try:
        return (zlib.decompressobj().decompress(rest, most + 1) if packed else rest[: most + 1]), packed
    except zlib.error:
        return None
