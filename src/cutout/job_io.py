"""Reading a job's input and writing its output: files, pipes, standard streams."""

from __future__ import annotations

import errno
import io
import os
import select
import stat
import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from cutout.atomic import write_atomic
from cutout.choices import Existing
from cutout.errors import OutputError, PictureError
from cutout.sniff import CAMERA_RAW_NAMES, HEAD, sniff

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from cutout.files import Job

__all__ = ["TooLargeError", "activity", "emit", "most_bytes", "read_file", "read_input", "write_output"]

_MOST_BYTES_PER_PIXEL = 8  # four channels of 16 bits, not compressed
_HEADER = 64 << 20  # metadata, previews
_CHUNK = 1 << 20

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
                return _read_stdin(most_bytes(max_pixels))
        if job.source.suffix.lower() in CAMERA_RAW_NAMES:
            raise PictureError(
                "this is a camera raw file, of which only a preview could be read",
                hint="develop it first: export a TIFF or JPEG",
            )
        if job.source.is_file():
            return read_file(job.source, most_bytes(max_pixels))
        with activity.waiting(), job.source.open("rb", buffering=0) as file:  # a pipe, such as a shell's <(...)
            return _read_to_the_end(file, most_bytes(max_pixels))
    except TooLargeError as error:
        raise PictureError(str(error), hint=error.hint) from error
    except OSError as error:
        hint = _READ_HINTS.get(type(error))
        if error.errno == errno.ELOOP:
            hint = "it is a link that leads to itself"
        if isinstance(error, FileNotFoundError) and job.source is not None and job.source.is_symlink():
            hint = f"it is a link to {job.source.readlink()}, which does not exist"
        raise PictureError(f"the file cannot be read: {error.strerror or error}", hint=hint) from error


class TooLargeError(OSError):
    """There is more to read than a picture can need; the message says how much, `hint` what to do."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


def most_bytes(max_pixels: int) -> int:
    """What a file of a picture of so many pixels can have: no format needs more a pixel.

    One file of many gigabytes, or a pipe that never ends, must not take the memory of all the others.
    """
    return max_pixels * _MOST_BYTES_PER_PIXEL + _HEADER


def read_file(path: Path, limit: int) -> bytes:
    """The bytes of a regular file.

    Args:
        path: A file; whether it is one is found out before it is opened, since opening a pipe may never return.
        limit: Bytes; a file that has more is not read.

    Raises:
        TooLargeError: It has more.
        OSError: It cannot be read, or is a pipe or a device.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode):
        raise OSError("it is a pipe or a device, not a file")
    if status.st_size > limit:
        raise TooLargeError(
            f"the file has {_amount(status.st_size)}, and no more than {_amount(limit)} are read",
            "if it is what it should be, raise --max-pixels",
        )
    with path.open("rb", buffering=0) as file:
        return _read_to_the_end(file, limit, expected=status.st_size)


def _amount(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


def _read_to_the_end(file: Any, limit: int, *, expected: int = 0) -> bytes:
    """All that a file, a pipe or a device gives, up to a limit; of what begins like no picture, a part of that.

    Raises:
        TooLargeError: It goes on after that.
    """
    found = io.BytesIO()
    chunk = file.read(max(expected + 1, _CHUNK))
    while chunk is None or chunk:
        if chunk is None:  # whoever started us made it non-blocking
            select.select([file], [], [])
        else:
            found.write(chunk)
        if found.tell() > limit:
            raise TooLargeError(f"it goes on after {_amount(limit)}", "if it is what it should be, raise --max-pixels")
        if found.tell() > max(_HEADER, expected) and sniff(bytes(found.getbuffer()[:HEAD])) is None:
            raise TooLargeError("this is not a picture of a known format, and it has no end", "name a picture")
        chunk = file.read(_CHUNK)
    return found.getvalue()


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
        stdout.flush()
        try:
            descriptor = stdout.fileno()
        except io.UnsupportedOperation:  # a stream in memory, of a program that calls us
            stdout.buffer.write(data)
        else:
            _write_all(descriptor, data)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputError(f"standard output cannot be written: {error.strerror or error}") from error


def _write_all(descriptor: int, data: bytes) -> None:
    """Write every byte: Python's own stream writes a part and says so to nobody where it is unbuffered."""
    left = memoryview(data)
    while left:
        try:
            written = os.write(descriptor, left)
        except BlockingIOError:  # whoever started us made it non-blocking, and it is full
            select.select([], [descriptor], [])
            continue
        left = left[written:]


def _read_stdin(limit: int) -> bytes:
    stdin: Any = sys.stdin  # None where the caller closed it
    if stdin is None:
        raise PictureError("standard input cannot be read: it is closed")
    return _read_to_the_end(stdin.buffer, limit)
