"""Bytes of files, pipes and devices, never more of them than are wanted."""

from __future__ import annotations

import io
import select
import stat
from typing import TYPE_CHECKING, Any

from cutout.formats.input_formats import HEAD, sniff

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["NOTES", "TooManyBytesError", "most_bytes", "read_file", "read_to_the_end"]

NOTES = 1 << 20
"""Bytes that are read of a configuration, or of what this program keeps for itself."""
_MOST_BYTES_PER_PIXEL = 8  # four channels of 16 bits, not compressed
_HEADER = 64 << 20  # metadata, previews
_CHUNK = 1 << 20


class TooManyBytesError(OSError):
    """There is more to read than a picture can need; the message says how much, `hint` what to do."""

    def __init__(self, message: str, hint: str = "if it is what it should be, raise max_pixels") -> None:
        super().__init__(message)
        self.hint = hint


def most_bytes(max_pixels: int) -> int:
    """What a file of a picture of so many pixels can have: no format needs more a pixel.

    One file of many gigabytes, or a pipe that never ends, must not take the memory of all the others.
    """
    return max_pixels * _MOST_BYTES_PER_PIXEL + _HEADER


def read_file(path: Path, limit: int) -> bytes:
    """The bytes of a regular file; whether it is one is seen before it is opened: opening a pipe may never return.

    Raises:
        TooManyBytesError: It has more than `limit` bytes.
        OSError: It cannot be read, or is a pipe or a device.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode):
        raise OSError("it is a pipe or a device, not a file")
    if status.st_size > limit:
        raise TooManyBytesError(f"the file has {_amount(status.st_size)}, and no more than {_amount(limit)} are read")
    with path.open("rb", buffering=0) as file:
        return read_to_the_end(file, limit, expected=status.st_size)


def _amount(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


def read_to_the_end(file: Any, limit: int, *, expected: int = 0) -> bytes:
    """All that a file, a pipe or a device gives, up to a limit; of what begins like no picture, a part of that.

    Raises:
        TooManyBytesError: It goes on after that.
    """
    found = io.BytesIO()
    chunk = file.read(max(expected + 1, _CHUNK))
    while chunk is None or chunk:
        if chunk is None:  # whoever started us made it non-blocking
            select.select([file], [], [])
        else:
            found.write(chunk)
        if found.tell() > limit:
            raise TooManyBytesError(f"it goes on after {_amount(limit)}")
        if found.tell() > max(_HEADER, expected) and sniff(bytes(found.getbuffer()[:HEAD])) is None:
            raise TooManyBytesError("this is not a picture of a known format, and it has no end", "name a picture")
        chunk = file.read(_CHUNK)
    return found.getvalue()
