"""remove.bg's interface over this service: its clients work when their base address is changed."""

import asyncio
import base64
import binascii
import io
import json
import re
import time
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from fastapi import APIRouter, Request, Response
from PIL import Image

from cutout.formats.checks.preflight import allowing
from cutout.formats.decode import DEFAULT_MAX_PIXELS, TooLargeError
from cutout.formats.encode import encode
from cutout.options import Encoding
from cutout.output_formats import OutputFormat
from cutout.pipeline.budget import OverBudgetError
from cutout.service import form, removebg, requests
from cutout.service.http.answers import disposition, picture_headers
from cutout.service.http.problems import Problem
from cutout.service.models import CutRequest, Done, Models
from cutout.service.openapi import PICTURE
from cutout.service.state import Service

__all__ = ["router"]

_SOURCES = ("image_file", "image_file_b64", "image_url")
_BACKGROUNDS = ("bg_color", "bg_image_url", "bg_image_file")
_NO_LIMIT = 1_000_000
"""Credits and free calls of every account, for clients that want a number; they never become fewer."""


def router() -> APIRouter:
    """The three endpoints."""
    routes = APIRouter(tags=["remove.bg"])
    error = {"content": {"application/json": {"schema": _ERROR}}}
    refusals: dict[int | str, dict[str, Any]] = {
        status: {"description": text, **error} for status, text in _STATUSES.items()
    }
    good = {
        "description": "The picture.",
        "headers": {name: {"description": text, "schema": {"type": "string"}} for name, text in _HEADERS.items()},
        "content": dict.fromkeys(_KINDS_OF.values(), PICTURE) | {"application/json": {"schema": _JSON}},
    }
    routes.post(
        "/v1.0/removebg",
        response_class=Response,
        responses={200: good, **refusals},
        openapi_extra={"requestBody": {"content": {kind: {"schema": _body(kind)} for kind in _KINDS}}},
    )(remove)
    routes.get("/v1.0/account", responses=refusals)(account)
    routes.post("/v1.0/improve", response_class=Response, responses=refusals)(improve)
    return routes


class _Call(NamedTuple):
    """A request that is admitted."""

    service: Service
    request: Request
    fields: Mapping[str, Any]
    """Of its form, as they came."""
    words: Mapping[str, str]
    """What `removebg.read` made of them."""


async def remove(request: Request) -> Response:
    """Remove the background of one picture, as remove.bg does."""
    service: Service = request.app.state.service
    started = asyncio.get_running_loop().time()
    with _as_there(service):
        async with requests.form(service, request, files=4, any_kind=True) as fields:
            call = _Call(service, request, fields, removebg.read(fields))
            data = await _source(call)
            size = await asyncio.to_thread(service.models.size, data, service.settings.max_pixels)
            cut_request = await _cut_request(call, data, size)
            data = await _within_region(call, data, cut_request.options.max_size, size)
            done = await requests.cut(service, request, data, cut_request)
            data, ending = done.data, done.output_format.value
            if removebg.is_zip(call.words):
                ending = "zip"
                data = await requests.aside(service, request, lambda: _zip(service.models, done.data))
            service.calls[_account(request)] += 1
            headers = picture_headers(done, asyncio.get_running_loop().time() - started)
            headers |= _sizes(done, cut_request, size) | _rates(service) | removebg.type_header(call.words)
            name = getattr(fields.get("image_file"), "filename", "")
            return _answer(request, data, ending, headers | {"Content-Disposition": disposition(name, ending)})


async def account(request: Request) -> dict[str, Any]:
    """Credits that never become fewer, and how many pictures were cut out for this key since the start."""
    service: Service = request.app.state.service
    credit = {"total": _NO_LIMIT, "subscription": 0, "payg": _NO_LIMIT, "enterprise": 0}
    api = {"free_calls": _NO_LIMIT, "sizes": "all", "calls": service.calls[_account(request)]}
    return {"data": {"attributes": {"credits": credit, "api": api}}}


async def improve() -> Response:
    """Refused: pictures are not collected here."""
    raise Problem(400, "not-supported", "pictures are not collected here: nothing leaves this machine")


