"""One job: a file is read, cut out and written, and its outcome is reported."""

from __future__ import annotations

import traceback
from contextlib import ExitStack, nullcontext
from typing import TYPE_CHECKING, Any

from cutout.atomic import check_writable
from cutout.enums import Existing
from cutout.errors import CutoutError, OutOfMemoryError, OutputError
from cutout.jobs.report import BugError, Outcome, Status
from cutout.jobs.storage import activity, file_size, is_settled, read_input, write_output
from cutout.pipeline.convert import convert
from cutout.timing import StageTimes

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from cutout.jobs.plan import Job
    from cutout.options import Encoding, RemoveOptions
    from cutout.pipeline.remover import Remover

__all__ = ["process"]


def process(
    job: Job,
    remover: Remover,
    options: RemoveOptions,
    encoding: Encoding,
    *,
    slots: AbstractContextManager[Any] | None = None,
) -> Outcome:
    """Do one file. Everything that can go wrong with it becomes its outcome, a bug of ours too.

    Another file's result never depends on this one, and no unfinished output ever has the final name. `slots` are held
    while there are pixels to work on, not while files are read and written: a semaphore with a place for each picture
    that is worked on side by side.

    Raises:
        BrokenPipeError: Whoever read standard output has gone: there is nobody to tell.
    """
    with activity.counted("working"):
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
            if is_settled(job):
                return Outcome(job=job, status=Status.SKIPPED)
            check_writable(job.target)
        with ExitStack() as reading:
            reading.enter_context(remover.budget.reading(file_size(job)))
            with stages.time("load"):
                data = read_input(job, encoding.max_pixels, remover.budget.limit)
            with slots:
                result = convert(data, job.output_format, remover, options, encoding, stages, reading.close)
        del data
        with stages.time("write"):
            written = write_output(job, result.encoded)
        if not written and job.existing is Existing.FAIL:
            raise OutputError(
                f"{job.target} has come to exist since the run was planned", hint="see existing", options=("existing",)
            )
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
        return Outcome(job=job, status=Status.FAILED, error=OutOfMemoryError())
    except BrokenPipeError:
        raise
    except Exception as error:  # noqa: BLE001 - the last resort: one picture never stops the others
        return Outcome(job=job, status=Status.FAILED, error=BugError.of(error), ms=stages.rounded())
