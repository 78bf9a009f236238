"""A model on the processor by MNN, whose Winograd convolutions need fewer multiplications; alone imports MNN's modules.

MNN computes 256 bits at once: 1.7 times as fast as ONNX Runtime on processors that do no more than that, no faster on
those with two full units of AVX-512. So a trial decides, once for each model, pair of runtimes and kind of processor,
in a process of its own, whose crash would be an answer too.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
import threading
import time
from collections import deque
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from cutout import system
from cutout.engines import prepared
from cutout.engines.base import EngineRequest, TensorEngine, closed
from cutout.engines.devices import CPU
from cutout.engines.known_errors import first_line
from cutout.engines.onnxruntime import OnnxEngine, faster_copy, open_onnx, wanted_class
from cutout.engines.runtime import installed_packages, load_runtime
from cutout.enums import EngineName
from cutout.errors import CutoutError, DeviceError, OutputError, UsageError
from cutout.models.files import prepared_home, require, sha256

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy.typing as npt

    from cutout.models.registry import ModelSpec

    Warn = Callable[[str], None]

__all__ = ["MnnEngine", "Trial", "known_trial", "open_mnn", "trial_process", "version"]

_LARGEST = 64 << 20
"""Bytes of a model's file up to which `auto` takes MNN: each session keeps five times that as transformed weights
(u2net: 0.9 GB), and makes them at each start, which takes longer than a picture gains."""
_MANY = 20
"""Pictures from which on a trial, which takes two seconds, is worth while."""
_AGREEMENT = 2 / 255
"""Of the range of the output: how far MNN's may lie from ONNX Runtime's."""
_WORTH = 0.9
"""Of ONNX Runtime's time: what MNN must need at most."""
_TIMEOUT = 300.0  # seconds: u2net takes 20
_ROUNDS = 2
_INSTALL = 'pip install "cutout-cli[cpu]"'


class Trial(NamedTuple):
    """What came of trying MNN on a model.

    Attributes:
        ratio: Its processor time as a share of ONNX Runtime's; 0 where it cannot be used.
        output: The name of the model's chosen output.
        size: (height, width) that the file fixes, if it does.
        fault: Why it cannot be used, in one line; empty where it can.
    """

    ratio: float = 0.0
    output: str = ""
    size: tuple[int, int] | None = None
    fault: str = ""


