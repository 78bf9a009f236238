"""Closer views of one picture: in the other fit, of its subject alone, and tile by tile."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from cutout.enums import Fit
from cutout.imaging.guided_filter import (
    WORKING_SIDE,
    average,
    band,
    box_mean,
    magnification,
    probability,
    to_mask,
    working,
)
from cutout.models.tensors import input_size

if TYPE_CHECKING:
    import numpy.typing as npt

    from cutout.engines.base import Engine
    from cutout.options import RemoveOptions
    from cutout.timing import StageTimes

    Plane = npt.NDArray[np.floating]
    Box = tuple[int, int, int, int]

__all__ = ["closer", "confident_box", "tile_boxes", "tile_grid", "window"]

_ALIKE = 0.05
"""Pictures whose aspect is so near to the input's look the same padded and stretched."""
_MARGIN = 0.25
"""Around the subject, in parts of its longer side: the network needs to see what it stands before."""
_FADE = 0.1
"""Over which a part's mask fades into the whole one, in parts of its longer side."""
_OVERLAP = 0.5
"""Of neighbouring tiles, in parts of a tile's step."""
_REACH = 3.0
"""How far around the contour tiles count, in pixels of the whole mask."""
_AROUND, _DISSENT = 8.0, 0.25
"""A tile that differs from the whole mask by so much on average, within so many pixels of the whole mask, does not
count: it may show a part of the subject alone, and take that for background."""


def closer(
    session: Engine, rgb: Image.Image, whole: Image.Image, options: RemoveOptions, stages: StageTimes
) -> Image.Image:
    """A better mask (mode L, any size) of a picture by further views, or `whole` where there is nothing to gain.

    With `refine`: the picture in the other fit, and the subject with a margin; two inferences at most. With `tiles`:
    those tiles of an N×N grid that the contour runs through; fewer where they would be smaller than the input, so that
    a picture's size bounds its cost.

    Args:
        session: An opened model.
        rgb: Mode RGB.
        whole: What the model gave for the whole picture.
        options: `refine`, `tiles`, `fit` and `rescale` count.
        stages: Receives the time of each stage.
    """
    tiles = options.tiles
    grid = tile_grid(rgb.size, tiles, input_size(session.spec, rgb.size)) if tiles > 1 else (1, 1)
    if not (options.refine or max(grid) > 1) or not _found(whole):
        return whole
    look = _Look(session, rgb, options.fit, stages)
    size = working(rgb.size, max(WORKING_SIDE * (2 if max(grid) > 3 else 1), *whole.size))
    values = probability(whole.resize(size, Image.Resampling.LANCZOS))
    if options.refine:
        values = _with_subject(look, whole, values, _with_other_fit(look, options, values))
    if max(grid) > 1:
        values = _with_tiles(look, values, grid, magnification(whole.size, size))
    return to_mask(values)


class _Look:
    """The network on parts of one picture."""

    def __init__(self, session: Engine, rgb: Image.Image, fit: Fit | None, stages: StageTimes) -> None:
        self.session, self.rgb, self._fit, self._stages = session, rgb, fit, stages

    def at(self, box: Box) -> Image.Image:
        """The mask (mode L) of a part; it is not stretched, since a part need not hold both subject and background."""
        return self.session.predict(self.rgb.crop(box), fit=self._fit, rescale=False, stages=self._stages)

    def otherwise(self, options: RemoveOptions) -> Image.Image | None:
        """The whole mask, padded if it was stretched and the other way round; None where both are the same."""
        spec = self.session.spec
        if spec.size is None:  # its input has the picture's aspect anyway
            return None
        height, width = spec.size
        if abs(self.rgb.width * height / (self.rgb.height * width) - 1) < _ALIKE:
            return None
        first = spec.fit if self._fit is None else self._fit
        other = Fit.STRETCH if first is Fit.PAD else Fit.PAD
        return self.session.predict(self.rgb, fit=other, rescale=options.rescale, stages=self._stages)


def _with_other_fit(look: _Look, options: RemoveOptions, values: Plane) -> Plane:
    """The whole picture's mask, averaged with that of the other fit: each errs in its own way."""
    seen = look.otherwise(options)
    if seen is None:
        return values
    return average([values, probability(seen.resize(_size(values), Image.Resampling.LANCZOS))], [0.5, 0.5])


def _with_subject(look: _Look, whole: Image.Image, first: Plane, both: Plane) -> Plane:
    """The whole picture's mask in both fits, averaged with a look at the subject."""
    size = look.rgb.size
    box = confident_box(whole, size)
    if box == (0, 0, *size):  # it fills the picture: a closer look would show what the first one did
        return average([both, first], [0.5, 0.5])
    part, place = _placed(look.at(box), box, size, _size(both))
    weight = window(box, size, _size(both))[place] * 0.5
    result = both.copy()
    result[place] = _toward(both[place], part, weight)
    return result


