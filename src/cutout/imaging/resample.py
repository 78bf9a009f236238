"""Pillow's Lanczos for large pictures: down to a network's small input, and masks back up, in half of Pillow's time.

Masks are compared with rembg's, and networks react to a shift of single levels where they are unsure; so this is the
same filter in the same order (across first, rounded to 8 bits, then down), only with the pass that is most of the work
as products of small matrices, which numpy hands to BLAS.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["shrink", "stretch_down", "upscale"]

_WORTH = 4.0
"""From this ratio on the first pass is most of the work."""
_TALL = 1.7
"""From this ratio of both ratios on, Pillow 13 goes down first; older ones always go across first."""
_ENDLESS, _GAP = 1000.0, 64.0
"""From this ratio on a strip of millions of pixels is averaged first, to so many times the result: the weights of its
pixels would take gigabytes. No photograph comes near it."""
_LOBES = 3
_COLUMNS = 8
"""Columns of the result that one product gives: fewer share less of their input, more multiply more zeros."""
_REACH = 4
"""Mask pixels around its content that Lanczos (a=3) can reach, and one for good measure."""
_ROWS = 32
"""The same for rows, where a mask is enlarged."""
_PRODUCT = 240_000
"""Multiplications of one product: below what makes OpenBLAS start threads, which would disturb other pictures."""
_UNIT = 1 << 15
"""Weights are whole numbers of this unit. 255 times the sum of their absolute values stays below 2^24, so that every
sum is exact in float32 and does not depend on its order."""


class _Block(NamedTuple):
    """Lines first..last of the result, from the source's low..high; weights of shape (last − first, high − low)."""

    first: int
    last: int
    low: int
    high: int
    weights: npt.NDArray[np.float32]


