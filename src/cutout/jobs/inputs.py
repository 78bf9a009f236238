"""Which files a run is about: folders are walked, lists are read, some are left out."""

from __future__ import annotations

import glob
import os
import stat
import sys
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING

from cutout.atomic import is_part, status_of
from cutout.errors import UsageError
from cutout.formats.input_formats import CAMERA_RAW_NAMES, HEAD, INPUT_FORMATS, sniff
from cutout.output_formats import SUFFIXES

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["Found", "excluded", "matching", "named_in", "results_among", "walk"]

_PICTURE_NAMES = frozenset(suffix for row in INPUT_FORMATS for suffix in row.suffixes)


@dataclass(frozen=True, slots=True)
class Found:
    """What lies in a folder.

    Attributes:
        pictures: To be done, sorted.
        ignored: Files that are no pictures, and links to folders.
        earlier: Results of an earlier run, which lie beside their pictures.
        locked: Folders that cannot be read, with the reason.
    """

    pictures: list[Path] = field(default_factory=list)
    ignored: list[Path] = field(default_factory=list)
    earlier: list[Path] = field(default_factory=list)
    locked: list[tuple[Path, OSError]] = field(default_factory=list)


def named_in(name: str) -> list[str]:
    """The names in a list, a file or `-`: one to a line, or each ended by a NUL where there is one.

    Raises:
        UsageError: It cannot be read, or names nothing that exists.
    """
    try:
        data = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
    except (OSError, AttributeError) as error:  # standard input is None where the caller closed it
        reason = getattr(error, "strerror", None) or "it is closed"
        raise UsageError(f"the list {name} cannot be read: {reason}", options=("files_from",)) from error
    names = [os.fsdecode(each) for each in (data.split(b"\0") if b"\0" in data else data.splitlines()) if each]
    for each in names:
        if not os.path.lexists(each):
            raise UsageError(f"{each}, which the list {name} names, does not exist")
    return [f".{os.sep}-" if each == "-" else each for each in names]


def excluded(path: Path, patterns: Iterable[str]) -> bool:
    """Whether a path, or a folder that it lies in, has an excluded name or is excluded as a whole."""
    patterns = [pattern.rstrip("/") for pattern in patterns]
    return any(fnmatch(text, each) for each in patterns for at in (path, *path.parents) for text in (str(at), at.name))


def matching(pattern: str, exclude: Sequence[str], suffix: str) -> tuple[list[str], list[Path]]:
    """What a pattern matches, sorted, and apart from it results of earlier runs that it does not name.

    Raises:
        UsageError: It matches nothing.
    """
    matches = sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207 - absolute patterns too
    if not matches:
        raise UsageError(f"the input {pattern} matches nothing", hint="check the path; names with spaces need quotes")
    matches = [each for each in matches if not is_part(os.path.basename(each)) and not excluded(Path(each), exclude)]  # noqa: PTH119 - plain text
    results: dict[Path, set[str]] = {}
    earlier: set[Path] = set()
    if suffix not in pattern:
        for path in map(Path, matches):
            if path.parent not in results:
                results[path.parent] = results_among(os.listdir(path.parent), suffix)  # noqa: PTH208 - names
            if path.name in results[path.parent]:
                earlier.add(path)
    return [each for each in matches if Path(each) not in earlier], sorted(earlier)


def results_among(names: Iterable[str], suffix: str) -> set[str]:
    """Those of a folder's names that results of its other files bear, or of its other folders."""
    names = set(names)
    stems = {os.path.splitext(name)[0] for name in names if _extension(name) in _PICTURE_NAMES}  # noqa: PTH122 - plain text
    found = {name for name in names if name.endswith(suffix) and name.removesuffix(suffix) in names}
    for name in names:
        stem = name[: len(name) - len(_extension(name))]
        if _extension(name) in SUFFIXES and stem.endswith(suffix) and stem.removesuffix(suffix) in stems:
            found.add(name)
    return found


def _extension(name: str) -> str:
    return os.path.splitext(name)[1].lower()  # noqa: PTH122 - plain text


def walk(folder: Path, root: Path, *, recursive: bool, exclude: Sequence[str], suffix: str) -> Found:
    """The pictures of a folder, sorted, and what else is in it.

    The output folder is left out where it lies inside, and hidden folders are (`.git`, `.thumbnails`). Links to folders
    are not followed, so no walk goes in circles. No tree is too deep: what the system takes no path of is named.

    Raises:
        UsageError: The folder cannot be read, or is the output folder.
    """
    if os.path.realpath(root) == os.path.realpath(folder):
        raise UsageError(
            f"the output folder {root} is the input folder",
            hint="give another folder, so that results are never taken for inputs",
        )
    found = Found()
    away = status_of(root)
    waiting = [folder]
    while waiting:
        here = waiting.pop()
        try:
            with os.scandir(here) as entries:
                listed = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            if here == folder:
                raise UsageError(f"the folder {folder} cannot be read: {error.strerror}") from error
            found.locked.append((here, error))
            continue
        earlier = results_among([entry.name for entry in listed], suffix)
        found.earlier.extend(here / entry.name for entry in listed if entry.name in earlier)
        listed = [entry for entry in listed if entry.name not in earlier]
        if exclude:
            listed = [entry for entry in listed if not excluded((here / entry.name).relative_to(folder), exclude)]
        folders = [entry for entry in listed if _holds_files(entry)]
        below: list[Path] = []
        for entry in folders if recursive else ():
            path = here / entry.name
            if entry.name.startswith(".") or (away and (there := status_of(path)) and os.path.samestat(there, away)):
                continue
            (found.ignored if entry.is_symlink() else below).append(path)
        waiting += reversed(below)
        names = {entry.name for entry in folders}
        for path in (here / entry.name for entry in listed if entry.name not in names and not is_part(entry.name)):
            (found.pictures if _wanted(path) else found.ignored).append(path)
    return found


def _holds_files(entry: os.DirEntry[str]) -> bool:
    """Whether it is a folder, or a link to one."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _wanted(path: Path) -> bool:
    """Taken when the content is a picture's, or when the name says so: then it must be done or fail loudly.

    Hidden files (`.DS_Store`, `._photo.jpg`) are only taken for their content. Devices and pipes never are: reading
    them may not end.
    """
    status = status_of(path)
    if status is not None and not stat.S_ISREG(status.st_mode):
        return False
    if path.suffix.lower() in _PICTURE_NAMES and not path.name.startswith("."):
        return True
    try:
        with path.open("rb") as file:
            kind = sniff(file.read(HEAD))
    except OSError:
        return False
    return kind is not None and not (kind == "TIFF" and path.suffix.lower() in CAMERA_RAW_NAMES)
