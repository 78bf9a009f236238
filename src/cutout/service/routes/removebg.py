"""remove.bg's interface over this service: its clients work when their base address is changed."""

import asyncio
import base64
import binascii
import io
import json
import re
import zipfile
from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, Request, Response
from PIL import Image
from starlette.datastructures import UploadFile

from cutout.formats.checks.preflight import allowing
from cutout.formats.decode import DEFAULT_MAX_PIXELS
from cutout.formats.encode import encode
from cutout.options import Encoding
from cutout.options.values import parse_color
from cutout.output_formats import OutputFormat
from cutout.service import form, requests
from cutout.service.http.answers import disposition, picture_headers
from cutout.service.http.fetch import fetch
from cutout.service.http.problems import Problem
from cutout.service.models import Done, Models
from cutout.service.openapi import PICTURE
from cutout.service.state import Service

__all__ = ["router"]

_SIDES = {"preview": 612, "small": 612, "regular": 612, "medium": 1500, "hd": 2449, "4k": 3873}
"""Longest sides of sizes that remove.bg bounds by 0.25, 1.5, 4 and 10 megapixels; other sizes are the picture's own."""

_FULL = {"", "auto", "full", "50mp"}
_SOURCES = ("image_file", "image_file_b64", "image_url")
_LENGTH = re.compile(r"(\d+(?:\.\d+)?)(%|px)?")
_HEX = re.compile(r"[0-9a-fA-F]{3,4}|[0-9a-fA-F]{6}|[0-9a-fA-F]{8}")
_LONGEST = 1000
_TEXT, _LONG_TEXT = {"type": "string", "maxLength": _LONGEST}, {"type": "string"}
_FILE, _FLAG = {"type": "string", "format": "binary"}, {"type": "boolean"}
_WORDS: dict[str, dict[str, Any]] = {
    "image_file": _FILE,
    "image_file_b64": _LONG_TEXT,
    "image_url": _LONG_TEXT,
    "size": {"type": "string", "enum": ["auto", "full", "50MP", *_SIDES]},
    "type": _TEXT,
    "format": {"type": "string", "enum": ["auto", "png", "jpg", "webp", "zip"]},
    "channels": {"type": "string", "enum": ["rgba", "alpha"]},
    "roi": {"type": "string", "description": "x1 y1 x2 y2, in px or %"},
    "crop": _FLAG,
    "crop_margin": _TEXT,
    "scale": _TEXT,
    "position": _TEXT,
    "add_shadow": _FLAG,
    "semitransparency": _FLAG,
    "bg_color": _TEXT,
    "bg_image_url": _LONG_TEXT,
    "bg_image_file": _FILE,
}


def _bad(name: str, text: str) -> Problem:
    return Problem(400, f"invalid-{name.replace('_', '-')}", text)


def router(service: Service) -> APIRouter:
    """The endpoint."""
    routes = APIRouter(tags=["remove.bg"])
    body = {"content": {kind: {"schema": {"type": "object", "properties": _WORDS}} for kind in _KINDS}}
    error = {"content": {"application/json": {"schema": _ERROR}}}
    answers: dict[int | str, dict[str, Any]] = {
        200: {
            "description": "The picture.",
            "content": dict.fromkeys(_ANSWERS, PICTURE) | {"application/json": {}},
        },
        **{status: {"description": text, **error} for status, text in _STATUSES.items()},
    }

    @routes.post("/v1.0/removebg", response_class=Response, responses=answers, openapi_extra={"requestBody": body})
    async def removebg(request: Request) -> Response:
        """Remove the background of one picture, as remove.bg does."""
        started = asyncio.get_running_loop().time()
        models, most = service.models, service.settings.max_pixels
        async with requests.form(service, request, files=4, any_kind=True) as fields:
            words = {name: value for name, value in fields.items() if isinstance(value, str) and value}
            words |= {name: "file" for name in fields if isinstance(fields[name], UploadFile)}
            for name, schema in _WORDS.items():
                if schema is not _LONG_TEXT and len(words.get(name, "")) > _LONGEST:
                    raise _bad(name, f"{name} is longer than {_LONGEST} characters")
            data = await _source(service, request, fields, words)
            backdrop = await _backdrop(service, request, fields, words)
            background = await requests.background(service, request, backdrop)
            if "roi" in words:
                data = await requests.aside(service, request, lambda: _inside(models, data, words["roi"], most))
            values = _values(words)
            canvas = None
            if {"scale", "position"} & set(values):
                limit = int(values["max_size"]) if "max_size" in values else None
                canvas = await requests.aside(service, request, lambda: _size(models, data, limit, most))
            cut_request = form.cut_request(values, models, max_pixels=most, background=background, canvas=canvas)
            done = await requests.cut(service, request, data, cut_request)
            data, kind, ending = done.data, done.output_format.row.media_type, done.output_format.value
            if words.get("format", "").lower() == "zip":
                data = await requests.aside(service, request, lambda: _zip(models, done.data))
                kind, ending = "application/zip", "zip"
            headers = picture_headers(done, asyncio.get_running_loop().time() - started)
            headers["Content-Disposition"] = disposition(getattr(fields.get("image_file"), "filename", ""), ending)
            return _answer(request, done, data, kind, headers)

    return routes


