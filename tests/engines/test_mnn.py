"""The engine mnn: ONNX Runtime's masks, taken where a trial found it faster; none of its faults reaches the user."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image
from small import brightness_model, half

from cutout.engines import mnn, prepared
from cutout.engines.base import EngineRequest, open_engine
from cutout.engines.mnn import MnnEngine, Trial
from cutout.enums import EngineName, Precision
from cutout.errors import ClosedError, CutoutError, DeviceError, ExitCode, UsageError
from cutout.models.files import prepared_home
from cutout.models.registry import MODELS, resolve_model
from cutout.options import DeviceOptions
from cutout.pipeline.remover import Remover
from cutout.timing import StageTimes

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Cutout
    from numpy.typing import NDArray

NAMES = ("astronaut.jpg", "chelsea.jpg", "coffee.jpg")
SPEC = MODELS["u2netp"]

pytestmark = pytest.mark.skipif(find_spec("_mnncengine") is None, reason="MNN is not installed")


@pytest.fixture(scope="module")
def tried(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home in which u2netp was tried."""
    folder = tmp_path_factory.mktemp("tried")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUTOUT_HOME", str(folder))
        Remover(engine="mnn").close()
    return folder


@pytest.fixture
def ready(tried: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CUTOUT_HOME", str(tried))
    return tried


def mask(remover: Remover, path: Path) -> NDArray[np.int16]:
    """At the network's own resolution; Lanczos makes a level more of a difference."""
    with Image.open(path) as image:
        found = remover.session.predict(image.convert("RGB"), fit=None, rescale=None, stages=StageTimes())
    return np.asarray(found, np.int16)


def refuse(_text: str) -> None:
    pytest.fail(_text)


@pytest.mark.parametrize("name", NAMES)
def test_masks_are_those_of_onnxruntime(ready: Path, remover: Remover, examples: Path, name: str) -> None:
    with Remover(engine="mnn", warn=refuse) as ours:
        assert ours.engine == "mnn"
        difference = np.abs(mask(ours, examples / name) - mask(remover, examples / name))
    assert difference.max() <= 1
    assert difference.mean() < 0.01


def test_a_mask_is_the_same_alone_and_beside_others(ready: Path, examples: Path) -> None:
    with Remover(engine="mnn", jobs=1) as alone, Remover(engine="mnn", jobs=4) as several:
        expected = {name: mask(alone, examples / name) for name in NAMES}
        found: dict[tuple[int, str], NDArray[np.int16]] = {}

        def work(number: int) -> None:
            for name in NAMES:
                found[number, name] = mask(several, examples / name)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(found) == 12
    assert all(np.array_equal(image, expected[name]) for (_, name), image in found.items())


class TestTrial:
    """When MNN is taken."""

    @pytest.mark.parametrize(("ratio", "engine"), [(0.6, "mnn"), (1.1, "onnxruntime")])
    def test_auto_takes_the_faster_one(
        self, ready: Path, monkeypatch: pytest.MonkeyPatch, ratio: float, engine: str
    ) -> None:
        known = mnn.known_trial(SPEC)
        assert known is not None
        assert known.ratio > 0
        monkeypatch.setattr(mnn, "_kept", changed(mnn._kept, ratio=ratio))
        with Remover(engine="auto", jobs=2, warn=refuse) as remover:
            assert remover.engine == engine

    def test_it_is_made_once(self, ready: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(mnn, "_try", lambda *_: pytest.fail("tried again"))
        for _ in range(2):
            Remover(engine="auto", jobs=2).close()
            Remover(engine="mnn").close()

    def test_a_damaged_copy_is_made_again(self, tried: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        home = shutil.copytree(tried, tmp_path / "copy")
        monkeypatch.setenv("CUTOUT_HOME", str(home))
        (copy,) = prepared_home().glob("*.mnn")
        copy.write_bytes(copy.read_bytes()[:-1] + b"?")
        with Remover(engine="mnn", warn=refuse) as remover:
            assert remover.engine == "mnn"
        (copy,) = prepared_home().glob("*.mnn")
        assert copy.read_bytes()[-1:] != b"?"

    @pytest.mark.parametrize(
        ("program", "fault"),
        [
            ("import os, signal; os.kill(os.getpid(), signal.SIGILL)", "its trial ended with -4"),
            ("raise ValueError('no such operator')", "its trial ended with 1: ValueError: no such operator"),
            ("pass", "its trial failed: "),
        ],
    )
    def test_a_crash_of_it_leaves_onnxruntime(
        self, home: Path, monkeypatch: pytest.MonkeyPatch, program: str, fault: str
    ) -> None:
        """Said once; the next run knows it."""
        run: Callable[..., Any] = subprocess.run

        def instead(command: list[str], **settings: Any) -> Any:
            return run([*command[:3], program, *command[4:]], **settings)

        monkeypatch.setattr(subprocess, "run", instead)
        warnings: list[str] = []
        for _ in range(2):
            with Remover(engine="auto", jobs=2, warn=warnings.append) as remover:
                assert remover.engine == "onnxruntime"
        assert len(warnings) == 1
        assert warnings[0].startswith(f"MNN cannot be used for u2netp, ONNX Runtime is: {fault}")
        with pytest.raises(DeviceError, match="engine mnn cannot be used for u2netp: its trial"):
            Remover(engine="mnn")

    def test_masks_that_differ_leave_onnxruntime(
        self, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)  # the converter writes to the current folder
        run = mnn._Session.run
        monkeypatch.setattr(mnn._Session, "run", lambda self, batch: run(self, batch) + 0.02)
        assert mnn._compare(SPEC, tmp_path / "model.mnn").fault == "its masks differ"
        monkeypatch.setattr(mnn._Session, "run", run)
        assert mnn._compare(SPEC, tmp_path / "model.mnn").fault == ""

    def test_without_a_place_to_keep_it_none_is_made(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(mnn, "_try", lambda *_: pytest.fail("tried"))
        monkeypatch.setattr("os.access", lambda *_: False)
        with Remover(engine="auto", jobs=2, warn=refuse) as remover:
            assert remover.engine == "onnxruntime"

    def test_large_models_and_own_files_are_not_tried(
        self, home: Path, model: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(mnn, "_try", lambda *_: pytest.fail("tried"))
        with Remover(model, engine="auto", jobs=2, warn=refuse) as remover:
            assert remover.engine == "onnxruntime"
        monkeypatch.setattr(mnn, "_LARGEST", SPEC.bytes - 1)
        with Remover(engine="auto", jobs=2, warn=refuse) as remover:
            assert remover.engine == "onnxruntime"

    def test_two_kinds_of_processor_have_a_trial_each(self, ready: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        assert mnn.known_trial(SPEC) is not None
        monkeypatch.setattr(mnn, "_processor", lambda: "another one")
        assert mnn.known_trial(SPEC) is None

    @pytest.mark.parametrize(("pictures", "tries"), [(0, False), (3, False), (20, True)])
    def test_a_few_pictures_do_not_wait_for_one(
        self, home: Path, monkeypatch: pytest.MonkeyPatch, pictures: int, tries: bool
    ) -> None:
        """The first run after an installation is as quick as any; what is known is used by all."""
        made: list[Path] = []

        def fail(path: Path, _spec: object) -> tuple[Trial, bytes]:
            made.append(path)
            return Trial(fault="its masks differ"), b""

        monkeypatch.setattr(mnn, "_try", fail)
        options = DeviceOptions(pictures=pictures)
        with Remover(engine="auto", device_options=options, warn=lambda _text: None) as remover:
            assert remover.engine == "onnxruntime"
        assert bool(made) is tries


def changed(kept: Callable[[str], Trial | None], **values: Any) -> Callable[[str], Trial]:
    """What was kept, with other values."""

    def instead(stem: str) -> Trial:
        trial = kept(stem)
        assert trial is not None
        return trial._replace(**values)

    return instead


class TestEngine:
    """The opened model."""

    def test_a_file_of_the_users_own(self, home: Path, tmp_path: Path) -> None:
        """Its size is read from the file, and it is taken where it was asked for."""
        picture = half(tmp_path / "a.png")
        path = brightness_model(tmp_path)
        with Remover(path, engine="mnn", warn=refuse) as ours, Remover(path, engine="onnxruntime") as theirs:
            assert (ours.engine, ours.session.spec.size) == ("mnn", (32, 32))
            assert np.abs(mask(ours, picture) - mask(theirs, picture)).max() <= 1

    def test_one_that_takes_any_size(self, home: Path, tmp_path: Path) -> None:
        path = convolution_model(tmp_path)
        spec = resolve_model(path, {"size": None, "long_side": 96})
        request = EngineRequest(spec=spec, engine=EngineName.MNN)
        with (
            open_engine(request, refuse) as ours,
            open_engine(replace(request, engine=EngineName.ONNXRUNTIME)) as theirs,
        ):
            assert isinstance(ours, MnnEngine)
            for shape in ((1, 3, 96, 64), (1, 3, 64, 96), (1, 3, 96, 64)):
                batch = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
                assert np.allclose(ours.run(batch), theirs.run(batch), atol=1e-4)  # type: ignore[attr-defined]

    def test_a_sparing_run_keeps_no_session(self, ready: Path) -> None:
        request = EngineRequest(spec=SPEC, engine=EngineName.MNN)
        with open_engine(request) as engine:
            assert isinstance(engine, MnnEngine)
            batch = np.zeros((1, 3, 320, 320), np.float32)
            engine.run(batch, sparing=True)
            assert not engine._idle
            engine.run(batch)
            assert len(engine._idle) == 1

    def test_it_ends_with_close(self, ready: Path) -> None:
        remover = Remover(engine="mnn")
        remover.close()
        remover.close()
        with pytest.raises(ClosedError):
            remover.session.run(np.zeros((1, 3, 320, 320), np.float32))  # type: ignore[attr-defined]

    def test_a_failure_names_the_model(self, ready: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(*_: Any) -> None:
            raise RuntimeError("MNN error 3")

        monkeypatch.setattr(mnn._Session, "run", fail)
        with Remover(engine="mnn") as remover, pytest.raises(CutoutError, match="u2netp failed on MNN: MNN error 3"):
            remover.session.run(np.zeros((1, 3, 320, 320), np.float32))  # type: ignore[attr-defined]


def convolution_model(folder: Path) -> Path:
    """A model that takes pictures of any size: a 3×3 convolution and a sigmoid."""
    from onnx import TensorProto, helper, numpy_helper, save

    weights = np.random.default_rng(0).standard_normal((1, 3, 3, 3)).astype(np.float32) / 8
    value = helper.make_tensor_value_info
    graph: Any = helper.make_graph(
        [
            helper.make_node("Conv", ["picture", "weights"], ["sum"], pads=[1, 1, 1, 1]),
            helper.make_node("Sigmoid", ["sum"], ["mask"]),
        ],
        "any",
        [value("picture", TensorProto.FLOAT, [1, 3, "height", "width"])],
        [value("mask", TensorProto.FLOAT, [1, 1, "height", "width"])],
        [numpy_helper.from_array(weights, "weights")],
    )
    path = folder / "any.onnx"
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), str(path))
    return path


class TestRefused:
    """What does not go together."""

    def test_another_device(self, home: Path) -> None:
        with pytest.raises(UsageError, match="engine mnn runs on the CPU, but device says cuda"):
            Remover(engine="mnn", device="cuda")

    def test_reduced_precision(self, home: Path) -> None:
        with pytest.raises(UsageError, match="precision reduced runs on OpenVINO, not on MNN"):
            Remover(engine="mnn", precision=Precision.REDUCED)

    def test_an_unknown_engine(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(UsageError, match="unknown engine 'ncnn'"):
            Remover(engine="ncnn")
        monkeypatch.setenv("CUTOUT_ENGINE", "tvm")
        with pytest.raises(UsageError, match="unknown engine 'tvm'"):
            Remover()

    def test_no_mnn(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(mnn, "version", lambda: "")
        with pytest.raises(DeviceError, match="engine mnn needs MNN, which is not installed"):
            Remover(engine="mnn")
        with Remover(engine="auto", warn=refuse) as remover:
            assert remover.engine == "onnxruntime"

    def test_options_of_accelerators_do_nothing(self, ready: Path) -> None:
        warnings: list[str] = []
        Remover(engine="mnn", device_options=DeviceOptions(batch=4), warn=warnings.append).close()
        assert len(warnings) == 1
        assert "engine mnn, which runs on the CPU" in warnings[0]


class TestCommand:
    """As a user meets it."""

    def test_it_is_named(self, ready: Path, cutout: Cutout, examples: Path, tmp_path: Path) -> None:
        target = tmp_path / "a.png"
        run = cutout("remove", examples / "chelsea.jpg", "-o", target, "--engine", "mnn", CUTOUT_HOME=str(ready))
        assert run.code == ExitCode.OK, run.err
        assert "u2netp on cpu (mnn)" in run.err
        run = cutout(
            "remove", examples / "chelsea.jpg", "-o", target, "--existing", "overwrite", "--json", CUTOUT_ENGINE="mnn"
        )
        assert run.lines[-1]["engine"] == "mnn"

    def test_nothing_but_the_picture_is_printed(self, ready: Path, cutout: Cutout, examples: Path) -> None:
        """MNN prints to standard output when it is loaded and when it opens a model."""
        run = cutout("remove", "-", "-o", "-", "--engine", "mnn", "-q", stdin=(examples / "chelsea.jpg").read_bytes())
        assert run.code == ExitCode.OK, run.err
        assert run.out.startswith(b"\x89PNG")
        assert run.out.endswith(b"IEND\xaeB`\x82")
        assert run.err == ""

    def test_doctor_tells(self, ready: Path, home: Path, cutout: Cutout) -> None:
        found = json.loads(cutout("doctor", "--json").out)
        assert "u2netp at " in found["mnn"]
        assert "not tried yet" in json.loads(cutout("doctor", "--json", CUTOUT_HOME=str(home)).out)["mnn"]

    def test_the_outputs_of_a_folder_are_those_of_single_files(
        self, ready: Path, cutout: Cutout, examples: Path, tmp_path: Path
    ) -> None:
        for name in NAMES:
            with Image.open(examples / name) as image:
                image.resize((300, 200)).save(tmp_path / "in.jpg" if name == NAMES[0] else tmp_path / name)
        assert cutout("remove", tmp_path, "-o", tmp_path / "many", "-j", "3", "--engine", "mnn").code == 0
        assert cutout("remove", tmp_path / "in.jpg", "-o", tmp_path / "one.png", "-j", "1", "--engine", "mnn").code == 0
        assert (tmp_path / "one.png").read_bytes() == (tmp_path / "many" / "in.png").read_bytes()


def test_a_trial_opens_no_network_connection(home: Path, examples: Path, tmp_path: Path) -> None:
    """MNN's own script for conversion reports to its maker; what we call does not, nor does the engine."""
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed (Debian: strace)")
    trace, target, scratch = tmp_path / "trace", str(tmp_path / "a.png"), tmp_path / "scratch"
    scratch.mkdir()
    command = [sys.executable, "-m", "cutout", "remove", str(examples / "chelsea.jpg"), "-o", target, "--engine", "mnn"]
    quiet = {name: value for name, value in os.environ.items() if not name.startswith("COV")}  # it writes files, too
    done = subprocess.run(
        ["strace", "-f", "-e", "trace=socket,connect,openat,creat,mkdir", "-o", str(trace), *command],
        env={**quiet, "TMPDIR": str(scratch), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        check=False,
    )
    if b"ptrace" in done.stderr.lower():
        pytest.skip("strace may not trace here")
    assert done.returncode == 0, done.stderr
    lines = trace.read_text().splitlines()
    assert any("model.mnn" in line for line in lines)  # the trial was traced too
    assert not [line for line in lines if "AF_INET" in line]
    written = [line for line in lines if any(word in line for word in ("O_WRONLY", "O_RDWR", "creat(", "mkdir("))]
    ours = (str(tmp_path), str(home), "/dev/", '".__convert')  # the last is the converter's, in the scratch folder
    assert not [line for line in written if not any(place in line for place in ours)]
    assert not list(scratch.iterdir())
    assert not Path(".__convert_external_data.bin").exists()


def test_kept_files_go_with_the_others(tried: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = shutil.copytree(tried, tmp_path / "copy")
    monkeypatch.setenv("CUTOUT_HOME", str(home))
    assert any(path.suffix == ".mnn" for path in prepared.contents())
    prepared.clear()
    assert not prepared.contents()
