"""A finished picture as the bytes of a file."""

from __future__ import annotations

import io
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from cutout.enums import BitDepth, OutputFormat, PngLevel
from cutout.errors import CutoutError, OutputError
from cutout.formats import sixteen_bit as sixteen
from cutout.formats.limits import check_side
from cutout.formats.metadata.metadata import NO_METADATA, Metadata
from cutout.formats.png import encode_png
from cutout.formats.png_chunks import insert, profile_chunks, text_chunks
from cutout.formats.tiff import Tiff

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt
    from PIL import Image

__all__ = [
    "assemble",
    "encode",
    "png_file",
    "register_heif",
    "settings",
    "tiff_page",
    "translated",
    "wide_colors",
]

_DEFLATE = {PngLevel.FASTEST: 1, PngLevel.FAST: 4, PngLevel.SMALL: 9}


def encode(
    rgb: Image.Image | None,
    alpha: Image.Image | None,
    output_format: OutputFormat,
    metadata: Metadata = NO_METADATA,
    *,
    quality: int | None = None,
    lossless: bool = False,
    png_level: PngLevel = PngLevel.FAST,
    keep_hidden: bool = False,
    threads: int = 1,
    deep: npt.NDArray[np.uint16] | None = None,
    bit_depth: BitDepth = BitDepth.AUTO,
    consume: bool = False,
) -> bytes:
    """A finished picture as the bytes of a file.

    Args:
        rgb: Mode RGB; None writes `alpha` as a grey picture.
        alpha: Mode L, same size; None writes an opaque picture. JPEG takes one of the two alone.
        output_format: The format.
        metadata: Kept where the format can hold it; the EXIF block's size of the picture is set.
        quality: 0–100 for JPEG, WebP, AVIF and HEIC; None takes a good one.
        lossless: WebP and HEIC without loss, AVIF nearly so: its encoder rounds colours by a few levels of 255.
        png_level: How hard a PNG is compressed.
        keep_hidden: Keep colours that cannot be seen exactly as they were.
        threads: Cores that work on this picture.
        deep: `rgb` in 16 bits, shape (height, width, 3).
        bit_depth: 16 needs PNG or TIFF; what has 8 bits is widened.
        consume: `rgb` is not needed any more: encoders may work on it in place, which saves a copy.

    Raises:
        OutputError: The format cannot hold this picture.
    """
    with translated(output_format):
        source = rgb if rgb is not None else alpha
        assert source is not None  # noqa: S101 - one of the two is a picture
        check_side(output_format, source.size)
        metadata, _ = metadata.sized(source.size).fitting(output_format)
        wide = wide_colors(rgb, alpha, deep, bit_depth)
        if wide is not None and not output_format.has_16_bits:
            raise OutputError(
                f"{output_format.value} holds 8 bits a channel",
                hint="bit_depth 16 goes with png, tiff",
                options=("bit_depth",),
            )
        if output_format is OutputFormat.TIFF:
            tiff = Tiff()
            tiff_page(tiff, rgb, alpha, metadata, wide, keep_hidden=keep_hidden)
            return tiff.finish()
        if output_format is not OutputFormat.PNG:
            told = settings(output_format, quality, metadata, lossless=lossless, colors=rgb is not None)
            if output_format is OutputFormat.WEBP:
                told["exact"] = keep_hidden
            buffer = io.BytesIO()
            assemble(rgb, alpha, keep_hidden=keep_hidden, consume=consume).save(buffer, **told)
            return buffer.getvalue()
        return png_file(rgb, alpha, metadata, wide, level=png_level, keep_hidden=keep_hidden, threads=threads)


@contextmanager
def translated(output_format: OutputFormat) -> Iterator[None]:
    """Whatever an encoder raises, as an `OutputError`."""
    try:
        yield
    except (CutoutError, MemoryError):
        raise
    except Exception as error:  # encoders raise many kinds for sizes and values they cannot hold
        raise OutputError(f"the picture cannot be written as {output_format.value}: {error}") from error


def png_file(
    rgb: Image.Image | None,
    alpha: Image.Image | None,
    metadata: Metadata,
    wide: npt.NDArray[np.uint16] | None = None,
    *,
    level: PngLevel,
    keep_hidden: bool,
    threads: int,
) -> bytes:
    """A finished picture as a PNG file; `wide` is its colours, or its grey, in 16 bits."""
    icc = metadata.icc if rgb is not None else None
    texts = text_chunks(metadata.exif, metadata.xmp)
    if wide is not None:
        over = None if rgb is None or alpha is None else np.asarray(alpha)
        chunks = profile_chunks(icc, metadata.dpi) + texts
        return sixteen.encode_png16(wide, over, chunks, level=_DEFLATE[level], hide=not keep_hidden)
    plain = encode_png(rgb, alpha, icc=icc, dpi=metadata.dpi, level=level, keep_hidden=keep_hidden, threads=threads)
    return insert(plain, texts)


