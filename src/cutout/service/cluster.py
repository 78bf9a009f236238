"""Batches over several machines: kept in Redis, handed out by Celery. Needs the extra `[cluster]`."""

from __future__ import annotations

import json
import logging
import math
import re
import secrets
import time
import warnings
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import celery
import celery.bootsteps
import celery.platforms
import kombu.exceptions
import redis
import redis.exceptions

from cutout.errors import CutoutError
from cutout.service import logs, scripts
from cutout.service.jobs import too_many
from cutout.service.problems import Problem
from cutout.service.tasks import MOST_ATTEMPTS, Item, Task, Work

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

__all__ = ["RedisJobs", "application", "work"]

_FORGOTTEN = 7 * 24 * 3600  # seconds that a batch is kept which no worker ever comes for
_UNCLAIMED = 3600  # seconds that a picture is kept which belongs to no batch yet
_SPARE = 16_000_000  # bytes of Redis' memory that pictures never take: they are for states and messages
_NAME = "cutout.picture"


class RedisJobs:
    """Batches in Redis: a hash of facts and states for each, and a key for every picture.

    Args:
        url: `redis://…`.
        expiry: Seconds that a finished batch can be fetched.
        redelivery: Seconds after which a picture whose worker has died is given to another.

    Raises:
        Problem: Redis cannot be reached.
    """

    def __init__(self, url: str, *, expiry: float, redelivery: float) -> None:
        self._base: Any = redis.Redis.from_url(url, socket_timeout=10, socket_connect_timeout=5)
        self._app = application(url, redelivery=redelivery)
        self._expiry = round(expiry * 1000)
        self._missed: set[tuple[str, int]] = set()
        self._admit = self._base.register_script(scripts.ADMIT)
        self._take = self._base.register_script(scripts.TAKE)
        self._debts: list[tuple[str, int]] = []
        self._return = self._base.register_script(scripts.RETURN)
        self._end = self._base.register_script(scripts.END)

    def close(self) -> None:
        """See `Jobs`."""
        self._base.close()
        self._app.close()

    def add(
        self, client: str, fields: Mapping[str, str], files: Sequence[tuple[str, Callable[[], bytes]]], *, most: int
    ) -> str:
        """See `Jobs`."""
        task = secrets.token_urlsafe(18)
        self.pending(client)  # forgets what has expired
        try:
            with _told():
                place = [_key(task), f"cutout:unfinished:{client}"]
                if not self._admit(keys=place, args=[task, client, most, _UNCLAIMED]):
                    raise too_many(most)
                self._keep(task, client, fields, files)
                for number in range(len(files)):
                    self._send(task, number)
        except BaseException:
            with suppress(redis.RedisError):  # where Redis is away, pictures of no batch expire by themselves
                self._forget(task, client, len(files))
            raise
        return task

    def _keep(
        self, task: str, client: str, fields: Mapping[str, str], files: Sequence[tuple[str, Callable[[], bytes]]]
    ) -> None:
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
            pipe.sadd("cutout:unfinished", task)
            pipe.execute()

    def _forget(self, task: str, client: str, count: int) -> None:
        self._base.delete(_key(task), *(_key(task, number, what) for number in range(count) for what in ("in", "out")))
        self._base.srem("cutout:unfinished", task)
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
        """Hand out again what is neither finished nor known to the queue any more; how many pictures that were.

        A worker that is killed in the moment between taking a message and noting that it has it loses the message, and
        so does a service that is killed between keeping a batch and handing it out. What is missing twice in a row is
        sent again; done twice does no harm.
        """
        with _told():
            held = [*self._base.lrange(_PREFIX + _QUEUE, 0, -1), *self._base.hvals(_PREFIX + "unacked")]
            known = {found.decode() for text in held for found in _ID.findall(text)}
            missing: set[tuple[str, int]] = set()
            for name in self._base.smembers("cutout:unfinished"):
                task = self.task(name.decode())
                if task is None:
                    self._base.srem("cutout:unfinished", name)
                    continue
                open_ones = [item.number for item in task.items if item.state in {"waiting", "working"}]
                missing |= {(task.id, number) for number in open_ones if _message(task.id, number) not in known}
            again = missing & self._missed
            for lost, number in again:
                self._send(lost, number)
            self._missed = missing - again
        return len(again)

    def _send(self, task: str, number: int) -> None:
        self._app.send_task(_NAME, args=(task, number), task_id=_message(task, number), expires=_FORGOTTEN)

    def begin(self, task: str, number: int) -> Work | None:
        """Take a picture that was handed out; None if it is finished already, deleted, or never ended so far."""
        with _told():
            self._settle_debts()
            taken = self._take(keys=[_key(task)], args=[number])
        if taken is None:
            return None
        client, fields, begun = taken
        work = Work(task=task, number=number, client=client.decode(), fields=json.loads(fields))
        if begun > MOST_ATTEMPTS:
            text = f"it was begun {MOST_ATTEMPTS} times and never ended: its workers died or were too slow"
            self.fail(work, {"kind": "died", "message": text})
            return None
        return work

    def give_back(self, task: str, number: int) -> None:
        """Note that a picture which was begun has no outcome, though its worker lives; now, or when Redis is back."""
        self._debts.append((task, number))
        with suppress(CutoutError), _told():
            self._settle_debts()

    def _settle_debts(self) -> None:
        while True:
            try:
                task, number = debt = self._debts.pop()
            except IndexError:  # all are settled, perhaps by another thread
                return
            try:
                self._return(keys=[_key(task)], args=[number])
            except BaseException:
                self._debts.append(debt)
                raise

    def source(self, work: Work) -> bytes:
        """See `Jobs`."""
        with _told():
            found = self._base.get(_key(work.task, work.number, "in"))
        if found is None:
            raise FileNotFoundError(work.task)
        return bytes(found)

    def finish(self, work: Work, data: bytes, media: str) -> None:
        """See `Jobs`."""
        fresh = _key(work.task, work.number, f"out:{secrets.token_hex(8)}")
        with _told():
            if self._fits(fresh, data):
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
        """See `Jobs`."""
        with _told():
            self._settle(work, "failed", "error", json.dumps(dict(error)))

    def task(self, task: str) -> Task | None:
        """See `Jobs`."""
        with _told():
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
        """See `Jobs`."""
        with _told():
            found = self._base.get(_key(task, number, "out"))
        if found is None:
            raise FileNotFoundError(task)
        return bytes(found)

    def delete(self, task: str) -> bool:
        """See `Jobs`."""
        known = self.task(task)
        if known is None:
            return False
        with _told():
            self._forget(task, known.client, len(known.items))
        return True

    def pending(self, client: str | None = None) -> int:
        """See `Jobs`; without a client it is what waits to be handed out."""
        with _told():
            if client is None:
                return int(self._base.llen(_PREFIX + _QUEUE))
            mine = f"cutout:unfinished:{client}"
            for task in self._base.smembers(mine):  # of batches that nobody came for
                if not self._base.exists(_key(task.decode())):
                    self._base.srem(mine, task)
            return int(self._base.scard(mine))

    def _settle(self, work: Work, state: str, name: str, value: str, fresh: str = "") -> None:
        place = [_key(work.task), _key(work.task, work.number, "in"), _key(work.task, work.number, "out"), fresh]
        facts = [state, f"{name}:{work.number}", value]
        expires = str(time.time() + self._expiry / 1000)
        self._end(keys=place, args=[work.task, work.number, *facts, self._expiry, expires, _FORGOTTEN])


