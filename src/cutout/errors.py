"""What can go wrong, and the exit code each kind ends a run with."""

from __future__ import annotations

import sys
import warnings
from enum import IntEnum
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from pathlib import Path

__all__ = [
    "CancelledError",
    "ClosedError",
    "CutoutError",
    "CutoutWarning",
    "DeviceError",
    "ExitCode",
    "ModelError",
    "OutOfMemoryError",
    "OutputError",
    "PictureError",
    "UsageError",
    "printable",
    "remark",
]


class ExitCode(IntEnum):
    """Exit codes of the `cutout` command; scripts rely on them."""

    OK = 0
    SOME_FAILED = 1
    USAGE = 2
    MODEL = 3
    DEVICE = 4
    BUG = 70
    INTERRUPTED = 130


class CutoutError(Exception):
    """Base of every error raised on purpose.

    Args:
        message: What happened, with the file or name it happened to; one sentence, no trailing period.
        hint: What to do next, or None where nothing sensible can be said.
        options: Names of the options that stand in both, the one at fault first: the command line writes them its way.
    """

    exit_code: ClassVar[ExitCode] = ExitCode.SOME_FAILED
    kind: ClassVar[str] = "error"
    """A stable word for scripts that read `--json`."""

    def __init__(self, message: str, *, hint: str | None = None, options: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.options = options


class CancelledError(CutoutError):
    """Nobody wants the picture any more: the work on it was dropped between two steps."""

    kind = "cancelled"


class ClosedError(CutoutError):
    """A model was used after it was closed."""

    kind = "closed"


class PictureError(CutoutError):
    """The input cannot be read as a picture."""

    kind = "picture"


class OutOfMemoryError(PictureError):
    """The machine's memory does not suffice for the picture."""

    def __init__(self, message: str = "there is not enough memory for this picture") -> None:
        super().__init__(message, hint="try jobs 1 or max_size", options=("jobs", "max_size"))


class OutputError(CutoutError):
    """The result cannot be written.

    Attributes:
        cause: Why, without the name.
        disk: The device number of a file system that takes nothing more, whatever the name; None where it does.
        folder: A folder that takes no files from this user, whatever the name; None where it does.
    """

    kind = "output"
    cause: str = ""
    disk: int | None = None
    folder: Path | None = None


class UsageError(CutoutError):
    """The request contradicts itself or names something that does not exist."""

    exit_code = ExitCode.USAGE
    kind = "usage"


class ModelError(CutoutError):
    """A model is missing, refused, corrupt or does not fit its description."""

    exit_code = ExitCode.MODEL
    kind = "model"


class DeviceError(CutoutError):
    """The requested device cannot be used."""

    exit_code = ExitCode.DEVICE
    kind = "device"


class CutoutWarning(UserWarning):
    """Something that a user should know of a result or a device, though the work goes on.

    The command line and the service tell it in their own way; `cutout.remove` and `Remover` emit it by `warnings.warn`.
    """


def remark(text: str) -> None:
    """Emit a `CutoutWarning`, as of the line of the program that called this package."""
    level, frame = 2, sys._getframe(1)  # noqa: SLF001 - stacklevel counts frames, and no public name gives them
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == __package__:
        level, frame = level + 1, frame.f_back
    warnings.warn(text, CutoutWarning, stacklevel=level)


_CONTROL = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0))} | {0x0A: "\\n", 0x09: "\\t"}


def printable(text: str) -> str:
    """A text that may hold any file name, so that it neither commands the terminal nor breaks the line."""
    return text.translate(_CONTROL).encode("utf-8", "backslashreplace").decode("utf-8")
