"""Alpha matting: a trimap from the mask, closed-form matting by pymatting (the `[rembg]` extra).

Levin, Lischinski, Weiss: A Closed-Form Solution to Natural Image Matting, 2008; the edge colours come from Germer,
Uelwer, Conrad, Harmeling: Fast Multi-Level Foreground Estimation, 2020.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from cutout.errors import CutoutError, UsageError

if TYPE_CHECKING:
    import numpy.typing as npt

    from cutout.options import RemoveOptions

__all__ = ["UnsolvableError", "check_available", "refine", "trimap"]


_WINDOW = 3  # side of the windows over which the solver compares colours


class UnsolvableError(CutoutError):
    """The trimap has no sure foreground or no sure background, or the solver found no solution."""

    kind = "matting"


def check_available() -> None:
    """Fail early where matting cannot run.

    Raises:
        UsageError: The extra is not installed.
    """
    from importlib.util import find_spec

    if find_spec("pymatting") is None or find_spec("scipy") is None:
        raise UsageError(
            "--matting needs pymatting, which is not installed", hint='pip install "cutout-cli[rembg]" brings it'
        )


def trimap(mask: Image.Image, *, foreground: int, background: int, erode: int) -> npt.NDArray[np.uint8]:
    """255 surely foreground, 0 surely background, 128 unknown; shape (height, width).

    Args:
        mask: Mode L.
        foreground: Mask values above it are surely foreground.
        background: Mask values below it are surely background.
        erode: Side of the square by which both sure regions are eroded, in pixels; 0 leaves them.
    """
    from scipy import ndimage

    values = np.asarray(mask)
    sure_foreground, sure_background = values > foreground, values < background
    if erode > 0:
        square = np.ones((erode, erode), bool)
        sure_foreground = ndimage.binary_erosion(sure_foreground, square)
        sure_background = ndimage.binary_erosion(sure_background, square, border_value=1)
    result = np.full(values.shape, 128, np.uint8)
    result[sure_foreground] = 255
    result[sure_background] = 0
    return result


def refine(rgb: Image.Image, mask: Image.Image, options: RemoveOptions) -> tuple[Image.Image, Image.Image]:
    """The refined alpha (mode L) and the estimated foreground colours (mode RGB).

    Raises:
        UnsolvableError: The caller keeps the plain mask.
    """
    known = trimap(
        mask,
        foreground=options.matting_foreground,
        background=options.matting_background,
        erode=options.matting_erode,
    )
    if not (known == 255).any() or not (known == 0).any():
        missing = "foreground" if not (known == 255).any() else "background"
        raise UnsolvableError(f"the trimap has no sure {missing}")
    if min(rgb.size) < _WINDOW:
        raise UnsolvableError("the picture is too small")
    from pymatting import estimate_alpha_cf, estimate_foreground_ml, ichol

    ichol.__globals__["print"] = _say_nothing  # it tells standard output, which carries pictures, that it tries again
    colors = np.asarray(rgb) / 255.0
    try:
        alpha = estimate_alpha_cf(colors, known / 255.0)
        foreground = estimate_foreground_ml(colors, alpha)
    except ValueError as error:  # no convergence
        raise UnsolvableError(f"the solver failed: {error}") from error
    return _picture(alpha), _picture(foreground)


def _say_nothing(*_: object) -> None:
    """Instead of `print`."""


def _picture(values: npt.NDArray[np.float64]) -> Image.Image:
    return Image.fromarray(np.clip(values * 255 + 0.5, 0, 255).astype(np.uint8))
