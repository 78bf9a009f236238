"""Colours, alpha, shadow and background put together: pure functions over Pillow images."""

from __future__ import annotations

import math
from functools import reduce
from typing import TYPE_CHECKING

from PIL import Image

if TYPE_CHECKING:
    from cutout.options.values import Color, Shadow

    Box = tuple[int, int, int, int]
    """Left, top, right, bottom."""

__all__ = ["compose", "cut", "enlarged", "gaussian", "grown", "shadow_of"]

_STRIP = 1 << 20
"""Pixels that are composed at a time."""
_FINE = 2.0
"""Sigma in pixels down to which a picture may be reduced before it is blurred, so that nobody can tell."""


def cut(rgb: Image.Image, alpha: Image.Image) -> Image.Image:
    """Straight alpha: the picture's own colours (mode RGB) with the alpha (mode L) beside them; mode RGBA."""
    result = rgb.convert("RGBA")
    result.putalpha(alpha)
    return result


def compose(
    rgb: Image.Image,
    alpha: Image.Image,
    background: Image.Image | Color | None,
    shade: Image.Image | None = None,
    color: tuple[int, int, int] = (0, 0, 0),
) -> tuple[Image.Image, Image.Image | None]:
    """The cut-out over its shadow over a background.

    Args:
        rgb: Mode RGB.
        alpha: Mode L, same size.
        background: A picture of the same size (RGB), a colour with alpha, or nothing.
        shade: Alpha of the shadow (mode L, same size).
        color: Of the shadow.

    Returns:
        Colours (RGB) and alpha (L), which is None over an opaque background.
    """
    if background is None and shade is None:
        return rgb, alpha
    ground = None
    if isinstance(background, Image.Image):
        ground = background.convert("RGB")  # a copy
    elif background is not None and background[3] == 255:
        ground = Image.new("RGB", rgb.size, background[:3])
    if ground is not None:
        if shade is not None:
            ground.paste(color, (0, 0, *rgb.size), shade)
        ground.paste(rgb, None, alpha)
        return ground, None
    colors, transparency = Image.new("RGB", rgb.size), Image.new("L", rgb.size)
    rows = max(1, _STRIP // rgb.width)
    for top in range(0, rgb.height, rows):  # in strips, or five more pictures would be in memory at once
        box = (0, top, rgb.width, min(top + rows, rgb.height))
        part = cut(rgb.crop(box), alpha.crop(box))
        layers = [Image.new("RGBA", part.size, background)] if isinstance(background, tuple) else []
        if shade is not None:
            layers.append(cut(Image.new("RGB", part.size, color), shade.crop(box)))
        part = reduce(Image.alpha_composite, [*layers, part])
        colors.paste(part.convert("RGB"), box)
        transparency.paste(part.getchannel("A"), box)
    return colors, transparency


def shadow_of(alpha: Image.Image, shadow: Shadow, side: float) -> Image.Image:
    """The alpha (mode L) of the shadow of an alpha of the same size; lengths in percent are of `side` pixels."""
    dx, dy, sigma = round(shadow.dx.of(side)), round(shadow.dy.of(side)), shadow.blur.of(side) / 2
    width, height = alpha.size
    shade = alpha.crop((-dx, -dy, width - dx, height - dy)) if dx or dy else alpha
    return gaussian(shade, sigma).point([round(value * shadow.opacity) for value in range(256)])


def gaussian(image: Image.Image, sigma: float) -> Image.Image:
    """A Gaussian blur (mode L), at reduced size where that cannot be told from one at full size."""
    from PIL import ImageFilter

    if sigma <= 0:
        return image
    factor = max(1, int(sigma / _FINE))
    remaining = math.sqrt(sigma**2 - (factor**2 - 1) / 12) / factor  # the mean over a cell blurs a little itself
    small = (image.reduce(factor) if factor > 1 else image).filter(ImageFilter.GaussianBlur(remaining))
    return enlarged(small, image.size, factor, Image.Resampling.BICUBIC)


def enlarged(
    small: Image.Image,
    size: tuple[int, int],
    factor: float,
    resampling: Image.Resampling = Image.Resampling.BILINEAR,
) -> Image.Image:
    """What was reduced by a factor, at its old size (width, height) again; odd rests were a pixel of their own."""
    return small.resize(size, resampling, (0, 0, size[0] / factor, size[1] / factor))


def grown(box: Box, by: int, size: tuple[int, int]) -> Box:
    """A box grown to all sides, within a picture of that size (width, height)."""
    return max(0, box[0] - by), max(0, box[1] - by), min(size[0], box[2] + by), min(size[1], box[3] + by)
