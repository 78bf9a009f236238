"""Cut-outs side by side on several backgrounds, as one picture: pure functions over Pillow images."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "VIEWS",
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
_GAP, _TEXT = 8, 14


class View(StrEnum):
    """One way to look at a cut-out."""

    INPUT = "input"
    MASK = "mask"
    CHECKERBOARD = "checkerboard"
    BLACK = "black"
    WHITE = "white"
    COLOR = "color"


VIEWS = tuple(View)


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """What one model or tool made of a picture.

    Attributes:
        by: Who made it.
        cut: Mode RGBA; None where there is none.
        note: Why there is none.
    """

    by: str
    cut: Image.Image | None
    note: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class SheetRow:
    """A picture and its cut-outs, as large as they are to be shown.

    Attributes:
        name: What to call it.
        picture: Mode RGB; None where it cannot be read.
        sides: The cut-outs to compare.
        link: Where the picture lies, seen from the sheet; empty when that is not to be told.
    """

    name: str
    picture: Image.Image | None
    sides: tuple[Result, ...]
    link: str = ""


def checkerboard(size: tuple[int, int], square: int = 10) -> Image.Image:
    """The usual sign for transparency (mode RGB)."""
    across, down = np.arange(size[0]) // square, np.arange(size[1]) // square
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
    if max(image.size) <= side:
        return image
    scale = side / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.LANCZOS, reducing_gap=3)


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


def stacked(entries: Sequence[SheetRow], color: Color = (30, 150, 70), views: Sequence[View] = VIEWS) -> Image.Image:
    """All entries below each other: a row for each side, a column for each view, a line of text above each row.

    Returns:
        Mode RGB.
    """
    font = ImageFont.load_default(_TEXT)
    rows = [(entry, side) for entry in entries for side in entry.sides]
    sizes = [_row_size(entry, side) for entry, side in rows]
    wide = max((width for width, _ in sizes), default=1)
    line = _TEXT + _GAP
    size = (_GAP + len(views) * (wide + _GAP), line + _GAP + sum(height + line + _GAP for _, height in sizes))
    sheet = Image.new("RGB", size, _PAPER)
    draw = ImageDraw.Draw(sheet)
    for number, view in enumerate(views):
        draw.text((_GAP + number * (wide + _GAP), _GAP // 2), view.value, _INK, font)
    top = line + _GAP
    before: SheetRow | None = None
    for (entry, side), (_, height) in zip(rows, sizes, strict=True):
        text = " - ".join(part for part in (entry.name, side.by, side.note) if part)
        draw.text((_GAP, top), text, _INK, font)
        top += line
        for number, view in enumerate(views):
            tile = _tile(entry, side, view, color, first=entry is not before)
            if tile is not None:
                sheet.paste(tile, (_GAP + number * (wide + _GAP), top))
        top += height + _GAP
        before = entry
    return sheet


def _row_size(entry: SheetRow, side: Result) -> tuple[int, int]:
    images = [image for image in (entry.picture, side.cut) if image is not None]
    return max((image.width for image in images), default=1), max((image.height for image in images), default=1)


def _tile(entry: SheetRow, side: Result, view: View, color: Color, *, first: bool) -> Image.Image | None:
    if view is View.INPUT:
        return entry.picture if first else None
    return None if side.cut is None else shown(side.cut, view, color)
