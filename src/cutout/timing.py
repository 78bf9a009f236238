"""Where the time of one picture goes, and how its work is told that nobody wants its result any more."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from cutout.errors import CancelledError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["STAGES", "Cancellation", "StageTimes"]

STAGES = ("load", "decode", "preprocess", "inference", "postprocess", "encode", "write")
"""The stages of one picture, in order. `load` is reading its bytes."""


class StageTimes:
    """Wall-clock time of one picture's stages; not shared between threads.

    Args:
        check: Called before every stage and between the longer steps of one, such as `Cancellation.check`: what it
            raises ends the work there.

    Attributes:
        ms: Milliseconds by stage name; a stage entered twice adds up.
    """

    __slots__ = ("check", "ms")

    def __init__(self, check: Callable[[], None] = lambda: None) -> None:
        self.ms: dict[str, float] = {}
        self.check = check

    @contextmanager
    def time(self, stage: str) -> Iterator[None]:
        """Add the time spent in the `with` block to `stage`, also when it raises.

        Raises:
            CancelledError: The picture is not wanted any more.
        """
        self.check()
        start = time.perf_counter()
        try:
            yield
        finally:
            self.ms[stage] = self.ms.get(stage, 0.0) + (time.perf_counter() - start) * 1e3

    def rounded(self) -> dict[str, float]:
        """The times in stage order, to a tenth of a millisecond."""
        return {stage: round(self.ms[stage], 1) for stage in STAGES if stage in self.ms}


class Cancellation:
    """Whether the work on one picture should go on; may be shared between threads."""

    def __init__(self) -> None:
        self._over = threading.Event()

    def cancel(self) -> None:
        """End the work at its next step; nothing where it has ended."""
        self._over.set()

    def check(self) -> None:
        """What the work calls between its steps.

        Raises:
            CancelledError: It should not go on.
        """
        if self._over.is_set():
            raise CancelledError("nobody waits for this picture any more")
