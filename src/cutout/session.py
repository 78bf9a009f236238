"""An opened model. The only module that imports onnxruntime."""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
import threading
from dataclasses import dataclass
from functools import lru_cache, partial
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from cutout import graph
from cutout.diagnosis import recognise
from cutout.errors import CutoutError, DeviceError, ModelError, UsageError
from cutout.models import Activation
from cutout.providers import (
    CPU,
    PROVIDERS,
    Device,
    DeviceRequest,
    Machine,
    choose,
    provider_entry,
    unusable,
    why_not,
)
from cutout.runtime_log import what_it_says
from cutout.store import prepared_home
from cutout.surroundings import library_error, load_tensorrt, look
from cutout.tensor import input_size, to_input, to_mask

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from PIL import Image

    from cutout.models import ModelSpec
    from cutout.options import Fit
    from cutout.stages import Stages

__all__ = ["OnnxSession", "Prepared", "Session", "machine", "open_session", "prepare", "quiet"]

_PACKAGES = (
    "onnxruntime",
    "onnxruntime-gpu",
    "onnxruntime-openvino",
    "onnxruntime-directml",
    "onnxruntime-migraphx",
    "onnxruntime-rocm",
    "onnxruntime-qnn",
)
_TYPES = {"tensor(float)": "float32", "tensor(float16)": "float16"}
_FILE_FAULTS = frozenset({"InvalidGraph", "InvalidProtobuf", "NoModel", "NoSuchFile"})
"""The runtime's exceptions that no other device would help against."""
_LARGE = 4_000_000
"""Pixels from which a picture itself needs so much memory that the runtime's is given back in between."""


class Session(Protocol):
    """A model that is ready to look at pictures; safe to use from many threads."""

    spec: ModelSpec
    device: str
    """What really runs, such as `cpu` or `cuda:0`."""

    def predict(self, rgb: Image.Image, *, fit: Fit | None, rescale: bool | None, stages: Stages) -> Image.Image:
        """The mask (mode L, any resolution) of a picture (mode RGB); None takes the model's own defaults."""
        ...


class OnnxSession:
    """A model opened by ONNX Runtime.

    Attributes:
        spec: Its description.
        device: The device that the runtime reports after opening.
        providers: All providers that the runtime reports, in order.
    """

    def __init__(self, inner: Any, spec: ModelSpec, device: str, wanted_class: str, sparing: Any = None) -> None:
        self._inner = inner
        self.spec = spec
        self.device = device
        self.providers: tuple[str, ...] = tuple(inner.get_providers())
        self._class = wanted_class
        source = inner.get_inputs()[0]
        self._input = source.name
        self._dtype = _TYPES[source.type]
        self._output = [inner.get_outputs()[spec.output].name]
        self._sparing = sparing

    def predict(self, rgb: Image.Image, *, fit: Fit | None, rescale: bool | None, stages: Stages) -> Image.Image:
        """See `Session.predict`; the mask comes at the model's own resolution."""
        spec = self.spec
        with stages.time("preprocess"):
            size = input_size(spec, rgb.size)
            batch, place = to_input(rgb, spec, size, spec.fit if fit is None else fit)
        with stages.time("inference"):
            output = self.run(batch, sparing=rgb.width * rgb.height >= _LARGE)
        with stages.time("postprocess"):
            rescale = spec.rescale if rescale is None else rescale
            return to_mask(output, spec, place, rescale=rescale, wanted=self._class)

    @property
    def wiring(self) -> tuple[Any, str, str, str]:
        """The runtime's session, its input, the wanted output and the input's dtype, for whoever runs it himself."""
        return self._inner, self._input, self._output[0], self._dtype

    def run(self, batch: Any, *, sparing: bool = False) -> Any:
        """One inference: float32 (1, 3, H, W) in, the chosen output alone out.

        Args:
            batch: What `tensor.to_input` gave.
            sparing: Give the runtime's memory back afterwards, where something else will need it.

        Raises:
            CutoutError: The runtime failed on this picture, for want of memory or otherwise.
        """
        source = {self._input: batch.astype(self._dtype, copy=False)}
        try:
            return self._inner.run(self._output, source, self._sparing if sparing else None)[0]
        except Exception as error:  # the runtime's exceptions share no base
            raise CutoutError(f"{self.spec.name} failed on {self.device}: {_first_line(error)}") from error


