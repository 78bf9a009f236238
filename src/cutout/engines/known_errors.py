"""What a runtime says when a device fails → one sentence and the command that mends it.

The rows are what was met in the wild: with NVIDIA's parts, with packages installed over each other, with full memory.
Any other text is passed on as the runtime said it. `tests/engines/device_failures.json` holds a real one for every row.
Imported only when there is an error to explain.
"""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

from cutout.engines.devices import NVIDIA
from cutout.engines.environment import Place, look

if TYPE_CHECKING:
    from cutout.engines.devices import Machine, Provider

__all__ = ["FAULTS", "Fault", "Finding", "explained", "first_line", "is_out_of_memory", "recognise", "why_not"]


class Fault(NamedTuple):
    """One row: symptoms and what to say.

    Attributes:
        key: A stable word for scripts.
        symptoms: Regular expressions, one of which must be found; their named groups may be used in sentence and hint,
            as may `runtime`, `driver`, `have` (CUDA versions that are installed) and `extra`.
        sentence: What is wrong, as a format string.
        hint: What mends it, as a format string.
        where: `container`, `wsl`, `driver` (one is there), `other-cuda` (CUDA of another major version is installed):
            the row counts only there.
        every: It concerns every device; others NVIDIA's alone.
    """

    key: str
    symptoms: tuple[str, ...]
    sentence: str
    hint: str
    where: str = ""
    every: bool = False


class Finding(NamedTuple):
    """A recognised fault; its key is a stable word for scripts."""

    key: str
    sentence: str
    hint: str


_DOCTOR = "see `cutout doctor` and docs/devices.md"
_GPU = 'pip install --upgrade "cutout-cli[gpu]"'
_BRINGS = f"{_GPU} brings them as Python packages; only the driver must be there already"


def _missing(libraries: str) -> str:
    """A library that is missing, as the loaders of Linux and of Windows name it."""
    return (
        rf"(?:lib(?:{libraries})[\w.-]*?\.so(?:\.(?P<major>\d+))?[\d.]*: cannot open shared object file"
        rf"|\"?(?:{libraries})\w*64_(?P<winmajor>\d+)\w*\.dll\"? which is missing"
        rf"|(?:{libraries})\w*64_(?P<winmajor2>\d+)\w*\.dll.{{0,20}}not found)"
    )


_CUDA_LIBRARY = _missing("cublasLt|cublas|cudart|nvrtc|nvJitLink")
_NO_DEVICE = (
    r"libcuda\.so\.1: cannot open shared object file|nvcuda\.dll|CUDA (?:failure|error) 100\b"
    r"|no CUDA-capable device is detected|cudaErrorNoDevice"
)
_OLD_DRIVER = r"CUDA (?:failure|error) 35\b|CUDA driver version is insufficient|cudaErrorInsufficientDriver"

