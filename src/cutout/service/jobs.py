"""Batches that outlive the process: a SQLite database and a folder of pictures."""

from __future__ import annotations

import json
import secrets
import shutil
import sqlite3
import threading
import time
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from cutout.atomic import write_atomic
from cutout.errors import CutoutError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

__all__ = ["MOST_ATTEMPTS", "Item", "Jobs", "SqliteJobs", "Task", "Work"]

MOST_ATTEMPTS = 3
"""A picture during which the process has died so often is reported failed instead of tried again."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """One picture of a batch.

    Attributes:
        number: Its place in the batch, from 0.
        name: What the client calls it; never used as a path.
        state: `waiting`, `working`, `done` or `failed`.
        error: Kind and message of a failure.
        media: Extension of the result, such as `png`.
    """

    number: int
    name: str
    state: str
    error: Mapping[str, str] | None = None
    media: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """A batch.

    Attributes:
        id: Not to be guessed.
        client: Who gave it.
        expires: Seconds since 1970, once everything is finished.
        items: Its pictures, in order.
    """

    id: str
    client: str
    expires: float | None
    items: Sequence[Item]

    @property
    def finished(self) -> bool:
        """Whether every picture is done or failed."""
        return all(item.state in {"done", "failed"} for item in self.items)


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """A picture that a worker has taken."""

    task: str
    number: int
    client: str
    fields: Mapping[str, str]


class Jobs(Protocol):
    """Where batches are kept. Every method may block, and may be called from any thread."""

    def add(self, client: str, fields: Mapping[str, str], files: Sequence[tuple[str, Callable[[], bytes]]]) -> str:
        """Keep a batch for good, and give its id; what was added is finished or reported failed."""
        ...

    def task(self, task: str) -> Task | None:
        """A batch; None when there is none of that id, or it has expired."""
        ...

    def source(self, work: Work) -> bytes:
        """The picture to be worked on."""
        ...

    def finish(self, work: Work, data: bytes, media: str) -> None:
        """Keep a result."""
        ...

    def fail(self, work: Work, error: Mapping[str, str]) -> None:
        """Keep the reason of a failure."""
        ...

    def result(self, task: str, number: int) -> bytes:
        """A result that is done."""
        ...

    def delete(self, task: str) -> bool:
        """Forget a batch and all its pictures; whether there was one."""
        ...

    def pending(self, client: str | None = None) -> int:
        """Pictures that are not finished; of one client: its unfinished batches."""
        ...

    def close(self) -> None:
        """Let go; what is not finished stays."""
        ...


_TABLES = """
CREATE TABLE IF NOT EXISTS tasks (
    id TEXT PRIMARY KEY, client TEXT NOT NULL, fields TEXT NOT NULL, created REAL NOT NULL, expires REAL
);
CREATE TABLE IF NOT EXISTS items (
    task TEXT NOT NULL REFERENCES tasks (id) ON DELETE CASCADE, number INTEGER NOT NULL, name TEXT NOT NULL,
    state TEXT NOT NULL DEFAULT 'waiting', attempts INTEGER NOT NULL DEFAULT 0, error TEXT,
    media TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (task, number)
);
CREATE INDEX IF NOT EXISTS items_by_state ON items (state);
"""


class SqliteJobs:
    """Batches of one machine; what a killed process had begun is begun again by the next.

    Args:
        folder: Made if it is missing; belongs to one process at a time.
        expiry: Seconds that a finished batch can be fetched.

    Raises:
        CutoutError: Another process uses the folder, or it cannot be used.
    """

    def __init__(self, folder: Path, *, expiry: float) -> None:
        import filelock

        self._folder = folder
        self._expiry = expiry
        self._turn: dict[str, float] = {}  # when a client's picture was taken last
        self._guard = threading.Lock()
        self._claim = filelock.FileLock(folder / "in-use")
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._claim.acquire(timeout=0)
            self._base = sqlite3.connect(folder / "jobs.sqlite", check_same_thread=False, isolation_level=None)
            self._base.execute("PRAGMA journal_mode = WAL")
            self._base.execute("PRAGMA synchronous = FULL")  # accepted means on the disk
            self._base.execute("PRAGMA foreign_keys = ON")
            self._base.executescript(_TABLES)
            self._recover()
        except filelock.Timeout:
            raise CutoutError(
                f"another service keeps its batches in {folder}", hint="choose another --folder"
            ) from None
        except (OSError, sqlite3.Error) as error:
            raise CutoutError(f"batches cannot be kept in {folder}: {error}", hint="choose another --folder") from error

    def close(self) -> None:
        """See `Jobs`; the next process goes on."""
        with self._guard:
            self._base.close()
        self._claim.release()

    def add(self, client: str, fields: Mapping[str, str], files: Sequence[tuple[str, Callable[[], bytes]]]) -> str:
        """See `Jobs`."""
        task = secrets.token_urlsafe(18)
        folder = self._folder / task
        folder.mkdir(mode=0o700)
        for number, (_, read) in enumerate(files):
            write_atomic(folder / f"{number}.in", read())
        with self._change() as base:
            now = time.time()
            base.execute("INSERT INTO tasks VALUES (?, ?, ?, ?, NULL)", (task, client, json.dumps(dict(fields)), now))
            base.executemany(
                "INSERT INTO items (task, number, name) VALUES (?, ?, ?)",
                [(task, number, name) for number, (name, _) in enumerate(files)],
            )
        return task

    def claim(self) -> Work | None:
        """The next picture; clients take turns."""
        with self._change() as base:
            clients = [
                row[0]
                for row in base.execute(
                    "SELECT DISTINCT client FROM tasks JOIN items ON items.task = tasks.id WHERE state = 'waiting'"
                )
            ]
            if not clients:
                return None
            client = min(clients, key=lambda name: self._turn.get(name, 0.0))
            self._turn = {name: self._turn.get(name, 0.0) for name in clients} | {client: time.monotonic()}
            row = base.execute(
                "SELECT task, number, fields FROM items JOIN tasks ON tasks.id = items.task"
                " WHERE state = 'waiting' AND client = ? ORDER BY created, number LIMIT 1",
                (client,),
            ).fetchone()
            task, number, fields = row
            base.execute(
                "UPDATE items SET state = 'working', attempts = attempts + 1 WHERE task = ? AND number = ?",
                (task, number),
            )
            return Work(task=task, number=number, client=client, fields=json.loads(fields))

    def source(self, work: Work) -> bytes:
        """See `Jobs`."""
        return (self._folder / work.task / f"{work.number}.in").read_bytes()

    def finish(self, work: Work, data: bytes, media: str) -> None:
        """See `Jobs`."""
        folder = self._folder / work.task
        if not folder.is_dir():
            return  # it was deleted meanwhile
        write_atomic(folder / f"{work.number}.out", data)
        self._settle(work, "done", None, media)

    def fail(self, work: Work, error: Mapping[str, str]) -> None:
        """See `Jobs`."""
        self._settle(work, "failed", json.dumps(dict(error)), "")

    def task(self, task: str) -> Task | None:
        """See `Jobs`."""
        with self._guard:
            found = self._base.execute(
                "SELECT client, expires FROM tasks WHERE id = ? AND (expires IS NULL OR expires > ?)",
                (task, time.time()),
            ).fetchone()
            rows = self._base.execute(
                "SELECT number, name, state, error, media FROM items WHERE task = ? ORDER BY number", (task,)
            ).fetchall()
        if found is None:
            return None
        items = [
            Item(number=number, name=name, state=state, error=json.loads(error) if error else None, media=media)
            for number, name, state, error, media in rows
        ]
        return Task(id=task, client=found[0], expires=found[1], items=items)

    def result(self, task: str, number: int) -> bytes:
        """See `Jobs`."""
        return (self._folder / task / f"{number}.out").read_bytes()

    def delete(self, task: str) -> bool:
        """See `Jobs`."""
        with self._change() as base:
            gone = base.execute("DELETE FROM tasks WHERE id = ?", (task,)).rowcount > 0
        if gone:
            shutil.rmtree(self._folder / task, ignore_errors=True)
        return gone

    def pending(self, client: str | None = None) -> int:
        """See `Jobs`."""
        what = "COUNT(*)" if client is None else "COUNT(DISTINCT task)"
        query = (
            f"SELECT {what} FROM items JOIN tasks ON tasks.id = items.task"  # noqa: S608 - one of two constants
            " WHERE state IN ('waiting', 'working') AND (? IS NULL OR client = ?)"
        )
        with self._guard:
            return int(self._base.execute(query, (client, client)).fetchone()[0])

    def sweep(self) -> int:
        """Remove what has expired, and folders that belong to nothing; how many batches went."""
        with self._guard:
            late = [row[0] for row in self._base.execute("SELECT id FROM tasks WHERE expires <= ?", (time.time(),))]
        for task in late:
            self.delete(task)
        return len(late)

    def _settle(self, work: Work, state: str, error: str | None, media: str) -> None:
        with self._change() as base:
            base.execute(
                "UPDATE items SET state = ?, error = ?, media = ? WHERE task = ? AND number = ?",
                (state, error, media, work.task, work.number),
            )
            base.execute(
                "UPDATE tasks SET expires = ? WHERE id = ? AND NOT EXISTS"
                " (SELECT 1 FROM items WHERE task = tasks.id AND state IN ('waiting', 'working'))",
                (time.time() + self._expiry, work.task),
            )
        (self._folder / work.task / f"{work.number}.in").unlink(missing_ok=True)

    def _recover(self) -> None:
        """What the last process left behind."""
        told = json.dumps(
            {"kind": "died", "message": f"the service died {MOST_ATTEMPTS} times while it worked on this"}
        )
        with closing(self._base.cursor()) as cursor:
            cursor.execute(
                "UPDATE items SET state = 'failed', error = ? WHERE state = 'working' AND attempts >= ?",
                (told, MOST_ATTEMPTS),
            )
            cursor.execute("UPDATE items SET state = 'waiting' WHERE state = 'working'")
            # nobody could fetch results while there was no service
            cursor.execute(
                "UPDATE tasks SET expires = ? WHERE expires IS NOT NULL OR NOT EXISTS"
                " (SELECT 1 FROM items WHERE task = tasks.id AND state = 'waiting')",
                (time.time() + self._expiry,),
            )
            known = {row[0] for row in cursor.execute("SELECT id FROM tasks")}
        for folder in self._folder.iterdir():
            if folder.is_dir() and folder.name not in known:  # accepted by nobody: its client never got an id
                shutil.rmtree(folder, ignore_errors=True)

    @contextmanager
    def _change(self) -> Iterator[sqlite3.Connection]:
        """Around a transaction."""
        with self._guard:
            self._base.execute("BEGIN IMMEDIATE")
            try:
                yield self._base
            except BaseException:
                self._base.execute("ROLLBACK")
                raise
            self._base.execute("COMMIT")
