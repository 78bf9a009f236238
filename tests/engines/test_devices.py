"""The choice of a device: what was asked and what the machine offers, as tables."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from cutout.engines.devices import (
    CPU,
    PROVIDERS,
    Device,
    DeviceRequest,
    Machine,
    Provider,
    choose,
    provider_entry,
    request_device,
    with_options,
)
from cutout.engines.known_errors import why_not
from cutout.errors import DeviceError, ExitCode, UsageError

if TYPE_CHECKING:
    from pathlib import Path

_BY_DEVICE = {provider.device: provider for provider in PROVIDERS}
CUDA, TENSORRT, OPENVINO, COREML = (_BY_DEVICE[name] for name in ("cuda", "tensorrt", "openvino", "coreml"))

CPU_BUILD = Machine(available=("AzureExecutionProvider", CPU.name), packages={"onnxruntime": "1.23.0"})
GPU_BUILD = Machine(available=(TENSORRT.name, CUDA.name, CPU.name), packages={"onnxruntime-gpu": "1.23.0"})
NO_CUDNN = Machine(
    available=GPU_BUILD.available,
    packages=GPU_BUILD.packages,
    load_errors={CUDA.name: "libcudnn.so.9: cannot open shared object file"},
)
BOTH = Machine(available=(CPU.name,), packages={"onnxruntime": "1.23.0", "onnxruntime-gpu": "1.22.0"})
NOTHING = Machine(available=())
MAC = Machine(available=(COREML.name, CPU.name), packages={"onnxruntime": "1.23.0"})
AMD = Machine(available=("MIGraphXExecutionProvider", CPU.name), packages={"onnxruntime-migraphx": "1.23.0"})
WINDOWS = Machine(available=("DmlExecutionProvider", CPU.name), packages={"onnxruntime-directml": "1.23.0"})


# --- what is asked ---


@pytest.mark.parametrize(
    ("asked", "environ", "devices", "strict", "origin"),
    [
        (None, {}, [], False, "device"),
        ("", {}, [], False, "device"),
        ("auto", {}, [], False, "device"),
        (" AUTO ", {}, [], False, "device"),
        ("cpu", {}, ["cpu"], True, "device"),
        ("cuda", {}, ["cuda"], True, "device"),
        ("CUDA:1", {}, ["cuda:1"], True, "device"),
        ("cuda:", {}, ["cuda"], True, "device"),
        ("CUDAExecutionProvider", {}, ["cuda"], True, "device"),
        ("CUDAExecutionProvider:2", {}, ["cuda:2"], True, "device"),
        ("directml:0", {}, ["directml:0"], True, "device"),
        (None, {"CUTOUT_DEVICE": "cuda:3"}, ["cuda:3"], True, "CUTOUT_DEVICE"),
        (None, {"CUTOUT_DEVICE": "auto"}, [], False, "device"),
        (None, {"CUTOUT_DEVICE": ""}, [], False, "device"),
        ("cpu", {"CUTOUT_DEVICE": "cuda"}, ["cpu"], True, "device"),
        ("auto", {"CUTOUT_DEVICE": "cuda"}, [], False, "device"),
    ],
)
def test_an_option_counts_before_the_environment(
    asked: str | None, environ: dict[str, str], devices: list[str], strict: bool, origin: str
) -> None:
    request = request_device(asked, environ)
    assert ([str(device) for device in request.devices], request.strict) == (devices, strict)
    if devices:
        assert request.origin == origin


@pytest.mark.parametrize(
    ("listed", "devices", "strict"),
    [
        ("CUDAExecutionProvider", ["cuda"], True),
        ("CPUExecutionProvider", ["cpu"], False),
        ("CUDAExecutionProvider,CPUExecutionProvider", ["cuda", "cpu"], False),
        (" CUDAExecutionProvider , CPUExecutionProvider ,", ["cuda", "cpu"], False),
        ("TensorrtExecutionProvider,CUDAExecutionProvider", ["tensorrt", "cuda"], True),
        ('["CUDAExecutionProvider", "CPUExecutionProvider"]', ["cuda", "cpu"], False),
        ('["OpenVINOExecutionProvider"]', ["openvino"], True),
        ("cuda:1,cpu", ["cuda:1", "cpu"], False),
        ("[]", [], False),
        (" , ", [], False),
        ("", [], False),
    ],
)
def test_onnx_runtimes_own_variable_is_an_order_of_preference(listed: str, devices: list[str], strict: bool) -> None:
    """Strict only when it leaves the CPU out."""
    request = request_device(None, {"ONNXRUNTIME_EXECUTION_PROVIDERS": listed})
    assert ([str(device) for device in request.devices], request.strict) == (devices, strict)


@pytest.mark.parametrize(("asked", "ours"), [("cpu", None), ("auto", None), (None, "cpu"), (None, "auto")])
def test_onnx_runtimes_own_variable_counts_last(asked: str | None, ours: str | None) -> None:
    environ = {"ONNXRUNTIME_EXECUTION_PROVIDERS": "CUDAExecutionProvider"} | ({"CUTOUT_DEVICE": ours} if ours else {})
    assert CUDA not in [device.provider for device in request_device(asked, environ).devices]


@pytest.mark.parametrize("text", ["gpu", "cuda1", "cud a", "nvidia", "NoSuchExecutionProvider", "-1"])
def test_an_unknown_device_lists_the_known_ones(text: str) -> None:
    with pytest.raises(UsageError, match=f"no device '{text}'") as caught:
        request_device(text, {})
    for device in ("auto", "cpu", "cuda", "openvino", "cuda:1"):
        assert device in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("gpu", "cuda"),
        ("nvidia", "cuda"),
        ("cuda1", "cuda"),
        ("GPU:0", "cuda"),
        ("trt", "tensorrt"),
        ("tensort", "tensorrt"),
        ("amd", "migraphx"),
        ("intel", "openvino"),
        ("opnvino", "openvino"),
        ("mps", "coreml"),
        ("dml", "directml"),
        ("cppu", "cpu"),
    ],
)
def test_a_device_that_nobody_knows_is_guessed(text: str, meant: str) -> None:
    with pytest.raises(UsageError) as caught:
        request_device(text, {})
    assert (caught.value.hint or "").startswith(f"did you mean {meant}?")


def test_several_cards_are_named_together() -> None:
    request = request_device("cuda:0,2", {})
    assert ([str(device) for device in request.devices], request.further) == (["cuda:0"], (2,))
    request = request_device("cuda:all", {})
    assert ([str(device) for device in request.devices], request.further) == (["cuda:0"], ("all",))
    assert request_device("cuda:1", {}).further == ()


@pytest.mark.parametrize("text", ["cuda:0,0", "cuda:0,x", "cuda:1,", "cpu:all", "openvino:0,1", "auto:all"])
def test_cards_that_make_no_sense_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        request_device(text, {})


@pytest.mark.parametrize("text", ["cuda:x", "cuda:-1", "cuda:1:2", "cpu:0", "openvino:1", "auto:1"])
def test_an_index_that_makes_no_sense_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        request_device(text, {})


@pytest.mark.parametrize(
    "listed", ['["CUDAExecutionProvider"', "[CUDAExecutionProvider]", "Cuda Provider", '[["a", {}]]']
)
def test_a_list_that_cannot_be_read_is_refused(listed: str) -> None:
    with pytest.raises(UsageError):
        request_device(None, {"ONNXRUNTIME_EXECUTION_PROVIDERS": listed})


# --- what is chosen ---


def chosen(asked: str | None, machine: Machine, **environ: str) -> list[str]:
    return [str(device) for device in choose(request_device(asked, environ), machine)]


@pytest.mark.parametrize(
    ("asked", "machine", "devices"),
    [
        (None, CPU_BUILD, ["cpu"]),
        (None, GPU_BUILD, ["cuda", "cpu"]),
        (None, MAC, ["cpu"]),
        (None, AMD, ["migraphx", "cpu"]),
        (None, WINDOWS, ["directml", "cpu"]),
        (None, NOTHING, ["cpu"]),
        ("cpu", GPU_BUILD, ["cpu"]),
        ("cuda", GPU_BUILD, ["cuda"]),
        ("cuda:1", GPU_BUILD, ["cuda:1"]),
        ("tensorrt", GPU_BUILD, ["tensorrt"]),
        ("coreml", MAC, ["coreml"]),
        ("cuda", NO_CUDNN, ["cuda"]),
    ],
)
def test_the_best_device_comes_first_and_the_cpu_last_unless_one_was_asked_for(
    asked: str | None, machine: Machine, devices: list[str]
) -> None:
    assert chosen(asked, machine) == devices


def test_a_listed_order_is_kept_and_what_is_missing_left_out() -> None:
    listed = {"ONNXRUNTIME_EXECUTION_PROVIDERS": "OpenVINOExecutionProvider,CUDAExecutionProvider,CPUExecutionProvider"}
    assert chosen(None, GPU_BUILD, **listed) == ["cuda", "cpu"]
    assert chosen(None, CPU_BUILD, **listed) == ["cpu"]
    assert chosen(None, GPU_BUILD, ONNXRUNTIME_EXECUTION_PROVIDERS="cpu,cuda") == ["cpu", "cuda"]
    assert chosen(None, GPU_BUILD, ONNXRUNTIME_EXECUTION_PROVIDERS="openvino,cuda") == ["cuda"]


@pytest.mark.parametrize(
    ("asked", "machine"),
    [
        ("cuda", CPU_BUILD),
        ("cuda:1", CPU_BUILD),
        ("openvino", GPU_BUILD),
        ("cpu", NOTHING),
        ("cuda", MAC),
        ("rocm", AMD),
    ],
)
def test_a_device_that_was_asked_for_is_used_or_the_run_fails(asked: str, machine: Machine) -> None:
    with pytest.raises(DeviceError, match=rf"^device {asked} cannot be used") as caught:
        chosen(asked, machine)
    assert caught.value.exit_code is ExitCode.DEVICE
    assert int(ExitCode.DEVICE) == 4
    assert caught.value.hint


def test_the_error_names_who_asked() -> None:
    with pytest.raises(DeviceError, match="CUTOUT_DEVICE cuda cannot be used"):
        chosen(None, CPU_BUILD, CUTOUT_DEVICE="cuda")
    with pytest.raises(DeviceError, match="ONNXRUNTIME_EXECUTION_PROVIDERS tensorrt cannot be used"):
        chosen(None, CPU_BUILD, ONNXRUNTIME_EXECUTION_PROVIDERS="tensorrt,cuda")


# --- why not ---

GPU_INSTALL = 'pip install "cutout-cli[gpu]"'
CPU_INSTALL = 'pip install "cutout-cli[cpu]"'


@pytest.mark.parametrize(
    ("provider", "machine", "reason", "hint"),
    [
        (CPU, NOTHING, "ONNX Runtime is not installed", CPU_INSTALL),
        (CUDA, NOTHING, "ONNX Runtime is not installed", GPU_INSTALL),
        (COREML, NOTHING, "ONNX Runtime is not installed", CPU_INSTALL),
        (
            CUDA,
            BOTH,
            "onnxruntime and onnxruntime-gpu are both installed and overwrite each other's files",
            f"pip uninstall -y onnxruntime onnxruntime-gpu && {GPU_INSTALL}",
        ),
        (CPU, BOTH, "are both installed", f"pip uninstall -y onnxruntime onnxruntime-gpu && {CPU_INSTALL}"),
        (
            COREML,
            BOTH,
            "are both installed",
            "pip uninstall -y onnxruntime onnxruntime-gpu && install the one you need",
        ),
        (
            CUDA,
            CPU_BUILD,
            "onnxruntime 1.23.0 was built without CUDAExecutionProvider",
            f"pip uninstall -y onnxruntime && {GPU_INSTALL}",
        ),
        (OPENVINO, GPU_BUILD, "onnxruntime-gpu 1.23.0 was built without", 'pip install "cutout-cli[openvino]"'),
        (COREML, CPU_BUILD, "was built without CoreMLExecutionProvider", "cutout doctor"),
        (CUDA, NO_CUDNN, "cuDNN 9 is not installed", 'pip install --upgrade "cutout-cli[gpu]"'),
        (CUDA, GPU_BUILD, "without giving a reason", "cutout doctor"),
    ],
)
def test_why_a_device_cannot_be_used_and_what_to_do(
    provider: Provider, machine: Machine, reason: str, hint: str
) -> None:
    found_reason, found_hint = why_not(provider, machine)
    assert reason in found_reason
    assert hint in found_hint


def test_what_the_runtime_said_is_told_where_nothing_better_is_known() -> None:
    assert "CUDA failure 12345: something new" in why_not(CUDA, GPU_BUILD, "CUDA failure 12345: something new")[0]
    assert "cuDNN 9" in why_not(CUDA, NO_CUDNN, "something vague")[0]


# --- the table of providers ---


def test_devices_and_names_are_unique_and_the_cpu_is_last() -> None:
    assert len({provider.device for provider in PROVIDERS}) == len(PROVIDERS)
    assert len({provider.name for provider in PROVIDERS}) == len(PROVIDERS)
    assert PROVIDERS[-1] is CPU


@pytest.mark.parametrize(
    ("text", "entry"),
    [
        ("cuda", ("CUDAExecutionProvider", {})),
        ("cuda:1", ("CUDAExecutionProvider", {"device_id": 1})),
        ("cpu", ("CPUExecutionProvider", {})),
    ],
)
def test_a_device_is_handed_on_as_the_runtime_wants_it(text: str, entry: tuple[str, dict[str, Any]]) -> None:
    (device,) = request_device(text, {}).devices
    assert device.entry == entry


def test_a_provider_gets_its_defaults_unless_the_user_says_otherwise(tmp_path: Path) -> None:
    request = with_options(request_device("cuda:1", {}), {"cudnn_conv_algo_search": "EXHAUSTIVE", "use_tf32": True})
    name, options = provider_entry(request.devices[0], replace(request, memory=8 << 30, cache=tmp_path))
    assert name == "CUDAExecutionProvider"
    assert options == {
        "cudnn_conv_algo_search": "EXHAUSTIVE",
        "arena_extend_strategy": "kSameAsRequested",
        "use_tf32": "1",
        "gpu_mem_limit": str(8 << 30),
        "device_id": 1,
    }


def test_compiled_models_are_kept_in_a_folder_and_half_precision_is_asked_for_by_name(tmp_path: Path) -> None:
    request = replace(request_device("tensorrt", {}), cache=tmp_path, half=True)
    options = provider_entry(request.devices[0], request)[1]
    assert options["trt_engine_cache_path"] == options["trt_timing_cache_path"] == str(tmp_path / "tensorrt")
    assert options["trt_engine_cache_enable"] == options["trt_fp16_enable"] == "1"
    assert "trt_fp16_enable" not in provider_entry(request.devices[0], replace(request, half=False))[1]


def test_options_are_for_the_device_that_was_named() -> None:
    request = with_options(request_device("openvino", {}), {"device_type": "GPU"})
    assert provider_entry(request.devices[0], request)[1]["device_type"] == "GPU"
    assert provider_entry(Device(CPU), request)[1] == {}
    for asked in (None, "auto", "cpu"):
        with pytest.raises(UsageError, match=r"^provider_option belongs to a device"):
            with_options(request_device(asked, {}), {"device_type": "GPU"})
        assert with_options(request_device(asked, {}), {}) == request_device(asked, {})


def test_one_package_is_no_clash() -> None:
    assert BOTH.clash == ("onnxruntime", "onnxruntime-gpu")
    assert CPU_BUILD.clash == NOTHING.clash == ()


def test_a_request_for_nothing_is_auto() -> None:
    assert request_device(None, {}) == DeviceRequest()
