"""The structure of the other formats, as far as a decoder would believe it: GIF, WebP, BMP, QOI, JPEG 2000, PPM."""

from __future__ import annotations

import re
import struct
from typing import NamedTuple

from cutout.errors import PictureError
from cutout.formats.checks.preflight import COPY, SAVE_ANEW, CheckedFile, check_size, implausible

__all__ = ["Gif", "check", "check_gif", "gif", "jpeg_2000_tiles"]

_LARGEST_SCREEN, _LOST = 4096 * 4096, 16
"""Pixels of an animation that may hold a small first frame, and how much larger than that one it may be else."""
_MOST_BLOCKS = 200_000
"""Pillow reads those of a GIF one by one; profiles and packets of a megabyte take some thousand."""
_MOST_BEFORE = 100
"""Chunks of a WebP before its first frame: three, and what nobody knows."""
_TILE_BYTES = 14
"""That a tile of a JPEG 2000 picture takes at least: its two marks."""
_LARGEST_QOI = 32_000_000
"""Pixels: Pillow decodes QOI in Python, a megapixel in about a second."""


def check(data: bytes, kind: str | None, max_pixels: int) -> CheckedFile:
    """Check a file as far as its first frame.

    Raises:
        PictureError: No program writes such a file, it is cut short, or it has too many pixels.
    """
    if size := _announced_size(data, kind):
        check_size(size, max_pixels)
    match kind:
        case "GIF":
            check_gif(data, 1, max_pixels)
        case "WebP" if size and (first := _webp_first(data)):
            _check_screen(size, first)
        case "QOI" if size and size[0] * size[1] > _LARGEST_QOI:
            text = f"the QOI file has {size[0] * size[1] / 1e6:.0f} megapixels, which would take minutes to decode"
            raise PictureError(text, hint="save it as PNG")
        case "JPEG 2000" if jpeg_2000_tiles(data) * _TILE_BYTES > len(data):
            raise PictureError("the JPEG 2000 file is cut short: most of its tiles are missing", hint=COPY)
        case "PPM" | None if data[:1] == b"P":  # what stands in the header may be beyond what `sniff` looks at
            return _ppm(data, max_pixels)
    return CheckedFile(data)


def _announced_size(data: bytes, kind: str | None) -> tuple[int, int] | None:
    """Width and height, where the first bytes of this format say them."""
    head, size = data[:30].ljust(30, b"\0"), None
    match kind, head[12:16]:
        case "GIF", _:
            size = _two("<HH", head, 6)
        case "QOI", _:
            size = _two(">II", head, 4)
        case "BMP", _:
            width, height = _two("<HH", head, 18) if head[14] == 12 else _two("<ii", head, 18)
            size = abs(width), abs(height)
        case "WebP", b"VP8X":
            size = int.from_bytes(head[24:27], "little") + 1, int.from_bytes(head[27:30], "little") + 1
        case "WebP", b"VP8L":
            bits = int.from_bytes(head[21:25], "little")
            size = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        case "WebP", b"VP8 ":
            width, height = _two("<HH", head, 26)
            size = width & 0x3FFF, height & 0x3FFF
    return size


def _two(kind: str, data: bytes, at: int) -> tuple[int, int]:
    first, second = struct.unpack_from(kind, data, at)
    return int(first), int(second)


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


def gif(data: bytes, most: int) -> Gif:
    """Look at no more than `most` frames, nor at much more than `_MOST_BLOCKS` blocks before one of them.

    Decoders take what is there of a file that was cut short for all of it. A missing end mark alone is no loss. What
    follows bytes that are no block is not looked at, as browsers do, except before the first frame.
    """
    count, at = 0, 13 + _color_table(data, 10)
    size = _two("<HH", data, 6) if len(data) >= 10 else (0, 0)
    first = (0, 0)
    blocks = row = 0
    while count < most and blocks <= _MOST_BLOCKS:
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
        while at < len(data) and data[at] and row <= _MOST_BLOCKS:
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


