"""Batches that outlive the process: a SQLite database and a folder of pictures."""

from __future__ import annotations

import json
import logging
import re
import secrets
import shutil
import sqlite3
import threading
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, TypeGuard

from cutout.atomic import is_part, write_atomic
from cutout.errors import CutoutError, OutputError
from cutout.service import logs
from cutout.service.http.problems import Problem
from cutout.service.store.base import MOST_ATTEMPTS, Item, Jobs, Task, Work, too_many

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from cutout.service.store.base import Files

__all__ = ["SqliteJobs"]

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


class SqliteJobs(Jobs):
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
        self._adding: dict[str, str] = {}  # batches that are being written, and whose
        self._guard = threading.Lock()
        self._claim = filelock.FileLock(folder / "in-use", thread_local=False)  # any thread may close
        way_out = "choose another --folder"
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._claim.acquire(timeout=0)
            self._base = sqlite3.connect(folder / "jobs.sqlite", check_same_thread=False, isolation_level=None)
            try:
                self._open()
            except BaseException as error:
                self._base.close()
                if _is_damaged(error):
                    way_out = f"move {folder / 'jobs.sqlite'} away (its batches are lost), or {way_out}"
                raise
        except filelock.Timeout:
            raise CutoutError(f"another service keeps its batches in {folder}", hint=way_out) from None
        except (OSError, sqlite3.Error) as error:
            self._claim.release()
            raise CutoutError(f"batches cannot be kept in {folder}: {error}", hint=way_out) from error

    def _open(self) -> None:
        self._base.execute("PRAGMA journal_mode = WAL")
        self._base.execute("PRAGMA synchronous = FULL")  # accepted means on the disk
        self._base.execute("PRAGMA foreign_keys = ON")
        self._base.executescript(_TABLES)
        (found,) = self._base.execute("PRAGMA quick_check(1)").fetchone()
        if found != "ok":
            raise sqlite3.DatabaseError(f"the database is damaged: {' '.join(found.split())}")
        self._recover()

    def close(self) -> None:
        with self._guard:
            self._base.close()
        self._claim.release()

    def add(self, client: str, fields: Mapping[str, str], files: Files, *, most: int) -> str:
        task = secrets.token_urlsafe(18)
        folder = self._folder / task
        with self._guard:  # the folder has one process: what it is just writing is all that the database does not know
            if self._unfinished(client) + list(self._adding.values()).count(client) >= most:
                raise too_many(most)
            self._adding[task] = client
        try:
            folder.mkdir(mode=0o700)
            for number, (_, read) in enumerate(files):
                write_atomic(folder / f"{number}.in", read())
            with self._transaction() as base:
                facts = (task, client, json.dumps(dict(fields)), time.time())
                base.execute("INSERT INTO tasks VALUES (?, ?, ?, ?, NULL)", facts)
                base.executemany(
                    "INSERT INTO items (task, number, name) VALUES (?, ?, ?)",
                    [(task, number, name) for number, (name, _) in enumerate(files)],
                )
                del self._adding[task]  # now that the database counts it
        except BaseException as error:
            shutil.rmtree(folder, ignore_errors=True)
            if isinstance(error, (OSError, OutputError)):
                raise _unkept(error) from error
            raise
        finally:
            with self._guard:
                self._adding.pop(task, None)
        return task

    def waiting(self) -> dict[str, int]:
        """How many pictures of which client wait."""
        with self._transaction() as base:
            query = (
                "SELECT client, COUNT(*) FROM items JOIN tasks ON tasks.id = items.task"
                " WHERE state = 'waiting' GROUP BY client"
            )
            return dict(base.execute(query).fetchall())

    def claim(self, client: str) -> Work | None:
        """The next picture of a client."""
        with self._transaction() as base:
            found = base.execute(
                "SELECT task, number, fields FROM items JOIN tasks ON tasks.id = items.task"
                " WHERE state = 'waiting' AND client = ? ORDER BY created, number LIMIT 1",
                (client,),
            ).fetchone()
            if found is None:
                return None
            task, number, fields = found
            base.execute(
                "UPDATE items SET state = 'working', attempts = attempts + 1 WHERE task = ? AND number = ?",
                (task, number),
            )
            return Work(task=task, number=number, client=client, fields=json.loads(fields))

    def source(self, work: Work) -> bytes:
        return (self._folder / work.task / f"{work.number}.in").read_bytes()

    def finish(self, work: Work, data: bytes, media: str) -> None:
        try:
            write_atomic(self._folder / work.task / f"{work.number}.out", data)
        except OutputError:
            if self.task(work.task) is not None:
                raise
        self._settle(work, "done", None, media)

    def fail(self, work: Work, error: Mapping[str, str]) -> None:
        self._settle(work, "failed", json.dumps(dict(error)), "")

    def task(self, task: str) -> Task | None:
        with self._transaction() as base:
            found = base.execute(
                "SELECT client, expires FROM tasks WHERE id = ? AND (expires IS NULL OR expires > ?)",
                (task, time.time()),
            ).fetchone()
            rows = base.execute(
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
        return (self._folder / task / f"{number}.out").read_bytes()

    def delete(self, task: str) -> bool:
        with self._transaction() as base:
            deleted = base.execute("DELETE FROM tasks WHERE id = ?", (task,)).rowcount > 0
        if deleted:
            shutil.rmtree(self._folder / task, ignore_errors=True)
        return deleted

    def pending(self, client: str | None = None) -> int:
        with self._transaction():
            return self._unfinished(client)

    def _unfinished(self, client: str | None) -> int:
        what = "COUNT(*)" if client is None else "COUNT(DISTINCT task)"
        query = (
            f"SELECT {what} FROM items JOIN tasks ON tasks.id = items.task"  # noqa: S608 - one of two constants
            " WHERE state IN ('waiting', 'working') AND (? IS NULL OR client = ?)"
        )
        return int(self._base.execute(query, (client, client)).fetchone()[0])

    def sweep(self) -> None:
        """Remove expired batches, and folders of none."""
        with self._transaction() as base:
            base.execute("DELETE FROM tasks WHERE expires <= ?", (time.time(),))
        self._tidy()

    def _tidy(self) -> None:
        """Remove folders of batches that there are not; other folders are left alone."""
        there = [path for path in self._folder.iterdir() if _ID.fullmatch(path.name) and path.is_dir()]
        with self._guard:
            known = {row[0] for row in self._base.execute("SELECT id FROM tasks")} | self._adding.keys()
        for folder in there:
            with suppress(FileNotFoundError):  # another thread removes it
                if folder.name not in known and all(map(_is_ours, folder.iterdir())):
                    shutil.rmtree(folder, ignore_errors=True)

    def _settle(self, work: Work, state: str, error: str | None, media: str) -> None:
        with self._transaction() as base:
            known = base.execute(
                "UPDATE items SET state = ?, error = ?, media = ? WHERE task = ? AND number = ?",
                (state, error, media, work.task, work.number),
            ).rowcount
            base.execute(
                "UPDATE tasks SET expires = ? WHERE id = ? AND NOT EXISTS"
                " (SELECT 1 FROM items WHERE task = tasks.id AND state IN ('waiting', 'working'))",
                (time.time() + self._expiry, work.task),
            )
        folder = self._folder / work.task
        if known:
            (folder / f"{work.number}.in").unlink(missing_ok=True)
        else:  # it was deleted meanwhile, perhaps before its last file was written
            shutil.rmtree(folder, ignore_errors=True)

    def _recover(self) -> None:
        """Queue again what the last process had begun."""
        error = json.dumps(
            {"kind": "died", "message": f"the service died {MOST_ATTEMPTS} times while it worked on this"}
        )
        self._base.execute(
            "UPDATE items SET state = 'failed', error = ? WHERE state = 'working' AND attempts >= ?",
            (error, MOST_ATTEMPTS),
        )
        self._base.execute("UPDATE items SET state = 'waiting' WHERE state = 'working'")
        # results could not be fetched while there was no service
        self._base.execute(
            "UPDATE tasks SET expires = ? WHERE expires IS NOT NULL OR NOT EXISTS"
            " (SELECT 1 FROM items WHERE task = tasks.id AND state = 'waiting')",
            (time.time() + self._expiry,),
        )
        self._tidy()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """The database, for this thread alone."""
        with self._guard:
            try:
                self._base.execute("BEGIN")
                yield self._base
                self._base.execute("COMMIT")
            except BaseException as error:
                if self._base.in_transaction:  # SQLite has rolled back by itself where the disk was full
                    self._base.execute("ROLLBACK")
                if isinstance(error, sqlite3.OperationalError) or _is_damaged(error):
                    raise _unkept(error) from error
                raise


_ID = re.compile(r"[\w-]{24}", re.ASCII)


def _is_ours(path: Path) -> bool:
    return re.fullmatch(r"\d+\.(in|out)", path.name) is not None or is_part(path.name)


def _is_damaged(error: BaseException) -> TypeGuard[sqlite3.DatabaseError]:
    """Whether the file is no database; subclasses of this error mean something else."""
    return type(error) is sqlite3.DatabaseError


def _unkept(error: Exception) -> Problem:
    """A failed write as an answer: the reason with its paths is for the log only."""
    logs.event("storage", level=logging.ERROR, text=str(error))
    return Problem(503, "storage", "batches cannot be kept now", hint="try again later", retry_after=30)
