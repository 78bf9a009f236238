"""Mask to alpha, and alpha to the finished picture: pure functions over Pillow images."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageChops, ImageFilter, ImageOps

__all__ = ["binary", "compose", "cover", "cut", "post_process", "upscale"]


def upscale(mask: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The mask (mode L) at the picture's size (width, height), by Lanczos as rembg does."""
    return mask if mask.size == size else mask.resize(size, Image.Resampling.LANCZOS)


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
        return Image.composite(rgb, Image.new("RGB", rgb.size, background[:3]), alpha)
    return Image.alpha_composite(Image.new("RGBA", rgb.size, background), cut(rgb, alpha))
