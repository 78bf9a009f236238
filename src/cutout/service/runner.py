"""Work on batches in this process: one picture, and the loop that feeds the workers."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from cutout.service import form, logs
from cutout.service.problems import problem_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from cutout.service.engine import Engine
    from cutout.service.jobs import Jobs, SqliteJobs, Work
    from cutout.service.metrics import Metrics
    from cutout.service.queue import WorkQueue

__all__ = ["Periodic", "Runner", "do"]


def do(
    work: Work, jobs: Jobs, engine: Engine, metrics: Metrics | None = None, *, max_pixels: int, alone: bool = False
) -> None:
    """Work on one picture of a batch; whatever goes wrong with it is kept as its outcome.

    Raises:
        CutoutError: The outcome could not be kept, or the picture not be had: it is not finished.
        OSError: The same.
    """
    try:
        data = jobs.source(work)
    except FileNotFoundError:
        return  # the batch was deleted meanwhile
    try:
        wish = form.wish(work.fields, engine, max_pixels=max_pixels)
        done = engine.cut(data, wish, alone=alone)
    except Exception as error:  # noqa: BLE001 - one picture never stops the others
        problem = problem_of(error)
        if problem.status == 500:
            logs.event("bug", level=logging.ERROR, error=error, task=work.task, number=work.number)
        facts = {"kind": problem.word, "message": problem.message} | ({"hint": problem.hint} if problem.hint else {})
        jobs.fail(work, facts)
        if metrics is not None:
            metrics.pictures.labels("batch", problem.word).inc()
        return
    jobs.finish(work, done.data, done.output_format.value)
    if metrics is not None:
        metrics.done(done, "batch")


class Periodic:
    """Does something every few seconds in a thread; what goes wrong is logged and tried again."""

    def __init__(self, work: Callable[[], object], seconds: float) -> None:
        self._work = work
        self._seconds = seconds
        self._loop = asyncio.ensure_future(self._run())

    async def stop(self) -> None:
        """End."""
        self._loop.cancel()
        await asyncio.gather(self._loop, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._seconds)
            try:
                await asyncio.to_thread(self._work)
            except Exception as error:  # noqa: BLE001 - the broker may be back later
                logs.event("batches", level=logging.WARNING, text=str(error))


class Runner:
    """Takes pictures from the store as workers become free, and removes what has expired."""

    def __init__(
        self, jobs: SqliteJobs, engine: Engine, queue: WorkQueue, metrics: Metrics, *, max_pixels: int
    ) -> None:
        self._jobs = jobs
        self._queue = queue
        self._do: Callable[[Work, bool], None] = lambda work, alone: do(
            work, jobs, engine, metrics, max_pixels=max_pixels, alone=alone
        )
        self._woken = asyncio.Event()
        self._stopped = False
        self._running: set[asyncio.Future[Any]] = set()
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

    async def _run(self) -> None:
        while not self._stopped:
            self._woken.clear()
            try:
                await asyncio.to_thread(self._jobs.sweep)
                while len(self._running) < self._queue.workers and not self._stopped:
                    work = await asyncio.to_thread(self._jobs.claim)
                    if work is None:
                        break
                    self._start(work)
            except Exception as error:  # noqa: BLE001 - a full disk now may have room later
                logs.event("batches", level=logging.ERROR, error=error)
            try:
                await asyncio.wait_for(self._woken.wait(), 1.0)
            except TimeoutError:
                continue

    def _start(self, work: Work) -> None:
        ticket = self._queue.submit(f"batch of {work.client}", lambda alone: self._do(work, alone))
        future = asyncio.wrap_future(ticket)
        self._running.add(future)
        future.add_done_callback(self._ended)

    def _ended(self, future: asyncio.Future[Any]) -> None:
        self._running.discard(future)
        if not future.cancelled() and (error := future.exception()) is not None:
            logs.event("batches", level=logging.ERROR, error=error)
        self._woken.set()
