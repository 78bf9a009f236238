"""How fast is this machine: pictures per second and stage times, for several numbers of pictures side by side."""

from __future__ import annotations

import io
import statistics
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cutout.enums import Existing, Precision
from cutout.errors import UsageError
from cutout.jobs.executors.threads import process_all
from cutout.jobs.plan import Job, plan
from cutout.jobs.report import Status
from cutout.options import Encoding
from cutout.pipeline.remover import Remover
from cutout.system import keep_for_the_next, threads_each, usable_cpus
from cutout.timing import STAGES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from cutout.options import RemoveOptions
    from cutout.output_formats import OutputFormat


__all__ = ["Measured", "jobs_to_try", "measure", "synthetic_picture"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """What one setting reached.

    Attributes:
        jobs: Pictures side by side.
        rate: Pictures per second.
        pictures: Pictures that were done.
        ms: Median milliseconds of one picture by stage; side by side they share the processors.
        model: The model that ran.
        device: The device that ran it.
        engine: What ran it there.
        precision: What it computed in.
    """

    jobs: int
    rate: float
    pictures: int
    ms: dict[str, float]
    model: str
    device: str
    engine: str
    precision: Precision = Precision.FULL

    @property
    def note(self) -> str:
        """What people should read beside the device."""
        return "" if self.precision is Precision.FULL else f" in {self.precision} precision"

    def as_json(self) -> dict[str, Any]:
        """One line of `--json`."""
        return {
            "jobs": self.jobs,
            "pictures_per_second": round(self.rate, 3),
            "pictures": self.pictures,
            "ms": {stage: round(value, 1) for stage, value in self.ms.items()},
            "model": self.model,
            "device": self.device,
            "engine": self.engine,
            **({} if self.precision is Precision.FULL else {"precision": self.precision.value}),
        }


def jobs_to_try(most: int | None = None) -> list[int]:
    """1, 2, 4, … up to the usable processors, which come last."""
    most = most or usable_cpus()
    return sorted({1, *(2**power for power in range(1, most.bit_length()) if 2**power < most), most})


def synthetic_picture(megapixels: float) -> bytes:
    """A JPEG of smooth colours with a camera's grain and a dark disc as its subject, 4:3."""
    import numpy as np
    from PIL import Image

    height = max(1, round((megapixels * 1e6 * 3 / 4) ** 0.5))
    width = max(1, round(height * 4 / 3))
    down, across = np.mgrid[0:height, 0:width].astype(np.float32)
    pixels = np.stack([across / width, down / height, 0.6 - 0.3 * across / width], axis=-1) * 200
    pixels[np.hypot(across - width / 2, down - height / 2) < height / 3] *= 0.3
    pixels += np.random.default_rng(0).normal(0, 3, (height, width, 1)).astype(np.float32)
    buffer = io.BytesIO()
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def measure(
    inputs: Sequence[str],
    settings: Sequence[int],
    *,
    seconds: float,
    megapixels: float,
    options: RemoveOptions,
    output_format: OutputFormat,
    remover_settings: dict[str, Any],
    tell: Callable[[str], None] = lambda _text: None,
) -> list[Measured]:
    """Measure each number of pictures side by side, results written to a temporary folder.

    Args:
        inputs: Pictures and folders to use; empty makes one of `megapixels`.
        settings: Numbers of pictures side by side.
        seconds: How long each is measured, after a picture or two to warm up.
        megapixels: Size of the made picture.
        options: What is asked for.
        output_format: Of the results.
        remover_settings: Model and device, for `Remover`.
        tell: Called before each setting.

    Raises:
        UsageError: There is no picture among the inputs, or one of them failed.
    """
    with tempfile.TemporaryDirectory(prefix="cutout-bench-") as folder:
        names = list(inputs)
        if not names:
            made = Path(folder) / "made.jpg"
            made.write_bytes(synthetic_picture(megapixels))
            names = [str(made)]
        out = str(Path(folder) / "out") + "/"
        jobs = plan(names, out, output_format=output_format, existing=Existing.OVERWRITE).jobs
        if not jobs:
            raise UsageError("there is no picture among the inputs")
        keep_for_the_next()
        results = []
        for count in settings:
            tell(f"{count} side by side, {seconds:.0f} s")
            encoding = Encoding(threads=threads_each(count))
            with Remover(options=options, jobs=count, **remover_settings) as remover:
                results.append(_one(jobs, remover, options, encoding, count, seconds))
        return results


def _one(
    jobs: Sequence[Job], remover: Remover, options: RemoveOptions, encoding: Encoding, count: int, seconds: float
) -> Measured:
    for outcome in process_all(_repeated(jobs, count, deadline=None), remover, options, encoding, workers=count):
        if outcome.status is Status.FAILED:
            raise UsageError(f"{outcome.job.source_name} cannot be measured: {outcome.error}")
    start = time.perf_counter()
    timed = _repeated(jobs, count, deadline=start + seconds)
    outcomes = list(process_all(timed, remover, options, encoding, workers=count))
    elapsed = time.perf_counter() - start
    ms = {
        stage: statistics.median(times)
        for stage in STAGES
        if (times := [outcome.ms[stage] for outcome in outcomes if stage in outcome.ms])
    }
    return Measured(
        jobs=count,
        rate=len(outcomes) / elapsed,
        pictures=len(outcomes),
        ms=ms,
        model=remover.model,
        device=remover.device,
        engine=remover.engine,
        precision=remover.precision,
    )


def _repeated(jobs: Sequence[Job], least: int, *, deadline: float | None) -> Iterator[Job]:
    """The jobs round and round: `least` of them, and further ones until the deadline. Every output has its own name."""
    number = 0
    while number < least or (deadline is not None and time.perf_counter() < deadline):
        job = jobs[number % len(jobs)]
        assert job.target is not None  # noqa: S101 - results go to a folder
        slot = number % (4 * least)
        yield replace(job, target=job.target.with_stem(f"{job.target.stem}-{slot}"))
        number += 1
