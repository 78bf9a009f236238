"""--precision reduced: masks that are as good, told where it runs, and a clear error where it cannot."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
from dataclasses import replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from cutout.engines import openvino
from cutout.engines.base import EngineRequest, open_engine
from cutout.enums import Precision
from cutout.errors import ClosedError, DeviceError, ExitCode, UsageError
from cutout.formats import decode
from cutout.models.files import prepared_home
from cutout.models.registry import MODELS
from cutout.options import RemoveOptions
from cutout.pipeline.remover import Remover

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Cutout
    from numpy.typing import NDArray

NAMES = ("astronaut.jpg", "chelsea.jpg", "coffee.jpg")


def _why_not() -> str:
    """Why reduced precision cannot run here; empty where it can."""
    if find_spec("openvino") is None:
        return "openvino is not installed (the reduced extra)"
    capabilities = openvino._runtime().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return "" if "BF16" in capabilities else "this processor has no bfloat16"


WHY_NOT = _why_not()
runs_here = pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)


@pytest.fixture(scope="module")
def reduced(tmp_path_factory: pytest.TempPathFactory) -> Remover:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUTOUT_HOME", str(tmp_path_factory.mktemp("reduced")))
        return Remover(precision="reduced", jobs=2)


def mask(remover: Remover, path: Path) -> NDArray[np.float32]:
    image = remover.cut(decode.decode(path.read_bytes()), RemoveOptions(mask=True)).image
    return np.asarray(image, np.float32)


@runs_here
@pytest.mark.parametrize("name", NAMES)
def test_masks_are_those_of_full_precision_but_for_their_last_bits(
    reduced: Remover, remover: Remover, examples: Path, name: str
) -> None:
    difference = np.abs(mask(reduced, examples / name) - mask(remover, examples / name))
    # 1.02 of 255 on average for the worst of the three, with OpenVINO 2026.4 on a processor with AMX
    assert 0 < difference.mean() < 1.1, "other arithmetic, the same mask"


@runs_here
def test_the_layers_that_bear_no_bfloat16_are_what_makes_the_difference(
    remover: Remover, examples: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without them the masks are off: the list in the registry is not for show."""
    monkeypatch.setattr(openvino, "_check_precisions", lambda *_: None)
    spec = replace(MODELS["u2netp"], reduced=replace(_reduced_of("u2netp"), exact=()))
    careless = Remover(device="cpu")
    careless.session = open_engine(EngineRequest(spec=spec, precision=Precision.REDUCED))
    picture = examples / "chelsea.jpg"
    assert np.abs(mask(careless, picture) - mask(remover, picture)).mean() > 1


def _reduced_of(name: str) -> Any:
    found = MODELS[name].reduced
    assert found is not None
    return found


@runs_here
def test_a_runtime_that_ignores_the_marks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino, "_mark", lambda _layer: None)
    with pytest.raises(DeviceError, match="does not mix float32 and bfloat16 as told") as caught:
        Remover(precision="reduced")
    assert "Conv_765" in caught.value.message
    assert not list(prepared_home().glob("openvino/*")), "and nothing of it is kept"


@runs_here
def test_one_that_is_closed_says_so(examples: Path) -> None:
    with Remover(precision="reduced") as remover:
        mask(remover, examples / "chelsea.jpg")
    with pytest.raises(ClosedError, match="u2netp was closed"):
        mask(remover, examples / "chelsea.jpg")


@runs_here
def test_a_picture_has_one_mask_whatever_runs_beside_it(reduced: Remover, examples: Path) -> None:
    alone = {name: mask(reduced, examples / name) for name in NAMES}
    beside: dict[int, NDArray[np.float32]] = {}

    def work(number: int) -> None:
        beside[number] = mask(reduced, examples / NAMES[number])

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(beside) == 3
    for number, found in beside.items():
        assert np.array_equal(found, alone[NAMES[number]])


@runs_here
def test_a_picture_has_one_mask_whatever_the_number_of_threads(reduced: Remover, examples: Path) -> None:
    several = Remover(precision="reduced")
    several.session = open_engine(EngineRequest(spec=MODELS["u2netp"], precision=Precision.REDUCED, threads=3))
    picture = examples / "chelsea.jpg"
    assert np.array_equal(mask(several, picture), mask(reduced, picture))


