"""Where the command begins: `cutout`, and `python -m cutout`.

Loading the command line takes a while; a signal that arrives meanwhile ends the process quietly, as a later one does.
"""

from __future__ import annotations

import os
import signal

__all__ = ["start"]

_INTERRUPTED = 130  # `errors.ExitCode.INTERRUPTED`, which is not loaded yet


def _leave(_number: int, _frame: object) -> None:
    os._exit(_INTERRUPTED)  # safe: nothing is written yet, and unfinished outputs have no final name


def _handle_signals() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:  # whoever started us wants it so
            signal.signal(number, _leave)


def start() -> None:
    """Run the command line and end the process."""
    _handle_signals()
    from cutout.cli import command

    command(_leave)


if __name__ == "__main__":
    start()
