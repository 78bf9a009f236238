"""`cutout doctor`: what this machine offers, and what stands in the way."""

from __future__ import annotations

import json
import sys
from importlib import metadata
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime
import pytest

from cutout.engines.devices import CPU, PROVIDERS
from cutout.engines.environment import runtime_log_of
from cutout.engines.examine import examine
from cutout.engines.selftest import SHAPE, TINY_MODEL, expected
from cutout.formats.png import deflater
from cutout.models.registry import MODELS

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Cutout


@pytest.fixture
def second_package(tmp_path: Path) -> str:
    """A folder which makes Python believe that onnxruntime-gpu is installed beside onnxruntime."""
    info = tmp_path / "site" / "onnxruntime_gpu-1.21.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: onnxruntime-gpu\nVersion: 1.21.0\n")
    return str(info.parent)


def test_this_machine_is_healthy(cutout: Cutout) -> None:
    run = cutout("doctor", "--json")
    assert (run.code, run.err) == (0, "")
    (found,) = run.lines
    assert found["healthy"] is True
    assert found["advice"] == []
    assert found["runtime_packages"]["onnxruntime"] == metadata.version("onnxruntime")
    assert CPU.name in found["runtime_providers"]
    assert found["device_asked"] == ["auto"]
    assert list(found["models"]) == ["u2netp"]
    assert found["offline"] is False
    (cpu,) = [check for check in found["providers"] if check["device"] == "cpu"]
    assert cpu["works"] is True
    assert 0 < cpu["ms"] < cpu["first_ms"]
    assert found["png"] == {"fastest": "isal 2", "fast": "zlib_ng 4", "small": "zlib_ng 9"}


def test_people_get_the_same_in_lines(cutout: Cutout) -> None:
    run = cutout("doctor")
    assert run.code == 0
    text = run.out.decode()
    assert "device cpu" in text
    assert "works" in text
    assert "all is well" in text
    assert "to do" not in text


def test_what_is_asked_for_in_the_environment_is_shown(cutout: Cutout, home: Path) -> None:
    (found,) = cutout("doctor", "--json", CUTOUT_DEVICE="cpu", CUTOUT_OFFLINE="1").lines
    assert found["device_asked"] == ["cpu"]
    assert found["offline"] is True
    assert found["model_folder"] == str(home / "cutout" / "models")


def test_an_environment_that_makes_no_sense_is_advice_not_an_end(cutout: Cutout) -> None:
    run = cutout("doctor", "--json", CUTOUT_DEVICE="gpu")
    assert run.code == 4
    (found,) = run.lines
    assert found["healthy"] is False
    (advice,) = found["advice"]
    assert "no device 'gpu'" in advice
    assert "cuda" in advice


def test_two_packages_over_each_other_are_told_with_the_way_out(cutout: Cutout, second_package: str) -> None:
    run = cutout("doctor", "--json", PYTHONPATH=second_package)
    assert run.code == 4
    (found,) = run.lines
    assert set(found["runtime_packages"]) == {"onnxruntime", "onnxruntime-gpu"}
    (advice,) = found["advice"]
    assert "onnxruntime and onnxruntime-gpu are both installed" in advice
    assert "pip uninstall -y onnxruntime onnxruntime-gpu && pip install" in advice
    text = cutout("doctor", PYTHONPATH=second_package).out.decode()
    assert f"to do: {advice}" in text
    assert "all is well" not in text


def test_without_a_runtime_there_is_one_thing_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setattr("cutout.system.distributions", dict)
    found = examine()
    assert not found.healthy
    assert [(check.device, check.works) for check in found.checks] == [("cpu", False)]
    (advice,) = found.advice
    assert "ONNX Runtime is not installed" in advice
    assert 'pip install "cutout-cli[cpu]"' in advice


