"""Work on batches in this process: one picture, and the loop that feeds the workers."""

from __future__ import annotations

import asyncio
import logging
import time
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
    """Lets workers take pictures from the store in turn with all other work, and removes what has expired.

    A place in the queue stands for whichever picture of its client is next: the pictures themselves wait in the store.
    """

    def __init__(
        self, jobs: SqliteJobs, models: Models, queue: WorkQueue, metrics: Metrics, *, max_pixels: int
    ) -> None:
        self._jobs = jobs
        self._queue = queue
        self._metrics = metrics
        self._do = partial(do, jobs=jobs, models=models, metrics=metrics, max_pixels=max_pixels)
        self._rest = 0.0  # nothing is begun before
        self._tasks = {asyncio.ensure_future(self._sweep())}

    def add(self, client: str, pictures: int) -> None:
        """Work on so many pictures that a client has waiting in the store."""
        for _ in range(min(pictures, self._queue.workers)):
            task = asyncio.ensure_future(self._serve(client))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def stop(self) -> None:
        """Begin nothing more; it is kept for the next start."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _sweep(self) -> None:
        while True:
            try:
                await asyncio.to_thread(self._jobs.sweep)
            except Exception as error:  # noqa: BLE001 - a full disk now may have room later
                _log(error)
            await asyncio.sleep(1.0)

    async def _serve(self, client: str) -> None:
        """Pictures of a client, one after the other until none waits, each until its outcome is kept."""
        held: Work | None = None
        tries = 0

        def turn(alone: bool) -> None:  # noqa: FBT001 - as the queue calls it
            nonlocal held, tries
            if time.monotonic() < self._rest:
                return
            held = held or self._jobs.claim(client)
            if held is None:
                raise _EmptyError
            if tries < MOST_TRIES:
                self._do(held, alone=alone)
            else:
                text = f"its result could not be kept, {MOST_TRIES} times"
                self._jobs.fail(held, {"kind": "storage", "message": text})
                self._metrics.pictures.labels("batch", "storage").inc()
            held, tries = None, 0

        while True:
            try:
                await asyncio.wrap_future(self._queue.submit(f"batch of {client}", turn))
            except _EmptyError:
                return
            except Exception as error:  # noqa: BLE001 - a full disk now may have room later
                _log(error)
                tries += held is not None
                self._rest = time.monotonic() + PAUSE
            await asyncio.sleep(self._rest - time.monotonic())


class _EmptyError(Exception):
    """No picture of a client waits: an error, since the queue learns from what ends well how long a picture takes."""


def _log(error: BaseException) -> None:
    """An error of ours in one line, a bug with its traceback."""
    if isinstance(error, CutoutError):
        logs.event("batches", level=logging.ERROR, text=error.message)
    else:
        logs.event("batches", level=logging.ERROR, error=error)
