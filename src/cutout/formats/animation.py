"""Animations and files of many pages, written picture by picture."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

from PIL import Image

from cutout.enums import BitDepth, OutputFormat, PngLevel
from cutout.errors import OutputError
from cutout.formats.encode import assemble, png_file, settings, tiff_page, translated, wide_colors
from cutout.formats.limits import check_side
from cutout.formats.metadata.metadata import NO_METADATA, Metadata
from cutout.formats.png_chunks import Animation
from cutout.formats.tiff import Tiff

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

    import numpy as np
    import numpy.typing as npt

__all__ = ["Frame", "encode_frames"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Frame:
    """A finished frame or page.

    Attributes:
        rgb: Mode RGB, or None for a mask alone.
        alpha: Mode L, or None for an opaque picture.
        metadata: Kept of the first frame, or of every page.
        deep: `rgb` in 16 bits, for pages.
        duration: Milliseconds.
    """

    rgb: Image.Image | None
    alpha: Image.Image | None
    metadata: Metadata = NO_METADATA
    deep: npt.NDArray[np.uint16] | None = None
    duration: float = 0.0


def encode_frames(
    frames: Iterable[Frame],
    output_format: OutputFormat,
    *,
    count: int,
    loop: int = 0,
    quality: int | None = None,
    lossless: bool = False,
    png_level: PngLevel = PngLevel.FAST,
    keep_hidden: bool = False,
    threads: int = 1,
    bit_depth: BitDepth = BitDepth.AUTO,
) -> bytes:
    """Finished frames as the bytes of one file; each is taken, encoded and forgotten before the next.

    Args:
        frames: All of one size and kind, unless the format has pages.
        output_format: PNG (as APNG), WebP, AVIF; TIFF makes them pages.
        count: How many there are.
        loop: How often they play; 0 is for ever. AVIF plays for ever.
        quality: As for single pictures, like all that follows.
        lossless: WebP, and nearly so AVIF.
        png_level: PNG.
        keep_hidden: PNG, TIFF and AVIF; the encoder of animated WebP drops what cannot be seen.
        threads: Cores that work on one frame.
        bit_depth: PNG and TIFF; the frames of an animation have 8 bits, which 16 widens.

    Raises:
        OutputError: The format cannot hold them.
    """
    with translated(output_format):
        if output_format is OutputFormat.TIFF:
            tiff = Tiff()
            for frame in frames:
                metadata = frame.metadata.sized(_size(frame))
                wide = wide_colors(frame.rgb, frame.alpha, frame.deep, bit_depth)
                tiff_page(tiff, frame.rgb, frame.alpha, metadata, wide, keep_hidden=keep_hidden)
            return tiff.finish()
        if output_format is OutputFormat.PNG:
            told = {"level": png_level, "keep_hidden": keep_hidden, "threads": threads}
            return _apng(frames, count, loop, bit_depth, told)
        if not output_format.has_frames:
            raise OutputError(f"{output_format.value} holds one picture")
        film = _Film(frames, count, output_format, keep_hidden=keep_hidden)
        colors = film.first.rgb is not None
        metadata, _ = film.first.metadata.sized(film.size).fitting(output_format)
        how = settings(output_format, quality, metadata, lossless=lossless, colors=colors)
        buffer = io.BytesIO()
        # the list of durations grows while the encoder takes frame by frame
        film.save(buffer, save_all=True, duration=film.durations, loop=loop, **how)
        return buffer.getvalue()


def _apng(frames: Iterable[Frame], count: int, loop: int, bit_depth: BitDepth, told: dict[str, Any]) -> bytes:
    animation = Animation(count, loop)
    for number, frame in enumerate(frames):
        metadata = frame.metadata.sized(_size(frame)) if number == 0 else NO_METADATA
        wide = wide_colors(frame.rgb, frame.alpha, None, bit_depth)
        animation.add(png_file(frame.rgb, frame.alpha, metadata, wide, **told), frame.duration)
    return animation.finish()


def _size(frame: Frame) -> tuple[int, int]:
    only = frame.rgb if frame.rgb is not None else frame.alpha
    assert only is not None  # noqa: S101 - one of the two is a picture
    return only.size


class _Film(Image.Image):
    """Frames behind the interface of an opened animation, which Pillow's encoders take without a list of all."""

    def __init__(self, frames: Iterable[Frame], count: int, output_format: OutputFormat, *, keep_hidden: bool) -> None:
        super().__init__()
        self.n_frames = count
        self.is_animated = count > 1
        self.durations: list[int] = []
        self._frames: Iterator[Frame] = iter(frames)
        self._keep_hidden = keep_hidden
        self._number = -1
        self.first = self._next()
        check_side(output_format, self.size)

    def _next(self) -> Frame:
        frame = next(self._frames)
        image = assemble(frame.rgb, frame.alpha, keep_hidden=self._keep_hidden)
        if image.mode == "L":  # of which the AVIF encoder would go through all frames once beforehand
            image = image.convert("RGB")
        if self._number >= 0 and (image.size, image.mode) != (self.size, self.mode):
            raise ValueError("a frame is of another size or kind than the first")
        self.im, self._mode, self._size = image.im, image.mode, image.size
        self.durations.append(max(1, round(frame.duration)))
        self._number += 1
        return frame

    def seek(self, frame: int) -> None:
        """Go to a frame, forwards only."""
        if frame >= self.n_frames:
            raise EOFError("no more frames")
        while self._number < frame:
            self._next()

    def tell(self) -> int:
        """The number of the frame it stands at."""
        return self._number

    def load(self) -> Any:
        """Nothing is left to be done."""
        return self.im.pixel_access(self.readonly)
