"""A model on a graphics card or another accelerator: pictures go in batches, cards work together, memory is minded.

Where nothing but the processor is left, the model is opened as `onnxruntime` opens it: pictures side by side.
"""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from cutout.engines.base import TensorEngine
from cutout.engines.device_queue import DeviceQueue
from cutout.engines.devices import (
    CPU,
    NVIDIA,
    PROVIDERS,
    Device,
    DeviceRequest,
    parse_device,
    provider_entry,
    unusable,
    with_options,
)
from cutout.engines.environment import cards
from cutout.engines.graphs.device import free_batch, to_half
from cutout.engines.graphs.onnx_bytes import UnknownGraphError
from cutout.engines.known_errors import explained, first_line, is_out_of_memory, why_not
from cutout.engines.onnxruntime import OnnxEngine, open_file
from cutout.engines.runtime import has_accelerator, load_runtime, machine
from cutout.errors import CutoutError
from cutout.models.files import prepared_home, require
from cutout.models.tensors import input_size

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import numpy.typing as npt

    from cutout.engines.base import EngineRequest
    from cutout.engines.runtime import LoadedRuntime
    from cutout.models.registry import ModelSpec
    from cutout.options import DeviceOptions

    Array = npt.NDArray[Any]
    Run = Callable[[Array], Array]
    Warn = Callable[[str], None]

__all__ = ["BatchedEngine", "BoundRun", "agrees", "fastest_size", "open_batched", "probe"]

_SHARE = 0.9
"""Of a card's free memory at the start: the rest is for others, and for what CUDA takes beside the arena."""
_LEVEL = 1 / 512
"""Of the range of the output: half of one level of a mask, by which a picture in a batch may differ from one alone."""
_HALF_SHARE = 16 / 255
"""Of the range of the output: how far half precision may move single values; real masks move by 0.02–0.4 on average."""
_ACTIVATIONS = 4_300
"""Bytes of activations for each pixel of the input, of the hungriest network measured (silueta; u2netp takes 1,400)."""
_FEW = 8
"""So few pictures are done one by one before a measurement has paid."""
_SIZES = (1, 2, 4, 8, 16, 32)
_WORTH = 1.08
"""So much faster, by picture, must a batch of twice the size be."""


class BatchedEngine(TensorEngine):
    """An opened model whose pictures go to the device in batches."""

    def __init__(self, first: OnnxEngine, queue: DeviceQueue, *, devices: int, device: str) -> None:
        self.spec = first.spec
        self.wanted_class = first.wanted_class
        self._dtype = first.wiring[3]
        self._queue = queue
        self.device = device
        self.batch = queue.size
        self.in_flight = queue.size * devices if queue.size > 1 or devices > 1 else 0

    def close(self) -> None:
        """See `Engine.close`; batches that run are finished, and what waits for one fails."""
        self._queue.close()

    def run(self, batch: Any, *, sparing: bool = False) -> Any:  # noqa: ARG002 - the device's memory is another one
        """One picture, in a batch with others that wait."""
        try:
            return self._queue.run(batch.astype(self._dtype, copy=False))
        except CutoutError:
            raise
        except Exception as error:  # the runtime's exceptions share no base
            said, hint = explained(self.device.partition(":")[0], error)
            raise CutoutError(f"{self.spec.name} failed on {self.device}: {said}", hint=hint) from error


def open_batched(request: EngineRequest, warn: Warn) -> OnnxEngine | BatchedEngine:
    """Open a model on what was asked for; see `base.open_engine`."""
    options, spec = request.options, request.spec
    path = require(spec)
    asked = _with_memory(with_options(request.asked, options.provider_options), options, warn)
    asked = _with_cache(replace(asked, half=options.half), warn)
    settings: dict[str, Any] = {"threads": request.threads, "warn": warn}
    first = open_file(path, spec, asked, model_options=request.model_options, **settings)
    device = parse_device(first.device)
    queued = device.provider.alone or (options.batch or 1) > 1
    for text in _idle(device, asked, options, queued=queued):
        warn(text)
    if not queued:
        return first
    try:
        return _Opening(path, first, asked, request, warn).batched(device)
    except CutoutError:
        raise
    except Exception as error:  # a device may open a model and fail at its first run, such as for want of code for it
        here = load_runtime(replace(asked, devices=(device,)))
        if asked.strict:
            raise unusable(device, asked, here.machine, str(error)) from error
        reason, hint = why_not(device.provider, here.machine, str(error))
        warn(f"{device} is installed but cannot be used, running on cpu: {reason} (to mend it: {hint})")
        processor = DeviceRequest(devices=(Device(CPU),))
        return open_file(path, spec, processor, model_options=request.model_options, **settings)


