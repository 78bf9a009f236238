"""What a running application holds, and how it starts and ends."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections import Counter
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

    Models that are given are the caller's to close.
    """

    def __init__(self, settings: Settings, models: Models | None = None) -> None:
        self.settings = settings
        self.failure: Exception | None = None
        """Why it could not be started."""
        self.queue = WorkQueue(settings.workers, settings.queue)
        self.metrics = Metrics(self.queue)
        self.calls: Counter[str] = Counter()
        """Pictures that were cut out through remove.bg's interface, for each key."""
        self.runner: Runner | None = None
        self._jobs: Jobs | None = None
        self._models = models
        self._given = models is not None

    @property
    def is_open(self) -> bool:
        """Whether the models are open."""
        return self._models is not None

    def ready(self) -> tuple[Models, Jobs]:
        """The opened models and the store of batches; raises a `Problem` while they are not open."""
        if self._models is None or self._jobs is None:
            raise Problem(503, "starting", "the models are still being opened", retry_after=2)
        return self._models, self._jobs

    @property
    def models(self) -> Models:
        """The opened models; raises as `ready` does."""
        return self.ready()[0]

    @property
    def jobs(self) -> Jobs:
        """The store of batches; raises as `ready` does."""
        return self.ready()[1]

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

    def batch_workers(self) -> int | None:
        """Workers that take batches from the broker; None while it cannot be asked, and without one."""
        try:
            return None if self._jobs is None else self._jobs.workers()
        except Problem:
            return None

    def open_models(self) -> None:
        """Open the models, unless that was done; takes seconds.

        Raises:
            CutoutError: A model is missing, or a device cannot be used.
        """
        if self._models is None:
            self._models = Models(self.settings, warn=logs.warning)

    async def start(self) -> None:
        """Open what is not open yet, and go on with the batches that an earlier process left unfinished."""
        await asyncio.to_thread(self.open_jobs)
        await asyncio.to_thread(self.open_models)
        for name in self.models.names:
            self.metrics.loads.labels(name).inc()
        if isinstance(self.jobs, SqliteJobs):
            limit = self.settings.max_pixels
            self.runner = Runner(self.jobs, self.models, self.queue, self.metrics, max_pixels=limit)
            for client, pictures in (await asyncio.to_thread(self.jobs.waiting)).items():
                self.runner.add(client, pictures)
        logs.event("ready", models=", ".join(self.models.names), device=self.models.device)

    async def start_or_end(self) -> None:
        """The same while requests come in already; a service that can never be ready must not look alive, and ends."""
        try:
            await self.start()
        except Exception as error:  # noqa: BLE001 - `serve` raises it once the server has ended
            logs.event("failed", level=logging.ERROR, text=str(error))
            self.failure = error
            signal.raise_signal(signal.SIGTERM)

    async def stop(self) -> None:
        """Finish what was accepted, and end."""
        if self.runner is not None:
            await self.runner.stop()
        await asyncio.to_thread(self.queue.close)
        if self._jobs is not None:
            self._jobs.close()
        self.close_models()

    def close_models(self) -> None:
        """Close the models, unless they were given."""
        if self._models is not None and not self._given:
            self._models.close()