def machine() -> Machine:
    """What the installed runtime offers; empty where none is installed."""
    packages = {}
    for name in _PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            packages[name] = metadata.version(name)
    try:
        runtime = _runtime()
    except DeviceError:
        return Machine(available=(), packages=packages)
    available = tuple(runtime.get_available_providers())
    errors = {}
    folder = Path(runtime.__file__).parent / "capi"
    for provider in PROVIDERS:
        if provider.name in available and (error := library_error(folder, provider.library)):
            errors[provider.name] = error
    place = partial(look, next((f"{name} {version}" for name, version in packages.items()), ""))
    return Machine(available=available, packages=packages, load_errors=errors, place=place)


def open_session(
    path: Path,
    spec: ModelSpec,
    request: DeviceRequest,
    *,
    threads: int,
    model_options: dict[str, Any] | None = None,
    warn: Callable[[str], None] = lambda _text: None,
) -> OnnxSession:
    """Open a model on the best device that the request allows and that really loads.

    Args:
        path: The verified file.
        spec: Its description.
        request: Which device was asked for.
        threads: Threads of one inference on the CPU.
        model_options: `class` for class models.
        warn: Called with one line when `auto` falls back from an accelerator that is installed but does not load.

    Raises:
        DeviceError: No runtime, or a strict request that cannot be met.
        ModelError: The file is no model, or does not fit its description.
        UsageError: An unknown model option.
    """
    wanted_class = _wanted_class(spec, dict(model_options or {}))
    here = prepare(request)
    faster = _prepared(path, spec, here)
    try:
        inner, said = _open(faster or path, here, here.settings(threads))
    except ModelError:
        if faster is None:
            raise
        with contextlib.suppress(OSError):  # whatever happened to the copy, the model itself may be good
            faster.unlink()
        inner, said = _open(path, here, here.settings(threads))
    used = here.settle(inner.get_providers(), said, warn)
    spec = _check_signature(inner, spec, path)
    return OnnxSession(inner, spec, str(used), wanted_class, _sparing_runs(here) if used.provider is CPU else None)


def _open(path: Path, here: Prepared, settings: Any) -> tuple[Any, str]:
    """The runtime's session on the first device that takes it, and what the runtime said of those that did not."""
    said = ""
    left = here.devices
    while True:
        try:
            return here.runtime.InferenceSession(
                str(path),
                sess_options=settings,
                providers=[provider_entry(device, here.request) for device in left],
                enable_fallback=0,  # a fallback is ours to choose and to tell
            ), said
        except Exception as error:  # the runtime's exceptions share no base
            said = said or str(error).strip() or type(error).__name__
            if left[0].provider is CPU or type(error).__name__ in _FILE_FAULTS:
                raise ModelError(
                    f"the model file {path} cannot be opened: {_first_line(error)}",
                    hint="it is no ONNX model, or needs a newer onnxruntime",
                ) from error
            left = left[1:]
            if not left:
                raise unusable(here.devices[0], here.request, here.machine, said) from error


def _prepared(path: Path, spec: ModelSpec, here: Prepared) -> Path | None:
    """A copy of the graph that is faster on a CPU, made once per model and runtime and kept; None where there is none.

    An empty file says that there is nothing to gain. Two runs that make it at once each move a whole file into place.
    """
    if not spec.sha256 or here.devices[0].provider is not CPU:
        return None
    target = prepared_home() / f"{spec.sha256[:16]}-{here.runtime.__version__}-{graph.REVISION}.onnx"
    if not target.exists():
        # best effort: without a place to keep it, or with a graph that is not understood, the file serves as it is
        with contextlib.suppress(OSError, graph.UnknownGraphError):
            target.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=target.parent, prefix=".making-") as folder:
                folded, done = Path(folder) / "folded.onnx", Path(folder) / "done.onnx"
                edited, counts = graph.rewrite(_folded(path, folded, here))
                done.write_bytes(edited if counts else b"")
                done.replace(target)
    try:
        return target if target.stat().st_size else None
    except OSError:
        return None


