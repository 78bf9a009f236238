"""One file from its place to its place, and the executor that does many of them."""

from __future__ import annotations

import threading
import traceback
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from cutout.atomic import check_writable, is_there
from cutout.enums import Existing
from cutout.errors import CutoutError, OutOfMemoryError, OutputError
from cutout.jobs.report import BugError, Outcome, Status
from cutout.jobs.storage import activity, read_input, write_output
from cutout.pipeline.convert import convert
from cutout.timing import StageTimes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from contextlib import AbstractContextManager
    from typing import TypeVar

    from cutout.jobs.plan import Job
    from cutout.options import Encoding, RemoveOptions
    from cutout.pipeline.remover import Remover

    Work = TypeVar("Work")
    Result = TypeVar("Result")

__all__ = ["process", "process_all", "run"]

_HEARTBEAT = 0.5  # seconds
_AHEAD = 1
"""Files that are read or written while pictures are worked on: one is enough for any disk that is no bottleneck."""


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
            result = convert(data, job.output_format, remover, options, encoding, stages)
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
