"""Batches: every picture gets its own result, whatever waits beside it and whatever the device has no memory for."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from cutout.engines.batching import agrees, fastest_size, probe
from cutout.engines.device_queue import DeviceQueue
from cutout.errors import ClosedError

# What real runtimes say when a device has no memory left.
STARVED = (
    (
        "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Non-zero status code returned while running Conv node. "
        "Name:'Conv_3' Status Message: /onnxruntime_src/onnxruntime/core/framework/bfc_arena.cc:376 Failed to allocate "
        "memory for requested buffer of size 2830172160"
    ),
    "CUDA out of memory. Tried to allocate 20.00 MiB",
    "CUDA failure 2: out of memory ; GPU=0 ; hostname=box ; expr=cudaStreamCreateWithFlags(&stream, 1);",
    "CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED ; GPU=0 ; hostname=box ; expr=cublasCreate(&cublas_handle_);",
    "CUDNN failure 1: CUDNN_STATUS_NOT_INITIALIZED ; GPU=0 ; hostname=box ; expr=cudnnCreate(&cudnn_handle_);",
    "CUDNN failure 4: CUDNN_STATUS_ALLOC_FAILED ; GPU=0 ; hostname=box",
)


def picture(value: float, side: int = 4) -> Any:
    return np.full((1, 3, side, side), value, np.float32)


class Device:
    """Doubles what it gets, as long as it has memory; remembers the shapes of its batches."""

    def __init__(self, room: int = 1000, said: str = STARVED[0]) -> None:
        self.room = room
        self.said = said
        self.shapes: list[tuple[int, ...]] = []
        self.threads: set[int] = set()
        self.gate, self.entered = threading.Event(), threading.Event()
        self.gate.set()

    def __call__(self, batch: Any) -> Any:
        self.entered.set()
        self.gate.wait()
        self.threads.add(threading.get_ident())
        self.shapes.append(batch.shape)
        if len(batch) > self.room:
            raise RuntimeError(self.said)
        if (batch == 13).any():
            raise ValueError("this picture is cursed")
        return 2 * batch[:, :1]


def all_through(queue: DeviceQueue, values: list[float], threads: int = 16) -> list[float | str]:
    """The result for each value, given to the queue from many threads at once."""

    def one(value: float) -> float | str:
        try:
            result = queue.run(picture(value))
        except Exception as error:  # noqa: BLE001
            return str(error)
        assert result.shape == (1, 1, 4, 4)
        assert (result == result[0, 0, 0, 0]).all()
        return float(result[0, 0, 0, 0])

    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(one, values))


@pytest.mark.parametrize(("filled", "size"), [(True, 64), (False, 1)])
def test_empty_places_are_computed_only_where_the_shape_counts(filled: bool, size: int) -> None:
    device = Device()
    queue = DeviceQueue([device], size=64, filled=filled)
    assert all_through(queue, [3.0]) == [6.0]
    assert device.shapes == [(size, 3, 4, 4)]
    queue.close()


@pytest.mark.parametrize("size", [1, 2, 5, 32])
def test_everybody_gets_his_own_result(size: int) -> None:
    device = Device()
    queue = DeviceQueue([device], size=size)
    values = [float(value) for value in range(20, 120)]
    assert all_through(queue, values) == [2 * value for value in values]
    queue.close()
    assert len(device.threads) == 1, "one thread for one device"
    assert {shape[0] for shape in device.shapes} == {size}, "a device sees one shape"


def until_waiting(queue: DeviceQueue, count: int) -> None:
    deadline = time.monotonic() + 60
    while len(queue._line._waiting) < count:
        assert time.monotonic() < deadline
        time.sleep(0.001)


def gathered(pool: ThreadPoolExecutor, queue: DeviceQueue, device: Device, count: int) -> list[Future[Any]]:
    """Results of pictures of 20, 21, …, all but the first of which wait until that is on the device."""
    futures = [pool.submit(queue.run, picture(20))]
    assert device.entered.wait(60)
    futures += [pool.submit(queue.run, picture(value)) for value in range(21, 20 + count)]
    until_waiting(queue, count - 1)
    return futures


@pytest.mark.parametrize("room", [0, 1, 2, 3])
def test_a_full_batch_without_memory_loses_nothing(room: int) -> None:
    device = Device(room)
    device.gate.clear()
    queue = DeviceQueue([device], size=8, fallback=lambda single: 2 * single[:, :1])
    with ThreadPoolExecutor(17) as pool:
        futures = gathered(pool, queue, device, 17)
        device.gate.set()
        assert [float(future.result(20)[0, 0, 0, 0]) for future in futures] == [2.0 * v for v in range(20, 37)]
    queue.close()


def test_what_waits_goes_together() -> None:
    device = Device()
    device.gate.clear()
    queue = DeviceQueue([device], size=4)
    with ThreadPoolExecutor(9) as pool:
        futures = gathered(pool, queue, device, 9)
        device.gate.set()
        assert [float(future.result()[0, 0, 0, 0]) for future in futures] == [2.0 * value for value in range(20, 29)]
    queue.close()
    assert len(device.shapes) == 3


def test_pictures_of_different_sizes_are_not_mixed() -> None:
    device = Device()
    queue = DeviceQueue([device], size=4)
    with ThreadPoolExecutor(12) as pool:
        results = list(pool.map(lambda i: queue.run(picture(i, side=4 + i % 3)), range(20, 50)))
    assert [(float(result[0, 0, 0, 0]), result.shape[2]) for result in results] == [
        (2.0 * i, 4 + i % 3) for i in range(20, 50)
    ]
    queue.close()


def test_several_devices_share_the_work() -> None:
    devices = [Device(), Device()]
    for device in devices:
        device.gate.clear()
    queue = DeviceQueue(devices, size=1)
    with ThreadPoolExecutor(8) as pool:
        futures = [pool.submit(queue.run, picture(value)) for value in range(20, 28)]
        for device in devices:
            assert device.entered.wait(60)
        for device in devices:
            device.gate.set()
        assert [float(future.result()[0, 0, 0, 0]) for future in futures] == [2.0 * value for value in range(20, 28)]
    queue.close()
    assert all(device.shapes for device in devices)


@pytest.mark.parametrize("said", STARVED)
@pytest.mark.parametrize("room", [1, 3, 7])
def test_without_memory_the_batch_is_halved_and_nothing_is_lost(said: str, room: int) -> None:
    device, told = Device(room, said), list[str]()
    queue = DeviceQueue([device], size=8, tell=told.append)
    values = [float(value) for value in range(20, 60)]
    assert all_through(queue, values) == [2 * value for value in values]
    queue.close()
    assert len(told) == 1, "said once"
    assert "memory of the device is full" in told[0]
    settled = [shape[0] for shape in device.shapes if shape[0] <= room]
    assert set(settled) == {1 if room == 1 else 2 if room == 3 else 4}
    assert len([shape for shape in device.shapes if shape[0] > room]) <= 3, "a size that failed is not tried again"


@pytest.mark.parametrize("said", STARVED)
def test_what_does_not_fit_even_alone_goes_to_the_processor_when_allowed(said: str) -> None:
    device, told = Device(0, said), list[str]()
    queue = DeviceQueue([device], size=4, fallback=lambda single: 2 * single[:, :1], tell=told.append)
    values = [float(value) for value in range(20, 40)]
    assert all_through(queue, values) == [2 * value for value in values]
    queue.close()
    assert len(told) == 2, "once for smaller batches, once for the processor"
    assert "processor" in told[1]


def test_what_does_not_fit_even_alone_fails_with_the_devices_words_otherwise() -> None:
    queue = DeviceQueue([Device(0)], size=4)
    assert set(all_through(queue, [20.0, 21.0, 22.0])) == {STARVED[0]}
    queue.close()


def test_one_pictures_fault_is_not_anothers() -> None:
    device, told = Device(), list[str]()
    queue = DeviceQueue([device], size=8, tell=told.append, fallback=lambda single: single)
    values = [13.0 if value % 5 == 0 else float(value) for value in range(20, 60)]
    expected = ["this picture is cursed" if value == 13 else 2 * value for value in values]
    assert all_through(queue, values) == expected
    assert told == [], "it is no want of memory"
    queue.close()


def test_a_device_that_gives_too_few_results_is_not_believed() -> None:
    queue = DeviceQueue([lambda batch: batch[:1, :1]], size=2)
    assert all_through(queue, [20.0, 21.0, 22.0], threads=3) == [20.0, 21.0, 22.0], "one by one it does"
    queue.close()


def test_a_closed_queue_takes_nothing() -> None:
    queue = DeviceQueue([Device()], size=2)
    queue.close()
    assert "closed" in str(all_through(queue, [20.0])[0])


# --- its end ---


def test_closing_finishes_what_was_begun_and_fails_what_waits() -> None:
    device = Device()
    device.gate.clear()
    queue = DeviceQueue([device], size=1)
    with ThreadPoolExecutor(6) as pool:
        begun, *waiting = gathered(pool, queue, device, 5)
        closing = pool.submit(queue.close)
        for future in waiting:
            with pytest.raises(ClosedError, match="the model was closed"):
                future.result(60)
        assert not closing.done(), "it waits for the device"
        device.gate.set()
        closing.result(60)
        assert float(begun.result(60)[0, 0, 0, 0]) == 40
    assert len(device.shapes) == 1


def test_a_queue_may_be_closed_by_many_and_again() -> None:
    queue = DeviceQueue([Device(), Device()], size=2)
    with ThreadPoolExecutor(8) as pool:
        for future in [pool.submit(queue.close) for _ in range(16)]:
            future.result(60)
    queue.close()
    assert not any(thread.is_alive() for thread in queue._threads)


@pytest.mark.parametrize("room", [0, 1])
def test_a_listener_that_raises_costs_no_picture(room: int) -> None:
    """Its callers would wait for ever for a thread that has died of it."""

    def tell(text: str) -> None:
        raise UserWarning(text)

    queue = DeviceQueue([Device(room)], size=4, fallback=lambda single: 2 * single[:, :1], tell=tell)
    values = [float(value) for value in range(20, 40)]
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(all_through, queue, values).result(60) == [2 * value for value in values]
    queue.close()


def test_a_listener_may_close_the_queue() -> None:
    told: list[str] = []

    def tell(text: str) -> None:
        told.append(text)
        queue.close()

    queue = DeviceQueue([Device(1)], size=4, tell=tell)
    assert float(queue.run(picture(20))[0, 0, 0, 0]) == 40, "it was begun"
    with pytest.raises(ClosedError):
        queue.run(picture(20))
    assert len(told) == 1


def test_a_thread_that_cannot_go_on_lets_nobody_wait() -> None:
    def run(_batch: Any) -> Any:
        raise SystemExit(3)

    queue = DeviceQueue([run], size=2)
    with ThreadPoolExecutor(1) as pool:
        for _ in range(2):
            with pytest.raises(SystemExit):
                pool.submit(queue.run, picture(20)).result(60)
    queue.close()


class Listener:
    """Holds the queue that it listens to, as objects with a method for warnings do."""

    def __init__(self, device: Device) -> None:
        self.queue = DeviceQueue([device], size=2, tell=self.tell)

    def tell(self, text: str) -> None:
        """Nothing."""


def test_a_queue_that_nobody_holds_any_more_lets_its_threads_and_models_go() -> None:
    devices = [Device() for _ in range(4)]
    listeners = [Listener(device) for device in devices]
    threads = [thread for listener in listeners for thread in listener.queue._threads]
    for listener in listeners:
        listener.queue.run(picture(20))
    seen = [weakref.ref(device) for device in devices]
    del devices, listeners, listener
    gc.collect()
    for thread in threads:
        thread.join(30)
    assert not any(thread.is_alive() for thread in threads)
    gc.collect()
    assert not any(device() for device in seen)


# --- which size ---


def clocked(costs: dict[int, float]) -> tuple[Any, Any]:
    """A device that needs so many seconds for a batch of so many, and the clock that tells."""
    now = [0.0]

    def run(batch: Any) -> Any:
        if len(batch) not in costs:
            raise RuntimeError(STARVED[0])
        now[0] += costs[len(batch)]
        return batch

    return run, lambda: now[0]


@pytest.mark.parametrize(
    ("costs", "most", "best"),
    [
        ({1: 1.0, 2: 2.0, 4: 4.0, 8: 8.0}, 32, 1),  # a device that gains nothing
        ({1: 1.0, 2: 1.0, 4: 1.0, 8: 1.0, 16: 1.0, 32: 1.0}, 32, 32),
        ({1: 1.0, 2: 1.2, 4: 1.6, 8: 3.2, 16: 6.4}, 32, 4),
        ({1: 1.0, 2: 1.0, 4: 1.0}, 32, 4),  # no memory for eight
        ({1: 1.0, 2: 1.0, 4: 1.0, 8: 1.0}, 3, 2),
        ({}, 32, 1),
    ],
)
def test_the_smallest_size_that_is_about_as_fast_as_any(costs: dict[int, float], most: int, best: int) -> None:
    run, clock = clocked(costs)
    assert fastest_size(run, picture(1), most, clock) == best


def test_results_agree_to_half_a_level() -> None:
    single = np.linspace(0, 1, 32, dtype=np.float32).reshape(2, 16)
    assert agrees(single + 1 / 1000, single)
    assert not agrees(single + 1 / 300, single)
    assert not agrees(single[:1], single)
    assert not agrees(single * np.nan, single)
    assert agrees(1000 * single + 1, 1000 * single), "of the range of the output"


def test_the_pictures_that_a_batch_is_checked_with_differ_in_range() -> None:
    """So that a scale that is taken over the whole batch shows."""
    first, second = probe((32, 48))
    assert first.shape == (3, 32, 48)
    assert np.ptp(first) > 5 * np.ptp(second)
