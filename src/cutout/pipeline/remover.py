"""The core: a model opened once, pictures in, cut-outs out; no paths, no console."""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from PIL import ImageChops

from cutout.engines.base import EngineRequest, describe, open_engine, parse_engine, parse_precision
from cutout.enums import EdgeColors, EngineName, Precision
from cutout.errors import OutOfMemoryError, remark
from cutout.formats.checks.preflight import allowing
from cutout.formats.color import is_srgb, to_srgb
from cutout.imaging import composite, decontaminate, layout
from cutout.imaging.resample import upscale
from cutout.models.registry import DEFAULT_MODEL
from cutout.models.tensors import input_size
from cutout.options import DeviceOptions, RemoveOptions
from cutout.options.values import MAX_CANVAS
from cutout.pipeline.budget import budget_of
from cutout.system import threads_each
from cutout.timing import StageTimes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path
    from typing import Self

    import numpy as np
    import numpy.typing as npt
    from PIL import Image

    from cutout.engines.base import Engine
    from cutout.formats.decode import Metadata, Picture
    from cutout.models.registry import ModelSpec
    from cutout.pipeline.budget import Budget

__all__ = ["Cutout", "MaskResult", "Remover", "predict"]

_WHITE = (255, 255, 255, 255)


@dataclass(frozen=True, kw_only=True, slots=True)
class Cutout:
    """A finished picture.

    Attributes:
        rgb: Mode RGB; None where the mask alone was asked for.
        alpha: Mode L, straight; None over an opaque background.
        metadata: Profile, resolution, EXIF and XMP for the encoder.
        warnings: Things a user should know about this picture.
        deep: `rgb` in 16 bits where the picture had them, uint16 of shape (height, width, 3).
        placed: Left, top, right, bottom of the original in it, in its pixels; it may reach beyond.
    """

    rgb: Image.Image | None
    alpha: Image.Image | None
    metadata: Metadata
    warnings: tuple[str, ...] = ()
    deep: npt.NDArray[np.uint16] | None = None
    placed: tuple[float, float, float, float] | None = None

    @property
    def image(self) -> Image.Image:
        """One image: RGBA with straight alpha, RGB over an opaque background, L where the mask alone was asked for."""
        if self.rgb is None or self.alpha is None:
            return self._any
        return composite.cut(self.rgb, self.alpha)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return self._any.size

    @property
    def _any(self) -> Image.Image:
        only = self.rgb or self.alpha
        assert only is not None  # noqa: S101 - one of the two is a picture
        return only


@dataclass(frozen=True, kw_only=True, slots=True)
class MaskResult:
    """What was found in a picture; colours, frame and background are still to come.

    Attributes:
        alpha: Mode L, the picture's size: cleaned up, refined, and what was transparent before stays so.
        warnings: Things a user should know.
        subject: Left, top, right, bottom of what the picture is framed by; None is its own subject.
    """

    alpha: Image.Image
    warnings: tuple[str, ...] = ()
    subject: tuple[int, int, int, int] | None = None


