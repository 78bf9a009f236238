"""Batches over HTTP."""

import asyncio
import json
import logging
import tempfile
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import PurePosixPath
from typing import IO, Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from fastapi import Path as Number
from starlette.datastructures import UploadFile
from starlette.responses import StreamingResponse

from cutout.service import form, logs, requests
from cutout.service.http.answers import disposition, label
from cutout.service.http.problems import Problem
from cutout.service.models import further_frames
from cutout.service.openapi import PICTURE, errors, form_body, task_schema
from cutout.service.settings import Settings
from cutout.service.state import Service
from cutout.service.store.base import Item, Jobs, Task, too_many

__all__ = ["router"]

_ELSEWHERE = 5  # seconds after which to ask again for what other machines work on


def router(settings: Settings) -> APIRouter:
    """The endpoints."""
    routes = APIRouter(tags=["batches"])
    images = {kind.row.media_type: PICTURE for kind in form.FORMATS.values()}
    routes.post(
        "/batch-remove-background",
        status_code=202,
        responses=_good(202, "Accepted.", _as_json(task_schema(short=True)))
        | errors(400, 401, 408, 413, 415, 422, 429, 503),
        openapi_extra={"requestBody": form_body("files", settings.model_names, several=settings.max_files)},
    )(start)
    routes.get(
        "/task-status/{task_id}",
        responses=_good(200, "State of the batch and of its pictures.", _as_json(task_schema()))
        | errors(401, 404, 422, 503),
    )(status)
    routes.get(
        "/task-result/{task_id}",
        response_class=Response,
        responses=_good(200, "All results.", {"application/zip": PICTURE}) | errors(401, 404, 409, 422, 503),
    )(everything)
    routes.get(
        "/task-result/{task_id}/{number}",
        response_class=Response,
        responses=_good(200, "A result.", images) | errors(401, 404, 409, 422, 503),
    )(one)
    routes.delete("/task/{task_id}", status_code=204, responses=errors(401, 404, 422, 503))(delete)
    return routes


def _good(status: int, text: str, content: dict[str, Any]) -> dict[int | str, dict[str, Any]]:
    return {status: {"description": text, "content": content}}


def _as_json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


async def _found(request: Request, task_id: str) -> Task:
    """A batch of this client's, where clients are known by their keys."""
    service: Service = request.app.state.service
    task = await asyncio.to_thread(service.jobs.task, task_id)
    if task is None or (service.settings.api_keys and task.client != request.state.client):
        raise _unknown()
    return task


def _unknown() -> Problem:
    return Problem(404, "not-found", "there is no such task", hint="results are kept for a limited time only")


Found = Annotated[Task, Depends(_found)]


async def start(request: Request) -> dict[str, Any]:
    """Start a batch of pictures; each one is finished or reported failed, even after a restart."""
    service: Service = request.app.state.service
    jobs, client, settings = service.jobs, request.state.client, service.settings
    most = settings.max_tasks
    if await asyncio.to_thread(jobs.pending, client) >= most:  # before its pictures are sent; `add` looks again
        pictures = await asyncio.to_thread(jobs.pending)
        raise too_many(most, _later(service, pictures / most))
    async with requests.form(service, request, files=settings.max_files, several={"files", "file"}) as fields:
        uploads = _uploads(fields.getlist("files") + fields.getlist("file"), settings.max_files)
        for upload in uploads:
            requests.check_bytes(service, upload.size or 0)
        values = requests.texts(fields, without={"files", "file"})
        form.cut_request(values, service.models, max_pixels=settings.max_pixels)  # refuses a wrong field
        names = [label(upload.filename, f"picture-{number}") for number, upload in enumerate(uploads)]
        files = [(name, upload.file.read) for name, upload in zip(names, uploads, strict=True)]
        warnings = await asyncio.to_thread(_warnings, names, uploads, settings.max_pixels)
        task = await asyncio.to_thread(partial(jobs.add, most=most), client, values, files)
    if service.runner is not None:
        service.runner.add(client, len(files))
    return {"task_id": task, "total": len(files)} | ({"warnings": warnings} if warnings else {})


async def status(task: Found) -> dict[str, Any]:
    """The state of a batch and of each of its pictures."""
    states = [item.state for item in task.items]
    began = any(state != "waiting" for state in states)
    return {
        "task_id": task.id,
        "state": "finished" if task.finished else "working" if began else "waiting",
        "total": len(states),
        "completed": states.count("done"),
        "failed": states.count("failed"),
        "expires": task.expires,
        "files": [
            {
                "number": item.number,
                "name": item.name,
                "state": item.state,
                "error": dict(item.error) if item.error else None,
            }
            for item in task.items
        ],
    }


