"""From a `ModelSpec` to a verified file on this machine: embedded, already on disk, or downloaded by `download`."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from cutout.atomic import write_atomic
from cutout.errors import CutoutError, ModelError
from cutout.formats.reading import NOTES, read_file

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cutout.models.registry import ModelSpec

__all__ = [
    "NOWHERE",
    "FileState",
    "ModelFile",
    "candidates",
    "data_home",
    "expanded",
    "is_file",
    "locate",
    "model_home",
    "offline",
    "prepared_home",
    "require",
    "sha256",
    "verify",
]


NOWHERE = Path(os.devnull, "cutout")
"""Where nothing lies and nothing can be kept: all that is kept is kept if that is possible, and only then."""


class FileState(StrEnum):
    """What is known of a model file without reading all of it."""

    VERIFIED = "verified"
    """Its hash was right, and size and modification time have not changed since."""
    UNVERIFIED = "unverified"
    """It is there, and was not read yet."""
    CORRUPT = "corrupt"
    MISSING = "missing"


class ModelFile(NamedTuple):
    """Where a model lies and in which state; `path` is None when it is missing."""

    path: Path | None
    state: FileState


def data_home() -> Path:
    """Folder of everything this program keeps: `$CUTOUT_HOME`, or the system's place for user data.

    A user without a home, as in many containers, gets `NOWHERE`.
    """
    if home := os.environ.get("CUTOUT_HOME"):
        return expanded(home)
    import platformdirs

    try:
        found = platformdirs.user_data_path("cutout", appauthor=False)
    except (RuntimeError, OSError):  # newer releases say that there is none
        return NOWHERE
    return found if found.is_absolute() else NOWHERE  # older ones leave the ~, which would become a folder here


def model_home() -> Path:
    """Folder that downloaded models go to."""
    return data_home() / "models"


def prepared_home() -> Path:
    """Folder of rewritten graphs; everything in it can be made again."""
    return data_home() / "prepared"


def offline() -> bool:
    """Whether `CUTOUT_OFFLINE` forbids every use of the network."""
    return os.environ.get("CUTOUT_OFFLINE", "").strip().lower() not in {"", "0", "false", "no", "off"}


def candidates(spec: ModelSpec) -> Iterator[Path]:
    """Every path at which the model may lie, best first: own file, embedded, our folder, rembg's caches."""
    if spec.path is not None:
        yield spec.path
        return
    if spec.embedded:
        yield Path(__file__).parent / "weights" / spec.file
    files = (spec.file, *spec.other_files)
    yield from (model_home() / file for file in files)
    names = (spec.name, *spec.aliases)
    for home, flat in _rembg_homes():
        yield from (home / file for file in files if flat)
        # rembg 2.0.8x keeps one folder per model
        yield from (home / "models" / name / file for name in names for file in files)


def _rembg_homes() -> Iterator[tuple[Path, bool]]:
    """Folders of rembg's models and whether files may lie in them directly."""
    for variable, below, flat in (
        ("U2NET_HOME", "", True),
        ("REMBG_HOME", "", False),
        ("XDG_DATA_HOME", ".u2net", True),
        ("XDG_DATA_HOME", "rembg", False),
    ):
        if home := os.environ.get(variable):
            yield expanded(home) / below, flat
    yield expanded("~/.u2net"), True
    yield expanded("~/.rembg"), False


def expanded(path: str) -> Path:
    """The path with its `~` replaced; left as it is for a user who has no home, as in many containers."""
    return Path(os.path.expanduser(path))  # noqa: PTH111 - `Path.expanduser` raises for such a user


def locate(spec: ModelSpec) -> ModelFile:
    """Where the model lies, judged by size and by remembered verification only; reads no model bytes.

    A corrupt file is passed over when another place holds a good one.
    """
    corrupt = ModelFile(None, FileState.MISSING)
    for path in candidates(spec):
        state = _quick_state(path, spec)
        if state in {FileState.VERIFIED, FileState.UNVERIFIED}:
            return ModelFile(path, state)
        if state is FileState.CORRUPT and corrupt.path is None:
            corrupt = ModelFile(path, state)
    return corrupt