def check_gif(data: bytes, most: int, max_pixels: int) -> int:
    """Refuse a GIF whose first `most` frames are not all there, or one of them is too large; gives how many there are.

    Raises:
        TooLargeError: They have more pixels than are allowed.
        PictureError: One of them is cut short.
    """
    found = gif(data, most)
    check_size(found.size, max_pixels)
    _check_screen(found.size, found.first)
    if found.blocks > _MOST_BLOCKS:
        raise implausible("GIF", f"more than {_MOST_BLOCKS} blocks before a frame")
    if found.cut_short:
        raise PictureError(
            f"the GIF file is cut short in its frame {found.frames + 1}",
            hint=COPY + "; first_frame takes the first alone" * (found.frames > 0),
            options=("first_frame",),
        )
    return found.frames


def _check_screen(size: tuple[int, int], first: tuple[int, int]) -> None:
    """Refuse an animation whose first frame is lost in it: all of it is allocated, several times."""
    if size[0] * size[1] > max(_LARGEST_SCREEN, _LOST * first[0] * first[1]):
        text = f"the animation has {size[0]}×{size[1]} pixels, but its first frame {first[0]}×{first[1]}"
        raise PictureError(f"{text}: no program writes that", hint=SAVE_ANEW)


def _webp_first(data: bytes) -> tuple[int, int] | None:
    """Width and height of the first frame of an animated WebP; None where there is none."""
    at = 12
    for _ in range(_MOST_BEFORE):
        if data[at : at + 4] == b"ANMF" and len(data) >= at + 20:
            width, height = (int.from_bytes(data[at + place : at + place + 3], "little") for place in (14, 17))
            return width + 1, height + 1
        length = int.from_bytes(data[at + 4 : at + 8], "little")
        at += 8 + length + length % 2
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


_SKIPPED = re.compile(rb"(?:\s++|#[^\r\n]*+)*+([^\s#]*+)")
"""What stands before a word or number of a PPM's header, and that itself."""
_HEADER = 64 << 10
"""Bytes of a PPM's header, comments included: Pillow reads them one by one."""
_REMARKS = 10_000
"""Comments between the pixels of a PPM that is text: each takes as long as a megabyte that is copied."""
_TEXT = 64 << 20
"""Bytes of a PPM that is text: Pillow reads 5 MB in a second."""


def _ppm(data: bytes, max_pixels: int) -> CheckedFile:
    """Pillow reads a header byte by byte, and in Python all pixels that are text, or of an unusual depth."""
    end, words = 0, []
    for _ in range(3 if data[1:2] in b"14" else 4):  # name, width, height, largest value
        found = _SKIPPED.match(data, end)
        end = end if found is None else found.end()
        words.append(b"" if found is None else found[1])
    if end > _HEADER:
        raise implausible("PPM", f"a header of {end // 1000} kB")
    if words[0] in {b"P1", b"P2", b"P3"}:
        if data.count(b"#") > _REMARKS:
            raise implausible("PPM", f"more than {_REMARKS} comments")
        if len(data) > _TEXT:
            text = f"the PPM file holds {len(data) / 1e6:.0f} MB of text, which would take long to read"
            raise PictureError(text, hint="save it as PNG, or as a binary PPM")
    usual = {b"P5": {b"255", b"65535"}, b"P6": {b"255"}}.get(words[0])
    if usual is None or words[3] in usual or not all(len(word) < 11 and word.isdigit() for word in words[1:]):
        return CheckedFile(data)
    width, height, most = map(int, words[1:])
    check_size((width, height), max_pixels)
    return CheckedFile(_of_usual_depth(data, end + 1, words[0], (width, height), most) if 0 < most < 65536 else data)


def _of_usual_depth(data: bytes, start: int, kind: bytes, size: tuple[int, int], most: int) -> bytes:
    """The same PPM with the values that Pillow makes of it."""
    import numpy as np

    top = 65535 if most > 255 and kind == b"P5" else 255
    bands, width = (3 if kind == b"P6" else 1), 1 + (most > 255)
    whole = min(len(data) - start, size[0] * size[1] * bands * width) // width * width
    values = np.frombuffer(data[start : start + max(0, whole)], ">u2" if width > 1 else "u1")
    table = np.minimum(np.rint(np.arange(1 << 8 * width) / most * top), top).astype(">u2" if top > 255 else "u1")
    return b"%s %d %d %d\n" % (kind, *size, top) + bytes(table[values].data)
