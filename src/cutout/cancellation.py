"""How work is told that nobody wants its result any more: asked between its steps, from wherever it is done."""

from __future__ import annotations

import threading

from cutout.errors import CancelledError

__all__ = ["Cancellation"]


class Cancellation:
    """Whether the work on one picture should go on; may be shared between threads."""

    def __init__(self) -> None:
        self._over = threading.Event()

    def cancel(self) -> None:
        """End the work at its next step; nothing where it has ended."""
        self._over.set()

    def check(self) -> None:
        """What the work calls between its steps; see `StageTimes`.

        Raises:
            CancelledError: It should not go on.
        """
        if self._over.is_set():
            raise CancelledError("nobody waits for this picture any more")