def _folded(path: Path, target: Path, here: Prepared) -> bytes:
    """The graph with its constants folded by the runtime."""
    settings = here.settings(1)
    settings.graph_optimization_level = here.runtime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    settings.optimized_model_filepath = str(target)
    try:
        here.runtime.InferenceSession(str(path), sess_options=settings, providers=[CPU.name])
    except Exception as error:  # the runtime's exceptions share no base; opening the model itself will tell
        raise graph.UnknownGraphError(_first_line(error)) from error
    return target.read_bytes()


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    """A runtime that is ready to open models.

    Attributes:
        runtime: The module.
        machine: What it offers.
        request: What was asked for.
        devices: What to open a model with, best first.
    """

    runtime: Any
    machine: Machine
    request: DeviceRequest
    devices: list[Device]

    def settings(self, threads: int) -> Any:
        """Session options: so many threads of one inference on the CPU, and no output of the runtime's own."""
        settings = self.runtime.SessionOptions()
        settings.intra_op_num_threads = threads
        settings.inter_op_num_threads = 1
        settings.log_severity_level = 4  # what it would print is told in our own words
        if self.devices[0].provider is CPU:
            # planning one block for all activations of a run takes 200 MB more for u2netp, and is no faster
            settings.enable_mem_pattern = False
            if _sparing_arena(self.runtime):
                settings.add_session_config_entry("session.use_env_allocators", "1")
        return settings

    def settle(self, running: Sequence[str], said: str, warn: Callable[[str], None]) -> Device:
        """The device that really runs, which need not be the one that was asked for.

        Args:
            running: The providers that the opened session reports, in order.
            said: What the runtime said when it refused a device, if anything.
            warn: Called with one line when an accelerator is there but not used, or packages clash.

        Raises:
            DeviceError: The request is strict, and something else runs.
        """
        asked = self.devices[0]
        used = next((device for device in self.devices if device.provider.name == running[0]), Device(CPU))
        if used.provider is not asked.provider and not said and asked.provider.name not in self.machine.load_errors:
            said = what_it_says(provider_entry(asked, self.request))
        if used not in self.devices:
            raise unusable(asked, self.request, self.machine, said)
        reason, hint = why_not(asked.provider, self.machine, said)
        if used.provider is not asked.provider:
            warn(f"{asked} is installed but cannot be used, running on {used}: {reason} (to mend it: {hint})")
        elif self.machine.clash:
            warn(f"{reason} (to mend it: {hint})")
        return used


def prepare(request: DeviceRequest) -> Prepared:
    """Load the runtime, and what the chosen devices need beside it.

    Raises:
        DeviceError: No runtime, or a strict request for something it does not offer.
    """
    runtime = _runtime()
    here = machine()
    devices = choose(request, here)
    if any(device.provider.device in {"cuda", "tensorrt"} for device in devices):
        _preload(runtime)
        if any(device.provider.device == "tensorrt" for device in devices):
            load_tensorrt()
        here = machine()
    return Prepared(runtime=runtime, machine=here, request=request, devices=devices)


