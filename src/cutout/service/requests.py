"""From a request to a finished picture: admission, form, queue, time limit, closed connections."""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import tempfile
import threading
from collections import Counter
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from cutout.cancellation import Cancellation
from cutout.errors import CancelledError
from cutout.formats import decode
from cutout.pipeline.remover import forget_backgrounds
from cutout.service import logs
from cutout.service.http.problems import Problem
from cutout.service.queue import ExpiredError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping
    from collections.abc import Set as AbstractSet

    from starlette.requests import Request

    from cutout.service.metrics import Metrics
    from cutout.service.models import CutRequest, Done, Engine
    from cutout.service.queue import WorkQueue
    from cutout.service.settings import Settings

__all__ = ["RequestHandler", "texts"]

_FIELDS = 100
_PREFIX = "cutout-service-"
_LONGEST_TEXT = 64 * 1024
_Read = TypeVar("_Read")


class RequestHandler:
    """Reads the requests of all endpoints that take pictures, and has their pictures cut out.

    Args:
        settings: Limits.
        engine: The opened models.
        queue: The workers.
        metrics: Counts.
    """

    def __init__(self, settings: Settings, engine: Engine, queue: WorkQueue, metrics: Metrics) -> None:
        self.settings = settings
        self.engine = engine
        self.queue = queue
        self.metrics = metrics
        self._temporary = tempfile.TemporaryDirectory(prefix=_PREFIX)
        self._writing = threading.Lock()

    def close(self) -> None:
        """Remove temporary files."""
        self._temporary.cleanup()

    @asynccontextmanager
    async def form(
        self, request: Request, *, files: int, several: AbstractSet[str] = frozenset()
    ) -> AsyncIterator[FormData]:
        """Admit a request, and read its form; the place in the queue is held for the length of the `with` block.

        Args:
            request: As it came.
            files: As many may be in it.
            several: Fields that may be there more than once.

        Raises:
            OverloadedError: The queue is full; nothing of the body was read.
            Problem: The body is no form, too large, has too many parts, or came too slowly; or its client
                has gone.
        """
        with self._admitted(request):
            if _kind(request) != "multipart/form-data":
                raise Problem(415, "not-a-form", "the body must be multipart/form-data", hint="curl -F file=@photo.jpg")
            form = await self._parsed(request, files, _LONGEST_TEXT)
            try:
                _check_once(form, several)
                yield form
            finally:
                await form.close()

    @asynccontextmanager
    async def any_form(self, request: Request) -> AsyncIterator[Mapping[str, Any]]:
        """The same for forms of any kind, and for JSON objects.

        Raises:
            OverloadedError: The queue is full; nothing of the body was read.
            Problem: The body is neither, too large, has too many parts, or came too slowly; or its client
                has gone.
        """
        with self._admitted(request):
            if _kind(request) == "application/json":
                yield await self._json(request)
                return
            if _kind(request) not in {"multipart/form-data", "application/x-www-form-urlencoded"}:
                raise Problem(415, "not-a-form", "the body must be a form or JSON")
            # a picture may come as text here; the whole request is bounded to the size of one
            form = await self._parsed(request, 4, self.settings.max_body * 4 // 3 + 1024)
            try:
                _check_once(form, frozenset())
                yield form
            finally:
                await form.close()

    @contextmanager
    def _admitted(self, request: Request) -> Iterator[None]:
        client = request.state.client
        self.queue.admit(client)
        try:
            yield
        finally:
            self.queue.leave(client)

    async def _parsed(self, request: Request, files: int, longest: int) -> FormData:
        # a few more files than allowed, so that the refusal is a `Problem` of ours
        reading = request.form(max_files=files + 4, max_fields=_FIELDS, max_part_size=longest)
        try:
            return await self._in_time(reading)
        except HTTPException as error:
            if error.status_code == 400 and "Too many files" in str(error.detail):
                raise Problem(413, "too-many-files", f"a request has at most {files} files here") from None
            raise
        except ValueError:  # of decoding: `charset` can name codecs that decode nothing
            raise Problem(400, "charset", "the texts of the form cannot be read", hint="send them as UTF-8") from None
        except OSError as error:  # large files are spooled to the disk
            raise _no_room(error) from error

    async def _json(self, request: Request) -> dict[str, str]:
        body = await self._in_time(request.body())
        try:
            found = json.loads(body, object_pairs_hook=_once)
        except (ValueError, RecursionError):
            raise Problem(400, "json", "the body is not JSON") from None
        if not isinstance(found, dict):
            raise Problem(400, "json", "the body must be a JSON object")
        values = {name: value for name, value in found.items() if value is not None}
        if any(isinstance(value, dict | list) for value in values.values()):
            raise Problem(400, "json", "the values of the JSON object must be texts, numbers, true or false")
        return {name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in values.items()}

    async def _in_time(self, reading: Awaitable[_Read]) -> _Read:
        try:
            async with asyncio.timeout(self.settings.timeout):
                return await reading
        except TimeoutError:
            raise Problem(408, "slow", "the request took too long to arrive") from None
        except ClientDisconnect:
            raise _disconnection() from None

    async def file(self, upload: object) -> bytes:
        """The content of a form's file.

        Raises:
            Problem: It is missing, empty or too large.
        """
        if not isinstance(upload, UploadFile):
            raise Problem(400, "no-file", "the field `file` must be a picture", hint="curl -F file=@photo.jpg")
        return self.checked(await upload.read())

    def checked(self, data: bytes) -> bytes:
        """The same bytes, if there are some and not too many.

        Raises:
            Problem: There are none, or too many.
        """
        self.check_size(len(data))
        return data

    def check_size(self, size: int) -> None:
        """A picture must have some bytes, and not too many.

        Raises:
            Problem: It has none, or too many.
        """
        if size == 0:
            raise Problem(400, "empty", "the picture is empty (0 bytes)")
        if size > self.settings.max_body:
            limit = f"{self.settings.max_body / 1e6:.0f} MB"
            raise Problem(413, "too-large", f"the picture is larger than {limit}", hint="send a smaller one")

    async def background(self, form: FormData, name: str = "background") -> Path | None:
        """A background picture that came as a file, checked and written to a temporary file; `drop` removes it.

        Raises:
            CutoutError: It is no picture.
        """
        upload = form.get(name)
        if not isinstance(upload, UploadFile):
            return None
        return await self.lay(self.checked(await upload.read()), lane="backgrounds")

    async def lay(self, data: bytes, *, lane: str) -> Path:
        """Check a background picture, and write it to a temporary file; `drop` removes it.

        Raises:
            CutoutError: It is no picture, or too large.
        """

        def check(_alone: bool) -> Path:  # noqa: FBT001 - the queue's
            with self.engine.room(data, self.settings.max_pixels):
                decode.decode(data, max_pixels=self.settings.max_pixels)
            return self._write(data)

        return await asyncio.wrap_future(self.queue.submit(lane, check, seconds=self.settings.timeout))

    def _write(self, data: bytes) -> Path:
        with self._writing:
            if not Path(self._temporary.name).is_dir():  # a cleaner of temporary files has removed it
                self._temporary.cleanup()
                self._temporary = tempfile.TemporaryDirectory(prefix=_PREFIX)
            path = Path(self._temporary.name) / secrets.token_hex(16)
        try:
            path.write_bytes(data)
        except OSError as error:
            path.unlink(missing_ok=True)
            raise _no_room(error) from error
        return path

    def drop(self, background: Path | None) -> None:
        """Remove the temporary file of `background`."""
        if background is not None:
            with suppress(OSError):
                background.unlink()
            forget_backgrounds()

    async def cut(self, request: Request, data: bytes, cut_request: CutRequest) -> Done:
        """One picture through the queue.

        Raises:
            Problem: The client has closed the connection, or the time limit has passed; work that was begun ends at its
                next step.
            CutoutError: The picture cannot be done.
        """
        cancellation = Cancellation(self.settings.timeout)
        try:
            done = await self._through(
                request, lambda alone: self.engine.cut(data, cut_request, alone=alone, check=cancellation.check)
            )
        finally:
            cancellation.cancel()
        self.metrics.done(done, "request")
        return done

    async def aside(self, request: Request, work: Callable[[], _Read]) -> _Read:
        """Anything else that takes a processor's time; raises as `cut` does."""
        return await self._through(request, lambda _alone: work())

    async def waited(self, request: Request, work: Coroutine[Any, Any, _Read]) -> _Read:
        """Anything that waits for others on the event loop, such as the network; raises as `cut` does.

        It is cancelled when the client closes the connection or the time limit passes. There may be as many at once as
        there are admitted requests: no request waits for another one's network.
        """
        return await self._outcome(request, asyncio.ensure_future(work))

    async def _through(self, request: Request, work: Callable[[bool], _Read]) -> _Read:
        ticket = self.queue.submit(request.state.client, work, seconds=self.settings.timeout)
        return await self._outcome(request, asyncio.wrap_future(ticket))

    async def _outcome(self, request: Request, result: asyncio.Future[_Read]) -> _Read:
        watch = asyncio.ensure_future(_disconnected(request))
        try:
            waiting: set[asyncio.Future[Any]] = {result, watch}
            await asyncio.wait(waiting, timeout=self.settings.timeout, return_when=asyncio.FIRST_COMPLETED)
            if result.done():
                return self._result(result)
            if watch.done():
                raise _disconnection()
            away = self.queue.retry_after()
            raise Problem(503, "timeout", "the time limit of this request has passed", retry_after=away)
        finally:
            result.cancel()  # and with it the ticket, if no worker has taken it
            watch.cancel()

    def _result(self, result: asyncio.Future[_Read]) -> _Read:
        try:
            return result.result()
        except (CancelledError, ExpiredError) as error:
            away = self.queue.retry_after()
            raise Problem(503, "timeout", error.message, hint=f"try again in {away} s", retry_after=away) from None


def _disconnection() -> Problem:
    """For the log: no client reads it, and nginx logs the same number."""
    return Problem(499, "gone", "the client has closed the connection")


def _no_room(error: OSError) -> Problem:
    logs.event("storage", level=logging.ERROR, text=str(error))
    return Problem(503, "storage", "the service has no room for temporary files now", retry_after=30)


def _check_once(form: FormData, several: AbstractSet[str]) -> None:
    """Refuse a field that is there twice: one of its values would be ignored silently."""
    for name, many in Counter(name for name, _ in form.multi_items()).items():
        if many > 1 and name not in several:
            raise _twice(name)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise _twice(next(name for name, many in Counter(name for name, _ in pairs).items() if many > 1))
    return found


def _twice(name: str) -> Problem:
    return Problem(422, "usage", f"the field {name[:80]!r} is there twice")


def _kind(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def _disconnected(request: Request) -> None:
    """Returns when the client has closed the connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def texts(form: FormData, *, without: set[str], either: AbstractSet[str] = frozenset()) -> dict[str, str]:
    """The text fields of a form.

    Args:
        form: As it came.
        without: Fields to pass over.
        either: Fields that may be files as well, which are passed over then.

    Raises:
        Problem: A field is there twice, or is a file where a text belongs.
    """
    found: dict[str, str] = {}
    for name, value in form.multi_items():
        if name in without or (name in either and isinstance(value, UploadFile)):
            continue
        if isinstance(value, UploadFile):
            hint = "it takes a colour here; one picture at a time may have a picture as background"
            raise Problem(
                422,
                "usage",
                f"the field {name[:80]!r} takes no file here",
                hint=hint if name == "background" else None,
            )
        if name in found:
            raise _twice(name)
        found[name] = value
    return found
