"""What people write for lengths, sizes, colours and shadows, parsed: text in, frozen values out.

What a parser of this package cannot read is a ValueError whose message says what would be right.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from numbers import Integral, Real

__all__ = [
    "Color",
    "Length",
    "Shadow",
    "free_area",
    "parse_area",
    "parse_canvas",
    "parse_color",
    "parse_holes",
    "parse_length",
    "parse_margin",
    "parse_position",
    "parse_scale",
    "parse_shadow",
    "split",
]

Color = tuple[int, int, int, int]
"""Red, green, blue, alpha, each 0–255."""

MAX_CANVAS = 256_000_000
"""Pixels of the largest canvas."""

_LENGTH = r"([+-]?(?:\d+\.?\d*|\.\d+))\s*(px|%)?"
_CANVAS = r"(\d+)\s*[xX×*]\s*(\d+)"
_MOST, _MOST_AREA = 1e6, 1e9
"""Of any length, and of any area, in pixels or percent."""
_OUTSIDE_PARENTHESES = r",(?![^(]*\))"


@dataclass(frozen=True, slots=True)
class Length:
    """A number of pixels, or a share of some whole that is only known with the picture."""

    value: float
    percent: bool = False

    def of(self, whole: float) -> float:
        """Pixels, when 100% are `whole` pixels."""
        return self.value / 100 * whole if self.percent else self.value


@dataclass(frozen=True, slots=True)
class Shadow:
    """A soft shadow that the subject casts; percentages are of the subject's longer side.

    Attributes:
        dx: To the right.
        dy: Downwards.
        blur: Width of the soft edge: twice the sigma of the Gaussian, as in CSS.
        opacity: 0–1.
        color: Red, green, blue.
    """

    dx: Length = Length(0)
    dy: Length = Length(2, percent=True)
    blur: Length = Length(4, percent=True)
    opacity: float = 0.45
    color: tuple[int, int, int] = (0, 0, 0)


def parse_color(text: str) -> Color | None:
    """A colour name, `#rgb`, `#rrggbb`, `#rrggbbaa` or `rgb(…)`, else None."""
    from PIL import ImageColor

    try:
        found = ImageColor.getcolor(text.strip(), "RGBA")
    except ValueError:
        return None
    assert isinstance(found, tuple)  # noqa: S101 - mode RGBA always gives four values
    red, green, blue, alpha = (int(value) for value in found)
    return (red, green, blue, alpha) if 0 <= min(found) <= max(found) <= 255 else None


def parse_holes(given: object) -> Length | None:
    """The area of the largest hole to fill: `all` (or True), or an area; False fills none."""
    if given is False:
        return None
    if given is True or (isinstance(given, str) and given.strip().lower() == "all"):
        return Length(100, percent=True)
    try:
        return parse_area(given)
    except ValueError as error:
        raise ValueError(f"all, or {error}") from None


def parse_margin(given: object) -> tuple[Length, Length, Length, Length]:
    """Top, right, bottom, left from one to four lengths, as CSS spreads them."""
    wanted = "one to four lengths such as 20, 20px or 5%, separated by commas"
    lengths = [parse_length(part, wanted) for part in split(given)]
    if not 1 <= len(lengths) <= 4 or any(length.value < 0 for length in lengths):
        raise ValueError(wanted)
    top, right, bottom, left = (lengths[index % len(lengths)] for index in (0, 1, 2, 3))
    return top, right, bottom, lengths[1] if len(lengths) == 3 else left


def parse_area(given: object) -> Length:
    """An area: pixels, or percent of the picture's pixels."""
    wanted = "a number of pixels such as 500, or a share of the picture such as 0.1%"
    length = parse_length(given, wanted, _MOST_AREA)
    if length.value < 0:
        raise ValueError(wanted)
    return length


def parse_canvas(given: object) -> tuple[int, int]:
    """Width and height; one number is a square."""
    wanted = "a size in pixels such as 1200x800"
    match given:
        case bool():
            raise ValueError(wanted)
        case str() if found := re.fullmatch(_CANVAS, given.strip()):
            width, height = (int(side[:20]) for side in found.groups())  # Python reads no number of 5000 digits
        case str() if given.strip().isdecimal():
            width = height = int(given.strip()[:20])
        case (Integral(), Integral()):
            width, height = int(given[0]), int(given[1])
        case Integral():
            width = height = int(given)
        case _:
            raise ValueError(wanted)
    if min(width, height) < 1:
        raise ValueError(wanted)
    if width * height > MAX_CANVAS:
        raise ValueError(f"a size of at most {MAX_CANVAS / 1e6:.0f} megapixels")
    return width, height


