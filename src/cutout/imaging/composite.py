"""Mask to alpha, and alpha to the finished picture: pure functions over Pillow images."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image, ImageChops, ImageFilter, ImageOps

from cutout.imaging.resample import stretch_down

__all__ = ["binary", "compose", "cover", "cut", "gaussian", "multiply", "post_process", "upscale"]


_REACH = 4
"""Mask pixels around its content that Lanczos (a=3) can reach, and one for good measure."""


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


_FINE = 2.0
"""Sigma in pixels down to which a picture may be reduced before it is blurred, so that nobody can tell."""


def gaussian(image: Image.Image, sigma: float) -> Image.Image:
    """A Gaussian blur (mode L), at reduced size where that cannot be told from one at full size."""
    factor = max(1, int(sigma / _FINE))
    if sigma <= 0:
        return image
    if factor == 1:
        return image.filter(ImageFilter.GaussianBlur(sigma))
    box = (0, 0, image.width / factor, image.height / factor)
    remaining = math.sqrt(sigma**2 - (factor**2 - 1) / 12) / factor  # the mean over a cell blurs a little itself
    small = image.reduce(factor).filter(ImageFilter.GaussianBlur(remaining))
    return small.resize(image.size, Image.Resampling.BICUBIC, box=box)


def cut(rgb: Image.Image, alpha: Image.Image) -> Image.Image:
    """Straight alpha: the picture's own colours (mode RGB) with the alpha (mode L) beside them; mode RGBA."""
    result = rgb.convert("RGBA")
    result.putalpha(alpha)
    return result


def multiply(alpha: Image.Image, other: Image.Image) -> Image.Image:
    """Both alphas at once (mode L): what was transparent before stays so."""
    return ImageChops.multiply(alpha, other)


def cover(background: Image.Image, size: tuple[int, int]) -> Image.Image:
    """A background scaled to cover (width, height), the overhang cropped evenly."""
    return ImageOps.fit(background, size, Image.Resampling.LANCZOS)


def compose(rgb: Image.Image, alpha: Image.Image, background: Image.Image | tuple[int, int, int, int]) -> Image.Image:
    """The cut-out over a background.

    Args:
        rgb: Mode RGB.
        alpha: Mode L, same size.
        background: A picture of the same size (RGB), or a colour with alpha.

    Returns:
        RGB, or RGBA where the background colour is itself translucent.
    """
    if isinstance(background, Image.Image):
        return Image.composite(rgb, background.convert("RGB"), alpha)
    if background[3] == 255:
        ground = Image.new("RGB", rgb.size, background[:3])
        ground.paste(rgb, None, alpha)  # as `Image.composite` does, without its copy of the ground
        return ground
    return Image.alpha_composite(Image.new("RGBA", rgb.size, background), cut(rgb, alpha))
