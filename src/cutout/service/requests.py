"""From a request to a finished picture: admission, form, queue, time limit, closed connections."""

from __future__ import annotations

import asyncio
import json
import logging
from collections import Counter
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from cutout.service import logs
from cutout.service.http.fetch import fetch
from cutout.service.http.problems import Problem
from cutout.timing import Cancellation

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
    from collections.abc import Set as AbstractSet

    from starlette.requests import Request

    from cutout.service.models import CutRequest, Done
    from cutout.service.state import Service

__all__ = ["aside", "background", "check_bytes", "checked", "cut", "fetched", "file", "form", "texts", "waited"]

_FIELDS = 100
_LONGEST_TEXT = 64 * 1024
_MULTIPART, _JSON = "multipart/form-data", "application/json"
_Read = TypeVar("_Read")


@asynccontextmanager
async def form(
    service: Service,
    request: Request,
    *,
    files: int,
    several: AbstractSet[str] = frozenset(),
    any_kind: bool = False,
) -> AsyncIterator[FormData]:
    """Admit a request, and read its form of at most so many files; its place in the queue is held for the `with` block.

    Fields in `several` may be there more than once. With `any_kind` it may be a URL-encoded form or a JSON object as
    well, and a picture in it a text.

    Raises:
        Problem: The models are not open; the queue is full, and nothing of the body was read; the body is no form, too
            large, has too many parts, or came too slowly; its client has gone.
    """
    service.ready()
    with service.queue.admitted(request.state.client):
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if any_kind and kind == _JSON:
            yield _object(await _in_time(service, request.body()))
            return
        if kind != _MULTIPART and not any_kind:
            raise Problem(415, "not-a-form", "the body must be multipart/form-data", hint="curl -F file=@photo.jpg")
        if kind not in {_MULTIPART, "application/x-www-form-urlencoded"}:
            raise Problem(415, "not-a-form", "the body must be a form or JSON")
        # where pictures may be texts, the whole request is bounded to the size of one
        longest = service.settings.max_body * 4 // 3 + 1024 if any_kind else _LONGEST_TEXT
        fields = await _parsed(service, request, files, longest)
        try:
            _check_once([name for name, _ in fields.multi_items() if name not in several])
            yield fields
        finally:
            await fields.close()


async def _parsed(service: Service, request: Request, files: int, longest: int) -> FormData:
    # a few more files than allowed, so that the refusal is a `Problem` of ours
    reading = request.form(max_files=files + 4, max_fields=_FIELDS, max_part_size=longest)
    try:
        return await _in_time(service, reading)
    except HTTPException as error:
        if error.status_code == 400 and "Too many files" in str(error.detail):
            raise Problem(413, "too-many-files", f"a request has at most {files} files here") from None
        raise
    except ValueError:  # of decoding: `charset` can name codecs that decode nothing
        raise Problem(400, "charset", "the texts of the form cannot be read", hint="send them as UTF-8") from None
    except OSError as error:  # large files are spooled to the disk
        raise _no_room(error) from error


def _object(body: bytes) -> FormData:
    """The values of a JSON object as the texts of a form."""
    try:
        found = json.loads(body, object_pairs_hook=_once)
    except (ValueError, RecursionError):
        raise Problem(400, "json", "the body is not JSON") from None
    if not isinstance(found, dict):
        raise Problem(400, "json", "the body must be a JSON object")
    if any(isinstance(value, dict | list) for value in found.values()):
        raise Problem(400, "json", "the values of the JSON object must be texts, numbers, true or false")
    texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in found.items()}
    return FormData({name: text for name, text in texts.items() if found[name] is not None})


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    _check_once([name for name, _ in pairs])
    return dict(pairs)


def _check_once(names: list[str]) -> None:
    """Refuse a field that is there twice: one of its values would be ignored silently."""
    for name, many in Counter(names).items():
        if many > 1:
            raise Problem(422, "usage", f"the field {name[:80]!r} is there twice")


async def _in_time(service: Service, reading: Awaitable[_Read]) -> _Read:
    try:
        async with asyncio.timeout(service.settings.timeout):
            return await reading
    except TimeoutError:
        raise Problem(408, "slow", "the request took too long to arrive") from None
    except ClientDisconnect:
        raise _disconnection() from None


def texts(fields: FormData, *, without: set[str], either: AbstractSet[str] = frozenset()) -> dict[str, str]:
    """The text fields of a form but those in `without`; those in `either` may be files, and are passed over then.

    Raises:
        Problem: A field is a file where a text belongs.
    """
    found: dict[str, str] = {}
    for name, value in fields.multi_items():
        if isinstance(value, str) and name not in without:
            found[name] = value
        elif name not in without | either:
            hint = "it takes a colour here; one picture at a time may have a picture as background"
            text = f"the field {name[:80]!r} takes no file here"
            raise Problem(422, "usage", text, hint=hint if name == "background" else None)
    return found


