"""The interface of rembg's server (`rembg s`): its clients work when their base address is changed."""

import asyncio
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from fastapi import APIRouter, Request, Response

from cutout.errors import UsageError
from cutout.service import form, requests
from cutout.service.http.answers import picture_answer
from cutout.service.http.problems import Problem
from cutout.service.models import CutRequest
from cutout.service.openapi import PICTURE, errors
from cutout.service.state import Service

__all__ = ["router"]

_OURS = {
    "model": "model",
    "a": "matting",
    "af": "matting_foreground",
    "ab": "matting_background",
    "ae": "matting_erode",
    "om": "mask",
    "ppm": "post_process",
    "dc": "edge_colors",
    "bgc": "background",
}
_ABOUT = {
    "vm": {"type": "boolean", "description": "Ignored, with an X-Warning: there is no ViTMatte here."},
    "bgc": {"type": "string", "maxLength": 100, "description": "Background: red,green,blue,alpha, each 0 to 255."},
    "dc": {"type": "boolean", "description": "Take the old background's colour out of soft edges, or leave it."},
    "extras": {"type": "string", "maxLength": 100, "description": "Refused, unless it is an empty JSON object."},
}


def router() -> APIRouter:
    """Both endpoints."""
    routes = APIRouter(tags=["rembg"])
    good: dict[int | str, Any] = {200: {"description": "The picture, a PNG.", "content": {"image/png": PICTURE}}}
    options = form.schema()
    fields = {name: options[ours] for name, ours in _OURS.items()} | _ABOUT
    file = {"type": "string", "format": "binary"}
    body = {"type": "object", "required": ["file"], "properties": {"file": file, **fields}}
    url = {"name": "url", "in": "query", "required": True, "schema": {"type": "string"}}
    query = [{"name": name, "in": "query", "schema": schema} for name, schema in fields.items()]
    routes.post(
        "/api/remove",
        response_class=Response,
        responses=good | errors(400, 401, 408, 413, 415, 422, 503),
        openapi_extra={"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": body}}}},
    )(remove)
    routes.get(
        "/api/remove",
        response_class=Response,
        responses=good | errors(400, 401, 403, 413, 415, 422, 503),
        openapi_extra={"parameters": [url, *query]},
    )(remove_from_address)
    return routes


async def remove(request: Request) -> Response:
    """Remove the background of the picture `file`, as rembg's server does."""
    service: Service = request.app.state.service
    started = asyncio.get_running_loop().time()
    async with requests.form(service, request, files=2) as fields:
        upload = fields.get("file")
        data = await requests.file(service, upload)
        texts = [*requests.texts(fields, without={"file"}).items(), *request.query_params.multi_items()]
        done = await requests.cut(service, request, data, _cut_request(service, texts))
    return picture_answer(done, getattr(upload, "filename", ""), asyncio.get_running_loop().time() - started)


async def remove_from_address(request: Request) -> Response:
    """Remove the background of the picture behind `url`, where this service may fetch pictures."""
    service: Service = request.app.state.service
    started = asyncio.get_running_loop().time()
    service.ready()
    with service.queue.admitted(request.state.client):
        given = request.query_params.multi_items()
        url, *others = request.query_params.getlist("url") or [""]
        if not url or others:
            raise Problem(422, "usage", "one url is needed", hint="/api/remove?url=https://…")
        cut_request = _cut_request(service, [(name, text) for name, text in given if name != "url"])
        data = await requests.fetched(service, request, url)
        done = await requests.cut(service, request, data, cut_request)
    return picture_answer(done, url.partition("?")[0], asyncio.get_running_loop().time() - started)


def _cut_request(service: Service, given: list[tuple[str, str]]) -> CutRequest:
    """What the fields of a form or an address ask for.

    Raises:
        UsageError: An unknown field, one that is there twice, a value that cannot be.
    """
    for name, many in Counter(name for name, _ in given).items():
        if many > 1:
            raise UsageError(f"the field {name[:80]!r} is there twice")
        if name not in {*_OURS, *_ABOUT}:
            raise UsageError(f"unknown field {name[:80]!r}", hint=f"known: {', '.join((*_OURS, *_ABOUT))}")
    words = {name: text.strip() for name, text in given if text.strip()}
    values, notes = _values(words)
    asked = form.cut_request(values, service.models, max_pixels=service.settings.max_pixels, write=_as_theirs)
    return replace(asked, warnings=(*notes, *asked.warnings))


def _values(words: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """The same in our words, and what of it does nothing."""
    values = {_OURS[name]: text for name, text in words.items() if name in _OURS}
    notes = []
    if "dc" in words:
        values["edge_colors"] = "clean" if _is_yes("dc", words["dc"]) else "keep"
    if _is_yes("vm", words.get("vm", "false")):
        notes.append("vm does nothing here: there is no ViTMatte; a mattes soft edges")
    if "bgc" in words and _is_yes("om", words.get("om", "false")):
        del values["background"]
        notes.append("bgc does nothing here: om gives the mask alone")
    if "extras" in words:
        try:
            extras = json.loads(words["extras"])
        except (ValueError, RecursionError):
            extras = None
        if extras != {}:
            hint = "all options are fields here"
            raise UsageError("extras are not understood here: they are for rembg's own models", hint=hint)
    return values, notes


def _as_theirs(ours: str) -> str:
    return next((name for name, known in _OURS.items() if known == ours), ours)


def _is_yes(name: str, text: str) -> bool:
    found = form.as_flag(text)
    if found is None:
        raise UsageError(f"{name} is {text[:80]!r}, but it must be true or false")
    return found
