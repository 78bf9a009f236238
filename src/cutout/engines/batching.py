"""A model on a graphics card or another accelerator: pictures go in batches, cards work together, memory is minded.

On the processor everything is as `session` leaves it: pictures side by side, one inference each.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from dataclasses import replace
from importlib import metadata
from typing import TYPE_CHECKING, Any

import numpy as np

from cutout.atomic import write_atomic
from cutout.engines.device_queue import DeviceQueue
from cutout.engines.device_run import BoundRun, StaticRun, agrees, fastest_size, probe
from cutout.engines.devices.gpu import cards, wait_for_memory
from cutout.engines.devices.providers import (
    CPU,
    PROVIDERS,
    Device,
    DeviceRequest,
    parse_device,
    provider_entry,
    unusable,
    why_not,
    with_options,
)
from cutout.engines.graphs.batch import AXIS, free_batch
from cutout.engines.graphs.cpu import UnknownGraphError
from cutout.engines.graphs.half import to_half
from cutout.engines.known_errors.nvidia import NVIDIA
from cutout.engines.known_errors.recognise import recognise
from cutout.engines.onnxruntime import OnnxSession, open_session
from cutout.engines.runtime import machine, prepare
from cutout.errors import CutoutError
from cutout.formats.reading import NOTES, read_file
from cutout.models.files import prepared_home
from cutout.models.tensors import input_size

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from cutout.device_options import DeviceOptions
    from cutout.engines.device_run import Run
    from cutout.engines.devices.providers import Provider
    from cutout.engines.runtime import Prepared
    from cutout.models.registry import ModelSpec

    Warn = Callable[[str], None]

__all__ = ["BatchedSession", "open_model"]

_SHARE = 0.9
"""Of a card's free memory at the start: the rest is for others, and for what CUDA takes beside the arena."""
_HALF_SHARE = 16 / 255
"""Of the range of the output: how far half precision may move single values; real masks move by 0.02–0.4 on average."""
_FEW = 8
"""So few pictures are done one by one before a measurement has paid."""
_BATCHES = f"from {_FEW} pictures on, or with --batch 2 and more"


