"""The installed ONNX Runtime: what it offers, its settings, its memory. The only module that imports onnxruntime."""

from __future__ import annotations

import contextlib
import io
import os
import threading
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cutout import system
from cutout.engines.devices import (
    CPU,
    NVIDIA,
    PROVIDERS,
    Device,
    DeviceRequest,
    Machine,
    choose,
    provider_entry,
    unusable,
)
from cutout.errors import DeviceError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

__all__ = ["LoadedRuntime", "has_accelerator", "installed_packages", "load_runtime", "machine", "quiet", "sparing_runs"]

_PACKAGES = (
    "onnxruntime",
    "onnxruntime-gpu",
    "onnxruntime-openvino",
    "onnxruntime-directml",
    "onnxruntime-migraphx",
    "onnxruntime-rocm",
    "onnxruntime-qnn",
)


def has_accelerator() -> bool:
    """Whether the installed runtime has a device that `auto` may take before the processor."""
    if set(installed_packages()) == {"onnxruntime"}:  # built for processors: no need to load it, which takes 0.1 s
        return False
    with contextlib.suppress(DeviceError):  # whoever opens a model tells it
        available = _runtime().get_available_providers()
        return any(provider.auto and provider != CPU and provider.name in available for provider in PROVIDERS)
    return False


def installed_packages() -> dict[str, str]:
    """The versions of the runtime's distributions that are installed, by name."""
    found = system.distributions()
    return {name: found[name] for name in _PACKAGES if name in found}


def machine() -> Machine:
    """What the installed runtime offers; empty where none is installed."""
    packages = installed_packages()
    try:
        runtime = _runtime()
    except DeviceError:
        return Machine(available=(), packages=packages)
    available = tuple(runtime.get_available_providers())
    errors = {}
    folder = Path(runtime.__file__).parent / "capi"
    for provider in PROVIDERS:
        if provider.library and provider.name in available:
            from cutout.engines.environment import library_error

            if error := library_error(folder, provider.library):
                errors[provider.name] = error
    return Machine(available=available, packages=packages, load_errors=errors)


@dataclass(frozen=True, kw_only=True)
class LoadedRuntime:
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
        if self.devices[0].provider == CPU:
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
        if used.provider == asked.provider and used in self.devices and not self.machine.clash:
            return used
        from cutout.engines.known_errors import why_not

        if used.provider != asked.provider and not said and asked.provider.name not in self.machine.load_errors:
            said = self.reason(asked)
        if used not in self.devices:
            raise unusable(asked, self.request, self.machine, said)
        reason, hint = why_not(asked.provider, self.machine, said)
        if used.provider != asked.provider:
            reason = f"{asked} is installed but cannot be used, running on {used}: {reason}"
        warn(f"{reason} (to mend it: {hint})")
        return used

    def reason(self, device: Device, *, fresh: bool = False) -> str:
        """Why the runtime passes a device over in silence, in its own words; empty where it gives none.

        To find out takes a second process, so the answer is kept for a day; `fresh` asks in any case.
        """
        from cutout.engines.environment import why_passed_over

        name, options = provider_entry(device, self.request)
        options.pop(device.provider.memory_limit, None)  # it follows what is free at the moment
        return why_passed_over((name, options), (self.machine.packages,), fresh=fresh)


def load_runtime(request: DeviceRequest) -> LoadedRuntime:
    """Load the runtime, and what the chosen devices need beside it.

    Raises:
        DeviceError: No runtime, or a strict request for something it does not offer.
    """
    runtime = _runtime()
    here = machine()
    devices = choose(request, here)
    if any(device.provider.device in NVIDIA for device in devices):
        _preload(runtime)
        if any(device.provider.device == "tensorrt" for device in devices):
            from cutout.engines.environment import load_tensorrt

            load_tensorrt()
        here = machine()
    return LoadedRuntime(runtime=runtime, machine=here, request=request, devices=devices)


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
        from cutout.engines.known_errors import explained

        sentence, hint = explained("cpu", error)
        raise DeviceError(
            f"ONNX Runtime is installed but cannot be loaded: {sentence}", hint=hint or "cutout doctor"
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


def sparing_runs(here: LoadedRuntime) -> Any:
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
        with quiet(), contextlib.suppress(Exception):  # what fails shows when the provider is loaded
            runtime.preload_dlls()
