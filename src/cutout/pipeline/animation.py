"""Animations and files of many pages, picture by picture; one of them in memory at a time."""

from __future__ import annotations

import contextlib
import time
import zlib
from collections import Counter
from itertools import repeat
from typing import TYPE_CHECKING

from PIL import Image

from cutout.formats.encode import Finished, encode_frames
from cutout.imaging.layout import subject_box
from cutout.pipeline.remover import MaskResult

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator

    from cutout.formats.decode import Picture
    from cutout.options import Encoding, RemoveOptions
    from cutout.output_formats import OutputFormat
    from cutout.pipeline.remover import Remover
    from cutout.timing import StageTimes

__all__ = ["FrameMasks", "convert_frames"]


class FrameMasks:
    """What was found in frame after frame: each alpha compressed, and one box around the subjects of all."""

    def __init__(self) -> None:
        self._packed: list[tuple[tuple[int, int], bytes, tuple[str, ...]]] = []
        self._subject: tuple[int, int, int, int] | None = None

    def add(self, mask_result: MaskResult) -> None:
        """Append the next frame's."""
        pixels = zlib.compress(mask_result.alpha.tobytes(), 1)  # flat almost everywhere: a hundredth of its size
        self._packed.append((mask_result.alpha.size, pixels, mask_result.warnings))
        box, before = subject_box(mask_result.alpha), self._subject
        if box is not None and before is not None:
            box = (*map(min, before[:2], box[:2]), *map(max, before[2:], box[2:]))  # type: ignore[assignment]
        self._subject = box or before

    def __iter__(self) -> Iterator[MaskResult]:
        """In order, all to be framed by the same box; one is in memory at a time."""
        for size, pixels, warnings in self._packed:
            alpha = Image.frombytes("L", size, zlib.decompress(pixels))
            yield MaskResult(alpha=alpha, warnings=warnings, subject=self._subject)


def convert_frames(
    film: Callable[[], Iterator[Picture]],
    first: Picture,
    output_format: OutputFormat,
    remover: Remover,
    options: RemoveOptions,
    encoding: Encoding,
    stages: StageTimes,
) -> tuple[bytes, tuple[int, int], tuple[str, ...]]:
    """The file of all frames or pages, the size of the first, and warnings; `film` begins to decode, `first` leads it.

    Pages are framed one by one. The frames of an animation are framed alike, which needs the subjects of all: the film
    runs twice then, and the model sees each frame in the first run alone.
    """
    masks: Iterable[MaskResult | None] = repeat(None)
    if options.framed and not first.paged:
        masks = _masks(film(), remover, options, stages)
    warnings: Counter[str] = Counter()
    sizes: list[tuple[int, int]] = []

    def cut() -> Generator[Finished]:
        for picture, mask_result in zip(_timed(film(), stages), masks, strict=False):
            cutout = remover.cut(picture, options, stages, mask_result=mask_result, quiet=True)
            metadata, notes = cutout.metadata.stripped(encoding.strip)
            warnings.update((*cutout.warnings, *notes))
            sizes.append(cutout.size)
            yield Finished(
                rgb=cutout.rgb, alpha=cutout.alpha, metadata=metadata, deep=cutout.deep, duration=picture.duration
            )

    start, before = time.perf_counter(), sum(stages.ms.values())
    count = first.frames
    with contextlib.closing(cut()) as frames:
        encoded = encode_frames(frames, output_format, encoding, count=count, loop=first.loop)
    elsewhere = sum(stages.ms.values()) - before
    stages.ms["encode"] = max(0.0, (time.perf_counter() - start) * 1e3 - elsewhere)
    texts = tuple(text if many == count else f"{many} of {count} frames: {text}" for text, many in warnings.items())
    if first.deep is not None and not first.paged:
        texts = (*texts, "16 bits were reduced to 8: frames of an animation are worked on in 8 bits")
    if encoding.keep_hidden and output_format.row.hidden:
        encoder = f"the encoder of animated {output_format.row.title}"
        texts = (*texts, f"hidden colours were not kept: {encoder} drops what cannot be seen")
    return encoded, sizes[0], texts


def _masks(film: Iterator[Picture], remover: Remover, options: RemoveOptions, stages: StageTimes) -> FrameMasks:
    masks = FrameMasks()
    for picture in _timed(film, stages):
        mask_result = remover.look(picture, options, stages)
        with stages.time("postprocess"):
            masks.add(mask_result)
    return masks


def _timed(film: Iterator[Picture], stages: StageTimes) -> Iterator[Picture]:
    """The same film, the time that it takes counted."""
    while True:
        with stages.time("decode"):
            picture = next(film, None)
        if picture is None:
            return
        yield picture
