"""A coarse mask brought to the picture's size along the picture's own edges: pure functions.

Two things are wrong with a mask that was magnified: its contour is a wide ramp, and the ramp does not follow the
picture. The ramp is steepened by a curve over the logit, and within a band along the contour the mask is made a locally
linear function of the picture's colours: He, Sun, Tang: Guided Image Filtering, 2013, with colour guidance; its
coefficients are computed at a working size and enlarged, as in He, Sun: Fast Guided Filter, 2015.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from cutout.imaging.components import square_maximum
from cutout.imaging.composite import grown
from cutout.imaging.resample import upscale

if TYPE_CHECKING:
    import numpy.typing as npt

    from cutout.imaging.composite import Box

    Plane = npt.NDArray[np.floating]

__all__ = [
    "average",
    "band",
    "box_mean",
    "linear_coefficients",
    "probability",
    "sharpen_edges",
    "steepen",
    "to_mask",
    "working",
]

WORKING_SIDE = 800
"""Pixels of the long side at which coefficients are computed; finer gains nothing for masks of 320."""
_RADIUS = 2.5
"""Of the filter's windows, in pixels of the model's mask: the error of a contour is about one."""
_REACH = 1.5
"""Of the band beyond what is uncertain, in pixels of the model's mask."""
_EPSILON = 1e-4
"""Variance of colour (range 0–1) below which a window counts as flat: 1% of full contrast."""
_BEFORE, _AFTER = 2.0, 1.5
"""Steepness before and after the filter, which flattens the contour again wherever colours tell little."""
_FLOOR = 1e-3
"""Certainty of a mask ends here: no average of logits is ruled by one mask alone."""
_BLOCK = 512
"""Side of the blocks in which the full picture is worked on, in pixels."""


def sharpen_edges(rgb: Image.Image, mask: Image.Image, resolution: tuple[int, int]) -> Image.Image:
    """The mask at the picture's size, its contour moved onto the picture's edges.

    Only pixels near the contour are computed one by one; the picture is worked on in blocks, so that a large one needs
    little memory beside its own.

    Args:
        rgb: Mode RGB.
        mask: Mode L, any size.
        resolution: (width, height) of the mask as the model gave it; the coarser, the wider the band.

    Returns:
        Mode L, as large as the picture.
    """
    size = working(rgb.size, max(WORKING_SIDE, *mask.size))
    cell = magnification(resolution, size)
    steps = max(1.0, magnification(resolution, rgb.size))  # a mask as fine as the picture needs no steepening
    values = probability(mask.resize(size, Image.Resampling.LANCZOS))
    near = band(values, _REACH * cell)
    values = steepen(values, min(steps, _BEFORE))
    alpha = upscale(to_mask(values), rgb.size)
    if not near.any():
        return alpha
    small = rgb if rgb.size == size else rgb.resize(size, Image.Resampling.BOX)
    radius = max(1, round(_RADIUS * cell))
    left, top, right, bottom = _extent(near, 2 * radius + 2)  # what the band's own windows see, and no more
    part = slice(top, bottom), slice(left, right)
    planes = np.zeros((5, *near.shape), np.float32)
    planes[-1] = near
    found = linear_coefficients(small.crop((left, top, right, bottom)), values[part], radius)
    for plane, coefficient in zip(planes, found, strict=False):
        plane[part] = coefficient
    _apply(rgb, alpha, [Image.fromarray(plane) for plane in planes], min(steps, _AFTER))
    return alpha


def _extent(near: Plane, margin: int) -> Box:
    """What is not 0, with a margin."""
    box = Image.fromarray(np.uint8(near > 0)).getbbox()
    assert box is not None  # noqa: S101 - the caller looked
    return grown(box, margin, near.shape[::-1])


