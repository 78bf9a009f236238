"""Metrics for Prometheus: requests by outcome, queue, stages, memory."""

from __future__ import annotations

import time
from functools import lru_cache, partial
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.gc_collector import GCCollector
from prometheus_client.metrics_core import GaugeMetricFamily
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from cutout.engines.environment import cards

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client.metrics_core import Metric

    from cutout.service.models import Done
    from cutout.service.queue import WorkQueue

__all__ = ["CONTENT_TYPE", "Metrics"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_FRESH = 10.0  # seconds that a measurement of the graphics card is kept


class Metrics(Collector):
    """The metrics of one application, in a registry of their own."""

    def __init__(self, queue: WorkQueue) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        counter = partial(Counter, registry=self.registry)
        histogram = partial(Histogram, buckets=_BUCKETS, registry=self.registry)
        self.requests = counter("cutout_requests", "Requests by endpoint and outcome.", ["endpoint", "outcome"])
        self.seconds = histogram(
            "cutout_request_seconds", "Seconds from the head of a request to its answer.", ["endpoint"]
        )
        self.stages = histogram("cutout_stage_seconds", "Seconds of each stage of a cut-out.", ["stage"])
        self.pictures = counter(
            "cutout_pictures", "Pictures by origin (request, batch) and outcome.", ["origin", "outcome"]
        )
        self.loads = counter("cutout_model_loads", "Models opened.", ["model"])
        self.registry.register(self)
        self._queue = queue
        self._cards: dict[str, int] = {}  # bytes in use
        self._pending: int | None = None
        self._workers: int | None = None

    def done(self, done: Done, origin: str) -> None:
        """Count a finished picture."""
        self.pictures.labels(origin, "done").inc()
        for stage, milliseconds in done.ms.items():
            self.stages.labels(stage).observe(milliseconds / 1e3)

    def text(self, *, device: str, pending: int | None, workers: int | None = None) -> bytes:
        """What a scrape gets; may ask the graphics card, so not for the event loop.

        Args:
            device: What the models run on.
            pending: Pictures of batches that are not done; None while the store cannot be asked.
            workers: Workers that take batches; None where there is no broker, or it cannot be asked.
        """
        self._pending, self._workers = pending, workers
        self._cards = _cards_in_use(int(time.monotonic() / _FRESH)) if device != "cpu" else {}
        return generate_latest(self.registry)

    def collect(self) -> Iterator[Metric]:
        """What is true at the moment of a scrape."""
        queue, pending = self._queue, self._pending
        rows = [
            ("cutout_queue_waiting", "Pictures that wait for a worker.", queue.waiting),
            ("cutout_queue_running", "Pictures being processed.", queue.running),
            ("cutout_queue_depth", "Requests admitted and not answered yet.", queue.depth),
            ("cutout_queue_limit", "Requests that are admitted at once (--queue).", queue.limit),
            ("cutout_batch_pending", "Unfinished pictures of batches; missing while the store is away.", pending),
            ("cutout_batch_workers", "Living workers for batches; missing without a broker.", self._workers),
            ("cutout_batch_store_up", "1 if the store of batches can be reached, else 0.", int(pending is not None)),
        ]
        for name, text, value in rows:
            if value is not None:
                yield GaugeMetricFamily(name, text, value=value)
        gpu = GaugeMetricFamily("cutout_gpu_memory_bytes", "Graphics memory in use.", labels=["gpu"])
        for name, used in self._cards.items():
            gpu.add_metric([name], used)
        yield gpu


@lru_cache(maxsize=1)
def _cards_in_use(_tick: int) -> dict[str, int]:
    return {str(card.index): card.used for card in cards()}
