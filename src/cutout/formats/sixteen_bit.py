"""Pictures of 16 bits a channel: read whole, and joined with what the 8-bit pipeline made of them.

Pillow has no image of 3 × 16 bits; its decoders read such files and keep one byte of each value. Which of the two is
said by the raw mode of the image's tiles, so that decoding twice, once with each byte order, gives both.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from cutout.formats.color import grey_16

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    Deep = npt.NDArray[np.uint16]

__all__ = ["has_key", "is_deep", "key_alpha", "merge", "read_deep", "resize", "shift", "turn", "widen"]

_NATIVE = "L" if sys.byteorder == "little" else "B"
_OTHER = {"B": "L", "L": "B", "N": "B" if _NATIVE == "L" else "L"}
_GREY = frozenset({"I;16", "I;16L", "I;16B", "I;16N", "I", "F"})
_STRIP = 1 << 20


def is_deep(image: Image.Image) -> bool:
    """Whether an opened picture has more than 8 bits that `read_deep` can give."""
    return image.mode in _GREY or _raw_mode(image) is not None


def has_key(image: Image.Image) -> bool:
    """Whether one colour of an opened picture of 16 bits is transparent: Pillow compares it with 8 bits."""
    return isinstance(image.info.get("transparency"), tuple) and _raw_mode(image) is not None


def key_alpha(deep: Deep, key: tuple[int, ...]) -> Image.Image | None:
    """Alpha (mode L) of a picture in which one colour is transparent; None where no pixel has it."""
    shown = (deep != np.asarray(key, np.uint16)).any(axis=2)
    return None if shown.all() else Image.fromarray(shown.astype(np.uint8) * np.uint8(255))


def read_deep(image: Image.Image, again: Callable[[], Image.Image]) -> Deep | None:
    """Colours of 16 bits of an image that was opened by Pillow and loaded; `again` opens the same picture once more.

    Returns:
        uint16 of shape (height, width, 3), range 0–65535; None if the picture has 8 bits, or 16 in a form that is
        only read as 8 (CMYK, planes apart, premultiplied, grey beside alpha).
    """
    if image.mode in _GREY:
        grey = grey_16(image)
        return np.broadcast_to(grey[:, :, None], (*grey.shape, 3))
    second = again()
    raw = _raw_mode(second)
    if raw is None:
        return None
    other = raw[:-1] + _OTHER[raw[-1]]
    tiles: Any = second  # of the files that decoders read, not of images in general
    tiles.tile = [tile._replace(args=_with_mode(tile.args, other)) for tile in tiles.tile]
    second.load()
    if image.size != second.size or image.mode != second.mode:
        return None
    width, height = image.size
    colors = np.empty((height, width, 3), np.uint16)
    for top, bottom in _strips(width, height):  # an array of a whole picture would be one more copy, or two
        box = (0, top, width, bottom)
        part = colors[top:bottom]
        part[:] = np.asarray(image.crop(box))[:, :, :3]
        part <<= 8
        part |= np.asarray(second.crop(box))[:, :, :3]
    return colors


def _strips(width: int, height: int) -> list[tuple[int, int]]:
    step = max(1, _STRIP // (3 * width))
    return [(top, min(top + step, height)) for top in range(0, height, step)]


def _raw_mode(image: Image.Image) -> str | None:
    """The raw mode of all tiles of a picture of 16 bits a channel, or None if it is another one."""
    modes = {_mode(tile.args) for tile in getattr(image, "tile", [])}
    if image.mode not in {"RGB", "RGBA"} or len(modes) != 1:
        return None
    (mode,) = modes
    kind, _, order = (mode or "").partition(";16")
    return mode if kind in {"RGB", "RGBA", "RGBX"} and order in _OTHER else None


def _mode(args: Any) -> str | None:
    first = args[0] if isinstance(args, tuple) and args else args
    return first if isinstance(first, str) else None


def _with_mode(args: Any, mode: str) -> Any:
    return (mode, *args[1:]) if isinstance(args, tuple) else mode


def widen(image: Image.Image) -> Deep:
    """8 bits as 16: 255 becomes 65535."""
    width, height = image.size
    shape = (height, width) if image.mode == "L" else (height, width, len(image.getbands()))
    pixels = np.empty(shape, np.uint16)
    for top, bottom in _strips(width, height):
        pixels[top:bottom] = np.asarray(image.crop((0, top, width, bottom)))
    pixels *= 257
    return pixels


def turn(deep: Deep, orientation: int) -> Deep:
    """Upright, by the EXIF orientation."""
    if orientation in {5, 6, 7, 8}:
        deep = deep.swapaxes(0, 1)
    if orientation in {3, 4, 7, 8}:
        deep = deep[::-1]
    return deep[:, ::-1] if orientation in {2, 3, 6, 7} else deep


def resize(deep: Deep, size: tuple[int, int]) -> Deep:
    """Scaled to (width, height) by Lanczos' filter."""
    planes = []
    for channel in range(3):
        plane = Image.fromarray(deep[:, :, channel].astype(np.float32)).resize(size, Image.Resampling.LANCZOS)
        planes.append((np.clip(np.asarray(plane), 0, 65535) + 0.5).astype(np.uint16))
    return np.stack(planes, axis=2)


def shift(deep: Deep, left: int, top: int, size: tuple[int, int]) -> Deep:
    """In a frame of (width, height) at a place, which may lie partly outside; black beside it, as Pillow crops."""
    height, width = deep.shape[:2]
    result = np.zeros((size[1], size[0], 3), np.uint16)
    rows, columns = slice(max(0, top), max(0, top + height)), slice(max(0, left), max(0, left + width))
    inside = result[rows, columns]
    above, before = max(0, -top), max(0, -left)
    inside[:] = deep[above : above + inside.shape[0], before : before + inside.shape[1]]
    return result


def merge(deep: Deep, before: Image.Image, after: Image.Image) -> Deep | None:
    """The 16-bit colours of a result: the picture's own wherever the 8-bit pipeline left a pixel as it was.

    `deep` is the picture (height, width, 3), `before` the same in 8 bits as it went in, and `after` what came out,
    pixel on pixel.

    Returns:
        As `deep`; None if `after` is of another size, whose pixels are not those of the picture.
    """
    if after is before:
        return deep
    if after.size != before.size:
        return None
    width, height = before.size
    result: Deep | None = None
    for top, bottom in _strips(width, height):
        box = (0, top, width, bottom)
        old, new = np.asarray(before.crop(box)), np.asarray(after.crop(box))
        same = (old == new).all(axis=2, keepdims=True)
        if same.all():
            continue
        if result is None:
            result = np.array(deep)  # the picture's own is left as it is
        result[top:bottom] = np.where(same, deep[top:bottom], new.astype(np.uint16) * np.uint16(257))
    return deep if result is None else result