def _idle(device: Device, asked: DeviceRequest, options: DeviceOptions, *, queued: bool) -> Iterator[str]:
    """What was asked for and does nothing on the device that runs."""
    provider = device.provider
    if options.half and not (provider.half or (provider.half_graph and queued)):
        yield f"--half does nothing on {device}, which has no half precision: it computes in full precision"
    if options.cpu_fallback and not queued and (provider != CPU or asked.strict):
        yield f"--cpu-fallback does nothing on {device}, which has the machine's own memory"
    if asked.strict and provider.device not in NVIDIA and "--gpu-memory-limit" in options.given:
        yield f"--gpu-memory-limit does nothing on {device}: it is about NVIDIA's cards"


def _with_cache(asked: DeviceRequest, warn: Warn) -> DeviceRequest:
    """The request with a folder for compiled models, where a device compiles; said when it will take long."""
    here = machine()
    wanted = [device.provider for device in asked.devices[:1]] or [
        provider for provider in PROVIDERS if provider.auto and f"onnxruntime-{provider.device}" in here.packages
    ]
    provider = next((provider for provider in wanted if provider.cache), None)
    if provider is None:
        return asked
    folder = prepared_home() / provider.device
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not any(folder.iterdir()) and provider.name not in here.load_errors:  # silence looks like a hang
            warn(f"{provider.device} compiles each model once, which can take minutes; the result is kept in {folder}")
    except OSError as error:
        warn(f"{provider.device} compiles the model at every start, as {folder} cannot be written: {error.strerror}")
        return asked
    return replace(asked, cache=prepared_home())


def _with_memory(asked: DeviceRequest, options: DeviceOptions, warn: Warn) -> DeviceRequest:
    """The request with a limit of memory; `auto` passes over a card that others have filled."""
    device = asked.devices[0] if asked.devices else None
    if device.provider.device not in NVIDIA if device else not has_accelerator():
        return asked
    found, index = cards(), (device.index if device else None) or 0
    if index >= len(found):
        return asked
    # so that cuda:1 is the card that the driver calls 1; CUDA's own order puts the fastest first
    os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    card = found[index]
    if card.percent > options.gpu_memory_limit:
        full = f"{card.percent:.0f}% of the memory of {card.name} is in use (limit {options.gpu_memory_limit:.0f}%)"
        if device is None:
            warn(f"{full}: running on cpu; --gpu-memory-limit 100 uses it all the same")
            return replace(asked, devices=(Device(CPU),))
        warn(f"{full}: it may run out")
    return replace(asked, memory=int(card.free * _SHARE))


