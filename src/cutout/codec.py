"""Bytes to pixels plus what travels with them, and back: the only `Image.open` and the only encoder."""

from __future__ import annotations

import contextlib
import io
import math
import threading
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from cutout import deep as sixteen
from cutout.colors import narrow
from cutout.encoder import encode, register_heif
from cutout.errors import CutoutError, OutputError, PictureError
from cutout.estimate import Header
from cutout.exif import pages, sizes
from cutout.metadata import Metadata
from cutout.picture import ONLY_FIRST, Picture, orientation_of, read
from cutout.sniff import HEAD, icon_pixels, is_camera_raw, sniff, whole_gif_frames

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

__all__ = [
    "DEFAULT_MAX_FRAMES",
    "DEFAULT_MAX_PIXELS",
    "Metadata",
    "Picture",
    "TooLargeError",
    "decode",
    "encode",
    "film",
    "from_array",
    "from_image",
    "header",
]


class TooLargeError(PictureError):
    """The picture has more pixels than are allowed."""


DEFAULT_MAX_PIXELS = 256_000_000
"""A picture of more pixels is refused: 256 megapixels take about 1 GB while they are worked on."""

DEFAULT_MAX_FRAMES = 1000
"""An animation of more frames is refused: every one of them takes the time of a picture."""

# Formats with a signature of their own, and none that runs another program (EPS) or is only guessed at (TGA). Pillow
# must know every one of them: HEIF joins when its decoder is registered, and MPO is a kind of JPEG to it.
_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP", "DIB", "AVIF", "JPEG2000", "PPM", "QOI", "ICO")


def decode(
    data: bytes, *, max_size: int | None = None, max_pixels: int = DEFAULT_MAX_PIXELS, deep: bool = False
) -> Picture:
    """Read a picture of any supported format; of an animation or a file of many pages, the first.

    Args:
        data: The file's bytes.
        max_size: Longest side of the result in pixels; a larger picture is scaled down (JPEGs while they are decoded).
        max_pixels: A larger picture is refused before it is decoded.
        deep: Also give colours of 16 bits, if there are any.

    Raises:
        PictureError: Empty, of no known format, truncated, broken, or too large. Foreign exceptions are translated
            here, and only here.
    """
    with _opened(data) as image:
        _check_size(image, max_pixels)
        _check_gif(image, data, 1)
        first, *rest = frame_numbers = _frames(image)
        if first:
            image.seek(first)
        picture = _frame(data, image, max_size=max_size, max_pixels=max_pixels, deep=deep)
        picture.rgb.info = {}  # what still holds is in the metadata; encoders would take the rest from here
        if not rest:
            return picture
        note = f"{ONLY_FIRST}{len(frame_numbers)} frames was taken"
        frames = 1 if image.format == "HEIF" else len(frame_numbers)  # a HEIC file is an album, and not in order
        return replace(picture, frames=frames, notes=(note, *picture.notes))


def film(
    data: bytes,
    *,
    max_size: int | None = None,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    max_frames: int = DEFAULT_MAX_FRAMES,
    deep: bool = False,
) -> Iterator[Picture]:
    """Read an animation or a file of many pages, picture by picture; no more than one is in memory at once.

    Args:
        data: The file's bytes.
        max_size: As in `decode`.
        max_pixels: Of each picture.
        max_frames: A file of more frames is refused.
        deep: As in `decode`.

    Raises:
        PictureError: As in `decode`; also when frames are missing or broken, too many, or of different sizes.
    """
    with _opened(data) as image:
        _check_size(image, max_pixels)
        numbers = _frames(image)
        _check_gif(image, data, len(numbers) + 1)
        if len(numbers) > max_frames:
            raise PictureError(
                f"it has {len(numbers)} frames, more than the limit of {max_frames}",
                hint="--first-frame takes the first alone; --max-frames raises the limit",
            )
        size: tuple[int, int] | None = None
        for count, number in enumerate(numbers, 1):
            try:
                image.seek(number)
                picture = _frame(data, image, max_size=max_size, max_pixels=max_pixels, deep=deep, screen=size)
            except (OSError, EOFError, SyntaxError, ValueError) as error:
                raise PictureError(
                    f"frame {count} of {len(numbers)} is broken or cut short: {error}",
                    hint="--first-frame takes the first alone",
                ) from error
            size = size or image.size
            # the decoder paints the next frame over this one, by what its `info` says of this one's place and disposal
            rgb = image.copy() if picture.rgb is image else picture.rgb
            rgb.info = {}
            yield replace(picture, rgb=rgb, frames=len(numbers))


