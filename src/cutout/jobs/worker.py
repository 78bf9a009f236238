"""One file from bytes to bytes, and the executor that does many of them."""

from __future__ import annotations

import contextlib
import threading
import time
import traceback
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from itertools import repeat
from typing import TYPE_CHECKING, Any

from cutout.atomic import check_writable, is_there
from cutout.enums import BitDepth, Existing, OutputFormat, PngLevel, Strip
from cutout.errors import CutoutError, OutputError, PictureError
from cutout.formats import decode
from cutout.formats.animation import Frame, encode_frames
from cutout.imaging import layout
from cutout.jobs.report import BugError, Outcome, Status
from cutout.jobs.storage import activity, read_input, write_output
from cutout.pipeline.animation import FrameMasks
from cutout.pipeline.estimate import need_of
from cutout.timing import StageTimes

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator
    from contextlib import AbstractContextManager
    from typing import TypeVar

    from cutout.formats.decode import Picture
    from cutout.jobs.plan import Job
    from cutout.options import RemoveOptions
    from cutout.pipeline.animation import MaskResult
    from cutout.pipeline.remover import Remover

    Work = TypeVar("Work")
    Result = TypeVar("Result")

__all__ = ["Encoding", "Transformed", "process", "process_all", "run", "transform"]

_WHITE = (255, 255, 255, 255)

_HEARTBEAT = 0.5  # seconds
_AHEAD = 1
"""Files that are read or written while pictures are worked on: one is enough for any disk that is no bottleneck."""


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
    max_pixels: int = decode.DEFAULT_MAX_PIXELS
    bit_depth: BitDepth = BitDepth.AUTO
    strip: Strip = Strip.NONE
    first_frame: bool = False
    max_frames: int = decode.DEFAULT_MAX_FRAMES

    @property
    def how(self) -> dict[str, Any]:
        """What every encoder is told."""
        names = ("quality", "lossless", "png_level", "keep_hidden", "threads", "bit_depth")
        return {name: getattr(self, name) for name in names}


def process(
    job: Job,
    remover: Remover,
    options: RemoveOptions,
    encoding: Encoding,
    *,
    slots: AbstractContextManager[Any] | None = None,
) -> Outcome:
    """Do one file. Everything that can go wrong with it becomes its outcome, a bug of ours too; nothing is raised.

    Another file's result never depends on this one, and no unfinished output ever has the final name.

    Args:
        job: What to read, and where to write.
        remover: The opened model.
        options: What to do with the pixels.
        encoding: How to write them.
        slots: Held while there are pixels to work on, not while files are read and written: a semaphore with a place
            for each picture that is worked on side by side.

    Raises:
        BrokenPipeError: Whoever read standard output has gone: there is nobody to tell.
    """
    with activity.working():
        outcome = _process(job, remover, options, encoding, slots or nullcontext())
    _let_go(outcome.error)
    return outcome


