"""Bringing a model file to this machine: resumed after a broken transfer, hash checked, moved into place whole."""

from __future__ import annotations

import errno
import os
import re
import shutil
import threading
import time
from concurrent import futures
from contextlib import ExitStack
from typing import TYPE_CHECKING

from cutout.errors import ModelError
from cutout.models.files import model_home, offline, require, sha256, verify

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import BinaryIO

    import requests

    from cutout.models.registry import ModelSpec

__all__ = ["pull"]

_ATTEMPTS = 5
_CHUNK = 1 << 16
_TIMEOUT = (10.0, 50.0)  # seconds to connect, seconds between bytes
_WINDOW, _LEAST = 60.0, 60_000
"""Seconds, and bytes that must arrive in them: names, redirections, headers and bodies can all come slowly for ever."""
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

    Args:
        spec: The model.
        force: Download even when a good copy is there.
        progress: Draw a bar on standard error.
        say: Called with a line when another process is waited for, or a broken transfer is tried again.
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
            held = lock.acquire(blocking=False)
        except filelock.Timeout:
            say(f"another process is downloading {spec.name}: waiting for it")
            held = lock.acquire()
            force = False  # the other process has just done it, unless it failed or was killed
        with held:
            if not force and (found := _good_copy(spec)):
                return found
            _Transfer(spec, target, progress=progress).run(say, pause)
    except OSError as error:
        full = error.errno in {errno.ENOSPC, errno.EDQUOT}
        hint = _FREE_SPACE if full else "point CUTOUT_HOME at a folder that can be written to"
        raise ModelError(
            f"{spec.name} cannot be stored in {target.parent}: {error.strerror or error}", hint=hint
        ) from error
    if not verify(target, spec, again=True):
        raise ModelError(
            f"the model file {target} changed while it was written", hint=f"run cutout models pull {spec.name} again"
        )
    return target


def _good_copy(spec: ModelSpec) -> Path | None:
    try:
        return require(spec)
    except ModelError:  # missing, corrupt or unreadable everywhere
        return None


