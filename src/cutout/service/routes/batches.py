"""Batches over HTTP."""

import asyncio
import json
import logging
import tempfile
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import PurePosixPath
from typing import IO, Annotated, Any, Protocol

from fastapi import APIRouter, Request, Response
from fastapi import Path as Number
from starlette.datastructures import UploadFile
from starlette.responses import StreamingResponse

from cutout.service import form, logs
from cutout.service.http.answers import disposition, label
from cutout.service.http.problems import Problem
from cutout.service.models import further_frames, media_type
from cutout.service.openapi import PICTURE, errors, form_body, task_schema
from cutout.service.requests import RequestHandler, texts
from cutout.service.runner import Runner
from cutout.service.settings import Settings
from cutout.service.store.base import Item, Jobs, Task, too_many

__all__ = ["router"]

_ELSEWHERE = 5  # seconds after which to ask again for what other machines work on


class ServiceState(Protocol):
    """What the endpoints need of the running application."""

    jobs: Jobs | None
    runner: Runner | None

    def ready(self) -> RequestHandler:
        """What handles requests, or a problem."""
        ...


def router(state: ServiceState, settings: Settings) -> APIRouter:
    """The endpoints."""
    routes = APIRouter(tags=["batches"])
    ends = _Endpoints(state, settings)
    images = {media_type(kind): PICTURE for kind in form.FORMATS.values()}
    routes.add_api_route(
        "/batch-remove-background",
        ends.start,
        methods=["POST"],
        status_code=202,
        responses=_good(202, "Accepted.", _as_json(task_schema(short=True)))
        | errors(400, 401, 408, 413, 415, 422, 429, 503),
        openapi_extra={"requestBody": form_body("files", settings.model_names, several=settings.max_files)},
    )
    routes.add_api_route(
        "/task-status/{task_id}",
        ends.status,
        methods=["GET"],
        responses=_good(200, "How it stands.", _as_json(task_schema())) | errors(401, 404, 422, 503),
    )
    routes.add_api_route(
        "/task-result/{task_id}",
        ends.everything,
        methods=["GET"],
        response_class=Response,
        responses=_good(200, "All results.", {"application/zip": PICTURE}) | errors(401, 404, 409, 422, 503),
    )
    routes.add_api_route(
        "/task-result/{task_id}/{number}",
        ends.one,
        methods=["GET"],
        response_class=Response,
        responses=_good(200, "A result.", images) | errors(401, 404, 409, 422, 503),
    )
    routes.add_api_route(
        "/task/{task_id}", ends.delete, methods=["DELETE"], status_code=204, responses=errors(401, 404, 422, 503)
    )
    return routes


def _good(status: int, text: str, content: dict[str, Any]) -> dict[int | str, dict[str, Any]]:
    return {status: {"description": text, "content": content}}


def _as_json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


