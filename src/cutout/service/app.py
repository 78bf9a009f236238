"""The application: its parts, and the addresses for one picture and for monitoring."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from cutout import __version__
from cutout.service import form, requests
from cutout.service.http.answers import picture_answer
from cutout.service.http.middleware import Guard
from cutout.service.http.problems import Problem
from cutout.service.metrics import CONTENT_TYPE
from cutout.service.models import Models
from cutout.service.openapi import PICTURE, errors, form_body, secured
from cutout.service.routes import batches, pages, rembg, removebg
from cutout.service.settings import Settings
from cutout.service.state import Service

__all__ = ["create_app"]


def create_app(settings: Settings, models: Models | None = None) -> FastAPI:
    """The application; models that are not given are opened while /health answers already and /ready does not."""
    service = Service(settings, models)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        opening = asyncio.ensure_future(service.start() if service.is_open else service.start_or_end())
        if service.is_open:
            await opening
        try:
            yield
        finally:
            await asyncio.gather(opening, return_exceptions=True)
            await service.stop()

    app = FastAPI(
        title="cutout",
        version=__version__,
        summary="Removes the background of pictures.",
        docs_url=None,
        redoc_url=None,
        servers=[{"url": settings.root_path}] if settings.root_path else None,
        lifespan=lifespan,
    )
    app.state.service = service
    _handle_errors(app)
    _add_remove_background(app, service)
    _add_monitoring(app, service)
    app.include_router(batches.router(settings))
    app.include_router(removebg.router())
    app.include_router(rembg.router())
    app.include_router(pages.router(service))
    app.add_middleware(Guard, settings=settings, metrics=service.metrics)
    plain = app.openapi
    app.openapi = lambda: secured(plain(), settings.open_paths, required=bool(settings.api_keys))  # type: ignore[method-assign]
    return app


def _add_remove_background(app: FastAPI, service: Service) -> None:
    images = {kind.row.media_type: PICTURE for kind in form.FORMATS.values()}

    @app.post(
        "/remove-background",
        tags=["pictures"],
        response_class=Response,
        responses={
            200: {"description": "The picture.", "content": images},
            **errors(400, 401, 408, 413, 415, 422, 503),
        },
        openapi_extra={"requestBody": form_body("file", service.settings.model_names)},
    )
    async def remove_background(request: Request) -> Response:
        """Remove the background of one picture; every field of `cutout remove` is a form field here."""
        started = asyncio.get_running_loop().time()
        async with requests.form(service, request, files=2) as fields:
            values = requests.texts(fields, without={"file"}, either={"background"})
            upload = fields.get("file")
            data = await requests.file(service, upload)
            background = await requests.background(service, request, fields.get("background"))
            most = service.settings.max_pixels
            cut_request = form.cut_request(values, service.models, max_pixels=most, background=background)
            done = await requests.cut(service, request, data, cut_request)
        return picture_answer(done, getattr(upload, "filename", ""), asyncio.get_running_loop().time() - started)


async def _batch_workers(service: Service) -> dict[str, Any]:
    """For /ready: how many workers take batches; the service takes single pictures without any."""
    count = None
    with suppress(TimeoutError):  # a probe does not wait for a broker that does not answer
        count = await asyncio.wait_for(asyncio.to_thread(service.batch_workers), 0.5)
    if count:
        return {"batch_workers": count}
    none = "no worker takes batches: cutout worker --broker starts one"
    return {"batch_workers": count, "warning": "the broker of batches cannot be reached" if count is None else none}


def _add_monitoring(app: FastAPI, service: Service) -> None:
    @app.get("/health", tags=["service"])
    async def health() -> dict[str, str]:
        """Whether the service runs."""
        return {"status": "ok", "version": __version__}

    @app.get("/ready", tags=["service"], responses=errors(503))
    async def ready() -> dict[str, Any]:
        """Whether it would take a picture now: the models are open and the queue is not full; who works on batches."""
        models, queue = service.models, service.queue
        if queue.full:
            raise Problem(503, "overloaded", "the queue is full", retry_after=queue.retry_after())
        return {
            "status": "ready",
            "models": list(models.names),
            "device": models.device,
            "waiting": queue.waiting,
            "running": queue.running,
            **(await _batch_workers(service) if service.settings.broker else {}),
        }

    @app.get("/metrics", tags=["service"], response_class=Response)
    async def metrics() -> Response:
        """Metrics for Prometheus."""

        def scrape() -> bytes:
            return service.metrics.text(
                device=service.device, pending=service.pending(), workers=service.batch_workers()
            )

        return Response(await asyncio.to_thread(scrape), media_type=CONTENT_TYPE)


def _handle_errors(app: FastAPI) -> None:
    """What HTTP itself refuses becomes a `Problem` as well; `Guard` answers them all."""

    @app.exception_handler(HTTPException)
    async def by_http(request: Request, error: HTTPException) -> Response:
        request.state.outcome = str(error.status_code)
        kind = {404: "not-found", 405: "method"}.get(error.status_code, "request")
        headers = {name.lower(): value for name, value in (error.headers or {}).items()}
        if headers.get("allow") == "GET":
            headers["allow"] = "GET, HEAD"
        raise Problem(error.status_code, kind, str(error.detail), headers=headers) from error

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        request.state.outcome = "422"
        first = error.errors()[0]
        where = ".".join(str(part) for part in first.get("loc", ()))
        raise Problem(422, "usage", f"{where}: {first.get('msg', 'not valid')}") from error
