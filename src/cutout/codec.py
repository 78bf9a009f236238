"""Bytes to pixels plus what travels with them, and back: the only `Image.open` and the only encoder."""

from __future__ import annotations

import contextlib
import io
import math
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from cutout.colors import narrow, to_rgb
from cutout.errors import CutoutError, OutputError, PictureError
from cutout.options import OutputFormat, PngLevel
from cutout.png import encode_png
from cutout.sniff import HEAD, sniff

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["DEFAULT_MAX_PIXELS", "Metadata", "Picture", "decode", "encode", "from_array", "from_image"]

DEFAULT_MAX_PIXELS = 256_000_000
"""A picture of more pixels is refused: 256 megapixels take about 1 GB while they are worked on."""

# Formats with a signature of their own, and none that runs another program (EPS) or is only guessed at (TGA). Pillow
# must know every one of them: HEIF joins when its decoder is registered, and MPO is a kind of JPEG to it.
_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP", "DIB", "AVIF", "JPEG2000", "PPM", "QOI", "ICO")
_WEBP_SIDE = 16383
_ORIENTATION = 0x0112


@dataclass(frozen=True, kw_only=True, slots=True)
class Metadata:
    """What travels from the input to the output beside the pixels.

    Attributes:
        icc: ICC profile that describes the RGB values, or None for sRGB.
        dpi: Resolution in dots per inch (horizontal, vertical), or None.
    """

    icc: bytes | None = None
    dpi: tuple[float, float] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """A decoded picture, upright.

    Attributes:
        rgb: Mode RGB, 8 bits a channel.
        alpha: Mode L and of the same size, or None when the picture is opaque.
        metadata: Profile and resolution.
        notes: Things a user should know, such as that only the first frame was taken.
    """

    rgb: Image.Image
    alpha: Image.Image | None = None
    metadata: Metadata = Metadata()
    notes: tuple[str, ...] = ()


def decode(data: bytes, *, max_size: int | None = None, max_pixels: int = DEFAULT_MAX_PIXELS) -> Picture:
    """Read a picture of any supported format.

    Args:
        data: The file's bytes.
        max_size: Longest side of the result in pixels; a larger picture is scaled down (JPEGs while they are decoded).
        max_pixels: A larger picture is refused before it is decoded.

    Raises:
        PictureError: Empty, of no known format, truncated, broken, or too large. Foreign exceptions are translated
            here, and only here.
    """
    if not data:
        raise PictureError("the file is empty (0 bytes)", hint="copy it again from where it came from")
    kind = sniff(data[:HEAD])
    if kind == "HEIF":
        _register_heif()
    try:
        with (
            contextlib.nullcontext() if kind == "ICO" else _pillows_limit,  # an icon can hold a bomb unseen
            Image.open(io.BytesIO(data), formats=("HEIF",) if kind == "HEIF" else _FORMATS) as image,
        ):
            _check_size(image, max_pixels)
            if max_size is not None:
                image.draft(None, (max_size, max_size))
            picture = _read(image, max_size)
            picture.rgb.info = {}  # what still holds is in the metadata; encoders would take the rest from here
            return picture
    except CutoutError:
        raise
    except UnidentifiedImageError as error:
        raise _unidentified(kind) from error
    except Image.DecompressionBombError as error:
        raise PictureError(f"the picture is too large to be trusted: {error}") from error
    except MemoryError as error:
        raise PictureError("there is not enough memory for this picture", hint="try --jobs 1 or --max-size") from error
    except Exception as error:  # decoders raise whatever a broken file leads them into: all of it means one thing
        raise PictureError(
            f"the {kind or 'picture'} file is broken or cut short: {error}",
            hint="open it in a viewer, or copy it again from where it came from",
        ) from error


def from_image(image: Image.Image, *, max_size: int | None = None) -> Picture:
    """A Pillow image, in any mode, as a picture; the image itself is left as it is.

    Raises:
        PictureError: It has no pixels or cannot be loaded.
    """
    try:
        return _read(image, max_size)
    except CutoutError:
        raise
    except Exception as error:  # the same boundary as in `decode`, for an image opened lazily by the caller
        raise PictureError(f"the picture is broken or cut short: {error}") from error


