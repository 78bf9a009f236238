"""A model in bfloat16 on a CPU, with the layers that do not bear it in float32. The only module that imports openvino.

bfloat16 keeps 8 bits of a float's mantissa. Processors that multiply it (`avx512_bf16`, `amx_bf16`) do so two to
sixteen times as fast as float32, and most of a network's layers do not feel the difference. `models.Reduced` names the
layers that do; without them the masks are 2–10% worse.
"""

from __future__ import annotations

import contextlib
import hashlib
import sys
import tempfile
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

from cutout.engines import prepared
from cutout.engines.base import TensorEngine, closed, unknown_model_option
from cutout.engines.devices import CPU
from cutout.engines.known_errors import first_line
from cutout.enums import Precision
from cutout.errors import CutoutError, DeviceError, ModelError, UsageError
from cutout.models.files import require
from cutout.models.registry import MODELS
from cutout.system import usable_cpus

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cutout.engines.base import EngineRequest
    from cutout.models.registry import ModelSpec

__all__ = ["OpenVinoEngine", "no_reduced", "open_reduced"]

_REVISION = 1
"""Counts changes of what `_mixed` makes; part of the key of cached files."""
_INSTALL = 'pip install "cutout-cli[reduced]"'
_LEAVE_OUT = "leave out precision reduced"
_RESIZE_ATTRIBUTES = (
    "mode",
    "shape_calculation_mode",
    "coordinate_transformation_mode",
    "nearest_mode",
    "antialias",
    "pads_begin",
    "pads_end",
    "cube_coeff",
)


class OpenVinoEngine(TensorEngine):
    """A model that OpenVINO runs in bfloat16, always on the CPU."""

    device = CPU.device
    engine = "openvino"
    precision = Precision.REDUCED

    def __init__(self, compiled: Any, spec: ModelSpec) -> None:
        self._compiled = compiled
        self._idle: deque[Any] = deque()  # requests, each with its own memory: as many as ran at once
        self.spec = spec

    def run(self, batch: Any, *, sparing: bool = False) -> Any:  # noqa: ARG002 - OpenVINO keeps what it needs
        """See `TensorEngine.run`."""
        compiled = self._compiled
        if compiled is None:
            raise closed(self.spec)
        try:
            request = self._idle.pop()
        except IndexError:
            request = None
        try:
            request = request or compiled.create_infer_request()
            output = request.infer({0: batch}, share_inputs=True)[0]
        except Exception as error:  # the runtime's exceptions share no base
            raise CutoutError(f"{self.spec.name} failed in reduced precision: {first_line(error)}") from error
        if self._compiled is not None:
            self._idle.append(request)
        return output

    def close(self) -> None:
        """See `Engine.close`."""
        self._compiled = None
        self._idle.clear()


def no_reduced(name: str) -> UsageError:
    """What to say where a model has no variant of reduced precision."""
    known = ", ".join(model for model, spec in MODELS.items() if spec.reduced)
    return UsageError(
        f"precision reduced is not there for {name}: only what was measured to be as good is offered",
        hint=f"models that have it: {known}; for others {_LEAVE_OUT}",
        options=("precision",),
    )


def _check(request: EngineRequest) -> None:
    """What can be refused before anything is loaded."""
    spec, asked = request.spec, request.asked
    if spec.reduced is None:
        raise no_reduced(str(spec.path or spec.name))
    if request.model_options:
        text = ", ".join(f"{key}={value}" for key, value in request.model_options.items())
        raise unknown_model_option(text, f"{spec.name} has none")
    if asked.devices and all(device.provider != CPU for device in asked.devices):
        raise UsageError(
            f"precision reduced runs on the CPU, but {asked.origin} says {asked.devices[0]}",
            hint=f"device cpu, or {_LEAVE_OUT}",
            options=("precision", "device"),
        )


def open_reduced(request: EngineRequest, _warn: Callable[[str], None]) -> OpenVinoEngine:
    """Open a model in bfloat16, but for the layers that its description names; see `base.open_engine`.

    Raises:
        UsageError: The model has no variant of reduced precision or no such options, or another device is asked for.
        DeviceError: OpenVINO is missing, the processor computes no bfloat16, or OpenVINO would not do as told.
    """
    _check(request)
    spec, path = request.spec, require(request.spec)
    runtime = _runtime()
    core = runtime.Core()
    if "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise DeviceError(
            "this processor has no bfloat16 (avx512_bf16 or amx_bf16): reduced precision would gain nothing",
            hint=_LEAVE_OUT,
        )
    streams = max(1, min(request.jobs, usable_cpus()))
    settings = {
        "INFERENCE_PRECISION_HINT": "bf16",
        "NUM_STREAMS": streams,
        "INFERENCE_NUM_THREADS": streams * request.threads,
        "ENABLE_CPU_PINNING": False,  # two runs would pin themselves to the same processors
    }
    cached = _cached(runtime, core, spec)
    with contextlib.suppress(Exception):  # one that is refused all the same is replaced
        if (copy := prepared.kept(cached, ".blob")) is not None:
            return OpenVinoEngine(core.import_model(copy.read_bytes(), "CPU", settings), spec)
    try:
        compiled = core.compile_model(_mixed(runtime, core, path, spec), "CPU", settings)
    except Exception as error:  # the runtime's exceptions share no base
        raise ModelError(f"the model file {path} cannot be opened by OpenVINO: {first_line(error)}") from error
    _check_precisions(compiled, spec, runtime.__version__)
    with contextlib.suppress(Exception):  # best effort: without a place to keep it, the next run compiles again
        content = compiled.export_model()
        prepared.keep(cached, ".blob", content.getvalue() if hasattr(content, "getvalue") else bytes(content))
    return OpenVinoEngine(compiled, spec)