@runs_here
def test_the_compiled_model_is_kept_and_a_broken_copy_is_replaced(examples: Path) -> None:
    picture = examples / "coffee.jpg"
    first = mask(Remover(precision="reduced"), picture)
    (kept,) = prepared_home().glob("openvino/*")
    good = kept.stat().st_size
    assert np.array_equal(mask(Remover(precision="reduced"), picture), first), "from the copy"
    for damage in (b"no model", kept.read_bytes()[: good // 2]):
        kept.write_bytes(damage)
        assert np.array_equal(mask(Remover(precision="reduced"), picture), first)
        (kept,) = prepared_home().glob("openvino/*")
        assert kept.stat().st_size == good


@runs_here
def test_a_home_that_cannot_be_written_costs_time_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "a-file"
    home.write_bytes(b"")
    monkeypatch.setenv("CUTOUT_HOME", str(home))
    assert Remover(precision="reduced").precision is Precision.REDUCED


@runs_here
def test_the_command_says_what_it_computed_in(cutout: Cutout, examples: Path, tmp_path: Path) -> None:
    run = cutout("remove", examples / "coffee.jpg", "-o", tmp_path / "a.png", "--json", CUTOUT_PRECISION="reduced")
    assert run.code == 0, run.err
    assert run.lines[-1]["precision"] == "reduced"
    assert "in reduced precision" in run.err


@runs_here
def test_nothing_is_reported_to_the_maker_of_the_runtime(examples: Path, tmp_path: Path, home: Path) -> None:
    """OpenVINO's package reports that it was imported, and keeps a number of its user in the home folder."""
    command = [sys.executable, "-m", "cutout", "remove", str(examples / "coffee.jpg"), "-o", str(tmp_path / "a.png")]
    trace = tmp_path / "trace"
    strace = ["strace", "-f", "-e", "trace=socket,connect", "-o", str(trace)] if shutil.which("strace") else []
    done = subprocess.run([*strace, *command, "--precision", "reduced"], capture_output=True, check=False)
    if b"ptrace" in done.stderr.lower():
        pytest.skip("strace may not trace here")
    assert done.returncode == 0, done.stderr
    assert {path.name for path in home.iterdir()} == {"cutout"}
    assert not strace or "AF_INET" not in trace.read_text()


def test_a_missing_package_is_named(cutout: Cutout, examples: Path, tmp_path: Path) -> None:
    (tmp_path / "openvino.py").write_text("raise ModuleNotFoundError('No module named openvino', name='openvino')")
    run = cutout(
        *("remove", examples / "coffee.jpg", "-o", tmp_path / "a.png", "--precision", "reduced"),
        PYTHONPATH=str(tmp_path),
    )
    assert run.code == ExitCode.DEVICE
    assert 'pip install "cutout-cli[reduced]"' in run.err
    assert not (tmp_path / "a.png").exists()


def test_a_processor_without_bfloat16_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Core:
        def get_property(self, *_: str) -> list[str]:
            return ["FP32", "INT8"]

    class Runtime:
        Core: Any

    runtime = Runtime()
    runtime.Core = Core
    monkeypatch.setattr(openvino, "_runtime", lambda: runtime)
    with pytest.raises(DeviceError, match="has no bfloat16"):
        Remover(precision="reduced")


@pytest.mark.parametrize("model", ["u2net", "isnet-general-use", "rembg:u2netp", "own.onnx"])
def test_a_model_that_was_not_measured_to_bear_it_is_refused(model: str) -> None:
    with pytest.raises(UsageError, match=r"^precision reduced is not there for") as caught:
        Remover(model, precision="reduced")
    assert "models that have it: u2netp;" in (caught.value.hint or "")


def test_another_device_than_the_cpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="runs on the CPU, but device says cuda"):
        Remover(precision="reduced", device="cuda")
    monkeypatch.setenv("ONNXRUNTIME_EXECUTION_PROVIDERS", "CUDAExecutionProvider")
    with pytest.raises(UsageError, match="but ONNXRUNTIME_EXECUTION_PROVIDERS says cuda"):
        Remover(precision="reduced")


def test_unknown_words_are_refused() -> None:
    with pytest.raises(UsageError, match="unknown precision 'half'"):
        Remover(precision="half")
    with pytest.raises(UsageError, match=r"^unknown model_option class=upper"):
        Remover(precision="reduced", model_options={"class": "upper"})


@pytest.mark.parametrize("command", ["remove", "bench"])
def test_the_commands_refuse_before_any_work(cutout: Cutout, examples: Path, command: str) -> None:
    run = cutout(command, examples / "coffee.jpg", "--model", "silueta", "--precision", "reduced")
    assert run.code == ExitCode.USAGE
    assert "--precision reduced is not there for silueta" in run.err
    assert "for others leave out --precision reduced" in run.err
