"""Work on batches in this process: one picture, and the loop that feeds the workers."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from cutout.errors import CancelledError, CutoutError
from cutout.service import form, logs
from cutout.service.http.problems import Problem, problem_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from cutout.service.metrics import Metrics
    from cutout.service.models import Models
    from cutout.service.queue import WorkQueue
    from cutout.service.store.base import Jobs, Work
    from cutout.service.store.sqlite import SqliteJobs

__all__ = ["Runner", "do"]

PAUSE = 5.0
"""Seconds in which nothing is begun after an outcome could not be kept: a full disk fills no faster that way."""

LOOK = 0.25
"""Seconds between two looks whether the batch of a picture that is worked on was deleted."""

MOST_TRIES = 5
"""A picture whose outcome could not be kept so often is reported failed."""


def do(
    work: Work, jobs: Jobs, models: Models, metrics: Metrics | None = None, *, max_pixels: int, alone: bool = False
) -> None:
    """Work on one picture of a batch; whatever goes wrong with it is kept as its outcome.

    Raises:
        CutoutError: The outcome could not be kept, or the picture not be had: it is not finished.
        OSError: The same.
    """

    def failed(problem: Problem) -> None:
        jobs.fail(work, problem.facts)
        if metrics is not None:
            metrics.pictures.labels("batch", problem.word).inc()

    try:
        data = jobs.source(work)
    except FileNotFoundError:
        if jobs.task(work.task) is not None:  # else it was deleted meanwhile
            failed(Problem(503, "storage", "the picture is no longer where it was kept"))
        return
    try:
        cut_request = form.cut_request(work.fields, models, max_pixels=max_pixels)
        done = models.cut(data, cut_request, alone=alone, check=_check_for_deletion(work, jobs))
    except CancelledError:  # it was deleted meanwhile: there is no outcome to keep
        return
    except Exception as error:  # noqa: BLE001 - one picture never stops the others
        problem = problem_of(error)
        if problem.status == 500:
            logs.event("bug", level=logging.ERROR, error=error, task=work.task, number=work.number)
        failed(problem)
        return
    jobs.finish(work, done.data, done.output_format.value)
    if metrics is not None:
        metrics.done(done, "batch")


def _check_for_deletion(work: Work, jobs: Jobs) -> Callable[[], None]:
    """A check between the steps of a batch's picture that ends the work once the batch is deleted."""
    looked = time.monotonic()

    def check() -> None:
        nonlocal looked
        if (now := time.monotonic()) - looked < LOOK:
            return
        looked = now
        try:
            there = jobs.task(work.task) is not None
        except Exception:  # noqa: BLE001 - a store that cannot be asked now is no reason to end the work
            return
        if not there:
            raise CancelledError("the batch of this picture was deleted")

    return check


class Runner:
    """Takes pictures from the store as workers become free, and removes what has expired."""

    def __init__(
        self, jobs: SqliteJobs, models: Models, queue: WorkQueue, metrics: Metrics, *, max_pixels: int
    ) -> None:
        self._jobs = jobs
        self._queue = queue
        self._metrics = metrics
        self._do: Callable[[Work, bool], None] = lambda work, alone: do(
            work, jobs, models, metrics, max_pixels=max_pixels, alone=alone
        )
        self._woken = asyncio.Event()
        self._ending = asyncio.Event()
        self._running: set[asyncio.Future[None]] = set()
        self._tries: Counter[tuple[str, int]] = Counter()  # of pictures whose outcome could not be kept
        self._rest = 0.0  # nothing is begun before
        self._sweep = 0.0  # nothing is swept before
        self._loop = asyncio.ensure_future(self._run())

    def wake(self) -> None:
        """Look for work now: a batch was added."""
        self._woken.set()

    async def stop(self) -> None:
        """Finish what was begun; the rest is kept for the next start."""
        self._ending.set()
        self._woken.set()
        await asyncio.gather(self._loop, return_exceptions=True)
        await asyncio.gather(*self._running, return_exceptions=True)

    async def _run(self) -> None:
        while not self._ending.is_set():
            self._woken.clear()
            try:
                if time.monotonic() >= self._sweep:
                    await asyncio.to_thread(self._jobs.sweep)
                    self._sweep = time.monotonic() + 1.0
                while self._may_begin() and (work := await asyncio.to_thread(self._jobs.claim)) is not None:
                    picture = asyncio.ensure_future(self._picture(work))
                    self._running.add(picture)
                    picture.add_done_callback(self._ended)
            except Exception as error:  # noqa: BLE001 - a full disk now may have room later
                _log(error)
            await _second(self._woken)

    def _may_begin(self) -> bool:
        rested = time.monotonic() >= self._rest
        return rested and len(self._running) < self._queue.workers and not self._ending.is_set()

    def _ended(self, picture: asyncio.Future[None]) -> None:
        self._running.discard(picture)
        self._woken.set()

    async def _picture(self, work: Work) -> None:
        """One picture; where its outcome could not be kept, it goes back to the store once that can be written to."""
        try:
            await asyncio.wrap_future(self._queue.submit(f"batch of {work.client}", partial(self._do, work)))
        except Exception as error:  # noqa: BLE001 - a full disk now may have room later
            _log(error)
        else:
            self._tries.pop((work.task, work.number), None)
            return
        self._tries[work.task, work.number] += 1
        self._rest = time.monotonic() + PAUSE
        while not (await asyncio.to_thread(self._put_back, work) or self._ending.is_set()):  # the next start finds it
            await _second(self._ending)

    def _put_back(self, work: Work) -> bool:
        """Let a picture wait again, or report it failed; whether the store could keep that."""
        error = {"kind": "storage", "message": f"its result could not be kept, {MOST_TRIES} times"}
        try:
            if self._tries[work.task, work.number] < MOST_TRIES:
                self._jobs.release(work)
            else:
                self._jobs.fail(work, error)
                self._metrics.pictures.labels("batch", "storage").inc()
                del self._tries[work.task, work.number]
        except Exception as reason:  # noqa: BLE001 - it is tried again
            _log(reason)
            return False
        return True


async def _second(event: asyncio.Event) -> None:
    """Wait for something to happen, but no longer than a second."""
    with suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), 1.0)


def _log(error: BaseException) -> None:
    """An error of ours in one line, a bug with its traceback."""
    if isinstance(error, CutoutError):
        logs.event("batches", level=logging.ERROR, text=error.message)
    else:
        logs.event("batches", level=logging.ERROR, error=error)
