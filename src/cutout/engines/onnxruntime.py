"""A model opened by ONNX Runtime."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from cutout.engines import prepared
from cutout.engines.base import TensorEngine, closed, unknown_model_option
from cutout.engines.devices import CPU, provider_entry, unusable
from cutout.engines.runtime import load_runtime, sparing_runs
from cutout.errors import CutoutError, ModelError, OutputError
from cutout.models.files import require
from cutout.models.registry import LARGEST_SIDE, Activation

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from cutout.engines.base import EngineRequest
    from cutout.engines.devices import DeviceRequest
    from cutout.engines.runtime import LoadedRuntime
    from cutout.models.registry import ModelSpec

__all__ = ["OnnxEngine", "faster_copy", "open_file", "open_onnx", "wanted_class"]

_TYPES = {"tensor(float)": "float32", "tensor(float16)": "float16"}
_MASKS = frozenset(
    f"tensor({kind})" for kind in ("float", "float16", "double", "uint8", "int8", "int32", "int64", "bool")
)
"""What an output may hold; sequences, maps and texts are no masks."""
_FILE_FAULTS = frozenset({"InvalidGraph", "InvalidProtobuf", "NoModel", "NoSuchFile"})
"""The runtime's exceptions that no other device would help against."""
_REVISION = 2
"""Counts changes of what `graphs.cpu` writes; part of the names of prepared copies."""


class OnnxEngine(TensorEngine):
    """A model opened by ONNX Runtime.

    Attributes:
        device: The device that the runtime reports after opening.
        wiring: The runtime's session, its input, the wanted output and the input's dtype, for whoever runs it himself.
    """

    def __init__(self, inner: Any, spec: ModelSpec, device: str, wanted_class: str, sparing: Any = None) -> None:
        source = inner.get_inputs()[0]
        self.spec = spec
        self.device = device
        self.wanted_class = wanted_class
        self.wiring = inner, source.name, inner.get_outputs()[spec.output].name, _TYPES[source.type]
        self._sparing = sparing

    def run(self, batch: Any, *, sparing: bool = False) -> Any:
        """See `TensorEngine.run`."""
        inner, source, output, dtype = self.wiring  # as long as this runs it lives, whoever closes it meanwhile
        if inner is None:
            raise closed(self.spec)
        try:
            values = {source: batch.astype(dtype, copy=False)}
            return inner.run([output], values, self._sparing if sparing else None)[0]
        except Exception as error:  # the runtime's exceptions share no base
            raise CutoutError(f"{self.spec.name} failed on {self.device}: {_first_line(error)}") from error

    def close(self) -> None:
        """See `Engine.close`."""
        self.wiring = None, *self.wiring[1:]


def open_onnx(request: EngineRequest, warn: Callable[[str], None]) -> OnnxEngine:
    """Open a model on the processor; see `base.open_engine`."""
    return open_file(
        require(request.spec),
        request.spec,
        request.asked,
        threads=request.threads,
        model_options=request.model_options,
        warn=warn,
    )


def open_file(
    path: Path,
    spec: ModelSpec,
    request: DeviceRequest,
    *,
    threads: int,
    model_options: Mapping[str, Any] | None = None,
    warn: Callable[[str], None] = lambda _text: None,
) -> OnnxEngine:
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
    chosen_class = wanted_class(spec, dict(model_options or {}))
    here = load_runtime(request)
    faster = faster_copy(path, spec, here)
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
    return OnnxEngine(inner, spec, str(used), chosen_class, sparing_runs(here) if used.provider == CPU else None)


def _open(path: Path, here: LoadedRuntime, settings: Any) -> tuple[Any, str]:
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
            if left[0].provider == CPU or type(error).__name__ in _FILE_FAULTS:
                raise ModelError(
                    f"the model file {path} cannot be opened: {_first_line(error)}",
                    hint="it is no ONNX model, or needs a newer onnxruntime",
                ) from error
            left = left[1:]
            if not left:
                raise unusable(here.devices[0], here.request, here.machine, said) from error


def faster_copy(path: Path, spec: ModelSpec, here: LoadedRuntime) -> Path | None:
    """A copy of the graph that is faster on a CPU, made once per model and runtime and kept; None where there is none.

    An empty file says that there is nothing to gain. Two runs that make it at once each move a whole file into place.
    """
    if not spec.sha256 or here.devices[0].provider != CPU:
        return None
    stem = f"{spec.sha256[:16]}-{here.runtime.__version__}-{_REVISION}"
    if (found := prepared.kept(stem, ".onnx")) is None:
        from cutout.engines.graphs.cpu import rewrite
        from cutout.engines.graphs.onnx_bytes import UnknownGraphError

        try:
            edited, counts = rewrite(_folded(path, here))
            found = prepared.keep(stem, ".onnx", edited if counts else b"")
        except (OSError, OutputError, UnknownGraphError):
            # best effort: without a place to keep it, or with a graph that is not understood, the file serves as it is
            return None
    try:
        return found if found.stat().st_size else None
    except OSError:  # removed meanwhile
        return None


def _folded(path: Path, here: LoadedRuntime) -> bytes:
    """The graph with its constants folded by the runtime."""
    import tempfile
    from pathlib import Path

    from cutout.engines.graphs.onnx_bytes import UnknownGraphError

    settings = here.settings(1)
    settings.graph_optimization_level = here.runtime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    with tempfile.TemporaryDirectory(prefix="cutout-") as folder:
        settings.optimized_model_filepath = str(target := Path(folder) / "folded.onnx")
        try:
            here.runtime.InferenceSession(str(path), sess_options=settings, providers=[CPU.name])
        except Exception as error:  # the runtime's exceptions share no base; opening the model itself will tell
            raise UnknownGraphError(_first_line(error)) from error
        return target.read_bytes()


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
    for side in (height, width):
        if isinstance(side, int) and not 1 <= side <= LARGEST_SIDE:
            raise ModelError(f"{what}: it wants pictures of {width}×{height} pixels; sides lie in 1–{LARGEST_SIDE}")
    wanted = outputs[spec.output]
    if wanted.type not in _MASKS or len(wanted.shape) not in {2, 3, 4}:
        raise ModelError(
            f"{what}: its output {wanted.name} is {wanted.type} of shape {wanted.shape}, which is no mask",
            hint="output in model_config chooses another one",
            options=("model_config",),
        )
    fixed = (height, width) if isinstance(height, int) and isinstance(width, int) else None
    if fixed is None or fixed == spec.size:
        return spec
    if spec.path is None:
        raise ModelError(f"{what}: it wants {fixed[0]}×{fixed[1]} pixels")
    from dataclasses import replace

    return replace(spec, size=fixed)


def wanted_class(spec: ModelSpec, options: dict[str, Any]) -> str:
    """The class of a model with classes that the model's own options name.

    Raises:
        UsageError: An unknown option or class.
    """
    known = ("all", *spec.classes) if spec.activation is Activation.ARGMAX else ()
    wanted = str(options.pop("class", "all"))
    if options or (wanted != "all" and wanted not in known):
        text = ", ".join(f"{key}={value}" for key, value in options.items()) or f"class={wanted}"
        hint = f"known: class={'|'.join(known)}" if known else f"{spec.name} has none"
        raise unknown_model_option(text, hint)
    return wanted


def _first_line(error: BaseException) -> str:
    from cutout.engines.known_errors import first_line

    return first_line(error)