async def everything(request: Request, task: Found) -> Response:
    """All results as a zip; failures are listed in errors.json inside."""
    service: Service = request.app.state.service
    if not task.finished:
        raise _unfinished(service, task, "the batch is not finished")
    try:
        archive, size = await asyncio.to_thread(_zip, task, service.jobs)
    except FileNotFoundError:
        raise _unknown() from None
    except OSError as error:
        logs.event("storage", level=logging.ERROR, text=str(error))
        text = "there is no room for the archive now"
        raise Problem(503, "storage", text, hint="fetch the results one by one", retry_after=30) from error
    headers = {"Content-Disposition": 'attachment; filename="cutouts.zip"', "Content-Length": str(size)}
    return StreamingResponse(_sent(archive), media_type="application/zip", headers=headers)


async def one(request: Request, task: Found, number: Annotated[int, Number(ge=0)]) -> Response:
    """One result, as soon as it is done; pictures are counted from 0."""
    service: Service = request.app.state.service
    if number >= len(task.items):
        raise Problem(404, "not-found", f"the batch has pictures 0 to {len(task.items) - 1}")
    item = task.items[number]
    if item.state == "failed":
        error = dict(item.error or {})
        raise Problem(422, error.get("kind", "failed"), error.get("message", "failed"), hint=error.get("hint"))
    if item.state != "done":
        raise _unfinished(service, task, "the picture is not done yet")
    try:
        data = await asyncio.to_thread(service.jobs.result, task.id, number)
    except FileNotFoundError:
        raise _unknown() from None
    headers = {"Content-Disposition": disposition(item.name, item.media)}
    return Response(data, media_type=form.FORMATS[item.media].row.media_type, headers=headers)


async def delete(request: Request, task: Found) -> Response:
    """Delete a batch and its pictures."""
    await asyncio.to_thread(request.app.state.service.jobs.delete, task.id)
    return Response(status_code=204)


def _later(service: Service, pictures: float) -> int:
    """Seconds until about so many pictures of batches are done."""
    return _ELSEWHERE if service.settings.broker is not None else service.queue.retry_after(pictures)


def _unfinished(service: Service, task: Task, text: str) -> Problem:
    seconds = _later(service, sum(item.state not in {"done", "failed"} for item in task.items))
    return Problem(409, "not-finished", text, hint="see /task-status", retry_after=seconds)


def _uploads(given: list[UploadFile | str], most: int) -> list[UploadFile]:
    uploads = [value for value in given if isinstance(value, UploadFile)]
    if not uploads or len(uploads) < len(given):
        text = "the field `files` must hold pictures"
        raise Problem(400, "no-file", text, hint="curl -F files=@a.jpg -F files=@b.jpg")
    if len(uploads) > most:
        raise Problem(413, "too-many-files", f"a batch has at most {most} pictures here")
    return uploads


def _warnings(names: list[str], uploads: list[UploadFile], max_pixels: int) -> list[dict[str, Any]]:
    """What is known to be missing from results before they are made."""
    warnings = []
    for number, (name, upload) in enumerate(zip(names, uploads, strict=True)):
        found = further_frames(upload.file.read(), max_pixels)
        warnings += [{"number": number, "name": name, "warning": text} for text in found]
        upload.file.seek(0)
    return warnings


def _sent(file: IO[bytes]) -> Iterator[bytes]:
    with file:
        while chunk := file.read(1 << 16):
            yield chunk


def _zip(task: Task, jobs: Jobs) -> tuple[IO[bytes], int]:
    """A temporary file of all results under the names that their pictures had, none twice; and its size."""
    file = tempfile.TemporaryFile(prefix="cutout-zip-")  # noqa: SIM115 - closed by `_sent`
    taken: set[str] = {"errors.json"}
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for item in task.items:
            if item.state == "done":
                archive.writestr(_free(item, taken), jobs.result(task.id, item.number))
        failed = [{"name": item.name, "error": dict(item.error or {})} for item in task.items if item.state == "failed"]
        if failed:
            archive.writestr("errors.json", json.dumps(failed, indent=1))
    size = file.tell()
    file.seek(0)
    return file, size


def _free(item: Item, taken: set[str]) -> str:
    stem = PurePosixPath(item.name).stem or f"picture-{item.number}"
    name, again = f"{stem}.{item.media}", 1
    while name.lower() in taken:
        again += 1
        name = f"{stem}-{again}.{item.media}"
    taken.add(name.lower())
    return name