def free_area(
    size: tuple[int, int], margin: tuple[Length, Length, Length, Length] | None
) -> tuple[float, float, float, float]:
    """What margins leave of a canvas: left, top, right, bottom; percent are of its shorter side."""
    top, right, bottom, left = margin or (Length(0),) * 4
    side = min(size)
    area = (left.of(side), top.of(side), size[0] - right.of(side), size[1] - bottom.of(side))
    if area[2] - area[0] < 1 or area[3] - area[1] < 1:
        raise ValueError(f"less than the canvas of {size[0]}×{size[1]} pixels has")
    return area


def parse_scale(given: object) -> float | None:
    """The share of the canvas that the subject takes (0–1, not 0); None keeps the subject's own size. `fit` is 1."""
    wanted = "fit, original, or a share of the canvas such as 80%"
    word = given.strip().lower() if isinstance(given, str) else given
    if word is None or word == "original":
        return None
    share = 1.0 if word == "fit" else _share(word, wanted)
    if share == 0:
        raise ValueError(wanted)
    return share


def _share(given: object, wanted: str) -> float:
    """A number from 0 to 1, or a text in percent."""
    if not isinstance(given, float) and not str(given).endswith("%"):
        raise ValueError(wanted)
    share = given if isinstance(given, float) else parse_length(given, wanted).value / 100
    if not 0 <= share <= 1:
        raise ValueError(wanted)
    return share


_PLACES = {
    "left": (0.0, None),
    "right": (1.0, None),
    "top": (None, 0.0),
    "bottom": (None, 1.0),
    "center": (None, None),
    "centre": (None, None),
}


def parse_position(given: object) -> tuple[float, float]:
    """Where the subject stands in the room that is left: 0 is left or top, 1 right or bottom."""
    wanted = "center, top, bottom, left, right, two of them such as bottom-left, or shares such as 50%,80%"
    parts = split(given)
    if len(parts) == 2 and all(isinstance(part, float) or str(part).endswith("%") for part in parts):
        return _share(parts[0], wanted), _share(parts[1], wanted)
    words = re.split(r"[-\s]+", given.strip().lower()) if isinstance(given, str) else []
    if not 1 <= len(words) <= 2 or not set(words) <= set(_PLACES):
        raise ValueError(wanted)
    columns = [place for word in words if (place := _PLACES[word][0]) is not None]
    rows = [place for word in words if (place := _PLACES[word][1]) is not None]
    if len(columns) > 1 or len(rows) > 1:  # left-right
        raise ValueError(wanted)
    return columns[0] if columns else 0.5, rows[0] if rows else 0.5


def parse_shadow(given: object) -> Shadow | None:
    """`default`, or `DX,DY,BLUR,OPACITY[,COLOR]`; None for no shadow."""
    wanted = "default, none, or DX,DY,BLUR,OPACITY[,COLOR] such as 0,20,40,50% or 1%,2%,4%,0.5,navy"
    word = given.strip().lower() if isinstance(given, str) else given
    if word is None or word is False or word == "none":
        return None
    if word is True or word == "default":
        return Shadow()
    if isinstance(given, Shadow):
        return given
    parts = split(given)
    if len(parts) not in {4, 5}:
        raise ValueError(wanted)
    dx, dy, blur, opacity = (parse_length(part, wanted) for part in parts[:4])
    color = parse_color(str(parts[4])) if len(parts) == 5 else (0, 0, 0, 255)
    if blur.value < 0 or color is None or not 0 <= opacity.of(1) <= 1:
        raise ValueError(wanted)
    return Shadow(dx, dy, blur, opacity.of(1) * color[3] / 255, color[:3])


def split(given: object) -> list[object]:
    """What a comma separates outside of parentheses; a tuple's or list's members."""
    if isinstance(given, str):
        return [part.strip() for part in re.split(_OUTSIDE_PARENTHESES, given)]
    return list(given) if isinstance(given, tuple | list) else [given]


def parse_length(given: object, wanted: str, most: float = _MOST) -> Length:
    """A length from a text such as `20`, `20px` or `5%`, or from a number; else the error says `wanted`."""
    if isinstance(given, Length):
        return given
    found = re.fullmatch(_LENGTH, given.strip(), re.IGNORECASE) if isinstance(given, str) else None
    if type(given) is not bool and isinstance(given, Real):
        length = Length(_float(given))
    elif found is not None:
        length = Length(float(found[1]), percent=found[2] == "%")
    else:
        raise ValueError(wanted)
    if math.isnan(length.value):
        raise ValueError(wanted)
    if abs(length.value) > most:
        raise ValueError(f"at most {most:.0f}")
    return length


def _float(number: Real) -> float:
    try:
        return float(number)
    except OverflowError:  # a whole number of hundreds of digits
        return math.inf
