"""Mask clean-up: what makes a found alpha fit for use, in one fixed order; pure functions."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageChops, ImageFilter

from cutout.imaging.components import find_regions, segment_maximum
from cutout.imaging.composite import enlarged, gaussian, grown

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    from cutout.imaging.components import Regions
    from cutout.options import RemoveOptions

    Pixels = npt.NDArray[np.uint8]
    Bools = npt.NDArray[np.bool_]

__all__ = ["clean_up", "dilate", "erode", "feather", "fill_holes", "keep_largest", "remove_small"]

_SOLID = 128
"""Alpha from which on a pixel belongs to an object."""
_SEEN = 26
"""Alpha (a tenth) from which on something is there."""
_FRINGE = 8
"""Alpha below which nothing connects."""
_GRID = 512
"""Cells of the longer side of the reduced picture in which soft pixels are shared out among the objects."""
_FRINGE_CELLS = 8
"""Cells that the soft edge of an object is wide at most: masks of 320 pixels a side have edges of half of that."""
_DISC = 8
"""Radius up to which the structuring element is an exact disc."""


def clean_up(alpha: Image.Image, options: RemoveOptions, check: Callable[[], None] = lambda: None) -> Image.Image:
    """All clean-up that was asked for, in this order; the alpha itself (mode L) where nothing was.

    1. `threshold`: hard edge
    2. `min_area`: small objects go
    3. `largest`: all objects but one go
    4. `fill_holes`: enclosed holes become opaque
    5. `erode`: the edge moves inwards
    6. `dilate`: and outwards
    7. `feather`: the edge becomes soft
    8. `invert`: subject and background change places

    Before each of them `check` is called; what it raises ends the work.
    """
    pixels = alpha.width * alpha.height
    steps: tuple[tuple[Any, Callable[[Image.Image, Any], Image.Image]], ...] = (
        (options.threshold, binary),
        (options.min_area and options.min_area.of(pixels), remove_small),
        (options.largest or None, lambda alpha, _: keep_largest(alpha)),
        (options.fill_holes and options.fill_holes.of(pixels), fill_holes),
        (options.erode or None, erode),
        (options.dilate or None, dilate),
        (options.feather or None, feather),
        (options.invert or None, lambda alpha, _: ImageChops.invert(alpha)),
    )
    for value, step in steps:
        if value is not None:
            check()
            alpha = step(alpha, value)
    return alpha


def binary(mask: Image.Image, threshold: int) -> Image.Image:
    """255 where the mask (mode L) is at or above the threshold, else 0."""
    return mask.point([0] * threshold + [255] * (256 - threshold))


def post_process(mask: Image.Image) -> Image.Image:
    """A smooth binary mask: grey opening with a 3×3 cross, Gaussian of sigma 2, threshold at half (mode L).

    The recipe is that of rembg's `post_process_mask`; its source is Kumar et al.,
    https://www.sciencedirect.com/science/article/pii/S2352914821000757
    """
    pixels = np.asarray(mask)
    opened = _cross(_cross(pixels, np.minimum), np.maximum)
    return binary(Image.fromarray(opened).filter(ImageFilter.GaussianBlur(2)), 127)


def _cross(pixels: np.ndarray, pick: np.ufunc) -> np.ndarray:
    """Erosion or dilation by the 3×3 cross; the border repeats, so that the frame is never an edge."""
    around = np.pad(pixels, 1, mode="edge")
    result = pick(around[:-2, 1:-1], around[2:, 1:-1])
    pick(result, around[1:-1, :-2], out=result)
    pick(result, around[1:-1, 2:], out=result)
    pick(result, pixels, out=result)
    return np.asarray(result)


def remove_small(alpha: Image.Image, area: float) -> Image.Image:
    """Without the objects (alpha of a tenth and more) that have fewer pixels than `area`, and without their edges."""
    objects = find_regions(np.asarray(alpha) >= _SEEN, diagonal=True)
    small = objects.areas < area
    return _without(alpha, objects, small) if small.any() else alpha


def keep_largest(alpha: Image.Image) -> Image.Image:
    """The object of the most pixels with its soft edge, and nothing else.

    An object is what hangs together at half alpha and more; soft pixels go to the object that they are connected to by
    the shortest way. Where nothing reaches half alpha, a tenth is enough.
    """
    pixels = np.asarray(alpha)
    for level in (_SOLID, _SEEN):
        objects = find_regions(pixels >= level, diagonal=True)
        if objects.count:
            others = np.arange(objects.count) != np.argmax(objects.areas)
            return _without(alpha, objects, others, alone=True)
    return alpha


def fill_holes(alpha: Image.Image, area: float = math.inf) -> Image.Image:
    """Opaque where the background (alpha below half) is enclosed by the subject, up to an area in pixels."""
    gaps = find_regions(np.asarray(alpha) < _SOLID, diagonal=False)
    holes = ~gaps.at_frame & (gaps.areas <= area)
    return ImageChops.invert(_without(ImageChops.invert(alpha), gaps, holes)) if holes.any() else alpha


def _without(alpha: Image.Image, objects: Regions, dropped: Bools, *, alone: bool = False) -> Image.Image:
    """An alpha (mode L) without some of its objects, whose solid parts are given, and without their soft edges.

    Solid parts of the others do not change. With `alone`, what is connected to no object goes too.
    """
    pixels = np.asarray(alpha)
    stays, removed = objects.paint(~dropped), objects.paint(dropped)
    factor = max(1, math.ceil(max(alpha.size) / _GRID))
    soft = _reduced(np.where(pixels >= _FRINGE, np.uint8(255), np.uint8(0)), factor)
    keep, drop = _reduced(stays, factor), _reduced(removed, factor)
    drop &= ~keep
    keep, drop = _grow(keep, drop, soft | keep | drop, soft.size if alone else _FRINGE_CELLS)
    keep, drop = _grow(keep, drop, np.ones_like(soft), _FRINGE_CELLS // 2)  # what is fainter still around them
    share = enlarged(
        Image.fromarray(np.where(keep if alone else ~drop, np.uint8(255), np.uint8(0))), alpha.size, factor
    )
    share = ImageChops.subtract(ImageChops.lighter(share, Image.fromarray(stays)), Image.fromarray(removed))
    return ImageChops.multiply(alpha, share)


def _reduced(mask: Pixels, factor: int) -> Bools:
    """Whether anything of a mask (0 or 255) is set in each cell of factor × factor pixels."""
    return np.asarray(Image.fromarray(mask).reduce(factor) if factor > 1 else mask) > 0


def _grow(one: Bools, other: Bools, ground: Bools, steps: int) -> tuple[Bools, Bools]:
    """Two areas growing over the ground cell by cell until they meet; `one` takes the cells both reach at once."""
    free = ground & ~one & ~other
    for _ in range(steps):
        gained = _touched(one) & free
        free &= ~gained
        lost = _touched(other) & free
        free &= ~lost
        if not (gained.any() or lost.any()):
            break
        one, other = one | gained, other | lost
    return one, other


def _touched(cells: Bools) -> Bools:
    """The cells and their four neighbours."""
    result = cells.copy()
    result[1:] |= cells[:-1]
    result[:-1] |= cells[1:]
    result[:, 1:] |= cells[:, :-1]
    result[:, :-1] |= cells[:, 1:]
    return result


def erode(alpha: Image.Image, radius: int) -> Image.Image:
    """The edge moved inwards by pixels: grey erosion by a disc. The frame of the picture is no edge."""
    return ImageChops.invert(dilate(ImageChops.invert(alpha), radius))


def dilate(alpha: Image.Image, radius: int) -> Image.Image:
    """The edge moved outwards by pixels: grey dilation by a disc.

    Beyond 8 pixels the disc is the sum of an exact one and an octagon (segments in four directions, each by doubling:
    van Herk 1992 has the idea of constant work a pixel), which reaches up to 8% further between the main directions.
    """
    content = alpha.getbbox()
    if content is None or radius < 1:
        return alpha
    radius = min(radius, math.ceil(math.hypot(*alpha.size)))  # further there is no picture
    box = grown(content, radius, alpha.size)
    inner = min(radius, _DISC)
    pixels = np.pad(np.asarray(alpha.crop(box)), radius)
    pixels = _by_octagon(_by_disc(pixels, inner), radius - inner)
    result = Image.new("L", alpha.size)
    result.paste(Image.fromarray(pixels), box[:2])
    return result


def _by_disc(pixels: Pixels, radius: int) -> Pixels:
    """The maximum within a disc; the result is smaller by the radius on each side."""
    height, width = pixels.shape[0] - 2 * radius, pixels.shape[1] - 2 * radius
    result = np.zeros((height, width), np.uint8)
    row = pixels[:, radius : radius + width].copy()
    reached = 0
    for dy in range(radius, -1, -1):  # from the narrowest row of the disc to the widest
        half = math.isqrt(radius * radius + radius - dy * dy)
        for dx in range(reached + 1, half + 1):
            np.maximum(row, pixels[:, radius - dx : radius - dx + width], out=row)
            np.maximum(row, pixels[:, radius + dx : radius + dx + width], out=row)
        reached = half
        for offset in {radius - dy, radius + dy}:
            np.maximum(result, row[offset : offset + height], out=result)
    return result


def _by_octagon(pixels: Pixels, radius: int) -> Pixels:
    """The maximum within an octagon; the result is smaller by the radius on each side."""
    slanted = round(radius * (1 - math.sqrt(0.5)))
    straight = radius - 2 * slanted
    pixels = segment_maximum(pixels, 2 * straight + 1, 0, 1)
    pixels = segment_maximum(pixels, 2 * straight + 1, 1, 0)
    pixels = segment_maximum(pixels, 2 * slanted + 1, 1, 1)
    return segment_maximum(pixels[::-1], 2 * slanted + 1, 1, 1)[::-1]


def feather(alpha: Image.Image, radius: int) -> Image.Image:
    """The edge faded over about `radius` pixels on either side: a Gaussian of half that sigma."""
    content = alpha.getbbox()
    if content is None:
        return alpha
    box = grown(content, 2 * radius + 1, alpha.size)
    part = gaussian(alpha.crop(box), radius / 2)
    result = Image.new("L", alpha.size)
    result.paste(part, box[:2])
    return result