class BatchedSession(OnnxSession):
    """An opened model whose pictures go to the device in batches.

    Attributes:
        batch: Pictures in a batch.
        in_flight: Pictures that can wait for or be on the devices, beyond those being decoded and encoded.
    """

    def __init__(self, first: OnnxSession, queue: DeviceQueue, *, devices: int, device: str) -> None:
        self.__dict__.update(first.__dict__)
        self._inner = None  # the queue has what it needs; a second copy of the weights would lie on the device
        self._queue = queue
        self.device = device
        self.batch = queue.size
        self.in_flight = queue.size * devices if queue.size > 1 or devices > 1 else 0

    def close(self) -> None:
        """See `Session.close`; batches that run are finished, and what waits for one fails."""
        self._queue.close()

    def run(self, batch: Any, *, sparing: bool = False) -> Any:  # noqa: ARG002 - the device's memory is another one
        """One picture, in a batch with others that wait."""
        try:
            return self._queue.run(batch.astype(self._dtype, copy=False))
        except CutoutError:
            raise
        except Exception as error:  # the runtime's exceptions share no base
            found = recognise(parse_device(self.device.split(",")[0]).provider.device, str(error))
            said = found.sentence if found else (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise CutoutError(
                f"{self.spec.name} failed on {self.device}: {said}", hint=found.hint if found else None
            ) from error


def open_model(
    path: Path,
    spec: ModelSpec,
    request: DeviceRequest,
    *,
    threads: int,
    options: DeviceOptions,
    model_options: dict[str, Any] | None = None,
    warn: Warn = lambda _text: None,
) -> OnnxSession:
    """Open a model on what was asked for; see `session.open_session`, which it adds batches, cards and memory to.

    Raises:
        DeviceError: The asked-for device cannot be used.
        ModelError: The file is no model, or does not fit its description.
        UsageError: An option that makes no sense.
    """
    request = _with_memory(with_options(request, options.provider_options), options, warn)
    request = _with_cache(replace(request, half=options.half), warn)
    first = open_session(path, spec, request, threads=threads, model_options=model_options, warn=warn)
    device = parse_device(first.device)
    queued = _queued(device, options)
    for text in _idle(device, request, options, queued=queued):
        warn(text)
    if not queued:
        return first
    try:
        return _batched(path, first, device, request, threads, options, warn)
    except CutoutError:
        raise
    except (
        Exception
    ) as error:  # a device may open a model and fail at its first run, such as for a card it has no code for
        here = prepare(replace(request, devices=(device,)))
        if request.strict:
            raise unusable(device, request, here.machine, str(error)) from error
        reason, hint = why_not(device.provider, here.machine, str(error))
        warn(f"{device} is installed but cannot be used, running on cpu: {reason} (to mend it: {hint})")
        processor = DeviceRequest(devices=(Device(CPU),))
        return open_session(path, spec, processor, threads=threads, model_options=model_options, warn=warn)


def _queued(device: Device, options: DeviceOptions) -> bool:
    if options.batch is not None:
        return options.batch > 1 or device.provider.alone
    return device.provider.alone


def _idle(device: Device, request: DeviceRequest, options: DeviceOptions, *, queued: bool) -> Iterator[str]:
    """What was asked for and does nothing on the device that runs."""
    provider = device.provider
    if options.half and not (provider.half or (provider.half_graph and queued)):
        yield f"--half does nothing on {device}, which has no half precision: it computes in full precision"
    if options.cpu_fallback and not queued and (provider is not CPU or request.strict):
        yield f"--cpu-fallback does nothing on {device}, which has the machine's own memory"
    if request.strict and provider.device not in NVIDIA:
        for name in sorted({"--gpu-memory-limit", "--gpu-wait"} & set(options.said)):
            yield f"{name} does nothing on {device}: it is about NVIDIA's cards"


def _with_cache(request: DeviceRequest, warn: Warn) -> DeviceRequest:
    """The request with a folder for compiled models, where a device compiles; said when it will take long."""
    provider = request.devices[0].provider if request.devices else _compiler()
    if provider is None or not provider.cache:
        return request
    folder = prepared_home() / provider.device
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not any(folder.iterdir()) and provider.name not in machine().load_errors:  # silence looks like a hang
            warn(f"{provider.device} compiles each model once, which can take minutes; the result is kept in {folder}")
    except OSError as error:
        warn(f"{provider.device} compiles the model at every start, as {folder} cannot be written: {error.strerror}")
        return request
    return replace(request, cache=prepared_home())


def _compiler() -> Provider | None:
    """The provider that `auto` may take and that compiles, if its package is installed."""
    for provider in PROVIDERS:
        if provider.auto and provider.cache:
            with contextlib.suppress(metadata.PackageNotFoundError):
                metadata.version(f"onnxruntime-{provider.device}")
                return provider
    return None


def _with_memory(request: DeviceRequest, options: DeviceOptions, warn: Warn) -> DeviceRequest:
    """The request with a limit of memory; `auto` passes over a card that others have filled."""
    asked = request.devices[0] if request.devices else None
    if (asked is not None and asked.provider.device not in NVIDIA) or shutil.which("nvidia-smi") is None:
        return request
    # so that cuda:1 is the card that nvidia-smi calls 1; CUDA's own order puts the fastest first
    os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    card = wait_for_memory((asked.index if asked else None) or 0, options.gpu_memory_limit, options.gpu_wait)
    if card is None:
        return request
    if card.percent > options.gpu_memory_limit:
        full = f"{card.percent:.0f}% of the memory of {card.name} is in use (limit {options.gpu_memory_limit:.0f}%)"
        if asked is None:
            warn(f"{full}: running on cpu; --gpu-wait SECONDS waits, --gpu-memory-limit 100 uses it all the same")
            return replace(request, devices=(Device(CPU),))
        warn(f"{full}: it may run out")
    return replace(request, memory=int(card.free * _SHARE))


def _batched(
    path: Path,
    first: OnnxSession,
    device: Device,
    request: DeviceRequest,
    threads: int,
    options: DeviceOptions,
    warn: Warn,
) -> BatchedSession:
    here = prepare(replace(request, devices=(device,), strict=True))
    numbers = _numbers(device, request, warn)
    run, free = _free_run(path, first, device, here, threads, options, warn)
    size = 1
    if free:
        size = options.batch or _measured(first, run, device, here, options)
    elif (options.batch or 1) > 1:
        warn(f"{first.spec.name} cannot take several pictures at once: they run one by one")
    runs: list[Run] = [run]
    for number in numbers[1:]:
        other = replace(request, devices=(Device(device.provider, number),), strict=True)
        session = open_session(path, first.spec, other, threads=threads, warn=warn)
        runs.append(_free_run(path, session, other.devices[0], prepare(other), threads, options, warn)[0])
    queue = DeviceQueue(
        runs,
        size=size,
        fallback=_processor(path, first.spec, threads) if options.cpu_fallback else None,
        filled=device.provider is not CPU,  # there empty places cost as much as pictures
        tell=lambda text: warn(f"{device.provider.device}: {text}"),
    )
    name = str(device) if len(numbers) == 1 else f"{device.provider.device}:{','.join(map(str, numbers))}"
    return BatchedSession(first, queue, devices=len(runs), device=name)


def _numbers(device: Device, request: DeviceRequest, warn: Warn) -> list[int]:
    """The cards that work together."""
    first = device.index or 0
    if request.further != ("all",):
        return [first, *(int(number) for number in request.further)]
    count = len(cards())
    if count == 0:
        warn("nvidia-smi does not tell how many cards there are: using the first; name them as in cuda:0,1")
    return list(range(max(1, count)))


def _free_run(
    path: Path, first: OnnxSession, device: Device, here: Prepared, threads: int, options: DeviceOptions, warn: Warn
) -> tuple[Run, bool]:
    """The model on a device as a function of a batch, and whether it takes more than one picture."""
    half = options.half and device.provider.half_graph
    inner, _, _, dtype = first.wiring
    single = _bound(here, inner, first, device)
    pictures = probe(input_size(first.spec, (512, 512)), dtype)
    one = single(pictures[:1])  # also what shows a device that opens models and cannot run them
    if options.batch == 1 or (options.batch is None and 0 < options.pictures < _FEW):
        if half:
            warn(f"--half was left out: it goes with batches, and pictures run one by one here ({_BATCHES})")
        return single, False
    alone = np.concatenate([one, single(pictures[1:])])
    try:
        model = free_batch(path.read_bytes())  # as published: `graph.rewrite` is for processors
    except (UnknownGraphError, OSError) as error:
        if half:
            warn(f"--half was left out: {error}")
        return single, False
    if half:
        reason = "its masks differ too much from those in full precision"
        try:
            run = _opened(to_half(model, first.spec.exact_nodes), first, device, here, threads)
            if agrees(run(pictures), alone, _HALF_SHARE):
                return run, True
        except Exception as error:  # noqa: BLE001 - whatever it is, the model runs in float32 then
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        warn(f"--half was left out on {device}, which computes in full precision: {reason}")
    with contextlib.suppress(Exception):  # whatever it is, the model runs one by one then
        run = _opened(model, first, device, here, threads)
        if agrees(run(pictures), alone):
            return run, True
    return single, False


def _opened(model: bytes, first: OnnxSession, device: Device, here: Prepared, threads: int) -> Run:
    def open_at(size: int | None) -> Run:
        settings = here.settings(threads)
        if size is not None:
            settings.add_free_dimension_override_by_name(AXIS, size)
        inner = here.runtime.InferenceSession(
            model, sess_options=settings, providers=[provider_entry(device, here.request)], enable_fallback=0
        )
        return _bound(here, inner, first, device)

    return StaticRun(open_at) if device.provider.static else open_at(None)


def _bound(here: Prepared, inner: Any, first: OnnxSession, device: Device) -> BoundRun:
    _, source, output, _ = first.wiring
    return BoundRun(here.runtime, inner, source, output, memory=device.provider.memory, index=device.index or 0)


def _measured(first: OnnxSession, run: Run, device: Device, here: Prepared, options: DeviceOptions) -> int:
    """The fastest size of batch, measured once for each model, device and runtime, and kept."""
    most = options.pictures // 2 if options.pictures else 32
    key = f"{first.spec.sha256[:16] or first.spec.name} {_hardware(device)} {here.runtime.__version__}"
    notes = prepared_home() / "batch.json"
    known: dict[str, Any] = {}
    with contextlib.suppress(OSError, ValueError, TypeError, RecursionError):
        known = dict(json.loads(read_file(notes, NOTES)))
    size = known.get(key)
    if not isinstance(size, int):
        picture = probe(input_size(first.spec, (512, 512)), first.wiring[3])[:1]
        size = fastest_size(run, picture, 32)
        with contextlib.suppress(OSError, CutoutError):
            notes.parent.mkdir(parents=True, exist_ok=True)
            text = json.dumps({**known, key: size}, indent=1, sort_keys=True)
            write_atomic(notes, text.encode(), replace_existing=True)
    return max(1, min(size, most))


def _hardware(device: Device) -> str:
    found = cards() if device.provider.device in NVIDIA else []
    index = device.index or 0
    return f"{device.provider.device} {found[index].name}" if index < len(found) else str(device)


def _processor(path: Path, spec: ModelSpec, threads: int) -> Run:
    """The model on the processor, opened when it is first needed."""
    opened: list[OnnxSession] = []

    def run(picture: Any) -> Any:
        if not opened:
            request = DeviceRequest(devices=(Device(CPU),), strict=True)
            opened.append(open_session(path, spec, request, threads=threads))
        return opened[0].run(picture)

    return run
