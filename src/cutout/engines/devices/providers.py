"""The choice of ONNX Runtime execution providers: pure functions over what was asked and what the machine offers."""

from __future__ import annotations

import difflib
import json
import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from cutout.engines.devices.table import CPU, MEANT, PROVIDERS, Provider
from cutout.engines.known_errors.recognise import Place, recognise
from cutout.errors import DeviceError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

__all__ = [
    "CPU",
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
    "why_not",
    "with_options",
]


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
        """Which device, as ONNX Runtime wants it in its list of providers, without further options."""
        return self.provider.name, {} if self.index is None else {"device_id": self.index}


@dataclass(frozen=True, kw_only=True, slots=True)
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
    origin: str = "--device"
    further: tuple[int | str, ...] = ()
    options: tuple[tuple[str, str], ...] = ()
    half: bool = False
    cache: Path | None = None
    memory: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """What the installed runtime says of itself.

    Attributes:
        available: Names of the providers the runtime was built with, as it reports them.
        packages: Versions of the installed runtime distributions by name.
        load_errors: Why a provider's shared library does not load, by provider name.
        place: Tells where this process runs; asked when something fails.
    """

    available: tuple[str, ...]
    packages: Mapping[str, str] = field(default_factory=dict)
    load_errors: Mapping[str, str] = field(default_factory=dict)
    place: Callable[[], Place] = Place

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
        near = MEANT.get(name.lower()) or next(iter(difflib.get_close_matches(name.lower(), _BY_DEVICE, 1)), "")
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
        device = parse_device(f"{name}:0")
        return device, ("all",)
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
    origin = "--device"
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
        strict=bool(devices) and all(device.provider is not CPU for device in devices),
        origin="ONNXRUNTIME_EXECUTION_PROVIDERS",
    )


def with_options(request: DeviceRequest, options: Mapping[str, Any]) -> DeviceRequest:
    """The request with options for its provider, as text, which is what ONNX Runtime takes.

    Raises:
        UsageError: No device was named, so that nobody knows whose options they are.
    """
    if not options:
        return request
    if not request.devices or request.devices[0].provider is CPU:
        raise UsageError(
            "--provider-option belongs to a device, and none is named",
            hint="for example: --device cuda --provider-option cudnn_conv_algo_search=EXHAUSTIVE",
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
    if request.devices and provider is request.devices[0].provider:
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
    return _refused(provider, machine, said, install)


def _refused(provider: Provider, machine: Machine, said: str, install: str) -> tuple[str, str]:
    """Why a provider that this runtime has does not work."""
    error = machine.load_errors.get(provider.name, "")
    if (error or said) and (found := recognise(provider.device, error or said, machine.place())) is not None:
        return found.sentence, found.hint
    hint = "see `cutout doctor`"
    if error:
        return f"its library does not load: {error}", install or hint
    if said:
        return f"the runtime refused it: {brief(said)}", hint
    return "the runtime refused it without giving a reason (no such device, or its driver is missing)", hint


def brief(text: str) -> str:
    """What a runtime said without the names of its own functions and files."""
    line = (text.strip().splitlines() or [""])[0]
    found = re.search(r"(?:CUDA|CUDNN|CUBLAS|HIP|MIOPEN|ROCBLAS) failure [^;]+", line)
    return found[0].strip() if found else line if len(line) <= 300 else f"{line[:300]}…"