async def file(service: Service, upload: object) -> bytes:
    """The content of a form's file.

    Raises:
        Problem: It is missing, empty or too large.
    """
    if not isinstance(upload, UploadFile):
        raise Problem(400, "no-file", "the field `file` must be a picture", hint="curl -F file=@photo.jpg")
    return checked(service, await upload.read())


def checked(service: Service, data: bytes) -> bytes:
    """The same bytes; raises as `check_bytes` does."""
    check_bytes(service, len(data))
    return data


def check_bytes(service: Service, size: int) -> None:
    """Look at the bytes of a picture.

    Raises:
        Problem: There are none, or too many.
    """
    if size == 0:
        raise Problem(400, "empty", "the picture is empty (0 bytes)")
    if size > service.settings.max_body:
        limit = f"{service.settings.max_body / 1e6:.0f} MB"
        raise Problem(413, "too-large", f"the picture is larger than {limit}", hint="send a smaller one")


async def fetched(service: Service, request: Request, url: str) -> bytes:
    """The picture behind an address.

    Raises:
        Problem: This service fetches none, or `fetch` refuses this one; as `cut` does.
    """
    settings = service.settings
    if not settings.image_url:
        text, hint = "this service fetches no pictures", "it is started with --image-url if it should"
        raise Problem(400, "url-off", text, hint=hint)
    fetching = fetch(url, max_bytes=settings.max_body, private=settings.fetch_private)
    return checked(service, await waited(service, request, fetching))


async def background(service: Service, request: Request, given: object) -> bytes | None:
    """The file of a background picture that came as a file or as bytes, checked; None for anything else.

    Raises:
        CutoutError: It is no picture, or too large; as `cut` does.
    """
    if isinstance(given, UploadFile):
        given = checked(service, await given.read())
    if not isinstance(given, bytes):
        return None
    data = given

    def check() -> bytes:
        with service.models.decoded(data, service.settings.max_pixels):
            return data

    return await aside(service, request, check)


async def cut(service: Service, request: Request, data: bytes, cut_request: CutRequest) -> Done:
    """One picture through the queue.

    Raises:
        Problem: The client has closed the connection, or the time limit has passed; work that was begun ends at its
            next step.
        CutoutError: The picture cannot be done.
    """
    cancellation, models = Cancellation(), service.models
    ticket = service.queue.submit(
        request.state.client, lambda alone: models.cut(data, cut_request, alone=alone, check=cancellation.check)
    )
    try:
        done = await waited(service, request, asyncio.wrap_future(ticket))
    finally:
        cancellation.cancel()
    service.metrics.done(done, "request")
    return done


async def aside(service: Service, request: Request, work: Callable[[], _Read]) -> _Read:
    """Anything else that takes a processor's time; raises as `cut` does."""
    ticket = service.queue.submit(request.state.client, lambda _alone: work())
    return await waited(service, request, asyncio.wrap_future(ticket))


async def waited(service: Service, request: Request, work: Coroutine[Any, Any, _Read] | asyncio.Future[_Read]) -> _Read:
    """Anything that waits for others on the event loop, such as the network; raises as `cut` does.

    It is cancelled when the client closes the connection or the time limit passes: that is the one clock of a request.
    There may be as many at once as there are admitted requests: no request waits for another one's network.
    """
    result = asyncio.ensure_future(work)
    watch = asyncio.ensure_future(_disconnected(request))
    try:
        waiting: set[asyncio.Future[Any]] = {result, watch}
        await asyncio.wait(waiting, timeout=service.settings.timeout, return_when=asyncio.FIRST_COMPLETED)
        if result.done():
            return result.result()
        if watch.done():
            raise _disconnection()
        seconds = service.queue.retry_after()
        raise Problem(503, "timeout", "the time limit of this request has passed", retry_after=seconds)
    finally:
        result.cancel()  # and with it the ticket, if no worker has taken it
        watch.cancel()


async def _disconnected(request: Request) -> None:
    """Returns when the client has closed the connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _disconnection() -> Problem:
    """For the log: no client reads it, and nginx logs the same number."""
    return Problem(499, "gone", "the client has closed the connection")


def _no_room(error: OSError) -> Problem:
    logs.event("storage", level=logging.ERROR, text=str(error))
    return Problem(503, "storage", "the service has no room for temporary files now", retry_after=30)
