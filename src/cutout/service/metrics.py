"""Metrics for Prometheus: requests by outcome, queue, stages, memory."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.gc_collector import GCCollector
from prometheus_client.metrics_core import GaugeMetricFamily
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from cutout.engines.gpu import cards

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client.metrics_core import Metric

    from cutout.service.models import Done
    from cutout.service.queue import WorkQueue

__all__ = ["CONTENT_TYPE", "Metrics"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_FRESH = 10.0  # seconds that a measurement of the graphics card is kept


class Metrics:
    """The metrics of one application, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        counter = partial(Counter, registry=self.registry)
        gauge = partial(Gauge, registry=self.registry)
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
        self._waiting = gauge("cutout_queue_waiting", "Pictures that wait for a worker.")
        self._running = gauge("cutout_queue_running", "Pictures being processed.")
        self._depth = gauge("cutout_queue_depth", "Requests admitted and not answered yet.")
        self._limit = gauge("cutout_queue_limit", "Requests that are admitted at once (--queue).")
        self._batch = _Optional(
            "cutout_batch_pending", "Unfinished pictures of batches; missing while the store is away."
        )
        self.registry.register(self._batch)
        self._store = gauge("cutout_batch_store_up", "1 if the store of batches can be reached, else 0.")
        self._gpu = _Card()
        self._gpu_memory = gauge("cutout_gpu_memory_bytes", "Graphics memory in use.", ["gpu"])

    def watch(self, queue: WorkQueue) -> None:
        """Read the queue at every scrape."""
        self._waiting.set_function(lambda: queue.waiting)
        self._running.set_function(lambda: queue.running)
        self._depth.set_function(lambda: queue.depth)
        self._limit.set(queue.limit)

    def done(self, done: Done, origin: str) -> None:
        """Count a finished picture."""
        self.pictures.labels(origin, "done").inc()
        for stage, milliseconds in done.ms.items():
            self.stages.labels(stage).observe(milliseconds / 1e3)

    def text(self, *, device: str, pending: int | None) -> bytes:
        """What a scrape gets; may ask the graphics card, so not for the event loop.

        Args:
            device: What the models run on.
            pending: Pictures of batches that are not done; None while the store cannot be asked.
        """
        self._batch.value = pending
        self._store.set(pending is not None)
        if device != "cpu":
            for name, used in self._gpu.memory().items():
                self._gpu_memory.labels(name).set(used)
        return generate_latest(self.registry)


class _Optional(Collector):
    """A gauge that is left out while its value is not known."""

    def __init__(self, name: str, text: str) -> None:
        self._name, self._text = name, text
        self.value: int | None = None

    def collect(self) -> Iterator[Metric]:
        if self.value is not None:
            yield GaugeMetricFamily(self._name, self._text, value=self.value)


class _Card:
    """Memory in use on NVIDIA cards, asked for at most every few seconds."""

    def __init__(self) -> None:
        self._found: dict[str, int] = {}
        self._asked = -_FRESH

    def memory(self) -> dict[str, int]:
        if time.monotonic() - self._asked > _FRESH:
            self._asked = time.monotonic()
            self._found = {str(card.index): card.used for card in cards()}
        return self._found
