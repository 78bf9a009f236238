"""The keywords of `RemoveOptions` with all that they take, for type checkers and editors.

Nothing imports this while it runs; a test compares it with the table of options.
"""

from pathlib import Path
from typing import Any, TypedDict

import numpy.typing as npt
from PIL.Image import Image

from cutout.enums import BackgroundFit, EdgeColors, Fit
from cutout.options.backgrounds import Background
from cutout.options.values import Length, Shadow

__all__ = ["RemoveKeywords"]


class RemoveKeywords(TypedDict, total=False):
    """Every option of the cut-out; what each means is told in `RemoveOptions`."""

    mask: bool
    background: str | Path | bytes | Image | npt.NDArray[Any] | tuple[int, ...] | list[int] | Background | None
    background_fit: BackgroundFit | str
    shadow: str | bool | Shadow | None
    max_size: int | None
    fit: Fit | str | None
    post_process: bool
    rescale: bool | None
    threshold: int | None
    min_area: str | float | Length | None
    largest: bool
    fill_holes: str | float | bool | Length | None
    erode: int
    dilate: int
    feather: int
    invert: bool
    crop: bool
    margin: str | float | tuple[str | float | Length, ...] | None
    canvas: str | int | tuple[int, int] | None
    scale: str | float | None
    position: str | tuple[str, str] | tuple[float, float]
    refine: bool
    tiles: int
    matting: bool
    matting_foreground: int
    matting_background: int
    matting_erode: int
    edge_colors: EdgeColors | str
