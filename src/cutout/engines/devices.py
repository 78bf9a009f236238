"""Devices as data: the table of ONNX Runtime's execution providers, what is asked for, and what a machine offers."""

from __future__ import annotations

import difflib
import json
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from cutout.errors import DeviceError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = [
    "CPU",
    "NVIDIA",
    "PROVIDERS",
    "Device",
    "DeviceRequest",
    "Machine",
    "Provider",
    "choose",
    "named_device",
    "parse_device",
    "provider_entry",
    "request_device",
    "unusable",
    "with_options",
]


class Provider(NamedTuple):
    """One execution provider of ONNX Runtime.

    Attributes:
        device: The word for `--device`.
        name: ONNX Runtime's name.
        extra: The extra of this package that installs it; empty when there is none.
        library: Stem of its shared library inside the runtime's package; empty when it is built in.
        indexed: Whether `device:N` chooses one of several.
        auto: Whether `auto` may take it.
        options: What it is given unless the user says otherwise.
        half: What makes it compute in half precision; empty where it cannot by an option.
        half_graph: It computes in half precision what the graph has in half precision.
        cache: Options that take the folder for compiled models; empty where it compiles none.
        memory_limit: The option that limits its memory, in bytes; empty where there is none.
        memory: ONNX Runtime's word for its memory, where inputs and outputs can be bound to it.
        alone: It is given to one thread at a time, which batches are for; the others work like a processor.
        compiles: It compiles the model anew for each size of batch, so that measuring sizes would take minutes.
    """

    device: str
    name: str
    extra: str = ""
    library: str = ""
    indexed: bool = False
    auto: bool = False
    options: tuple[tuple[str, str], ...] = ()
    half: tuple[tuple[str, str], ...] = ()
    half_graph: bool = False
    cache: tuple[str, ...] = ()
    memory_limit: str = ""
    memory: str = ""
    alone: bool = False
    compiles: bool = False


CPU = Provider("cpu", "CPUExecutionProvider", extra="cpu", auto=True)

PROVIDERS: tuple[Provider, ...] = (  # `auto` tries them in this order
    Provider(
        "cuda",
        "CUDAExecutionProvider",
        extra="gpu",
        library="onnxruntime_providers_cuda",
        indexed=True,
        auto=True,
        options=(
            # trying every algorithm of every convolution (the runtime's default) takes seconds at each start
            ("cudnn_conv_algo_search", "HEURISTIC"),
            # doubling the arena each time it grows takes twice the memory of what is needed
            ("arena_extend_strategy", "kSameAsRequested"),
            # ten bits of mantissa are seen in masks; who wants the speed says so
            ("use_tf32", "0"),
        ),
        memory_limit="gpu_mem_limit",
        memory="cuda",
        alone=True,
        half_graph=True,
    ),
    Provider(
        "tensorrt",
        "TensorrtExecutionProvider",
        extra="gpu",
        library="onnxruntime_providers_tensorrt",
        indexed=True,
        options=(("trt_engine_cache_enable", "1"), ("trt_timing_cache_enable", "1")),
        half=(("trt_fp16_enable", "1"),),
        cache=("trt_engine_cache_path", "trt_timing_cache_path"),
        memory="cuda",
        alone=True,
        compiles=True,
    ),
    Provider(
        "migraphx",
        "MIGraphXExecutionProvider",
        indexed=True,
        auto=True,
        half=(("migraphx_fp16_enable", "1"),),
        cache=("migraphx_model_cache_dir",),
        alone=True,
        compiles=True,
    ),
    Provider(
        "rocm",
        "ROCMExecutionProvider",
        indexed=True,
        auto=True,
        options=(("arena_extend_strategy", "kSameAsRequested"),),
        memory_limit="gpu_mem_limit",
        alone=True,
        half_graph=True,
    ),
    Provider("directml", "DmlExecutionProvider", indexed=True, auto=True, alone=True, half_graph=True),
    Provider(
        "openvino",
        "OpenVINOExecutionProvider",
        extra="openvino",
        library="onnxruntime_providers_openvino",
        # without these two it computes in bfloat16 or half precision where the processor or card can
        options=(("device_type", "CPU"), ("precision", "FP32")),
        compiles=True,
    ),
    Provider(
        "coreml",
        "CoreMLExecutionProvider",
        options=(("ModelFormat", "MLProgram"), ("MLComputeUnits", "ALL")),
        cache=("ModelCacheDirectory",),
        compiles=True,
    ),
    Provider(
        "qnn",
        "QNNExecutionProvider",
        options=(("backend_type", "htp"),),
        half=(("enable_htp_fp16_precision", "1"),),
        compiles=True,
    ),
    CPU,
)

