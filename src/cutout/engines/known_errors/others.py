"""What runtimes say when an AMD, Intel, Windows, Apple or Qualcomm device fails: rows as in `faults`."""

from __future__ import annotations

from cutout.engines.known_errors.nvidia import CPU_INSTEAD, Fault

__all__ = ["MORE_FAULTS"]

_AMD = frozenset({"migraphx", "rocm"})

MORE_FAULTS: tuple[Fault, ...] = (
    # --- AMD ---
    Fault(
        key="rocm-container",
        symptoms=(
            r"no ROCm-capable device",
            r"hipErrorNoDevice",
            r"HIP failure 100\b",
            r"No HIP GPUs are available",
            r"/dev/kfd",
        ),
        where="container",
        sentence="this container sees no AMD card",
        hint="start the container with --device /dev/kfd --device /dev/dri --group-add video --group-add render",
        devices=_AMD,
    ),
    Fault(
        key="rocm-no-card",
        symptoms=(
            r"no ROCm-capable device",
            r"hipErrorNoDevice",
            r"HIP failure 100\b",
            r"No HIP GPUs are available",
            r"/dev/kfd",
        ),
        sentence="ROCm finds no AMD card that this user may use",
        hint="sudo usermod -aG video,render $USER, log in again, and check with rocminfo",
        devices=_AMD,
    ),
    Fault(
        key="rocm-unsupported-card",
        symptoms=(
            r"hipErrorNoBinaryForGpu",
            r"Unable to find code object",
            r"hipErrorInvalidDeviceFunction",
            r"invalid device function",
        ),
        sentence="this build of the runtime holds no code for this AMD card",
        hint="HSA_OVERRIDE_GFX_VERSION of a sister card may help (RDNA 2: 10.3.0, RDNA 3: 11.0.0); " + CPU_INSTEAD,
        devices=_AMD,
    ),
    Fault(
        key="rocm-missing",
        symptoms=(
            r"lib(?P<library>migraphx|amdhip|hip|roc|MIOpen|miopen|hsa|rccl)[\w.-]*: cannot open shared object file",
        ),
        sentence="ROCm's {library} library is not installed, or of another version than the runtime wants",
        hint="install ROCm of the version the runtime was built for, with MIGraphX (sudo apt-get install migraphx)",
        devices=_AMD,
    ),
    # --- Intel ---
    Fault(
        key="openvino-no-device",
        symptoms=(
            r"Device with \"?(?P<which>\w+)\"? name is not registered",
            r"\[GPU\] (?:No supported devices found|Can't get \w+ property)",
            r"no supported devices found",
            r"No GPU device was found",
            r"CL_DEVICE_NOT_FOUND",
            r"Failed to create plugin .* for device (?P<which2>\w+)",
            r"Device not found",
            r"ZE_RESULT_ERROR_UNINITIALIZED",
            r"is not available in the system",
            r"\[OpenVINO\] Device \w+ is not available",
        ),
        sentence="OpenVINO finds no such Intel device, or its driver is missing",
        hint="graphics: sudo apt-get install intel-opencl-icd, in a container also --device /dev/dri; "
        "or its processor path: --provider-option device_type=CPU",
        devices=frozenset({"openvino"}),
    ),
    Fault(
        key="openvino-missing",
        symptoms=(
            r"libopenvino[\w.-]*: cannot open shared object",
            r"undefined symbol: _ZN\w*2ov",
            r"providers_openvino\.dll",
        ),
        sentence="OpenVINO's libraries are missing, or of another version than the runtime wants",
        hint='pip install --force-reinstall "cutout-cli[openvino]"; on Windows also: pip install openvino',
        devices=frozenset({"openvino"}),
    ),
    Fault(
        key="openvino-precision",
        symptoms=(r"Unsupported inference precision is selected\.(?P<known>[^\n\[]*)",),
        sentence="OpenVINO has no such precision for this device:{known}",
        hint="leave out --provider-option precision, or see docs/devices.md",
        devices=frozenset({"openvino"}),
    ),
    # --- Windows, Apple, Qualcomm ---
    Fault(
        key="directml-lost",
        symptoms=(
            r"887A000[567]",
            r"DXGI_ERROR_DEVICE_(?:REMOVED|HUNG|RESET)",
            r"GPU device instance has been suspended",
        ),
        sentence="Windows reset the graphics card while it worked",
        hint="update the graphics driver; use --batch 1 or a smaller model",
        devices=frozenset({"directml"}),
    ),
    Fault(
        key="directml-unsupported",
        symptoms=(
            r"887A0004",
            r"887A0002",
            r"80004002",
            r"device interface or feature level is not supported",
            r"DirectML\.dll",
        ),
        sentence="no graphics card here speaks DirectX 12 as DirectML wants it",
        hint="update the graphics driver and Windows; another card is directml:1; " + CPU_INSTEAD,
        devices=frozenset({"directml"}),
    ),
    Fault(
        key="coreml-unsupported",
        symptoms=(
            r"CoreML.*(?:not supported|Failed to (?:compile|create|build))",
            r"Error compiling model",
            r"Unable to (?:compile|load) .*mlmodel",
        ),
        sentence="Core ML cannot compile this model",
        hint="--provider-option ModelFormat=NeuralNetwork, or another model; " + CPU_INSTEAD,
        devices=frozenset({"coreml"}),
    ),
    Fault(
        key="qnn-missing",
        symptoms=(
            r"QNN SetupBackend failed",
            r"Unable to load backend",
            r"QnnHtp",
            r"Failed to (?:initialize backend|create device)",
        ),
        sentence="Qualcomm's NPU library cannot be used",
        hint="--provider-option backend_path=QnnHtp.dll (libQnnHtp.so) of the version that came with onnxruntime-qnn",
        devices=frozenset({"qnn"}),
    ),
    # --- anything else ---
    Fault(
        key="option",
        symptoms=(
            r"(?:Unknown|Invalid) provider option[:\s]+[\"']?(?P<option>\w+)",
            r"Invalid OpenVINO EP option:? (?P<option2>\w+)",
            r"(?:unknown|unrecogni[sz]ed|unsupported) (?:provider )?option[:\s]+[\"']?(?P<option3>\w+)",
        ),
        sentence="{runtime} does not know the provider option {option}{option2}{option3}",
        hint="see docs/devices.md for those it knows, and --provider-option for its spelling",
    ),
)
