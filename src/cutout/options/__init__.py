"""What a caller can ask for: how a cut-out looks, how it is written, and how devices are used."""

from __future__ import annotations

from numbers import Integral
from typing import TYPE_CHECKING, Any

from cutout.enums import BackgroundFit, BitDepth, EdgeColors, Fit, PngLevel, Strip
from cutout.errors import UsageError
from cutout.options import values
from cutout.options.kinds import Options, flag, percent, pixels, refused, text, whole, word

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from typing import Self, Unpack

    from cutout.options.backgrounds import Background, BackgroundPicture
    from cutout.options.keywords import RemoveKeywords
    from cutout.options.values import Color, Length, Shadow

__all__ = [
    "ACCELERATORS",
    "DEFAULT_MAX_FRAMES",
    "DEFAULT_MAX_PIXELS",
    "FILES",
    "RUN",
    "DeviceOptions",
    "Encoding",
    "RemoveOptions",
    "parse_batch",
]

DEFAULT_MAX_PIXELS = 256_000_000
"""A picture of more pixels is refused: 256 megapixels take about 1 GB while they are worked on."""

DEFAULT_MAX_FRAMES = 1000
"""An animation of more frames is refused: every one of them takes the time of a picture."""

_LOOK, _MATTING, _CLEAN, _FRAME = ("Look", "Matting", "Mask clean-up, in this order", "Framing")
FILES, RUN, ACCELERATORS = "Files", "Run", "Accelerators"


def _background(given: object) -> Background | None:
    from cutout.options.backgrounds import parse_background

    return parse_background(given)