def require(spec: ModelSpec) -> Path:
    """The path of a file whose hash is known to be right; the hash is computed once per file, then remembered.

    A file that is corrupt or cannot be read is passed over when another place holds a good one.

    Raises:
        ModelError: The file is missing, corrupt or cannot be read; the hint is the command that mends it.
    """
    bad: list[Path] = []
    unreadable: ModelError | None = None
    for path in candidates(spec):
        if _size(path) is None:
            continue
        try:
            if verify(path, spec):
                return path
        except ModelError as error:
            unreadable = unreadable or error
        else:
            bad.append(path)
    if unreadable is not None and not bad:
        raise unreadable
    if spec.path is not None:
        there = "is no regular file" if os.path.lexists(spec.path) else "does not exist"
        raise ModelError(
            f"the model file {spec.path} " + ("has another hash than its configuration says" if bad else there),
            hint="check the path given to --model",
        )
    pull = _pull_command(spec)
    if bad:
        raise ModelError(
            f"the model file {bad[0]} is corrupt: its size or hash is not that of {spec.name}",
            hint=f"fetch a good one: {pull}"
            + " (with CUTOUT_OFFLINE unset)" * offline()
            + f"; MODEL_CHECKSUM_DISABLED does nothing here, but a file that is named by its path is used as it is: "
            f"--model {bad[0]}" * ("MODEL_CHECKSUM_DISABLED" in os.environ),
        )
    hint = f"fetch it first: {pull}"
    if offline():
        place = "a folder, name it with CUTOUT_HOME" if data_home() == NOWHERE else model_home()
        hint = f"CUTOUT_OFFLINE is set: unset it and run {pull}, or copy {spec.file} into {place}"
    raise ModelError(f"the model {spec.name} is not on this machine", hint=hint)


def verify(path: Path, spec: ModelSpec, *, again: bool = False) -> bool:
    """Whether the file is the model: its size and SHA-256 agree with the registry. Unknown hashes count as right.

    Args:
        path: The file.
        spec: What it should be.
        again: Read the file even if an earlier verification is remembered.

    Raises:
        ModelError: The file cannot be read.
    """
    try:
        if spec.bytes and path.stat().st_size != spec.bytes:
            return False
        if not spec.sha256:
            return True
        if not again and _remembered(path) == spec.sha256:
            return True
        before = _fingerprint(path)  # taken first: what is written while we read must not pass for verified
        actual = sha256(path)
    except OSError as error:
        hint = "make it readable" if spec.path else f"make it readable, or fetch another copy: {_pull_command(spec)}"
        raise ModelError(f"the model file {path} cannot be read: {error.strerror or error}", hint=hint) from error
    _remember(path, actual, before)  # a wrong hash too: `locate` then knows the file is corrupt
    return actual == spec.sha256


def _pull_command(spec: ModelSpec) -> str:
    return f"cutout models pull {spec.name}"


def sha256(path: Path) -> str:
    """The file's SHA-256 in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _quick_state(path: Path, spec: ModelSpec) -> FileState:
    size = _size(path)
    if size is None:
        return FileState.MISSING
    if spec.bytes and size != spec.bytes:
        return FileState.CORRUPT
    remembered = _remembered(path) if spec.sha256 else None
    if remembered is None:
        return FileState.UNVERIFIED
    return FileState.VERIFIED if remembered == spec.sha256 else FileState.CORRUPT


def _size(path: Path) -> int | None:
    """The size of a file; None where there is none, or where we may not look (`Path.is_file` raises there)."""
    try:
        found = path.stat()
    except (OSError, ValueError):
        return None
    return found.st_size if stat.S_ISREG(found.st_mode) else None


def is_file(path: Path) -> bool:
    """Whether a file lies there and may be looked at; never raises."""
    return _size(path) is not None


def _stamp_file(path: Path) -> Path:
    name = hashlib.sha256(os.fsencode(path.absolute())).hexdigest()[:32]
    return data_home() / "verified" / f"{name}.json"


def _fingerprint(path: Path) -> list[int]:
    """Changes whenever the file's content may have changed."""
    found = path.stat()
    return [found.st_size, found.st_mtime_ns, found.st_ino]


def _remembered(path: Path) -> str | None:
    """The hash that an earlier verification found, if the file is unchanged since."""
    try:
        stamp = json.loads(read_file(_stamp_file(path), NOTES))
        return str(stamp["sha256"]) if stamp["fingerprint"] == _fingerprint(path) else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _remember(path: Path, digest: str, fingerprint: list[int]) -> None:
    """Best effort: where nothing can be written, the hash is computed again next time."""
    line = json.dumps({"path": str(path), "sha256": digest, "fingerprint": fingerprint})
    with suppress(OSError, CutoutError):
        write_atomic(_stamp_file(path), line.encode())
