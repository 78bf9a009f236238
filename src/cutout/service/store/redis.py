"""Batches over several machines: kept in Redis, handed out by Celery. Needs the extra `[cluster]`."""

from __future__ import annotations

import json
import logging
import math
import secrets
import threading
import time
import warnings
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import celery
import celery.platforms
import celery.signals
import kombu.exceptions
import redis
import redis.exceptions

from cutout.errors import CutoutError
from cutout.service import logs
from cutout.service.http.problems import Problem
from cutout.service.store import scripts
from cutout.service.store.base import MOST_ATTEMPTS, Item, Jobs, Task, Work, too_many

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from cutout.service.store.base import Files

__all__ = ["RedisJobs", "application", "work"]

_FORGOTTEN = 7 * 24 * 3600  # seconds that a batch is kept which no worker ever comes for
_UNCLAIMED = 3600  # seconds that a picture is kept which belongs to no batch yet
_SPARE = 16_000_000  # bytes of Redis' memory that pictures never take: they are for states and messages
_WINDOW = 100  # pictures that are looked at in one step
_NAME = "cutout.formats.picture"
_AWAY = (redis.ConnectionError, redis.TimeoutError, redis.exceptions.ReadOnlyError, OSError)


class RedisJobs(Jobs):
    """Batches in Redis: a hash of facts and states for each, a key for every picture, signs of life of open ones.

    Args:
        url: `redis://…`.
        expiry: Seconds that a finished batch can be fetched.
        redelivery: Seconds after which a picture whose worker has died is given to another.
        stopping: Until it is set, a Redis that is away is waited for when a picture is taken or its outcome is kept.
            Without it nothing waits.

    Raises:
        Problem: Redis cannot be reached.
    """

    def __init__(self, url: str, *, expiry: float, redelivery: float, stopping: threading.Event | None = None) -> None:
        self._base: Any = redis.Redis.from_url(url, socket_timeout=10, socket_connect_timeout=5, socket_keepalive=True)
        self._app = application(url)
        self._expiry = round(expiry * 1000)
        self._lease = max(1.0, redelivery)
        self._stopping = stopping
        texts = (scripts.ADMIT, scripts.TAKE, scripts.RENEW, scripts.LOST, scripts.END)
        self._admit, self._take, self._renew, self._lost, self._end = (
            self._base.register_script(scripts.COMMON + script) for script in texts
        )

    def close(self) -> None:
        self._base.close()
        self._app.close()

    def add(self, client: str, fields: Mapping[str, str], files: Files, *, most: int) -> str:
        task = secrets.token_urlsafe(18)
        self.pending(client)  # forgets what has expired
        try:
            with _redis_errors():
                if not self._admit(args=[task, client, most, _UNCLAIMED]):
                    raise too_many(most)
                self._keep(task, client, fields, files)
            self.mend()
        except BaseException:
            with suppress(redis.RedisError):  # where Redis is away, pictures of no batch expire by themselves
                self._forget(task, client, len(files))
            raise
        return task

    def _keep(self, task: str, client: str, fields: Mapping[str, str], files: Files) -> None:
        """Write a batch, whose pictures count as lost until they are queued."""
        total = 0
        for number, (_, read) in enumerate(files):
            data = read()
            total += len(data)
            if len(data) + total > self._room():  # results take room too: as much again
                raise _full()
            self._base.set(_key(task, number, "in"), data, ex=_UNCLAIMED)
        facts = {
            "client": client,
            "fields": json.dumps(dict(fields)),
            "names": json.dumps([name for name, _ in files]),
            "count": str(len(files)),
            "open": str(len(files)),
        }
        with self._base.pipeline(transaction=True) as pipe:
            pipe.hset(_key(task), mapping=facts | {f"state:{number}": "waiting" for number in range(len(files))})
            for key in (_key(task), *(_key(task, number, "in") for number in range(len(files)))):
                pipe.expire(key, _FORGOTTEN)
            pipe.zadd(_OPEN, {f"{task}:{number}": number for number in range(len(files))})  # long ago, in their order
            pipe.execute()

    def _forget(self, task: str, client: str, count: int) -> None:
        self._base.delete(_key(task), *(_key(task, number, what) for number in range(count) for what in ("in", "out")))
        self._base.zrem(_OPEN, *(f"{task}:{number}" for number in range(count)))
        self._base.srem(f"cutout:unfinished:{client}", task)

    def _room(self) -> float:
        """Bytes that pictures may still take in Redis."""
        try:
            memory = self._base.info("memory")
        except redis.exceptions.NoPermissionError:
            return math.inf
        most = int(memory.get("maxmemory", 0))
        return most - min(_SPARE, most // 16) - int(memory["used_memory"]) if most else math.inf

    def mend(self) -> int:
        """Queue the pictures that no living worker has, see `scripts.LOST`; their number.

        They are new, or the worker has died, or was killed between taking the message and noting that it has it, or
        Redis has lost the queue. Done twice does no harm.
        """
        count = 0
        with _redis_errors():
            while True:
                sent, lost = self._lost(args=[self._lease, _WINDOW])
                for picture in lost:
                    task, _, number = picture.decode().rpartition(":")
                    self._app.send_task(
                        _NAME, args=(task, int(number)), headers={"sent": float(sent)}, expires=_FORGOTTEN
                    )
                count += len(lost)
                if len(lost) < _WINDOW:
                    return count

    def begin(self, task: str, number: int) -> Work | None:
        """Take a picture; None if it has ended, was deleted, has a living worker, or was begun too often."""
        taken = self._insist(lambda: self._take(args=[task, number, self._lease]))
        if taken is None:
            return None
        client, fields, begun = taken
        work = Work(task=task, number=number, client=client.decode(), fields=json.loads(fields))
        if begun > MOST_ATTEMPTS:
            text = f"it was begun {MOST_ATTEMPTS} times and never ended: its workers died"
            self.fail(work, {"kind": "died", "message": text})
            return None
        return work

    def renew(self, held: Sequence[tuple[str, int]]) -> None:
        """Renew the leases of pictures, each a batch and a number."""
        with _redis_errors():
            self._renew(args=[f"{task}:{number}" for task, number in held])

    def appear(self, worker: str) -> None:
        """Note that a worker lives."""
        with _redis_errors():
            now = int(self._base.time()[0])
            self._base.zadd(_WORKERS, {worker: now})
            self._base.zremrangebyscore(_WORKERS, 0, now - _ALIVE)

    def leave(self, worker: str) -> None:
        """Note that a worker has ended."""
        with _redis_errors():
            self._base.zrem(_WORKERS, worker)

    def workers(self) -> int:
        """How many workers have lately shown that they live."""
        with _redis_errors():
            return int(self._base.zcount(_WORKERS, int(self._base.time()[0]) - _ALIVE, "+inf"))

    def _insist(self, act: Callable[[], Any]) -> Any:
        """Call Redis; a worker keeps its picture and waits while Redis cannot be reached."""
        pause = 0.1
        while True:
            try:
                with _redis_errors():
                    return act()
            except Problem as error:
                away = isinstance(error.__cause__, _AWAY)
                if not away or self._stopping is None or self._stopping.wait(pause):
                    raise
                pause = min(2 * pause, 5.0)

    def source(self, work: Work) -> bytes:
        found = self._insist(lambda: self._base.get(_key(work.task, work.number, "in")))
        if found is None:
            raise FileNotFoundError(work.task)
        return bytes(found)

    def finish(self, work: Work, data: bytes, media: str) -> None:
        fresh = _key(work.task, work.number, f"out:{secrets.token_hex(8)}")
        if self._insist(lambda: self._fits(fresh, data)):
            self._settle(work, "done", "media", media, fresh)
            return
        text = f"there is no room for its result of {len(data) / 1e6:.1f} MB"
        self.fail(work, {"kind": "storage", "message": text, "hint": "fetch or delete other batches first"})

    def _fits(self, key: str, data: bytes) -> bool:
        """Write a result under a key of its own, if there is room."""
        if len(data) > self._room():
            return False
        try:
            self._base.set(key, data, ex=_UNCLAIMED)
        except redis.exceptions.OutOfMemoryError:
            return False
        return True

    def fail(self, work: Work, error: Mapping[str, str]) -> None:
        self._settle(work, "failed", "error", json.dumps(dict(error)))

    def task(self, task: str) -> Task | None:
        with _redis_errors():
            raw = self._base.hgetall(_key(task))
        facts = {name.decode(): value.decode() for name, value in raw.items()}
        if "names" not in facts:
            return None
        items = [
            Item(
                number=number,
                name=name,
                state=facts[f"state:{number}"],
                error=json.loads(facts[f"error:{number}"]) if f"error:{number}" in facts else None,
                media=facts.get(f"media:{number}", ""),
            )
            for number, name in enumerate(json.loads(facts["names"]))
        ]
        expires = float(facts["expires"]) if "expires" in facts else None
        return Task(id=task, client=facts["client"], expires=expires, items=items)

    def result(self, task: str, number: int) -> bytes:
        with _redis_errors():
            found = self._base.get(_key(task, number, "out"))
        if found is None:
            raise FileNotFoundError(task)
        return bytes(found)

    def delete(self, task: str) -> bool:
        known = self.task(task)
        if known is None:
            return False
        with _redis_errors():
            self._forget(task, known.client, len(known.items))
        return True

    def pending(self, client: str | None = None) -> int:
        with _redis_errors():
            if client is None:
                return int(self._base.zcard(_OPEN))
            mine = f"cutout:unfinished:{client}"
            for task in self._base.smembers(mine):  # of batches that expired
                if not self._base.exists(_key(task.decode())):
                    self._base.srem(mine, task)
            return int(self._base.scard(mine))

    def _settle(self, work: Work, state: str, name: str, value: str, fresh: str = "") -> None:
        facts: list[str | int] = [work.task, work.number, state, name, value, fresh, self._expiry, _FORGOTTEN]
        self._insist(lambda: self._end(args=facts))


_PREFIX = "cutout:"
"""Of all keys, those of Celery too: other applications may use the same database."""

_QUEUE = "cutout"
_OPEN = "cutout:open"
_WORKERS = "cutout:workers"
_ALIVE = 20  # seconds after which a worker that has not shown itself counts as gone


def application(url: str) -> celery.Celery:
    """The Celery application that service and workers share.

    Its messages say no more than that there is something to do. Who has a picture, and whether that one lives, is in
    `_OPEN`: Celery acknowledges Redis' messages by a time that cannot be renewed, returns to the queue what a living
    worker has when its connection breaks, and has a moment in which a killed worker loses one. So that is switched off.
    """
    app = celery.Celery("cutout", broker=url)
    app.conf.update(
        task_default_queue=_QUEUE,
        task_acks_late=True,  # else a worker would take more than it can begin
        task_ignore_result=True,
        worker_prefetch_multiplier=1,
        worker_hijack_root_logger=False,
        worker_send_task_events=False,
        broker_connection_retry_on_startup=True,
        worker_enable_remote_control=False,
        broker_transport_options={
            "ack_emulation": False,
            "socket_timeout": 30,
            "socket_connect_timeout": 5,
            "socket_keepalive": True,
            "global_keyprefix": _PREFIX,
        },
        task_serializer="json",
        accept_content=["json"],
    )
    return app


def work(
    url: str, *, concurrency: int, redelivery: float, expiry: float, do: Callable[[Work, RedisJobs], None]
) -> None:
    """Work on what the services accept, until a signal to stop.

    Args:
        url: `redis://…`.
        concurrency: Pictures side by side.
        redelivery: As in `RedisJobs`.
        expiry: As in `RedisJobs`.
        do: Works on one picture and keeps its outcome.
    """
    app = application(url)
    ready, stopping = threading.Event(), threading.Event()
    jobs = RedisJobs(url, expiry=expiry, redelivery=redelivery, stopping=stopping)
    held: set[tuple[str, int]] = set()
    name = secrets.token_hex(8)

    @app.task(name=_NAME)  # type: ignore[untyped-decorator]
    def picture(task: str, number: int) -> None:
        started = time.perf_counter()
        try:
            taken = jobs.begin(task, number)
            if taken is None:
                return
            held.add((task, number))
            try:
                do(taken, jobs)
            finally:
                held.discard((task, number))
        except CutoutError as error:  # Redis is away and the worker stops: another one will do it
            logs.event("away", level=logging.WARNING, text=error.message)
            return
        logs.event("picture", task=task, number=number, ms=round((time.perf_counter() - started) * 1e3, 1))

    def beat() -> None:
        """In a thread of its own: it goes on while Celery connects anew, or stops and waits for what is begun."""
        while True:
            time.sleep(min(5.0, redelivery / 4))
            with suppress(Exception):  # Redis is away: no other worker can take them meanwhile
                jobs.renew(tuple(held))
                jobs.mend()
                if ready.is_set():
                    jobs.appear(name)

    celery.signals.worker_ready.connect(lambda **_: ready.set(), weak=False)
    celery.signals.worker_shutting_down.connect(lambda **_: stopping.set(), weak=False)
    threading.Thread(target=beat, daemon=True, name="beat").start()
    warnings.simplefilter(
        "ignore", celery.platforms.SecurityWarning
    )  # messages are JSON: root runs nothing it should not
    logs.event("working", concurrency=concurrency)
    app.Worker(
        pool="threads",
        concurrency=concurrency,
        loglevel="WARNING",
        quiet=True,
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,  # of events: it would wait without end for a Redis that is away, and stop all else
    ).start()
    with suppress(Problem):
        jobs.leave(name)


def _key(task: str, number: int | None = None, what: str = "") -> str:
    return f"cutout:task:{task}" if number is None else f"cutout:task:{task}:{number}:{what}"


@contextmanager
def _redis_errors() -> Iterator[None]:
    """Turns errors of Redis and Celery into a `Problem`: no memory left, or no connection."""
    try:
        yield
    except (redis.RedisError, kombu.exceptions.KombuError, OSError) as error:
        if "OOM command not allowed" in str(error):
            raise _full() from error
        raise Problem(503, "broker", "the broker of batches cannot be reached", retry_after=5) from error


def _full() -> Problem:
    text = "the broker has no room for this batch"
    return Problem(503, "storage", text, hint="send fewer pictures, or try again later", retry_after=30)