def tiff_page(
    tiff: Tiff,
    rgb: Image.Image | None,
    alpha: Image.Image | None,
    metadata: Metadata,
    wide: npt.NDArray[np.uint16] | None = None,
    *,
    keep_hidden: bool,
) -> None:
    """Append a finished picture to a TIFF file; `wide` is its colours, or its grey, in 16 bits."""
    only = rgb if rgb is not None else alpha
    assert only is not None  # noqa: S101 - one of the two is a picture
    width, height = only.size

    def rows(top: int, bottom: int) -> npt.NDArray[Any]:
        """Some rows of it: never a second copy of the whole picture."""
        box = (0, top, width, bottom)
        colors, over = (None if plane is None else plane.crop(box) for plane in (rgb, alpha))
        if wide is None:
            pixels: npt.NDArray[Any] = np.asarray(assemble(colors, over, keep_hidden=keep_hidden, consume=True))
        elif colors is None or over is None:
            pixels = wide[top:bottom]
        else:
            hidden = _hide(wide[top:bottom], np.asarray(over), keep=keep_hidden)
            pixels = np.dstack([hidden, sixteen.widen(over)])
        return pixels if pixels.ndim == 3 else pixels[:, :, None]

    first = rows(0, 1)
    tiff.add((height, *first.shape[1:]), first.dtype, rows, metadata, colors=rgb is not None)


def wide_colors(
    rgb: Image.Image | None, alpha: Image.Image | None, deep: npt.NDArray[np.uint16] | None, bit_depth: BitDepth
) -> npt.NDArray[np.uint16] | None:
    """The colours, or the mask alone, in 16 bits, if they are to be written so."""
    if rgb is not None and deep is not None and bit_depth is not BitDepth.EIGHT:
        return deep
    only = alpha if rgb is None else rgb
    return sixteen.widen(only) if bit_depth is BitDepth.SIXTEEN and only is not None else None


def _hide(colors: npt.NDArray[np.uint16], alpha: npt.NDArray[np.uint8] | None, *, keep: bool) -> npt.NDArray[np.uint16]:
    """Black where nothing can be seen, which compresses."""
    return colors if keep or alpha is None else np.where(alpha[:, :, None] == 0, np.uint16(0), colors)


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


def settings(
    output_format: OutputFormat, quality: int | None, metadata: Metadata, *, lossless: bool, colors: bool
) -> dict[str, Any]:
    """What Pillow's encoder of this format is told."""
    told: dict[str, Any] = _quality(output_format, quality, lossless=lossless)
    if metadata.icc and colors:
        told["icc_profile"] = metadata.icc
    if metadata.dpi:
        told["dpi"] = metadata.dpi
    if metadata.exif:
        told["exif"] = b"Exif\0\0" + metadata.exif
    if metadata.xmp:
        told["xmp"] = metadata.xmp
    return told


def _quality(output_format: OutputFormat, quality: int | None, *, lossless: bool) -> dict[str, Any]:
    match output_format:
        case OutputFormat.JPEG:
            return {"format": "JPEG", "quality": 92 if quality is None else quality, "optimize": True}
        case OutputFormat.WEBP:
            return {"format": "WEBP", "quality": 90 if quality is None else quality, "lossless": lossless}
        case OutputFormat.AVIF:
            if lossless:  # but for the rounding of YCbCr, which Pillow's encoder leaves no choice about
                return {"format": "AVIF", "quality": 100, "subsampling": "4:4:4"}
            return {"format": "AVIF", "quality": 80 if quality is None else quality}
        case OutputFormat.HEIC:
            register_heif("--format heic")
            if lossless:  # in RGB itself: the usual matrix rounds
                return {"format": "HEIF", "quality": -1, "chroma": 444, "matrix_coefficients": 0}
            return {"format": "HEIF", "quality": 80 if quality is None else quality}
        case _:
            raise AssertionError(f"{output_format} has an encoder of its own")


def register_heif(what: str) -> None:
    """Make Pillow know HEIF.

    Raises:
        OutputError: Its codec, which `what` needs, is not installed.
    """
    try:
        import pillow_heif
    except ImportError:
        raise OutputError(
            f"{what} needs a codec that is not installed", hint='pip install "cutout-cli[heif]" brings it'
        ) from None
    pillow_heif.register_heif_opener()
