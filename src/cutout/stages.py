"""Where the time of one picture goes."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["STAGES", "Stages"]

STAGES = ("load", "decode", "preprocess", "inference", "postprocess", "encode", "write")
"""The stages of one picture, in order. `load` is reading its bytes."""


class Stages:
    """Wall-clock time of one picture's stages; not shared between threads.

    Attributes:
        ms: Milliseconds by stage name; a stage entered twice adds up.
    """

    __slots__ = ("ms",)

    def __init__(self) -> None:
        self.ms: dict[str, float] = {}

    @contextmanager
    def time(self, stage: str) -> Iterator[None]:
        """Add the time spent in the `with` block to `stage`, also when it raises."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.ms[stage] = self.ms.get(stage, 0.0) + (time.perf_counter() - start) * 1e3

    def rounded(self) -> dict[str, float]:
        """The times in stage order, to a tenth of a millisecond."""
        return {stage: round(self.ms[stage], 1) for stage in STAGES if stage in self.ms}
