"""What the tests of both stores of batches share."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
import redis
from served import until

from cutout.service.http.problems import Problem

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from cutout.service.store.base import Jobs


def at_once(store: Jobs) -> list[bool]:
    """Whether each of eight batches of one client, given at the same moment, is accepted where one may be."""
    together = threading.Barrier(8)

    def give(_: int) -> bool:
        together.wait(60)
        try:
            store.add("client", {}, [("a.png", lambda: b"x" * 100_000)], most=1)
        except Problem as problem:
            if problem.status != 429:
                raise
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(give, range(8)))


class OwnRedis:
    """A Redis of our own, that can be stopped and started again."""

    def __init__(self, tmp_path: Path, *options: str) -> None:
        program = shutil.which("redis-server")
        if program is None:
            pytest.skip("redis-server is not installed")
        port = 7000 + os.getpid() % 2000
        self.url = f"redis://127.0.0.1:{port}/0"
        self._command = [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(tmp_path)]
        self._command += options
        self.start()

    def start(self) -> None:
        self._server = subprocess.Popen(self._command, stdout=subprocess.DEVNULL)
        base = redis.Redis.from_url(self.url)

        def listening() -> bool:
            try:
                return bool(base.ping())
            except redis.ConnectionError:
                return False

        until(listening)
        base.close()

    def stop(self) -> None:
        self._server.kill()
        self._server.wait()


@contextmanager
def own_redis(tmp_path: Path, *options: str) -> Iterator[OwnRedis]:
    """A Redis of our own."""
    server = OwnRedis(tmp_path, *options)
    try:
        yield server
    finally:
        server.stop()
