"""An opened model. The only module that imports onnxruntime."""

from __future__ import annotations

import contextlib
import io
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from cutout.errors import CutoutError, DeviceError, ModelError, UsageError
from cutout.models import Activation
from cutout.providers import CPU, PROVIDERS, Device, DeviceRequest, Machine, Provider, choose, unusable, why_not
from cutout.tensor import input_size, to_input, to_mask

if TYPE_CHECKING:
    from collections.abc import Callable

    from PIL import Image

    from cutout.models import ModelSpec
    from cutout.options import Fit
    from cutout.stages import Stages

__all__ = ["OnnxSession", "Session", "machine", "open_session"]

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

    def __init__(self, inner: Any, spec: ModelSpec, device: str, wanted_class: str) -> None:
        self._inner = inner
        self.spec = spec
        self.device = device
        self.providers: tuple[str, ...] = tuple(inner.get_providers())
        self._class = wanted_class
        source = inner.get_inputs()[0]
        self._input = source.name
        self._dtype = _TYPES[source.type]
        self._output = [inner.get_outputs()[spec.output].name]

    def predict(self, rgb: Image.Image, *, fit: Fit | None, rescale: bool | None, stages: Stages) -> Image.Image:
        """See `Session.predict`; the mask comes at the model's own resolution."""
        spec = self.spec
        with stages.time("preprocess"):
            size = input_size(spec, rgb.size)
            batch, place = to_input(rgb, spec, size, spec.fit if fit is None else fit)
        with stages.time("inference"):
            output = self.run(batch)
        with stages.time("postprocess"):
            rescale = spec.rescale if rescale is None else rescale
            return to_mask(output, spec, place, rescale=rescale, wanted=self._class)

    def run(self, batch: Any) -> Any:
        """One inference: float32 (1, 3, H, W) in, the chosen output alone out.

        Raises:
            CutoutError: The runtime failed on this picture, for want of memory or otherwise.
        """
        try:
            return self._inner.run(self._output, {self._input: batch.astype(self._dtype, copy=False)})[0]
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
    for provider in PROVIDERS:
        if provider.name in available and (error := _load_error(runtime, provider)):
            errors[provider.name] = error
    return Machine(available=available, packages=packages, load_errors=errors)


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
    runtime = _runtime()
    here = machine()
    devices = choose(request, here)
    if here.clash:
        reason, hint = why_not(CPU, here)
        warn(f"{reason}; to mend it: {hint}")
    if any(device.provider.device in {"cuda", "tensorrt"} for device in devices):
        _preload(runtime)
        here = machine()
    inner = _open(path, devices, request, here, _settings(runtime, threads))
    used = _device_of(inner, devices)
    if used.provider is not devices[0].provider:
        error = unusable(devices[0], request, here)
        if request.strict:
            raise error
        reason, hint = why_not(devices[0].provider, here)
        warn(f"{devices[0]} is installed but cannot be used, running on {used}: {reason} ({hint})")
    spec = _check_signature(inner, spec, path)
    return OnnxSession(inner, spec, str(used), wanted_class)


def _settings(runtime: Any, threads: int) -> Any:
    settings = runtime.SessionOptions()
    settings.intra_op_num_threads = threads
    settings.inter_op_num_threads = 1
    settings.log_severity_level = 4  # what it would print is told in our own words
    return settings


def _open(path: Path, devices: list[Device], request: DeviceRequest, here: Machine, settings: Any) -> Any:
    try:
        with _runtime_quiet():
            return _runtime().InferenceSession(
                str(path),
                sess_options=settings,
                providers=[device.entry for device in devices],
                enable_fallback=0,  # a fallback is ours to choose and to tell
            )
    except Exception as error:  # the runtime's exceptions share no base
        if devices[0].provider is not CPU:
            if request.strict:
                raise unusable(devices[0], request, here) from error
            return _open(path, devices[1:], request, here, settings)
        raise ModelError(
            f"the model file {path} cannot be opened: {_first_line(error)}",
            hint="it is no ONNX model, or needs a newer onnxruntime",
        ) from error


def _runtime() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        if isinstance(error, ModuleNotFoundError) and error.name == "onnxruntime":
            raise DeviceError(
                "ONNX Runtime is not installed",
                hint='pip install "cutout-cli[cpu]", or "cutout-cli[gpu]" on a machine with an NVIDIA card',
            ) from None
        raise DeviceError(f"ONNX Runtime is installed but cannot be loaded: {error}", hint="cutout doctor") from error
    if not hasattr(onnxruntime, "InferenceSession"):  # what uninstalling one of two clashing packages leaves behind
        raise DeviceError(
            "the onnxruntime folder is damaged: two of its packages were installed over each other",
            hint='pip uninstall -y onnxruntime onnxruntime-gpu && pip install "cutout-cli[cpu]"',
        )
    onnxruntime.set_default_logger_severity(4)
    return onnxruntime


@contextlib.contextmanager
def _runtime_quiet() -> Any:
    """Keep what the runtime's Python part prints off standard output, which carries pictures."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield


def _preload(runtime: Any) -> None:
    """Load CUDA and cuDNN from their wheels, so that no system CUDA is needed."""
    if hasattr(runtime, "preload_dlls"):
        with _runtime_quiet(), contextlib.suppress(Exception):  # what fails shows in `_load_error`
            runtime.preload_dlls()


def _load_error(runtime: Any, provider: Provider) -> str:
    """Why the provider's shared library does not load; empty when it does or is built in."""
    if not provider.library:
        return ""
    import ctypes

    folder = Path(runtime.__file__).parent / "capi"
    for prefix, suffix in (("lib", ".so"), ("", ".dll")):
        library = folder / f"{prefix}{provider.library}{suffix}"
        if library.exists():
            shared = folder / f"{prefix}onnxruntime_providers_shared{suffix}"
            try:
                ctypes.CDLL(str(shared), mode=ctypes.RTLD_GLOBAL)
                ctypes.CDLL(str(library))
            except OSError as error:
                return str(error)
            return ""
    return ""


def _device_of(inner: Any, devices: list[Device]) -> Device:
    """What the session says it uses, which need not be what it was asked to use."""
    first = inner.get_providers()[0]
    return next((device for device in devices if device.provider.name == first), Device(CPU))


def _check_signature(inner: Any, spec: ModelSpec, path: Path) -> ModelSpec:
    """The file's inputs and outputs must fit its description; a user's own file may tell its size itself.

    Raises:
        ModelError: They do not.
    """
    inputs, outputs = inner.get_inputs(), inner.get_outputs()
    source = inputs[0]
    what = f"the model file {path} does not fit {spec.name}"
    if len(inputs) != 1 or len(source.shape) != 4 or source.type not in _TYPES:
        raise ModelError(f"{what}: it wants {[(entry.name, entry.shape, entry.type) for entry in inputs]}")
    if not -len(outputs) <= spec.output < len(outputs):
        raise ModelError(f"{what}: it has {len(outputs)} outputs, number {spec.output} is not among them")
    channels, height, width = source.shape[1:]
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