_KINDS = ("multipart/form-data", "application/x-www-form-urlencoded", "application/json")
_KINDS_OF = {"png": "image/png", "jpg": "image/jpeg", "webp": "image/webp", "zip": "application/zip"}
_STATUSES = {
    400: "A parameter or picture that cannot be used.",
    403: "An API key is needed.",
    408: "The request came too slowly.",
    429: "The queue is full; see Retry-After.",
    503: "Out of time or memory; see Retry-After.",
}
_HEADERS = {
    "X-Width": "Of the result.",
    "X-Height": "Of the result.",
    "X-Max-Width": "Of the result at size full.",
    "X-Max-Height": "Of the result at size full.",
    "X-Foreground-Top": "Where the subject begins in the result.",
    "X-Foreground-Left": "Where the subject begins in the result.",
    "X-Foreground-Width": "Of the subject in the result.",
    "X-Foreground-Height": "Of the subject in the result.",
    "X-Type": "The type that was asked for, else other; missing with type_level none.",
    "X-Credits-Charged": "0.",
    "X-RateLimit-Limit": "Requests that are admitted at once.",
    "X-RateLimit-Remaining": "How many more would be admitted now.",
    "X-RateLimit-Reset": "When about half of those that are admitted will be done, as Unix time.",
    "X-Warning": "What was not done as asked.",
}
_ERROR = {
    "type": "object",
    "required": ["errors"],
    "properties": {
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["title", "code"],
                "properties": {word: {"type": "string"} for word in ("title", "code", "detail")},
            },
        }
    },
}
_PLACE = ("X-Foreground-Top", "X-Foreground-Left", "X-Foreground-Width", "X-Foreground-Height")
_SIZES = ("X-Max-Width", "X-Max-Height", "X-Credits-Charged")
_IN_JSON = {name.removeprefix("X-").replace("-", "_").lower(): name for name in _PLACE}
_DATA = {"result_b64": {"type": "string"}} | {word: {"type": "integer"} for word in _IN_JSON}
_JSON = {"type": "object", "properties": {"data": {"type": "object", "properties": _DATA}}}


def _body(kind: str) -> dict[str, Any]:
    """The schema of a request; only forms of many parts hold files."""
    fields = {
        name: schema
        for name, schema in removebg.FIELDS.items()
        if kind == _KINDS[0] or schema.get("format") != "binary"
    }
    return {"type": "object", "additionalProperties": False, "properties": fields}


@contextmanager
def _as_there(service: Service) -> Iterator[None]:
    """What that interface says more of, or by another name."""
    try:
        yield
    except Problem as problem:
        if problem.word == "overloaded":
            problem.headers = _rates(service)
        raise
    except (TooLargeError, OverBudgetError) as error:
        raise Problem(413, "resolution-too-high", error.message, hint="send a smaller picture") from error


def _account(request: Request) -> str:
    """Whose pictures are counted together: those of a key, or all where none is asked for."""
    return str(request.state.client) if request.app.state.service.settings.api_keys else ""


async def _source(call: _Call) -> bytes:
    match removebg.one_of(call.words, _SOURCES, "multiple-sources"):
        case None:
            raise Problem(400, "missing-source", "no picture given", hint=f"send one of {', '.join(_SOURCES)}")
        case "image_url":
            return await _fetched(call, "image")
        case "image_file_b64":
            return requests.checked(call.service, _decoded(call.words["image_file_b64"]))
        case _:
            return await requests.file(call.service, call.fields["image_file"])


def _decoded(text: str) -> bytes:
    _, comma, rest = text.partition(",")
    try:
        return base64.b64decode(re.sub(r"\s", "", rest if comma else text), validate=True)
    except (binascii.Error, ValueError):
        raise removebg.invalid("image_file_b64", "image_file_b64 is not base64") from None


async def _fetched(call: _Call, what: str) -> bytes:
    """The picture behind `image_url`, or for `bg_image` behind `bg_image_url`."""
    name = f"{what}_url"
    url = call.words[name]
    try:
        return await requests.fetched(call.service, call.request, url)
    except Problem as problem:
        if problem.word != "url":
            raise
        word = f"failed-{what.removesuffix('_image')}-download" if _is_address(url) else f"invalid-{what}-url"
        raise Problem(400, word.replace("_", "-"), f"{name}: {problem.message}", hint=problem.hint) from problem


def _is_address(url: str) -> bool:
    with suppress(ValueError):
        return urlsplit(url).scheme in {"http", "https"} and bool(urlsplit(url).hostname)
    return False


