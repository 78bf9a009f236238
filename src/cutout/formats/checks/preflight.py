"""What a file's structure forbids before a decoder opens it, and what decoders would not survive taken out of it.

Decoders believe what a file announces and walk through all that it holds: most of them allocate, or take time by the
square of a count, before anybody can ask them for a size.
"""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass, field
from typing import Any

from cutout.errors import PictureError
from cutout.formats.checks.structure import (
    PngChunk,
    announced_size,
    gif,
    icon_pixels,
    jpeg,
    jpeg_2000_tiles,
    png_chunks,
    tiff_pages,
    webp_first,
)
from cutout.formats.metadata.exif import is_crowded

__all__ = [
    "MOST_BLOCKS",
    "Prepared",
    "TooLargeError",
    "check_gif",
    "check_icon",
    "check_size",
    "find_pages",
    "prepare",
    "too_large",
]

_COPY = "copy it again from where it came from"
_SAVE_ANEW = "open it in another program and save it anew"


class TooLargeError(PictureError):
    """The picture has more pixels than are allowed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    """A file as a decoder gets it.

    Attributes:
        data: The file's bytes, without what was taken out.
        info: What was taken out and still counts, by the names that Pillow gives it.
        notes: What was left out.
    """

    data: bytes
    info: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def prepare(data: bytes, kind: str | None, max_pixels: int) -> Prepared:
    """Check a file as far as its first frame, of the format that `sniff` found.

    Raises:
        TooLargeError: It announces more pixels than are allowed.
        PictureError: No program writes such a file, or its first frame is cut short.
    """
    if size := announced_size(data, kind):
        check_size(size, max_pixels)
    match kind:
        case "ICO":
            check_icon(data)
        case "GIF":
            check_gif(data, 1, max_pixels)
        case "WebP" if size and (first := webp_first(data)):
            _check_screen(size, first)
        case "TIFF":
            find_pages(data, 1)
        case "JPEG 2000" if jpeg_2000_tiles(data) * _TILE_BYTES > len(data):
            raise PictureError("the JPEG 2000 file is cut short: most of its tiles are missing", hint=_COPY)
        case "JPEG":
            return _jpeg(data, max_pixels)
        case "PNG":
            _check_png_size(data, size or (0, 0))
            return _png(data)
        case "PPM" | None if data[:1] == b"P":  # what stands in the header may be beyond what `sniff` looks at
            _check_ppm(data)
    return Prepared(data=data)


def check_size(size: tuple[int, int], max_pixels: int) -> None:
    """Refuse a picture of more pixels.

    Raises:
        TooLargeError: It is.
    """
    width, height = size
    if width * height > max_pixels:
        raise too_large(f"{width}×{height} = {width * height / 1e6:.0f} megapixels", max_pixels)


def too_large(pixels: str, max_pixels: int) -> TooLargeError:
    """The error that a picture has so many pixels."""
    return TooLargeError(
        f"the picture has {pixels}, more than the limit of {max_pixels / 1e6:.0f}",
        hint="if it is what it should be, raise max_pixels",
        options=("max_pixels",),
    )


def find_pages(data: bytes, most: int) -> dict[int, int]:
    """The first `most` pages of a TIFF file, as `structure.tiff_pages` gives them.

    Raises:
        PictureError: No program writes such a page.
    """
    try:
        return tiff_pages(data, most)
    except ValueError as error:
        raise PictureError(f"the TIFF file has {error}: no program writes that", hint=_SAVE_ANEW) from error


def check_gif(data: bytes, most: int, max_pixels: int) -> int:
    """Refuse a GIF whose first `most` frames are not all there, or one of them is too large; gives how many there are.

    Raises:
        TooLargeError: They have more pixels than are allowed.
        PictureError: One of them is cut short.
    """
    found = gif(data, most, most_blocks=MOST_BLOCKS)
    check_size(found.size, max_pixels)
    _check_screen(found.size, found.first)
    if found.blocks > MOST_BLOCKS:
        raise PictureError(
            f"the GIF file has more than {MOST_BLOCKS} blocks before a frame: no program writes that", hint=_SAVE_ANEW
        )
    if found.cut_short:
        raise PictureError(
            f"the GIF file is cut short in its frame {found.frames + 1}",
            hint=_COPY + "; first_frame takes the first alone" * (found.frames > 0),
            options=("first_frame",),
        )
    return found.frames


_TILE_BYTES = 14
"""That a tile of a JPEG 2000 picture takes at least: its two marks."""
MOST_BLOCKS = 200_000
"""Pillow reads them one by one; profiles and packets of a megabyte take some thousand."""


def _check_screen(size: tuple[int, int], first: tuple[int, int]) -> None:
    """Refuse an animation whose first frame is lost in it: all of it is allocated, several times."""
    if size[0] * size[1] > max(_LARGEST_SCREEN, _LOST * first[0] * first[1]):
        raise PictureError(
            f"the animation has {size[0]}×{size[1]} pixels, but its first frame {first[0]}×{first[1]}: "
            "no program writes that",
            hint=_SAVE_ANEW,
        )


_LARGEST_SCREEN, _LOST = 4096 * 4096, 16
_LARGEST_ICON = 4096 * 4096
"""Pixels; icons that programs make have 256 × 256, at most 1024 × 1024."""


def check_icon(data: bytes) -> int:
    """Pixels of the largest picture in an icon, which Pillow decodes while it opens the file.

    Raises:
        PictureError: They are more than any icon has, or the file is broken.
    """
    try:
        pixels = icon_pixels(data)
    except ValueError as error:
        raise PictureError(f"the ICO file is broken: {error}", hint=_SAVE_ANEW) from error
    if pixels > _LARGEST_ICON:
        raise PictureError(
            f"the icon holds a picture of {pixels / 1e6:.0f} megapixels, too large to be trusted",
            hint="take the picture that the icon was made from",
        )
    return pixels


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
_APP1, _DQT = 0xE1, 0xDB
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}


def _jpeg(data: bytes, max_pixels: int) -> Prepared:
    found = jpeg(data, segments=_SEGMENTS + 1, scans=_SCANS + 1)
    tables = sum(part.end - part.start for part in found.segments if part.marker == _DQT)
    headers = [part.start for part in found.segments if part.marker in _FRAMES]
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
            raise PictureError(f"the JPEG file has {text}: no camera or program writes that", hint=_SAVE_ANEW)
    exif = [
        part for part in found.segments if part.marker == _APP1 and data[part.start + 4 : part.start + 10] == _EXIF_NAME
    ]
    size = sum(part.end - part.start for part in exif)
    crowded = bool(exif) and is_crowded(data[exif[0].start + 4 : exif[0].end])
    if len(exif) <= _EXIF_SEGMENTS and size <= _EXIF_BYTES and not crowded:
        return Prepared(data=data)
    note = f"the EXIF block of {size / 1e6:.1f} MB in {len(exif)} pieces was left out: it is larger than any other"
    return Prepared(data=_without(data, [(part.start, part.end) for part in exif]), notes=(note,))


_EXIF_NAME = b"Exif\0\0"


def _without(data: bytes, cuts: list[tuple[int, int]]) -> bytes:
    """The same without these pieces, which are in order."""
    parts, at = [], 0
    for start, end in cuts:
        if start > at:
            parts.append(data[at:start])
        at = end
    return b"".join((*parts, data[at:]))


_SKIPPED = re.compile(rb"(?:\s++|#[^\r\n]*+)*+[^\s#]*+")
"""What stands before a word or number of a PPM's header, and that itself."""
_HEADER = 64 << 10
"""Bytes of a PPM's header, comments included: Pillow reads them one by one."""
_REMARKS = 10_000
"""Comments between the pixels of a PPM that is text: each takes as long as a megabyte that is copied."""


