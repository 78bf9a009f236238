"""Fixtures: no test sees the user's models or settings, and none touches the network."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from small import brightness_model

from cutout.models.files import require
from cutout.models.registry import MODELS
from cutout.pipeline.remover import Remover

# What is started in the background has SIGINT ignored, and so would have all that is started here.
with contextlib.suppress(ValueError):  # not the main thread
    signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"
_HOMES = ("HOME", "CUTOUT_HOME", "U2NET_HOME", "REMBG_HOME", "XDG_DATA_HOME")


@pytest.fixture(autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home, and none of the variables that the program listens to."""
    folder = tmp_path_factory.mktemp("home")
    for name in list(os.environ):
        if name.startswith("CUTOUT_") and name != "CUTOUT_TEST_WEIGHTS":
            monkeypatch.delenv(name)
    monkeypatch.delenv("ONNXRUNTIME_EXECUTION_PROVIDERS", raising=False)
    for name in _HOMES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("USERPROFILE", str(folder))  # what Windows calls it
    monkeypatch.setenv("CUTOUT_HOME", str(folder / "cutout"))
    monkeypatch.setenv("CUTOUT_ENGINE", "onnxruntime")  # each new home would try MNN out anew, which takes two seconds
    return folder


@pytest.fixture(scope="session")
def examples() -> Path:
    """The pictures that ship with the project: astronaut.jpg, chelsea.jpg, coffee.jpg."""
    return EXAMPLES


@pytest.fixture(scope="session")
def weights() -> Path:
    """A folder of further real models (u2net.onnx, silueta.onnx, isnet.onnx, ...), named by CUTOUT_TEST_WEIGHTS."""
    folder = os.environ.get("CUTOUT_TEST_WEIGHTS")
    if not folder:
        pytest.skip("CUTOUT_TEST_WEIGHTS names no folder of further real models")
    return Path(folder)


@pytest.fixture(scope="session")
def remover(tmp_path_factory: pytest.TempPathFactory) -> Remover:
    """The embedded model on the CPU, opened once; what it keeps goes to a folder of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUTOUT_HOME", str(tmp_path_factory.mktemp("remover")))
        return Remover(device="cpu")


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that keeps what is bright, and takes no time."""
    return brightness_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def here(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder; the processor unless a test says otherwise."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUTOUT_DEVICE", "cpu")
    return tmp_path


@pytest.fixture
def quick_model(home: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command takes `model` unless a test says otherwise."""
    monkeypatch.setenv("CUTOUT_MODEL", str(model))


@pytest.fixture
def rembg_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """rembg's folder of models, with the small one in it."""
    folder = home / "u2net"
    folder.mkdir()
    shutil.copy(require(MODELS["u2netp"]), folder / "u2netp.onnx")
    monkeypatch.setenv("U2NET_HOME", str(folder))
    return folder


@dataclass(frozen=True)
class Run:
    """What a run of the command left behind."""

    code: int
    out: bytes
    err: str

    @property
    def lines(self) -> list[dict[str, Any]]:
        """The JSON lines on standard output."""
        return [json.loads(line) for line in self.out.decode().splitlines()]


class Cutout:
    """Runs the command as a user does, in a process of its own."""

    command = (sys.executable, "-m", "cutout")

    def __call__(self, *args: str | Path, stdin: bytes = b"", cwd: Path | None = None, **environ: str) -> Run:
        done = subprocess.run(
            [*self.command, *map(str, args)],
            input=stdin,
            capture_output=True,
            cwd=cwd,
            env={**os.environ, **environ},
            timeout=300,
            check=False,
        )
        return Run(done.returncode, done.stdout, done.stderr.decode())

    def start(self, *args: str | Path, **environ: str) -> subprocess.Popen[bytes]:
        """Start it and let it run."""
        return subprocess.Popen(
            [*self.command, *map(str, args)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, **environ},
        )


@pytest.fixture
def cutout(home: Path) -> Cutout:
    """The command."""
    return Cutout()