_KINDS = ("multipart/form-data", "application/x-www-form-urlencoded", "application/json")
_ANSWERS = ("image/png", "image/jpeg", "image/webp", "application/zip")
_STATUSES = {
    400: "A parameter or picture that cannot be used.",
    403: "An API key is needed.",
    408: "The request came too slowly.",
    413: "Too large.",
    415: "Neither a form nor JSON.",
    503: "Busy; see Retry-After.",
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


async def _source(service: Service, request: Request, fields: Mapping[str, Any], words: Mapping[str, str]) -> bytes:
    given = [name for name in _SOURCES if name in words]
    if not given:
        raise Problem(400, "missing-source", "No image given", hint=f"send one of {', '.join(_SOURCES)}")
    if len(given) > 1:
        raise Problem(400, "multiple-sources", f"More than one image given: {', '.join(given)}")
    match given[0]:
        case "image_url":
            return await _fetched(service, request, words["image_url"])
        case "image_file_b64":
            return requests.checked(service, _decoded(words["image_file_b64"]))
        case _:
            return await requests.file(service, fields.get("image_file"))


def _decoded(text: str) -> bytes:
    _, comma, rest = text.partition(",")
    try:
        return base64.b64decode(re.sub(r"\s", "", rest if comma else text), validate=True)
    except (binascii.Error, ValueError):
        raise _bad("image_file_b64", "image_file_b64 is not base64") from None


async def _fetched(service: Service, request: Request, url: str) -> bytes:
    settings = service.settings
    if not settings.image_url:
        raise Problem(
            400, "url-off", "this service fetches no pictures", hint="it is started with --image-url if it should"
        )
    data = await requests.waited(
        service, request, fetch(url, max_bytes=settings.max_body, private=settings.fetch_private)
    )
    return requests.checked(service, data)


async def _backdrop(
    service: Service, request: Request, fields: Mapping[str, Any], words: Mapping[str, str]
) -> bytes | None:
    given = [name for name in ("bg_color", "bg_image_url", "bg_image_file") if name in words]
    if len(given) > 1:
        raise Problem(400, "multiple-backgrounds", f"More than one background given: {', '.join(given)}")
    if given == ["bg_image_url"]:
        return await _fetched(service, request, words["bg_image_url"])
    if given == ["bg_image_file"]:
        return await requests.file(service, fields["bg_image_file"])
    return None


def _values(words: Mapping[str, str]) -> dict[str, str]:
    """remove.bg's words in ours."""
    values = {"output_format": _format(words), **_placing(words)}
    size = words.get("size", "auto").lower()
    if size in _SIDES:
        values["max_size"] = str(_SIDES[size])
    elif size not in _FULL:
        raise _bad("size", f"size is {size[:40]!r}, but it must be one of {', '.join((*_SIDES, 'full', 'auto'))}")
    channels = words.get("channels", "rgba")
    if channels not in {"rgba", "alpha"}:
        raise _bad("channels", "channels must be rgba or alpha")
    if channels == "alpha" and words.get("format", "").lower() != "zip":  # which holds the mask anyway
        values["mask"] = "true"
        if not {"crop", "scale", "position"} & set(values):
            values.pop("shadow", None)  # of which the alpha shows nothing, as of a colour
    elif color := words.get("bg_color"):
        values["background"] = _color(color)
    return values


def _placing(words: Mapping[str, str]) -> dict[str, str]:
    values: dict[str, str] = {}
    for theirs, ours in (("crop", "crop"), ("add_shadow", "shadow")):
        if _yes(theirs, words.get(theirs, "false")):
            values[ours] = "true"
    if "crop_margin" in words and "crop" in values:
        values["margin"] = ",".join(words["crop_margin"].removesuffix(",").split())
    for name in ("scale", "position"):
        text = words.get(name, "original")
        if text != "original":
            values[name] = ",".join(text.split())
    return values


def _format(words: Mapping[str, str]) -> str:
    asked = words.get("format", "auto").lower()
    if asked not in {"auto", "png", "jpg", "jpeg", "webp", "zip"}:
        raise _bad("format", f"format is {asked[:40]!r}, but it must be one of auto, png, jpg, webp, zip")
    opaque = (
        any(name in words for name in ("bg_image_url", "bg_image_file")) or _is_opaque(words.get("bg_color"))
    ) and words.get("channels") != "alpha"
    return {"auto": "jpg" if opaque else "png", "zip": "png"}.get(asked, asked)


def _color(text: str) -> str:
    return f"#{text}" if _HEX.fullmatch(text) else text


def _is_opaque(text: str | None) -> bool:
    """Whether a background leaves nothing to see through; what is no colour is refused later."""
    found = parse_color(_color(text)) if text else None
    return bool(text) and text != "transparent" and (found is None or found[3] == 255)


def _yes(name: str, text: str) -> bool:
    if text.lower() not in {"true", "false", "1", "0", "yes", "no"}:
        raise _bad(name, f"{name} must be true or false")
    return text.lower() in {"true", "1", "yes"}


def _size(models: Models, data: bytes, longest: int | None, max_pixels: int) -> tuple[int, int]:
    with models.decoded(data, max_pixels, max_size=longest) as picture:
        return picture.rgb.size


def _inside(models: Models, data: bytes, roi: str, max_pixels: int) -> bytes:
    """The picture with all transparent that lies outside a region of interest."""
    with models.decoded(data, max_pixels) as picture:
        box = _box(roi, picture.rgb.size)
        alpha = Image.new("L", picture.rgb.size)
        with allowing(max_pixels):
            alpha.paste(255 if picture.alpha is None else picture.alpha.crop(box), box)
        return encode(picture.rgb, alpha, OutputFormat.PNG, picture.metadata, Encoding(keep_hidden=True))


def _box(roi: str, size: tuple[int, int]) -> tuple[int, int, int, int]:
    found = [_LENGTH.fullmatch(part) for part in roi.split()]
    if len(found) != 4 or not all(found):
        raise _bad("roi", "roi must be four lengths, such as 0% 0% 50% 100% or 10px 10px 200px 300px")
    values = [
        round(min(side, float(part[1]) * side / 100 if part[2] == "%" else float(part[1])))
        for part, side in zip(found, (*size, *size), strict=True)
        if part is not None
    ]
    left, top, right, bottom = values
    if left >= right or top >= bottom:
        raise _bad("roi", "roi is empty")
    return left, top, right, bottom


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


def _answer(request: Request, done: Done, data: bytes, kind: str, headers: dict[str, str]) -> Response:
    headers |= {"X-Type": "other", "X-Credits-Charged": "0"}
    if "application/json" in request.headers.get("accept", ""):
        del headers["Content-Disposition"]
        whole = {"result_b64": base64.b64encode(data).decode(), "foreground_width": done.size[0]}
        whole["foreground_height"] = done.size[1]
        return Response(json.dumps({"data": whole}), media_type="application/json", headers=headers)
    return Response(data, media_type=kind, headers=headers)
