"""Finished pictures as the bytes of files: what a format holds is checked here, and its encoder called."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from cutout.enums import BitDepth
from cutout.errors import CutoutError, OutputError
from cutout.formats.metadata.metadata import NO_METADATA, Metadata
from cutout.output_formats import OutputFormat, check_side, names

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import TypedDict, Unpack

    import numpy as np
    import numpy.typing as npt
    from PIL import Image

    from cutout.enums import PngLevel

    class How(TypedDict, total=False):
        """What an encoder is told."""

        quality: int | None
        """0–100 for JPEG, WebP, AVIF and HEIC; None takes a good one."""
        lossless: bool
        """WebP and HEIC without loss, AVIF nearly so: its encoder rounds colours by a few levels of 255."""
        png_level: PngLevel
        """How hard a PNG is compressed."""
        keep_hidden: bool
        """Keep colours that cannot be seen exactly as they were; the encoder of animated WebP drops them."""
        threads: int
        """Cores that work on one picture."""
        bit_depth: BitDepth
        """16 needs PNG or TIFF; what has 8 bits is widened, frames of an animation too."""


__all__ = ["Finished", "encode", "encode_frames"]


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

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        only = self.rgb if self.rgb is not None else self.alpha
        assert only is not None  # noqa: S101 - one of the two is a picture
        return only.size

    def wide(self, how: How) -> npt.NDArray[np.uint16] | None:
        """The colours, or the mask alone, in 16 bits, if they are to be written so."""
        depth = how.get("bit_depth", BitDepth.AUTO)
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
    *,
    deep: npt.NDArray[np.uint16] | None = None,
    consume: bool = False,
    **how: Unpack[How],
) -> bytes:
    """A finished picture as the bytes of a file.

    Args:
        rgb: As in `Finished`, like `alpha` and `deep`. JPEG takes one of the two alone.
        alpha: Beside it, or alone.
        output_format: The format.
        metadata: Kept where the format can hold it; the EXIF block's size of the picture is set.
        deep: `rgb` in 16 bits.
        consume: `rgb` is not needed any more: encoders may work on it in place, which saves a copy.
        **how: What the encoder is told.

    Raises:
        OutputError: The format cannot hold this picture.
    """
    with _translated(output_format):
        finished = Finished(rgb, alpha, metadata, deep).fitted(output_format)
        check_side(output_format, finished.size)
        if not output_format.has_16_bits and finished.wide(how) is not None:
            holding = names(lambda row: row.sixteen_bits).replace(" and", ",")
            raise OutputError(
                f"{output_format.value} holds 8 bits a channel",
                hint=f"bit_depth 16 goes with {holding}",
                options=("bit_depth",),
            )
        match output_format.row.encoder:
            case "png":
                from cutout.formats import png

                return png.encode(finished, how)
            case "tiff":
                from cutout.formats import tiff

                return tiff.encode(finished, how)
        from cutout.formats import pillow

        return pillow.encode(finished, output_format, how, consume=consume)


def encode_frames(
    frames: Iterable[Finished], output_format: OutputFormat, *, count: int, loop: int = 0, **how: Unpack[How]
) -> bytes:
    """Finished frames as the bytes of one file; each is taken, encoded and forgotten before the next.

    Args:
        frames: All of one size and kind, unless the format has pages.
        output_format: PNG (as APNG), WebP, AVIF; TIFF makes them pages.
        count: How many there are.
        loop: How often they play; 0 is for ever. AVIF plays for ever.
        **how: As for single pictures.

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
        match output_format.row.encoder:
            case "png":
                from cutout.formats import png

                return png.encode_frames(fitted, how, count, loop)
            case "tiff":
                from cutout.formats import tiff

                return tiff.encode_frames(fitted, how)
        from cutout.formats import pillow

        return pillow.encode_frames(fitted, output_format, how, count, loop)


@contextmanager
def _translated(output_format: OutputFormat) -> Iterator[None]:
    """Whatever an encoder raises, as an `OutputError`."""
    try:
        yield
    except (CutoutError, MemoryError):
        raise
    except Exception as error:  # encoders raise many kinds for sizes and values they cannot hold
        raise OutputError(f"the picture cannot be written as {output_format.value}: {error}") from error