NVIDIA = frozenset({"cuda", "tensorrt"})

_MEANT = {  # what people type for want of the right word
    word: device
    for device, words in {
        "cuda": "gpu nvidia cudnn geforce rtx",
        "tensorrt": "trt",
        "migraphx": "amd radeon hip",
        "openvino": "intel arc",
        "directml": "dml dx12 windows",
        "coreml": "apple mps metal ane",
        "qnn": "npu snapdragon",
        "cpu": "none x86",
    }.items()
    for word in words.split()
}
_BY_DEVICE = {provider.device: provider for provider in PROVIDERS}
_BY_NAME = {provider.name: provider for provider in PROVIDERS}


@dataclass(frozen=True)
class Device:
    """One device that can be asked for: a provider and, where there are several, which."""

    provider: Provider
    index: int | None = None

    def __str__(self) -> str:
        return self.provider.device if self.index is None else f"{self.provider.device}:{self.index}"

    @property
    def entry(self) -> tuple[str, dict[str, Any]]:
        """Which device, as ONNX Runtime wants it in its list of providers, without further options."""
        return self.provider.name, {} if self.index is None else {"device_id": self.index}


@dataclass(frozen=True, kw_only=True)
class DeviceRequest:
    """What was asked for.

    Attributes:
        devices: In order of preference; empty means `auto`.
        strict: Fail rather than use something that was not asked for.
        origin: Who asked, for messages.
        further: Numbers of further cards of the first device that work beside it; ("all",) for as many as there are.
        options: What the user wants the provider to be told.
        half: Compute in half precision where the provider can.
        cache: Folder for compiled models; None keeps none.
        memory: Bytes of the device's memory that may be used; None leaves it to the runtime.
    """

    devices: tuple[Device, ...] = ()
    strict: bool = False
    origin: str = "device"
    further: tuple[int | str, ...] = ()
    options: tuple[tuple[str, str], ...] = ()
    half: bool = False
    cache: Path | None = None
    memory: int | None = None


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What the installed runtime says of itself.

    Attributes:
        available: Names of the providers the runtime was built with, as it reports them.
        packages: Versions of the installed runtime distributions by name.
        load_errors: Why a provider's shared library does not load, by provider name.
    """

    available: tuple[str, ...]
    packages: Mapping[str, str] = field(default_factory=dict)
    load_errors: Mapping[str, str] = field(default_factory=dict)

    @property
    def clash(self) -> tuple[str, ...]:
        """The runtime packages that overwrite each other's files, when more than one is installed."""
        return tuple(sorted(self.packages)) if len(self.packages) > 1 else ()

    @property
    def runtime(self) -> str:
        """Name and version of the installed runtime, for messages."""
        return next((f"{name} {version}" for name, version in self.packages.items()), "onnxruntime-gpu")


def parse_device(text: str) -> Device:
    """`cpu`, `cuda`, `cuda:1`, or an ONNX Runtime provider name.

    Raises:
        UsageError: No such device.
    """
    name, _, index = text.strip().partition(":")
    provider = _BY_DEVICE.get(name.lower()) or _BY_NAME.get(name)
    if provider is None:
        near = _MEANT.get(name.lower()) or next(iter(difflib.get_close_matches(name.lower(), _BY_DEVICE, 1)), "")
        raise UsageError(
            f"there is no device {text!r}",
            hint=(f"did you mean {near}? " if near else "")
            + f"known: auto, {', '.join(_BY_DEVICE)}; a second card is cuda:1",
        )
    if not index:
        return Device(provider)
    if not provider.indexed or not index.isdecimal():
        raise UsageError(f"device {text!r} has an index that makes no sense", hint="for example: cuda:0")
    return Device(provider, int(index))


