"""How much memory a picture will take, by what its header says: before any of its pixels is decoded.

The constants are bytes a pixel, measured by `python benchmarks/memory.py` at 24 and 96 megapixels (Linux, Pillow 13.0
and the codecs of its wheels), and rounded up. A picture takes the most in one of three stages: while it is decoded,
while it is worked on, while it is written.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from cutout.enums import BitDepth
from cutout.errors import UsageError
from cutout.formats.input_formats import INPUT_FORMATS
from cutout.formats.picture import limited
from cutout.imaging import layout
from cutout.options import values
from cutout.output_formats import OutputFormat, check_side

if TYPE_CHECKING:
    from cutout.formats.picture import Header
    from cutout.options import RemoveOptions

__all__ = ["Need", "need_of"]

_BASE = 24 << 20
"""Bytes that any picture takes: strips, masks, what the model sees."""
_KEPT = 5.0
"""Colours, which Pillow holds in four bytes, and alpha."""
_DEEP = 6.0
"""Colours in 16 bits."""

_DECODED = {name: row.memory for row in INPUT_FORMATS for name in row.pillow}
_DECODED_ELSE = 30.0
_PROGRESSIVE = 6.0
"""A progressive JPEG is kept as coefficients until its last scan has come."""
_CONVERTED = {"RGB": 0.0, "L": 4.0, "1": 6.0, "P": 5.0, "RGBA": 5.0, "CMYK": 4.0}
"""What is taken to bring other modes to RGB."""
_CONVERTED_ELSE = 9.0
_DEEP_READ = 11.0
"""The second reading of a picture of 16 bits, and both together."""

# While it is worked on, beside what is kept; options do not add up, as one step ends before the next.
_WORKED = 1.0
_DEEP_WORKED = 10.0
"""Colours in 16 bits are joined with what 8 bits became; the picture stays beside it."""
_STEPS: dict[str, float] = {
    "refine": 3.0,
    "tiles": 4.0,
    "matting": 8.0,
    "post_process": 5.0,
    "largest": 4.0,
    "min_area": 4.0,
    "fill_holes": 4.0,
    "erode": 3.0,
    "dilate": 3.0,
    "feather": 4.0,
}
_GROUND = 4.0
"""A background of one opaque colour; others take more."""
_BACKGROUND = 12.0
_TRANSLUCENT = 6.0
"""A result with a shadow or a translucent colour behind it; composed in strips."""
_SHADE = 2.0
"""A shadow over an opaque background."""
_ROW = 4
"""Pixels that a row takes beside its own: Pillow keeps its address, which counts where rows are short."""
_FRAMES = 14.0
"""An animation is painted in a buffer of its decoder, and its encoder keeps the frame before."""
_LEAN = 3.0
"""Bytes a pixel that a format's encoder takes at most, for it to be no reason to write another."""


class Need(NamedTuple):
    """What a picture will take; as `Budget.hold` wants it."""

    memory: int
    """Bytes, at most."""
    what: str
    """The picture and what is made of it, for messages."""
    ways: str
    """What would take less, for messages."""


def need_of(
    header: Header,
    options: RemoveOptions,
    output_format: OutputFormat,
    *,
    data: int = 0,
    lossless: bool = False,
    bit_depth: BitDepth = BitDepth.AUTO,
) -> Need:
    """What a picture will take, from its decoding to the bytes of its result.

    `data` are the bytes of its file, which stay in memory; `lossless` and `bit_depth` are those of `Encoding`.

    Raises:
        OutputError: The result will be too long for the format.
        UsageError: The background picture cannot be read.
    """
    size = limited(header.size, options.max_size)
    if options.canvas is not None:
        check_side(output_format, options.canvas, way="canvas")
    elif not options.framed:  # what a crop leaves is seen when it is done
        check_side(output_format, size)
    deep = header.deep and output_format.has_16_bits and bit_depth is not BitDepth.EIGHT
    whole, pixels = _area(header.size), _area(size)
    result = _result_pixels(size, options)
    several = output_format.has_pages if header.kind == "TIFF" else output_format.has_frames
    count = header.frames if several else 1
    moving = count > 1 and header.kind != "TIFF"
    kept = _KEPT + (header.mode not in {"RGB", "L", "CMYK"}) + _DEEP * deep + _FRAMES * moving
    writing = _writing(options, output_format, bit_depth, lossless=lossless, deep=deep)
    stages = (
        whole * _decoding(header, deep=deep) + pixels * (kept if size != header.size else 0.0),
        pixels * kept + max(pixels * _working(options, deep=deep), result * _composing(options)),
        pixels * (kept - _KEPT) + result * (_KEPT + writing),
    )
    written = result * count * output_format.row.memory.frame if count > 1 else 0.0
    memory = int(_BASE + data + max(stages) + written) + _behind(options)
    what = f"a picture of {header.size[0] * header.size[1] / 1e6:.0f} megapixels as {output_format.row.title}"
    smaller = "a smaller max_size" if options.canvas is None else "a smaller canvas"
    lean = output_format.row.memory.cutout <= _LEAN
    return Need(memory, what, smaller if lean else f"write PNG or TIFF instead, {smaller}")


def _behind(options: RemoveOptions) -> int:
    """The background picture in its own size: it is decoded with the first picture, and stays."""
    if options.mask or options.background_picture is None:
        return 0
    from cutout.pipeline.behind import memory_of

    return memory_of(options.background_picture)


def _area(size: tuple[int, int]) -> int:
    """Pixels, whichever side is the width."""
    return size[0] * size[1] + _ROW * max(size)


def _result_pixels(size: tuple[int, int], options: RemoveOptions) -> int:
    """Of the finished picture, at most: a subject that fills the picture is the largest."""
    if not options.framed:
        return _area(size)
    try:
        frame = layout.layout((0, 0, *size), options)
    except UsageError:  # a smaller subject may still pass
        return max(values.MAX_CANVAS, _area(size))
    return _area(frame.size)


def _decoding(header: Header, *, deep: bool) -> float:
    taken = _DECODED.get(header.kind, _DECODED_ELSE) + _CONVERTED.get(header.mode, _CONVERTED_ELSE)
    return taken + _PROGRESSIVE * header.progressive + _DEEP_READ * deep + _KEPT * header.turned


def _working(options: RemoveOptions, *, deep: bool) -> float:
    steps = (taken for name, taken in _STEPS.items() if getattr(options, name))
    return max(_DEEP_WORKED if deep else _WORKED, *steps, 0.0)


def _composing(options: RemoveOptions) -> float:
    color = options.background_color
    if options.background is None:
        taken = _TRANSLUCENT if options.shadow else 0.0
    elif color is not None and color[3] < 255:
        taken = _TRANSLUCENT
    else:
        taken = (_BACKGROUND if color is None else _GROUND) + _SHADE * bool(options.shadow)
    return taken + _KEPT * options.framed


def _writing(
    options: RemoveOptions, output_format: OutputFormat, bit_depth: BitDepth, *, lossless: bool, deep: bool
) -> float:
    color = options.background_color
    opaque = options.mask or (options.background is not None and (color is None or color[3] == 255))
    wide = bit_depth is BitDepth.SIXTEEN
    taken = output_format.row.memory.taken(transparent=not opaque, lossless=lossless, deep=deep or wide)
    return taken + (_DEEP if wide and not deep else 0.0)