_PREFIX = "cutout:"
"""Of all keys, those of Celery too: other applications may use the same database."""

_QUEUE = "cutout"
_ID = re.compile(rb"picture-[\w-]{10,64}-\d+")


def _message(task: str, number: int) -> str:
    return f"picture-{task}-{number}"


def application(url: str, *, redelivery: float) -> celery.Celery:
    """The Celery application that service and workers share.

    A picture is acknowledged when it is finished; one whose worker has died is given to another after `redelivery`
    seconds.
    """
    app = celery.Celery("cutout", broker=url)
    app.conf.update(
        task_default_queue=_QUEUE,
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        task_ignore_result=True,
        worker_prefetch_multiplier=1,
        worker_hijack_root_logger=False,
        worker_send_task_events=False,
        broker_connection_retry_on_startup=True,
        worker_enable_remote_control=False,
        broker_transport_options={
            "visibility_timeout": max(1, round(redelivery)),
            "socket_timeout": 30,
            "global_keyprefix": _PREFIX,
        },
        task_serializer="json",
        accept_content=["json"],
    )
    return app


def work(
    url: str, *, concurrency: int, redelivery: float, expiry: float, do: Callable[[Work, RedisJobs], None]
) -> None:
    """Work on what the services accept, until told to stop.

    Args:
        url: `redis://…`.
        concurrency: Pictures side by side.
        redelivery: As in `RedisJobs`.
        expiry: As in `RedisJobs`.
        do: Works on one picture and keeps its outcome; must not raise.
    """
    app = application(url, redelivery=redelivery)
    jobs = RedisJobs(url, expiry=expiry, redelivery=redelivery)

    @app.task(name=_NAME, bind=True, max_retries=None)  # type: ignore[untyped-decorator]
    def picture(self: Any, task: str, number: int) -> None:
        started = time.perf_counter()
        taken = None
        try:
            taken = jobs.begin(task, number)
            if taken is not None:
                do(taken, jobs)
        except CutoutError as error:  # Redis is away: nothing of the outcome was kept
            logs.event("away", level=logging.WARNING, text=error.message)
            if taken is not None:
                jobs.give_back(task, number)
            raise self.retry(countdown=5, exc=error) from error
        logs.event("picture", task=task, number=number, ms=round((time.perf_counter() - started) * 1e3, 1))

    app.steps["consumer"].add(_Restore)
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
    ).start()


class _Restore(celery.bootsteps.StartStopStep):  # type: ignore[misc]
    """Looks every few seconds for what workers that died have left; the transport itself does so every 100 seconds."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def start(self, consumer: Any) -> None:
        """See Celery."""
        seconds = min(10.0, consumer.app.conf.broker_transport_options["visibility_timeout"] / 2)
        qos = consumer.task_consumer.channel.qos
        self._timer = consumer.timer.call_repeatedly(seconds, lambda: qos.restore_visible(num=100, interval=1))

    def stop(self, _consumer: Any) -> None:
        """See Celery."""
        self._timer.cancel()


def _key(task: str, number: int | None = None, what: str = "") -> str:
    return f"cutout:task:{task}" if number is None else f"cutout:task:{task}:{number}:{what}"


@contextmanager
def _told() -> Iterator[None]:
    """Around talking to Redis: that it is full or cannot be reached is said in our words."""
    try:
        yield
    except (redis.RedisError, kombu.exceptions.KombuError, OSError) as error:
        if "OOM command not allowed" in str(error):
            raise _full() from error
        raise Problem(503, "broker", "the broker of batches cannot be reached", retry_after=5) from error


def _full() -> Problem:
    text = "the broker has no room for this batch"
    return Problem(503, "storage", text, hint="send fewer pictures, or try again later", retry_after=30)
