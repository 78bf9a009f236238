"""Where the time of one picture goes, and where it may end before its time."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["STAGES", "StageTimes"]

STAGES = ("load", "decode", "preprocess", "inference", "postprocess", "encode", "write")
"""The stages of one picture, in order. `load` is reading its bytes."""


class StageTimes:
    """Wall-clock time of one picture's stages; not shared between threads.

    Args:
        check: Called before every stage and between the longer steps of one; what it raises ends the work there. See
            `cancellation`.

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