@dataclass(frozen=True)
class _Opening:
    """A model that was opened for one picture, on its way to a queue."""

    path: Path
    first: OnnxEngine
    asked: DeviceRequest
    request: EngineRequest
    warn: Warn

    def batched(self, device: Device) -> BatchedEngine:
        """The model on a device and on those beside it, fed by one queue."""
        options, spec, provider, warn = self.request.options, self.first.spec, device.provider, self.warn
        numbers = self._numbers(device)
        run, free = self._run(self.first, device)
        size = 1
        if free:
            most = options.pictures // 2 if options.pictures else max(_SIZES)
            size = options.batch or fastest_size(run, self._probe()[:1], most)
            size = size if provider != CPU else self._within_memory(size)
        elif (options.batch or 1) > 1:
            warn(f"{spec.name} cannot take several pictures at once: they run one by one")
        runs = [run]
        for number in numbers[1:]:
            other = replace(self.asked, devices=(Device(provider, number),), strict=True)
            opened = open_file(self.path, spec, other, threads=self.request.threads, warn=warn)
            runs.append(self._run(opened, other.devices[0])[0])
        queue = DeviceQueue(
            runs,
            size=size,
            fallback=_on_the_processor(self.path, spec, self.request.threads) if options.cpu_fallback else None,
            filled=provider != CPU,  # there empty places cost as much as pictures
            tell=lambda text: warn(f"{provider.device}: {text}"),  # not `self`, which holds a copy of the weights
        )
        name = str(device) if len(numbers) == 1 else f"{provider.device}:{','.join(map(str, numbers))}"
        return BatchedEngine(self.first, queue, devices=len(runs), device=name)

    def _within_memory(self, size: int) -> int:
        """Pictures of a batch on the processor, whose memory is that of the pictures too: half of it at most."""
        _, _, height, width = self._probe().shape
        most = max(1, int(self.request.memory // 2 // (height * width * _ACTIVATIONS)))
        if size > most:
            self.warn(f"batches hold {most} pictures, not {size}: more would take over half of the memory limit")
        return min(size, most)

    def _numbers(self, device: Device) -> list[int]:
        """The cards that work together."""
        if self.asked.further != ("all",):
            return [device.index or 0, *(int(number) for number in self.asked.further)]
        count = len(cards())
        if count == 0:
            self.warn("the driver does not tell how many cards there are: using the first; name them as in cuda:0,1")
        return list(range(max(1, count)))

    def _probe(self) -> Array:
        return probe(input_size(self.first.spec, (512, 512)), self.first.wiring[3])

    def _run(self, first: OnnxEngine, device: Device) -> tuple[Run, bool]:
        """The model on a device as a function of a batch, and whether it takes more than one picture."""
        options, provider = self.request.options, device.provider
        here = load_runtime(replace(self.asked, devices=(device,), strict=True))
        half = options.half and provider.half_graph
        single = _bound(here, first.wiring[0], first, device)
        pictures = self._probe()
        one = single(pictures[:1])  # also what shows a device that opens models and cannot run them
        if options.batch == 1 or (options.batch is None and (0 < options.pictures < _FEW or provider.compiles)):
            if half:
                when = f"from {_FEW} pictures on, or with --batch 2 and more"
                self.warn(f"--half was left out: it goes with batches, and pictures run one by one here ({when})")
            return single, False
        alone = np.concatenate([one, single(pictures[1:])])
        try:
            model = free_batch(self.path.read_bytes())  # as published: `graphs.cpu` is for processors
        except (UnknownGraphError, OSError) as error:
            if half:
                self.warn(f"--half was left out: {error}")
            return single, False
        if half:
            reason = "its masks differ too much from those in full precision"
            try:
                run = self._opened(to_half(model, first.spec.exact_nodes), first, device, here)
                if agrees(run(pictures), alone, _HALF_SHARE):
                    return run, True
            except Exception as error:  # noqa: BLE001 - whatever it is, the model runs in float32 then
                reason = first_line(error)
            self.warn(f"--half was left out on {device}, which computes in full precision: {reason}")
        with contextlib.suppress(Exception):  # whatever it is, the model runs one by one then
            run = self._opened(model, first, device, here)
            if agrees(run(pictures), alone):
                return run, True
        return single, False

    def _opened(self, model: bytes, first: OnnxEngine, device: Device, here: LoadedRuntime) -> BoundRun:
        inner = here.runtime.InferenceSession(
            model,
            sess_options=here.settings(self.request.threads),
            providers=[provider_entry(device, here.request)],
            enable_fallback=0,
        )
        return _bound(here, inner, first, device)


def _bound(here: LoadedRuntime, inner: Any, first: OnnxEngine, device: Device) -> BoundRun:
    _, source, output, _ = first.wiring
    return BoundRun(here.runtime, inner, source, output, memory=device.provider.memory, index=device.index or 0)


def _on_the_processor(path: Path, spec: ModelSpec, threads: int) -> Run:
    """The model on the processor, opened when it is first needed."""
    opened: list[OnnxEngine] = []

    def run(picture: Any) -> Any:
        if not opened:
            request = DeviceRequest(devices=(Device(CPU),), strict=True)
            opened.append(open_file(path, spec, request, threads=threads))
        return opened[0].run(picture)

    return run


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


def probe(size: tuple[int, int], dtype: str = "float32") -> Array:
    """Two pictures as a model gets them, (2, 3, H, W): a bright disc on dark, and a faint slope of another range."""
    down, across = np.mgrid[0 : size[0], 0 : size[1]].astype(np.float32)
    disc = np.hypot(down - size[0] / 2, across - size[1] / 2) < min(size) / 3
    first = np.where(disc, 2.2, -1.9)
    second = 0.4 * across / size[1] - 0.2
    return np.stack([np.stack([first] * 3), np.stack([second] * 3)]).astype(dtype)


def agrees(batched: Array, single: Array, share: float = _LEVEL) -> bool:
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