async def _cut_request(call: _Call, data: bytes, size: tuple[int, int]) -> CutRequest:
    """What the words ask for, of a picture and its size."""
    service, request = call.service, call.request
    models, most = service.models, service.settings.max_pixels
    values, notes = removebg.options_of(call.words, size)
    backdrop = None
    match removebg.one_of(call.words, _BACKGROUNDS, "multiple-bg-sources"):
        case "bg_image_url":
            backdrop = await _fetched(call, "bg_image")
        case "bg_image_file":
            backdrop = call.fields["bg_image_file"]
    background = await requests.background(service, request, backdrop)
    canvas = None
    if "scale" in values:
        limit = int(values["max_size"]) if "max_size" in values else None
        canvas = await requests.aside(service, request, lambda: _size(models, data, limit, most))
    if "mask" in values:
        background = None
    asked = form.cut_request(values, models, max_pixels=most, background=background, canvas=canvas)
    return replace(asked, locate=True, warnings=(*notes, *asked.warnings))


def _size(models: Models, data: bytes, longest: int | None, max_pixels: int) -> tuple[int, int]:
    with models.decoded(data, max_pixels, max_size=longest) as picture:
        return picture.rgb.size


async def _within_region(call: _Call, data: bytes, longest: int | None, size: tuple[int, int]) -> bytes:
    """The same picture, or one as large as is needed that is transparent outside of the region of interest."""
    region = removebg.region_of(call.words)
    if region is None:
        return data
    models, most = call.service.models, call.service.settings.max_pixels

    def inside() -> bytes:
        with models.decoded(data, most, max_size=longest) as picture:
            box = removebg.box_of(region, picture.rgb.size, max(picture.rgb.size) / max(size))
            alpha = Image.new("L", picture.rgb.size)
            with allowing(most):
                alpha.paste(255 if picture.alpha is None else picture.alpha.crop(box), box)
            return encode(picture.rgb, alpha, OutputFormat.PNG, picture.metadata, Encoding(keep_hidden=True))

    return await requests.aside(call.service, call.request, inside)


def _sizes(done: Done, cut_request: CutRequest, size: tuple[int, int]) -> dict[str, str]:
    """Where the subject is, and how large the result of a picture of that size can be; nothing is charged.

    Raises:
        Problem: There is no subject.
    """
    if done.subject is None:
        raise Problem(400, "unknown-foreground", "nothing was found that could be the subject")
    left, top, right, bottom = done.subject
    full, longest = done.size, cut_request.options.max_size
    if longest is not None and cut_request.options.crop:
        full = (round(full[0] * max(size) / longest), round(full[1] * max(size) / longest))
    elif longest is not None:  # the whole picture, perhaps turned
        full = size if (size[0] < size[1]) == (full[0] < full[1]) else (size[1], size[0])
    values = (top, left, right - left, bottom - top, *full, 0)
    return {name: str(value) for name, value in zip((*_PLACE, *_SIZES), values, strict=True)}


def _rates(service: Service) -> dict[str, str]:
    """The queue in that interface's words."""
    queue = service.queue
    return {
        "X-RateLimit-Limit": str(queue.limit),
        "X-RateLimit-Remaining": str(max(0, queue.limit - queue.depth)),
        "X-RateLimit-Reset": str(int(time.time()) + queue.retry_after()),
    }


def _zip(models: Models, png: bytes) -> bytes:
    """Colours and alpha as two pictures, for those who handle large ones."""
    with models.decoded(png, DEFAULT_MAX_PIXELS) as picture:
        alpha = picture.alpha or Image.new("L", picture.rgb.size, 255)
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
            jpeg = encode(picture.rgb, None, OutputFormat.JPEG, picture.metadata, Encoding(quality=95))
            archive.writestr("color.jpg", jpeg)
            archive.writestr("alpha.png", encode(None, alpha, OutputFormat.PNG))
        return buffer.getvalue()


def _answer(request: Request, data: bytes, ending: str, headers: dict[str, str]) -> Response:
    accepted = request.headers.get("accept", "").lower()
    # axios names JSON first and */* last, and is given pictures there: its users have written them to files for years
    if "application/json" in accepted and "*/*" not in accepted and "image/" not in accepted:
        del headers["Content-Disposition"]
        place = {word: int(headers[name]) for word, name in _IN_JSON.items()}
        text = json.dumps({"data": {"result_b64": base64.b64encode(data).decode(), **place}})
        return Response(text, media_type="application/json", headers=headers)
    return Response(data, media_type=_KINDS_OF[ending], headers=headers)
