"""What a running application holds, and how it starts and ends."""

from __future__ import annotations

import asyncio
import logging
import signal
from typing import TYPE_CHECKING

from cutout.service import logs
from cutout.service.http.problems import Problem
from cutout.service.metrics import Metrics
from cutout.service.models import Models
from cutout.service.queue import WorkQueue
from cutout.service.runner import Runner
from cutout.service.store.sqlite import SqliteJobs

if TYPE_CHECKING:
    from cutout.service.settings import Settings
    from cutout.service.store.base import Jobs

__all__ = ["Service"]


class Service:
    """Settings, metrics, the queue, and once they are open the models and the store of batches.

    Args:
        settings: What it is started with.
        models: Opened ones, which the caller will close; without them it opens its own.
    """

    def __init__(self, settings: Settings, models: Models | None = None) -> None:
        self.settings = settings
        self.given = models
        self.failure: Exception | None = None
        """Why the models could not be opened."""
        self.metrics = Metrics()
        self.queue = WorkQueue(settings.workers, settings.queue)
        self.metrics.watch(self.queue)
        self.runner: Runner | None = None
        self._jobs: Jobs | None = None
        self._models: Models | None = None

    def ready(self) -> None:
        """Raise a `Problem` while the models are not open."""
        if self._models is None:
            raise Problem(503, "starting", "the models are still being opened", retry_after=2)

    @property
    def models(self) -> Models:
        """The opened models; raises as `ready` does."""
        self.ready()
        assert self._models is not None  # noqa: S101 - it is ready
        return self._models

    @property
    def jobs(self) -> Jobs:
        """The store of batches; raises as `ready` does."""
        self.ready()
        assert self._jobs is not None  # noqa: S101 - it is ready
        return self._jobs

    def open_jobs(self) -> None:
        """Open the store of batches, unless that was done.

        Raises:
            CutoutError: It cannot be used.
        """
        settings = self.settings
        if self._jobs is not None:
            return
        if settings.broker is None:
            self._jobs = SqliteJobs(settings.folder, expiry=settings.expiry)
        else:
            from cutout.service.store.redis import RedisJobs

            self._jobs = RedisJobs(settings.broker, expiry=settings.expiry, redelivery=settings.redelivery)

    @property
    def device(self) -> str:
        """What the first model runs on; `cpu` while there is none."""
        return "cpu" if self._models is None else self._models.device

    def pending(self) -> int | None:
        """Pictures of batches that are not done; None while the store cannot be asked."""
        try:
            return 0 if self._jobs is None else self._jobs.pending()
        except Exception as error:  # noqa: BLE001 - whatever keeps the store from being asked
            logs.event("batches", level=logging.WARNING, text=str(error))
            return None

    async def start(self) -> None:
        """Open the models, which takes seconds, and go on with the batches that an earlier process left unfinished.

        A service that can never be ready must not look alive: where its own models cannot be opened, it ends.
        """
        try:
            await asyncio.to_thread(self._open)
            if isinstance(self.jobs, SqliteJobs):
                limit = self.settings.max_pixels
                self.runner = Runner(self.jobs, self.models, self.queue, self.metrics, max_pixels=limit)
        except Exception as error:
            logs.event("failed", level=logging.ERROR, text=str(error))
            self.failure = error
            if self.given is not None:
                raise
            signal.raise_signal(signal.SIGTERM)

    def _open(self) -> None:
        self.open_jobs()
        models = self.given or Models(
            self.settings, warn=lambda text: logs.event("warning", level=logging.WARNING, text=text)
        )
        for name in models.names:
            self.metrics.loads.labels(name).inc()
        self._models = models
        logs.event("ready", models=", ".join(models.names), device=models.device)

    async def stop(self) -> None:
        """Finish what was accepted, and end."""
        if self.runner is not None:
            await self.runner.stop()
        await asyncio.to_thread(self.queue.close)
        if self._jobs is not None:
            self._jobs.close()
        if self._models is not None and self.given is None:
            self._models.close()
