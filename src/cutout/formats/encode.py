"""Finished pictures as the bytes of files: what a format holds is checked here, and its encoder called.

What a format takes where nothing is asked for, such as the quality of a JPEG, stands in its row of `output_formats`.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from cutout.enums import BitDepth
from cutout.errors import CutoutError, OutputError
from cutout.formats.metadata import NO_METADATA, Metadata
from cutout.options import Encoding
from cutout.output_formats import OutputFormat, check_side, names

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Protocol

    import numpy as np
    import numpy.typing as npt
    from PIL import Image

    class Encoder(Protocol):
        """A module that encodes; see `formats.tiff`."""

        def encode(self, finished: Finished, output_format: OutputFormat, encoding: Encoding, /) -> bytes:
            """A picture as the bytes of a file."""

        def encode_frames(
            self, frames: Iterable[Finished], output_format: OutputFormat, encoding: Encoding, count: int, loop: int, /
        ) -> bytes:
            """Frames or pages as the bytes of a file."""


__all__ = ["Finished", "encode", "encode_frames"]

_PLAIN = Encoding()


class Finished(NamedTuple):
    """A finished picture, frame or page."""

    rgb: Image.Image | None
    """Mode RGB, or None for a mask alone."""
    alpha: Image.Image | None
    """Mode L of the same size, or None for an opaque picture; one of the two is there."""
    metadata: Metadata = NO_METADATA
    """Of an animation, the first frame's is kept."""
    deep: npt.NDArray[np.uint16] | None = None
    """`rgb` in 16 bits, shape (height, width, 3)."""
    duration: float = 0.0
    """Milliseconds."""
    consume: bool = False
    """`rgb` is not needed any more: encoders may work on it in place, which saves a copy."""

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        only = self.rgb if self.rgb is not None else self.alpha
        assert only is not None  # noqa: S101 - one of the two is a picture
        return only.size

    def wide(self, encoding: Encoding) -> npt.NDArray[np.uint16] | None:
        """The colours, or the mask alone, in 16 bits, if they are to be written so."""
        depth = encoding.bit_depth
        if self.rgb is not None and self.deep is not None and depth is not BitDepth.EIGHT:
            return self.deep
        only = self.alpha if self.rgb is None else self.rgb
        if depth is not BitDepth.SIXTEEN or only is None:
            return None
        from cutout.formats.sixteen_bit import widen

        return widen(only)

    def fitted(self, output_format: OutputFormat) -> Finished:
        """The same with the metadata that the format holds, for this size."""
        return self._replace(metadata=self.metadata.sized(self.size).fitting(output_format)[0])


def encode(
    rgb: Image.Image | None,
    alpha: Image.Image | None,
    output_format: OutputFormat,
    metadata: Metadata = NO_METADATA,
    encoding: Encoding = _PLAIN,
    *,
    deep: npt.NDArray[np.uint16] | None = None,
    consume: bool = False,
) -> bytes:
    """A finished picture, see `Finished`, as the bytes of a file.

    Metadata is kept where the format can hold it, and the EXIF block's size of the picture is set. JPEG takes `rgb` or
    `alpha` alone.

    Raises:
        OutputError: The format cannot hold this picture.
    """
    with _translated(output_format):
        finished = Finished(rgb, alpha, metadata, deep, consume=consume).fitted(output_format)
        check_side(output_format, finished.size)
        if not output_format.has_16_bits and finished.wide(encoding) is not None:
            holding = names(lambda row: row.sixteen_bits).replace(" and", ",")
            raise OutputError(
                f"{output_format.value} holds 8 bits a channel",
                hint=f"bit_depth 16 goes with {holding}",
                options=("bit_depth",),
            )
        return _encoder(output_format).encode(finished, output_format, encoding)


def encode_frames(
    frames: Iterable[Finished],
    output_format: OutputFormat,
    encoding: Encoding = _PLAIN,
    *,
    count: int,
    loop: int = 0,
) -> bytes:
    """Finished frames as the bytes of one file; each is taken, encoded and forgotten before the next.

    They are `count` in number, and all of one size and kind unless the format has pages. They play `loop` times, 0 is
    for ever; AVIF plays for ever. 16 bits widen the frames of an animation; animated WebP drops hidden colours.

    Raises:
        OutputError: The format cannot hold them.
    """
    with _translated(output_format):
        if not (output_format.has_frames or output_format.has_pages):
            raise OutputError(f"{output_format.value} holds one picture")
        fitted = (
            frame.fitted(output_format)
            if number == 0 or output_format.has_pages
            else frame._replace(metadata=NO_METADATA)
            for number, frame in enumerate(frames)
        )
        return _encoder(output_format).encode_frames(fitted, output_format, encoding, count, loop)


def _encoder(output_format: OutputFormat) -> Encoder:
    match output_format.row.encoder:
        case "png":
            from cutout.formats import png

            return png
        case "tiff":
            from cutout.formats import tiff

            return tiff
        case _:
            from cutout.formats import pillow

            return pillow


@contextmanager
def _translated(output_format: OutputFormat) -> Iterator[None]:
    """Whatever an encoder raises, as an `OutputError`."""
    try:
        yield
    except (CutoutError, MemoryError):
        raise
    except Exception as error:  # encoders raise many kinds for sizes and values they cannot hold
        raise OutputError(f"the picture cannot be written as {output_format.value}: {error}") from error