class _Session:
    """One picture at a time, on one thread: results depend on the number of threads, so it is the same for all."""

    def __init__(self, model: Path, output: str, shape: tuple[int, ...]) -> None:
        with _silence():
            import _mnncengine as engine

            self._engine = engine
            self._network = engine.Interpreter(str(model))
            settings = {"backend": "CPU", "numThread": 1, "precision": "high", "saveTensors": (output,)}
            self._session = self._network.createSession(settings)
            self._input = self._network.getSessionInput(self._session)
            if tuple(self._input.getShape()) != shape:
                self._network.resizeTensor(self._input, shape)
                self._network.resizeSession(self._session)
        self._output = self._network.getSessionOutput(self._session, output)
        self.shape = shape

    def run(self, batch: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """One inference, which lets other threads run.

        Raises:
            RuntimeError: It failed; MNN tells by a number.
        """
        self._input.copyFrom(self._tensor(self.shape, np.ascontiguousarray(batch)))
        if code := self._network.runSession(self._session):
            raise RuntimeError(f"MNN error {code}")
        shape = tuple(self._output.getShape())
        result = self._tensor(shape, np.empty(shape, np.float32))
        self._output.copyToHostTensor(result)
        return np.array(result.getNumpyData()).reshape(shape)

    def _tensor(self, shape: tuple[int, ...], values: npt.NDArray[np.float32]) -> Any:
        engine = self._engine
        return engine.Tensor(shape, engine.Halide_Type_Float, values, engine.Tensor_DimensionType_Caffe)


class MnnEngine(TensorEngine):
    """A model that MNN runs, each picture on one thread; as many sessions as pictures were there at once."""

    device = CPU.device
    engine = EngineName.MNN

    def __init__(self, model: Path, spec: ModelSpec, output: str, chosen_class: str) -> None:
        self.spec = spec
        self.wanted_class = chosen_class
        self._model: Path | None = model
        self._output = output
        self._idle: deque[_Session] = deque()

    def run(self, batch: Any, *, sparing: bool = False) -> Any:
        """See `TensorEngine.run`; a sparing run gives its session back, which takes 12 ms to open again."""
        model = self._model
        if model is None:
            raise closed(self.spec)
        try:
            session = self._idle.pop()
        except IndexError:
            session = None
        try:
            if session is None or session.shape != batch.shape:
                session = _Session(model, self._output, batch.shape)
            output = session.run(batch)
        except Exception as error:  # the runtime's exceptions share no base
            raise CutoutError(f"{self.spec.name} failed on MNN: {first_line(error)}") from error
        if not sparing and self._model is not None:
            self._idle.append(session)
        return output

    def close(self) -> None:
        """See `Engine.close`."""
        self._model = None
        self._idle.clear()


def version() -> str:
    """Of the installed MNN; empty where there is none."""
    return system.distributions().get("mnn", "")


def open_mnn(request: EngineRequest, warn: Warn) -> MnnEngine | OnnxEngine:
    """Open a model by MNN; by ONNX Runtime where nobody asked for MNN and it is no faster, or not as good.

    Raises:
        UsageError: MNN was asked for, and another device too.
        DeviceError: MNN was asked for, and cannot run this model here.
    """
    spec, asked_for = request.spec, request.chosen_engine is EngineName.MNN
    if asked_for:
        _check(request)
    chosen_class = wanted_class(spec, dict(request.model_options))
    path = require(spec)
    if not version() or not (asked_for or _worth_a_trial(spec, path)):
        return open_onnx(request, warn)
    trial, model = _tried(path, request, warn)
    if asked_for and trial.fault:
        raise DeviceError(
            f"engine mnn cannot be used for {spec.name}: {trial.fault}", hint="engine auto", options=("engine",)
        )
    if model is None:
        return open_onnx(request, warn)
    if trial.size and trial.size != spec.size:
        spec = replace(spec, size=trial.size)
    return MnnEngine(model, spec, trial.output, chosen_class)


def _check(request: EngineRequest) -> None:
    devices = request.asked.devices
    if devices and devices[0].provider != CPU:
        raise UsageError(
            f"engine mnn runs on the CPU, but {request.asked.origin} says {devices[0]}",
            hint="device cpu, or engine auto",
            options=("engine", "device"),
        )
    if not version():
        raise DeviceError("engine mnn needs MNN, which is not installed", hint=_INSTALL, options=("engine",))


def _worth_a_trial(spec: ModelSpec, path: Path) -> bool:
    """Whether `auto` considers MNN: a small model whose file is known."""
    return bool(spec.sha256) and path.stat().st_size <= _LARGEST


def _tried(path: Path, request: EngineRequest, warn: Warn) -> tuple[Trial, Path | None]:
    """What the trial found, now or earlier, and the converted model, if it is to be used."""
    spec, asked_for = request.spec, request.chosen_engine is EngineName.MNN
    stem = _stem(spec.sha256 or sha256(path), spec)
    trial = _kept(stem)
    if trial is not None and (trial.fault or not (asked_for or trial.ratio <= _WORTH)):
        return trial, None
    if trial is None or (model := prepared.kept(stem, ".mnn")) is None:
        if why_not := _why_no_trial(request):
            return Trial(fault=why_not), None
        trial, content = _try(path, spec)
        try:
            model = prepared.keep(stem, ".mnn", content) if content else None
            prepared.keep(stem, ".json", json.dumps(trial).encode())
        except (OSError, OutputError) as error:
            return Trial(fault=f"there is no place to keep the converted model: {error}"), None
        if trial.fault:
            warn(f"MNN cannot be used for {spec.name}, ONNX Runtime is: {trial.fault}")
    return trial, model if asked_for or trial.ratio <= _WORTH else None


def _why_no_trial(request: EngineRequest) -> str:
    """Why MNN is not tried now; empty where it is."""
    pictures = request.options.pictures
    if request.chosen_engine is EngineName.AUTO and (pictures < _MANY if pictures else request.jobs == 1):
        return "not tried yet"
    home = prepared_home()
    with contextlib.suppress(OSError):
        home.mkdir(parents=True, exist_ok=True)
    # one at each start would cost more than it gains
    return "" if os.access(home, os.W_OK) else "there is no place to keep the converted model"


def known_trial(spec: ModelSpec) -> Trial | None:
    """What an earlier trial of a registry model found."""
    return _kept(_stem(spec.sha256, spec))


def _kept(stem: str) -> Trial | None:
    with contextlib.suppress(OSError, ValueError, TypeError):
        if (notes := prepared.kept(stem, ".json")) is not None:
            return _read(notes)
    return None


def _read(notes: Path) -> Trial:
    ratio, output, size, fault = json.loads(notes.read_bytes())
    return Trial(ratio, output, tuple(size) if size else None, fault)


def _stem(digest: str, spec: ModelSpec) -> str:
    """Under which name the converted model and the notes are kept: what the trial depends on."""
    import platform

    here = platform.machine(), _processor(), sorted(installed_packages().items())
    facts = repr((here, spec.output, spec.size))
    return f"{digest[:16]}-mnn{version()}-{hashlib.sha256(facts.encode()).hexdigest()[:16]}"


def _processor() -> str:
    """The kind of processor: two machines that share a home may differ."""
    import platform

    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8", "replace").partition("\n\n")[0].splitlines()
    except OSError:
        return platform.processor()
    return "\n".join(line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part")))


def _try(path: Path, spec: ModelSpec) -> tuple[Trial, bytes]:
    """Convert a model and compare it with ONNX Runtime, in a process of its own; the result and the converted model."""
    import pickle
    import subprocess
    import tempfile

    if getattr(sys, "frozen", False):  # a program made of one file: its executable is no Python
        return Trial(fault="the trial needs a Python of its own"), b""
    with tempfile.TemporaryDirectory(prefix="cutout-mnn-") as folder:
        try:
            done = subprocess.run(
                [sys.executable, "-P", "-c", "from cutout.engines.mnn import trial_process; trial_process()", folder],
                input=pickle.dumps(replace(spec, path=path.absolute())),
                cwd=folder,  # the converter writes to the current one
                stdout=subprocess.DEVNULL,  # the converter prints there
                stderr=subprocess.PIPE,
                timeout=_TIMEOUT,
                check=False,
                start_new_session=True,  # an interruption of the run is no fault of MNN's
            )
            if done.returncode:
                last = done.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2]
                return Trial(fault=f"its trial ended with {done.returncode}" + (f": {last}" if last else "")), b""
            trial = _read(Path(folder) / "trial.json")
            return trial, b"" if trial.fault else (Path(folder) / "model.mnn").read_bytes()
        except (OSError, ValueError, TypeError, subprocess.SubprocessError) as error:
            return Trial(fault=f"its trial failed: {error}"), b""


def trial_process() -> None:
    """What the other process runs: reads a pickled `ModelSpec`, writes `model.mnn` and `trial.json` to its folder."""
    import pickle

    folder = Path(sys.argv[1])
    spec: ModelSpec = pickle.load(sys.stdin.buffer)  # noqa: S301 - from our own parent
    (folder / "trial.json").write_text(json.dumps(_compare(spec, folder / "model.mnn")))


def _compare(spec: ModelSpec, target: Path) -> Trial:
    """Convert the model, then run both engines on one picture, one thread each."""
    from cutout.engines.batching import agrees, probe
    from cutout.models.tensors import input_size

    here = EngineRequest(spec=spec, device="cpu", engine=EngineName.ONNXRUNTIME)
    reference = open_onnx(here, lambda _text: None)
    path = require(spec)
    _convert(faster_copy(path, spec, load_runtime(here.asked)) or path, target)
    picture = probe(input_size(reference.spec, (4, 3)))[:1]
    output = reference.wiring[2]
    session = _Session(target, output, picture.shape)
    expected, theirs = _timed(lambda: reference.run(picture))
    found, ours = _timed(lambda: session.run(picture))
    size = reference.spec.size
    if not agrees(found, expected, _AGREEMENT):
        return Trial(output=output, size=size, fault="its masks differ")
    return Trial(ratio=round(ours / theirs, 3), output=output, size=size)


def _timed(run: Callable[[], Any]) -> tuple[Any, float]:
    """A result, and the least processor time of this thread that it took."""
    times = []
    for _ in range(_ROUNDS):
        start = time.thread_time()
        result = run()
        times.append(time.thread_time() - start)
    return result, max(min(times), 1e-6)


def _convert(source: Path, target: Path) -> None:
    """An ONNX file as MNN's. Its package has a script for it, which is never run: that one reports to its maker.

    Raises:
        ValueError: It cannot be converted.
    """
    import _tools

    words = ["-f", "ONNX", "--modelFile", str(source), "--MNNModel", str(target), "--bizCode", "cutout"]
    _tools.mnnconvert(["", *words, "--optimizePrefer", "2"])
    if not target.is_file() or not target.stat().st_size:
        raise ValueError("MNN cannot convert it")


_quiet_lock = threading.Lock()


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keep what MNN prints off standard output, which carries pictures.

    Python writes by the descriptor, C code by a stream of the C library: that one alone is exchanged, so that nothing
    is lost of what other threads write.
    """
    import ctypes

    with _quiet_lock, Path(os.devnull).open("wb") as nowhere:
        library = ctypes.CDLL(None) if os.name == "posix" else None
        name = "__stdoutp" if sys.platform == "darwin" else "stdout"
        try:
            stream = ctypes.c_void_p.in_dll(library, name)  # type: ignore[arg-type]
        except (TypeError, ValueError):  # another C library: its lines are seen
            yield
            return
        library.fdopen.restype = ctypes.c_void_p  # type: ignore[union-attr]
        before, stream.value = stream.value, library.fdopen(os.dup(nowhere.fileno()), b"w")  # type: ignore[union-attr]
        try:
            yield
        finally:
            opened, stream.value = stream.value, before
            library.fclose(ctypes.c_void_p(opened))  # type: ignore[union-attr]