def test_a_runtime_that_does_not_load_is_told_by_what_it_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Such as a library of the system that is missing: nothing is wrong with what was installed."""
    package = tmp_path / "onnxruntime"
    package.mkdir()
    (package / "__init__.py").write_text("raise ImportError('libstdc++.so.6: version GLIBCXX_3.4.30 not found')")
    monkeypatch.delitem(sys.modules, "onnxruntime")
    monkeypatch.syspath_prepend(tmp_path)
    found = examine()
    assert not found.healthy
    (advice,) = found.advice
    assert "GLIBCXX_3.4.30 is missing" in advice
    assert "built without" not in advice


class Refusing:
    """A runtime that lists CUDA and, when it comes to it, refuses."""

    def __getattr__(self, name: str) -> Any:
        return getattr(onnxruntime, name)

    def get_available_providers(self) -> list[str]:
        return ["CUDAExecutionProvider", "TensorrtExecutionProvider", CPU.name]

    def InferenceSession(self, path: Any, *, sess_options: Any, providers: Any, **_: Any) -> Any:  # noqa: N802
        if providers[0][0] != CPU.name:
            raise RuntimeError("CUDA failure 12345: something new")
        return onnxruntime.InferenceSession(path, sess_options, providers=[CPU.name])


def test_a_device_is_judged_by_what_it_does_not_by_what_is_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", Refusing())
    found = examine()
    assert [(check.device, check.works) for check in found.checks] == [("cuda", False), ("cpu", True)]
    assert "CUDA failure 12345: something new" in found.checks[0].reason
    assert not found.healthy
    (advice,) = found.advice
    assert advice.startswith("cuda: the runtime refused it")


def test_a_broken_embedded_model_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "u2netp.onnx"
    broken.write_bytes(b"half a model")
    monkeypatch.setattr("cutout.models.files.candidates", lambda _spec: iter([broken]))
    found = examine()
    assert not found.healthy
    (advice,) = found.advice
    assert "corrupt" in advice
    assert "cutout models pull u2netp" in advice


def test_a_device_that_computes_nonsense_does_not_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cutout.engines.selftest.expected", lambda _channels: 0.75)
    (cpu,) = [check for check in examine().checks if check.device == "cpu"]
    assert (cpu.works, cpu.reason) == (False, "it computes a wrong result")


def test_the_tiny_network_is_a_sound_model_with_the_result_it_states() -> None:
    model = onnx.load_from_string(TINY_MODEL)
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(TINY_MODEL, providers=[CPU.name])
    for channels in ((1.0, 0.0, 0.0), (0.0, 1.0, 0.5), (0.3, -0.2, 0.9)):
        picture = np.broadcast_to(np.reshape(np.array(channels, np.float32), (1, 3, 1, 1)), SHAPE)
        (mask,) = session.run(None, {"picture": np.ascontiguousarray(picture)})
        assert mask.shape == (1, 1, 8, 8)
        assert mask == pytest.approx(np.full((1, 1, 8, 8), expected(channels)), abs=1e-6)


def test_missing_fast_deflate_libraries_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("isal", "zlib_ng"):
        monkeypatch.setitem(sys.modules, name, None)
    deflater.cache_clear()
    try:
        found = examine()
    finally:
        deflater.cache_clear()
    assert found.facts["png"] == {"fastest": "zlib 1", "fast": "zlib 1", "small": "zlib 9"}
    (advice,) = found.advice
    assert "slow zlib" in advice
    assert "pip install --force-reinstall zlib-ng isal" in advice
    assert not found.healthy


def test_a_provider_that_is_passed_over_in_silence_is_asked_for_its_reason() -> None:
    """The real runtime, in a process of its own: here it has no such provider, and says nothing of the matter."""
    assert runtime_log_of(("CPUExecutionProvider", {})) == ""
    assert "NoSuchProvider" in runtime_log_of(("NoSuchProvider", {}))


def test_the_lines_for_programs_are_json_whatever_is_found() -> None:
    found = examine().as_json()
    assert json.loads(json.dumps(found)) == found
    assert {check["device"] for check in found["providers"]} <= {provider.device for provider in PROVIDERS}
    assert set(found["models"]) <= set(MODELS)