class Remover:
    """A model, opened once and safe to use from many threads; closed by `close` or the end of a `with` block.

    Args:
        model: A name or alias of the registry, the path of an `.onnx` file, or `rembg:NAME`.
        device: `auto`, `cpu`, `cuda`, `cuda:1`, …; None asks `CUTOUT_DEVICE`, then
            `ONNXRUNTIME_EXECUTION_PROVIDERS`, then takes `auto`.
        options: Used wherever a call gives none.
        jobs: Pictures that will be worked on side by side; every inference gets its share of the processors.
        model_config: For an `.onnx` file: columns of `ModelSpec`, as a mapping or the path of a JSON file.
        model_options: Options of the model itself, such as `{"class": "upper"}`.
        device_options: How devices other than the processor are used.
        engine: What runs the model on the processor: `mnn`, `onnxruntime`, or `auto`; None asks `CUTOUT_ENGINE`, then
            takes `auto`.
        precision: `full`, or `reduced`: bfloat16 on a CPU that computes it, for models that were measured to bear it.
        memory_limit: Memory that all pictures worked on at once may take, in bytes or as `2GB`: those that do not fit
            beside others wait, those that never fit are refused. None asks `CUTOUT_MEMORY_LIMIT`, then takes 60% of
            what the machine or container has. All with the same limit share it. `cut` is given decoded pictures and
            counts none.
        warn: Called with a line worth telling, such as that a graphics card is there but cannot be used; without it,
            the line is emitted as a `CutoutWarning`.

    Raises:
        UsageError: An unknown model, device or option.
        ModelError: The model is missing, corrupt, or does not fit its description.
        DeviceError: The asked-for device cannot be used.
    """

    def __init__(
        self,
        model: str | Path = DEFAULT_MODEL,
        *,
        device: str | None = None,
        options: RemoveOptions | None = None,
        jobs: int = 1,
        model_config: Mapping[str, Any] | Path | None = None,
        model_options: Mapping[str, Any] | None = None,
        device_options: DeviceOptions | None = None,
        engine: EngineName | str | None = None,
        precision: Precision | str = Precision.FULL,
        memory_limit: Budget | str | int | None = None,
        warn: Callable[[str], None] = remark,
    ) -> None:
        self.options = options or RemoveOptions()
        _check(self.options)
        self.budget = budget_of(memory_limit, os.environ)
        request = EngineRequest(
            spec=describe(model, model_config),
            device=device,
            engine=None if engine is None else parse_engine(engine),
            precision=parse_precision(precision),
            options=device_options or DeviceOptions(),
            model_options=dict(model_options or {}),
            threads=threads_each(jobs),
            jobs=jobs,
            memory=self.budget.limit,
        )
        self.session = open_engine(request, warn)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the model, its memory and its threads, once or more; what others still do ends in `ClosedError`."""
        self.session.close()

    @property
    def model(self) -> str:
        """The name of the opened model."""
        return self.session.spec.name

    @property
    def device(self) -> str:
        """The device that really runs, as the runtime reports it."""
        return self.session.device

    @property
    def engine(self) -> str:
        """What runs the model, such as `onnxruntime` or `mnn`."""
        return self.session.engine

    @property
    def precision(self) -> Precision:
        """What it computes in."""
        return self.session.precision

    @property
    def batch(self) -> int:
        """Pictures that the device computes at once."""
        return self.session.batch

    @property
    def in_flight(self) -> int:
        """Pictures that wait for the device or are on it, beyond those that the processor works on."""
        return self.session.in_flight

    def cut(
        self,
        picture: Picture,
        options: RemoveOptions | None = None,
        stages: StageTimes | None = None,
        *,
        consume: bool = False,
        mask_result: MaskResult | None = None,
        quiet: bool = False,
    ) -> Cutout:
        """Remove the background of a decoded picture; what a user should know of it is emitted as a `CutoutWarning`.

        Args:
            picture: What `formats.decode.decode` gave.
            options: Instead of the options given at construction.
            stages: Receives the time of each stage.
            consume: The picture is not needed any more: its pixels may become the cut-out's, which saves a copy.
            mask_result: What `look` gave for this picture and these options; None looks now.
            quiet: Emit no `CutoutWarning`: the caller tells what stands in `Cutout.warnings`.

        Raises:
            CutoutError: The model failed on this picture, was closed, or the check of the stages ended the work.
            PictureError: There is not enough memory for it.
        """
        options, stages = self._checked(options), stages or StageTimes()
        with _prepared(picture, options, stages) as prepared:
            mask_result = mask_result or self._look(prepared, options, stages)
            with stages.time("postprocess"):
                cutout = _completed(prepared, mask_result, options, stages, consume=consume)
        for text in () if quiet else cutout.warnings:
            remark(text)
        return cutout

    def look(
        self, picture: Picture, options: RemoveOptions | None = None, stages: StageTimes | None = None
    ) -> MaskResult:
        """The first half of `cut`, whose arguments and errors it has: what is there, down to the final alpha."""
        options, stages = self._checked(options), stages or StageTimes()
        with _prepared(picture, options, stages) as prepared:
            return self._look(prepared, options, stages)

    def _checked(self, options: RemoveOptions | None) -> RemoveOptions:
        if options is None:
            return self.options
        _check(options)
        return options

    def _look(self, picture: Picture, options: RemoveOptions, stages: StageTimes) -> MaskResult:
        warnings: list[str] = []
        with stages.time("preprocess"):
            rgb = seen = picture.rgb
            if not is_srgb(icc := picture.metadata.icc):
                once = not (options.refine or options.tiles)  # further looks see more of the picture
                seen = to_srgb(rgb, icc, enough=_enough(self.session.spec, rgb.size) if once else None)
        mask, resolution = predict(self.session, seen, options, stages)
        with stages.time("postprocess"):
            if options.refine:
                from cutout.imaging.guided_filter import sharpen_edges

                alpha = sharpen_edges(rgb, mask, resolution)
            else:
                alpha = upscale(mask, rgb.size)
            if options.post_process:
                from cutout.imaging.cleanup import post_process

                alpha = post_process(alpha)
            if options.matting:
                from cutout.imaging import matting

                try:
                    alpha = matting.matte(rgb, alpha, options, stages.check)
                except matting.UnsolvableError as unsolvable:
                    warnings.append(f"matting was left out: {unsolvable.message}")
            if options.cleans_up:
                from cutout.imaging.cleanup import clean_up

                alpha = clean_up(alpha, options, stages.check)
            if picture.alpha is not None:
                alpha = ImageChops.multiply(alpha, picture.alpha)
            if not alpha.getbbox():
                warnings.append("nothing was found: the cut-out is empty")
            elif _is_faint(mask):
                warnings.append("nothing was found with certainty: most of the cut-out is see-through")
            return MaskResult(alpha=alpha, warnings=tuple(warnings))


def _is_faint(mask: Image.Image) -> bool:
    """Whether a mask is a ghost, as of a blank sheet: less than a quarter of its mass lies where it is half opaque."""
    mass = [level * count for level, count in enumerate(mask.histogram())]
    return sum(mass[128:]) < sum(mass) / 4


@contextmanager
def _prepared(picture: Picture, options: RemoveOptions, stages: StageTimes) -> Iterator[Picture]:
    """Around the work on a picture; in sRGB, if colours from elsewhere will stand beside those of another space."""
    # nothing that is made of a picture has more pixels than itself or the largest canvas: Pillow may make those
    try:
        with allowing(max(MAX_CANVAS, picture.rgb.width * picture.rgb.height)):
            with stages.time("preprocess"):
                if _foreign_colors(options) and not is_srgb(icc := picture.metadata.icc):
                    text = "the picture was brought to sRGB, the space of the colours beside it"
                    notes = picture.notes + (f"16 bits were reduced to 8: {text}",) * (picture.deep is not None)
                    metadata = picture.metadata._replace(icc=None)
                    picture = picture._replace(rgb=to_srgb(picture.rgb, icc), metadata=metadata, deep=None, notes=notes)
            yield picture
    except MemoryError as error:
        raise OutOfMemoryError from error


def _completed(
    picture: Picture, mask_result: MaskResult, options: RemoveOptions, stages: StageTimes, *, consume: bool
) -> Cutout:
    """Colours, frame and background, once it is known what is there."""
    rgb, alpha, warnings = picture.rgb, mask_result.alpha, [*picture.notes, *mask_result.warnings]
    if options.edge_colors is EdgeColors.CLEAN and not options.mask:
        rgb = decontaminate.decontaminate(rgb, alpha, in_place=consume and picture.deep is None)
        stages.check()
    frame, subject = layout.frame_of(alpha, options, mask_result.subject)
    colors, transparency = layout.finish(rgb, alpha, options, _fitted_to(options), subject)
    deep = None if colors is None else _deep(picture, alpha, colors, frame)
    if deep is None and picture.deep is not None and colors is not None:
        warnings.append("16 bits were reduced to 8: the result does not lie pixel for pixel on the picture")
    return Cutout(
        rgb=colors,
        alpha=transparency,
        metadata=picture.metadata,
        warnings=tuple(warnings),
        deep=deep,
        placed=frame.placed((0, 0, *alpha.size)),
    )


def _enough(spec: ModelSpec, size: tuple[int, int]) -> int:
    """Pixels of the longer side that a model needs to see: four times its input's, to which it scales them down."""
    return 4 * max(input_size(spec, size))