def header(data: bytes, *, max_pixels: int = DEFAULT_MAX_PIXELS, max_frames: int = 1) -> Header:
    """What a file says of its picture; nothing is decoded.

    Args:
        data: The file's bytes.
        max_pixels: As in `decode`.
        max_frames: Frames or pages that are wanted at most; of pages, the largest is looked for among so many.

    Raises:
        PictureError: As in `decode`, as far as the header shows it.
    """
    if data and sniff(data[:HEAD]) == "ICO":  # which Pillow decodes while it opens it, and `_opened` keeps small
        side = math.ceil(math.sqrt(min(max(1, icon_pixels(data)), _LARGEST_ICON)))
        return Header(size=(side, side), kind="ICO", mode="RGBA")
    with _opened(data) as image:
        _check_size(image, max_pixels)
        found = sizes(data, max_frames) if image.format == "TIFF" and max_frames > 1 else []
        return Header(
            size=max((image.size, *found), key=lambda sides: sides[0] * sides[1]),
            turned=image.format in {"JPEG", "MPO"} and orientation_of(image) != 1,  # Pillow decodes PNGs to tell
            kind=image.format or "",
            mode="RGBA" if image.mode == "RGB" and image.has_transparency_data else image.mode,
            deep=sixteen.is_deep(image) or sixteen.has_key(image),
            frames=1 if max_frames < 2 else min(max_frames, max(1, len(found) or _said_frames(image, data))),
            progressive="progressive" in image.info,
        )


