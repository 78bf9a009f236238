"""Formats that Pillow's encoders write, as the rows of `output_formats` say: pictures and animations."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from PIL import Image

from cutout.errors import CutoutError, OutputError
from cutout.output_formats import check_side

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from cutout.formats.encode import Finished
    from cutout.options import Encoding
    from cutout.output_formats import OutputFormat

__all__ = ["assemble", "encode", "encode_frames", "register_heif"]


def encode(finished: Finished, output_format: OutputFormat, encoding: Encoding) -> bytes:
    """A finished picture as the bytes of a file."""
    keep_hidden = encoding.keep_hidden
    settings = _settings(finished, output_format, encoding)
    if setting := output_format.row.hidden:
        settings[setting] = keep_hidden
    buffer = io.BytesIO()
    assemble(finished.rgb, finished.alpha, keep_hidden=keep_hidden, consume=finished.consume).save(buffer, **settings)
    return buffer.getvalue()


def encode_frames(
    frames: Iterable[Finished], output_format: OutputFormat, encoding: Encoding, count: int, loop: int
) -> bytes:
    """Finished frames as an animation."""
    film = _Film(frames, count, output_format, keep_hidden=encoding.keep_hidden)
    settings = _settings(film.first, output_format, encoding)
    buffer = io.BytesIO()
    # the list of durations grows while the encoder takes frame by frame
    film.save(buffer, save_all=True, duration=film.durations, loop=loop, **settings)
    return buffer.getvalue()


def assemble(
    rgb: Image.Image | None, alpha: Image.Image | None, *, keep_hidden: bool, consume: bool = False
) -> Image.Image:
    """One image of the planes; colours under alpha 0 become black, which compresses, unless they are to be kept.

    With `consume` it is `rgb` itself, changed in place.
    """
    if rgb is None or alpha is None:
        only = alpha if rgb is None else rgb
        assert only is not None  # noqa: S101 - one of the two is a picture
        return only
    image = rgb if consume else rgb.convert("RGBA")
    image.putalpha(alpha)
    if not keep_hidden:
        image.paste((0, 0, 0, 0), (0, 0), alpha.point([255] + [0] * 255))
    return image


def _settings(finished: Finished, output_format: OutputFormat, encoding: Encoding) -> dict[str, Any]:
    """The keywords of Pillow's encoder."""
    row, quality, metadata = output_format.row, encoding.quality, finished.metadata
    if row.extra:
        register_heif(f"format {output_format.value}", options=("format",))
    settings: dict[str, Any] = {"format": row.encoder, **row.always}
    if row.quality is not None:
        settings["quality"] = row.quality if quality is None else quality
    if encoding.lossless:
        settings |= row.lossless or {}
    if metadata.icc and finished.rgb is not None:
        settings["icc_profile"] = metadata.icc
    if metadata.dpi:
        settings["dpi"] = metadata.dpi
    if metadata.exif:
        settings["exif"] = b"Exif\0\0" + metadata.exif
    if metadata.xmp:
        settings["xmp"] = metadata.xmp
    return settings


def register_heif(what: str, error: type[CutoutError] = OutputError, *, options: tuple[str, ...] = ()) -> None:
    """Make Pillow know HEIF.

    Raises:
        CutoutError: Of this kind; its codec, which `what` needs, is not installed.
    """
    try:
        import pillow_heif
    except ImportError:
        text = f"{what} needs a codec that is not installed"
        raise error(text, hint='pip install "cutout-cli[heif]" brings it', options=options) from None
    pillow_heif.register_heif_opener()


class _Film(Image.Image):
    """Frames behind the interface of an opened animation, which Pillow's encoders take without a list of all."""

    def __init__(
        self, frames: Iterable[Finished], count: int, output_format: OutputFormat, *, keep_hidden: bool
    ) -> None:
        super().__init__()
        self.n_frames = count
        self.is_animated = count > 1
        self.durations: list[int] = []
        self._frames: Iterator[Finished] = iter(frames)
        self._keep_hidden = keep_hidden
        self._number = -1
        self.first = self._next()
        check_side(output_format, self.size)

    def _next(self) -> Finished:
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
