"""Alpha matting: a trimap from the mask, closed-form matting of its unknown band, at a cost that is bounded.

The band is solved on a grid that is coarse enough for it to have few pixels, beginning with still coarser ones, and the
local linear models of the solution are applied to the picture.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from cutout.errors import CutoutError
from cutout.imaging.closed_form import Band
from cutout.imaging.components import square_maximum
from cutout.imaging.composite import enlarged
from cutout.imaging.guided_filter import to_mask

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    from cutout.options import RemoveOptions

    Bytes = npt.NDArray[np.uint8]
    Floats = npt.NDArray[np.float32]
    Bools = npt.NDArray[np.bool_]

__all__ = ["UnsolvableError", "matte", "trimap"]

# The figures behind these are in docs/quality-matting.md.
_WINDOW = 3  # side of the windows over which the solver compares colours
_FEW, _MOST = 24_000, 96_000  # unknown pixels that a grid as fine as the picture, and any coarser one, may have
_LARGEST_GRID = 4_000_000  # pixels of a grid: what bounds the memory
_COARSEST = 1_500  # unknown pixels from which a still coarser grid would not pay
_STEPS, _COARSE_STEPS = 25, 80  # of the conjugate gradients; those on coarser grids cost little
_EPSILON = 4e-6
_PULL, _SURE_PULL = 1e-3, 2e-2  # to the mask where it says nothing, and what is added where it is sure
_STEEPER = 1.5  # the mask's edge is blurred by its network's own grid
_GUIDE = 3  # times as fine as the grid: finer still, and the grain of the picture becomes grain of alpha
_TILE = 256


class UnsolvableError(CutoutError):
    """The trimap has no sure foreground, no sure background or nothing unknown, or the picture is too small."""

    kind = "matting"


def matte(
    rgb: Image.Image, mask: Image.Image, options: RemoveOptions, check: Callable[[], None] = lambda: None
) -> Image.Image:
    """The alpha of a picture along its own edges.

    Args:
        rgb: Mode RGB.
        mask: Mode L, of the same size.
        options: `matting_foreground`, `matting_background` and `matting_erode` make the trimap.
        check: Called between the steps; what it raises ends the work.

    Returns:
        Mode L: 255 and 0 where the trimap is sure, the solution of closed-form matting between.

    Raises:
        UnsolvableError: The caller keeps the plain mask.
    """
    known = trimap(
        mask,
        foreground=options.matting_foreground,
        background=options.matting_background,
        erode=options.matting_erode,
    )
    amount = np.bincount(known.reshape(-1), minlength=256)
    for name, value in (("sure foreground", 255), ("sure background", 0), ("unknown pixels", 128)):
        if not amount[value]:
            raise UnsolvableError(f"the trimap has no {name}")
    if min(rgb.size) < _WINDOW:
        raise UnsolvableError("the picture is too small")
    factor = _coarseness(int(amount[128]), rgb.size)
    sure = Image.fromarray(known)
    found, band = _solve(*_reduced(factor, rgb, mask, sure), steps=_STEPS, check=check)
    if factor == 1:
        return to_mask(found)
    guide = max(1, round(factor / _GUIDE))
    guiding, around = _reduced(guide, rgb, sure)
    alpha = _carry(band.models(found), guiding, around, factor / guide, check)
    if guide > 1:
        fine = enlarged(Image.fromarray(alpha), rgb.size, guide)
        alpha = np.where(known == 128, np.asarray(fine), known)
    return Image.fromarray(alpha)


def trimap(mask: Image.Image, *, foreground: int, background: int, erode: int) -> Bytes:
    """255 surely foreground, 0 surely background, 128 unknown; shape (height, width).

    Args:
        mask: Mode L.
        foreground: Mask values above it are surely foreground.
        background: Mask values below it are surely background.
        erode: Side of the square by which both sure regions are eroded, in pixels; 0 leaves them. Beyond the frame
            nothing is foreground, but all may be background.
    """
    values = np.asarray(mask)
    result = np.full(values.shape, 128, np.uint8)
    result[_eroded(values > foreground, erode, beyond=False)] = 255
    result[_eroded(values < background, erode, beyond=True)] = 0
    return result


def _eroded(region: Bools, side: int, *, beyond: bool) -> Bools:
    """Eroded by a square that reaches one pixel farther to the top and left where its side is even."""
    side = min(side, 2 * max(region.shape) + 2)  # from everywhere beyond the frame
    if side < 2:
        return region
    outside = np.pad(~region, (side // 2, side - 1 - side // 2), constant_values=not beyond)
    return np.asarray(~square_maximum(outside, side))


def _coarseness(unknown: int, size: tuple[int, int]) -> int:
    """How many times as coarse as the picture the grid is on which so many unknown pixels are solved for."""
    least = 1 if unknown <= _FEW else 2
    wanted = math.ceil(math.sqrt(max(unknown / _MOST, size[0] * size[1] / _LARGEST_GRID)))
    return min(max(least, wanted), min(size) // _WINDOW)


def _reduced(factor: int, *pictures: Image.Image) -> list[Image.Image]:
    return [picture.reduce(factor) if factor > 1 else picture for picture in pictures]


def _solve(
    rgb: Image.Image, mask: Image.Image, sure: Image.Image, *, steps: int, check: Callable[[], None]
) -> tuple[Floats, Band]:
    """The alpha (0–1), and the band that it was solved on; coarser grids give what the search starts from."""
    known = np.asarray(sure)
    unknown = (known > 0) & (known < 255)
    scale = np.float32(1 / 255)
    prior = np.asarray(mask) * scale
    start = prior
    if np.count_nonzero(unknown) > _COARSEST and min(rgb.size) >= 2 * _WINDOW:
        coarse, _ = _solve(*_reduced(2, rgb, mask, sure), steps=_COARSE_STEPS, check=check)
        start = np.asarray(enlarged(Image.fromarray(coarse), rgb.size, 2))
    check()
    certainty = np.square(2 * prior - 1)
    pull = np.float32(_PULL) + np.float32(_SURE_PULL) * np.square(certainty)
    goal = ((prior - np.float32(0.5)) * np.float32(_STEEPER) + np.float32(0.5)).clip(0, 1)
    band = Band(np.asarray(rgb), unknown, epsilon=_EPSILON)
    return band.solve(np.where(unknown, start, known * scale), goal, pull, steps=steps), band


def _carry(models: Floats, rgb: Image.Image, sure: Image.Image, factor: float, check: Callable[[], None]) -> Bytes:
    """The alpha of a grid `factor` times as fine as that of the models: computed where it is not sure, tile by tile."""
    alpha = np.array(sure)
    planes = [Image.fromarray(plane) for plane in models]
    for top in range(0, rgb.height, _TILE):
        check()
        for left in range(0, rgb.width, _TILE):
            right, bottom = min(rgb.width, left + _TILE), min(rgb.height, top + _TILE)
            tile = alpha[top:bottom, left:right]
            unknown = (tile > 0) & (tile < 255)
            if not unknown.any():
                continue
            end = min(right / factor, planes[0].width), min(bottom / factor, planes[0].height)
            box = (left / factor, top / factor, *end)
            *slopes, result = (
                np.array(plane.resize(unknown.shape[::-1], Image.Resampling.BILINEAR, box)) for plane in planes
            )
            colors = np.asarray(rgb.crop((left, top, right, bottom)))
            for channel, slope in enumerate(slopes):
                result += slope * (colors[..., channel] * np.float32(1 / 255))
            np.copyto(tile, np.asarray(to_mask(result)), where=unknown)
    return alpha