FAULTS: tuple[Fault, ...] = (  # the first row that fits counts
    Fault(
        "damaged",
        (
            r"cannot import name '\w+' from (?:partially initialized module )?'onnxruntime",
            r"module 'onnxruntime[\w.]*' has no attribute",
            r"No module named 'onnxruntime\.capi",
            r"undefined symbol: \w*(?:onnxruntime|Ort)\w*",
            r"libonnxruntime_providers_shared\.so: cannot open",
            r"onnxruntime_providers_shared\.dll",
        ),
        "the onnxruntime folder is damaged: packages were installed or removed over each other",
        "pip uninstall -y onnxruntime onnxruntime-gpu onnxruntime-openvino onnxruntime-directml && "
        'pip install "cutout-cli[{extra}]"',
        every=True,
    ),
    Fault(
        "visual-c++",
        (r"DLL load failed while importing onnxruntime_pybind11_state", r"MSVCP140", r"VCRUNTIME140"),
        "Microsoft's Visual C++ libraries, which ONNX Runtime needs, are missing or too old",
        "winget install --id Microsoft.VCRedist.2015+.x64",
        every=True,
    ),
    Fault(
        "old-system",
        (r"version [`'\"]?(?P<need>GLIBC(?:XX)?_[\d.]+)[`'\"]? not found",),
        "this system's C library is older than ONNX Runtime needs ({need} is missing)",
        'pip install "onnxruntime<1.21", or run it in a container with a newer system',
        every=True,
    ),
    Fault(  # before all else that a device can say
        "memory",
        (
            r"Failed to allocate memory for requested buffer of size",
            r"Available memory of \d+ is smaller than requested",
            r"(?:CUDA|HIP) (?:failure|error) 2\b",
            r"(?:CUDA|HIP)(?: error:)? out of memory",
            r"cudaErrorMemoryAllocation|hipErrorOutOfMemory",
            r"(?:CUBLAS|CUDNN)_STATUS_ALLOC_FAILED",
            r"CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
            r"8007000E|Not enough memory resources are available",
            r"CL_OUT_OF_(?:RESOURCES|HOST_MEMORY)|CL_MEM_OBJECT_ALLOCATION_FAILURE",
            r"\[GPU\] [Ee]xceeded max size of memory",
            r"std::bad_alloc|OUT_OF_MEMORY",
        ),
        "the memory of the device is full",
        "close what else uses it (nvidia-smi shows it), take --batch 1 or a smaller model, or --cpu-fallback",
        every=True,
    ),
    # --- no card, no driver ---
    Fault(
        "container",
        (_NO_DEVICE, _OLD_DRIVER, r"CUDNN failure 1(?:001)?: CUDNN_STATUS_NOT_INITIALIZED"),
        "this container sees no NVIDIA card",
        "start the container with --gpus all (the host needs the NVIDIA driver and nvidia-container-toolkit)",
        where="container",
    ),
    Fault(
        "wsl-driver",
        (_NO_DEVICE, _OLD_DRIVER),
        "WSL sees no NVIDIA driver: it comes from Windows, never from inside Linux",
        "update the NVIDIA driver in Windows, then in Windows: wsl --update && wsl --shutdown",
        where="wsl",
    ),
    Fault(
        "old-driver",
        (_OLD_DRIVER,),
        "the NVIDIA driver {driver} is too old for the CUDA that {runtime} was built for",
        "install a driver of version 580 or newer (CUDA 13), or use a runtime for CUDA 12 (driver 525 or newer): "
        'pip install "onnxruntime-gpu[cuda,cudnn]<1.27"',
        where="driver",
    ),
    Fault(
        "no-driver",
        (_OLD_DRIVER, r"libcuda\.so\.1: cannot open shared object file", r"nvcuda\.dll"),
        "there is no NVIDIA driver on this machine",
        "install it (Ubuntu: sudo ubuntu-drivers install; Windows: nvidia.com/drivers), restart, then nvidia-smi; "
        "or run on the processor: --device cpu",
    ),
    Fault(
        "no-card",
        (_NO_DEVICE,),
        "there is no NVIDIA card, or CUDA_VISIBLE_DEVICES hides it",
        "nvidia-smi --list-gpus shows the cards; unset CUDA_VISIBLE_DEVICES; or run on the processor: --device cpu",
    ),
    Fault(
        "no-such-card",
        (
            r"(?:CUDA (?:failure|error)|HIP failure) 101\b",
            r"invalid device ordinal",
            r"cudaErrorInvalidDevice\b|hipErrorInvalidDevice\b",
        ),
        "there is no card of this number",
        "nvidia-smi --list-gpus shows them; the first is cuda:0",
        every=True,
    ),
    Fault(
        "driver-mismatch",
        (
            r"CUDA (?:failure|error) (?:803|804)\b|cudaErrorSystemDriverMismatch",
            r"unsupported display driver / cuda driver combination|forward compatibility was attempted",
            r"Driver/library version mismatch",
        ),
        "the NVIDIA driver was updated since this machine started: its parts are of different versions",
        "restart the machine",
    ),
    Fault(
        "driver-asleep",
        (
            r"CUDA (?:failure|error) (?:3|802|999)\b|CUDA unknown error",
            r"initialization error|system not yet initialized",
        ),
        "the NVIDIA driver does not answer (after a suspend, or without nvidia-fabricmanager on a server)",
        "sudo modprobe -r nvidia_uvm && sudo modprobe nvidia_uvm, or restart the machine",
    ),
    Fault(
        "busy-card",
        (
            r"CUDA (?:failure|error) 46\b|cudaErrorDevicesUnavailable",
            r"all CUDA-capable devices are busy or unavailable",
        ),
        "another process holds the card for itself",
        "nvidia-smi shows who; sudo nvidia-smi -c DEFAULT ends the exclusive mode",
    ),
    Fault(
        "unsupported-card",
        (
            r"cudaErrorNoKernelImageForDevice|no kernel image is available|CUDA (?:failure|error) 209\b",
            r"CUDNN_STATUS_(?:NOT_SUPPORTED_)?ARCH_MISMATCH|CUBLAS_STATUS_ARCH_MISMATCH",
        ),
        "{runtime} holds no code for this card, which is too old or too new for it",
        'a newer card: pip install --upgrade "cutout-cli[gpu]"; one before Turing (GTX 10, Tesla P and V): '
        'pip install "onnxruntime-gpu[cuda,cudnn]<1.27"',
    ),
    # --- libraries ---
    Fault(
        "tensorrt-missing",
        (_missing("nvinfer|nvonnxparser"), r"Please install TensorRT", r"TensorRT EP could not open shared library"),
        "TensorRT is not installed",
        'pip install "tensorrt-cu13<11" (tensorrt-cu12 for CUDA 12), or --device cuda, which needs none',
    ),
    Fault(
        "cudnn-mismatch",
        (
            r"CUDNN_STATUS_(?:SUBLIBRARY_)?VERSION_MISMATCH|CUDNN_STATUS_SUBLIBRARY_LOADING_FAILED",
            r"Unable to load any of \{{0,1}libcudnn|Could not load library (?:lib)?cudnn",
            r"Invalid handle\. Cannot load symbol cudnn",
        ),
        "two versions of cuDNN are mixed: one of the system or LD_LIBRARY_PATH, and one of Python packages",
        f"unset LD_LIBRARY_PATH, then {_GPU} --force-reinstall",
    ),
    Fault("cudnn-missing", (_missing("cudnn"),), "cuDNN {major} is not installed", _GPU),
    Fault(
        "cuda-version",
        (_CUDA_LIBRARY,),
        "{runtime} wants CUDA {major}, and this machine has CUDA {have}",
        f"{_GPU} brings the right one beside it, as Python packages",
        where="other-cuda",
    ),
    Fault("cuda-missing", (_CUDA_LIBRARY,), "the CUDA {major} libraries are not installed", _BRINGS),
    Fault(
        "cuda-missing",
        (_missing("cufft|curand|cusparse|cusolver"),),
        "some of the CUDA libraries are not installed",
        _BRINGS,
    ),
    Fault(
        "cuda-missing",
        (
            r"LoadLibrary failed with error 126",
            r"(?:Could not find module|Error loading) .*providers_(?:cuda|tensorrt)\.dll",
            r"Require cuDNN [\d*.]+ and CUDA",
        ),
        "CUDA or cuDNN libraries that {runtime} needs are not installed",
        _BRINGS,
    ),
    Fault(
        "not-initialised",
        (r"CU(?:BLAS|DNN)_STATUS_NOT_INITIALIZED|CUDNN failure 1(?:001)?\b|CUBLAS failure 1\b",),
        "cuDNN or cuBLAS cannot start: the card's memory is full, or a second version of them is in the way",
        "nvidia-smi shows who uses the memory; unset LD_LIBRARY_PATH rules out the second",
    ),
)

