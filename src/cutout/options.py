"""What a caller can ask for: one frozen object that validates itself."""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import StrEnum
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from cutout import values as specs
from cutout.enums import BackgroundFit, BitDepth, EdgeColors, Fit, PngLevel, Strip
from cutout.errors import UsageError
from cutout.values import Color, Gradient, Length, parse_color

__all__ = ["DEFAULT_MAX_FRAMES", "DEFAULT_MAX_PIXELS", "Encoding", "RemoveOptions"]

if TYPE_CHECKING:
    from collections.abc import Callable

DEFAULT_MAX_PIXELS = 256_000_000
"""A picture of more pixels is refused: 256 megapixels take about 1 GB while they are worked on."""

DEFAULT_MAX_FRAMES = 1000
"""An animation of more frames is refused: every one of them takes the time of a picture."""

_Kind = TypeVar("_Kind", bound=StrEnum)

_MAY_BE_NONE = frozenset({"threshold", "max_size"})


@dataclass(frozen=True, kw_only=True, slots=True)
class RemoveOptions:
    """Everything that changes the pixels of a cut-out.

    Attributes:
        mask: Give the alpha alone, as a grey picture.
        background: A colour (name, `#rrggbb`, tuple of 3 or 4 values 0–255), the path of a picture,
            `gradient:COLOR,COLOR[,ANGLE]`, or `blur:RADIUS` for what was behind the subject, blurred (sigma in pixels
            or percent of the longer side); None and `transparent` keep the cut-out transparent.
        background_fit: How a background picture is brought to the size of the result.
        fit: How the picture is brought to the model's input; None takes the model's own default.
        max_size: Longest side in pixels of the picture that is worked on and given back; None keeps the size.
        threshold: 0–255; alpha at or above it becomes 255, below it 0. None keeps soft edges.
        post_process: Smooth the mask and make it binary.
        rescale: Stretch the mask to the full range 0–255; None takes the model's own default.
        refine: Look again at the undistorted picture and at the subject, and move the contour onto the picture's edges.
        tiles: Look again at those tiles of an N×N grid that the contour runs through, 2–8; 0 or 1 looks at none. A grid
            has no more tiles along a side than the picture is times as large as the model's input.
        matting: Refine the edge by closed-form matting (Levin et al. 2008).
        matting_foreground: 0–255; mask values above it are surely foreground.
        matting_background: 0–255; mask values below it are surely background.
        matting_erode: Pixels by which both sure regions shrink.
        largest: Keep the largest object alone, with its soft edge.
        min_area: Remove objects smaller than this (pixels, or percent of the picture).
        fill_holes: Make enclosed holes opaque: `all` (or True), or those up to an area (pixels, or percent).
        erode: Pixels by which the edge moves inwards.
        dilate: Pixels by which it then moves outwards.
        feather: Pixels over which the edge fades, on either side.
        invert: Keep what would have been removed.
        crop: Cut the result to the subject.
        margin: Room around the subject: one to four lengths in CSS order; percent of the subject's longer side with
            `crop`, of the canvas' shorter side with `canvas`.
        canvas: Width and height of the result, such as `1200x800`; the subject is placed on it.
        scale: Size of the subject on the canvas: `fit`, `original`, or a share such as `80%`.
        position: Place of the subject on the canvas: `center`, `bottom`, `top-left`, `50%,80%`.
        shadow: A soft shadow: `default` (or True), or `DX,DY,BLUR,OPACITY[,COLOR]`; percent of the subject's longer
            side.
        edge_colors: Whether the old background's colour is taken out of soft pixels.

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
    refine: bool = False
    tiles: int = 0
    matting: bool = False
    matting_foreground: int = 240
    matting_background: int = 10
    matting_erode: int = 10
    background_fit: BackgroundFit = BackgroundFit.COVER
    largest: bool = False
    min_area: str | float | None = None
    fill_holes: str | float | bool | None = None
    erode: int = 0
    dilate: int = 0
    feather: int = 0
    invert: bool = False
    crop: bool = False
    margin: str | float | tuple[str | float, ...] | None = None
    canvas: str | int | tuple[int, int] | None = None
    scale: str = "fit"
    position: str | tuple[str, str] = "center"
    shadow: str | bool | None = None
    edge_colors: EdgeColors = EdgeColors.CLEAN

    def __post_init__(self) -> None:
        self._check_whole_numbers()
        self._check_ranges()
        if self.matting and self.matting_background >= self.matting_foreground:
            raise UsageError(
                f"matting_background ({self.matting_background}) must be below "
                f"matting_foreground ({self.matting_foreground})",
                options=("matting_background", "matting_foreground"),
            )
        if isinstance(self.background, str) and self.background.strip().lower() == "transparent":
            object.__setattr__(self, "background", None)
        if self.mask and self.background is not None:
            raise UsageError(
                "mask gives the alpha alone, so background has nothing to fill", options=("mask", "background")
            )
        self._check_shadow()
        if self.fit is not None:  # a plain word is taken too
            object.__setattr__(self, "fit", _one_of(Fit, "fit", self.fit))
        object.__setattr__(self, "edge_colors", _one_of(EdgeColors, "edge_colors", self.edge_colors))
        object.__setattr__(self, "background_fit", _one_of(BackgroundFit, "background_fit", self.background_fit))
        self._check_background()
        self._check_framing()

    def _check_shadow(self) -> None:
        """A mask has no shadow, but is framed as the picture with one is, so that it lies on that."""
        wanted = not (self.shadow is None or self.shadow is False or _is_word(self.shadow, "none"))
        if self.mask and wanted and not self.crop and self.canvas is None:
            raise UsageError(
                "mask gives the alpha alone, so nothing of shadow could be seen", options=("mask", "shadow")
            )

    def _check_ranges(self) -> None:
        for name in ("threshold", "matting_foreground", "matting_background"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 255:
                raise UsageError(f"{name} is {value}, but it must lie between 0 and 255", options=(name,))
        if self.max_size is not None and self.max_size < 1:
            raise UsageError(f"max_size is {self.max_size}, but it must be at least 1 pixel", options=("max_size",))
        if not 0 <= self.tiles <= 8:
            raise UsageError(f"tiles is {self.tiles}, but it must lie between 0 and 8", options=("tiles",))
        for name in ("matting_erode", "erode", "dilate", "feather"):
            if not 0 <= (value := getattr(self, name)) <= _MOST_PIXELS:
                raise UsageError(
                    f"{name} is {_short(str(value))}, but it must lie between 0 and {_MOST_PIXELS} pixels",
                    options=(name,),
                )

    def _check_whole_numbers(self) -> None:
        for name in (
            "threshold",
            "max_size",
            "tiles",
            "matting_foreground",
            "matting_background",
            "matting_erode",
            "erode",
            "dilate",
            "feather",
        ):
            value = getattr(self, name)
            if not _whole(value) and not (value is None and name in _MAY_BE_NONE):
                raise UsageError(f"{name} is {value!r}, but it must be a whole number", options=(name,))

    def _check_background(self) -> None:
        background = self.background
        if isinstance(background, tuple) and not (
            len(background) in {3, 4} and all(_whole(value) and 0 <= value <= 255 for value in background)
        ):
            raise UsageError(f"background {background} is not a colour: 3 or 4 whole numbers from 0 to 255 are")
        if isinstance(background, Path) and not background.is_file():
            raise UsageError(f"background picture {background} does not exist")
        if isinstance(background, str):
            _parsed("background", specs.parse_gradient, background)
            _parsed("background", specs.parse_blur, background)
            if self.background_picture is not None and not _is_file(background):
                reads_as_path = "/" in background or "\\" in background or "." in background
                raise UsageError(
                    f"background {background!r} is neither a colour nor a picture file"
                    + (": no such file exists" if reads_as_path else ""),
                    hint="colours are names (white), #rrggbb, #rrggbbaa or rgb(r,g,b); "
                    "others are transparent, blur:RADIUS and gradient:COLOR,COLOR",
                )

    def _check_framing(self) -> None:
        if self.min_area is not None:
            _parsed("min_area", specs.parse_area, self.min_area)
        if not (self.fill_holes is None or isinstance(self.fill_holes, bool) or _is_word(self.fill_holes, "all")):
            _parsed("fill_holes", _hole_size, self.fill_holes)
        if self.margin is not None:
            _parsed("margin", specs.parse_margin, self.margin)
            if not self.crop and self.canvas is None:
                raise UsageError(
                    "margin is the room around the subject: it goes with crop or canvas",
                    options=("margin", "crop", "canvas"),
                )
        if self.canvas is not None:
            _parsed("canvas", specs.parse_canvas, self.canvas)
            size = specs.parse_canvas(self.canvas)
            _parsed("margin", lambda margin: specs.free_area(size, margin), self.margin)
        for name, parse in (("scale", specs.parse_scale), ("position", specs.parse_position)):
            value = getattr(self, name)
            _parsed(name, parse, value)
            if self.canvas is None and value != _DEFAULTS[name]:
                raise UsageError(
                    f"{name} places the subject on a canvas: it goes with canvas", options=(name, "canvas")
                )
        _parsed("shadow", specs.parse_shadow, self.shadow)

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
        if isinstance(self.background, str) and (self.background_gradient or self.background_blur):
            return None
        assert not isinstance(self.background, tuple)  # noqa: S101 - a tuple is a colour
        return Path(self.background)

    @property
    def background_gradient(self) -> Gradient | None:
        """The background as a gradient, or None when it is something else."""
        return specs.parse_gradient(self.background) if isinstance(self.background, str) else None

    @property
    def background_blur(self) -> Length | None:
        """The radius by which the picture's own background is blurred, or None when the background is another."""
        return specs.parse_blur(self.background) if isinstance(self.background, str) else None

    @property
    def largest_hole(self) -> Length | None:
        """The area of the largest hole that is filled; None fills none."""
        if self.fill_holes is None or self.fill_holes is False:
            return None
        if self.fill_holes is True or _is_word(self.fill_holes, "all"):
            return Length(100, percent=True)
        return specs.parse_area(self.fill_holes)

    @property
    def cleans_up(self) -> bool:
        """Whether anything of `imaging.cleanup.clean_up` is asked for."""
        steps = (self.min_area, self.largest, self.fill_holes, self.erode, self.dilate, self.feather, self.invert)
        return self.threshold is not None or any(steps)

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


