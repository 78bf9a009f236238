"""Error texts of real versions: each is named in one sentence, answered with a command, and ends a strict run."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnxruntime
import pytest
from small import brightness_model

from cutout.cli import main
from cutout.engines.devices import PROVIDERS
from cutout.engines.environment import Place, look
from cutout.engines.known_errors import FAULTS, is_out_of_memory, recognise
from cutout.errors import DeviceError
from cutout.pipeline.remover import Remover

if TYPE_CHECKING:
    from collections.abc import Callable

PLACES = {
    "bare": Place(runtime="onnxruntime-gpu 1.31.1"),
    "container": Place(container=True),
    "card-in-container": Place(container=True, card=True, driver="535.183.01"),
    "wsl": Place(wsl=True),
    "old-driver": Place(driver="535.183.01", card=True),
    "cuda-12": Place(cuda=frozenset({12}), runtime="onnxruntime-gpu 1.31.1", driver="580.126.18", card=True),
    "cuda-13": Place(cuda=frozenset({13}), driver="580.126.18", card=True),
}


@dataclass(frozen=True)
class Failure:
    """A real text, where it was met, the row that must know it, and words of what must be said."""

    fault: str
    device: str
    place: str
    said: str
    sentence: str
    hint: str

    def __str__(self) -> str:
        return f"{self.fault}-{self.device}-{self.place}"


FAILURES = [Failure(**row) for row in json.loads(Path(__file__).with_name("device_failures.json").read_text("utf-8"))]
OLD_DRIVER = "CUDA failure 35: CUDA driver version is insufficient for CUDA runtime version"


@pytest.mark.parametrize("failure", FAILURES, ids=str)
def test_a_real_text_is_named_and_answered(failure: Failure) -> None:
    found = recognise(failure.device, failure.said, PLACES[failure.place])
    if not failure.fault:
        assert found is None, "not met in the wild: told in the runtime's own words"
        return
    assert found is not None
    assert found.key == failure.fault
    assert failure.sentence in found.sentence
    assert failure.hint in found.hint
    for part in (found.sentence, found.hint):
        assert "  " not in part
        assert "{" not in part
        assert len(part) < 260


def test_every_row_has_a_real_text() -> None:
    assert {fault.key for fault in FAULTS} == {failure.fault for failure in FAILURES} - {""}


@pytest.mark.parametrize("text", ["", "something new", "Non-zero status code returned while running Relu node."])
def test_a_text_nobody_has_met_is_left_as_it_is(text: str) -> None:
    for provider in PROVIDERS:
        assert recognise(provider.device, text) is None


def test_another_makers_words_are_not_mistaken() -> None:
    assert recognise("directml", "libcublasLt.so.13: cannot open shared object file") is None
    assert recognise("cpu", "QNN SetupBackend failed") is None


@pytest.mark.parametrize(
    ("text", "starved"),
    [
        ("bfc_arena.cc:376 Failed to allocate memory for requested buffer of size 643840", True),
        ("CUDA out of memory", True),
        ("CUDA failure 2: out of memory ; GPU=0", True),
        ("CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED", True),
        ("CUDNN failure 1: CUDNN_STATUS_NOT_INITIALIZED", True),
        ("CUDNN failure 4: CUDNN_STATUS_ALLOC_FAILED", True),
        ("CUDNN_STATUS_EXECUTION_FAILED", False),
        ("CUDA failure 200: device kernel image is invalid", False),
        ("CUDA failure 700: an illegal memory access was encountered", False),
    ],
)
def test_want_of_memory_is_told_from_other_faults(text: str, starved: bool) -> None:
    assert is_out_of_memory(text) is starved


# --- through the program: strict ends with 4, auto goes on ---


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return brightness_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """A machine whose runtime has a provider that fails with a text: while it opens, or while its library loads."""

    def make(device: str, place: Place, text: str) -> None:
        name = next(provider.name for provider in PROVIDERS if provider.device == device)

        class Runtime:
            __file__ = str(tmp_path / "onnxruntime" / "__init__.py")

            def __getattr__(self, attribute: str) -> Any:
                return getattr(onnxruntime, attribute)

            def get_available_providers(self) -> list[str]:
                return [name, "CPUExecutionProvider"]

            def preload_dlls(self) -> None:
                pass

            def InferenceSession(self, path: str, sess_options: Any, providers: Any, **_: Any) -> Any:  # noqa: N802
                if any(entry[0] == name for entry in providers):
                    raise RuntimeError(text)
                return onnxruntime.InferenceSession(path, sess_options, providers=["CPUExecutionProvider"])

        monkeypatch.setitem(sys.modules, "onnxruntime", Runtime())
        monkeypatch.setattr("cutout.system.distributions", lambda: {"onnxruntime-gpu": "1.31.1"})
        monkeypatch.setattr("cutout.engines.known_errors.look", lambda _runtime: place)

    return make


ON_DEVICES = [failure for failure in FAILURES if failure.device != "cpu"]
BY_AUTO = [failure for failure in ON_DEVICES if failure.device in {p.device for p in PROVIDERS if p.auto}]


@pytest.mark.parametrize("failure", ON_DEVICES, ids=str)
def test_a_device_that_was_asked_for_fails_with_the_sentence(
    install: Callable[..., None], small: Path, failure: Failure
) -> None:
    install(failure.device, PLACES[failure.place], failure.said)
    with pytest.raises(DeviceError) as caught:
        Remover(small, device=failure.device)
    assert caught.value.exit_code == 4
    assert caught.value.message.startswith(f"device {failure.device} cannot be used: ")
    assert failure.sentence in caught.value.message
    assert failure.hint in (caught.value.hint or "")


@pytest.mark.parametrize("failure", BY_AUTO, ids=str)
def test_auto_goes_on_with_the_cpu_and_says_why_in_one_line(
    install: Callable[..., None], small: Path, failure: Failure
) -> None:
    install(failure.device, PLACES[failure.place], failure.said)
    said: list[str] = []
    assert Remover(small, warn=said.append).device == "cpu"
    (line,) = said
    assert failure.sentence in line
    assert failure.hint in line
    assert "\n" not in line


def test_the_command_ends_with_4_and_the_way_out(
    install: Callable[..., None], examples: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    install("cuda", PLACES["container"], OLD_DRIVER)
    out = tmp_path / "out.png"
    monkeypatch.setattr(
        sys, "argv", ["cutout", "remove", str(examples / "coffee.jpg"), "-o", str(out), "--device", "cuda"]
    )
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 4
    said = capsys.readouterr().err
    assert "error: --device cuda cannot be used: this container sees no NVIDIA card" in said
    assert "try: start the container with --gpus all" in said
    assert "Traceback" not in said
    assert not out.exists()


# --- what this place is ---


def write(root: Path, name: str, text: str = "") -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_a_bare_machine_has_nothing_of_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    here = look("onnxruntime 1.31.1", tmp_path)
    assert (here.container, here.wsl, here.card, here.driver) == (False, False, False, "")
    assert here.runtime == "onnxruntime 1.31.1"


@pytest.mark.parametrize(
    ("name", "text"),
    [(".dockerenv", ""), ("run/.containerenv", ""), ("proc/1/cgroup", "0::/kubepods/besteffort/pod12\n")],
)
def test_a_container_is_known_by_what_it_leaves(tmp_path: Path, name: str, text: str) -> None:
    write(tmp_path, name, text)
    assert look(root=tmp_path).container


def test_the_driver_tells_its_version(tmp_path: Path) -> None:
    write(tmp_path, "dev/nvidia0")
    line = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.183.01  Sun May 12 19:39:15 UTC 2024\n"
    write(tmp_path, "proc/driver/nvidia/version", line)
    here = look(root=tmp_path)
    assert (here.card, here.driver) == (True, "535.183.01")


def test_wsl_is_known_by_its_kernel(tmp_path: Path) -> None:
    write(tmp_path, "proc/sys/kernel/osrelease", "5.15.167.4-microsoft-standard-WSL2\n")
    assert look(root=tmp_path).wsl
    assert not look(root=tmp_path).card
    write(tmp_path, "dev/dxg")
    assert look(root=tmp_path).card


def test_cuda_of_the_system_is_found(tmp_path: Path) -> None:
    write(tmp_path, "usr/local/cuda-12.4/targets/x86_64-linux/lib/libcublasLt.so.12")
    write(tmp_path, "usr/local/cuda-12.4/targets/x86_64-linux/lib/libcublasLt.so.12.4.5.8")
    assert 12 in look(root=tmp_path).cuda