def _runtime() -> Any:
    # From 1.29 on the runtime reports usage to its maker over the network unless this is set before it is imported.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        import onnxruntime
    except ImportError as error:
        if isinstance(error, ModuleNotFoundError) and error.name == "onnxruntime":
            raise DeviceError(
                "ONNX Runtime is not installed",
                hint='pip install "cutout-cli[cpu]", or "cutout-cli[gpu]" on a machine with an NVIDIA card',
            ) from None
        found = recognise("cpu", str(error))
        raise DeviceError(
            f"ONNX Runtime is installed but cannot be loaded: {found.sentence if found else error}",
            hint=found.hint if found else "cutout doctor",
        ) from error
    if not hasattr(onnxruntime, "InferenceSession"):  # what uninstalling one of two clashing packages leaves behind
        raise DeviceError(
            "the onnxruntime folder is damaged: two of its packages were installed over each other",
            hint='pip uninstall -y onnxruntime onnxruntime-gpu && pip install "cutout-cli[cpu]"',
        )
    onnxruntime.set_default_logger_severity(4)
    onnxruntime.disable_telemetry_events()  # somebody else may have imported it before us
    return onnxruntime


@lru_cache(maxsize=1)
def _sparing_arena(runtime: Any) -> bool:
    """Whether the runtime's pool of memory, shared by all sessions, grows by what is asked for instead of doubling."""
    with contextlib.suppress(Exception):  # the runtime's exceptions share no base; without it, all works as well
        memory = runtime.OrtMemoryInfo(
            "Cpu", runtime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, runtime.OrtMemType.DEFAULT
        )
        runtime.create_and_register_allocator(memory, runtime.OrtArenaCfg({"arena_extend_strategy": 1}))
        return True
    return False


def _sparing_runs(here: Prepared) -> Any:
    """Options of runs after which the pool of memory gives back what it does not use."""
    if not _sparing_arena(here.runtime):
        return None
    options = here.runtime.RunOptions()
    options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    return options


_quiet_lock = threading.Lock()  # two redirections that overlap would leave standard output gone for good


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep what the runtime's Python part prints off standard output, which carries pictures."""
    with _quiet_lock, contextlib.redirect_stdout(io.StringIO()):
        yield


def _preload(runtime: Any) -> None:
    """Load CUDA and cuDNN from their wheels, so that no system CUDA is needed."""
    if hasattr(runtime, "preload_dlls"):
        with quiet(), contextlib.suppress(Exception):  # what fails shows in `library_error`
            runtime.preload_dlls()


def _check_signature(inner: Any, spec: ModelSpec, path: Path) -> ModelSpec:
    """The file's inputs and outputs must fit its description; a user's own file may tell its size itself.

    Raises:
        ModelError: They do not.
    """
    inputs, outputs = inner.get_inputs(), inner.get_outputs()
    what = f"the model file {path} does not fit {spec.name}"
    if len(inputs) != 1 or len((source := inputs[0]).shape) != 4 or source.type not in _TYPES:
        raise ModelError(f"{what}: it wants {[(entry.name, entry.shape, entry.type) for entry in inputs]}")
    if not -len(outputs) <= spec.output < len(outputs):
        raise ModelError(f"{what}: it has {len(outputs)} outputs, number {spec.output} is not among them")
    batch, channels, height, width = source.shape
    if isinstance(batch, int) and batch != 1:
        raise ModelError(f"{what}: it wants {batch} pictures at once")
    if isinstance(channels, int) and channels != 3:
        raise ModelError(f"{what}: it wants pictures of {channels} channels")
    fixed = (height, width) if isinstance(height, int) and isinstance(width, int) else None
    if fixed is None or fixed == spec.size:
        return spec
    if spec.path is None:
        raise ModelError(f"{what}: it wants {fixed[0]}×{fixed[1]} pixels")
    from dataclasses import replace

    return replace(spec, size=fixed)


def _wanted_class(spec: ModelSpec, options: dict[str, Any]) -> str:
    known = ("all", *spec.classes) if spec.activation is Activation.ARGMAX else ()
    wanted = str(options.pop("class", "all"))
    if options or (wanted != "all" and wanted not in known):
        text = ", ".join(f"{key}={value}" for key, value in options.items()) or f"class={wanted}"
        hint = f"known: class={'|'.join(known)}" if known else f"{spec.name} has none"
        raise UsageError(f"unknown --model-option {text}", hint=hint)
    return wanted


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
