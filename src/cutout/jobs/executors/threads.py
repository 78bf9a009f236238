"""Many pictures on the threads of this process, which share one model."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from cutout.jobs.executors.base import Executor, Running, as_finished
from cutout.jobs.worker import process
from cutout.system import keep_for_the_next

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from cutout.jobs.executors.base import Result, Work
    from cutout.jobs.plan import Job
    from cutout.jobs.report import Outcome
    from cutout.options import Encoding, RemoveOptions
    from cutout.pipeline.remover import Remover

__all__ = ["Threads", "in_threads", "process_all"]

_AHEAD = 1
"""Files that are read or written while pictures are worked on: one is enough for any disk that is no bottleneck."""


class Threads(Executor):
    """The threads of this process."""

    _remover: Remover | None = None

    def open(self) -> Running:  # noqa: D102 - as in Executor
        keep_for_the_next()
        self._remover = remover = self.request.open(self.warn)
        return Running(
            model=remover.model,
            device=remover.device,
            engine=remover.engine,
            precision=remover.precision,
            batch=remover.batch,
            workers=self._workers(remover),
        )

    def run(self, jobs: Iterable[Job], stop: threading.Event | None = None) -> Iterator[Outcome]:  # noqa: D102
        assert self._remover is not None, "run comes after open"  # noqa: S101 - a mistake of ours
        request, workers = self.request, self._workers(self._remover)
        return process_all(jobs, self._remover, request.options, request.encoding, workers=workers, stop=stop)

    def close(self) -> None:  # noqa: D102
        if self._remover is not None:
            self._remover.close()

    def _workers(self, remover: Remover) -> int:
        return self.request.workers + remover.in_flight  # batches wait for a device, and take no processor meanwhile


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
    return in_threads(
        jobs,
        lambda job: process(job, remover, options, encoding, slots=slots),
        workers=workers + (_AHEAD if workers > 1 else 0),
        stop=stop,
    )


def in_threads(
    jobs: Iterable[Work], work: Callable[[Work], Result], *, workers: int, stop: threading.Event | None = None
) -> Iterator[Result]:
    """Do many things, taken one by one, side by side; results come as they are ready. `work` must not raise.

    No more than `workers` are begun at once. Once `stop` is set, what was begun is finished and the rest is left.
    """
    with ThreadPoolExecutor(workers, thread_name_prefix="cutout") as pool:
        yield from as_finished(jobs, lambda job: pool.submit(work, job), limit=workers, stop=stop)
