"""From a `ModelSpec` to a verified file on this machine: embedded, already on disk, or downloaded by `download`."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from cutout.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cutout.models import ModelSpec

__all__ = [
    "Found",
    "State",
    "candidates",
    "data_home",
    "locate",
    "model_home",
    "offline",
    "require",
    "sha256",
    "verify",
]


class State(StrEnum):
    """What is known of a model file without reading all of it."""

    VERIFIED = "verified"
    """Its hash was right, and size and modification time have not changed since."""
    UNVERIFIED = "on disk, not verified yet"
    CORRUPT = "corrupt"
    MISSING = "missing"


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """Where a model lies and in which state; `path` is None when it is missing."""

    path: Path | None
    state: State


def data_home() -> Path:
    """Folder of everything this program keeps: `$CUTOUT_HOME`, or the system's place for user data."""
    if home := os.environ.get("CUTOUT_HOME"):
        return Path(home).expanduser()
    import platformdirs

    return platformdirs.user_data_path("cutout", appauthor=False)


def model_home() -> Path:
    """Folder that downloaded models go to."""
    return data_home() / "models"


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
    environ = os.environ
    if home := environ.get("U2NET_HOME"):
        yield Path(home).expanduser(), True
    if home := environ.get("REMBG_HOME"):
        yield Path(home).expanduser(), False
    if data := environ.get("XDG_DATA_HOME"):
        yield Path(data).expanduser() / ".u2net", True
        yield Path(data).expanduser() / "rembg", False
    yield Path("~/.u2net").expanduser(), True
    yield Path("~/.rembg").expanduser(), False


def locate(spec: ModelSpec) -> Found:
    """Where the model lies, judged by size and by remembered verification only; reads no model bytes.

    A corrupt file is passed over when another place holds a good one.
    """
    corrupt: Path | None = None
    for path in candidates(spec):
        state = _quick_state(path, spec)
        if state in {State.VERIFIED, State.UNVERIFIED}:
            return Found(path=path, state=state)
        if state is State.CORRUPT and corrupt is None:
            corrupt = path
    if corrupt is not None:
        return Found(path=corrupt, state=State.CORRUPT)
    return Found(path=None, state=State.MISSING)


def require(spec: ModelSpec) -> Path:
    """The path of a file whose hash is known to be right; the hash is computed once per file, then remembered.

    Raises:
        ModelError: The file is missing or corrupt; the hint is the command that mends it.
    """
    bad: list[Path] = []
    for path in candidates(spec):
        if not path.is_file():
            continue
        if verify(path, spec):
            return path
        bad.append(path)
    if spec.path is not None:
        raise ModelError(
            f"the model file {spec.path} "
            + ("has another hash than its configuration says" if bad else "does not exist"),
            hint="check the path given to --model",
        )
    pull = f"cutout models pull {spec.name}"
    if bad:
        raise ModelError(
            f"the model file {bad[0]} is corrupt: its size or hash is not that of {spec.name}",
            hint=f"fetch a good one: {pull}" + (" (with CUTOUT_OFFLINE unset)" if offline() else ""),
        )
    hint = f"fetch it first: {pull}"
    if offline():
        hint = f"CUTOUT_OFFLINE is set: unset it and run {pull}, or copy {spec.file} into {model_home()}"
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
        actual = sha256(path)
    except OSError as error:
        raise ModelError(f"the model file {path} cannot be read: {error.strerror or error}") from error
    if actual == spec.sha256:
        _remember(path, actual)
    return actual == spec.sha256


def sha256(path: Path) -> str:
    """The file's SHA-256 in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _quick_state(path: Path, spec: ModelSpec) -> State:
    try:
        size = path.stat().st_size
    except OSError:
        return State.MISSING
    if spec.bytes and size != spec.bytes:
        return State.CORRUPT
    remembered = _remembered(path)
    if not spec.sha256:
        return State.UNVERIFIED
    if remembered is None:
        return State.UNVERIFIED
    return State.VERIFIED if remembered == spec.sha256 else State.CORRUPT


def _stamp_file(path: Path) -> Path:
    name = hashlib.sha256(os.fsencode(path.absolute())).hexdigest()[:32]
    return data_home() / "verified" / f"{name}.json"


def _fingerprint(path: Path) -> list[int]:
    """Changes whenever the file's content may have changed."""
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns, stat.st_ino]


def _remembered(path: Path) -> str | None:
    """The hash that an earlier verification found, if the file is unchanged since."""
    try:
        stamp = json.loads(_stamp_file(path).read_bytes())
        return str(stamp["sha256"]) if stamp["fingerprint"] == _fingerprint(path) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _remember(path: Path, digest: str) -> None:
    """Best effort: where nothing can be written, the hash is computed again next time."""
    stamp = _stamp_file(path)
    try:
        stamp.parent.mkdir(parents=True, exist_ok=True)
        part = stamp.with_suffix(f".{os.getpid()}.part")
        part.write_text(json.dumps({"path": str(path), "sha256": digest, "fingerprint": _fingerprint(path)}))
        part.replace(stamp)
    except OSError:
        return
