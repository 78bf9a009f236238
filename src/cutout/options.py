"""What a caller can ask for: one frozen object that validates itself."""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import StrEnum
from numbers import Integral
from pathlib import Path
from typing import Any

from cutout.errors import UsageError

__all__ = ["OUTPUT_SUFFIXES", "Existing", "Fit", "OnCollision", "OutputFormat", "PngLevel", "RemoveOptions"]


class Fit(StrEnum):
    """How a picture is brought to the model's input size."""

    STRETCH = "stretch"
    """Both sides scaled to the input; the aspect ratio changes."""
    PAD = "pad"
    """The long side scaled, the rest filled (letterbox); the filling is cropped from the mask again."""


class OutputFormat(StrEnum):
    """The formats that can be written."""

    PNG = "png"
    WEBP = "webp"
    JPEG = "jpg"
    TIFF = "tiff"
    AVIF = "avif"

    @property
    def has_alpha(self) -> bool:
        """Whether the format can hold transparency."""
        return self is not OutputFormat.JPEG


OUTPUT_SUFFIXES: dict[str, OutputFormat] = {
    ".png": OutputFormat.PNG,
    ".webp": OutputFormat.WEBP,
    ".jpg": OutputFormat.JPEG,
    ".jpeg": OutputFormat.JPEG,
    ".tif": OutputFormat.TIFF,
    ".tiff": OutputFormat.TIFF,
    ".avif": OutputFormat.AVIF,
}


class PngLevel(StrEnum):
    """How hard a PNG is compressed."""

    FASTEST = "fastest"
    """igzip: half the time of `fast`, files about 10% larger."""
    FAST = "fast"
    """zlib-ng level 4, 3 from 4 megapixels on: files as large as Pillow's by default, in a tenth of its time."""
    SMALL = "small"
    """zlib-ng level 9."""


class Existing(StrEnum):
    """What to do with an output that is already there."""

    SKIP = "skip"
    OVERWRITE = "overwrite"
    FAIL = "fail"


class OnCollision(StrEnum):
    """What to do when two inputs would write one output."""

    REFUSE = "refuse"
    SUFFIX = "suffix"


Color = tuple[int, int, int, int]
"""Red, green, blue, alpha, each 0–255."""


_MAY_BE_NONE = frozenset({"threshold", "max_size"})


def parse_color(text: str) -> Color | None:
    """A colour name, `#rgb`, `#rrggbb`, `#rrggbbaa` or `rgb(…)`, else None."""
    from PIL import ImageColor

    try:
        found = ImageColor.getcolor(text.strip(), "RGBA")
    except ValueError:
        return None
    assert isinstance(found, tuple)  # noqa: S101 - mode RGBA always gives four values
    red, green, blue, alpha = (int(value) for value in found)
    return red, green, blue, alpha


