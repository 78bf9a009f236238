"""A TIFF writer: 8 or 16 bits a channel, one page or many, with EXIF and XMP; deflated after a horizontal predictor.

TIFF 6.0 and Adobe's technical notes. Pillow writes no colours of 16 bits, and its deflate takes several times as long.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from cutout.enums import PngLevel
from cutout.formats.metadata.exif import Exif, Tag, build, parse, reorder
from cutout.formats.pillow import assemble
from cutout.formats.png import deflater
from cutout.formats.sixteen_bit import widen

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import numpy.typing as npt

    from cutout.formats.encode import Finished
    from cutout.formats.metadata import Metadata
    from cutout.options import Encoding
    from cutout.output_formats import OutputFormat

__all__ = ["Tiff", "encode", "encode_frames"]

Order = Literal["<", ">"]
"""Byte order."""

_STRIP = 1 << 18
_LIMIT = 0xFFFF0000
"""Addresses have 32 bits."""
# of the EXIF block's main directory, what the page itself says
_OWN = {0x0112, 0x011A, 0x011B, 0x0128, 0x0213}


def encode(finished: Finished, output_format: OutputFormat, encoding: Encoding) -> bytes:
    """A finished picture as a TIFF file."""
    return encode_frames([finished], output_format, encoding)


def encode_frames(pages: Iterable[Finished], _: OutputFormat, encoding: Encoding, *_of_films: int) -> bytes:
    """Finished pages as a TIFF file."""
    tiff = Tiff()
    for page in pages:
        _add(tiff, page, encoding)
    return tiff.finish()


def _add(tiff: Tiff, page: Finished, encoding: Encoding) -> None:
    width, height = page.size
    wide, keep_hidden = page.wide(encoding), encoding.keep_hidden

    def rows(top: int, bottom: int) -> npt.NDArray[Any]:
        """Some rows of it: never a second copy of the whole picture."""
        box = (0, top, width, bottom)
        rgb, alpha = (None if plane is None else plane.crop(box) for plane in (page.rgb, page.alpha))
        if wide is None:
            pixels: npt.NDArray[Any] = np.asarray(assemble(rgb, alpha, keep_hidden=keep_hidden, consume=True))
        elif rgb is None or alpha is None:
            pixels = wide[top:bottom]
        else:
            seen = keep_hidden or np.asarray(alpha)[:, :, None] > 0  # black where nothing is, which compresses
            pixels = np.dstack([np.where(seen, wide[top:bottom], np.uint16(0)), widen(alpha)])
        return pixels if pixels.ndim == 3 else pixels[:, :, None]

    first = rows(0, 1)
    tiff.add((height, *first.shape[1:]), first.dtype, rows, page.metadata, colors=page.rgb is not None)


class Tiff:
    """A TIFF file that grows by pages."""

    def __init__(self) -> None:
        self._order: Order | None = None
        self._parts: list[bytes] = [b""]
        self._length = 8
        self._link = (0, 4)
        """The part, and the place in it, where the address of the next page goes."""

    def add(
        self,
        shape: tuple[int, ...],
        kind: np.dtype[Any],
        rows: Callable[[int, int], npt.NDArray[Any]],
        metadata: Metadata,
        *,
        colors: bool,
    ) -> None:
        """Append a page of a shape (height, width, samples): grey, RGB or RGBA with straight alpha, of uint8 or uint16.

        `rows` gives rows top..bottom of it; the profile of the metadata is written if the samples are `colors`.

        Raises:
            ValueError: The file would become larger than 4 GB.
        """
        height, width, samples = shape
        step = max(1, _STRIP // (width * samples * kind.itemsize))
        block = Exif() if metadata.exif is None else parse(metadata.exif)
        if self._order is None:  # the first page's own, as there are values of unknown kind that cannot be turned
            self._order = "<" if block.order == "<" else ">"
            self._parts[0] = (b"II" if self._order == "<" else b"MM") + struct.pack(self._order + "HI", 42, 0)
        order = self._order
        strips = [_packed(rows(top, min(top + step, height)), order) for top in range(0, height, step)]
        places = [self._append(strip) for strip in strips]
        tags = _page_tags(order, shape, kind, step, places, list(map(len, strips)))
        if metadata.icc and colors:
            tags[0x8773] = Tag(7, len(metadata.icc), metadata.icc)
        if metadata.xmp:
            tags[0x02BC] = Tag(1, len(metadata.xmp), metadata.xmp)
        if metadata.dpi:
            tags |= {tag: _rational(order, value) for tag, value in zip((0x011A, 0x011B), metadata.dpi, strict=True)}
            tags[0x0128] = _shorts(order, 2)  # inches
        self._append_directory(order, tags, block)

    def finish(self) -> bytes:
        """The file."""
        return b"".join(self._parts)

    def _append_directory(self, order: Order, tags: dict[int, Tag], found: Exif) -> None:
        main, exif, gps, interop = (
            reorder(part, found.order, order) for part in (found.main, found.exif, found.gps, found.interop)
        )
        main = {tag: entry for tag, entry in main.items() if tag not in _OWN} | tags
        found = found._replace(order=order, main=main, exif=exif, gps=gps, interop=interop)
        count = len(main) + bool(exif or interop) + bool(gps)
        at = self._append(build(found, base=self._length))
        part, place = self._link
        linked = bytearray(self._parts[part])
        struct.pack_into(order + "I", linked, place, at)
        self._parts[part] = bytes(linked)
        self._link = (len(self._parts) - 1, 2 + 12 * count)

    def _append(self, data: bytes) -> int:
        """Add bytes at an even address; gives it."""
        at = self._length
        if at + len(data) > _LIMIT:
            raise ValueError("it has more than 4 GB")
        self._parts.append(data + b"\0" * (len(data) % 2))
        self._length += len(self._parts[-1])
        return at


def _page_tags(
    order: Order, shape: tuple[int, ...], kind: np.dtype[Any], rows: int, places: list[int], lengths: list[int]
) -> dict[int, Tag]:
    height, width, samples = shape
    tags = {
        0x0100: _longs(order, width),
        0x0101: _longs(order, height),
        0x0102: _shorts(order, *[8 * kind.itemsize] * samples),
        0x0103: _shorts(order, 8),  # deflate
        0x0106: _shorts(order, 1 if samples == 1 else 2),  # grey with black as 0, or RGB
        0x0111: _longs(order, *places),
        0x0112: _shorts(order, 1),
        0x0115: _shorts(order, samples),
        0x0116: _longs(order, rows),
        0x0117: _longs(order, *lengths),
        0x011C: _shorts(order, 1),  # samples of a pixel side by side
        0x013D: _shorts(order, 2),  # horizontal differences
    }
    if samples == 4:
        tags[0x0152] = _shorts(order, 2)  # straight alpha
    return tags


def _packed(pixels: npt.NDArray[Any], order: Order) -> bytes:
    """One strip: every sample minus the one to its left, deflated."""
    rows = pixels.astype(pixels.dtype.newbyteorder(order), copy=True)
    rows[:, 1:] -= pixels[:, :-1]
    library, level = deflater(PngLevel.FAST)
    compressor = library.compressobj(level, library.DEFLATED, 15)
    return bytes(compressor.compress(rows) + compressor.flush())


def _shorts(order: Order, *values: int) -> Tag:
    return Tag(3, len(values), struct.pack(f"{order}{len(values)}H", *values))


def _longs(order: Order, *values: int) -> Tag:
    return Tag(4, len(values), struct.pack(f"{order}{len(values)}I", *values))


def _rational(order: Order, value: float) -> Tag:
    return Tag(5, 1, struct.pack(order + "II", round(value * 1000), 1000))
