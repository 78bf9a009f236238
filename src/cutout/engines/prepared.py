"""Files made from models once and kept: proved by their hash before each use, made again where they are damaged."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from pathlib import Path

from cutout.atomic import sweep, write_atomic
from cutout.models.files import prepared_home, sha256

__all__ = ["clear", "contents", "keep", "kept"]

_HASH = 32
"""Characters of the SHA-256 that a file's name ends with: 3 ms for u2netp at each start, 110 ms for u2net."""
_MOST = 2
"""Copies of one model that stay, the most recently used ones: two installations may take turns on a machine."""


def kept(stem: str, suffix: str) -> Path | None:
    """The file that was kept under this name, if it is still what was written.

    A damaged one is removed, so that it is made again.

    Args:
        stem: A name below the folder of prepared files, which tells all that the content depends on; it begins with
            what it has in common with other copies of the model, up to its first `-`.
        suffix: Such as `.onnx`.
    """
    for path in _named(stem, rf"[0-9a-f]{{{_HASH}}}{re.escape(suffix)}"):
        with contextlib.suppress(OSError):
            if _digest(path) == sha256(path)[:_HASH]:
                with contextlib.suppress(OSError):
                    os.utime(path)  # tells which copies are in use
                return path
            path.unlink()
    return None


def keep(stem: str, suffix: str, content: bytes) -> Path:
    """Keep what was made; whatever killed runs have left there is removed, and so are copies that nobody used lately.

    Raises:
        OutputError: There is no place for it.
    """
    target = prepared_home() / f"{stem}-{hashlib.sha256(content).hexdigest()[:_HASH]}{suffix}"
    with contextlib.suppress(OSError):
        if not target.is_file():
            target.unlink()  # a pipe, or a link to nowhere
    write_atomic(target, content)
    sweep({target.parent})
    family = stem.partition("-")[0]
    for path in sorted(_named(family, ".*" + re.escape(suffix)), key=_used, reverse=True)[_MOST:]:
        with contextlib.suppress(OSError):
            path.unlink()
    return target


def contents() -> list[Path]:
    """All files that are kept, those of devices that compile included."""
    home = prepared_home()
    return sorted(Path(folder) / name for folder, _, names in os.walk(home) for name in names)


def clear() -> int:
    """Remove all of them, and what killed runs have left; each is made again when it is next needed.

    Returns:
        Bytes that became free.

    Raises:
        OSError: One cannot be removed.
    """
    freed = 0
    for path in contents():
        freed += path.lstat().st_size
        path.unlink()
    for folder, _, _ in os.walk(prepared_home(), topdown=False):
        with contextlib.suppress(OSError):  # not empty: another run makes something just now
            Path(folder).rmdir()
    return freed


def _named(stem: str, rest: str) -> list[Path]:
    """Files whose names are the stem, a hyphen, and what fits the regular expression; a pipe or a folder is none."""
    above, name = os.path.split(prepared_home() / stem)
    form = re.compile(f"{re.escape(name)}-{rest}")
    try:
        with os.scandir(above) as entries:
            return [Path(entry) for entry in entries if form.fullmatch(entry.name) and entry.is_file()]
    except OSError:
        return []


def _digest(path: Path) -> str:
    return path.stem.rpartition("-")[2]


def _used(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