def _check(options: RemoveOptions) -> None:
    """What would otherwise fail at every picture fails before the first one."""
    if options.background_picture is not None:
        from cutout.pipeline.behind import behind

        behind(options.background_picture)


def _fitted_to(options: RemoveOptions) -> Callable[[tuple[int, int]], Image.Image] | None:
    """What gives the background picture at a size, where one is asked for."""
    if options.background_picture is None:
        return None
    from cutout.pipeline.behind import behind

    return partial(behind, options.background_picture, options.background_fit)


def _foreign_colors(options: RemoveOptions) -> bool:
    """Whether the result has colours that are neither the picture's own nor grey, which is grey in every space."""
    shadow = None if options.mask else options.shadow
    if shadow is not None and not _is_grey(shadow.color):
        return True
    if options.background is None:
        return False
    from cutout.options.backgrounds import Blur

    color = options.background_color
    return not (isinstance(options.background, Blur) if color is None else _is_grey(color))


def _is_grey(color: Sequence[int]) -> bool:
    return len(set(color[:3])) == 1


def _deep(
    picture: Picture, alpha: Image.Image, colors: Image.Image, frame: layout.Layout
) -> npt.NDArray[np.uint16] | None:
    """The result's colours in 16 bits; None where the picture has none, or its pixels are not the result's."""
    if picture.deep is None or frame.resamples:
        return None
    from cutout.formats.sixteen_bit import merge, shift

    if frame == layout.Layout(picture.rgb.size):
        return merge(picture.deep, picture.rgb, colors)
    before, _ = layout.place(picture.rgb, alpha, frame)
    assert before is not None  # noqa: S101 - colours in, colours out
    return merge(shift(picture.deep, int(frame.left), int(frame.top), frame.size), before, colors)


def predict(
    session: Engine, rgb: Image.Image, options: RemoveOptions, stages: StageTimes
) -> tuple[Image.Image, tuple[int, int]]:
    """The mask of a picture in mode RGB (mode L, any size), and the (width, height) of that which the network gave.

    Class models infer once, since they have no certainty to weigh; so does a picture in which nothing is found.
    """
    whole = session.predict(rgb, fit=options.fit, rescale=options.rescale, stages=stages)
    if not (options.refine or options.tiles > 1) or session.spec.classes:
        return whole, whole.size
    from cutout.pipeline.inference import closer

    return closer(session, rgb, whole, options, stages), whole.size
