"""Executors are one: what runs the jobs changes neither bytes nor outcomes nor report, and is added by one row."""

from __future__ import annotations

import json
import pickle
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest
from processes import Processes
from small import brightness_model, half

from cutout.cli import main
from cutout.errors import ModelError, OutputError, UsageError
from cutout.jobs.executors.base import EXECUTORS, RunRequest, executor_named
from cutout.jobs.plan import plan
from cutout.jobs.report import Status
from cutout.options import Encoding, RemoveOptions

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from cutout.jobs.executors.base import Executor
    from cutout.jobs.plan import Job


@pytest.fixture(autouse=True)
def another(monkeypatch: pytest.MonkeyPatch) -> None:
    """The row."""
    monkeypatch.setitem(EXECUTORS, "processes", lambda: Processes)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Pictures, a broken one, and a model."""
    brightness_model(tmp_path)
    for number in range(3):
        half(tmp_path / f"in/{number}.png", (64 + number, 32))
    (tmp_path / "in/broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    return tmp_path


def request(folder: Path, **settings: Any) -> RunRequest:
    told = {"model": folder / "brightness.onnx", "device": "cpu", **settings}
    return RunRequest(options=RemoveOptions(crop=True), encoding=Encoding(), workers=2, remover=told)


def opened(name: str, told: RunRequest) -> Executor:
    return executor_named(name)(told, lambda _text: None)


def jobs(folder: Path, out: str) -> tuple[Job, ...]:
    return plan([str(folder / "in")], str(folder / out)).jobs


def test_a_request_is_small_and_travels(folder: Path) -> None:
    told = request(folder, memory_limit="2GB")
    packed = pickle.dumps(told)
    assert pickle.loads(packed) == told
    assert len(packed) < 4000


def test_an_error_travels_with_all_that_is_known_of_it() -> None:
    error = OutputError("there is no room", hint="make some")
    error.cause, error.disk = "the disk is full", 7
    again = pickle.loads(pickle.dumps(error))
    assert vars(again) == vars(error)
    assert (type(again), again.cause, again.disk) == (OutputError, "the disk is full", 7)


def test_every_executor_makes_the_same(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the command, as a user has it: bytes, lines of JSON, exit code."""
    results = []
    for name in EXECUTORS:
        command = ["cutout", "remove", str(folder / "in"), "-o", str(folder / name), "-j", "2", "--executor", name]
        command += ["-m", str(folder / "brightness.onnx"), "-d", "cpu", "--crop", "--json"]
        monkeypatch.setattr(sys, "argv", command)
        with pytest.raises(SystemExit) as ended:
            main()
        *files, summary = map(json.loads, capsys.readouterr().out.splitlines())
        for line in files:
            line.pop("ms")
            line["output"] = line["output"].rpartition("/")[2]
        summary.pop("seconds")
        written = {path.name: path.read_bytes() for path in (folder / name).iterdir()}
        results.append((ended.value.code, sorted(files, key=lambda line: line["input"]), summary, written))
    assert results[0][0] == 1
    assert results[0][2]["done"] == 3
    assert set(results[0][3]) == {"0.png", "1.png", "2.png"}
    assert all(result == results[0] for result in results)


@pytest.mark.parametrize("name", ["threads", "processes"])
def test_jobs_are_taken_as_there_is_room_and_none_after_the_stop(name: str, folder: Path) -> None:
    taken, stop = 0, threading.Event()

    def endless() -> Iterator[Job]:
        nonlocal taken
        while True:
            taken += 1
            yield jobs(folder, "out")[0]

    with opened(name, request(folder)) as executor:
        running = executor.open()
        outcomes = executor.run(endless(), stop)
        for _ in range(3):
            assert next(outcomes).status in {Status.DONE, Status.SKIPPED}
        assert taken <= 3 + 2 * running.workers + 2
        stop.set()
        assert taken == 3 + len(list(outcomes))


@pytest.mark.parametrize("name", ["threads", "processes"])
def test_a_model_that_is_not_there_is_told_when_it_is_opened(name: str, folder: Path) -> None:
    with opened(name, request(folder, model="u2net")) as executor, pytest.raises(ModelError, match="u2net"):
        executor.open()


def test_what_is_no_executor_is_refused() -> None:
    with pytest.raises(UsageError, match="no executor 'magic'"):
        executor_named("magic")
