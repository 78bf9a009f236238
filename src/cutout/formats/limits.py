"""What each output format can hold and what writing it takes: a row per format."""

from __future__ import annotations

from dataclasses import dataclass

from cutout.enums import OutputFormat
from cutout.errors import OutputError

__all__ = ["FORMATS", "FormatLimits", "check_side"]


@dataclass(frozen=True, slots=True)
class FormatLimits:
    """One output format.

    Attributes:
        name: For people.
        side: Pixels of the longest side that files of it can have and programs read.
        colors: Bytes a pixel that its encoder takes for colours alone, beside the finished picture.
        cutout: The same with transparency.
        lossless: The same without loss, where there is a choice.
        deep: The same with 16 bits a channel; the colours in 16 bits come on top.
    """

    name: str
    side: int
    colors: float
    cutout: float
    lossless: float = 0.0
    deep: float = 0.0

    def encoder(self, *, transparent: bool, lossless: bool, deep: bool) -> float:
        """Bytes a pixel that writing takes, beside the finished picture."""
        if deep and self.deep:
            return self.deep
        if lossless and self.lossless:
            return self.lossless
        return self.cutout if transparent else self.colors


# The sides are those of the formats or of their libraries: 14 bits in WebP, libjpeg's JPEG_MAX_DIMENSION, what libavif
# reads by default (it writes more), 16 bits in HEVC, 31 and 32 bits in PNG and TIFF. The bytes were measured, see
# `estimate`.
FORMATS: dict[OutputFormat, FormatLimits] = {
    OutputFormat.PNG: FormatLimits("PNG", 2**31 - 1, 1.5, 1.5, deep=2.0),
    OutputFormat.JPEG: FormatLimits("JPEG", 65500, 3.0, 3.0),
    OutputFormat.TIFF: FormatLimits("TIFF", 2**32 - 1, 2.0, 2.0, deep=2.5),
    OutputFormat.WEBP: FormatLimits("WebP", 16383, 14.0, 30.0, lossless=22.0),
    OutputFormat.AVIF: FormatLimits("AVIF", 32768, 24.0, 28.0, lossless=36.0),
    OutputFormat.HEIC: FormatLimits("HEIC", 65535, 30.0, 30.0, lossless=44.0),
}


def check_side(output_format: OutputFormat, size: tuple[int, int], *, way: str = "max_size") -> None:
    """Refuse a picture that is too long for the format.

    Args:
        output_format: What is to be written.
        size: Width and height of the finished picture.
        way: The option that makes it smaller, for the message.

    Raises:
        OutputError: It is.
    """
    row = FORMATS[output_format]
    if max(size) > row.side:
        raise OutputError(
            f"{row.name} holds at most {row.side} pixels a side, this picture has {size[0]}×{size[1]}",
            hint=f"write PNG or TIFF instead, or use a {way} of at most {row.side}",
            options=(way,),
        )
