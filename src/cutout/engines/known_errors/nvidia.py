"""What runtimes say when a device fails, and what it means: a table from real symptoms to a sentence and a command.

The texts are those of ONNX Runtime 1.8 to 1.31, of the loaders of Linux and Windows, and of CUDA, cuDNN, TensorRT,
ROCm, OpenVINO, DirectML, Core ML and QNN below it. `tests/engines/device_failures.json` holds a real one for every row.
Here is what any runtime and NVIDIA's parts say; `others` has the rest.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["CPU_INSTEAD", "NVIDIA", "NVIDIA_FAULTS", "Fault"]

NVIDIA = frozenset({"cuda", "tensorrt"})
_GPU = 'pip install --upgrade "cutout-cli[gpu]"'
_AGAIN = "pip uninstall -y onnxruntime onnxruntime-gpu onnxruntime-openvino onnxruntime-directml && "
CPU_INSTEAD = "or run on the processor: --device cpu"


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """One row: symptoms and what to say.

    Attributes:
        key: A stable word for scripts.
        symptoms: Regular expressions, one of which must be found; their named groups may be used in sentence and hint,
            as may `runtime`, `driver`, `have` (CUDA versions that are installed) and `extra`.
        sentence: What is wrong, as a format string.
        hint: What mends it, as a format string.
        devices: Words for `--device` that it concerns; empty means all.
        where: `container`, `wsl`, `driver` (one is there), `other-cuda` (CUDA of another major version is installed):
            the row counts only there.
    """

    key: str
    symptoms: tuple[str, ...]
    sentence: str
    hint: str
    devices: frozenset[str] = frozenset()
    where: str = ""


# A library that is missing, as the loaders of Linux and of Windows name it (`libcublasLt.so.12`, `cublasLt64_12.dll`).
_MISSING = (
    r"(?:lib(?:{stem})[\w.-]*?\.so(?:\.(?P<major>\d+))?[\d.]*: cannot open shared object file"
    r"|\"?(?:{stem})\w*64_(?P<winmajor>\d+)\w*\.dll\"? which is missing"
    r"|(?:{stem})\w*64_(?P<winmajor2>\d+)\w*\.dll.{{0,20}}not found)"
)
_CUDA_LIBRARY = _MISSING.format(stem="cublasLt|cublas|cudart|nvrtc|nvJitLink")
_FFT_LIBRARY = _MISSING.format(stem="cufft|curand|cusparse|cusolver")
_CUDNN_LIBRARY = _MISSING.format(stem="cudnn")
_TENSORRT_LIBRARY = _MISSING.format(stem="nvinfer|nvonnxparser")
_NO_DEVICE = (
    r"libcuda\.so\.1: cannot open shared object file|nvcuda\.dll|CUDA (?:failure|error) 100\b"
    r"|no CUDA-capable device is detected|cudaErrorNoDevice"
)
_OLD_DRIVER = r"CUDA (?:failure|error) 35\b|CUDA driver version is insufficient|cudaErrorInsufficientDriver"
_RUN_WITH_GPUS = "start the container with --gpus all (the host needs the NVIDIA driver and nvidia-container-toolkit)"

NVIDIA_FAULTS: tuple[Fault, ...] = (  # the first row that fits counts
    # --- the package itself ---
    Fault(
        key="damaged",
        symptoms=(
            r"cannot import name '\w+' from (?:partially initialized module )?'onnxruntime",
            r"module 'onnxruntime[\w.]*' has no attribute",
            r"No module named 'onnxruntime\.capi",
            r"undefined symbol: \w*(?:onnxruntime|Ort)\w*",
            r"libonnxruntime_providers_shared\.so: cannot open",
            r"onnxruntime_providers_shared\.dll",
        ),
        sentence="the onnxruntime folder is damaged: packages were installed or removed over each other",
        hint=_AGAIN + 'pip install "cutout-cli[{extra}]"',
    ),
    Fault(
        key="visual-c++",
        symptoms=(
            r"DLL load failed while importing onnxruntime_pybind11_state",
            r"MSVCP140",
            r"VCRUNTIME140",
        ),
        sentence="Microsoft's Visual C++ libraries, which ONNX Runtime needs, are missing or too old",
        hint="winget install --id Microsoft.VCRedist.2015+.x64",
    ),
    Fault(
        key="old-system",
        symptoms=(
            r"version `(?P<need>GLIBC(?:XX)?_[\d.]+)' not found",
            r"version (?P<need2>GLIBC(?:XX)?_[\d.]+) not found",
        ),
        sentence="this system's C library is older than ONNX Runtime needs ({need}{need2} is missing)",
        hint='pip install "onnxruntime<1.21", or run it in a container with a newer system',
    ),
    # --- out of memory: before all else that a device can say ---
    Fault(
        key="memory",
        symptoms=(
            r"Failed to allocate memory for requested buffer of size",
            r"Available memory of \d+ is smaller than requested",
            r"(?:CUDA|HIP) (?:failure|error) 2\b",
            r"(?:CUDA|HIP)(?: error:)? out of memory",
            r"cudaErrorMemoryAllocation",
            r"hipErrorOutOfMemory",
            r"CUBLAS_STATUS_ALLOC_FAILED",
            r"CUDNN_STATUS_ALLOC_FAILED",
            r"CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
            r"8007000E",
            r"Not enough memory resources are available",
            r"CL_OUT_OF_(?:RESOURCES|HOST_MEMORY)",
            r"CL_MEM_OBJECT_ALLOCATION_FAILURE",
            r"\[GPU\] [Ee]xceeded max size of memory",
            r"std::bad_alloc",
            r"OUT_OF_MEMORY",
        ),
        sentence="the memory of the device is full",
        hint="close what else uses it (nvidia-smi shows it), take --batch 1 or a smaller model, or --cpu-fallback",
    ),
    # --- NVIDIA: no card, no driver ---
    Fault(
        key="container",
        symptoms=(
            _NO_DEVICE,
            _OLD_DRIVER,
            r"CUDNN failure 1(?:001)?: CUDNN_STATUS_NOT_INITIALIZED",
        ),
        where="container",
        sentence="this container sees no NVIDIA card",
        hint=_RUN_WITH_GPUS,
        devices=NVIDIA,
    ),
    Fault(
        key="wsl-driver",
        symptoms=(
            _NO_DEVICE,
            _OLD_DRIVER,
        ),
        where="wsl",
        sentence="WSL sees no NVIDIA driver: it comes from Windows, never from inside Linux",
        hint="update the NVIDIA driver in Windows, then in Windows: wsl --update && wsl --shutdown",
        devices=NVIDIA,
    ),
    Fault(
        key="old-driver",
        symptoms=(_OLD_DRIVER,),
        where="driver",
        sentence="the NVIDIA driver {driver} is too old for the CUDA that {runtime} was built for",
        hint="install a driver of version 580 or newer (CUDA 13), or use a runtime for CUDA 12 (driver 525 or newer): "
        'pip install "onnxruntime-gpu[cuda,cudnn]<1.27"',
        devices=NVIDIA,
    ),
    Fault(
        key="no-driver",
        symptoms=(
            _OLD_DRIVER,
            r"libcuda\.so\.1: cannot open shared object file",
            r"nvcuda\.dll",
        ),
        sentence="there is no NVIDIA driver on this machine",
        hint="install it (Ubuntu: sudo ubuntu-drivers install; Windows: nvidia.com/drivers), restart, then nvidia-smi; "
        + CPU_INSTEAD,
        devices=NVIDIA,
    ),
    Fault(
        key="no-card",
        symptoms=(_NO_DEVICE,),
        sentence="there is no NVIDIA card, or CUDA_VISIBLE_DEVICES hides it",
        hint="nvidia-smi --list-gpus shows the cards; unset CUDA_VISIBLE_DEVICES; " + CPU_INSTEAD,
        devices=NVIDIA,
    ),
    Fault(
        key="no-such-card",
        symptoms=(
            r"CUDA (?:failure|error) 101\b",
            r"invalid device ordinal",
            r"cudaErrorInvalidDevice\b",
            r"hipErrorInvalidDevice\b",
        ),
        sentence="there is no card of this number",
        hint="nvidia-smi --list-gpus shows them; the first is cuda:0",
    ),
    Fault(
        key="driver-mismatch",
        symptoms=(
            r"CUDA (?:failure|error) (?:803|804)\b",
            r"unsupported display driver / cuda driver combination",
            r"forward compatibility was attempted",
            r"Driver/library version mismatch",
            r"cudaErrorSystemDriverMismatch",
        ),
        sentence="the NVIDIA driver was updated since this machine started: its parts are of different versions",
        hint="restart the machine",
        devices=NVIDIA,
    ),
    Fault(
        key="driver-asleep",
        symptoms=(
            r"CUDA (?:failure|error) (?:3|802|999)\b",
            r"CUDA unknown error",
            r"initialization error",
            r"system not yet initialized",
        ),
        sentence="the NVIDIA driver does not answer (after a suspend, or without nvidia-fabricmanager on a server)",
        hint="sudo modprobe -r nvidia_uvm && sudo modprobe nvidia_uvm, or restart the machine",
        devices=NVIDIA,
    ),
    Fault(
        key="busy-card",
        symptoms=(
            r"CUDA (?:failure|error) 46\b",
            r"all CUDA-capable devices are busy or unavailable",
            r"cudaErrorDevicesUnavailable",
        ),
        sentence="another process holds the card for itself",
        hint="nvidia-smi shows who; sudo nvidia-smi -c DEFAULT ends the exclusive mode",
        devices=NVIDIA,
    ),
    Fault(
        key="unsupported-card",
        symptoms=(
            r"cudaErrorNoKernelImageForDevice",
            r"no kernel image is available",
            r"CUDA (?:failure|error) 209\b",
            r"CUDNN_STATUS_(?:ARCH_MISMATCH|NOT_SUPPORTED_ARCH_MISMATCH)",
            r"CUBLAS_STATUS_ARCH_MISMATCH",
        ),
        sentence="{runtime} holds no code for this card, which is too old or too new for it",
        hint='a newer card: pip install --upgrade "cutout-cli[gpu]"; one before Turing (GTX 10, Tesla P and V): '
        'pip install "onnxruntime-gpu[cuda,cudnn]<1.27"',
        devices=NVIDIA,
    ),
    # --- NVIDIA: libraries ---
    Fault(
        key="tensorrt-missing",
        symptoms=(
            _TENSORRT_LIBRARY,
            r"Please install TensorRT libraries",
            r"TensorRT EP could not open shared library",
        ),
        sentence="TensorRT is not installed",
        hint='pip install "tensorrt-cu13<11" (tensorrt-cu12 for CUDA 12), or --device cuda, which needs none',
        devices=NVIDIA,
    ),
    Fault(
        key="cudnn-mismatch",
        symptoms=(
            r"CUDNN_STATUS_(?:SUBLIBRARY_)?VERSION_MISMATCH",
            r"CUDNN_STATUS_SUBLIBRARY_LOADING_FAILED",
            r"Unable to load any of \{{0,1}libcudnn",
            r"Could not load library libcudnn",
            r"Could not load library cudnn",
            r"Invalid handle\. Cannot load symbol cudnn",
        ),
        sentence="two versions of cuDNN are mixed: one of the system or LD_LIBRARY_PATH, and one of Python packages",
        hint=f"unset LD_LIBRARY_PATH, then {_GPU} --force-reinstall",
        devices=NVIDIA,
    ),
    Fault(
        key="cudnn-missing",
        symptoms=(_CUDNN_LIBRARY,),
        sentence="cuDNN {major} is not installed",
        hint=_GPU,
        devices=NVIDIA,
    ),
    Fault(
        key="cuda-version",
        symptoms=(_CUDA_LIBRARY,),
        where="other-cuda",
        sentence="{runtime} wants CUDA {major}, and this machine has CUDA {have}",
        hint=f"{_GPU} brings the right one beside it, as Python packages",
        devices=NVIDIA,
    ),
    Fault(
        key="cuda-missing",
        symptoms=(_CUDA_LIBRARY,),
        sentence="the CUDA {major} libraries are not installed",
        hint=f"{_GPU} brings them as Python packages; only the driver must be there already",
        devices=NVIDIA,
    ),
    Fault(
        key="cuda-missing",
        symptoms=(_FFT_LIBRARY,),
        sentence="some of the CUDA libraries are not installed",
        hint=f"{_GPU} brings them as Python packages; only the driver must be there already",
        devices=NVIDIA,
    ),
    Fault(
        key="cuda-missing",
        symptoms=(
            r"LoadLibrary failed with error 126",
            r"Could not find module '.*providers_(?:cuda|tensorrt)\.dll'",
            r"Error loading .*providers_(?:cuda|tensorrt)\.dll",
            r"Require cuDNN [\d*.]+ and CUDA",
        ),
        sentence="CUDA or cuDNN libraries that {runtime} needs are not installed",
        hint=f"{_GPU} brings them as Python packages; only the driver must be there already",
        devices=NVIDIA,
    ),
    Fault(
        key="not-initialised",
        symptoms=(
            r"CU(?:BLAS|DNN)_STATUS_NOT_INITIALIZED",
            r"CUDNN failure 1(?:001)?\b",
            r"CUBLAS failure 1\b",
        ),
        sentence="cuDNN or cuBLAS cannot start: the card's memory is full, or a second version of them is in the way",
        hint="nvidia-smi shows who uses the memory; unset LD_LIBRARY_PATH rules out the second",
        devices=NVIDIA,
    ),
)
