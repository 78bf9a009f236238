"""Nothing leaves this machine: the runtime's own telemetry is off."""

from __future__ import annotations

import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Cutout


def test_the_runtime_keeps_no_record_of_usage(cutout: Cutout, examples: Path, tmp_path: Path, home: Path) -> None:
    """With telemetry on, onnxruntime 1.29 and later leave a session file and an event database."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    run = cutout("remove", examples / "chelsea.jpg", "-o", tmp_path / "a.png", TMPDIR=str(scratch))
    assert run.code == 0, run.err
    assert not list(scratch.iterdir())
    assert {path.name for path in home.iterdir()} == {"cutout"}


def test_a_run_opens_no_network_connection(examples: Path, tmp_path: Path) -> None:
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed (Debian: strace)")
    trace = tmp_path / "trace"
    picture, target = str(examples / "chelsea.jpg"), str(tmp_path / "a.png")
    command = [sys.executable, "-m", "cutout", "remove", picture, "-o", target]
    done = subprocess.run(
        ["strace", "-f", "-e", "trace=socket,connect", "-o", str(trace), *command], capture_output=True, check=False
    )
    if b"ptrace" in done.stderr.lower():
        pytest.skip("strace may not trace here")
    assert done.returncode == 0, done.stderr
    assert "AF_INET" not in trace.read_text()