class _Transfer:
    """A download into a file beside the target, which a later one continues."""

    def __init__(self, spec: ModelSpec, target: Path, *, progress: bool) -> None:
        mirror = os.environ.get("CUTOUT_MODEL_MIRROR", "").strip().rstrip("/")
        self.url = f"{mirror}/{spec.file}" if mirror else spec.url
        self.shown = re.sub(r"//[^/@]*@", "//", self.url)  # a mirror's password is not for logs
        self.spec, self.target, self.part = spec, target, target.with_name(f".{spec.file}.part")
        self.progress = progress
        self.received = 0

    def run(self, say: Callable[[str], None], pause: float) -> None:
        """Bring the file, and move it into place when its hash is right.

        Raises:
            ModelError: The server has something else, or did not send it in any attempt.
        """
        for path in (self.part, self.target):
            if path.exists() and not path.is_file():  # a pipe would be waited for without end
                raise ModelError(
                    f"{path} is no regular file, so {self.spec.name} cannot be stored there", hint="remove it"
                )
        for last in (False, True):
            resumed = self._fill(say, pause)
            if not self.spec.sha256 or sha256(self.part) == self.spec.sha256:
                self.part.replace(self.target)
                return
            self.part.unlink()
            if last or not resumed:  # else the part was of another file: once more, from the start
                raise self._refused("its hash differs")

    def _fill(self, say: Callable[[str], None], pause: float) -> bool:
        """Fill the part in as many attempts as it takes; whether a part that was there before was continued."""
        import requests
        import urllib3

        attempt = 0
        while True:
            attempt += 1
            try:
                return self._attempt()
            # urllib3 raises ValueError for odd addresses
            except (requests.RequestException, urllib3.exceptions.HTTPError, ValueError) as error:
                words, final = _cause(error)
                cause = f"{self.shown} {words}"
                if final or attempt == _ATTEMPTS:
                    hint = (
                        f"check the network, or set CUTOUT_MODEL_MIRROR to an address that holds {self.spec.file}, "
                        f"or copy that file into {self.part.parent}"
                    )
                    kept = "" if final else "; what has arrived is kept and continued by the next try"
                    raise ModelError(f"{self.spec.name} cannot be downloaded: {cause}", hint=hint + kept) from error
                wait = pause * 2 ** (attempt - 1)
                say(f"{cause}: trying again in {wait:.0f} s ({attempt} of {_ATTEMPTS} tries)")
                time.sleep(wait)

    def _attempt(self) -> bool:
        """One attempt, in a thread that is left alone with a closed file when it hardly receives anything."""
        import requests

        done: futures.Future[bool] = futures.Future()
        try:
            with ExitStack() as stack:
                file = stack.enter_context(self.part.open("ab"))

                def work() -> None:
                    try:
                        done.set_result(self._fetch(file, stack))
                    except BaseException as error:  # noqa: BLE001 - raised again by the thread that waits
                        done.set_exception(error)

                self.received = before = 0
                threading.Thread(target=work, daemon=True, name="cutout-download").start()
                while not futures.wait([done], _WINDOW).done:
                    if self.received - before < _LEAST:
                        raise requests.ConnectionError(f"too slow: {self.received - before} bytes in {_WINDOW:.0f} s")
                    before = self.received
        finally:
            if not self.part.stat().st_size:
                self.part.unlink()
        return done.result()

    def _fetch(self, file: BinaryIO, stack: ExitStack) -> bool:
        import requests

        have, total = file.tell(), self.spec.bytes
        if have and have == total:  # killed before the hash was computed
            return True
        headers = {"Accept-Encoding": "identity"}  # the hash is of the file, and ranges count its bytes
        if 0 < have <= (total or _LARGEST):
            headers["Range"] = f"bytes={have}-"
        while True:
            with requests.get(self.url, headers=headers, stream=True, timeout=_TIMEOUT) as response:
                status, place = response.status_code, response.headers.get("Content-Range", "")
                continues = "Range" in headers and status == 206 and place.startswith(f"bytes {have}-")
                if continues or "Range" not in headers or status not in {206, 416}:
                    self._take(response, have if continues else 0, file, stack)
                    return continues
            del headers["Range"]  # it cannot continue there

    def _take(self, response: requests.Response, have: int, file: BinaryIO, stack: ExitStack) -> None:
        """Write the body behind the bytes that are there, of which `have` count."""
        import requests
        from tqdm import tqdm

        response.raise_for_status()
        total = self.spec.bytes
        if (coding := response.headers.get("Content-Encoding", "identity").strip().lower()) not in {"", "identity"}:
            raise self._refused(f"it is compressed ({coding[:20]}), which was not asked for")
        length = response.headers.get("Content-Length", "")
        if total and length.isdecimal() and have + int(length) != total:
            # checked before it replaces what we have: the sign-in page of a hotel must not cost a gigabyte
            raise self._refused(f"it has {have + int(length)} bytes instead of {total}")
        if (free := shutil.disk_usage(self.part.parent).free) < total - have:
            needs = f"{self.spec.name} needs {(total - have) / 1e6:.0f} MB in {self.part.parent}"
            raise ModelError(f"{needs}, but {free / 1e6:.0f} MB are free", hint=_FREE_SPACE)
        if not have:
            file.truncate(0)
        bar = tqdm(
            desc=self.spec.file, total=total or None, initial=have, unit="B", unit_scale=True, disable=not self.progress
        )
        stack.enter_context(bar)
        while chunk := response.raw.read1(_CHUNK, decode_content=False):  # `iter_content` waits until one is full
            have += len(chunk)
            if have > (total or _LARGEST):
                file.truncate(0)
                raise self._refused(f"it has more than {total or _LARGEST} bytes")
            file.write(chunk)
            bar.update(len(chunk))
            self.received += len(chunk)
        if have < total:
            raise requests.ConnectionError(f"Connection broken after {have} of {total} bytes")

    def _refused(self, why: str) -> ModelError:
        """What was sent is something else."""
        return ModelError(
            f"what {self.shown} sent is not {self.spec.name}: {why}, and it was not kept",
            hint="a proxy or mirror may have changed it; try again or set CUTOUT_MODEL_MIRROR",
        )


def _cause(error: Exception) -> tuple[str, bool]:
    """What the address did, in few words, and whether trying again is of no use."""
    if (response := getattr(error, "response", None)) is not None:
        status = response.status_code
        words = "redirects without end" if 300 <= status < 400 else f"answered {status}"
        return words, status < 500 and status not in {408, 429}
    text = str(error)
    if isinstance(error, ValueError):
        return f"is no address, or leads to one that is none ({text[:200]})", True
    return next((words for pattern, words in _CAUSES if re.search(pattern, text)), f"failed ({text})"), False


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