def _with_tiles(look: _Look, values: Plane, grid: tuple[int, int], cell: float) -> Plane:
    """The mask, within a band along its contour averaged with those of the tiles that the contour runs through."""
    size, small = look.rgb.size, _size(values)
    near = band(values, _REACH * cell)
    seen, weights = np.zeros_like(values), np.zeros_like(values)
    for box in tile_boxes(size, grid):
        place = _slices(box, size, small)
        if not near[place].any():
            continue
        part, _ = _placed(look.at(box), box, size, small)
        weight = window(box, size, small, _OVERLAP / (1 + _OVERLAP))[place]
        dissent = box_mean(np.abs(part - values[place]), round(_AROUND * cell))
        weight = weight * np.clip(1 - dissent / _DISSENT, 0, 1)
        seen[place] += weight * part
        weights[place] += weight
    seen /= np.maximum(weights, 1e-6)
    return _toward(values, seen, near * np.minimum(weights, 1) * 0.5)


def _toward(values: Plane, others: Plane, weight: Plane) -> Plane:
    return average([values, others], [1 - weight, weight])


def confident_box(mask: Image.Image, size: tuple[int, int], margin: float = _MARGIN) -> Box:
    """Where the subject lies in the picture, with a margin.

    Args:
        mask: Mode L, any size.
        size: (width, height) of the picture.
        margin: In parts of the longer side of the subject.

    Returns:
        (left, top, right, bottom) in pixels of the picture; the whole picture where there is no subject.
    """
    box = mask.point([0] * 128 + [255] * 128).getbbox()
    if box is None:
        return 0, 0, *size
    across, down = size[0] / mask.width, size[1] / mask.height
    left, top, right, bottom = box[0] * across, box[1] * down, box[2] * across, box[3] * down
    more = margin * max(right - left, bottom - top)
    left, top = (max(0, math.floor(value)) for value in (left - more, top - more))
    return left, top, min(size[0], math.ceil(right + more)), min(size[1], math.ceil(bottom + more))


def tile_grid(size: tuple[int, int], tiles: int, source: tuple[int, int]) -> tuple[int, int]:
    """Columns and rows of tiles: as many as are asked for, and as the picture is times as large as the model's input.

    Smaller tiles would show the network nothing that it has not seen.

    Args:
        size: (width, height) of the picture.
        tiles: Asked for, along each side.
        source: (height, width) of the model's input.
    """
    across, down = (max(1, min(tiles, int(side / seen + 0.5))) for side, seen in zip(size, source[::-1], strict=True))
    return across, down


def tile_boxes(size: tuple[int, int], grid: tuple[int, int]) -> list[Box]:
    """The boxes of a grid (columns, rows) of overlapping tiles that cover a picture, row by row."""
    columns, rows = (_spans(length, count) for length, count in zip(size, grid, strict=True))
    return [(left, top, right, bottom) for top, bottom in rows for left, right in columns]


def _spans(length: int, count: int) -> list[tuple[int, int]]:
    count = max(1, min(count, length))
    step = length / (count + _OVERLAP)
    return [(round(step * number), round(step * (number + 1 + _OVERLAP))) for number in range(count)]


def window(box: Box, size: tuple[int, int], small: tuple[int, int], fade: float = _FADE) -> Plane:
    """1 inside a box of the picture, falling smoothly to 0 at those of its sides that are not the picture's.

    Args:
        box: (left, top, right, bottom) in pixels of the picture.
        size: (width, height) of the picture.
        small: (width, height) of the result.
        fade: Width of the slope, in parts of the box's side.

    Returns:
        float32 of shape (height, width).
    """
    across = _slope(box[0], box[2], size[0], small[0], fade)
    down = _slope(box[1], box[3], size[1], small[1], fade)
    return down[:, None] * across[None]


def _slope(low: int, high: int, length: int, pixels: int, fade: float) -> Plane:
    at = (np.arange(pixels) + 0.5) * (length / pixels)
    over = max(fade * (high - low), 1e-6)
    rise = np.clip((at - low) / over, 0, 1) if low > 0 else np.ones(pixels)
    fall = np.clip((high - at) / over, 0, 1) if high < length else np.ones(pixels)
    least = np.minimum(rise, fall)
    return np.asarray(least * least * (3 - 2 * least), np.float32)


def _slices(box: Box, size: tuple[int, int], small: tuple[int, int]) -> tuple[slice, slice]:
    """The working pixels that a box of the picture touches."""
    across, down = small[0] / size[0], small[1] / size[1]
    left, right = int(box[0] * across), min(small[0], -int(-box[2] * across // 1))
    top, bottom = int(box[1] * down), min(small[1], -int(-box[3] * down // 1))
    return slice(top, max(bottom, top + 1)), slice(left, max(right, left + 1))


def _placed(
    mask: Image.Image, box: Box, size: tuple[int, int], small: tuple[int, int]
) -> tuple[Plane, tuple[slice, slice]]:
    """A part's mask at the working size, and where it belongs."""
    place = _slices(box, size, small)
    target = (place[1].stop - place[1].start, place[0].stop - place[0].start)
    return probability(mask.resize(target, Image.Resampling.LANCZOS)), place


def _size(values: Plane) -> tuple[int, int]:
    return values.shape[1], values.shape[0]


def _found(mask: Image.Image) -> bool:
    extrema = mask.getextrema()
    assert isinstance(extrema[1], int | float)  # noqa: S101 - mode L has one channel
    return extrema[1] >= 128
