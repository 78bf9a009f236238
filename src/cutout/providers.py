"""The choice of ONNX Runtime execution providers: pure functions over what was asked and what the machine offers."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cutout.errors import DeviceError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "CPU",
    "PROVIDERS",
    "Device",
    "DeviceRequest",
    "Machine",
    "Provider",
    "choose",
    "request_device",
    "why_not",
]


@dataclass(frozen=True, kw_only=True, slots=True)
class Provider:
    """One execution provider of ONNX Runtime.

    Attributes:
        device: The word for `--device`.
        name: ONNX Runtime's name.
        extra: The extra of this package that installs it; empty when there is none.
        library: Stem of its shared library inside the runtime's package; empty when it is built in.
        indexed: Whether `device:N` chooses one of several.
        auto: Whether `auto` may take it.
    """

    device: str
    name: str
    extra: str = ""
    library: str = ""
    indexed: bool = False
    auto: bool = False


CPU = Provider(device="cpu", name="CPUExecutionProvider", extra="cpu", auto=True)

PROVIDERS: tuple[Provider, ...] = (  # `auto` tries them in this order
    Provider(
        device="cuda",
        name="CUDAExecutionProvider",
        extra="gpu",
        library="onnxruntime_providers_cuda",
        indexed=True,
        auto=True,
    ),
    Provider(
        device="tensorrt",
        name="TensorrtExecutionProvider",
        extra="gpu",
        library="onnxruntime_providers_tensorrt",
        indexed=True,
    ),
    Provider(device="migraphx", name="MIGraphXExecutionProvider", indexed=True, auto=True),
    Provider(device="rocm", name="ROCMExecutionProvider", indexed=True, auto=True),
    Provider(device="directml", name="DmlExecutionProvider", indexed=True, auto=True),
    Provider(device="openvino", name="OpenVINOExecutionProvider", extra="openvino"),
    Provider(device="coreml", name="CoreMLExecutionProvider"),
    Provider(device="qnn", name="QNNExecutionProvider"),
    CPU,
)

_BY_DEVICE = {provider.device: provider for provider in PROVIDERS}
_BY_NAME = {provider.name: provider for provider in PROVIDERS}


@dataclass(frozen=True, slots=True)
class Device:
    """One device that can be asked for: a provider and, where there are several, which."""

    provider: Provider
    index: int | None = None

    def __str__(self) -> str:
        return self.provider.device if self.index is None else f"{self.provider.device}:{self.index}"

    @property
    def entry(self) -> tuple[str, dict[str, Any]]:
        """What ONNX Runtime wants in its list of providers."""
        return self.provider.name, {} if self.index is None else {"device_id": self.index}


@dataclass(frozen=True, kw_only=True, slots=True)
class DeviceRequest:
    """What was asked for.

    Attributes:
        devices: In order of preference; empty means `auto`.
        strict: Fail rather than use something that was not asked for.
        origin: Who asked, for messages.
    """

    devices: tuple[Device, ...] = ()
    strict: bool = False
    origin: str = "--device"


@dataclass(frozen=True, kw_only=True, slots=True)
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
        found = tuple(sorted(self.packages))
        return found if len(found) > 1 else ()


def parse_device(text: str) -> Device:
    """`cpu`, `cuda`, `cuda:1`, or an ONNX Runtime provider name.

    Raises:
        UsageError: No such device.
    """
    name, _, index = text.strip().partition(":")
    provider = _BY_DEVICE.get(name.lower()) or _BY_NAME.get(name)
    if provider is None:
        raise UsageError(
            f"there is no device {text!r}", hint=f"known: auto, {', '.join(_BY_DEVICE)}; a second card is cuda:1"
        )
    if not index:
        return Device(provider)
    if not provider.indexed or not index.isdecimal():
        raise UsageError(f"device {text!r} has an index that makes no sense", hint="for example: cuda:0")
    return Device(provider, int(index))


def request_device(asked: str | None, environ: Mapping[str, str]) -> DeviceRequest:
    """The request from an explicit word, else `CUTOUT_DEVICE`, else `ONNXRUNTIME_EXECUTION_PROVIDERS`, else auto.

    The last is a list of provider names (comma separated or JSON), an order of preference as the runtime's own lists
    are: it is strict only when it leaves the CPU out.

    Raises:
        UsageError: An unknown device.
    """
    origin = "--device"
    if not asked:
        asked, origin = environ.get("CUTOUT_DEVICE"), "CUTOUT_DEVICE"
    if asked and asked.strip().lower() != "auto":
        return DeviceRequest(devices=(parse_device(asked),), strict=True, origin=origin)
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
        strict=bool(devices) and all(device.provider is not CPU for device in devices),
        origin="ONNXRUNTIME_EXECUTION_PROVIDERS",
    )


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
    if all(device.provider is not CPU for device in offered):
        offered.append(Device(CPU))
    return offered


def unusable(device: Device, request: DeviceRequest, machine: Machine, said: str = "") -> DeviceError:
    """The error for a device that was asked for and cannot be used; `said` is what the runtime said, if anything."""
    reason, hint = why_not(device.provider, machine, said)
    return DeviceError(f"{request.origin} {device} cannot be used: {reason}", hint=hint)


def why_not(provider: Provider, machine: Machine, said: str = "") -> tuple[str, str]:
    """Why a provider cannot be used, and what to do: (reason, hint).

    Args:
        provider: It was asked for, or would have been taken.
        machine: What the runtime says of itself.
        said: What the runtime said when it refused to open a model on it, if anything.
    """
    install = f'pip install "cutout-cli[{provider.extra}]"' if provider.extra else ""
    if not machine.packages and not machine.available:
        return "ONNX Runtime is not installed", install or 'pip install "cutout-cli[cpu]"'
    if machine.clash:
        both = " and ".join(machine.clash)
        return (
            f"{both} are both installed and overwrite each other's files",
            f"pip uninstall -y {' '.join(machine.clash)} && {install or 'install the one you need'}",
        )
    if provider.name not in machine.available:
        have = ", ".join(f"{name} {version}" for name, version in machine.packages.items()) or "the installed runtime"
        hint = f"pip uninstall -y {' '.join(machine.packages)} && {install}" if install else "see `cutout doctor`"
        return f"{have} was built without {provider.name}", hint
    if error := machine.load_errors.get(provider.name):
        return f"its library does not load: {error}", _library_hint(provider, install)
    if said:
        return f"the runtime refused it: {said}", "see `cutout doctor`"
    return (
        "the runtime refused it without giving a reason (no such device, or its driver is missing)",
        "see `cutout doctor`",
    )


def _library_hint(provider: Provider, install: str) -> str:
    if provider.device in {"cuda", "tensorrt"}:
        return f"{install} brings CUDA and cuDNN; the NVIDIA driver must be there already (try nvidia-smi)"
    return install or "see `cutout doctor`"