def _check_ppm(data: bytes) -> None:
    """Pillow reads a header byte by byte, and copies pixels that are text once for each comment between them."""
    end = 0
    for _ in range(3 if data[1:2] in b"14" else 4):  # name, width, height, largest value
        found = _SKIPPED.match(data, end)
        end = end if found is None else found.end()
    if end > _HEADER:
        raise PictureError(f"the PPM file has a header of {end // 1000} kB: no program writes that", hint=_SAVE_ANEW)
    if data[1:2] in b"123" and data.count(b"#") > _REMARKS:
        raise PictureError(f"the PPM file has more than {_REMARKS} comments: no program writes that", hint=_SAVE_ANEW)


_MOST_INFLATED = 1032
"""Bytes that one packed byte can become at most, by how deflate is built."""
_CHANNELS = {2: 3, 4: 2, 6: 4}


def _check_png_size(data: bytes, size: tuple[int, int]) -> None:
    """Refuse a size that the file cannot hold: Pillow takes rows that are missing for black ones."""
    width, height = size
    depth, color = data[24:25], data[25:26]
    bits = (depth[0] if depth else 0) * (_CHANNELS.get(color[0], 1) if color else 1)
    if (width * bits + 7) // 8 * height > len(data) * _MOST_INFLATED:
        raise PictureError(
            f"the PNG file is cut short: its {len(data)} bytes cannot hold {width}×{height} pixels", hint=_COPY
        )


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


def _png(data: bytes) -> Prepared:
    """Pillow takes a PNG for broken when a text or a profile in it has more than a megabyte.

    Of the texts, only those that hold metadata are of use here: where there are many or large ones, the others go.
    """
    loose = size = 0
    heavy = False
    for number, chunk in enumerate(png_chunks(data)):
        if number == _CHUNKS:
            raise PictureError(f"the PNG file has more than {_CHUNKS} chunks: no program writes that", hint=_SAVE_ANEW)
        if chunk.name not in _NEEDED:
            loose += 1
            length = chunk.end - chunk.start - 12
            size += length
            heavy |= length > _PACKED and (chunk.name in {b"iCCP", b"zTXt"} or _is_packed_text(data, chunk))
    return _lightened(data) if heavy or loose > _LOOSE or size > _LOOSE_BYTES else Prepared(data=data)


def _is_packed_text(data: bytes, chunk: PngChunk) -> bool:
    """Whether it is an iTXt chunk that is packed."""
    if chunk.name != b"iTXt":
        return False
    key_end = data.find(b"\0", chunk.start + 8, chunk.start + 90)
    return key_end >= 0 and data[key_end + 1 : key_end + 2] != b"\0"


def _lightened(data: bytes) -> Prepared:
    """Without the texts that nobody asks for, and with what does not fit Pillow's limit beside it."""
    cuts: list[tuple[int, int]] = []
    last: dict[bytes, PngChunk] = {}
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
    return Prepared(data=_without(data, sorted(cuts)) if cuts else data, info=info, notes=tuple(notes))


def _key(data: bytes, chunk: PngChunk) -> bytes:
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