def from_array(array: npt.NDArray[Any], *, max_size: int | None = None) -> Picture:
    """An array as a picture.

    Args:
        array: (height, width) grey, or (height, width, 1|2|3|4) grey, grey + alpha, RGB, RGBA; uint8, uint16, bool,
            or floating point of range 0–1.
        max_size: As in `decode`.

    Raises:
        PictureError: Any other shape or type.
    """
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.size == 0 or array.ndim not in {2, 3} or (array.ndim == 3 and array.shape[2] not in {2, 3, 4}):
        raise PictureError(f"an array of shape {array.shape} is no picture", hint="(H, W), (H, W, 3) and (H, W, 4) are")
    if np.issubdtype(array.dtype, np.uint16):  # of either byte order
        array = narrow(array)
    elif array.dtype == np.bool_:
        array = array.astype(np.uint8) * 255
    elif np.issubdtype(array.dtype, np.floating):
        array = np.nan_to_num(array)
        if array.max() > 2:  # more than scaling with a sharp filter overshoots
            raise PictureError(f"an array of {array.dtype} up to {array.max():g} is no picture", hint=_ARRAYS)
        array = (np.clip(array, 0, 1) * 255 + 0.5).astype(np.uint8)
    elif array.dtype != np.uint8:
        raise PictureError(f"an array of {array.dtype} is no picture", hint=_ARRAYS)
    return from_image(Image.fromarray(np.ascontiguousarray(array)), max_size=max_size)


_ARRAYS = "uint8, uint16, bool, or floats from 0 to 1 are"


def encode(
    rgb: Image.Image | None,
    alpha: Image.Image | None,
    output_format: OutputFormat,
    metadata: Metadata = Metadata(),
    *,
    quality: int | None = None,
    lossless: bool = False,
    png_level: PngLevel = PngLevel.FAST,
    keep_hidden: bool = False,
    threads: int = 1,
) -> bytes:
    """A finished picture as the bytes of a file.

    Args:
        rgb: Mode RGB; None writes `alpha` as a grey picture.
        alpha: Mode L, same size; None writes an opaque picture. JPEG takes one of the two alone.
        output_format: The format.
        metadata: Kept where the format can hold it.
        quality: 0–100 for JPEG, WebP and AVIF; None takes a good one.
        lossless: WebP and AVIF without loss.
        png_level: How hard a PNG is compressed.
        keep_hidden: Keep colours that cannot be seen exactly as they were.
        threads: Cores that work on this picture.

    Raises:
        OutputError: The format cannot hold this picture.
    """
    try:
        if output_format is OutputFormat.PNG:
            icc = metadata.icc if rgb is not None else None
            return encode_png(
                rgb, alpha, icc=icc, dpi=metadata.dpi, level=png_level, keep_hidden=keep_hidden, threads=threads
            )
        image = _assemble(rgb, alpha, keep_hidden=keep_hidden)
        if output_format is OutputFormat.WEBP and max(image.size) > _WEBP_SIDE:
            raise OutputError(
                f"WebP holds at most {_WEBP_SIDE} pixels a side, this picture has {image.width}×{image.height}",
                hint="write PNG instead, or use --max-size",
            )
        settings = _settings(output_format, quality, lossless=lossless)
        if metadata.icc and rgb is not None:
            settings["icc_profile"] = metadata.icc
        if metadata.dpi:
            settings["dpi"] = metadata.dpi
        buffer = io.BytesIO()
        image.save(buffer, **settings)
    except (CutoutError, MemoryError):
        raise
    except Exception as error:  # encoders raise many kinds for sizes and values they cannot hold
        raise OutputError(f"the picture cannot be written as {output_format.value}: {error}") from error
    return buffer.getvalue()


def _assemble(rgb: Image.Image | None, alpha: Image.Image | None, *, keep_hidden: bool) -> Image.Image:
    """One image of the planes; colours under alpha 0 become black, which compresses, unless they are to be kept."""
    if rgb is None or alpha is None:
        only = alpha if rgb is None else rgb
        assert only is not None  # noqa: S101 - one of the two is a picture
        return only
    image = rgb.convert("RGBA")
    image.putalpha(alpha)
    if not keep_hidden:
        image.paste((0, 0, 0, 0), (0, 0), alpha.point([255] + [0] * 255))
    return image