class RemoveOptions(Options):
    """Everything that changes the pixels of a cut-out; what is given is parsed once, and the fields hold values.

    Raises:
        UsageError: A value is out of range or makes no sense.
    """

    mask: bool = flag("Write the alpha alone, as a grey picture.", _LOOK, default=False)
    background: Background | None = text(
        _background,
        "A colour (white, #ff8800, ...), a picture file, blur:RADIUS for the picture's own background blurred, "
        "gradient:COLOR,COLOR[,ANGLE], or transparent.",
        _LOOK,
        "-b",
        default=None,
    )
    background_fit: BackgroundFit = word(
        BackgroundFit,
        "How a background picture is brought to size: cover, contain, tile or stretch.",
        _LOOK,
        default=BackgroundFit.COVER,
        metavar="FIT",
    )
    shadow: Shadow | None = text(
        values.parse_shadow,
        "A soft shadow: default, or DX,DY,BLUR,OPACITY[,COLOR] in pixels or percent of the subject, such as "
        "0,20,40,50% or 1%,2%,4%,0.5,navy.",
        _LOOK,
        default=None,
        takes=(bool, str),
        metavar="SHADOW",
        service_most=500,
    )
    max_size: int | None = whole(
        "Longest side in pixels of the picture that is worked on and written.",
        _LOOK,
        default=None,
        unit=" pixel",
        least=1,
        service_least=1,
        service_most=float("inf"),  # only ever makes a picture smaller
    )
    fit: Fit | None = word(
        Fit, "How the picture is brought to the model's input. (default: the model's own)", _LOOK, default=None
    )
    post_process: bool = flag("Smooth the mask and make it binary.", _LOOK, default=False)
    rescale: bool | None = flag(
        "Stretch the mask to the full range. (default: the model's own)", _LOOK, "--no-rescale", default=None
    )
    threshold: int | None = whole(
        "Make the edge hard: alpha from this value on is opaque, below it transparent.", _CLEAN, default=None, most=255
    )
    min_area: Length | None = text(
        values.parse_area,
        "Remove objects smaller than this: pixels, or percent of the picture, such as 0.1%.",
        _CLEAN,
        default=None,
        takes=(float, str),
        metavar="AREA",
    )
    largest: bool = flag("Keep the largest object alone, with its soft edge.", _CLEAN, default=False)
    fill_holes: Length | None = text(
        values.parse_holes,
        "Make enclosed holes opaque: all, or those up to an area in pixels or percent.",
        _CLEAN,
        default=None,
        takes=(float, bool, str),
        metavar="AREA",
    )
    erode: int = pixels("Pixels by which the edge moves inwards.", _CLEAN, default=0, service_most=100)
    dilate: int = pixels("Pixels by which it then moves outwards.", _CLEAN, default=0, service_most=100)
    feather: int = pixels("Pixels over which the edge fades, on either side.", _CLEAN, default=0, service_most=200)
    invert: bool = flag("Keep what would have been removed.", _CLEAN, default=False)
    crop: bool = flag("Cut the result to the subject.", _FRAME, default=False)
    margin: tuple[Length, Length, Length, Length] | None = text(
        values.parse_margin,
        "Room around the subject: 20, 5%, or up to four of them as in CSS, such as 10,20. "
        "Percent are of the subject with {crop}, of the canvas with {canvas}.",
        _FRAME,
        default=None,
        takes=(float, str),
        metavar="LENGTHS",
        service_most=2000,
        service_percent=50,
    )
    canvas: tuple[int, int] | None = text(
        values.parse_canvas,
        "Size of the result; the subject is set on it.",
        _FRAME,
        default=None,
        takes=(int, str),
        metavar="WxH",
        service_least=1,
    )
    scale: float | None = text(
        values.parse_scale,
        "Size of the subject on the canvas: fit, original, or a share such as 80%.",
        _FRAME,
        default="fit",
        metavar="SCALE",
    )
    position: tuple[float, float] = text(
        values.parse_position,
        "Place of the subject on the canvas: center, bottom, top-left, ..., or shares such as 50%,80%.",
        _FRAME,
        default="center",
        metavar="PLACE",
    )
    refine: bool = flag(
        "Look again at the undistorted picture and at the subject, and move the mask onto the picture's edges.",
        _LOOK,
        default=False,
    )
    tiles: int = whole(
        "Look again at those tiles of an N×N grid that the contour runs through; for pictures that are several "
        "times as large as the model's input: there are never smaller tiles.",
        _LOOK,
        default=0,
        most=8,
    )
    matting: bool = flag("Refine the edge by alpha matting: hair, fur, soft edges.", _MATTING, "-a", default=False)
    matting_foreground: int = whole("Mask values above it are surely foreground.", _MATTING, default=240, most=255)
    matting_background: int = whole("Mask values below it are surely background.", _MATTING, default=10, most=255)
    matting_erode: int = pixels("Pixels by which both sure regions shrink.", _MATTING, default=10, service_most=200)
    edge_colors: EdgeColors = word(
        EdgeColors,
        "clean: take the old background's colour out of soft edges; keep: leave colours as they are.",
        _LOOK,
        default=EdgeColors.CLEAN,
    )

    def __init__(self, **given: Unpack[RemoveKeywords]) -> None:
        super().__init__(**given)
        self._check(given.get("margin"))

    def replace(self, **changes: Unpack[RemoveKeywords]) -> Self:
        """The same options with some changed."""
        given: dict[str, Any] = {**self.values(), **changes}
        return type(self)(**given)

    def _check(self, margin: object) -> None:
        """Refuse what does not go together."""
        if self.matting and self.matting_background >= self.matting_foreground:
            raise UsageError(
                f"matting_background ({self.matting_background}) must be below "
                f"matting_foreground ({self.matting_foreground})",
                options=("matting_background", "matting_foreground"),
            )
        if self.mask and self.background is not None:
            raise UsageError(
                "mask gives the alpha alone, so background has nothing to fill", options=("mask", "background")
            )
        if self.mask and self.shadow is not None and not self.framed:  # else it lies on a picture that has one
            raise UsageError(
                "mask gives the alpha alone, so nothing of shadow could be seen", options=("mask", "shadow")
            )
        if self.margin is not None and not self.framed:
            raise UsageError(
                "margin is the room around the subject: it goes with crop or canvas",
                options=("margin", "crop", "canvas"),
            )
        if self.canvas is None:
            for name in ("scale", "position"):
                if getattr(self, name) != getattr(RemoveOptions, name):
                    raise UsageError(
                        f"{name} places the subject on a canvas: it goes with canvas", options=(name, "canvas")
                    )
        else:
            try:
                values.free_area(self.canvas, self.margin)
            except ValueError as error:
                raise refused("margin", self.margin if margin is None else margin, f"be {error}") from None

    @property
    def framed(self) -> bool:
        """Whether the result is laid out around the subject."""
        return self.crop or self.canvas is not None

    @property
    def cleans_up(self) -> bool:
        """Whether anything of `imaging.cleanup.clean_up` is asked for."""
        steps = (self.largest, self.erode, self.dilate, self.feather, self.invert)
        return any(steps) or (self.threshold, self.min_area, self.fill_holes) != (None, None, None)

    @property
    def background_color(self) -> Color | None:
        """The background, where it is a colour."""
        return self.background if isinstance(self.background, tuple) else None

    @property
    def background_picture(self) -> BackgroundPicture | None:
        """The background, where it is a picture."""
        if self.background is None or isinstance(self.background, tuple):
            return None
        from cutout.options.backgrounds import BackgroundPicture

        return self.background if isinstance(self.background, BackgroundPicture) else None

    @property
    def background_path(self) -> Path | None:
        """The background, where it is a picture's file."""
        return None if self.background_picture is None else self.background_picture.path


