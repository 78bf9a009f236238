"""The execution providers of ONNX Runtime as data: a device is a row."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["CPU", "MEANT", "PROVIDERS", "Provider"]


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
        options: What it is given unless the user says otherwise.
        half: What makes it compute in half precision; empty where it cannot by an option.
        half_graph: It computes in half precision what the graph has in half precision.
        cache: Options that take the folder for compiled models; empty where it compiles none.
        memory_limit: The option that limits its memory, in bytes; empty where there is none.
        memory: ONNX Runtime's word for its memory, where inputs and outputs can be bound to it.
        alone: It is given to one thread at a time, which batches are for; the others work like a processor.
        static: It compiles the model for one input shape, so that another one costs minutes.
        about: One line for `docs/devices.md`.
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
    static: bool = False
    about: str = ""


CPU = Provider(device="cpu", name="CPUExecutionProvider", extra="cpu", auto=True)

PROVIDERS: tuple[Provider, ...] = (  # `auto` tries them in this order
    Provider(
        device="cuda",
        name="CUDAExecutionProvider",
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
        about="NVIDIA cards, Linux and Windows",
    ),
    Provider(
        device="tensorrt",
        name="TensorrtExecutionProvider",
        extra="gpu",
        library="onnxruntime_providers_tensorrt",
        indexed=True,
        options=(("trt_engine_cache_enable", "1"), ("trt_timing_cache_enable", "1")),
        half=(("trt_fp16_enable", "1"),),
        cache=("trt_engine_cache_path", "trt_timing_cache_path"),
        memory="cuda",
        alone=True,
        static=True,
        about="NVIDIA cards, the fastest after a first run that compiles for minutes",
    ),
    Provider(
        device="migraphx",
        name="MIGraphXExecutionProvider",
        indexed=True,
        auto=True,
        half=(("migraphx_fp16_enable", "1"),),
        cache=("migraphx_model_cache_dir",),
        alone=True,
        static=True,
        about="AMD cards under Linux, with ROCm",
    ),
    Provider(
        device="rocm",
        name="ROCMExecutionProvider",
        indexed=True,
        auto=True,
        options=(("arena_extend_strategy", "kSameAsRequested"),),
        memory_limit="gpu_mem_limit",
        alone=True,
        half_graph=True,
        about="AMD cards under Linux, runtimes before 1.23",
    ),
    Provider(
        device="directml",
        name="DmlExecutionProvider",
        indexed=True,
        auto=True,
        alone=True,
        half_graph=True,
        about="any card under Windows",
    ),
    Provider(
        device="openvino",
        name="OpenVINOExecutionProvider",
        extra="openvino",
        library="onnxruntime_providers_openvino",
        # without these two it computes in bfloat16 or half precision where the processor or card can
        options=(("device_type", "CPU"), ("precision", "FP32")),
        static=True,
        about="Intel processors, graphics (device_type=GPU) and NPUs (device_type=NPU)",
    ),
    Provider(
        device="coreml",
        name="CoreMLExecutionProvider",
        options=(("ModelFormat", "MLProgram"), ("MLComputeUnits", "ALL")),
        cache=("ModelCacheDirectory",),
        static=True,
        about="Apple silicon",
    ),
    Provider(
        device="qnn",
        name="QNNExecutionProvider",
        options=(("backend_type", "htp"),),
        half=(("enable_htp_fp16_precision", "1"),),
        static=True,
        about="Qualcomm NPUs",
    ),
    CPU,
)

MEANT = {  # what people type for want of the right word
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
