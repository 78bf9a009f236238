"""Batches that go through Redis and Celery to workers; a real Redis and real worker processes."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import zipfile
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import redis
from served import quick, served, until
from small import brightness_model, half

from cutout.service.cluster import RedisJobs
from cutout.service.jobs import MOST_ATTEMPTS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PATH = "/batch-remove-background"


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[str]:
    """A Redis of our own."""
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("redis-server is not installed")
    port = 7000 + os.getpid() % 2000
    server = subprocess.Popen(
        [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(tmp_path)],
        stdout=subprocess.DEVNULL,
    )
    base = redis.Redis(port=port)

    def listening() -> bool:
        try:
            return bool(base.ping())
        except redis.ConnectionError:
            return False

    until(listening)
    base.close()
    yield f"redis://127.0.0.1:{port}/0"
    server.terminate()
    server.wait()


def _working(log: Path) -> bool:
    return "working" in log.read_text()


def worker(broker: str, model: Path, log: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "cutout", "worker", "--broker", broker, "--model", str(model)]
    command += ["--jobs", "1", "--redelivery", "2", "--device", "cpu", "--expiry", "60"]
    with log.open("wb") as out:
        return subprocess.Popen(command, stdout=out, stderr=out)


def test_a_worker_killed_in_the_middle_of_a_batch_of_fifty_loses_none(broker: str, tmp_path: Path) -> None:
    model = brightness_model(tmp_path)
    large = half(tmp_path / "large.png", (1000, 800)).read_bytes()
    settings = quick(tmp_path, broker=broker, redelivery=2.0)
    workers = [worker(broker, model, tmp_path / f"{number}.log") for number in range(2)]
    try:
        with served(*settings) as client:

            def status() -> dict[str, Any]:
                return dict(client.get(f"/task-status/{task}").json())

            for log in tmp_path.glob("[01].log"):
                until(partial(_working, log))
            files = [("files", (f"{number}.png", large)) for number in range(50)]
            task = client.post(PATH, files=files).json()["task_id"]
            until(lambda: status()["completed"] >= 5)
            workers[0].kill()
            until(lambda: status()["state"] == "finished")
            done = status()
            assert (done["completed"], done["failed"], done["total"]) == (50, 0, 50)
            with zipfile.ZipFile(io.BytesIO(client.get(f"/task-result/{task}").content)) as archive:
                assert len(archive.namelist()) == 50
            assert client.delete(f"/task/{task}").status_code == 204
            assert client.get(f"/task-status/{task}").status_code == 404
    finally:
        for process in workers:
            process.terminate()
        codes = [process.wait(60) for process in workers]
    assert codes == [-9, 0], (tmp_path / "1.log").read_text()


def test_the_store_forgets_what_it_should_and_nothing_else(broker: str) -> None:
    jobs = RedisJobs(broker, expiry=1, redelivery=60)
    task = jobs.add("someone", {"threshold": "9"}, [("a.png", lambda: b"first"), ("b.png", lambda: b"second")])
    assert jobs.pending("someone") == 1
    work = jobs.begin(task, 0)
    assert work is not None
    assert (jobs.source(work), work.fields) == (b"first", {"threshold": "9"})
    jobs.finish(work, b"result", "png")
    assert jobs.begin(task, 0) is None, "what is finished is not done again"
    jobs.fail(work, {"kind": "late"})
    for _ in range(MOST_ATTEMPTS):  # a picture that kills its workers
        assert jobs.begin(task, 1) is not None
    assert jobs.begin(task, 1) is None
    found = jobs.task(task)
    assert found is not None
    assert [item.state for item in found.items] == ["done", "failed"]
    assert jobs.result(task, 0) == b"result"
    assert jobs.pending("someone") == 0
    until(lambda: jobs.task(task) is None)
    with pytest.raises(FileNotFoundError):
        jobs.result(task, 0)
    jobs.close()


def test_a_message_that_was_lost_is_sent_again(broker: str) -> None:
    """As when a worker dies in the moment between taking a message and noting that it has it."""
    jobs = RedisJobs(broker, expiry=60, redelivery=60)
    jobs.add("someone", {}, [("a.png", lambda: b"first"), ("b.png", lambda: b"second")])
    base = redis.Redis.from_url(broker)
    assert [jobs.mend(), jobs.mend()] == [0, 0], "nothing is missing"
    base.rpop("cutout")
    assert [jobs.mend(), jobs.mend(), jobs.mend()] == [0, 1, 0]
    assert base.llen("cutout") == 2
    base.close()
    jobs.close()


def test_a_broker_that_is_away_is_an_answer(tmp_path: Path) -> None:
    picture = half(tmp_path / "half.png").read_bytes()
    with served(*quick(tmp_path, broker="redis://127.0.0.1:1/0")) as client:
        answer = client.post(PATH, files={"files": ("a.png", picture)})
        assert (answer.status_code, answer.json()["error"]["kind"]) == (503, "broker")
        assert client.get("/task-status/any").status_code == 503
        assert client.post("/remove-background", files={"file": picture}).status_code == 200
        assert client.get("/metrics").status_code == 200
