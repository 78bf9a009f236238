"""Connected regions of a binary mask, by union-find over the runs of its rows; and maxima over segments and squares."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["Regions", "find_regions", "largest_region", "segment_maximum", "square_maximum"]


@dataclass(frozen=True)
class Regions:
    """The connected regions of a mask (height, width).

    A run is a stretch of set pixels in one row. Positions count from the upper left along rows of width + 1, whose last
    pixel is never set.

    Attributes:
        shape: Height and width of the mask.
        starts: First position of each run, ascending.
        ends: Position behind each run.
        label: The region of each run, 0 to count − 1.
        count: How many regions there are.
    """

    shape: tuple[int, int]
    starts: npt.NDArray[np.int64]
    ends: npt.NDArray[np.int64]
    label: npt.NDArray[np.int64]
    count: int

    @cached_property
    def areas(self) -> npt.NDArray[np.int64]:
        """Pixels of each region."""
        return np.bincount(self.label, weights=self.ends - self.starts, minlength=self.count).astype(np.int64)

    @cached_property
    def at_frame(self) -> npt.NDArray[np.bool_]:
        """Whether each region touches the frame of the picture."""
        height, width = self.shape
        stride = width + 1
        row, column = np.divmod(self.starts, stride)
        touching = (row == 0) | (row == height - 1) | (column == 0) | (self.ends - row * stride == width)
        result = np.zeros(self.count, np.bool_)
        result[self.label[touching]] = True
        return result

    def paint(self, chosen: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint8]:
        """255 on the chosen regions (one flag each), else 0; uint8 (height, width)."""
        height, width = self.shape
        runs = chosen[self.label]
        edges = np.empty(2 * int(runs.sum()) + 2, np.int64)
        edges[0], edges[-1] = 0, height * (width + 1)
        edges[1:-1:2], edges[2:-1:2] = self.starts[runs], self.ends[runs]
        values = np.zeros(edges.size - 1, np.uint8)
        values[1::2] = 255
        return np.repeat(values, np.diff(edges)).reshape(height, width + 1)[:, :width]


def find_regions(mask: npt.NDArray[np.bool_], *, diagonal: bool) -> Regions:
    """The connected regions of a mask (height, width).

    Args:
        mask: What is set.
        diagonal: Pixels that touch at a corner are connected.
    """
    height, width = mask.shape
    stride = width + 1
    lined = np.zeros((height, stride), np.bool_)
    lined[:, :width] = mask
    flat = lined.ravel()
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    if flat[0]:
        changes = np.concatenate(([0], changes))
    starts, ends = changes[::2], changes[1::2]
    # runs that a run touches in the next row are neighbours of each other in the list of runs
    reach = int(diagonal)
    first = np.searchsorted(ends, starts + stride - reach, side="right")
    behind = np.searchsorted(starts, ends + stride + reach, side="left")
    number = np.maximum(behind - first, 0)
    one = np.repeat(np.arange(starts.size), number)
    other = np.arange(one.size) - np.repeat(np.cumsum(number) - number, number) + np.repeat(first, number)
    root = _roots(starts.size, one, other)
    found, label = np.unique(root, return_inverse=True)
    return Regions((height, width), starts, ends, label, found.size)


def largest_region(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """The largest 4-connected region of a mask (height, width), the uppermost of equals; nothing where it is empty."""
    found = find_regions(mask, diagonal=False)
    if not found.count:
        return np.zeros_like(mask)
    chosen = np.arange(found.count) == found.areas.argmax()
    return found.paint(chosen).astype(np.bool_)


def _roots(count: int, one: npt.NDArray[np.int64], other: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The smallest run that each run is connected to, from the pairs of runs that touch."""
    parent = np.arange(count)
    while one.size:
        low, high = np.minimum(parent[one], parent[other]), np.maximum(parent[one], parent[other])
        open_ = low != high
        one, other, low, high = one[open_], other[open_], low[open_], high[open_]
        np.minimum.at(parent, high, low)
        while not np.array_equal(shorter := parent[parent], parent):
            parent = shorter
    return parent


def segment_maximum(pixels: npt.NDArray[Any], length: int, down: int, across: int) -> npt.NDArray[Any]:
    """The maximum over so many pixels in one direction, in steps that double; smaller by length − 1 along it."""
    reached = 1
    while reached < length:
        step = min(reached, length - reached)
        height, width = pixels.shape[0] - step * down, pixels.shape[1] - step * across
        pixels = np.maximum(pixels[:height, :width], pixels[step * down :, step * across :])
        reached += step
    return pixels


def square_maximum(pixels: npt.NDArray[Any], side: int) -> npt.NDArray[Any]:
    """The maximum over squares; the result is smaller by their side − 1 in both directions."""
    return segment_maximum(segment_maximum(pixels, side, 0, 1), side, 1, 0)
