"""Whole files or none: temporary file, flush, rename; and what is in the way of that."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cutout.errors import OutputError

if TYPE_CHECKING:
    from collections.abc import Iterator

fcntl: Any
try:
    import fcntl
except ImportError:  # Windows: an open file cannot be removed there, which protects it as well as a lock
    fcntl = None

__all__ = ["check_writable", "is_part", "is_there", "scratch", "status_of", "sweep", "write_atomic"]

_PART = ".cutout-part"
_PART_NAME = re.compile(r"\..*\.[0-9a-f]{8}" + re.escape(_PART), re.DOTALL)


def is_there(target: Path) -> bool:
    """Whether an output exists already; one that cannot be looked at counts as missing: writing it will tell.

    Raises:
        OutputError: What bears the name is no file: a result would destroy it, or never get the name.
    """
    status = status_of(target)
    if status is None:
        return False
    if stat.S_ISREG(status.st_mode):
        return True
    what = "a folder of that name is in the way" if stat.S_ISDIR(status.st_mode) else "it is a device or a pipe"
    raise OutputError(f"{target} cannot be written: {what}", hint="choose another output; -o - is standard output")


def check_writable(target: Path) -> None:
    """Find out before the work whether its result could be written, as far as permissions tell.

    Raises:
        OutputError: The folder, or the one it would be made in, takes no files from this user.
    """
    folder = next((above for above in target.parents if os.path.lexists(above)), None)
    if folder is None or os.access(folder, os.W_OK | os.X_OK):
        return
    try:  # the true reason, or none: some file systems answer the question wrongly
        part, descriptor = _open_part(folder / target.name)
        os.close(descriptor)
        part.unlink()
    except OSError as error:
        raise _cannot_write(target, error) from error


def write_atomic(target: Path, data: bytes, *, replace_existing: bool = True) -> bool:
    """Write a file so that its name appears with all of its content or not at all, also when the power fails.

    A temporary file in the same folder is written, flushed to the disk and renamed. It is locked until it has its
    name, so that `sweep` can tell what a killed run left behind. A link of that name is replaced, never followed.

    Args:
        target: The final name; its folder is made when missing.
        data: The content.
        replace_existing: Otherwise a target that is there by now is left alone.

    Returns:
        Whether the file was written.

    Raises:
        OutputError: It cannot be written; nothing is left behind.
    """
    part: Path | None = None
    try:
        if is_there(target) and not replace_existing:
            return False
        target.parent.mkdir(parents=True, exist_ok=True)
        part, descriptor = _open_part(target)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(descriptor)
            if fcntl is None:
                file.close()  # Windows renames no open file
            if not replace_existing:
                return _link(part, target)
            part.replace(target)
            part = None
    except OSError as error:
        raise _cannot_write(target, error) from error
    finally:
        if part is not None:
            with contextlib.suppress(OSError):
                part.unlink()
    return True


@contextlib.contextmanager
def scratch(target: Path) -> Iterator[Path]:
    """An empty file beside the target to work with; it is gone at the end, and `sweep` removes that of a killed run.

    Raises:
        OSError: It cannot be made.
    """
    part, descriptor = _open_part(target)
    try:
        yield part
    finally:
        with contextlib.suppress(OSError):
            if fcntl is None:
                os.close(descriptor)  # Windows removes no open file
            part.unlink()
        if fcntl is not None:
            os.close(descriptor)


def sweep(folders: set[Path]) -> None:
    """Remove temporary files that killed runs left in these output folders; those still written to are locked."""
    for folder in folders:
        try:
            with os.scandir(folder) as entries:
                parts = [Path(entry) for entry in entries if is_part(entry.name) and entry.is_file()]
        except OSError:
            continue
        for part in parts:
            with contextlib.suppress(OSError):
                if fcntl is None:
                    part.unlink()  # refused while it is open
                    continue
                descriptor = os.open(part, os.O_RDWR)
                try:
                    if _lock(descriptor):
                        part.unlink()
                finally:
                    os.close(descriptor)


def is_part(name: str) -> bool:
    """Whether a file name is that of an unfinished output."""
    return _PART_NAME.fullmatch(name) is not None


def _open_part(target: Path) -> tuple[Path, int]:
    while True:
        stem = os.fsdecode(os.fsencode(target.name)[:200])  # room for the suffix within the usual 255 bytes
        part = target.with_name(f".{stem}.{os.urandom(4).hex()}{_PART}")
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
        if _lock(descriptor) is not False and os.fstat(descriptor).st_nlink > 0:
            return part, descriptor
        os.close(descriptor)  # a sweep took it between the two calls: once more


def _lock(descriptor: int) -> bool | None:
    """Whether the file is ours now; None where nobody can tell: such a file system must not stop a write."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return False if error.errno in {errno.EAGAIN, errno.EACCES} else None
    return True


def _link(part: Path, target: Path) -> bool:
    """Give the file its name unless the name is taken, in one step where the file system can."""
    try:
        os.link(part, target)
    except OSError:  # the name is taken, maybe by a link to nowhere, or there are no hard links here
        if is_there(target):
            return False
        part.replace(target)
    return True


def status_of(path: Path) -> os.stat_result | None:
    """What lies behind a name, links followed; None where there is nothing or nothing may be seen."""
    try:
        return path.stat()
    except (OSError, ValueError):
        return None


def _cannot_write(target: Path, error: OSError) -> OutputError:
    reasons = {
        errno.ENOSPC: ("the disk is full", "free some space and run the same command again: what is done is kept"),
        errno.EDQUOT: ("your disk quota is used up", "free some space and run the same command again"),
        errno.EACCES: ("permission denied", "choose another output, or change the folder's permissions"),
        errno.EPERM: ("permission denied", "choose another output, or change the folder's permissions"),
        errno.EROFS: ("the file system is read-only", "choose another output"),
        errno.ENAMETOOLONG: ("the name is too long", "choose a shorter output name"),
        errno.EISDIR: ("a folder of that name is in the way", "choose another output"),
        errno.ENOTDIR: ("part of its path is a file, not a folder", "choose another output"),
        errno.EEXIST: ("part of its path is a file, not a folder", "choose another output"),
    }
    cause, hint = reasons.get(error.errno or 0, (error.strerror or str(error), "choose another output"))
    return OutputError(f"{target} cannot be written: {cause}", hint=hint)
