"""What runs many jobs: the interface, the table of those there are, and what their workers need to know."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cutout.errors import UsageError

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from concurrent.futures import Future
    from typing import Self, TypeVar

    from cutout.enums import Precision
    from cutout.jobs.plan import Job
    from cutout.jobs.report import Outcome
    from cutout.options import Encoding, RemoveOptions
    from cutout.pipeline.remover import Remover

    Work = TypeVar("Work")
    Result = TypeVar("Result")

__all__ = ["EXECUTORS", "Executor", "RunRequest", "Running", "as_finished", "executor_named"]

_HEARTBEAT = 0.5  # seconds


@dataclass(frozen=True, kw_only=True, slots=True)
class RunRequest:
    """A run as its workers get it: picklable, and enough for each to open its model itself.

    Attributes:
        options: What the cut-outs look like.
        encoding: How they are written.
        workers: Pictures side by side, of all workers together.
        remover: Further arguments of `Remover`: model, device, memory.
    """

    options: RemoveOptions
    encoding: Encoding
    workers: int
    remover: Mapping[str, Any]

    def open(self, warn: Callable[[str], None]) -> Remover:
        """The model, for one process; `warn` is told what is worth telling."""
        from cutout.pipeline.remover import Remover

        return Remover(options=self.options, jobs=self.workers, warn=warn, **self.remover)


@dataclass(frozen=True, kw_only=True, slots=True)
class Running:
    """What the workers of an executor opened.

    Attributes:
        model: Its name.
        device: The device that really runs, as the runtime reports it.
        engine: What runs the model, such as `onnxruntime` or `mnn`.
        precision: What it computes in.
        batch: Pictures that a device computes at once.
        workers: Pictures that are worked on at once.
    """

    model: str
    device: str
    engine: str
    precision: Precision
    batch: int
    workers: int


class Executor(ABC):
    """Runs the jobs of one request, from `open` to `close` or the end of a `with` block.

    Args:
        request: What to do with each file.
        warn: Called with a line worth telling.
    """

    def __init__(self, request: RunRequest, warn: Callable[[str], None]) -> None:
        self.request = request
        self.warn = warn

    @abstractmethod
    def open(self) -> Running:
        """Start the workers and their models.

        Raises:
            CutoutError: A model or device cannot be used; nothing is left running.
        """

    @abstractmethod
    def run(self, jobs: Iterable[Job], stop: threading.Event | None = None) -> Iterator[Outcome]:
        """Do the jobs; one outcome for each that was begun, as it is ready.

        Jobs are taken one by one as there is room, no further ahead than workers can read: whoever gives them decides
        by the outcomes so far whether there is another. Once `stop` is set, what was begun is finished and no more is
        taken. One picture at a time is done in the order of the jobs.
        """

    @abstractmethod
    def close(self) -> None:
        """End the workers and free their models; any number of times."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _threads() -> type[Executor]:
    from cutout.jobs.executors.threads import Threads

    return Threads


EXECUTORS: dict[str, Callable[[], type[Executor]]] = {"threads": _threads}
"""A row for each executor: its name, and a function that loads it. The first is the default."""


def executor_named(name: str) -> type[Executor]:
    """The executor of that name.

    Raises:
        UsageError: There is none.
    """
    if name not in EXECUTORS:
        raise UsageError(f"there is no executor {name!r}", hint=f"known: {', '.join(EXECUTORS)}")
    return EXECUTORS[name]()


def as_finished(
    jobs: Iterable[Work],
    submit: Callable[[Work], Future[Result]],
    *,
    limit: int,
    stop: threading.Event | None = None,
) -> Iterator[Result]:
    """Results of a pool of `concurrent.futures`, as they are ready, with no more than `limit` jobs begun at once."""
    from concurrent.futures import FIRST_COMPLETED, wait

    waiting = iter(jobs)
    running: set[Future[Result]] = set()
    while True:
        while len(running) < limit and not (stop and stop.is_set()) and (job := next(waiting, None)) is not None:
            running.add(submit(job))
        if not running:
            return
        # a signal that arrives just before this blocks is only seen when it returns: so it always does soon
        done, running = wait(running, timeout=_HEARTBEAT, return_when=FIRST_COMPLETED)
        for future in done:
            yield future.result()