class _Endpoints:
    def __init__(self, state: ServiceState, settings: Settings) -> None:
        self._state = state
        self._settings = settings

    async def start(self, request: Request) -> dict[str, Any]:
        """Give many pictures at once; what is accepted is finished or reported failed, even after a restart."""
        handler, jobs, client, most = self._state.ready(), self._jobs, request.state.client, self._settings.max_tasks
        if await asyncio.to_thread(jobs.pending, client) >= most:  # before its pictures are sent; `add` looks again
            raise too_many(most, await self._until_fewer(handler, jobs))
        async with handler.form(request, files=self._settings.max_files, several={"files", "file"}) as fields:
            uploads = self._uploads(fields.getlist("files") + fields.getlist("file"))
            for upload in uploads:
                handler.check_size(upload.size or 0)
            values = texts(fields, without={"files", "file"})
            form.cut_request(values, handler.engine, max_pixels=handler.settings.max_pixels)  # refuses a wrong field
            names = [label(upload.filename, f"picture-{number}") for number, upload in enumerate(uploads)]
            files = [(name, upload.file.read) for name, upload in zip(names, uploads, strict=True)]
            warnings = await asyncio.to_thread(_warnings, names, uploads, self._settings.max_pixels)
            try:
                task = await asyncio.to_thread(partial(jobs.add, most=most), client, values, files)
            except Problem as problem:
                if problem.status == 429:
                    problem.retry_after = await self._until_fewer(handler, jobs)
                raise
        if self._state.runner is not None:
            self._state.runner.wake()
        return {"task_id": task, "total": len(files)} | ({"warnings": warnings} if warnings else {})

    async def _until_fewer(self, handler: RequestHandler, jobs: Jobs) -> int:
        """Seconds until about one of a client's batches is finished."""
        if self._settings.broker is not None:
            return _ELSEWHERE
        pictures = await asyncio.to_thread(jobs.pending)
        return handler.queue.retry_after(pictures / self._settings.max_tasks)

    def _until_done(self, task: Task) -> int:
        if self._settings.broker is not None:
            return _ELSEWHERE
        left = sum(item.state not in {"done", "failed"} for item in task.items)
        return self._state.ready().queue.retry_after(left)

    async def status(self, request: Request, task_id: str) -> dict[str, Any]:
        """How far a batch has come, picture by picture."""
        return _status(await self._found(request, task_id))

    async def everything(self, request: Request, task_id: str) -> Response:
        """All results as a zip; failures are listed in errors.json inside."""
        task = await self._found(request, task_id)
        if not task.finished:
            away = self._until_done(task)
            raise Problem(409, "not-finished", "the batch is not finished", hint="see /task-status", retry_after=away)
        try:
            archive, size = await asyncio.to_thread(_zip, task, self._jobs)
        except FileNotFoundError:
            raise _unknown() from None
        except OSError as error:
            logs.event("storage", level=logging.ERROR, text=str(error))
            text = "there is no room for the archive now"
            raise Problem(503, "storage", text, hint="fetch the results one by one", retry_after=30) from error
        headers = {"Content-Disposition": 'attachment; filename="cutouts.zip"', "Content-Length": str(size)}
        return StreamingResponse(_sent(archive), media_type="application/zip", headers=headers)

    async def one(self, request: Request, task_id: str, number: Annotated[int, Number(ge=0)]) -> Response:
        """One result, as soon as it is done; pictures are counted from 0."""
        task = await self._found(request, task_id)
        if not 0 <= number < len(task.items):
            raise Problem(404, "not-found", f"the batch has pictures 0 to {len(task.items) - 1}")
        item = task.items[number]
        if item.state == "failed":
            error = dict(item.error or {})
            raise Problem(422, error.get("kind", "failed"), error.get("message", "failed"), hint=error.get("hint"))
        if item.state != "done":
            away = self._until_done(task)
            raise Problem(409, "not-finished", "the picture is not done yet", hint="see /task-status", retry_after=away)
        try:
            data = await asyncio.to_thread(self._jobs.result, task_id, number)
        except FileNotFoundError:
            raise _unknown() from None
        headers = {"Content-Disposition": disposition(item.name, item.media)}
        return Response(data, media_type=media_type(form.FORMATS[item.media]), headers=headers)

    async def delete(self, request: Request, task_id: str) -> Response:
        """Forget a batch and its pictures."""
        await self._found(request, task_id)
        await asyncio.to_thread(self._jobs.delete, task_id)
        return Response(status_code=204)

    @property
    def _jobs(self) -> Jobs:
        self._state.ready()
        assert self._state.jobs is not None  # noqa: S101 - is there once the service is ready
        return self._state.jobs

    async def _found(self, request: Request, task_id: str) -> Task:
        """A batch of this client's, where clients are known by their keys."""
        task = await asyncio.to_thread(self._jobs.task, task_id)
        if task is None or (self._settings.api_keys and task.client != request.state.client):
            raise _unknown()
        return task

    def _uploads(self, given: list[UploadFile | str]) -> list[UploadFile]:
        uploads = [value for value in given if isinstance(value, UploadFile)]
        if not uploads or len(uploads) < len(given):
            text = "the field `files` must hold pictures"
            raise Problem(400, "no-file", text, hint="curl -F files=@a.jpg -F files=@b.jpg")
        if len(uploads) > (most := self._settings.max_files):
            raise Problem(413, "too-many-files", f"a batch has at most {most} pictures here")
        return uploads


def _warnings(names: list[str], uploads: list[UploadFile], max_pixels: int) -> list[dict[str, Any]]:
    """What is known to be missing from results before they are made."""
    warnings = []
    for number, (name, upload) in enumerate(zip(names, uploads, strict=True)):
        told = further_frames(upload.file.read(), max_pixels)
        warnings += [{"number": number, "name": name, "warning": text} for text in told]
        upload.file.seek(0)
    return warnings


def _unknown() -> Problem:
    return Problem(404, "not-found", "there is no such task", hint="results are kept for a limited time only")


def _status(task: Task) -> dict[str, Any]:
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
