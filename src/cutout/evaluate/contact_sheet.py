"""Cut-outs side by side on several backgrounds, as one picture: pure functions over Pillow images."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from cutout.imaging.guided_filter import working

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "Result",
    "SheetRow",
    "View",
    "checkerboard",
    "edge_window",
    "enlarged",
    "fitted",
    "shown",
    "stacked",
]

Color = tuple[int, int, int]

_PAPER, _INK = (236, 236, 236), (40, 40, 40)
_GAP, _TEXT, _SQUARE = 8, 14, 10


class View(StrEnum):
    """One way to look at a cut-out."""

    INPUT = "input"
    MASK = "mask"
    CHECKERBOARD = "checkerboard"
    BLACK = "black"
    WHITE = "white"
    COLOR = "color"


class Result(NamedTuple):
    """What one model or tool made of a picture.

    Attributes:
        by: Who made it.
        cut: Mode RGBA; None where there is none.
        note: Why there is none, or what is odd about it.
    """

    by: str
    cut: Image.Image | None
    note: str = ""


class SheetRow(NamedTuple):
    """A picture and its cut-outs, as large as they are to be shown.

    Attributes:
        name: What to call it.
        picture: Mode RGB; None where it cannot be read.
        results: The cut-outs to compare.
        link: Where the picture lies, seen from the sheet; empty when that is not to be told.
    """

    name: str
    picture: Image.Image | None
    results: tuple[Result, ...]
    link: str = ""


def checkerboard(size: tuple[int, int]) -> Image.Image:
    """The usual sign for transparency (mode RGB)."""
    across, down = np.arange(size[0]) // _SQUARE, np.arange(size[1]) // _SQUARE
    tone = np.where((across[None] + down[:, None]) % 2, 235, 190).astype(np.uint8)
    return Image.fromarray(tone).convert("RGB")


def shown(
    cut: Image.Image, view: View, color: Color = (30, 150, 70), picture: Image.Image | None = None
) -> Image.Image:
    """One view of a cut-out.

    Args:
        cut: Mode RGBA.
        view: Which.
        color: For `View.COLOR`.
        picture: For `View.INPUT`; without it that view is blank.

    Returns:
        Mode RGB, of the cut-out's size (the picture's for `View.INPUT`).
    """
    match view:
        case View.INPUT:
            return picture if picture is not None else Image.new("RGB", cut.size, _PAPER)
        case View.MASK:
            return cut.getchannel("A").convert("RGB")
        case View.CHECKERBOARD:
            under = checkerboard(cut.size)
        case View.BLACK | View.WHITE | View.COLOR:
            plain = {View.BLACK: (0, 0, 0), View.WHITE: (255, 255, 255)}.get(view, color)
            under = Image.new("RGB", cut.size, plain)
    under.paste(cut, (0, 0), cut)
    return under


def fitted(image: Image.Image, side: int) -> Image.Image:
    """An image (RGB or RGBA) whose longer side has at most so many pixels; colours are weighted by alpha."""
    return image.resize(working(image.size, side), Image.Resampling.LANCZOS, reducing_gap=3)


def enlarged(image: Image.Image, times: int) -> Image.Image:
    """An image whose pixels can be told apart."""
    return image.resize((image.width * times, image.height * times), Image.Resampling.NEAREST)


def edge_window(alpha: Image.Image, side: int) -> tuple[int, int, int, int]:
    """The square of so many pixels that holds most of the soft edge: where a cut-out is judged.

    Args:
        alpha: Mode L.
        side: Of the square; it is smaller where the picture is.

    Returns:
        left, top, right, bottom.
    """
    width, height = min(side, alpha.width), min(side, alpha.height)
    coarse = max(1, side // 16)
    soft = alpha.point([min(value, 255 - value) for value in range(256)])
    grid = soft.resize((-(-alpha.width // coarse), -(-alpha.height // coarse)), Image.Resampling.BOX)
    sums = np.pad(np.asarray(grid, np.int64).cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    high, wide = min(height // coarse, grid.height) or 1, min(width // coarse, grid.width) or 1
    inside = sums[high:, wide:] - sums[:-high, wide:] - sums[high:, :-wide] + sums[:-high, :-wide]
    top, left = (int(at) * coarse for at in np.unravel_index(int(inside.argmax()), inside.shape))
    top, left = min(top, alpha.height - height), min(left, alpha.width - width)
    return left, top, left + width, top + height


def stacked(entries: Sequence[SheetRow], color: Color = (30, 150, 70)) -> Image.Image:
    """All entries below each other: a row for each cut-out, a column for each view, a line of text above each row.

    Returns:
        Mode RGB.
    """
    font = ImageFont.load_default(_TEXT)
    rows = [(entry, result) for entry in entries for result in entry.results]
    images = [[image for image in (entry.picture, result.cut) if image is not None] for entry, result in rows]
    heights = [max((image.height for image in pair), default=1) for pair in images]
    wide = max((image.width for pair in images for image in pair), default=1)
    line = _TEXT + _GAP
    size = (_GAP + len(View) * (wide + _GAP), line + _GAP + sum(heights) + len(rows) * (line + _GAP))
    sheet = Image.new("RGB", size, _PAPER)
    draw = ImageDraw.Draw(sheet)
    columns = [_GAP + number * (wide + _GAP) for number in range(len(View))]
    for left, view in zip(columns, View, strict=True):
        draw.text((left, _GAP // 2), view.value, _INK, font)
    top = line + _GAP
    for (entry, result), height in zip(rows, heights, strict=True):
        text = " - ".join(part for part in (entry.name, result.by, result.note) if part)
        draw.text((_GAP, top), text, _INK, font)
        top += line
        for left, view in zip(columns, View, strict=True):
            if view is View.INPUT:
                tile = entry.picture if result is entry.results[0] else None
            else:
                tile = None if result.cut is None else shown(result.cut, view, color)
            if tile is not None:
                sheet.paste(tile, (left, top))
        top += height + _GAP
    return sheet