def named_device(text: str) -> tuple[Device, tuple[int | str, ...]]:
    """A device and the numbers of further cards: `cuda:0,1` and `cuda:all` are several cards that work together.

    Raises:
        UsageError: No such device, or a card named twice.
    """
    name, sign, indexes = text.strip().partition(":")
    if indexes.strip().lower() == "all":
        return parse_device(f"{name}:0"), ("all",)
    first, *rest = indexes.split(",")
    device = parse_device(name + sign + first.strip())
    further = tuple(parse_device(f"{name}:{index.strip() or 'nothing'}").index or 0 for index in rest)
    if len({device.index or 0, *further}) <= len(further):
        raise UsageError(f"device {text!r} names a card twice", hint="for example: cuda:0,1")
    return device, further


def request_device(asked: str | None, environ: Mapping[str, str]) -> DeviceRequest:
    """The request from an explicit word, else `CUTOUT_DEVICE`, else `ONNXRUNTIME_EXECUTION_PROVIDERS`, else auto.

    The last is a list of provider names (comma separated or JSON), an order of preference as the runtime's own lists
    are: it is strict only when it leaves the CPU out.

    Raises:
        UsageError: An unknown device.
    """
    origin = "device"
    if not asked:
        asked, origin = environ.get("CUTOUT_DEVICE"), "CUTOUT_DEVICE"
    if asked and asked.strip().lower() != "auto":
        device, further = named_device(asked)
        return DeviceRequest(devices=(device,), strict=True, origin=origin, further=further)
    listed = environ.get("ONNXRUNTIME_EXECUTION_PROVIDERS", "").strip()
    if asked or not listed:
        return DeviceRequest()
    try:
        names = json.loads(listed) if listed.startswith("[") else listed.split(",")
        devices = tuple(parse_device(str(name)) for name in names if str(name).strip())
    except ValueError as error:
        raise UsageError(f"ONNXRUNTIME_EXECUTION_PROVIDERS is not a list of providers: {listed!r}") from error
    return DeviceRequest(
        devices=devices,
        strict=bool(devices) and all(device.provider != CPU for device in devices),
        origin="ONNXRUNTIME_EXECUTION_PROVIDERS",
    )


def with_options(request: DeviceRequest, options: Mapping[str, Any] | None) -> DeviceRequest:
    """The request with options for its provider, as text, which is what ONNX Runtime takes.

    Raises:
        UsageError: No device was named, so that nobody knows whose options they are.
    """
    if not options:
        return request
    if not request.devices or request.devices[0].provider == CPU:
        raise UsageError(
            "provider_option belongs to a device, and none is named",
            hint="for example: cuda, with provider_option cudnn_conv_algo_search=EXHAUSTIVE",
            options=("provider_option",),
        )
    texts = {key: str(int(value)) if isinstance(value, bool) else str(value) for key, value in options.items()}
    return replace(request, options=tuple(texts.items()))


def provider_entry(device: Device, request: DeviceRequest) -> tuple[str, dict[str, Any]]:
    """A device with all its options, as ONNX Runtime wants it in its list of providers.

    The user's own count before what follows from the request, and that before the provider's defaults.
    """
    provider = device.provider
    options: dict[str, Any] = dict(provider.options)
    if request.half:
        options |= provider.half
    if request.cache is not None:
        options |= dict.fromkeys(provider.cache, str(request.cache / provider.device))
    if request.memory is not None and provider.memory_limit:
        options[provider.memory_limit] = str(request.memory)
    options |= device.entry[1]
    if request.devices and provider == request.devices[0].provider:
        options |= request.options
    return provider.name, options


def choose(request: DeviceRequest, machine: Machine) -> list[Device]:
    """The devices to open a session with, best first; the CPU comes last unless the request is strict.

    Raises:
        DeviceError: A strict request for something this runtime does not offer; the message says why.
    """
    wanted = request.devices or tuple(Device(provider) for provider in PROVIDERS if provider.auto)
    offered = [device for device in wanted if device.provider.name in machine.available]
    if request.strict:
        if not offered:
            raise unusable(wanted[0], request, machine)
        return offered
    if all(device.provider != CPU for device in offered):
        offered.append(Device(CPU))
    return offered


def unusable(device: Device, request: DeviceRequest, machine: Machine, said: str = "") -> DeviceError:
    """The error for a device that was asked for and cannot be used; `said` is what the runtime said, if anything."""
    from cutout.engines.known_errors import why_not

    reason, hint = why_not(device.provider, machine, said)
    options = ("device",) if request.origin == "device" else ()
    return DeviceError(f"{request.origin} {device} cannot be used: {reason}", hint=hint, options=options)
