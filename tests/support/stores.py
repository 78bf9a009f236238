"""What the tests of both stores of batches share."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from cutout.service.http.problems import Problem

if TYPE_CHECKING:
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
