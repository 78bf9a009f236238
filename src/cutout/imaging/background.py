"""What stands behind a cut-out: a picture, a gradient, its own background blurred; pure functions."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageFilter, ImageOps

from cutout.enums import BackgroundFit

if TYPE_CHECKING:
    import numpy.typing as npt

    from cutout.options.backgrounds import Gradient

    Planes = npt.NDArray[np.float32]
    Cells = npt.NDArray[np.intp]

__all__ = ["blurred", "fitted", "gradient"]

_STEPS = 2048
"""Colours of a gradient before they are rounded to 8 bits."""
_STRIP = 64
_GRID = 384
"""Cells of the longer side of the reduced picture in which the place of the subject is filled."""
_FINE = 2.0
"""Sigma in cells from which on a blurred picture cannot be told from one that was blurred at full size."""

_AROUND = 4
"""Cells around a view that the filter of the last scaling reaches."""


def fitted(picture: Image.Image, size: tuple[int, int], fit: BackgroundFit) -> Image.Image:
    """A background picture (mode RGB) at a size (width, height)."""
    match fit:
        case BackgroundFit.COVER:
            return ImageOps.fit(picture, size, Image.Resampling.LANCZOS)
        case BackgroundFit.STRETCH:
            return picture.resize(size, Image.Resampling.LANCZOS)
        case BackgroundFit.CONTAIN:
            inside = ImageOps.contain(picture, size, Image.Resampling.LANCZOS)
            result = Image.new("RGB", size, "white")
            result.paste(inside, ((size[0] - inside.width) // 2, (size[1] - inside.height) // 2))
            return result
        case BackgroundFit.TILE:
            return _picked(picture, np.arange(size[1]) % picture.height, np.arange(size[0]) % picture.width)


def gradient(ends: Gradient, size: tuple[int, int]) -> Image.Image:
    """A linear gradient (mode RGB) of a size (width, height), with the geometry of CSS.

    The line through the middle in the gradient's direction is so long that the corners have the pure colours.
    """
    width, height = size
    sine, cosine = math.sin(math.radians(ends.angle)), math.cos(math.radians(ends.angle))
    length = abs(width * sine) + abs(height * cosine)
    share = np.linspace(0, 1, _STEPS)[:, None]
    colors_of = np.round(np.array(ends.start) * (1 - share) + np.array(ends.end) * share).astype("<u4")
    table = colors_of @ np.array([1, 1 << 8, 1 << 16], "<u4")  # red, green, blue, and a byte that is not used
    across = (np.arange(width, dtype=np.float32) + 0.5 - width / 2) * np.float32(sine / length)
    down = 0.5 - (np.arange(height, dtype=np.float32) + 0.5 - height / 2) * np.float32(cosine / length)
    result = Image.new("RGB", size)
    for top in range(0, height, _STRIP):
        place = (across + down[top : top + _STRIP, None]) * (_STEPS - 1) + 0.5
        strip = np.take(table, place.astype(np.int32), mode="clip")
        result.paste(Image.frombytes("RGB", (width, strip.shape[0]), strip.tobytes(), "raw", "RGBX"), (0, top))
    return result


def blurred(
    rgb: Image.Image,
    alpha: Image.Image,
    sigma: float,
    size: tuple[int, int],
    view: tuple[float, float, float, float],
) -> Image.Image:
    """The picture's own background, blurred as if the subject were not there.

    The subject's place is filled from around it first (push-pull, Gortler et al. 1996, "The Lumigraph"), so that none
    of its colour gets into the blur. Where the view passes the picture's frame, the picture is mirrored.

    Args:
        rgb: The picture, mode RGB.
        alpha: Where the subject is, mode L, same size.
        sigma: Of the Gaussian, in pixels of the picture.
        size: Width and height of the result.
        view: What of the picture the result shows: left, top, right, bottom in pixels of the picture.
    """
    shrink = (view[2] - view[0]) / size[0]  # no more cells than the result can show, however much of it is mirrored
    base, factor = _without_subject(rgb, alpha, max(1, int(sigma / _FINE), int(shrink)))
    if sigma > 0:
        base = base.filter(ImageFilter.GaussianBlur(sigma / factor))
    left, top, right, bottom = (edge / factor for edge in view)
    across, down = rgb.width / factor, rgb.height / factor  # the last cells may lie half outside of the picture
    if left < 0 or top < 0 or right > across or bottom > down:
        columns, rows = _mirrored(left, right, max(1, int(across))), _mirrored(top, bottom, max(1, int(down)))
        base = _picked(base, rows, columns)
        before, over = math.floor(left) - _AROUND, math.floor(top) - _AROUND
        left, top, right, bottom = left - before, top - over, right - before, bottom - over
    right, bottom = min(right, base.width), min(bottom, base.height)
    if left.is_integer() and top.is_integer() and (right - left, bottom - top) == (float(size[0]), float(size[1])):
        return base.crop((left, top, right, bottom))
    return base.resize(size, Image.Resampling.BICUBIC, box=(left, top, right, bottom))


def _mirrored(low: float, high: float, count: int) -> Cells:
    """The cells, of so many, that are seen from `low` to `high` and a little around, where the frame is a mirror."""
    cells = np.arange(math.floor(low) - _AROUND, math.ceil(high) + _AROUND) % (2 * count)
    return np.minimum(cells, 2 * count - 1 - cells)


def _picked(image: Image.Image, rows: Cells, columns: Cells) -> Image.Image:
    """These rows and columns of an image, without an image larger than both it and the result on the way."""
    pixels = np.asarray(image)
    if rows.size * image.width <= columns.size * image.height:
        return Image.fromarray(pixels.take(rows, 0).take(columns, 1))
    return Image.fromarray(pixels.take(columns, 1).take(rows, 0))


def _without_subject(rgb: Image.Image, alpha: Image.Image, factor: int) -> tuple[Image.Image, int]:
    """The picture reduced, its subject replaced by what is around it, and the factor, not above the one given."""
    cell = max(1, math.ceil(max(rgb.size) / _GRID))
    # a cell is clean when neither it nor a neighbour has anything of the subject; masks end a little early
    covered = alpha.point([0] * 3 + [255] * 253).reduce(cell).point([0] + [255] * 255)
    covered = covered.filter(ImageFilter.MaxFilter(5))
    if covered.getextrema()[0]:  # there is no background at all
        return rgb.reduce(factor), factor
    coarse = rgb.reduce(cell)
    clean = (np.asarray(covered) == 0).astype(np.float32)
    colors = _push_pull(np.asarray(coarse, np.float32), clean)
    filling = Image.fromarray(np.clip(colors + 0.5, 0, 255).astype(np.uint8))
    if factor >= cell:
        further = factor // cell
        return Image.composite(filling, coarse, covered).reduce(further), cell * further
    base = rgb.reduce(factor)
    box = (0, 0, rgb.width / cell, rgb.height / cell)
    filling = filling.resize(base.size, Image.Resampling.BICUBIC, box=box)
    return Image.composite(filling, base, covered.resize(base.size, Image.Resampling.BILINEAR, box=box)), factor


def _push_pull(colors: Planes, weight: Planes) -> Planes:
    """Colours (height, width, 3), those of weight 0 (height, width) filled from ever coarser means of the others."""
    if weight.all() or min(weight.shape) < 2:
        mean = (colors * weight[..., None]).sum((0, 1)) / max(float(weight.sum()), 1e-6)
        return np.asarray(np.where(weight[..., None] > 0, colors, mean), np.float32)
    odd = [(0, side % 2) for side in weight.shape]
    weight = np.pad(weight, odd)
    colors = np.pad(colors, [*odd, (0, 0)])
    mass = _quarter(weight)
    means = np.asarray(_quarter(colors * weight[..., None]) / np.maximum(mass, 1e-6)[..., None], np.float32)
    coarse = _push_pull(means, np.minimum(mass, np.float32(1)))
    finer = _smooth(_smooth(coarse.repeat(2, axis=0).repeat(2, axis=1), 0), 1)
    filled = colors * weight[..., None] + finer * (1 - weight[..., None])
    return np.asarray(filled[: filled.shape[0] - odd[0][1], : filled.shape[1] - odd[1][1]], np.float32)


def _quarter(planes: Planes) -> Planes:
    """Sums of 2×2."""
    return planes[::2, ::2] + planes[1::2, ::2] + planes[::2, 1::2] + planes[1::2, 1::2]


def _smooth(planes: Planes, axis: int) -> Planes:
    """1-2-1 along an axis; the frame repeats."""
    planes = np.moveaxis(planes, axis, 0)
    around = np.concatenate((planes[:1], planes, planes[-1:]))
    mean = (around[:-2] + 2 * planes + around[2:]) / 4
    return np.asarray(np.moveaxis(mean, 0, axis), np.float32)
