"""Mask clean-up: what makes a found alpha fit for use, in one fixed order; pure functions."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageChops, ImageFilter

from cutout.imaging.components import find_regions, segment_maximum
from cutout.imaging.composite import enlarged, gaussian, grown

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    from cutout.options import RemoveOptions

    Pixels = npt.NDArray[np.uint8]

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

    Between them `check` is called; what it raises ends the work.
    """
    if options.threshold is not None:
        alpha = binary(alpha, options.threshold)
    pixels = alpha.width * alpha.height
    if options.min_area is not None:
        check()
        alpha = remove_small(alpha, options.min_area.of(pixels))
    if options.largest:
        check()
        alpha = keep_largest(alpha)
    if (largest := options.fill_holes) is not None:
        check()
        alpha = fill_holes(alpha, largest.of(pixels))
    if options.erode:
        check()
        alpha = erode(alpha, options.erode)
    if options.dilate:
        check()
        alpha = dilate(alpha, options.dilate)
    if options.feather:
        check()
        alpha = feather(alpha, options.feather)
    return ImageChops.invert(alpha) if options.invert else alpha


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
    pixels = np.asarray(alpha)
    objects = find_regions(pixels >= _SEEN, diagonal=True)
    small = objects.areas < area
    if not small.any():
        return alpha
    return Image.fromarray(_without(pixels, objects.paint(small), objects.paint(~small), everywhere=False))


def keep_largest(alpha: Image.Image) -> Image.Image:
    """The object of the most pixels with its soft edge, and nothing else.

    An object is what hangs together at half alpha and more; soft pixels go to the object that they are connected to by
    the shortest way. Where nothing reaches half alpha, a tenth is enough.
    """
    pixels = np.asarray(alpha)
    objects = find_regions(pixels >= _SOLID, diagonal=True)
    if not objects.count:
        objects = find_regions(pixels >= _SEEN, diagonal=True)
    if not objects.count:
        return alpha
    best = np.arange(objects.count) == np.argmax(objects.areas)
    return Image.fromarray(_without(pixels, objects.paint(~best), objects.paint(best), everywhere=True))


def fill_holes(alpha: Image.Image, area: float = math.inf) -> Image.Image:
    """Opaque where the background (alpha below half) is enclosed by the subject, up to an area in pixels."""
    clear = 255 - np.asarray(alpha)
    gaps = find_regions(clear > 255 - _SOLID, diagonal=False)
    holes = ~gaps.at_frame & (gaps.areas <= area)
    if not holes.any():
        return alpha
    return Image.fromarray(255 - _without(clear, gaps.paint(holes), gaps.paint(~holes), everywhere=False))


def _without(pixels: Pixels, dropped: Pixels, kept: Pixels, *, everywhere: bool) -> Pixels:
    """Soft pixels without some of the objects that they form.

    Args:
        pixels: uint8 (height, width).
        dropped: 255 on the solid part of what goes.
        kept: 255 on the solid part of what stays; those pixels do not change.
        everywhere: What is connected to neither goes too.
    """
    height, width = pixels.shape
    factor = max(1, math.ceil(max(width, height) / _GRID))
    soft = _reduced(np.where(pixels >= _FRINGE, np.uint8(255), np.uint8(0)), factor)
    keep, drop = _reduced(kept, factor), _reduced(dropped, factor)
    drop &= ~keep
    keep, drop = _grow(keep, drop, soft | keep | drop, soft.size if everywhere else _FRINGE_CELLS)
    anywhere = np.ones_like(soft)
    keep, drop = _grow(keep, drop, anywhere, _FRINGE_CELLS // 2)  # what is fainter still around them
    share = Image.fromarray(np.where(keep if everywhere else ~drop, np.uint8(255), np.uint8(0)))
    share = enlarged(share, (width, height), factor)
    share = ImageChops.lighter(share, Image.fromarray(np.ascontiguousarray(kept)))
    share = ImageChops.subtract(share, Image.fromarray(np.ascontiguousarray(dropped)))
    return np.asarray(ImageChops.multiply(Image.fromarray(np.ascontiguousarray(pixels)), share))


def _reduced(mask: Pixels, factor: int) -> npt.NDArray[np.bool_]:
    """Whether anything of a mask (0 or 255) is set in each cell of factor × factor pixels."""
    if factor == 1:
        return mask > 0
    return np.asarray(Image.fromarray(np.ascontiguousarray(mask)).reduce(factor)) > 0


def _grow(
    one: npt.NDArray[np.bool_], other: npt.NDArray[np.bool_], ground: npt.NDArray[np.bool_], steps: int
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
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


def _touched(cells: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
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
    if part.size == alpha.size:
        return part
    result = Image.new("L", alpha.size)
    result.paste(part, box[:2])
    return result