_STARVED = r"CUDNN_STATUS_NOT_INITIALIZED|CUBLAS_STATUS_NOT_INITIALIZED"


@cache
def _pattern(fault: Fault) -> re.Pattern[str]:
    return re.compile("|".join(fault.symptoms), re.IGNORECASE | re.DOTALL)


def recognise(device: str, text: str, place: Place | None = None) -> Finding | None:
    """What an error text means; None where nobody has met it.

    Args:
        device: The word for `--device`, such as `cuda`.
        text: What the runtime or the loader of libraries said, in full.
        place: What is known of this machine.
    """
    place = place or Place()
    for fault in FAULTS:
        if not (fault.every or device in NVIDIA) or (match := _pattern(fault).search(text)) is None:
            continue
        words = {name: value or "" for name, value in match.groupdict().items()}
        words["major"] = words.get("major") or words.get("winmajor") or words.get("winmajor2") or ""
        if not _counts(fault, words["major"], place):
            continue
        words |= {"runtime": place.runtime, "driver": place.driver, "have": ", ".join(map(str, sorted(place.cuda)))}
        words["extra"] = "gpu" if device in NVIDIA else "openvino" if device == "openvino" else "cpu"
        said = (" ".join(part.format_map(words).split()) for part in (fault.sentence, fault.hint))
        return Finding(fault.key, *said)
    return None