def _let_go(error: BaseException | None) -> None:
    """Empty the frames of an error's traceback: a run keeps its errors to the end, and frames hold their pictures."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


def _process(
    job: Job, remover: Remover, options: RemoveOptions, encoding: Encoding, slots: AbstractContextManager[Any]
) -> Outcome:
    stages = StageTimes()
    try:
        if job.target is not None:
            if is_there(job.target) and job.existing is Existing.SKIP:
                return Outcome(job=job, status=Status.SKIPPED)
            check_writable(job.target)
        with stages.time("load"):
            data = read_input(job, encoding.max_pixels, remover.budget.limit)
        with slots:
            result = transform(data, job.output_format, remover, options, encoding, stages)
        del data
        with stages.time("write"):
            written = write_output(job, result.encoded)
        if not written and job.existing is Existing.FAIL:
            raise OutputError(f"{job.target} has come to exist since the run was planned", hint="see --existing")
        if not written:
            return Outcome(job=job, status=Status.SKIPPED)
        return Outcome(
            job=job,
            status=Status.DONE,
            warnings=result.warnings,
            size=result.size,
            frames=result.frames,
            ms=stages.rounded(),
        )
    except CutoutError as error:
        return Outcome(job=job, status=Status.FAILED, error=error, ms=stages.rounded())
    except MemoryError:
        scarce = PictureError("there is not enough memory for this picture", hint="try --jobs 1 or --max-size")
        return Outcome(job=job, status=Status.FAILED, error=scarce)
    except BrokenPipeError:
        raise
    except Exception as error:  # noqa: BLE001 - the last resort: one picture never stops the others
        return Outcome(job=job, status=Status.FAILED, error=BugError.of(error), ms=stages.rounded())


@dataclass(frozen=True, kw_only=True, slots=True)
class Transformed:
    """One file's bytes made from another's.

    Attributes:
        encoded: The bytes.
        size: (width, height).
        warnings: Things a user should know.
        frames: Frames or pages.
    """

    encoded: bytes
    size: tuple[int, int]
    warnings: tuple[str, ...]
    frames: int = 1


def transform(
    data: bytes,
    output_format: OutputFormat,
    remover: Remover,
    options: RemoveOptions,
    encoding: Encoding,
    stages: StageTimes,
) -> Transformed:
    """From the bytes of the input to the bytes of the output, in memory.

    Args:
        data: A file of any supported format.
        output_format: What is written; one without transparency gets a white background unless another is asked for.
        remover: The opened model.
        options: What the cut-out looks like.
        encoding: How it is written.
        stages: Receives the time of each stage, and says between them whether to go on.

    Raises:
        CancelledError: The stages' check says that the picture is not wanted any more.
        CutoutError: Whatever is wrong with the picture or the options.
    """
    options, notes = _for_format(options, output_format)
    several = (output_format.has_pages or output_format.has_frames) and not encoding.first_frame
    most = encoding.max_frames if several else 1
    need = need_of(
        decode.header(data, max_pixels=encoding.max_pixels, max_frames=most),
        options,
        output_format,
        data=len(data),
        lossless=encoding.lossless,
        bit_depth=encoding.bit_depth,
    )
    remover.budget.check(need.memory, need.what, need.ways)
    with remover.budget.hold(need.memory):
        made = _transform(data, output_format, remover, options, encoding, stages)
    return replace(made, warnings=(*notes, *made.warnings))


def _transform(
    data: bytes,
    output_format: OutputFormat,
    remover: Remover,
    options: RemoveOptions,
    encoding: Encoding,
    stages: StageTimes,
) -> Transformed:
    limits: dict[str, Any] = {
        "max_size": options.max_size,
        "max_pixels": encoding.max_pixels,
        "deep": output_format.has_16_bits and encoding.bit_depth is not BitDepth.EIGHT,
    }
    with stages.time("decode"):
        picture = decode.decode(data, max_frames=encoding.max_frames, alone=encoding.first_frame, **limits)
    if picture.frames > 1 and (output_format.has_pages if picture.paged else output_format.has_frames):
        limits["deep"] = limits["deep"] and picture.paged
        film = partial(decode.film, data, max_frames=encoding.max_frames, **limits)
        return _cut_frames(film, picture, output_format, remover, options, encoding, stages)
    del data
    cutout = remover.cut(picture, options, stages, consume=True, quiet=True)
    del picture  # where the result has pixels of its own
    with stages.time("encode"):
        kept, stripped = cutout.metadata.stripped(encoding.strip)
        metadata, left = kept.fitting(output_format)
        encoded = decode.encode(
            cutout.rgb, cutout.alpha, output_format, metadata, deep=cutout.deep, consume=True, **encoding.how
        )
    return Transformed(encoded=encoded, size=cutout.size, warnings=(*cutout.warnings, *stripped, *left))


def _cut_frames(
    film: Callable[[], Iterator[Picture]],
    first: Picture,
    output_format: OutputFormat,
    remover: Remover,
    options: RemoveOptions,
    encoding: Encoding,
    stages: StageTimes,
) -> Transformed:
    """All frames of an animation, or all pages; one of them in memory at a time.

    Pages are framed one by one. The frames of an animation are framed alike, which needs the subjects of all: the film
    runs twice then, and the model sees each frame in the first run alone.
    """
    together = layout.is_framed(options) and not first.paged
    mask_results: Iterable[MaskResult | None] = _look(film(), remover, options, stages) if together else repeat(None)
    warnings: dict[str, int] = {}
    sizes: list[tuple[int, int]] = []

    def cut() -> Generator[Frame]:
        for picture, mask_result in zip(_timed(film(), stages), mask_results, strict=False):
            cutout = remover.cut(picture, options, stages, mask_result=mask_result, quiet=True)
            metadata, notes = cutout.metadata.stripped(encoding.strip)
            for warning in (*cutout.warnings, *notes):
                warnings[warning] = warnings.get(warning, 0) + 1
            sizes.append(cutout.size)
            yield Frame(
                rgb=cutout.rgb, alpha=cutout.alpha, metadata=metadata, deep=cutout.deep, duration=picture.duration
            )

    start, before = time.perf_counter(), sum(stages.ms.values())
    count = first.frames
    with contextlib.closing(cut()) as frames:
        encoded = encode_frames(frames, output_format, count=count, loop=first.loop, **encoding.how)
    elsewhere = sum(stages.ms.values()) - before
    stages.ms["encode"] = max(0.0, (time.perf_counter() - start) * 1e3 - elsewhere)
    told = tuple(text if many == count else f"{many} of {count} frames: {text}" for text, many in warnings.items())
    if first.deep is not None and not first.paged:
        told = (*told, "16 bits were reduced to 8: frames of an animation are worked on in 8 bits")
    if encoding.keep_hidden and output_format is OutputFormat.WEBP:
        told = (*told, "hidden colours were not kept: the encoder of animated WebP drops what cannot be seen")
    return Transformed(encoded=encoded, size=sizes[0], warnings=told, frames=count)


def _look(film: Iterator[Picture], remover: Remover, options: RemoveOptions, stages: StageTimes) -> FrameMasks:
    mask_results = FrameMasks()
    for picture in _timed(film, stages):
        mask_result = remover.look(picture, options, stages)
        with stages.time("postprocess"):
            mask_results.add(mask_result)
    return mask_results


def _timed(film: Iterator[Picture], stages: StageTimes) -> Iterator[Picture]:
    """The same film, the time that it takes counted."""
    while True:
        with stages.time("decode"):
            picture = next(film, None)
        if picture is None:
            return
        yield picture


def run(
    jobs: Iterable[Work],
    work: Callable[[Work], Result],
    *,
    workers: int,
    ahead: int = 0,
    stop: threading.Event | None = None,
) -> Iterator[Result]:
    """Do many files side by side; results come as they are ready.

    No more than `workers` + `ahead` files are begun at once. Once `stop` is set, files that were started are finished
    and the rest is left.

    Args:
        jobs: What to do, taken one by one.
        work: Does one; must not raise.
        workers: Pictures side by side.
        ahead: Further files that are read or written meanwhile; `work` then keeps the pictures to `workers` (see
            `process`).
        stop: Set by whoever wants the run to end early.
    """
    waiting = iter(jobs)
    running: set[Future[Result]] = set()
    limit = workers + ahead
    with ThreadPoolExecutor(limit, thread_name_prefix="cutout") as pool:
        while True:
            while len(running) < limit and not (stop and stop.is_set()) and (job := next(waiting, None)) is not None:
                running.add(pool.submit(work, job))
            if not running:
                return
            # a signal that arrives just before this blocks is only seen when it returns: so it always does soon
            done, running = wait(running, timeout=_HEARTBEAT, return_when=FIRST_COMPLETED)
            for future in done:
                yield future.result()


def process_all(
    jobs: Iterable[Job],
    remover: Remover,
    options: RemoveOptions,
    encoding: Encoding,
    *,
    workers: int,
    stop: threading.Event | None = None,
) -> Iterator[Outcome]:
    """`process` many files, `workers` pictures side by side, while one more file is read or written.

    One picture at a time is meant so: its outcomes come in the order of the jobs.
    """
    slots = threading.Semaphore(workers)
    return run(
        jobs,
        lambda job: process(job, remover, options, encoding, slots=slots),
        workers=workers,
        ahead=_AHEAD if workers > 1 else 0,
        stop=stop,
    )


def _for_format(options: RemoveOptions, output_format: OutputFormat) -> tuple[RemoveOptions, tuple[str, ...]]:
    """A format without transparency gets a background, white unless one was asked for; and warnings."""
    if output_format.has_alpha or options.mask or ((color := options.background_color) is None and options.background):
        return options, ()
    if color is None:
        return replace(options, background=_WHITE), ()
    text = f"{output_format.value} holds no transparency: the background's colour was laid over white"
    return replace(options, background=_over_white(color)), (text,) if color[3] < 255 else ()


def _over_white(color: tuple[int, int, int, int]) -> tuple[int, int, int]:
    red, green, blue, alpha = color
    red, green, blue = (round(value * alpha / 255 + 255 - alpha) for value in (red, green, blue))
    return red, green, blue