@dataclass(frozen=True, kw_only=True, slots=True)
class RemoveOptions:
    """Everything that changes the pixels of a cut-out.

    Attributes:
        mask: Give the alpha alone, as a grey picture.
        background: A colour (name, `#rrggbb`, tuple of 3 or 4 values 0–255) or the path of a picture that is
            scaled to cover; None keeps the cut-out transparent.
        fit: How the picture is brought to the model's input; None takes the model's own default.
        max_size: Longest side in pixels of the picture that is worked on and given back; None keeps the size.
        threshold: 0–255; alpha at or above it becomes 255, below it 0. None keeps soft edges.
        post_process: Smooth the mask and make it binary.
        rescale: Stretch the mask to the full range 0–255; None takes the model's own default.
        matting: Refine the edge by closed-form matting (Levin et al. 2008) and estimate its colours.
        matting_foreground: 0–255; mask values above it are surely foreground.
        matting_background: 0–255; mask values below it are surely background.
        matting_erode: Pixels by which both sure regions shrink.

    Raises:
        UsageError: A value is out of range or makes no sense.
    """

    mask: bool = False
    background: str | Path | tuple[int, ...] | None = None
    fit: Fit | None = None
    max_size: int | None = None
    threshold: int | None = None
    post_process: bool = False
    rescale: bool | None = None
    matting: bool = False
    matting_foreground: int = 240
    matting_background: int = 10
    matting_erode: int = 10

    def __post_init__(self) -> None:
        self._check_whole_numbers()
        for name in ("threshold", "matting_foreground", "matting_background"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 255:
                raise UsageError(f"{_option(name)} is {value}, but it must lie between 0 and 255")
        if self.max_size is not None and self.max_size < 1:
            raise UsageError(f"{_option('max_size')} is {self.max_size}, but it must be at least 1 pixel")
        if self.matting_erode < 0:
            raise UsageError(f"{_option('matting_erode')} is {self.matting_erode}, but it cannot be negative")
        if self.matting and self.matting_background >= self.matting_foreground:
            raise UsageError(
                f"--matting-background ({self.matting_background}) must be below "
                f"--matting-foreground ({self.matting_foreground})"
            )
        if self.mask and self.background is not None:
            raise UsageError("--mask gives the alpha alone, so --background has nothing to fill")
        if self.fit is not None:  # a plain word is taken too
            object.__setattr__(self, "fit", _fit(self.fit))
        self._check_background()

    def _check_whole_numbers(self) -> None:
        for name in ("threshold", "max_size", "matting_foreground", "matting_background", "matting_erode"):
            value = getattr(self, name)
            if not _whole(value) and not (value is None and name in _MAY_BE_NONE):
                raise UsageError(f"{_option(name)} is {value!r}, but it must be a whole number")

    def _check_background(self) -> None:
        background = self.background
        if isinstance(background, tuple) and not (
            len(background) in {3, 4} and all(_whole(value) and 0 <= value <= 255 for value in background)
        ):
            raise UsageError(f"background {background} is not a colour: 3 or 4 whole numbers from 0 to 255 are")
        if isinstance(background, str) and parse_color(background) is None and not _is_file(background):
            raise UsageError(
                f"background {background!r} is neither a colour nor a picture file",
                hint="colours are names (white), #rrggbb, #rrggbbaa or rgb(r,g,b)",
            )
        if isinstance(background, Path) and not background.is_file():
            raise UsageError(f"background picture {background} does not exist")

    @property
    def background_color(self) -> Color | None:
        """The background as a colour, or None when it is a picture or absent."""
        if isinstance(self.background, tuple):
            red, green, blue, *rest = self.background
            return red, green, blue, rest[0] if rest else 255
        return parse_color(self.background) if isinstance(self.background, str) else None

    @property
    def background_picture(self) -> Path | None:
        """The background as the path of a picture, or None when it is a colour or absent."""
        if self.background is None or self.background_color is not None:
            return None
        assert not isinstance(self.background, tuple)  # noqa: S101 - a tuple is a colour
        return Path(self.background)

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """The option names, for callers that pass a mapping."""
        return tuple(field.name for field in fields(cls))

    @classmethod
    def from_mapping(cls, values: dict[str, Any]) -> RemoveOptions:
        """Options from a mapping; an unknown name is a `UsageError` that lists the known ones."""
        unknown = sorted(set(values) - set(cls.names()))
        if unknown:
            raise UsageError(f"unknown option {', '.join(unknown)}", hint=f"known: {', '.join(cls.names())}")
        return cls(**values)


def _whole(value: object) -> bool:
    return isinstance(value, Integral)  # numpy's too


def _fit(word: str) -> Fit:
    try:
        return Fit(word)
    except ValueError as error:
        raise UsageError(f"--fit is {word!r}, but it must be one of {', '.join(Fit)}") from error


def _is_file(text: str) -> bool:
    try:
        return Path(text).is_file()
    except OSError:  # longer than a file's name can be
        return False


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")
