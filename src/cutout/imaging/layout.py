"""The finished picture: cropped or set on a canvas, with a shadow, over a background; pure functions."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image, ImageChops

from cutout.errors import UsageError
from cutout.imaging import composite
from cutout.options import values
from cutout.options.values import Length

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    from cutout.imaging.components import Regions
    from cutout.imaging.composite import Box
    from cutout.options import RemoveOptions
    from cutout.options.values import Color, Shadow

    Sides = tuple[float, float, float, float]
    """Left, top, right, bottom."""

__all__ = ["Layout", "finish", "frame_of", "layout", "place", "subject_box"]

_THERE = 13
"""Alpha (a twentieth) from which on the subject counts as there."""
_SOLID = 128
"""Alpha that a separate object must reach somewhere, if any does."""
_SPECK = 0.001
"""Share of the largest object's mass below which a separate one is a speck."""
_GRID = 512
"""Cells of the longer side of the reduced picture in which specks are looked for."""
_LANCZOS = 3
"""Pixels that the filter reaches."""
_TAIL = 1.25
"""Blur widths (2.5 sigma) after which less than one level of a shadow is left."""
_NO_ROOM = 0.0, 0.0, 0.0, 0.0


class Layout(NamedTuple):
    """How the picture lies in the result.

    Attributes:
        size: Width and height of the result.
        scale: Pixels of the result a pixel of the picture.
        left: Where the picture's left edge lies in the result, in its pixels; negative where it is cut off.
        top: Where its upper edge lies.
    """

    size: tuple[int, int]
    scale: float = 1.0
    left: float = 0.0
    top: float = 0.0

    @property
    def resamples(self) -> bool:
        """Whether pixels of the picture and of the result do not coincide."""
        return self.scale != 1

    @property
    def view(self) -> Sides:
        """What of the picture the result shows: left, top, right, bottom in its pixels."""
        right, bottom = (self.size[0] - self.left) / self.scale, (self.size[1] - self.top) / self.scale
        return -self.left / self.scale, -self.top / self.scale, right, bottom

    def placed(self, box: Box) -> Sides:
        """Where a box of the picture (left, top, right, bottom) lies in the result, in the result's pixels."""
        edges = zip(box, (self.left, self.top) * 2, strict=True)
        left, top, right, bottom = (start + edge * self.scale for edge, start in edges)
        return left, top, right, bottom

    def shown(self, box: Box) -> Box:
        """The same in whole pixels, as far as the result shows it."""
        edges = zip(self.placed(box), self.size * 2, strict=True)
        left, top, right, bottom = (min(max(0, round(edge)), side) for edge, side in edges)
        return left, top, right, bottom


def finish(
    rgb: Image.Image,
    alpha: Image.Image,
    options: RemoveOptions,
    picture: Callable[[tuple[int, int]], Image.Image] | None = None,
    subject: Box | None = None,
) -> tuple[Image.Image | None, Image.Image | None]:
    """Layout, background and shadow, as far as they are asked for.

    Args:
        rgb: The picture, mode RGB.
        alpha: The final alpha, mode L, same size.
        options: What is asked for.
        picture: Gives the background picture (mode RGB) at a size, where one is asked for.
        subject: What it is framed by, and the shadow measured by; None is what `subject_box` finds.

    Returns:
        Colours (RGB) and alpha (L) of the result; colours are None for the mask alone, alpha over an opaque background.

    Raises:
        UsageError: The margins, or the shadow, make the result too large.
    """
    shadow = options.shadow
    frame, subject = frame_of(alpha, options, subject)
    if options.mask:
        return None, place(None, alpha, frame)[1]
    behind = _background(rgb, alpha, options, frame, picture)
    colors, alpha = place(rgb, alpha, frame)
    assert colors is not None  # noqa: S101 - colours in, colours out
    if shadow is not None:
        shade = composite.shadow_of(alpha, shadow, _longer_side(subject) * frame.scale)
        return composite.compose(colors, alpha, behind, shade, shadow.color)
    return composite.compose(colors, alpha, behind)


def frame_of(alpha: Image.Image, options: RemoveOptions, subject: Box | None = None) -> tuple[Layout, Box]:
    """How a picture lies in the result, and the box that it is framed by (the whole where none is), as in `finish`."""
    if subject is None:
        subject = (subject_box(alpha) if options.framed or options.shadow else None) or (0, 0, *alpha.size)
    return layout(subject, options) if options.framed else Layout(alpha.size), subject


