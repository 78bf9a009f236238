"""Batches that go through Redis and Celery to workers; a real Redis and real worker processes."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
import zipfile
from contextlib import closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import redis
from served import quick, served, until
from small import brightness_model, half
from stores import OwnRedis, at_once, own_redis

from cutout.service.http.problems import Problem
from cutout.service.store.base import MOST_ATTEMPTS
from cutout.service.store.redis import RedisJobs

if TYPE_CHECKING:
    from collections.abc import Iterator

PATH = "/batch-remove-background"
SUPPORT = Path(__file__).parents[1] / "support"


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[str]:
    """With as much memory as it likes."""
    with own_redis(tmp_path) as server:
        yield server.url


@pytest.fixture
def small_broker(tmp_path: Path) -> Iterator[str]:
    """With room for a few pictures only."""
    with own_redis(tmp_path, "--maxmemory", "40mb", "--maxmemory-policy", "noeviction") as server:
        yield server.url


def _working(log: Path) -> bool:
    return "working" in log.read_text()


def worker(broker: str, model: Path, log: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "cutout", "worker", "--broker", broker, "--model", str(model)]
    command += ["--jobs", "1", "--redelivery", "2", "--device", "cpu", "--expiry", "60"]
    with log.open("wb") as out:
        return subprocess.Popen(command, stdout=out, stderr=out)


class Faulty:
    """A worker that does what the pictures say, see `faulty_worker`, and what it has begun."""

    def __init__(self, broker: str, folder: Path, *, redelivery: float) -> None:
        self._begun = folder / "begun"
        self._log = folder / f"faulty-{time.monotonic_ns()}.log"
        command = [sys.executable, "-m", "faulty_worker", broker, str(redelivery), str(self._begun)]
        self.dumps = folder / "dumps"
        self.dumps.mkdir(exist_ok=True)
        environ = {**os.environ, "TMPDIR": str(self.dumps)}
        with self._log.open("wb") as out:
            self.process = subprocess.Popen(command, stdout=out, stderr=out, cwd=SUPPORT, env=environ)

    def begun(self) -> list[int]:
        """The pictures begun by all workers, in order."""
        if not self._begun.exists():
            return []
        return [int(line.split()[1]) for line in self._begun.read_text().splitlines()]

    def send(self, sign: signal.Signals) -> None:
        self.process.send_signal(sign)

    def stop(self) -> int:
        """As an operator does; the exit status."""
        self.process.terminate()
        return self.process.wait(60)


@contextmanager
def faulty(broker: str, folder: Path, *, redelivery: float, count: int = 1) -> Iterator[list[Faulty]]:
    """Workers that do what the pictures say."""
    workers = [Faulty(broker, folder, redelivery=redelivery) for _ in range(count)]
    try:
        yield workers
    finally:
        for found in workers:
            found.process.kill()
            found.process.wait()


def ended(jobs: RedisJobs, task: str, seconds: float = 120) -> list[str]:
    """The states of a batch when it has ended; no service runs: workers look after the lost ones."""

    def states() -> list[str] | None:
        try:
            found = jobs.task(task)
        except Problem:  # the broker is being started again
            return None
        time.sleep(0.2)
        return [item.state for item in found.items] if found is not None and found.finished else None

    return list(until(states, seconds))


def pictures(*words: str) -> list[tuple[str, Any]]:
    return [(f"{number}.png", partial(str.encode, word)) for number, word in enumerate(words)]


def test_work_slower_than_the_lease_is_begun_once(broker: str, tmp_path: Path) -> None:
    jobs = RedisJobs(broker, expiry=60, redelivery=2)
    with faulty(broker, tmp_path, redelivery=2, count=2) as (one, other):
        task = jobs.add("someone", {}, pictures("sleep 8", "sleep 8"), most=9)
        assert ended(jobs, task) == ["done", "done"]
        assert sorted(one.begun()) == [0, 1]
        assert [one.stop(), other.stop()] == [0, 0]
    jobs.close()


def test_a_worker_that_was_suspended_gives_each_picture_one_result(broker: str, tmp_path: Path) -> None:
    """As a laptop that is closed, or a container that is paused: it is taken for dead, and then goes on."""
    jobs = RedisJobs(broker, expiry=60, redelivery=1)
    with faulty(broker, tmp_path, redelivery=1) as (one,):
        task = jobs.add("someone", {}, pictures(*["sleep 1"] * 4), most=9)
        until(one.begun)
        one.send(signal.SIGSTOP)
        with faulty(broker, tmp_path, redelivery=1):
            until(lambda: len(set(one.begun())) == 4)
            one.send(signal.SIGCONT)
            assert ended(jobs, task) == ["done"] * 4
            one.stop()
    assert [jobs.result(task, number).split()[0] for number in range(4)] == [b"0", b"1", b"2", b"3"]
    base = redis.Redis.from_url(broker)
    assert len(base.keys("cutout:task:*")) == 5, "the batch and four results"
    base.close()
    jobs.close()


def test_a_picture_that_kills_its_workers_is_failed_after_three(broker: str, tmp_path: Path) -> None:
    jobs = RedisJobs(broker, expiry=60, redelivery=1)
    task = jobs.add("someone", {}, pictures("die", "sleep 0"), most=9)
    with faulty(broker, tmp_path, redelivery=1, count=MOST_ATTEMPTS + 1) as workers:
        assert ended(jobs, task) == ["failed", "done"]
        assert workers[0].begun().count(0) == MOST_ATTEMPTS
    jobs.close()


def test_a_worker_that_is_told_to_stop_finishes_what_it_has_begun(broker: str, tmp_path: Path) -> None:
    """Its sign of life goes on meanwhile: nobody else begins with it."""
    jobs = RedisJobs(broker, expiry=60, redelivery=1)
    with faulty(broker, tmp_path, redelivery=1) as (one,):
        task = jobs.add("someone", {}, pictures("sleep 4", "sleep 0"), most=9)
        until(one.begun)
        with faulty(broker, tmp_path, redelivery=1):
            one.send(signal.SIGTERM)
            assert ended(jobs, task) == ["done", "done"]
        assert one.process.wait(60) == 0
        assert sorted(one.begun()) == [0, 1]
    jobs.close()


def test_broken_connections_take_no_picture_from_a_living_worker(broker: str, tmp_path: Path) -> None:
    jobs = RedisJobs(broker, expiry=60, redelivery=2)
    base = redis.Redis.from_url(broker)
    with faulty(broker, tmp_path, redelivery=2, count=2) as (one, other):
        task = jobs.add("someone", {}, pictures(*["sleep 1.5"] * 6), most=9)
        for _ in range(4):
            time.sleep(1)
            base.client_kill_filter(_type="normal")
        assert ended(jobs, task) == ["done"] * 6
        assert sorted(one.begun()) == list(range(6))
        assert [one.stop(), other.stop()] == [0, 0]
    base.close()
    jobs.close()


@contextmanager
def own_broker(folder: Path, *options: str) -> Iterator[tuple[OwnRedis, RedisJobs]]:
    """A broker that may be stopped and started, and the batches in it."""
    with own_redis(folder, *options) as server, closing(RedisJobs(server.url, expiry=60, redelivery=2)) as jobs:
        yield server, jobs


@pytest.mark.parametrize("away", [0, 3], ids=["at once", "after longer than the lease"])
def test_a_batch_goes_on_when_the_broker_was_started_again(tmp_path: Path, away: float) -> None:
    """The picture that was worked on meanwhile is kept when the broker is back, and the rest is done."""
    with (
        own_broker(tmp_path, "--appendonly", "yes", "--appendfsync", "always") as (server, jobs),
        faulty(server.url, tmp_path, redelivery=2, count=2) as (one, other),
    ):
        task = jobs.add("someone", {}, pictures(*["sleep 1"] * 12), most=9)
        for found in (2, 6):
            until(partial(lambda least: len(one.begun()) >= least, found))
            server.stop()
            time.sleep(away)
            server.start()
        assert ended(jobs, task) == ["done"] * 12
        assert [one.stop(), other.stop()] == [0, 0]
        assert set(one.begun()) == set(range(12))
        assert away or len(one.begun()) == 12, "what is in living hands is not begun again"
        assert not list(one.dumps.iterdir()), "Celery writes no messages into files"


def test_readiness_tells_who_works_on_batches(tmp_path: Path) -> None:
    with (
        own_redis(tmp_path) as server,
        served(*quick(tmp_path, broker=server.url)) as client,
    ):

        def told() -> tuple[int | None, str]:
            answer = client.get("/ready")
            assert answer.status_code == 200, "single pictures need no worker"
            return answer.json()["batch_workers"], answer.json().get("warning", "")

        until(lambda: "no worker" in told()[1])  # the broker is given half a second
        assert "cutout_batch_workers 0.0" in client.get("/metrics").text
        process = worker(server.url, brightness_model(tmp_path), tmp_path / "log")
        until(lambda: told() == (1, ""))
        process.terminate()
        assert process.wait(60) == 0
        until(lambda: told()[0] == 0)
        server.stop()
        assert (told()[0], "cannot be reached" in told()[1]) == (None, True)
        assert "cutout_batch_workers " not in client.get("/metrics").text


def test_workers_go_on_when_the_broker_has_forgotten_everything(tmp_path: Path) -> None:
    with own_broker(tmp_path) as (server, jobs), faulty(server.url, tmp_path, redelivery=2) as (one,):
        jobs.add("someone", {}, pictures(*["sleep 1"] * 12), most=9)
        until(one.begun)
        server.stop()
        server.start()
        task = jobs.add("someone", {}, pictures(*["sleep 0"] * 3), most=9)
        assert ended(jobs, task) == ["done"] * 3
        assert one.stop() == 0


def test_a_worker_can_be_stopped_while_the_broker_is_away(tmp_path: Path) -> None:
    with own_broker(tmp_path) as (server, jobs), faulty(server.url, tmp_path, redelivery=2) as (one,):
        jobs.add("someone", {}, pictures("sleep 1"), most=9)
        until(one.begun)
        server.stop()
        time.sleep(2)
        one.stop()


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


def given_up(broker: str, task: str, number: int) -> None:
    """As when the lease of a picture was not renewed in time."""
    base = redis.Redis.from_url(broker)
    base.zadd("cutout:open", {f"{task}:{number}": 1}, xx=True)
    base.close()


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
        assert jobs.begin(task, 1) is None, "what is in living hands is not begun again"
        given_up(broker, task, 1)
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
    jobs = RedisJobs(broker, expiry=60, redelivery=1)
    task = jobs.add("someone", {}, pictures("first", "second"), most=9)
    base = redis.Redis.from_url(broker)
    time.sleep(1.1)
    assert jobs.mend() == 0, "nothing is missing"
    base.rpop("cutout:cutout")
    assert jobs.mend() == 0, "it may be in the queue, as far as one can tell by its head"
    base.rpop("cutout:cutout")
    assert [jobs.mend(), jobs.mend()] == [2, 0]
    assert base.llen("cutout:cutout") == 2
    base.delete("cutout:cutout")
    later = jobs.add("someone", {}, pictures("third"), most=9)
    time.sleep(1.1)
    assert jobs.mend() == 2, "also while others wait"
    assert [jobs.begin(task, 0) is None, jobs.begin(later, 0) is None] == [False, False]
    for _ in range(8):
        jobs.renew([(task, 0), (later, 0)])
        time.sleep(0.2)
        assert jobs.mend() == 0, "who says that it works on it keeps it"
    base.delete("cutout:cutout")
    time.sleep(1.1)
    assert jobs.delete(task)
    jobs.renew([(task, 0)])
    assert jobs.mend() == 1
    assert base.zrange("cutout:open", 0, -1) == [f"{later}:0".encode()]
    base.delete(f"cutout:task:{later}")  # it has expired
    given_up(broker, later, 0)
    base.delete("cutout:cutout")
    assert jobs.mend() == 0
    assert jobs.pending() == 0
    base.close()
    jobs.close()


def test_a_queue_of_fifty_thousand_costs_no_more_than_an_empty_one(broker: str) -> None:
    base = redis.Redis.from_url(broker)
    jobs = RedisJobs(broker, expiry=60, redelivery=1)
    jobs.add("someone", {}, pictures("first"), most=9)
    message = base.lindex("cutout:cutout", 0)
    assert isinstance(message, bytes)
    with base.pipeline(transaction=False) as pipe:
        for number in range(500):
            pipe.lpush("cutout:cutout", *[message] * 100)
            pipe.zadd("cutout:open", {f"other{number}:{place}": time.time() for place in range(100)})
        pipe.execute()
    given_up(broker, "other1", 1)
    given_up(broker, "other1", 2)
    jobs.mend()
    time.sleep(1.1)

    def told() -> tuple[int, int]:
        stats = base.info("stats")
        return int(stats["total_net_output_bytes"]), int(stats["total_commands_processed"])

    before = told()
    assert jobs.mend() == 0
    after = told()
    assert after[0] - before[0] < 20_000, "bytes that Redis has sent"
    assert after[1] - before[1] < 20, "commands, those of the script too"
    assert jobs.pending() == 50_001 - 2, "what belongs to no batch is forgotten"
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

    def away(*_: object, **__: object) -> None:
        raise redis.ConnectionError

    monkeypatch.setattr(jobs._app, "send_task", away)
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
    seen = base.zscore("cutout:open", f"{task}:1")
    jobs.renew([(task, 1)])
    renewed = base.zscore("cutout:open", f"{task}:1")
    assert seen is not None
    assert renewed is not None
    assert renewed > seen, "signs of life have room"
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
    slow = jobs.begin(task, 0)
    given_up(broker, task, 0)
    other = jobs.begin(task, 0)
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


def test_what_a_worker_could_not_keep_is_kept_when_the_broker_is_back(
    broker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopping = threading.Event()
    jobs = RedisJobs(broker, expiry=60, redelivery=60, stopping=stopping)
    task = jobs.add("someone", {}, pictures("first", "second"), most=9)
    first, second = jobs.begin(task, 0), jobs.begin(task, 1)
    assert first is not None
    assert second is not None
    tried: list[object] = []

    end: Any = jobs._end

    def away(**args: Any) -> None:
        tried.append(args)
        if len(tried) < 4 or stopping.is_set():
            raise redis.ConnectionError
        end(**args)

    monkeypatch.setattr(jobs, "_end", away)
    with monkeypatch.context() as fault:
        fault.setattr(jobs, "_end", jobs._base.register_script("return redis.error_reply('broken')"))
        with pytest.raises(Problem):  # waiting would not help
            jobs.finish(first, b"result", "png")
    jobs.finish(first, b"result", "png")
    assert len(tried) == 4
    assert jobs.result(task, 0) == b"result"
    stopping.set()
    with pytest.raises(Problem, match="cannot be reached"):
        jobs.finish(second, b"result", "png")
    assert len(tried) == 5, "who is told to stop does not wait"
    jobs.close()
