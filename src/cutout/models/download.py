"""Bringing a model file to this machine: resumed after a broken transfer, hash checked, moved into place whole."""

from __future__ import annotations

import errno
import os
import re
import shutil
import stat
import time
from typing import TYPE_CHECKING, Any

from cutout.errors import ModelError
from cutout.models.files import is_file, model_home, offline, require, sha256, verify

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import requests

    from cutout.models.registry import ModelSpec

__all__ = ["pull"]

_ATTEMPTS = 5
_CHUNK = 1 << 16
_TIMEOUT = (10.0, 60.0)  # seconds to connect, seconds between bytes
_WINDOW, _LEAST = 60.0, 60_000
"""Seconds, and bytes that must arrive in them: one byte now and then never meets the timeout, and takes years."""
_LARGEST = 8_000_000_000
"""Bytes that are taken of a model whose size is not known."""
_FREE_SPACE = "free some space there, or point CUTOUT_HOME at another folder"


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
        say: Called with a line when another process is downloading, or a broken transfer is tried again.
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
        try:
            lock.acquire(blocking=False)
        except filelock.Timeout:
            say(f"another process is downloading {spec.name}: waiting for it")
            lock.acquire()
            force = False  # the other process has just done it, unless it failed or was killed
        try:
            if not force and _is_good(target, spec):
                return target
            _retrieve(spec, target, progress=progress, say=say, pause=pause)
        finally:
            lock.release()
    except OSError as error:
        full = error.errno in {errno.ENOSPC, errno.EDQUOT}
        way_out = _FREE_SPACE if full else "point CUTOUT_HOME at a folder that can be written to"
        raise ModelError(
            f"{spec.name} cannot be stored in {target.parent}: {error.strerror or error}", hint=way_out
        ) from error
    if not verify(target, spec, again=True):
        raise ModelError(
            f"the model file {target} changed while it was written", hint=f"run cutout models pull {spec.name} again"
        )
    return target


def _good_copy(spec: ModelSpec) -> Path | None:
    try:
        return require(spec)
    except ModelError:  # missing or corrupt everywhere
        return None


def _is_good(path: Path, spec: ModelSpec) -> bool:
    try:
        return is_file(path) and verify(path, spec)
    except ModelError:  # unreadable: to be replaced
        return False


def _retrieve(spec: ModelSpec, target: Path, *, progress: bool, say: Callable[[str], None], pause: float) -> None:
    mirror = os.environ.get("CUTOUT_MODEL_MIRROR", "").strip().rstrip("/")
    url = f"{mirror}/{spec.file}" if mirror else spec.url
    part = target.with_name(f".{spec.file}.part")
    for path in (part, target):
        if path.exists() and not stat.S_ISREG(path.stat().st_mode):  # a pipe would be waited for without end
            raise ModelError(f"{path} is no regular file, so {spec.name} cannot be stored there", hint="remove it")
    transfer = _Transfer(part, spec, url=url, progress=progress, say=say, pause=pause)
    transfer.run()
    if transfer.resumed and not transfer.is_right():
        transfer.run()  # the kept part was of another file: once more, from the start
    elif not transfer.is_right():
        raise transfer.refused("its hash differs")
    part.replace(target)