def subject_box(alpha: Image.Image) -> Box | None:
    """Left, top, right, bottom of what is there: alpha of a twentieth and more, without specks and ghosts.

    Both are separate from the rest: a speck has less than a thousandth of the largest object's mass, a ghost nowhere
    reaches half alpha while other objects do. None where there is nothing.
    """
    from cutout.imaging.components import find_regions

    there = alpha.point([0] * _THERE + [255] * (256 - _THERE))
    box = there.getbbox()
    if box is None:
        return None
    factor = max(1, math.ceil(max(alpha.size) / _GRID))
    there, part = there.crop(box), alpha.crop(box)
    cells = np.asarray(there.reduce(factor) if factor > 1 else there)
    objects = find_regions(cells > 0, diagonal=True)
    if objects.count > 1:
        mass = _sums(ImageChops.darker(part, there).reduce(factor), objects)
        heavy = mass >= _SPECK * mass.max()
        solid = heavy & (_sums(part.point([0] * _SOLID + [255] * (256 - _SOLID)).reduce(factor), objects) > 0)
        counted = solid if solid.any() else heavy
        cover = Image.fromarray(objects.paint(counted))
        cover = cover.resize((cover.width * factor, cover.height * factor), Image.Resampling.NEAREST)
        inner = ImageChops.darker(there, cover.crop((0, 0, *there.size))).getbbox()
        assert inner is not None  # noqa: S101 - some object always counts
        return box[0] + inner[0], box[1] + inner[1], box[0] + inner[2], box[1] + inner[3]
    return box


def _sums(cells: Image.Image, objects: Regions) -> npt.NDArray[np.float64]:
    """What the cells of each object sum up to."""
    lined = np.pad(np.asarray(cells, np.float64), ((0, 0), (0, 1)))  # rows as long as those that runs count in
    summed = np.concatenate(([0.0], np.cumsum(lined)))
    return np.asarray(np.bincount(objects.label, weights=summed[objects.ends] - summed[objects.starts]), np.float64)


def layout(subject: Box, options: RemoveOptions) -> Layout:
    """How the picture lies in the result, when it is cropped or set on a canvas.

    A shadow gets room too: a crop grows for it, and a subject that is to fit is made smaller.

    Raises:
        UsageError: The margins, or the shadow, make the result too large.
    """
    if options.canvas is not None:
        return _on_canvas(options.canvas, subject, options)
    left, top, right, bottom = subject
    side = _longer_side(subject)
    rooms: dict[str, Sides] = {"shadow": _room(options.shadow, side)}
    if options.margin is not None:
        above, to_right, below, to_left = (length.of(side) for length in options.margin)
        rooms["margin"] = (to_left, above, to_right, below)
    largest = map(max, zip(*rooms.values(), strict=True))
    before, over, behind, under = (math.ceil(round(length, 6)) for length in largest)
    size = (right - left + before + behind, bottom - top + over + under)
    if size[0] * size[1] > max(values.MAX_CANVAS, (right - left) * (bottom - top)):
        cause = max(
            rooms, key=lambda name: (right - left + sum(rooms[name][::2])) * (bottom - top + sum(rooms[name][1::2]))
        )
        raise UsageError(
            f"{cause} makes the picture {size[0]}×{size[1]} pixels large",
            hint=f"give a smaller {cause}",
            options=(cause,),
        )
    return Layout(size, 1.0, before - left, over - top)


def _longer_side(box: Box) -> int:
    return max(box[2] - box[0], box[3] - box[1])


def _on_canvas(size: tuple[int, int], subject: Box, options: RemoveOptions) -> Layout:
    left, top, right, bottom = values.free_area(size, options.margin)
    width, height = subject[2] - subject[0], subject[3] - subject[1]
    share, shadow = options.scale, options.shadow
    room = _NO_ROOM
    if share is None:
        scale = 1.0
    elif share < 1 or shadow is None:
        scale = share * min((right - left) / width, (bottom - top) / height)
    else:
        scale = _fitting(width, height, right - left, bottom - top, shadow)
        room = _room(shadow, max(width, height) * scale)
    across, down = options.position
    x = left + (right - left - width * scale - room[0] - room[2]) * across + room[0] - subject[0] * scale
    y = top + (bottom - top - height * scale - room[1] - room[3]) * down + room[1] - subject[1] * scale
    return Layout(size, 1.0, round(x), round(y)) if scale == 1 else Layout(size, scale, x, y)