def shrink(rgb: Image.Image, size: tuple[int, int]) -> Image.Image:
    """A picture at another size, by Lanczos with three lobes (Pillow's `LANCZOS`).

    Args:
        rgb: Mode RGB, any size.
        size: (width, height).

    Returns:
        Mode RGB. What `rgb.resize(size, LANCZOS)` gives, but for one level in 255 at fewer than 1% of the values.
    """
    across, down = rgb.width / size[0], rgb.height / size[1]
    if across < _WORTH or not 2 <= down <= _TALL * across:
        gap = _GAP if max(across, down) > _ENDLESS else None
        return rgb.resize(size, Image.Resampling.LANCZOS, reducing_gap=gap)
    blocks = _blocks(rgb.width, size[0], 0.0, rgb.width, _COLUMNS)
    widest = max(block.high - block.low for block in blocks)
    rows = max(8, _PRODUCT // (widest * _COLUMNS * 3))
    columns = np.empty((size[0], rgb.height, 3), np.uint8)  # of the picture scaled across: column, row, channel
    source = np.empty((rgb.width, rows * 3), np.float32)
    result = np.empty((size[0], rows * 3), np.float32)
    for top in range(0, rgb.height, rows):
        strip = rgb.crop((0, top, rgb.width, min(top + rows, rgb.height)))
        count = strip.height * 3
        turned = strip.transpose(Image.Transpose.TRANSPOSE).tobytes("raw", "RGB")
        values, sums = source[:, :count], result[:, :count]
        np.copyto(values, np.frombuffer(turned, np.uint8).reshape(values.shape))
        for block in blocks:
            np.matmul(block.weights, values[block.low : block.high], out=sums[block.first : block.last])
        np.rint(sums, out=sums)
        np.clip(sums, 0, 255, out=sums)
        columns[:, top : top + strip.height] = sums.reshape(size[0], strip.height, 3)
    turned_across = Image.frombuffer("RGB", (rgb.height, size[0]), columns.tobytes(), "raw", "RGB", 0, 1)
    both = turned_across.resize((size[1], size[0]), Image.Resampling.LANCZOS)
    return both.transpose(Image.Transpose.TRANSPOSE)


def upscale(mask: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The mask (mode L) at the picture's size (width, height), by Lanczos as rembg does.

    Only the part of the picture that the mask's content reaches is computed; the rest is 0 anyway.
    """
    if mask.size == size:
        return mask
    content = mask.getbbox()
    if content is None:
        return Image.new("L", size)
    across, down = size[0] / mask.width, size[1] / mask.height
    if min(across, down) < 1:
        return mask.resize(size, Image.Resampling.LANCZOS)
    left, right = _reached(content[0], content[2], across, size[0])
    top, bottom = _reached(content[1], content[3], down, size[1])
    # Rows first, then columns: the order that Pillow chooses by itself depends on its version and on the sizes.
    first, last = max(0, content[1] - 2 * _REACH), min(mask.height, content[3] + 2 * _REACH)
    rows = mask.crop((0, first, mask.width, last))
    rows = rows.resize(
        (right - left, last - first), Image.Resampling.LANCZOS, box=(left / across, 0, right / across, last - first)
    )
    part = stretch_down(rows, bottom - top, top / down - first, bottom / down - first)
    if part.size == size:
        return part
    result = Image.new("L", size)
    result.paste(part, (left, top))
    return result


def _reached(low: int, high: int, factor: float, size: int) -> tuple[int, int]:
    """The pixels of the picture that mask pixels low..high reach."""
    return max(0, math.floor((low - _REACH) * factor)), min(size, math.ceil((high + _REACH) * factor))


def stretch_down(mask: Image.Image, height: int, low: float, high: float) -> Image.Image:
    """A mask made higher, by Lanczos with three lobes.

    Args:
        mask: Mode L.
        height: Rows of the result, at least as many as are taken.
        low: Where in the mask the first row begins, in rows.
        high: Where the last row ends.

    Returns:
        Mode L. What `mask.resize((mask.width, height), LANCZOS, (0, low, mask.width, high))` gives, but for one level
        in 255 at fewer than 1% of the values.
    """
    source = np.asarray(mask, np.float32)
    result = np.empty((height, mask.width), np.uint8)
    for block in _blocks(mask.height, height, low, high, _ROWS):
        taps = block.high - block.low
        # One more row, of halves, rounds: the sums are then cut off. It is in the same product at no cost.
        weights = np.hstack((block.weights, np.full((len(block.weights), 1), 0.5, np.float32)))
        rows = np.vstack((source[block.low : block.high], np.ones((1, mask.width), np.float32)))
        step = max(64, _PRODUCT // (len(weights) * (taps + 1)))
        for left in range(0, mask.width, step):
            sums = weights @ rows[:, left : left + step]
            np.clip(sums, 0, 255, out=sums)
            result[block.first : block.last, left : left + step] = sums
    return Image.fromarray(result)


@lru_cache(maxsize=8)
def _blocks(source: int, target: int, start: float, end: float, step: int) -> tuple[_Block, ...]:
    """All of a result of `target` lines, `step` lines a block, from start..end of so many source lines."""
    scale = (end - start) / target
    wide = max(scale, 1.0)
    centers = start + (np.arange(target) + 0.5) * scale
    lows = np.maximum((centers - _LOBES * wide + 0.5).astype(int), 0)
    highs = np.minimum((centers + _LOBES * wide + 0.5).astype(int), source)
    taps = np.arange((highs - lows).max())
    lines = lows[:, None] + taps
    distance = (lines - centers[:, None] + 0.5) / wide
    used = (np.abs(distance) < _LOBES) & (lines < highs[:, None])
    weights = np.where(used, np.sinc(distance) * np.sinc(distance / _LOBES), 0.0)
    # Whole numbers; what one tap loses to rounding is handed on to the next, so that the sum is right.
    sums = np.rint(np.cumsum(weights, axis=1) / weights.sum(axis=1, keepdims=True) * _UNIT)
    weights = np.diff(sums, prepend=0.0, axis=1) / _UNIT
    blocks = []
    for first in range(0, target, step):
        last = min(first + step, target)
        low, high = int(lows[first]), int(highs[first:last].max())
        matrix = np.zeros((last - first, int(lows[last - 1]) - low + len(taps)), np.float32)
        np.put_along_axis(matrix, lines[first:last] - low, weights[first:last], axis=1)
        blocks.append(_Block(first, last, low, high, np.ascontiguousarray(matrix[:, : high - low])))
    return tuple(blocks)
