"""Batches that go through Redis and Celery to workers; a real Redis and real worker processes."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import time
import zipfile
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import redis
from served import quick, served, until
from small import brightness_model, half
from stores import at_once

from cutout.service.cluster import RedisJobs
from cutout.service.problems import Problem
from cutout.service.tasks import MOST_ATTEMPTS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PATH = "/batch-remove-background"


@contextmanager
def own_redis(tmp_path: Path, *options: str) -> Iterator[str]:
    """A Redis of our own."""
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("redis-server is not installed")
    port = 7000 + os.getpid() % 2000
    server = subprocess.Popen(
        [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(tmp_path), *options],
        stdout=subprocess.DEVNULL,
    )
    base = redis.Redis(port=port)

    def listening() -> bool:
        try:
            return bool(base.ping())
        except redis.ConnectionError:
            return False

    try:
        until(listening)
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        base.close()
        server.terminate()
        server.wait()


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[str]:
    """With as much memory as it likes."""
    with own_redis(tmp_path) as url:
        yield url


@pytest.fixture
def small_broker(tmp_path: Path) -> Iterator[str]:
    """With room for a few pictures only."""
    with own_redis(tmp_path, "--maxmemory", "40mb", "--maxmemory-policy", "noeviction") as url:
        yield url


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
    task = jobs.add("someone", {"threshold": "9"}, [("a.png", lambda: b"first"), ("b.png", lambda: b"second")], most=9)
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
    jobs.add("someone", {}, [("a.png", lambda: b"first"), ("b.png", lambda: b"second")], most=9)
    base = redis.Redis.from_url(broker)
    assert [jobs.mend(), jobs.mend()] == [0, 0], "nothing is missing"
    base.rpop("cutout:cutout")
    assert [jobs.mend(), jobs.mend(), jobs.mend()] == [0, 1, 0]
    assert base.llen("cutout:cutout") == 2
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


def test_a_batch_without_room_is_refused_and_leaves_nothing(small_broker: str) -> None:
    jobs = RedisJobs(small_broker, expiry=60, redelivery=60)
    base = redis.Redis.from_url(small_broker)
    before = set(base.keys())
    with pytest.raises(Problem, match="no room") as caught:
        jobs.add(
            "someone", {}, [("a.png", lambda: b"x" * 5_000_000)] * 5, most=9
        )  # would fit, but its results would not
    assert (caught.value.status, caught.value.word) == (503, "storage")
    assert set(base.keys()) == before
    assert jobs.pending("someone") == 0
    jobs.add("someone", {}, [("a.png", lambda: b"x" * 5_000_000)] * 2, most=9)
    base.close()
    jobs.close()


def test_a_batch_that_cannot_be_handed_out_leaves_nothing(broker: str, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = RedisJobs(broker, expiry=60, redelivery=60)
    base = redis.Redis.from_url(broker)

    def away(*_: object) -> None:
        raise redis.ConnectionError

    monkeypatch.setattr(jobs, "_send", away)
    with pytest.raises(Problem, match="cannot be reached"):
        jobs.add("someone", {}, [("a.png", lambda: b"data")], most=9)
    assert not base.keys("cutout:*")
    base.close()
    jobs.close()


def test_accepted_batches_end_even_when_others_have_filled_the_memory(small_broker: str) -> None:
    jobs = RedisJobs(small_broker, expiry=60, redelivery=60)
    task = jobs.add("someone", {}, [("a.png", lambda: b"x" * 5_000_000), ("b.png", lambda: b"x" * 5_000_000)], most=9)
    base = redis.Redis.from_url(small_broker)
    with suppress(redis.exceptions.OutOfMemoryError):
        for number in range(1000):
            base.set(f"other:{number}", b"x" * 100_000)
    first, second = jobs.begin(task, 0), jobs.begin(task, 1)
    assert first is not None
    assert second is not None
    assert jobs.source(first) == b"x" * 5_000_000
    jobs.finish(first, b"r" * 9_000_000, "png")
    jobs.finish(second, b"r" * 1_000_000, "png")
    found = jobs.task(task)
    assert found is not None
    assert [item.state for item in found.items] == ["failed", "done"]
    assert (found.items[0].error or {})["kind"] == "storage"
    assert jobs.result(task, 1) == b"r" * 1_000_000
    assert not base.keys("cutout:task:*:in"), "inputs are freed"
    base.close()
    jobs.close()


def test_other_applications_in_the_same_database_are_left_alone(broker: str, tmp_path: Path) -> None:
    """Celery's own keys have the same names in every application: what another has not acknowledged is its own."""
    base = redis.Redis.from_url(broker)
    message = {"body": "e30=", "headers": {"task": "shop.charge"}, "properties": {"delivery_tag": "t1"}}
    base.hset("unacked", "t1", json.dumps([message, "", "celery"]))
    base.zadd("unacked_index", {"t1": 1.0})
    before = set(base.keys())
    jobs = RedisJobs(broker, expiry=60, redelivery=2)
    task = jobs.add("someone", {}, [("a.png", lambda: b"no picture")], most=9)
    process = worker(broker, brightness_model(tmp_path), tmp_path / "worker.log")
    try:

        def ended() -> bool:
            found = jobs.task(task)
            return found is not None and found.finished

        until(ended)
        time.sleep(2.5)  # it looks for what was left every second
    finally:
        process.terminate()
        process.wait(60)
    assert set(base.keys()) - set(base.keys("cutout:*")) == before
    assert base.hlen("unacked") == base.zcard("unacked_index") == 1
    base.close()
    jobs.close()