class _Transfer:
    """A download that keeps what has arrived and continues there."""

    def __init__(
        self, part: Path, spec: ModelSpec, *, url: str, progress: bool, say: Callable[[str], None], pause: float
    ) -> None:
        self.part = part
        self.spec = spec
        self.url = url
        self.shown = re.sub(r"//[^/@]*@", "//", url)  # a mirror's password is not for logs
        self.progress = progress
        self.say = say
        self.pause = pause
        self.resumed = False

    def run(self) -> None:
        """Fill the part with as many bytes as the model has, in several attempts.

        Raises:
            ModelError: The server has something else, or did not send it in any attempt.
        """
        import requests

        for attempt in range(1, _ATTEMPTS + 1):
            try:
                self._fetch()
            except (requests.RequestException, ValueError) as error:  # urllib3 raises ValueError for odd addresses
                cause, final = f"{self.shown} {_cause(error)}", _is_final(error)
                if final or attempt == _ATTEMPTS:
                    hint = (
                        f"check the network, or set CUTOUT_MODEL_MIRROR to an address that holds {self.spec.file}, "
                        f"or copy that file into {self.part.parent}"
                    )
                    kept = "" if final else "; what has arrived is kept and continued by the next try"
                    raise ModelError(f"{self.spec.name} cannot be downloaded: {cause}", hint=hint + kept) from error
                wait = self.pause * 2 ** (attempt - 1)
                self.say(f"{cause}: trying again in {wait:.0f} s ({attempt} of {_ATTEMPTS} tries)")
                time.sleep(wait)
            else:
                return

    def is_right(self) -> bool:
        """Whether the part has the model's hash; it is removed where it has not."""
        if not self.spec.sha256 or sha256(self.part) == self.spec.sha256:
            return True
        self.part.unlink()
        return False

    def refused(self, why: str) -> ModelError:
        """What was sent is something else."""
        return ModelError(
            f"what {self.shown} sent is not {self.spec.name}: {why}, and it was not kept",
            hint="a proxy or mirror may have changed it; try again or set CUTOUT_MODEL_MIRROR",
        )

    def _fetch(self, *, resume: bool = True) -> None:
        import requests

        have = self.part.stat().st_size if resume and self.part.exists() else 0
        total = self.spec.bytes
        if have > (total or _LARGEST):
            have = 0
        self.resumed = have > 0
        if have and have == total:  # killed before the hash was computed
            return
        headers = {"Range": f"bytes={have}-"} if have else {}
        headers["Accept-Encoding"] = "identity"  # the hash is of the file, and ranges count its bytes
        with requests.get(self.url, headers=headers, stream=True, timeout=_TIMEOUT) as response:
            status = response.status_code
            starts = response.headers.get("Content-Range", "").startswith(f"bytes {have}-")
            if have and (status == 416 or (status == 206 and not starts)):
                self._fetch(resume=False)  # it cannot continue there
                return
            response.raise_for_status()
            if status != 206:  # it sends everything again
                have = 0
                self.resumed = False
            if (coding := response.headers.get("Content-Encoding", "identity").strip().lower()) not in {"", "identity"}:
                raise self.refused(f"it is compressed ({coding[:20]}), which was not asked for")
            length = response.headers.get("Content-Length", "")
            if total and length.isdecimal() and have + int(length) != total:
                # checked before it replaces what we have: the sign-in page of a hotel must not cost a gigabyte
                raise self.refused(f"it has {have + int(length)} bytes instead of {total}")
            self._write(response, have)

    def _write(self, response: requests.Response, have: int) -> None:
        import requests
        from tqdm import tqdm

        total, folder = self.spec.bytes, self.part.parent
        most = total or _LARGEST
        if (free := shutil.disk_usage(folder).free) < total - have:
            raise ModelError(
                f"{self.spec.name} needs {(total - have) / 1e6:.0f} MB in {folder}, but {free / 1e6:.0f} MB are free",
                hint=_FREE_SPACE,
            )
        shown: dict[str, Any] = {"unit": "B", "unit_scale": True, "desc": self.spec.file, "disable": not self.progress}
        arrived, since, before = have, time.monotonic(), have
        with (
            self.part.open("ab" if have else "wb") as file,
            tqdm(total=total or None, initial=have, **shown) as bar,
        ):
            while (chunk := _read(response)) and (arrived := arrived + len(chunk)) <= most:
                file.write(chunk)
                bar.update(len(chunk))
                if (now := time.monotonic()) - since >= _WINDOW:
                    if arrived - before < _LEAST:
                        raise requests.ConnectionError(f"too slow: {arrived - before} bytes in {now - since:.0f} s")
                    since, before = now, arrived
        if arrived > most:
            self.part.unlink()
            raise self.refused(f"it has more than {most} bytes")
        if arrived < total:
            raise requests.ConnectionError(f"the connection ended after {arrived} of {total} bytes")


def _read(response: requests.Response) -> bytes:
    """What has arrived, at least a byte; nothing at the end. `Response.iter_content` waits until a chunk is full."""
    import requests
    import urllib3

    try:
        found = response.raw.read1(_CHUNK, decode_content=False)
    except urllib3.exceptions.HTTPError as error:
        raise requests.ConnectionError(error) from error
    return bytes(found)


def _is_final(error: Exception) -> bool:
    """Whether trying again is of no use: the address is wrong, or the server refuses."""
    if (response := getattr(error, "response", None)) is not None:
        return response.status_code < 500 and response.status_code not in {408, 429}
    return isinstance(error, ValueError)  # no address at all; requests marks these so


def _cause(error: Exception) -> str:
    """The innermost reason of a nest of network errors, as what the address did, in few words."""
    if (response := getattr(error, "response", None)) is not None:
        turned = "redirects without end" if 300 <= response.status_code < 400 else ""
        return turned or f"answered {response.status_code}"
    text = str(error)
    if isinstance(error, ValueError):
        return f"is no address, or leads to one that is none ({text[:200]})"
    return next((words for pattern, words in _CAUSES if re.search(pattern, text)), f"failed ({text})")


_CAUSES = (  # in the texts of urllib3 and of the system; the first that fits is taken
    ("Failed to resolve|Name or service not known|name resolution", "has a host name that cannot be resolved"),
    ("refused", "refused the connection"),
    ("CERTIFICATE_VERIFY_FAILED", "has a certificate that is not trusted"),
    ("too slow", "sends too slowly"),
    ("Read timed out", "stopped sending"),
    ("timed out", "did not answer in time"),
    ("Connection broken|Connection aborted", "broke the connection off"),
    ("unreachable", "cannot be reached"),
)