def working(size: tuple[int, int], side: int = WORKING_SIDE) -> tuple[int, int]:
    """(width, height) of the working size: the long side at most `side`."""
    scale = min(1.0, side / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def magnification(resolution: tuple[int, int], size: tuple[int, int]) -> float:
    """Pixels at `size` for each pixel at `resolution`, by the geometric mean of both sides."""
    return float((size[0] * size[1] / (resolution[0] * resolution[1])) ** 0.5)


def probability(mask: Image.Image) -> Plane:
    """A mask (mode L) as float32 in 0–1, shape (height, width)."""
    return np.asarray(mask, np.float32) / 255


def to_mask(values: Plane) -> Image.Image:
    """Values of 0–1 as a mask (mode L)."""
    return Image.fromarray((np.clip(values, 0, 1) * 255 + 0.5).astype(np.uint8))


def steepen(values: Plane, steepness: float) -> Plane:
    """The logit of values in 0–1 multiplied: 0, ½ and 1 stay, what lies between moves away from ½ (above 1)."""
    if steepness == 1:
        return values
    up, down = values**steepness, (1 - values) ** steepness
    return np.asarray(up / (up + down), np.float32)


def average(masks: list[Plane], weights: list[float] | list[Plane]) -> Plane:
    """The weighted mean of several masks' logits, as values in 0–1.

    In logits a mask that is certain outweighs one that wavers; a mean of probabilities would leave a haze instead.
    """
    total = np.zeros_like(masks[0])
    for mask, weight in zip(masks, weights, strict=True):
        sure = np.clip(mask, _FLOOR, 1 - _FLOOR)
        total += weight * np.log(sure / (1 - sure))
    mean = (1 / (1 + np.exp(-total))).astype(np.float32)
    return np.asarray(
        np.clip((mean - _FLOOR) / (1 - 2 * _FLOOR), 0, 1), np.float32
    )  # what all are certain of stays 0 and 1


def band(values: Plane, reach: float) -> Plane:
    """1 where values are uncertain or cross ½, falling smoothly to 0 within `reach` pixels around; float32."""
    unsure = (values > 0.05) & (values < 0.95)
    inside = values > 0.5
    for marked, side in ((unsure, inside), (unsure.T, inside.T)):
        crossing = side[1:] != side[:-1]
        marked[1:] |= crossing
        marked[:-1] |= crossing
    radius = max(1, round(reach))
    return box_mean(square_maximum(np.pad(unsure, radius), 2 * radius + 1).astype(np.float32), radius)


def box_mean(plane: Plane, radius: int) -> Plane:
    """The mean over a square of side 2·radius + 1, cut off at the border; the cost does not depend on the radius."""
    return _run_mean(_run_mean(plane, radius).T, radius).T


def _run_mean(plane: Plane, radius: int) -> Plane:
    length = plane.shape[0]
    sums = np.zeros((length + 1, plane.shape[1]))
    np.cumsum(plane, axis=0, dtype=np.float64, out=sums[1:])
    rows = np.arange(length)
    last, first = np.minimum(rows + radius + 1, length), np.maximum(rows - radius, 0)
    return np.asarray((sums[last] - sums[first]) / (last - first)[:, None], np.float32)


def linear_coefficients(rgb: Image.Image, values: Plane, radius: int) -> tuple[Plane, Plane, Plane, Plane]:
    """Red, green, blue and constant coefficient of every pixel: the colour guided filter before its last step.

    Args:
        rgb: The guide, mode RGB, as large as `values`.
        values: What is made a function of colour, 0–1.
        radius: Of the square windows, in pixels.

    Returns:
        Four float32 planes; colours are meant as 0–1.
    """
    colors = [np.asarray(rgb.getchannel(channel), np.float32) / 255 for channel in "RGB"]
    means = [box_mean(color, radius) for color in colors]
    mean = box_mean(values, radius)
    goal = [box_mean(color * values, radius) - m * mean for color, m in zip(colors, means, strict=True)]
    pairs = [(i, j) for i in range(3) for j in range(i, 3)]
    rr, rg, rb, gg, gb, bb = (
        box_mean(colors[i] * colors[j], radius) - means[i] * means[j] + (_EPSILON if i == j else 0) for i, j in pairs
    )
    # the inverse of the symmetric 3×3 covariance, by cofactors
    c00, c01, c02 = gg * bb - gb * gb, rb * gb - rg * bb, rg * gb - rb * gg
    c11, c12, c22 = rr * bb - rb * rb, rb * rg - rr * gb, rr * gg - rg * rg
    scale = 1 / np.maximum(rr * c00 + rg * c01 + rb * c02, _EPSILON**3)
    slopes = [
        (first * goal[0] + second * goal[1] + third * goal[2]) * scale
        for first, second, third in ((c00, c01, c02), (c01, c11, c12), (c02, c12, c22))
    ]
    constant = mean - sum(slope * m for slope, m in zip(slopes, means, strict=True))
    red, green, blue = (box_mean(slope, radius) for slope in slopes)
    return red, green, blue, box_mean(constant, radius)


def _apply(rgb: Image.Image, alpha: Image.Image, planes: list[Image.Image], steepness: float) -> None:
    """Write what the coefficients say into the alpha, block by block, only where the band (the last plane) lies."""
    across, down = planes[0].width / rgb.width, planes[0].height / rgb.height
    near = np.asarray(planes[-1])
    curve = np.rint(steepen(np.linspace(0, 1, 1025, dtype=np.float32), steepness) * 255).astype(np.float32)
    for top in range(0, rgb.height, _BLOCK):
        for left in range(0, rgb.width, _BLOCK):
            block = (left, top, min(left + _BLOCK, rgb.width), min(top + _BLOCK, rgb.height))
            box = (block[0] * across, block[1] * down, block[2] * across, block[3] * down)
            seen = near[max(0, int(box[1]) - 1) : int(box[3]) + 2, max(0, int(box[0]) - 1) : int(box[2]) + 2]
            if not seen.any():
                continue
            size = (block[2] - block[0], block[3] - block[1])
            *slopes, constant, weight = (
                np.asarray(plane.resize(size, Image.Resampling.BILINEAR, box=box)) for plane in planes
            )
            colors = np.asarray(rgb.crop(block))
            found = constant * 1024
            for channel, slope in enumerate(slopes):
                found += slope * colors[..., channel] * np.float32(1024 / 255)
            found = curve[np.clip(found + 0.5, 0, 1024).astype(np.int16)]
            old = np.asarray(alpha.crop(block), np.float32)
            alpha.paste(Image.fromarray((old + weight * (found - old) + 0.5).astype(np.uint8)), block)
