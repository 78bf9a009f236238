"""A model on a device as a function from batch to result, with buffers that stay on the device."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np

from cutout.engines.known_errors.recognise import is_out_of_memory

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    Array = npt.NDArray[Any]
    Run = Callable[[Array], Array]

__all__ = ["BoundRun", "StaticRun", "agrees", "fastest_size", "probe"]

_SIZES = (1, 2, 4, 8, 16, 32)
_WORTH = 1.08
_SHARE = 1 / 512
"""Of the range of the output: half of one level of a mask."""


class BoundRun:
    """One session with free batch axis; input and output stay bound to the device from batch to batch.

    Args:
        runtime: The onnxruntime module.
        inner: Its session.
        source: Name of the input.
        output: Name of the output that is wanted.
        memory: ONNX Runtime's word for the device's memory; empty runs without bound buffers.
        index: Which of several devices.
    """

    def __init__(self, runtime: Any, inner: Any, source: str, output: str, *, memory: str, index: int = 0) -> None:
        self._runtime = runtime
        self._inner = inner
        self._names = source, output
        self._place = memory, index
        self._bound: tuple[tuple[int, ...], Any, Any] | None = None

    def __call__(self, batch: Array) -> Array:
        """Run one batch; the result is the caller's own."""
        source, output = self._names
        if self._bound is not None and self._bound[0] == batch.shape:
            _, value, binding = self._bound
            value.update_inplace(np.ascontiguousarray(batch))
            self._inner.run_with_iobinding(binding)
            return np.array(binding.get_outputs()[0].numpy())
        self._bound = None  # lets go of the old buffers first
        if (value := self._buffer(batch)) is None:
            return np.asarray(self._inner.run([output], {source: batch})[0])
        binding = self._inner.io_binding()
        binding.bind_ortvalue_input(source, value)
        binding.bind_output(output, *self._place)
        self._inner.run_with_iobinding(binding)
        binding.bind_ortvalue_output(output, binding.get_outputs()[0])
        self._bound = batch.shape, value, binding
        return np.array(binding.get_outputs()[0].numpy())

    def _buffer(self, batch: Array) -> Any:
        """The batch in the device's memory; None where this runtime cannot put it there."""
        if not self._place[0]:
            return None
        try:
            return self._runtime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(batch), *self._place)
        except Exception as error:  # the runtime's exceptions share no base
            if is_out_of_memory(str(error)):
                raise
            self._place = "", 0
            return None


class StaticRun:
    """A device that compiles for one shape: a session for each size of batch, the last of which is kept.

    Args:
        open_at: Opens the model for a size.
    """

    def __init__(self, open_at: Callable[[int], Run]) -> None:
        self._open_at = open_at
        self._size = 0
        self._run: Run | None = None

    def __call__(self, batch: Array) -> Array:
        """Run one batch."""
        if self._run is None or self._size != len(batch):
            self._run = None  # two compiled models may not fit side by side
            self._run = self._open_at(len(batch))
            self._size = len(batch)
        return self._run(batch)


def probe(size: tuple[int, int], dtype: str = "float32") -> Array:
    """Two pictures as a model gets them, (2, 3, H, W): a bright disc on dark, and a faint slope of another range."""
    down, across = np.mgrid[0 : size[0], 0 : size[1]].astype(np.float32)
    disc = np.hypot(down - size[0] / 2, across - size[1] / 2) < min(size) / 3
    first = np.where(disc, 2.2, -1.9)
    second = 0.4 * across / size[1] - 0.2
    return np.stack([np.stack([first] * 3), np.stack([second] * 3)]).astype(dtype)


def agrees(batched: Array, single: Array, share: float = _SHARE) -> bool:
    """Whether results are those of each picture alone, to half a level of a mask or another share of the range."""
    if batched.shape != single.shape or not np.isfinite(batched).all():
        return False
    span = float(single.max() - single.min())
    return bool(np.abs(batched.astype(np.float64) - single).max() <= max(span, 1e-3) * share)


def fastest_size(run: Run, picture: Array, most: int, clock: Callable[[], float] = time.perf_counter) -> int:
    """The smallest batch that is about as fast, by picture, as any: doubled while that pays and there is memory.

    Args:
        run: The device.
        picture: One picture, (1, 3, H, W).
        most: No larger batch than this.
        clock: Seconds.
    """
    best, rate = 1, 0.0
    for size in _SIZES:
        if size > most:
            break
        batch = np.repeat(picture, size, axis=0)
        try:
            run(batch)  # the first one chooses algorithms
            start = clock()
            run(batch)
            run(batch)
            now = 2 * size / max(clock() - start, 1e-9)
        except Exception:  # noqa: BLE001 - for want of memory, as a rule: the size before it serves
            break
        if now < rate * _WORTH:
            break
        best, rate = size, now
    return best
