"""Whole files or none: temporary file, flush, rename; and what is in the way of that."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cutout.errors import CutoutError, OutputError

if TYPE_CHECKING:
    from collections.abc import Iterator

fcntl: Any
try:
    import fcntl
except ImportError:  # Windows: an open file cannot be removed there, which protects it as well as a lock
    fcntl = None

__all__ = [
    "check_writable",
    "closed_to",
    "is_part",
    "is_there",
    "real_path",
    "scratch",
    "status_of",
    "sweep",
    "write_atomic",
]

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
    try:
        target.lstat()
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise _cannot_write(target, error, by_folder=False) from error
    folder = _lowest(target)
    if folder is None or (os.access(folder, os.W_OK | os.X_OK) and os.path.isdir(folder)):  # noqa: PTH112 - never raises
        return
    try:  # the true reason, or none: some file systems answer the question wrongly
        part, descriptor = _open_part(folder / target.name)
        os.close(descriptor)
        part.unlink()
    except OSError as error:
        raise _cannot_write(target, error, by_folder=True) from error


def write_atomic(target: Path, data: bytes, *, replace_existing: bool = True) -> bool:
    """Write a file so that its name appears with all of its content or not at all, also when the power fails.

    A temporary file in the same folder, which is made when missing, is written, flushed to the disk and renamed. It is
    locked until it has its name, so that `sweep` can tell what a killed run left behind. A link of that name is
    replaced, never followed.

    Returns:
        Whether it was written: without `replace_existing`, a target that is there by now is left alone.

    Raises:
        OutputError: It cannot be written; nothing is left behind.
    """
    part: Path | None = None
    try:
        if is_there(target) and not replace_existing:
            return False
        _make(target.parent)
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
        raise _cannot_write(target, error, by_folder=part is None) from error
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


def closed_to(error: CutoutError | None, target: Path) -> bool:
    """Whether what an output failed of will be met by another one as well: its disk is full, its folder is locked."""
    if not isinstance(error, OutputError):
        return False
    if error.folder is not None and error.folder in target.parents:
        return True
    return error.disk is not None and error.disk == _disk(target)


def _make(folder: Path) -> None:
    """Make a folder and those above it, however many: `Path.mkdir` calls itself for each."""
    missing = [folder]
    for above in folder.parents:
        if os.path.lexists(missing[-1]):
            break
        missing.append(above)
    for path in reversed(missing):
        path.mkdir(exist_ok=True)


def _lowest(target: Path) -> Path | None:
    """The folder of an output, or of those above it the one that is there."""
    return next((above for above in target.parents if os.path.lexists(above)), None)


def _disk(target: Path) -> int | None:
    folder = _lowest(target)
    status = None if folder is None else status_of(folder)
    return None if status is None else status.st_dev


_WHOLE_DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ENODEV, errno.ENXIO})
_WHOLE_FOLDER = frozenset({errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.ENOENT, errno.EEXIST, errno.ELOOP})


def real_path(path: Path, known: dict[str, str]) -> str:
    """`os.path.realpath`, which asks for every folder above each time: those that are `known` are not asked again."""
    text = os.fspath(path)
    if os.name == "nt":  # more than links can be in a path there
        return os.path.realpath(text)
    unknown = []
    while text not in known:
        above, name = os.path.split(text)
        if above == text or name in {"", ".", ".."}:
            known[text] = os.path.realpath(text)
        else:
            unknown.append(text)
            text = above
    for below in reversed(unknown):
        real = os.path.join(known[text], os.path.basename(below))  # noqa: PTH118, PTH119 - many and plain
        known[below] = os.path.realpath(real) if os.path.islink(real) else real  # noqa: PTH114 - never raises
        text = below
    return known[text]


def _cannot_write(target: Path, error: OSError, *, by_folder: bool) -> OutputError:
    """The error for people; `by_folder` where it came before the output's own name was used."""
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
    failure = OutputError(f"{target} cannot be written: {cause}", hint=hint)
    failure.cause = cause
    if error.errno in _WHOLE_DISK:
        failure.disk = _disk(target)
    elif by_folder and error.errno in _WHOLE_FOLDER:
        failure.folder = _lowest(target)
    return failure