@dataclass(frozen=True, kw_only=True, slots=True)
class Encoding:
    """How results are written.

    Attributes:
        quality: 0–100 for JPEG, WebP and AVIF; None takes a good one.
        lossless: WebP and HEIC without loss, AVIF nearly so.
        png_level: How hard a PNG is compressed.
        keep_hidden: Keep colours that cannot be seen exactly as they were.
        threads: Cores that encode one picture.
        max_pixels: Larger inputs are refused.
        bit_depth: Bits a channel, for the formats that leave a choice.
        strip: What of the metadata is left out.
        first_frame: Take the first frame or page alone; otherwise all, where the format can hold them.
        max_frames: Animations of more frames are refused.
    """

    quality: int | None = None
    lossless: bool = False
    png_level: PngLevel = PngLevel.FAST
    keep_hidden: bool = False
    threads: int = 1
    max_pixels: int = DEFAULT_MAX_PIXELS
    bit_depth: BitDepth = BitDepth.AUTO
    strip: Strip = Strip.NONE
    first_frame: bool = False
    max_frames: int = DEFAULT_MAX_FRAMES


_MOST_PIXELS = 10_000
"""By which an edge can be moved or blurred: more than any edge has, and few enough for the memory of one picture."""
_DEFAULTS = {"scale": "fit", "position": "center"}


def _whole(value: object) -> bool:
    return isinstance(value, Integral)  # numpy's too


def _one_of(kind: type[_Kind], name: str, word: str) -> _Kind:
    try:
        return kind(word)
    except ValueError as error:
        raise UsageError(f"{name} is {word!r}, but it must be one of {', '.join(kind)}", options=(name,)) from error


def _parsed(name: str, parse: Callable[[Any], object], value: object) -> None:
    """Refuse what the parser refuses."""
    try:
        parse(value)
    except ValueError as error:
        raise UsageError(f"{name} is {_short(repr(value))}, but it must be {error}", options=(name,)) from error


def _short(text: str) -> str:
    """A value as it was given, or its beginning."""
    return text if len(text) <= 80 else f"{text[:60]}… ({len(text)} characters)"


def _hole_size(value: object) -> None:
    try:
        specs.parse_area(value)
    except ValueError as error:
        raise ValueError(f"all, or {error}") from None


def _is_word(value: object, word: str) -> bool:
    return isinstance(value, str) and value.strip().lower() == word


def _is_file(text: str) -> bool:
    try:
        return Path(text).is_file()
    except OSError:  # longer than a file's name can be
        return False
