"""One picture's file from bytes to bytes: a folder's file, a request of the service and `cutout.remove` alike."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from cutout.enums import BitDepth
from cutout.formats import decode
from cutout.formats.encode import encode
from cutout.imaging import layout
from cutout.options import Encoding, RemoveOptions
from cutout.output_formats import OutputFormat
from cutout.pipeline.estimate import need_of
from cutout.timing import StageTimes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cutout.formats.decode import CheckedFile, Picture
    from cutout.pipeline.budget import Budget
    from cutout.pipeline.remover import MaskResult, Remover

__all__ = ["Converted", "convert", "within_memory"]

_WHITE = (255, 255, 255, 255)
_NO_OPTIONS, _PLAIN = RemoveOptions(), Encoding()


@dataclass(frozen=True, kw_only=True, slots=True)
class Converted:
    """A finished file.

    Attributes:
        encoded: Its bytes.
        size: (width, height), of its first page if there are several.
        warnings: Things a user should know.
        frames: Frames or pages.
        subject: Left, top, right, bottom of the subject in the result; None where nothing is there, or nobody asked.
        placed: The same of the original, which may reach beyond; None where there are several frames or pages.
    """

    encoded: bytes
    size: tuple[int, int]
    warnings: tuple[str, ...]
    frames: int = 1
    subject: tuple[int, int, int, int] | None = None
    placed: tuple[float, float, float, float] | None = None


def convert(
    data: bytes,
    output_format: OutputFormat,
    remover: Remover,
    options: RemoveOptions,
    encoding: Encoding,
    stages: StageTimes | None = None,
    admitted: Callable[[], None] = lambda: None,
    *,
    locate: bool = False,
) -> Converted:
    """Cut out the picture in a file, once there is memory for it; `admitted` is called then.

    A format without transparency gets a white background unless another is asked for. `stages` receives the time of
    each stage, and says between them whether to go on; `locate` asks where the subject lies in the result.

    Raises:
        CancelledError: The stages' check says that the picture is not wanted any more.
        CutoutError: Whatever is wrong with the picture or the options.
    """
    options, notes = _for_format(options, output_format)
    several = (output_format.has_pages or output_format.has_frames) and not encoding.first_frame
    most = encoding.max_frames if several else 1
    with within_memory(data, remover.budget, options, output_format, encoding, max_frames=most) as file:
        admitted()
        del data
        made = _converted(file, output_format, remover, options, encoding, stages or StageTimes(), locate=locate)
    return replace(made, warnings=(*notes, *made.warnings))


@contextmanager
def within_memory(
    data: bytes,
    budget: Budget,
    options: RemoveOptions = _NO_OPTIONS,
    output_format: OutputFormat = OutputFormat.PNG,
    encoding: Encoding = _PLAIN,
    *,
    max_frames: int = 1,
) -> Iterator[CheckedFile]:
    """A file that was examined, while there is memory for its picture and for what is made of that.

    Raises:
        OverBudgetError: There never is enough for this picture.
        MemoryBusyError: Others have held it for too long.
        CutoutError: It is no picture, too large, or too long for the format.
    """
    file = decode.check(data, max_pixels=encoding.max_pixels)
    need = need_of(
        decode.header(file, max_pixels=encoding.max_pixels, max_frames=max_frames),
        options,
        output_format,
        data=len(data),
        lossless=encoding.lossless,
        bit_depth=encoding.bit_depth,
    )
    del data
    with budget.hold(*need):
        yield file


def _converted(
    file: CheckedFile,
    output_format: OutputFormat,
    remover: Remover,
    options: RemoveOptions,
    encoding: Encoding,
    stages: StageTimes,
    *,
    locate: bool,
) -> Converted:
    limits: dict[str, Any] = {
        "max_size": options.max_size,
        "max_pixels": encoding.max_pixels,
        "deep": output_format.has_16_bits and encoding.bit_depth is not BitDepth.EIGHT,
    }
    with stages.time("decode"):
        picture = decode.decode(file, max_frames=encoding.max_frames, alone=encoding.first_frame, **limits)
    if picture.frames > 1 and (output_format.has_pages if picture.paged else output_format.has_frames):
        from cutout.pipeline.animation import convert_frames

        limits["deep"] = limits["deep"] and picture.paged
        limits["max_frames"] = encoding.max_frames
        encoded, size, warnings = convert_frames(
            lambda: decode.film(file, **limits), picture, output_format, remover, options, encoding, stages
        )
        return Converted(encoded=encoded, size=size, warnings=warnings, frames=picture.frames)
    found, subject = _located(remover, picture, options, stages) if locate else (None, None)
    cutout = remover.cut(picture, options, stages, consume=True, mask_result=found, quiet=True)
    del picture, found  # where the result has pixels of its own
    with stages.time("encode"):
        kept, stripped = cutout.metadata.stripped(encoding.strip)
        metadata, left = kept.fitting(output_format)
        encoded = encode(cutout.rgb, cutout.alpha, output_format, metadata, encoding, deep=cutout.deep, consume=True)
    warnings = (*cutout.warnings, *stripped, *left)
    return Converted(encoded=encoded, size=cutout.size, warnings=warnings, subject=subject, placed=cutout.placed)


def _located(
    remover: Remover, picture: Picture, options: RemoveOptions, stages: StageTimes
) -> tuple[MaskResult, tuple[int, int, int, int] | None]:
    """What is there, and where it will lie in the result."""
    found = remover.look(picture, options, stages)
    with stages.time("postprocess"):
        box = layout.subject_box(found.alpha)
        if box is None:
            return found, None
        frame, _ = layout.frame_of(found.alpha, options, box)
        return replace(found, subject=box), frame.shown(box)


def _for_format(options: RemoveOptions, output_format: OutputFormat) -> tuple[RemoveOptions, tuple[str, ...]]:
    """A format without transparency gets a background, white unless one was asked for; and warnings."""
    if output_format.has_alpha or options.mask or ((color := options.background_color) is None and options.background):
        return options, ()
    if color is None:
        return options.replace(background=_WHITE), ()
    text = f"{output_format.value} holds no transparency: the background's colour was laid over white"
    return options.replace(background=_over_white(color)), (text,) if color[3] < 255 else ()


def _over_white(color: tuple[int, int, int, int]) -> tuple[int, int, int]:
    red, green, blue, alpha = color
    red, green, blue = (round(value * alpha / 255 + 255 - alpha) for value in (red, green, blue))
    return red, green, blue
