"""What stands behind a subject: a colour, a gradient, the picture's own background blurred, or another picture."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

from cutout.errors import UsageError
from cutout.options.values import Color, Length, parse_color, parse_length, split

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "Background",
    "BackgroundPicture",
    "Blur",
    "Gradient",
    "parse_background",
    "parse_paint",
]


@dataclass(frozen=True, slots=True)
class Gradient:
    """Two opaque colours and the direction from one to the other: 0° upwards, 90° to the right, 180° downwards."""

    start: tuple[int, int, int]
    end: tuple[int, int, int]
    angle: float = 180.0


@dataclass(frozen=True, slots=True)
class Blur:
    """The picture's own background, blurred: sigma in pixels, or in percent of the picture's longer side."""

    radius: Length


class BackgroundPicture:
    """A picture behind the subject: a file, a file's bytes, a Pillow image or an array.

    `pipeline.behind` decodes it, and keeps in `found` what it needs again: as long as the options live that hold this.
    """

    __slots__ = ("found", "lock", "source")

    def __init__(self, source: Any) -> None:
        self.source = source
        self.found: dict[str, Any] = {}
        self.lock = Lock()

    @property
    def path(self) -> Path | None:
        """The file, where it is one."""
        return self.source if isinstance(self.source, Path) else None

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, BackgroundPicture):
            return NotImplemented
        return self.source is other.source or (self.path is not None and self.path == other.path)

    def __hash__(self) -> int:
        return hash(self.path)

    def __reduce__(self) -> tuple[Any, ...]:
        return BackgroundPicture, (self.source,)

    def __repr__(self) -> str:
        return f"BackgroundPicture({self})"

    def __str__(self) -> str:
        return str(self.path or "in memory")


Background = Color | Gradient | Blur | BackgroundPicture


def parse_paint(text: str) -> Color | Gradient | Blur | None:
    """A colour, `gradient:COLOR,COLOR[,ANGLE]` or `blur:RADIUS`; None for any other text.

    Raises:
        ValueError: It begins like a gradient or a blur, and is none.
    """
    match text.strip().partition(":"):
        case kind, ":", rest if kind.lower() == "gradient":
            return _gradient(rest)
        case kind, ":", rest if kind.lower() == "blur":
            return _blur(rest)
    return parse_color(text)


def parse_background(given: object) -> Background | None:
    """What stands behind the subject; `transparent` leaves it so, which is None.

    Args:
        given: A colour (name, `#rrggbb`, 3 or 4 numbers 0–255), `gradient:…`, `blur:…`; a picture, as the path of its
            file, its bytes, a Pillow image or an array.

    Raises:
        UsageError: It is neither, or the file does not exist.
        ValueError: It begins like a gradient or a blur, and is none.
    """
    if isinstance(given, str) and given.strip().lower() == "transparent":
        return None
    if isinstance(given, Gradient | Blur | BackgroundPicture):
        return given
    if isinstance(given, str):
        return parse_paint(given) or _background_file(given)
    if isinstance(given, tuple | list):
        return _background_color(given)
    if isinstance(given, Path) and not given.is_file():
        raise _no_background(f"picture {given} does not exist")
    if not (isinstance(given, Path | bytes | bytearray | memoryview) or hasattr(given, "__array_interface__")):
        raise _no_background(f"of type {type(given).__name__} is neither a colour nor a picture")
    return BackgroundPicture(given)


def _background_color(given: Sequence[object]) -> Color:
    whole = [int(each) for each in given if isinstance(each, Integral)]
    if len(whole) != len(given) or len(given) not in {3, 4} or not 0 <= min(whole) <= max(whole) <= 255:
        raise _no_background(f"{tuple(given)} is not a colour: 3 or 4 whole numbers from 0 to 255 are")
    red, green, blue, alpha = (*whole, 255)[:4]
    return red, green, blue, alpha


def _background_file(text: str) -> BackgroundPicture:
    try:
        if Path(text).is_file():
            return BackgroundPicture(Path(text))
    except OSError:  # longer than a file's name can be
        pass
    reads_as_path = "/" in text or "\\" in text or "." in text
    raise _no_background(
        f"{text!r} is neither a colour nor a picture file" + ": no such file exists" * reads_as_path,
        "colours are names (white), #rrggbb, #rrggbbaa or rgb(r,g,b); "
        "others are transparent, blur:RADIUS and gradient:COLOR,COLOR",
    )


def _no_background(text: str, hint: str | None = None) -> UsageError:
    return UsageError(f"background {text}", hint=hint, options=("background",))


def _gradient(text: str) -> Gradient:
    wanted = "gradient:COLOR,COLOR[,ANGLE] with opaque colours, such as gradient:white,#88aacc,90"
    parts = [str(part) for part in split(text)]
    colors = [parse_color(part) for part in parts[:2]]
    if len(parts) not in {2, 3} or any(color is None or color[3] != 255 for color in colors):
        raise ValueError(wanted)
    start, end = (color[:3] for color in colors if color is not None)
    try:
        angle = float(parts[2].lower().removesuffix("deg").removesuffix("°")) if len(parts) == 3 else 180.0
    except ValueError:
        raise ValueError(wanted) from None
    if not math.isfinite(angle):
        raise ValueError(wanted)
    return Gradient(start, end, angle)


def _blur(text: str) -> Blur:
    wanted = "blur:RADIUS such as blur:20 (pixels) or blur:2%"
    radius = parse_length(text, wanted)
    if radius.value < 0:
        raise ValueError(wanted)
    return Blur(radius)