def test_no_client_passes_its_number_of_batches_by_hurrying(broker: str) -> None:
    jobs = RedisJobs(broker, expiry=60, redelivery=60)
    assert sum(at_once(jobs)) == 1
    assert jobs.pending("client") == 1
    jobs.add("another", {}, [("a.png", lambda: b"data")], most=1)
    jobs.close()


def test_a_result_that_comes_twice_changes_nothing(broker: str) -> None:
    """As when a slow worker was taken for dead."""
    jobs = RedisJobs(broker, expiry=60, redelivery=60)
    task = jobs.add("someone", {}, [("a.png", lambda: b"data")], most=9)
    slow, other = jobs.begin(task, 0), jobs.begin(task, 0)
    assert slow is not None
    assert other is not None
    jobs.finish(other, b"first", "png")
    jobs.finish(slow, b"second", "png")
    jobs.fail(slow, {"kind": "late"})
    base = redis.Redis.from_url(broker)
    keys = base.keys(f"cutout:task:{task}*")
    assert len(keys) == 2
    assert all(0 < base.ttl(key) <= 60 for key in keys)
    assert jobs.result(task, 0) == b"first"
    base.close()
    jobs.close()


def test_what_a_living_worker_could_not_keep_is_no_death(broker: str, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = RedisJobs(broker, expiry=60, redelivery=60)
    task = jobs.add("someone", {}, [("a.png", lambda: b"data")], most=9)

    def away(**_: object) -> None:
        raise redis.ConnectionError

    for _ in range(MOST_ATTEMPTS * 2):
        assert jobs.begin(task, 0) is not None
        with monkeypatch.context() as fault:
            fault.setattr(jobs, "_return", away)
            jobs.give_back(task, 0)
    for _ in range(MOST_ATTEMPTS):
        assert jobs.begin(task, 0) is not None
    assert jobs.begin(task, 0) is None
    found = jobs.task(task)
    assert found is not None
    assert "never ended" in (found.items[0].error or {})["message"]
    jobs.give_back("unknown", 0)
    base = redis.Redis.from_url(broker)
    assert not base.exists("cutout:task:unknown")
    base.close()
    jobs.close()
