"""Work on batches in this process: one picture, and the loop that feeds the workers."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from cutout.errors import CancelledError, CutoutError
from cutout.service import form, logs
from cutout.service.http.problems import problem_of

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
    try:
        data = jobs.source(work)
    except FileNotFoundError:
        if jobs.task(work.task) is None:
            return  # it was deleted meanwhile
        jobs.fail(work, {"kind": "storage", "message": "the picture is no longer where it was kept"})
        if metrics is not None:
            metrics.pictures.labels("batch", "storage").inc()
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
        jobs.fail(work, problem.facts)
        if metrics is not None:
            metrics.pictures.labels("batch", problem.word).inc()
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
        self._do: Callable[[Work, bool], None] = lambda work, alone: do(
            work, jobs, models, metrics, max_pixels=max_pixels, alone=alone
        )
        self._woken = asyncio.Event()
        self._stopped = False
        self._running: set[asyncio.Future[Any]] = set()
        self._metrics = metrics
        self._unkept: list[Work] = []  # done with, but without an outcome in the store
        self._tries: Counter[tuple[str, int]] = Counter()
        self._rest = 0.0  # nothing is begun before
        self._sweep = 0.0  # nothing is swept before
        self._loop = asyncio.ensure_future(self._run())

    def wake(self) -> None:
        """There may be something to do."""
        self._woken.set()

    async def stop(self) -> None:
        """Finish what was begun; the rest is kept for the next start."""
        self._stopped = True
        self._woken.set()
        await asyncio.gather(self._loop, return_exceptions=True)
        await asyncio.gather(*self._running, return_exceptions=True)
        with suppress(Exception):  # the next start finds them anyway
            await self._put_back()

    async def _run(self) -> None:
        while not self._stopped:
            self._woken.clear()
            try:
                await self._put_back()
                if time.monotonic() >= self._sweep:
                    await asyncio.to_thread(self._jobs.sweep)
                    self._sweep = time.monotonic() + 1.0
                while self._may_begin():
                    work = await asyncio.to_thread(self._jobs.claim)
                    if work is None:
                        break
                    self._start(work)
            except Exception as error:  # noqa: BLE001 - a full disk now may have room later
                _log(error)
            try:
                await asyncio.wait_for(self._woken.wait(), 1.0)
            except TimeoutError:
                continue

    def _may_begin(self) -> bool:
        rested = time.monotonic() >= self._rest
        return rested and len(self._running) < self._queue.workers and not self._stopped

    def _start(self, work: Work) -> None:
        try:
            ticket = self._queue.submit(f"batch of {work.client}", lambda alone: self._do(work, alone))
        except Exception:
            self._unkept.append(work)
            raise
        future = asyncio.wrap_future(ticket)
        self._running.add(future)
        future.add_done_callback(partial(self._ended, work))

    def _ended(self, work: Work, future: asyncio.Future[Any]) -> None:
        self._running.discard(future)
        error = None if future.cancelled() else future.exception()
        if error is not None:
            _log(error)
            self._tries[work.task, work.number] += 1
            self._rest = time.monotonic() + PAUSE
        else:
            self._tries.pop((work.task, work.number), None)
        if error is not None or future.cancelled():
            self._unkept.append(work)
        self._woken.set()

    async def _put_back(self) -> None:
        """Return pictures without an outcome to the store, or report them failed; what fails is tried again later."""
        while self._unkept:
            work = self._unkept[0]
            if self._tries[work.task, work.number] < MOST_TRIES:
                await asyncio.to_thread(self._jobs.release, work)
            else:
                error = {"kind": "storage", "message": f"its result could not be kept, {MOST_TRIES} times"}
                await asyncio.to_thread(self._jobs.fail, work, error)
                self._metrics.pictures.labels("batch", "storage").inc()
                del self._tries[work.task, work.number]
            self._unkept.pop(0)


def _log(error: BaseException) -> None:
    """What is known to happen in one line, a bug with its traceback."""
    if isinstance(error, CutoutError):
        logs.event("batches", level=logging.ERROR, text=error.message)
    else:
        logs.event("batches", level=logging.ERROR, error=error)