def _fitting(width: int, height: int, across: float, down: float, shadow: Shadow) -> float:
    """The largest scale at which a subject and its shadow lie within across × down."""
    longer = max(width, height)
    scales = []
    for side, free, offset in ((width, across, shadow.dx), (height, down, shadow.dy)):
        for far, tails in ((Length(0), 2 * _TAIL), (offset, _TAIL)):  # the blur on both sides, or that on the far one
            fixed = abs(far.of(0)) + tails * shadow.blur.of(0)
            growing = abs(far.of(longer)) + tails * shadow.blur.of(longer) - fixed
            scales.append((free - fixed) / (side + growing))
    return max(min(scales), 1e-12)  # a shadow too large for the canvas leaves the subject no room


def _room(shadow: Shadow | None, side: float) -> Sides:
    """How far a shadow reaches beyond a subject whose longer side is `side`."""
    if shadow is None:
        return _NO_ROOM
    dx, dy, blur = shadow.dx.of(side), shadow.dy.of(side), shadow.blur.of(side) * _TAIL
    return max(0.0, blur - dx), max(0.0, blur - dy), max(0.0, blur + dx), max(0.0, blur + dy)


def place(rgb: Image.Image | None, alpha: Image.Image, frame: Layout) -> tuple[Image.Image | None, Image.Image]:
    """The picture in its frame; what lies outside of the picture is transparent.

    Colours are resampled with the alpha as their weight, so that hidden ones do not get into the edge.
    """
    if frame == Layout(alpha.size):
        return rgb, alpha
    width, height = frame.size
    if not frame.resamples:
        x, y = int(frame.left), int(frame.top)
        box = (-x, -y, width - x, height - y)
        return None if rgb is None else rgb.crop(box), alpha.crop(box)
    colors = None if rgb is None else Image.new("RGB", frame.size)
    transparency = Image.new("L", frame.size)
    content = alpha.getbbox()
    if content is None:
        return colors, transparency
    (left, right, from_x, to_x), (top, bottom, from_y, to_y) = (
        _reached(start, frame.scale, frame.size[axis], alpha.size[axis], content[axis::2])
        for axis, start in enumerate((frame.left, frame.top))
    )
    x, y = math.floor(from_x), math.floor(from_y)
    outer = (x, y, math.ceil(to_x), math.ceil(to_y))
    part = alpha.crop(outer)
    if rgb is not None:
        part = composite.cut(rgb.crop(outer), part).convert("RGBa")
    inner = (from_x - x, from_y - y, to_x - x, to_y - y)
    part = part.resize((right - left, bottom - top), Image.Resampling.LANCZOS, box=inner, reducing_gap=3)
    if colors is None:
        transparency.paste(part, (left, top))
        return None, transparency
    part = part.convert("RGBA")
    colors.paste(part.convert("RGB"), (left, top))
    transparency.paste(part.getchannel("A"), (left, top))
    return colors, transparency


def _reached(
    start: float, scale: float, free: int, length: int, content: tuple[int, ...]
) -> tuple[int, int, float, float]:
    """What the content of a picture reaches along one axis of the result, and where that lies in the picture.

    Args:
        start: Where the picture begins in the result.
        scale: Pixels of the result a pixel of the picture.
        free: Pixels of the result.
        length: Pixels of the picture.
        content: From where to where there is any alpha.
    """
    reach = _LANCZOS * max(1.0, scale)
    begin = min(max(0, round(start), math.floor(start + content[0] * scale - reach)), free - 1)
    end = min(free, round(start + length * scale), math.ceil(start + content[1] * scale + reach))
    end = max(end, begin + 1)
    first = min(max(0.0, (begin - start) / scale), length - 1.0)
    return begin, end, first, max(min(float(length), (end - start) / scale), first + 1e-3)


def _background(
    rgb: Image.Image,
    alpha: Image.Image,
    options: RemoveOptions,
    frame: Layout,
    picture: Callable[[tuple[int, int]], Image.Image] | None,
) -> Image.Image | Color | None:
    if picture is not None:
        return picture(frame.size)
    if options.background is None:
        return None
    from cutout.options.backgrounds import Blur, Gradient

    match options.background:
        case Gradient() as colors:
            from cutout.imaging.background import gradient

            return gradient(colors, frame.size)
        case Blur(radius):
            from cutout.imaging.background import blurred

            sigma = radius.of(max(frame.size)) / frame.scale
            return blurred(rgb, alpha, sigma, frame.size, frame.view)
    return options.background_color
