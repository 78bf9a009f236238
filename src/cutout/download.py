"""Bringing a model file to this machine: resumed after a broken transfer, hash checked, moved into place whole."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING

from cutout.errors import ModelError
from cutout.store import Found, State, locate, model_home, offline, verify

if TYPE_CHECKING:
    from collections.abc import Callable

    from cutout.models import ModelSpec

__all__ = ["pull"]

_ATTEMPTS = 5
_CHUNK = 1 << 20
_TIMEOUT = (10.0, 60.0)  # seconds to connect, seconds between bytes


def pull(
    spec: ModelSpec,
    *,
    force: bool = False,
    progress: bool = False,
    say: Callable[[str], None] = lambda _text: None,
    pause: float = 1.0,
) -> Path:
    """Download the model unless a good copy is on this machine, and give its path.

    The bytes go to a sibling temporary file that the next call continues; the hash is checked; the finished file is
    moved into place in one step. Two processes that pull one model wait for each other.

    Args:
        spec: The model.
        force: Download even when a good copy is there.
        progress: Draw a bar on standard error.
        say: Called with a line worth telling, such as that another process is downloading.
        pause: Seconds before the first retry; doubled for each further one.

    Raises:
        ModelError: No network, no space, wrong content, or nothing to download from.
    """
    if not force and (found := _good_copy(spec)):
        return found
    if not spec.url:
        raise ModelError(f"the model {spec.name} has no download address")
    if offline():
        raise ModelError(
            f"CUTOUT_OFFLINE is set, so {spec.name} is not downloaded",
            hint=f"unset it, or copy {spec.file} into {model_home()}",
        )
    import filelock

    target = model_home() / spec.file
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(target.with_name(f".{spec.file}.lock"))
        waited = False
        try:
            lock.acquire(blocking=False)
        except filelock.Timeout:
            say(f"another process is downloading {spec.name}: waiting for it")
            waited = True
            lock.acquire()
        try:
            if waited and verify(target, spec):
                return target
            _retrieve(spec, target, progress=progress, pause=pause)
        finally:
            lock.release()
    except OSError as error:
        raise ModelError(
            f"{spec.name} cannot be stored in {target.parent}: {error.strerror or error}",
            hint="free some space there, or point CUTOUT_HOME at another folder",
        ) from error
    verify(target, spec, again=True)
    return target


def _good_copy(spec: ModelSpec) -> Path | None:
    match locate(spec):
        case Found(path=Path() as path, state=State.VERIFIED | State.UNVERIFIED) if verify(path, spec):
            return path
    return None


def _retrieve(spec: ModelSpec, target: Path, *, progress: bool, pause: float) -> None:
    import pooch

    mirror = os.environ.get("CUTOUT_MODEL_MIRROR", "").rstrip("/")
    url = f"{mirror}/{spec.file}" if mirror else spec.url
    pooch.get_logger().setLevel("ERROR")
    transfer = _Transfer(target.with_name(f".{spec.file}.part"), spec, progress=progress, pause=pause)
    for attempt in ("continued", "fresh"):
        try:
            pooch.retrieve(
                url, f"sha256:{spec.sha256}", fname=target.name, path=str(target.parent), downloader=transfer
            )
        except ValueError as error:
            # Wrong content: a part left by an older file can be the cause, so a continued transfer starts afresh once.
            if attempt == "continued" and transfer.resumed:
                continue
            raise ModelError(
                f"what {url} sent is not {spec.name}: its hash differs, and it was not kept",
                hint="a proxy or mirror may have changed it; try again or set CUTOUT_MODEL_MIRROR",
            ) from error
        return


class _Transfer:
    """A pooch downloader that keeps what has arrived and continues there."""

    def __init__(self, part: Path, spec: ModelSpec, *, progress: bool, pause: float) -> None:
        self.part = part
        self.spec = spec
        self.progress = progress
        self.pause = pause
        self.resumed = False

    def __call__(self, url: str, output_file: str, _pooch: object) -> None:
        import requests

        last: Exception | None = None
        for attempt in range(_ATTEMPTS):
            if attempt:
                time.sleep(self.pause * 2 ** (attempt - 1))
            try:
                self._fetch(url)
            except requests.HTTPError as error:
                status = error.response.status_code
                if status < 500 and status != 429:
                    raise ModelError(
                        f"{self.spec.name} cannot be downloaded: {url} answered {status}", hint=self._hint()
                    ) from error
                last = error
            except requests.RequestException as error:
                last = error
            else:
                self.part.replace(output_file)
                return
        raise ModelError(
            f"{self.spec.name} cannot be downloaded from {url}: {_cause(last)}",
            hint=self._hint() + "; what has arrived is kept and continued by the next try",
        ) from last

    def _hint(self) -> str:
        return (
            f"check the network, or set CUTOUT_MODEL_MIRROR to an address that holds {self.spec.file}, "
            f"or copy that file into {self.part.parent}"
        )

    def _fetch(self, url: str) -> None:
        import requests
        from tqdm import tqdm

        have = self.part.stat().st_size if self.part.exists() else 0
        if self.spec.bytes and have > self.spec.bytes:
            have = 0
        headers = {"Range": f"bytes={have}-"} if have else {}
        headers["Accept-Encoding"] = "identity"  # the hash is of the file, and ranges count its bytes
        with requests.get(url, headers=headers, stream=True, timeout=_TIMEOUT) as response:
            if response.status_code == 416:  # nothing left to send: whole already, or of no use
                if have != self.spec.bytes:
                    self.part.unlink(missing_ok=True)
                    raise requests.ConnectionError("the kept part does not fit, starting afresh")
                return
            response.raise_for_status()
            if response.status_code != 206 or not response.headers.get("Content-Range", "").startswith(
                f"bytes {have}-"
            ):
                have = 0  # the server sends everything again
            self.resumed = self.resumed or have > 0
            total = have + int(response.headers.get("Content-Length", 0)) or self.spec.bytes
            if (free := shutil.disk_usage(self.part.parent).free) < total - have:
                raise ModelError(
                    f"{self.spec.name} needs {(total - have) / 1e6:.0f} MB in {self.part.parent}, "
                    f"but {free / 1e6:.0f} MB are free",
                    hint="free some space there, or point CUTOUT_HOME at another folder",
                )
            with (
                self.part.open("ab" if have else "wb") as file,
                tqdm(
                    total=total, initial=have, unit="B", unit_scale=True, desc=self.spec.file, disable=not self.progress
                ) as bar,
            ):
                for chunk in response.iter_content(_CHUNK):
                    file.write(chunk)
                    bar.update(len(chunk))
                arrived = file.tell()
        if arrived < total:
            raise requests.ConnectionError(f"the connection ended after {arrived} of {total} bytes")


def _cause(error: Exception | None) -> str:
    """The innermost reason of a nest of network errors, in few words."""
    text = str(error)
    for sign, words in (
        ("Name or service not known", "the host name is not known"),
        ("Temporary failure in name resolution", "the host name cannot be resolved"),
        ("Connection refused", "the connection was refused"),
        ("timed out", "it did not answer in time"),
        ("Read timed out", "it stopped sending"),
    ):
        if sign in text:
            return words
    return text