def _counts(fault: Fault, major: str, place: Place) -> bool:
    match fault.where:
        case "container":
            return place.container and not place.card
        case "wsl":
            return place.wsl
        case "driver":
            return bool(place.driver)
        case "other-cuda":
            return major.isdecimal() and bool(place.cuda) and int(major) not in place.cuda
        case _:
            return True


def is_out_of_memory(text: str) -> bool:
    """Whether a device failed for want of memory while it ran: a smaller batch may do.

    cuDNN and cuBLAS say that they are not initialised when they find no memory for their own workspace.
    """
    memory = next(fault for fault in FAULTS if fault.key == "memory")
    return bool(_pattern(memory).search(text) or re.search(_STARVED, text, re.IGNORECASE))


def explained(device: str, error: BaseException) -> tuple[str, str | None]:
    """What an exception of the runtime means, or its first line: (sentence, hint)."""
    found = recognise(device, str(error))
    return (found.sentence, found.hint) if found else (first_line(error), None)


def first_line(error: BaseException) -> str:
    """The first line of what an exception says; its name where it says nothing."""
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__).strip()


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
        both, uninstall = " and ".join(machine.clash), f"pip uninstall -y {' '.join(machine.clash)}"
        return (
            f"{both} are both installed and overwrite each other's files",
            f"{uninstall} && {install or 'install the one you need'}",
        )
    if provider.name not in machine.available:
        have = ", ".join(f"{name} {version}" for name, version in machine.packages.items()) or "the installed runtime"
        hint = f"pip uninstall -y {' '.join(machine.packages)} && {install}" if install else _DOCTOR
        return f"{have} was built without {provider.name}", hint
    return _refused(provider, machine, said, install)


def _refused(provider: Provider, machine: Machine, said: str, install: str) -> tuple[str, str]:
    """Why a provider that this runtime has does not work."""
    error = machine.load_errors.get(provider.name, "")
    if (error or said) and (found := recognise(provider.device, error or said, look(machine.runtime))) is not None:
        return found.sentence, found.hint
    if error:
        return f"its library does not load: {error}", install or _DOCTOR
    if said:
        return f"the runtime refused it: {_brief(said)}", _DOCTOR
    return "the runtime refused it without giving a reason (no such device, or its driver is missing)", _DOCTOR


def _brief(text: str) -> str:
    """What a runtime said without the names of its own functions and files."""
    line = (text.strip().splitlines() or [""])[0]
    found = re.search(r"(?:CUDA|CUDNN|CUBLAS|HIP|MIOPEN|ROCBLAS) failure [^;]+", line)
    return found[0].strip() if found else line if len(line) <= 300 else f"{line[:300]}…"
