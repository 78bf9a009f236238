"""A decoded picture, and how an image of Pillow's or an array of numpy's becomes one: upright, in RGB."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import Image

from cutout.errors import CutoutError, PictureError
from cutout.formats.color import narrow, to_rgb
from cutout.formats.metadata import NO_METADATA, Metadata, read_dpi, read_exif, read_xmp

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    import numpy.typing as npt

    _Deep = Callable[[Image.Image], npt.NDArray[np.uint16] | None]

__all__ = ["ONLY_FIRST", "Header", "Picture", "from_array", "from_image", "limited", "orientation_of", "read_image"]

ONLY_FIRST = "only the first of "
"""How the note begins that a picture has more frames."""
_ORIENTATION = 0x0112
_RESOLUTION = 282
_ICC = 34675


class Header(NamedTuple):
    """What a file says of its picture before it is decoded."""

    size: tuple[int, int]
    """Width and height, as they lie in the file; of a file of many pages those of the largest."""
    turned: bool = False
    """It must be turned or mirrored to stand upright, which takes a copy."""
    kind: str = "JPEG"
    """Pillow's name of the format."""
    mode: str = "RGB"
    """Pillow's name of how the pixels are held."""
    deep: bool = False
    """It has more than 8 bits a channel that can be given."""
    frames: int = 1
    """Frames or pages that are wanted of it."""
    progressive: bool = False
    """It is decoded in several passes."""


class Picture(NamedTuple):
    """A decoded picture, upright."""

    rgb: Image.Image
    """Mode RGB, 8 bits a channel."""
    alpha: Image.Image | None = None
    """Mode L and of the same size, or None when the picture is opaque."""
    metadata: Metadata = NO_METADATA
    """Profile, resolution, EXIF and XMP."""
    notes: tuple[str, ...] = ()
    """Things a user should know, such as that only the first frame was taken."""
    deep: npt.NDArray[np.uint16] | None = None
    """The colours in 16 bits, uint16 of shape (height, width, 3), if they were asked for and are there."""
    frames: int = 1
    """How many frames or pages the file has."""
    paged: bool = False
    """They are pages, each a picture of its own; otherwise an animation of one size."""
    duration: float = 0.0
    """Milliseconds that a frame is shown."""
    loop: int = 0
    """How often the animation plays; 0 is for ever."""


def read_image(
    image: Image.Image,
    max_size: int | None,
    *,
    tiff: tuple[bytes, int] | None = None,
    deep: _Deep | None = None,
    screen: tuple[int, int] | None = None,
    before: Picture | None = None,
) -> Picture:
    """An image as a picture.

    Args:
        image: Opened by Pillow, at the frame to be read.
        max_size: Longest side of the result, or None.
        tiff: For a page of a TIFF file, the file's bytes and where the page's directory starts.
        deep: Gives colours of 16 bits for the loaded image, or None.
        screen: For a further frame, the size of the first.
        before: For a further frame of an animation, the first: its metadata is not read for each anew.

    Raises:
        PictureError: It has no pixels.
        ValueError: A frame of another size. Decoders raise more.
    """
    if min(image.size) < 1:
        raise PictureError(f"the picture has no pixels ({image.width}×{image.height})")
    with _listening(image) as damage:
        image.load()
        colors = None if deep is None else deep(image)
    if before is None:
        metadata, notes = _metadata(image, tiff)
    else:
        metadata, notes = before.metadata._replace(icc=image.info.get("icc_profile") or None), before.notes
    if damage:
        notes += (f"the TIFF file is damaged, and the picture may be wrong in places: {damage}",)
    whole = image
    if screen is not None and image.size != screen and image.format == "GIF":  # as browsers do
        whole = image.crop((0, 0, *screen))
    elif screen is not None and image.size != screen and image.format != "TIFF":
        raise ValueError(f"it has {image.width}×{image.height} pixels, the first one {screen[0]}×{screen[1]}")
    rgb, alpha, icc = to_rgb(whole, metadata.icc)
    size, orientation = limited(rgb.size, max_size), orientation_of(image)
    if colors is not None:
        from cutout.formats import sixteen_bit

        if isinstance(key := image.info.get("transparency"), tuple):
            alpha = sixteen_bit.key_alpha(colors, key)
        if icc is None and metadata.icc is not None:
            colors = None
        else:
            colors = colors if size == rgb.size else sixteen_bit.resize(colors, size)
            colors = sixteen_bit.turn(colors, orientation)

    def upright(plane: Image.Image) -> Image.Image:
        plane = plane if plane.size == size else plane.resize(size, Image.Resampling.LANCZOS, reducing_gap=3)
        return plane.transpose(_TURNS[orientation]) if orientation in _TURNS else plane

    duration, loop = _timing(image)
    return Picture(
        rgb=upright(rgb),
        alpha=None if alpha is None else upright(alpha),
        metadata=metadata._replace(icc=icc),
        notes=notes,
        deep=colors,
        duration=duration,
        loop=loop,
    )


def _listening(image: Image.Image) -> AbstractContextManager[object]:
    """Around the decoding of an image: what libtiff says of a damaged file."""
    if image.format != "TIFF":
        return nullcontext()
    from cutout.formats.checks.tiff import listening

    return listening()


def _metadata(image: Image.Image, tiff: tuple[bytes, int] | None) -> tuple[Metadata, tuple[str, ...]]:
    exif, of_exif = read_exif(image.info, tiff)
    xmp, of_xmp = read_xmp(image.info.get("xmp"))
    info = dict(image.info)
    tags: Any = getattr(image, "tag_v2", None)
    if tags is not None:  # what a page does not say itself would be left from the page before
        info["icc_profile"] = tags.get(_ICC)
        if _RESOLUTION not in tags:
            info.pop("dpi", None)
    metadata = Metadata(icc=info.get("icc_profile") or None, dpi=read_dpi(info.get("dpi")), exif=exif, xmp=xmp)
    return metadata, of_exif + of_xmp


def _timing(image: Image.Image) -> tuple[float, int]:
    """Milliseconds of a frame, and how often the animation plays."""
    try:
        duration, loop = float(image.info.get("duration") or 0), image.info.get("loop")
        if image.format == "GIF":  # its loop counts repetitions
            return duration or _DEFAULT_DURATION, 1 if loop is None else loop and loop + 1
        return max(0.0, duration), int(loop or 0)
    except (TypeError, ValueError):
        return _DEFAULT_DURATION, 0


_DEFAULT_DURATION = 100.0
"""Milliseconds for which browsers show the frame of a GIF that says none."""


def orientation_of(image: Image.Image) -> int:
    """How the pixels lie, 1–8; a broken EXIF block says nothing about a picture that is whole."""
    block = image.info.get("exif")
    if isinstance(block, bytes):
        from cutout.formats.metadata.exif import is_crowded

        if is_crowded(block):  # older Pillows read all that its entries point to
            return 1
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # noqa: BLE001 - its parser raises whatever the block leads it into
        return 1


def limited(size: tuple[int, int], max_size: int | None) -> tuple[int, int]:
    """Width and height of a picture that is scaled down to a longest side of `max_size`, if it is given."""
    if max_size is None or max(size) <= max_size:
        return size
    scale = max_size / max(size)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def from_image(image: Image.Image, *, max_size: int | None = None) -> Picture:
    """A Pillow image, in any mode, as a picture; the image itself is left as it is.

    Raises:
        PictureError: It has no pixels or cannot be loaded.
    """
    try:
        return read_image(image, max_size)
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