def _runtime() -> Any:
    with _no_telemetry():
        try:
            import openvino
            import openvino.utils.node_factory
        except ImportError as error:
            if isinstance(error, ModuleNotFoundError) and (error.name or "").partition(".")[0] == "openvino":
                raise DeviceError(
                    "precision reduced needs OpenVINO, which is not installed", hint=_INSTALL, options=("precision",)
                ) from None
            raise DeviceError(f"OpenVINO is installed but cannot be loaded: {error}", hint=_INSTALL) from error
    return openvino


@contextlib.contextmanager
def _no_telemetry() -> Iterator[None]:
    """Hide the package through which OpenVINO reports to its maker that it was imported; it does without."""
    name = "openvino_telemetry"
    if name in sys.modules:  # somebody else's choice
        yield
        return
    # Python's own way to say that there is no such module
    sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[name]


def _mixed(runtime: Any, core: Any, path: Path, spec: ModelSpec) -> Any:
    """The model with its chosen output alone, and the marks that keep layers in float32.

    A mark is an object of OpenVINO's C++ side that Python cannot make; reading a file can. So the model is written in
    OpenVINO's own format, marked, and read again.
    """
    assert spec.reduced is not None  # noqa: S101 - checked before
    read = core.read_model(path)
    model = runtime.Model([read.outputs[spec.output].get_node()], read.get_parameters())
    for node in model.get_ops():
        if node.friendly_name in spec.reduced.exact and node.get_type_info().name == "Interpolate":
            _replace_resize(runtime, node)
    with tempfile.TemporaryDirectory(prefix="cutout-openvino-") as folder:
        target = Path(folder) / "model.xml"
        runtime.serialize(model, str(target))
        tree = ET.parse(target)  # noqa: S314 - written a line above
        for layer in tree.iter("layer"):
            if _layer(layer.get("name", "")) in spec.reduced.exact:
                _mark(layer)
        # given as bytes, so that nothing holds on to the folder
        return core.read_model(ET.tostring(tree.getroot()), target.with_suffix(".bin").read_bytes())


def _replace_resize(runtime: Any, node: Any) -> None:
    """Newer kinds of `Interpolate` are rewritten to that of opset 4 while compiling, and lose their mark on the way."""
    import numpy as np

    factory = runtime.utils.node_factory.NodeFactory("opset4")
    before, after = list(node.get_input_shape(0)), list(node.get_output_shape(0))
    scales = np.array([new / old for new, old in zip(after, before, strict=True)], np.float32)
    constants = [runtime.op.Constant(values).output(0) for values in (np.array(after, np.int64), scales)]
    attributes = {name: value for name, value in node.get_attributes().items() if name in _RESIZE_ATTRIBUTES}
    new = factory.create("Interpolate", [node.input_value(0), *constants], attributes)
    new.set_friendly_name(node.friendly_name)
    node.output(0).replace(new.output(0))


def _mark(layer: ET.Element) -> None:
    info = layer.find("rt_info")
    if info is None:
        info = ET.Element("rt_info")
        layer.insert(0 if layer.find("data") is None else 1, info)
    ET.SubElement(info, "attribute", name="precise", version="0")


def _layer(name: str) -> str:
    """The ONNX node of one of OpenVINO's: a convolution with a bias becomes `NAME/WithoutBiases` and `NAME`."""
    return name.partition("/")[0]


def _check_precisions(compiled: Any, spec: ModelSpec, version: str) -> None:
    """Read back what really runs: OpenVINO ignores a mark that it does not know.

    Raises:
        DeviceError: A layer runs in bfloat16 that must not.
    """
    assert spec.reduced is not None  # noqa: S101 - checked before
    found: dict[str, str] = {}
    for node in compiled.get_runtime_model().get_ops():
        info = {key: str(getattr(value, "value", value)) for key, value in node.get_rt_info().items()}
        for name in info.get("originalLayersNames", "").split(","):
            found[_layer(name)] = info.get("runtimePrecision", "")
    wrong = [name for name in spec.reduced.exact if found.get(name) != "f32"]
    if wrong or "bf16" not in found.values():
        raise DeviceError(
            f"OpenVINO {version} does not mix float32 and bfloat16 as told ({', '.join(wrong) or 'no bfloat16'}): "
            "masks would be worse, or no faster",
            hint=f"{_INSTALL} --upgrade, or {_LEAVE_OUT}",
            options=("precision",),
        )


def _cached(runtime: Any, core: Any, spec: ModelSpec) -> str:
    """Under which name the compiled model is kept: one for each model, version of OpenVINO and kind of processor."""
    facts = (runtime.get_version(), core.get_property("CPU", "FULL_DEVICE_NAME"), repr(spec.reduced), spec.output)
    key = hashlib.sha256(repr(facts).encode()).hexdigest()[:16]
    return f"openvino/{spec.sha256[:16]}-{key}-{_REVISION}"
