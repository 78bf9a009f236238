"""The application: what it is made of, and the endpoints for one picture and for monitoring."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from cutout import __version__
from cutout.service import form, logs
from cutout.service.http.answers import disposition, picture_headers
from cutout.service.http.middleware import OPEN, Guard
from cutout.service.http.problems import Problem
from cutout.service.metrics import CONTENT_TYPE, Metrics
from cutout.service.models import Engine, media_type
from cutout.service.openapi import PICTURE, errors, form_body, secured
from cutout.service.queue import WorkQueue
from cutout.service.requests import RequestHandler, texts
from cutout.service.routes import batches, pages, removebg
from cutout.service.runner import Runner
from cutout.service.settings import Settings
from cutout.service.store.sqlite import Jobs, SqliteJobs

__all__ = ["create_app"]


class AppState:
    """What a running application holds."""

    def __init__(self, settings: Settings, engine: Engine | None, metrics: Metrics) -> None:
        self.settings = settings
        self.metrics = metrics
        self.engine = engine
        self.given = engine is not None
        self.failure: Exception | None = None
        """Why the models could not be opened."""
        self.handler: RequestHandler | None = None
        self.jobs: Jobs | None = None
        self.runner: Runner | None = None
        self.queue = WorkQueue(settings.workers, settings.queue)
        metrics.watch(self.queue)

    def ready(self) -> RequestHandler:
        """What handles requests, once the models are open.

        Raises:
            Problem: They are not yet.
        """
        if self.handler is None:
            raise Problem(503, "starting", "the models are still being opened", retry_after=2)
        return self.handler

    def open(self) -> None:
        """Open the models; blocks for seconds."""
        if self.engine is not None:
            for name in self.engine.models:
                self.metrics.loads.labels(name).inc()
        else:
            self.engine = Engine(
                self.settings,
                warn=lambda text: logs.event("warning", level=logging.WARNING, text=text),
                loaded=lambda name: self.metrics.loads.labels(name).inc(),
            )
        self.open_jobs()
        self.handler = RequestHandler(self.settings, self.engine, self.queue, self.metrics)
        logs.event("ready", models=", ".join(self.engine.models), device=self.engine.device)

    def give(self, engine: Engine) -> None:
        """Take models that the caller has opened, and will close."""
        self.engine, self.given = engine, True

    def open_jobs(self) -> None:
        """Open the store of batches, unless that was done.

        Raises:
            CutoutError: It cannot be used.
        """
        if self.jobs is None:
            self.jobs = self._jobs()

    def _jobs(self) -> Jobs:
        if self.settings.broker is not None:
            from cutout.service.store.redis import RedisJobs

            return RedisJobs(self.settings.broker, expiry=self.settings.expiry, redelivery=self.settings.redelivery)
        return SqliteJobs(self.settings.folder, expiry=self.settings.expiry)

    def start(self) -> None:
        """Begin with the batches that an earlier process left unfinished."""
        if isinstance(self.jobs, SqliteJobs) and self.engine is not None:
            limit = self.settings.max_pixels
            self.runner = Runner(self.jobs, self.engine, self.queue, self.metrics, max_pixels=limit)

    async def stop(self) -> None:
        """Finish what was accepted, and end."""
        if self.runner is not None:
            await self.runner.stop()
        await asyncio.to_thread(self.queue.close)
        if self.handler is not None:
            self.handler.close()
        if self.jobs is not None:
            self.jobs.close()
        if self.engine is not None and not self.given:  # the caller closes its own
            self.engine.close()


def create_app(settings: Settings, engine: Engine | None = None) -> FastAPI:
    """The application.

    Args:
        settings: What it is started with.
        engine: The opened models; without it they are opened while /health answers already and /ready does not.
    """
    metrics = Metrics()
    state = AppState(settings, engine, metrics)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        opening = asyncio.ensure_future(_open(state))
        if state.given:
            await opening
        try:
            yield
        finally:
            await asyncio.gather(opening, return_exceptions=True)
            await state.stop()

    app = FastAPI(
        title="cutout",
        version=__version__,
        summary="Removes the background of pictures.",
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
    )
    app.state.service = state
    _handle_errors(app)
    _add_remove_background(app, state)
    _add_monitoring(app, state)
    app.include_router(batches.router(state, settings))
    app.include_router(removebg.router(state))
    app.include_router(pages.router())
    app.add_middleware(Guard, settings=settings, metrics=metrics)
    plain = app.openapi
    app.openapi = lambda: secured(plain(), OPEN, required=bool(settings.api_keys))  # type: ignore[method-assign]
    return app


async def _open(state: AppState) -> None:
    try:
        await asyncio.to_thread(state.open)
        state.start()
    except Exception as error:
        logs.event("failed", level=logging.ERROR, text=str(error))
        state.failure = error
        if state.given:
            raise
        import signal

        signal.raise_signal(signal.SIGTERM)  # a service that can never be ready must not look alive


def _add_remove_background(app: FastAPI, state: AppState) -> None:
    images = {media_type(kind): PICTURE for kind in form.FORMATS.values()}

    @app.post(
        "/remove-background",
        tags=["pictures"],
        response_class=Response,
        responses={
            200: {"description": "The picture.", "content": images},
            **errors(400, 401, 408, 413, 415, 422, 503),
        },
        openapi_extra={"requestBody": form_body("file", state.settings.model_names)},
    )
    async def remove_background(request: Request) -> Response:
        """Remove the background of one picture; every field of `cutout remove` is a form field here."""
        handler = state.ready()
        started = asyncio.get_running_loop().time()
        async with handler.form(request, files=2) as fields:
            values = texts(fields, without={"file"}, either={"background"})
            upload = fields.get("file")
            data = await handler.file(upload)
            background = await handler.background(fields)
            try:
                cut_request = form.cut_request(
                    values, handler.engine, max_pixels=state.settings.max_pixels, background=background
                )
                done = await handler.cut(request, data, cut_request)
            finally:
                handler.drop(background)
        headers = picture_headers(done, asyncio.get_running_loop().time() - started)
        headers["Content-Disposition"] = disposition(getattr(upload, "filename", ""), done.output_format.value)
        return Response(done.data, media_type=media_type(done.output_format), headers=headers)


def _add_monitoring(app: FastAPI, state: AppState) -> None:
    @app.get("/health", tags=["service"])
    async def health() -> dict[str, str]:
        """Whether the service runs."""
        return {"status": "ok", "version": __version__}

    @app.get("/ready", tags=["service"], responses=errors(503))
    async def ready() -> dict[str, Any]:
        """Whether it would take a picture now: the models are open and the queue is not full."""
        handler = state.ready()
        if state.queue.full:
            raise Problem(503, "overloaded", "the queue is full", retry_after=state.queue.retry_after())
        return {
            "status": "ready",
            "models": list(handler.engine.models),
            "device": handler.engine.device,
            "waiting": state.queue.waiting,
            "running": state.queue.running,
        }

    @app.get("/metrics", tags=["service"], response_class=Response)
    async def metrics() -> Response:
        """What Prometheus reads."""
        device = "cpu" if state.engine is None else state.engine.device
        text = await asyncio.to_thread(_scrape, state, device)
        return Response(text, media_type=CONTENT_TYPE)


def _scrape(state: AppState, device: str) -> bytes:
    pending = None
    try:
        pending = 0 if state.jobs is None else state.jobs.pending()
    except Exception as error:  # noqa: BLE001 - whatever keeps the store from being asked, the rest is known
        logs.event("batches", level=logging.WARNING, text=str(error))
    return state.metrics.text(device=device, pending=pending)


def _handle_errors(app: FastAPI) -> None:
    """What HTTP itself refuses becomes a `Problem` as well; `Guard` answers them all."""

    async def by_http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)  # noqa: S101 - registered for it alone
        request.state.outcome = str(error.status_code)
        kind = {404: "not-found", 405: "method"}.get(error.status_code, "request")
        headers = {name.lower(): value for name, value in (error.headers or {}).items()}
        if headers.get("allow") == "GET":
            headers["allow"] = "GET, HEAD"
        raise Problem(error.status_code, kind, str(error.detail), headers=headers) from error

    async def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)  # noqa: S101 - registered for it alone
        request.state.outcome = "422"
        first = error.errors()[0]
        where = ".".join(str(part) for part in first.get("loc", ()))
        raise Problem(422, "usage", f"{where}: {first.get('msg', 'not valid')}") from error

    app.add_exception_handler(HTTPException, by_http)
    app.add_exception_handler(RequestValidationError, invalid)