class Encoding(Options):
    """How results are written."""

    quality: int | None = whole("Quality of jpg, webp, avif and heic.", FILES, default=None, most=100)
    lossless: bool = flag("webp and heic without loss; avif nearly lossless.", FILES, default=False)
    png_level: PngLevel = word(
        PngLevel, "How hard PNGs are compressed: fastest, fast or small.", FILES, default=PngLevel.FAST
    )
    keep_hidden: bool = flag("Keep colours that cannot be seen exactly; files become larger.", FILES, default=False)
    bit_depth: BitDepth = word(
        BitDepth, "Bits a channel in png and tiff: 8, 16, or as the input has them.", FILES, default=BitDepth.AUTO
    )
    strip: Strip = word(
        Strip,
        "Leave out metadata: gps (all places), or all but the colour profile and the resolution.",
        FILES,
        default=Strip.NONE,
        any_case=True,
    )
    first_frame: bool = flag("Take the first frame of an animation, the first page, alone.", FILES, default=False)
    max_pixels: int = whole("Refuse larger pictures.", RUN, default=DEFAULT_MAX_PIXELS, least=1)
    max_frames: int = whole("Refuse animations of more frames.", RUN, default=DEFAULT_MAX_FRAMES, least=1)
    threads: int = whole("Cores that encode one picture.", "", default=1, least=1)


def parse_batch(given: object) -> int | None:
    """Pictures that a device computes at once; None (or `auto`, or no text) measures which number is fastest."""
    word = given.strip().lower() if isinstance(given, str) else given
    if word is None or word in ("", "auto"):
        return None
    if not isinstance(word, str | Integral) or not (str(word).isdecimal() and 1 <= int(word) <= 1024):
        raise ValueError("a number from 1 to 1024, or auto")
    return int(word)


class DeviceOptions(Options):
    """How devices other than the processor are used; none of it changes what the processor does alone.

    Raises:
        UsageError: A value is out of range.
    """

    batch: int | None = text(
        parse_batch,
        "Pictures an accelerator computes at once. (default: auto)",
        ACCELERATORS,
        default=None,
        metavar="N",
    )
    half: bool = flag("Compute in half precision on an accelerator.", ACCELERATORS, default=False)
    provider_options: Mapping[str, Any] | None = text(
        dict, "Told to the execution provider of the named device.", "", default=None
    )
    cpu_fallback: bool = flag("What a device has no memory for, the processor does.", ACCELERATORS, default=False)
    gpu_memory_limit: float = percent("auto passes over a card whose memory is fuller.", ACCELERATORS, default=80.0)
    pictures: int = whole(
        "Pictures there are to do, 0 when nobody knows: for a few, nothing is measured.", "", default=0
    )

    @property
    def given(self) -> tuple[str, ...]:
        """Those of the options that were given a value other than their own, as the command line calls them."""
        other = [name for name, value in self.values().items() if value != getattr(type(self), name)]
        return tuple("--" + name.removesuffix("s").replace("_", "-") for name in other if name != "pictures")
