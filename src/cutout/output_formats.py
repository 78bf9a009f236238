"""The formats that can be written, a row each: what it is called, what it holds, how it is encoded, what that takes.

The sides are those of the formats or of their libraries: 14 bits in WebP, libjpeg's JPEG_MAX_DIMENSION, what libavif
reads by default (it writes more), 16 bits in HEVC, 31 and 32 bits in PNG and TIFF.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Any, NamedTuple

from cutout.errors import OutputError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Self

__all__ = ["SUFFIXES", "OutputFormat", "Row", "check_side", "names"]


class Memory(NamedTuple):
    """Bytes a pixel that writing takes beside the finished picture; measured by `python benchmarks/memory.py`."""

    colors: float
    cutout: float
    """With transparency."""
    lossless: float | None = None
    """Where there is a choice."""
    deep: float | None = None
    """With 16 bits a channel; the colours in 16 bits come on top."""
    frame: float = 0.0
    """Of every frame or page, its bytes in the file, which grows in memory."""

    def taken(self, *, transparent: bool, lossless: bool, deep: bool) -> float:
        """What writing one picture takes."""
        if deep and self.deep is not None:
            return self.deep
        if lossless and self.lossless is not None:
            return self.lossless
        return self.cutout if transparent else self.colors


class Row(NamedTuple):
    """One output format."""

    title: str
    """For people."""
    suffixes: tuple[str, ...]
    media_type: str
    side: int
    """Pixels of the longest side that files of it can have and programs read."""
    memory: Memory
    encoder: str
    """A module of ours, see `formats.encode`, or Pillow's name of the format."""
    alpha: bool = True
    sixteen_bits: bool = False
    frames: bool = False
    pages: bool = False
    """Several pictures of different sizes."""
    quality: int | None = None
    """When none is asked for, 0–100; None where there is nothing to choose."""
    always: Mapping[str, Any] = {}
    """What Pillow's encoder is told."""
    lossless: Mapping[str, Any] | None = None
    """What it is told to lose nothing; None where there is no choice."""
    hidden: str | None = None
    """Its setting that keeps colours under alpha 0, where it drops them by itself; it has none for animations."""
    block: int | None = None
    """Bytes that an EXIF block or XMP packet can have, with its name."""
    orientation: bool = True
    """EXIF may say how the pixels lie."""
    extra: str | None = None
    """Of this package, which brings the codec."""


class OutputFormat(StrEnum):
    """The formats that can be written."""

    row: Row

    PNG = (
        "png",
        Row(
            title="PNG",
            suffixes=(".png",),
            media_type="image/png",
            side=2**31 - 1,
            memory=Memory(1.5, 1.5, deep=2.0, frame=0.5),
            encoder="png",
            sixteen_bits=True,
            frames=True,
        ),
    )
    WEBP = (
        "webp",
        Row(
            title="WebP",
            suffixes=(".webp",),
            media_type="image/webp",
            side=16383,
            memory=Memory(14.0, 30.0, lossless=22.0, frame=0.1),
            encoder="WEBP",
            frames=True,
            quality=90,
            lossless={"lossless": True},
            hidden="exact",
        ),
    )
    JPEG = (
        "jpg",
        Row(
            title="JPEG",
            suffixes=(".jpg", ".jpeg"),
            media_type="image/jpeg",
            side=65500,
            memory=Memory(3.0, 3.0),
            encoder="JPEG",
            alpha=False,
            quality=92,
            always={"optimize": True},
            block=65533,
        ),
    )
    TIFF = (
        "tiff",
        Row(
            title="TIFF",
            suffixes=(".tif", ".tiff"),
            media_type="image/tiff",
            side=2**32 - 1,
            memory=Memory(2.0, 2.0, deep=2.5, frame=0.6),
            encoder="tiff",
            sixteen_bits=True,
            pages=True,
        ),
    )
    AVIF = (
        "avif",
        Row(
            title="AVIF",
            suffixes=(".avif",),
            media_type="image/avif",
            side=32768,
            memory=Memory(24.0, 28.0, lossless=36.0, frame=0.1),
            encoder="AVIF",
            frames=True,
            quality=80,
            # but for the rounding of YCbCr, which Pillow's encoder leaves no choice about
            lossless={"quality": 100, "subsampling": "4:4:4"},
            # it takes the orientation out itself, and texts that are not ASCII do not survive that
            orientation=False,
        ),
    )
    HEIC = (
        "heic",
        Row(
            title="HEIC",
            suffixes=(".heic", ".heif"),
            media_type="image/heic",
            side=65535,
            memory=Memory(30.0, 30.0, lossless=44.0),
            encoder="HEIF",
            quality=80,
            # in RGB itself: the usual matrix rounds
            lossless={"quality": -1, "chroma": 444, "matrix_coefficients": 0},
            extra="heif",
        ),
    )

    def __new__(cls, value: str, *row: Row) -> Self:  # as type checkers take `OutputFormat("png")` for a call of it
        """The name alone is its value."""
        member = str.__new__(cls, value)
        member._value_ = value
        (member.row,) = row
        return member

    @classmethod
    def _missing_(cls, value: object) -> OutputFormat | None:
        """Any extension names its format: jpeg, tif."""
        return SUFFIXES.get(f".{value}".lower())

    @property
    def has_alpha(self) -> bool:
        """Whether the format can hold transparency."""
        return self.row.alpha

    @property
    def has_16_bits(self) -> bool:
        """Whether 16 bits a channel can be written."""
        return self.row.sixteen_bits

    @property
    def has_frames(self) -> bool:
        """Whether an animation can be written."""
        return self.row.frames

    @property
    def has_pages(self) -> bool:
        """Whether several pages of different sizes can be written."""
        return self.row.pages


SUFFIXES = {suffix: kind for kind in OutputFormat for suffix in kind.row.suffixes}


def names(has: Callable[[Row], object]) -> str:
    """The names of the formats of which this holds: "png and tiff"."""
    *others, last = [kind.value for kind in OutputFormat if has(kind.row)]
    return f"{', '.join(others)} and {last}" if others else last


def check_side(output_format: OutputFormat, size: tuple[int, int], *, way: str = "max_size") -> None:
    """Refuse a finished picture (width, height) that is too long for the format; the option `way` makes it smaller.

    Raises:
        OutputError: It is.
    """
    row = output_format.row
    if max(size) > row.side:
        raise OutputError(
            f"{row.title} holds at most {row.side} pixels a side, this picture has {size[0]}×{size[1]}",
            hint=f"write PNG or TIFF instead, or use a {way} of at most {row.side}",
            options=(way,),
        )
