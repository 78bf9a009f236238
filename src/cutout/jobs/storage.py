"""Reading a job's input and writing its output: files, pipes, standard streams."""

from __future__ import annotations

import errno
import io
import os
import select
import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

from cutout.atomic import is_there, write_atomic
from cutout.enums import Existing
from cutout.errors import OutputError, PictureError
from cutout.formats.input_formats import CAMERA_RAW_NAMES, VIDEO_NAMES
from cutout.formats.reading import TooManyBytesError, most_bytes, read_file, read_to_the_end

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cutout.jobs.plan import Job

__all__ = ["activity", "emit", "file_size", "is_settled", "read_input", "write_output"]

_LEAST = 64 << 20
"""Bytes that are read of any input, whatever the memory."""

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

    @contextmanager
    def counted(self, what: Literal["working", "waiting"]) -> Iterator[None]:
        """Around one file, or around reading what may never end: standard input, a pipe."""
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


def file_size(job: Job) -> int:
    """Bytes of a job's input; 0 where nobody knows before it is read."""
    try:
        return 0 if job.source is None else job.source.stat().st_size
    except OSError:  # reading it tells why
        return 0


def is_settled(job: Job) -> bool:
    """Whether the output is there and is to stay.

    Raises:
        OutputError: What bears its name is no file.
    """
    if job.target is None or job.existing not in {Existing.SKIP, Existing.NEWER} or not is_there(job.target):
        return False
    if job.existing is Existing.SKIP:
        return True
    try:
        return job.source is not None and job.source.stat().st_mtime_ns <= job.target.stat().st_mtime_ns
    except OSError:  # reading it tells why
        return False


def read_input(job: Job, max_pixels: int, memory: int = sys.maxsize) -> bytes:
    """The bytes of a job's input, if no more than a picture of `max_pixels` can need, and than `memory`.

    Raises:
        PictureError: It cannot be read, is a camera raw file, or is too large.
    """
    most = most_bytes(max_pixels)
    memory = max(memory, _LEAST)  # of a smaller one, the estimate tells more
    try:
        if job.source is None:
            with activity.counted("waiting"):
                return _read_stdin(min(most, memory))
        if job.source.suffix.lower() in CAMERA_RAW_NAMES:
            raise PictureError(
                "this is a camera raw file, of which only a preview could be read",
                hint="develop it first: export a TIFF or JPEG",
            )
        if job.source.suffix.lower() in VIDEO_NAMES:
            raise PictureError(
                "this is a video, not a picture",
                hint="take its pictures out: mkdir frames; ffmpeg -i VIDEO frames/%05d.png; cutout remove frames",
            )
        if job.source.is_file():
            return read_file(job.source, min(most, memory))
        # a pipe, such as a shell's <(...)
        with activity.counted("waiting"), job.source.open("rb", buffering=0) as file:
            return read_to_the_end(file, min(most, memory))
    except TooManyBytesError as error:
        way = error.hint if most <= memory else "a higher memory_limit where there is more memory"
        raise PictureError(str(error), hint=way, options=("max_pixels", "memory_limit")) from error
    except OSError as error:
        hint = _READ_HINTS.get(type(error))
        if error.errno == errno.ELOOP:
            hint = "it is a link that leads to itself"
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
        return write_atomic(job.target, data, replace_existing=job.existing in {Existing.OVERWRITE, Existing.NEWER})
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
    return read_to_the_end(stdin.buffer, limit)
