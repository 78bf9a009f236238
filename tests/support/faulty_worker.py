"""A worker that does with a picture what the picture says: `sleep SECONDS`, or `die`; it notes what it begins."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from cutout.service.store.redis import work

if TYPE_CHECKING:
    from cutout.service.store.base import Work
    from cutout.service.store.redis import RedisJobs


def main(broker: str, redelivery: str, begun: str) -> None:
    """Work until told to stop."""

    def do(item: Work, jobs: RedisJobs) -> None:
        word, _, seconds = jobs.source(item).decode().partition(" ")
        with Path(begun).open("a", encoding="utf-8") as log:
            log.write(f"{os.getpid()} {item.number}\n")
        if word == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(float(seconds))
        jobs.finish(item, f"{item.number} by {os.getpid()}".encode(), "png")

    work(broker, concurrency=1, redelivery=float(redelivery), expiry=60, do=do)


if __name__ == "__main__":
    main(*sys.argv[1:])