def _said_frames(image: Image.Image, data: bytes) -> int:
    """How many frames an animation has by its header, and no more than its bytes can hold."""
    if image.format == "GIF":
        return whole_gif_frames(data)[0]
    if image.format not in {"PNG", "WEBP", "AVIF"}:
        return 1
    return min(int(getattr(image, "n_frames", 1)), len(data) // _SMALLEST_FRAME)


_SMALLEST_FRAME = 20
"""Bytes that no frame of any format goes below."""


@contextlib.contextmanager
def _opened(data: bytes) -> Iterator[Image.Image]:
    """Pillow's image of a file, every exception about it translated."""
    if not data:
        raise PictureError("the file is empty (0 bytes)", hint="copy it again from where it came from")
    if is_camera_raw(data):
        raise PictureError(
            "this is a camera raw file, of which only a preview could be read",
            hint="develop it first: export a TIFF or JPEG",
        )
    kind = sniff(data[:HEAD])
    if kind == "HEIF":
        _register_heif()
    if kind == "ICO" and (pixels := icon_pixels(data)) > _LARGEST_ICON:  # Pillow decodes icons while it opens them
        raise PictureError(
            f"the icon holds a picture of {pixels / 1e6:.0f} megapixels, too large to be trusted",
            hint="take the picture that the icon was made from",
        )
    try:
        with (
            contextlib.nullcontext() if kind == "ICO" else _pillows_limit,  # an icon can hold a bomb unseen
            _open(data, kind) as image,
        ):
            yield image
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


def _open(data: bytes, kind: str | None) -> Image.Image:
    image = Image.open(io.BytesIO(data), formats=("HEIF",) if kind == "HEIF" else _FORMATS)
    key, raw = image.info.get("transparency"), [tile.args for tile in getattr(image, "tile", [])][:1]
    if image.mode == "L" and isinstance(key, int) and raw:  # Pillow widens the pixels alone
        image.info["transparency"] = key * {"L;2": 85, "L;4": 17}.get(str(raw[0]), 1)
    if image.mode == "1" and key == 1:  # as Pillow before 12 has it
        image.info["transparency"] = 255
    return image


def _check_gif(image: Image.Image, data: bytes, wanted: int) -> None:
    """Refuse a GIF whose first frames are not all there."""
    if image.format == "GIF":
        there, more = whole_gif_frames(data)
        if there < wanted and more:
            raise PictureError(
                f"the GIF file is cut short in its frame {there + 1}",
                hint="copy it again from where it came from" + ("; --first-frame takes the first alone" * (there > 0)),
            )


def _frames(image: Image.Image) -> list[int]:
    """The numbers of the frames that are pictures to be seen."""
    count: int = getattr(image, "n_frames", 1)
    if count < 2 or image.format == "MPO":  # a phone's extra views
        return [image.tell()]
    if image.format == "HEIF":
        return [image.tell(), *(number for number in range(count) if number != image.tell())]
    if image.format == "PNG" and image.info.get("default_image"):  # shown where animations are not understood
        return list(range(1, count))
    if image.format != "TIFF":
        return list(range(count))
    found = []
    for number in range(count):
        image.seek(number)
        if not image.tag_v2.get(_PURPOSE, 0) & _NO_PAGE:  # type: ignore[attr-defined]
            found.append(number)
    found = found or [0]
    image.seek(found[0])
    return found


_LARGEST_ICON = 4096 * 4096
"""Pixels; icons that programs make have 256 × 256, at most 1024 × 1024."""
_PURPOSE = 254
_NO_PAGE = 1 | 4
"""Bits of a TIFF directory that is a smaller copy of another one, or a mask for it."""


def _frame(
    data: bytes,
    image: Image.Image,
    *,
    max_size: int | None,
    max_pixels: int,
    deep: bool,
    screen: tuple[int, int] | None = None,
) -> Picture:
    """The frame that an opened image stands at; its `rgb` may be that image itself."""
    _check_size(image, max_pixels)
    if max_size is not None:
        image.draft(None, (max_size, max_size))
    number = image.tell()

    def again() -> Image.Image:
        second = _open(data, None)
        second.seek(number)
        return second

    wide = (deep and sixteen.is_deep(image)) or sixteen.has_key(image)
    wanted = partial(sixteen.read, again=again) if wide else None
    paged = image.format == "TIFF"
    picture = read(image, max_size, tiff=_tiff(data, image) if paged else None, deep=wanted, screen=screen)
    return replace(picture, paged=paged, deep=picture.deep if deep else None)


def from_image(image: Image.Image, *, max_size: int | None = None) -> Picture:
    """A Pillow image, in any mode, as a picture; the image itself is left as it is.

    Raises:
        PictureError: It has no pixels or cannot be loaded.
    """
    try:
        return read(image, max_size)
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
        raise TooLargeError(
            f"the picture has {width}×{height} = {width * height / 1e6:.0f} megapixels, "
            f"more than the limit of {max_pixels / 1e6:.0f}",
            hint="if it is what it should be, raise --max-pixels",
        )


def _tiff(data: bytes, image: Image.Image) -> tuple[bytes, int] | None:
    """The bytes of a TIFF file and where the directory of the page stands."""
    places = pages(data)
    return (data, places[image.tell()]) if image.tell() < len(places) else None


def _register_heif() -> None:
    try:
        register_heif("this is a HEIC picture, which")
    except OutputError as error:
        raise PictureError(error.message, hint=error.hint) from None


def _unidentified(kind: str | None) -> PictureError:
    if kind is not None:
        return PictureError(
            f"the {kind} file is broken: its header cannot be read",
            hint="open it in a viewer, or copy it again from where it came from",
        )
    return PictureError("this is not a picture of a known format", hint="known: " + ", ".join(_KNOWN))


_KNOWN = ("PNG", "JPEG", "WebP", "AVIF", "HEIC", "TIFF", "BMP", "GIF", "JPEG 2000", "PPM", "QOI", "ICO")
