"""Reading a job's input and writing its output: files, pipes, standard streams."""

from __future__ import annotations

import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from cutout.atomic import write_atomic
from cutout.choices import Existing
from cutout.errors import OutputError, PictureError
from cutout.sniff import CAMERA_RAW_NAMES

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    from cutout.files import Job

__all__ = ["activity", "emit", "read_input", "write_output"]

_MOST_BYTES_PER_PIXEL = 8  # four channels of 16 bits, not compressed
_HEADER = 64 << 20  # metadata, previews

_READ_HINTS: dict[type[OSError], str] = {
    PermissionError: "change its permissions, or run as a user who may read it",
    FileNotFoundError: "it was there when the run was planned, and has been moved since",
    IsADirectoryError: "it is a folder",
}


class Activity:
    """How many files are being done in this process, and how many of them only wait for somebody to send input."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts = {"working": 0, "waiting": 0}

    def working(self) -> AbstractContextManager[None]:
        """Around one file."""
        return self._counted("working")

    def waiting(self) -> AbstractContextManager[None]:
        """Around reading what may never end: standard input, a pipe."""
        return self._counted("waiting")

    @contextmanager
    def _counted(self, what: str) -> Iterator[None]:
        with self._lock:
            self._counts[what] += 1
        try:
            yield
        finally:
            with self._lock:
                self._counts[what] -= 1

    @property
    def only_waits(self) -> bool:
        """Nothing would be lost by ending now."""
        with self._lock:
            return 0 < self._counts["working"] == self._counts["waiting"]


activity = Activity()


def read_input(job: Job, max_pixels: int) -> bytes:
    """The bytes of a job's input.

    Args:
        job: What to read; a source of None is standard input.
        max_pixels: A file that no picture of so many pixels can need is refused.

    Raises:
        PictureError: It cannot be read, is a camera raw file, or is too large.
    """
    try:
        if job.source is None:
            with activity.waiting():
                return _read_stdin()
        if job.source.suffix.lower() in CAMERA_RAW_NAMES:
            raise PictureError(
                "this is a camera raw file, of which only a preview could be read",
                hint="develop it first: export a TIFF or JPEG",
            )
        if not job.source.is_file():
            with activity.waiting():  # a pipe, such as a shell's <(...)
                return job.source.read_bytes()
        # no format needs more a pixel, and one file of many gigabytes must not take the memory of all the others
        if (size := job.source.stat().st_size) > max_pixels * _MOST_BYTES_PER_PIXEL + _HEADER:
            raise PictureError(
                f"the file has {size / 1e9:.1f} GB, more than a picture of {max_pixels / 1e6:.0f} megapixels",
                hint="if it is what it should be, raise --max-pixels",
            )
        return job.source.read_bytes()
    except OSError as error:
        hint = _READ_HINTS.get(type(error))
        if isinstance(error, FileNotFoundError) and job.source is not None and job.source.is_symlink():
            hint = f"it is a link to {job.source.readlink()}, which does not exist"
        raise PictureError(f"the file cannot be read: {error.strerror or error}", hint=hint) from error


def write_output(job: Job, data: bytes) -> bool:
    """Put the bytes where the job says, whole or not at all; False when a file that must stay is already there.

    Raises:
        OutputError: It cannot be written.
        BrokenPipeError: It was for standard output, whose reader has gone.
    """
    if job.target is not None:
        return write_atomic(job.target, data, replace_existing=job.existing is Existing.OVERWRITE)
    emit(data)
    return True


def emit(data: bytes) -> None:
    """Write to standard output at once.

    Raises:
        OutputError: It cannot be written.
        BrokenPipeError: Its reader has gone.
    """
    stdout: Any = sys.stdout  # None where the caller closed it
    if stdout is None:
        raise OutputError("standard output cannot be written: it is closed")
    try:
        stdout.buffer.write(data)
        stdout.buffer.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputError(f"standard output cannot be written: {error.strerror or error}") from error


def _read_stdin() -> bytes:
    stdin: Any = sys.stdin  # None where the caller closed it
    if stdin is None:
        raise PictureError("standard input cannot be read: it is closed")
    return bytes(stdin.buffer.read())
