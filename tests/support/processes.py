"""A second executor, as another program would add one: a file and a row. Its workers are processes."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import TYPE_CHECKING

from cutout.errors import remark
from cutout.jobs.executors.base import Executor, Running, as_finished
from cutout.jobs.worker import process

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterable, Iterator

    from cutout.jobs.executors.base import RunRequest
    from cutout.jobs.plan import Job
    from cutout.jobs.report import Outcome
    from cutout.pipeline.remover import Remover

_opened: list[Remover] = []
"""The model of a worker."""


def _open(request: RunRequest) -> Remover:
    if not _opened:
        _opened.append(request.open(remark))
    return _opened[0]


def _begin(request: RunRequest) -> Running:
    remover = _open(request)
    return Running(
        model=remover.model,
        device=remover.device,
        engine=remover.engine,
        precision=remover.precision,
        batch=remover.batch,
        workers=request.workers,
    )


def _work(request: RunRequest, job: Job) -> Outcome:
    return process(job, _open(request), request.options, request.encoding)


class Processes(Executor):
    """A pool of processes."""

    def open(self) -> Running:
        self._pool = ProcessPoolExecutor(self.request.workers, mp_context=get_context("spawn"))
        return self._pool.submit(_begin, self.request).result()

    def run(self, jobs: Iterable[Job], stop: threading.Event | None = None) -> Iterator[Outcome]:
        return as_finished(
            jobs, lambda job: self._pool.submit(_work, self.request, job), limit=self.request.workers, stop=stop
        )

    def close(self) -> None:
        self._pool.shutdown()