def _settings(output_format: OutputFormat, quality: int | None, *, lossless: bool) -> dict[str, Any]:
    """What Pillow's encoder of this format is told."""
    match output_format:
        case OutputFormat.JPEG:
            return {"format": "JPEG", "quality": 92 if quality is None else quality, "optimize": True}
        case OutputFormat.WEBP:
            return {"format": "WEBP", "quality": 90 if quality is None else quality, "lossless": lossless}
        case OutputFormat.TIFF:
            return {"format": "TIFF", "compression": "tiff_adobe_deflate"}
        case OutputFormat.AVIF:
            if lossless:
                return {"format": "AVIF", "quality": 100, "subsampling": "4:4:4"}
            return {"format": "AVIF", "quality": 80 if quality is None else quality}
        case OutputFormat.PNG:
            raise AssertionError("PNG has an encoder of its own")


class _Lifted:
    """Pillow's own limit of pixels, out of the way while anybody decodes: it lies below ours.

    It is a variable of Pillow's module and the calling program's to set, so it is put back.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._limit: int | None = None

    def __enter__(self) -> None:
        with self._lock:
            if self._users == 0:
                self._limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
            self._users += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._users -= 1
            if self._users == 0:
                Image.MAX_IMAGE_PIXELS = self._limit


_pillows_limit = _Lifted()


def _check_size(image: Image.Image, max_pixels: int) -> None:
    width, height = image.size
    if width * height > max_pixels:
        raise PictureError(
            f"the picture has {width}×{height} = {width * height / 1e6:.0f} megapixels, "
            f"more than the limit of {max_pixels / 1e6:.0f}",
            hint="if it is what it should be, raise --max-pixels",
        )


def _read(image: Image.Image, max_size: int | None) -> Picture:
    if min(image.size) < 1:
        raise PictureError(f"the picture has no pixels ({image.width}×{image.height})")
    notes: list[str] = []
    if (frames := getattr(image, "n_frames", 1)) > 1 and image.format != "MPO":  # MPO: a phone's extra views
        notes.append(f"only the first of {frames} frames was taken")
    image.load()
    orientation = _orientation(image)
    rgb, alpha, icc = to_rgb(image, image.info.get("icc_profile") or None)
    metadata = Metadata(icc=icc, dpi=_dpi(image.info.get("dpi")))
    if max_size is not None and max(rgb.size) > max_size:
        rgb, alpha = _limit(rgb, max_size), None if alpha is None else _limit(alpha, max_size)
    if orientation != 1:
        rgb, alpha = _upright(rgb, orientation), None if alpha is None else _upright(alpha, orientation)
    return Picture(rgb=rgb, alpha=alpha, metadata=metadata, notes=tuple(notes))


def _orientation(image: Image.Image) -> int:
    """How the pixels lie, 1–8; a broken EXIF block says nothing about a picture that is whole."""
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # noqa: BLE001 - its parser raises whatever the block leads it into
        return 1


def _limit(image: Image.Image, max_size: int) -> Image.Image:
    scale = max_size / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.LANCZOS, reducing_gap=3)


_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def _upright(image: Image.Image, orientation: int) -> Image.Image:
    turn = _TURNS.get(orientation)
    return image if turn is None else image.transpose(turn)


def _dpi(value: object) -> tuple[float, float] | None:
    try:
        across, down = (float(part) for part in value)  # type: ignore[attr-defined]
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    # 1 is what Pillow says of a TIFF that says nothing
    usable = all(math.isfinite(part) and 1 < part <= 1e5 for part in (across, down))
    return (across, down) if usable else None


def _register_heif() -> None:
    try:
        import pillow_heif
    except ImportError:
        raise PictureError(
            "this is a HEIC picture, and its decoder is not installed", hint='pip install "cutout-cli[heif]" brings it'
        ) from None
    pillow_heif.register_heif_opener()


def _unidentified(kind: str | None) -> PictureError:
    if kind is not None:
        return PictureError(
            f"the {kind} file is broken: its header cannot be read",
            hint="open it in a viewer, or copy it again from where it came from",
        )
    return PictureError("this is not a picture of a known format", hint="known: " + ", ".join(_KNOWN))


_KNOWN = ("PNG", "JPEG", "WebP", "AVIF", "HEIC", "TIFF", "BMP", "GIF", "JPEG 2000", "PPM", "QOI", "ICO")
