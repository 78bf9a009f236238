"""Starting and stopping the server."""

from __future__ import annotations

import atexit
import contextlib
import errno
import os
import shutil
import signal
import socket
import tempfile
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import uvicorn

from cutout.errors import CutoutError
from cutout.models.files import data_home
from cutout.service import logs
from cutout.service.app import create_app
from cutout.service.http.origins import default_hosts, is_loopback
from cutout.service.http.protocol import Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fastapi import FastAPI

    from cutout.service.settings import Settings
    from cutout.service.state import Service

__all__ = ["configure", "serve"]

_WAITING = 2048  # connections that are not accepted yet; uvicorn's own default
_KEEP_ALIVE = 75  # seconds; a proxy must be the first to close an idle connection, or its next request is lost


def serve(
    settings: Settings,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    preload: bool = True,
    log_format: str = "text",
    trust_proxy: str | None = None,
) -> None:
    """Serve until a signal to stop; what was accepted is finished.

    Args:
        settings: What the application is made with.
        host: Address to listen on.
        port: 0 takes a free one.
        preload: Open the models before listening, so that a missing one ends the command at once.
        log_format: `text` or `json`.
        trust_proxy: Addresses of proxies whose `X-Forwarded-For` is believed.

    Raises:
        CutoutError: The port is taken, or a model is missing, which may show only while it serves.
    """
    logs.set_up(log_format)
    if not settings.allowed_hosts:
        settings = replace(settings, allowed_hosts=default_hosts(host, keys=bool(settings.api_keys)))
    if not settings.broker:
        settings = _with_a_folder(settings)
    app = create_app(settings)
    service: Service = app.state.service
    config = configure(app, settings, host=host, port=port, trust_proxy=trust_proxy)
    # a taken port or folder ends the command before models are opened, and before the address is announced
    listener = _bound(host, port)
    service.open_jobs()
    if preload:
        service.open_models()
    _listen(listener, host, port)
    where = listener.getsockname()
    if not settings.api_keys and not is_loopback(where[0]):
        logs.warning("other machines may use this service without an API key", host=where[0])
    name = f"[{where[0]}]" if listener.family == socket.AF_INET6 else where[0]
    logs.event("listening", url=f"http://{name}:{where[1]}")
    server = _Server(config)
    try:
        server.run(sockets=[listener])
    finally:
        service.close_models()
    if service.failure is not None:
        raise service.failure
    if not server.started:
        raise CutoutError("the service could not be started", hint="its log tells why")


def _with_a_folder(settings: Settings) -> Settings:
    """The same, with a temporary folder for batches where the default one cannot be written to."""
    if settings.folder != (default := data_home() / "service"):
        return settings
    with contextlib.suppress(OSError):
        default.mkdir(parents=True, exist_ok=True, mode=0o700)
        if os.access(default, os.R_OK | os.W_OK | os.X_OK):
            return settings
    folder = Path(tempfile.mkdtemp(prefix="cutout-service-"))  # with rights for this user alone
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    logs.warning(
        f"there is no home to keep batches in: they lie in {folder}, where no other start looks for them;"
        " --folder or CUTOUT_HOME names a place that stays",
    )
    return replace(settings, folder=folder)


def configure(
    app: FastAPI,
    settings: Settings,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    trust_proxy: str | None = None,
) -> uvicorn.Config:
    """How an application is served; the other arguments are those of `serve`."""
    return uvicorn.Config(
        app,
        host=host,
        port=port,
        http=Protocol,
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=trust_proxy is not None,
        forwarded_allow_ips=trust_proxy,
        timeout_keep_alive=_KEEP_ALIVE,
        timeout_graceful_shutdown=int(settings.timeout) + 5,
    )


class _Server(uvicorn.Server):
    """Ends with status 0 once it has finished what it accepted; uvicorn's own dies of the signal."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop on the first signal, at once on the second."""
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _bound(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except (OSError, UnicodeError) as error:
        listener.close()
        raise _cannot_listen(host, port, error) from error
    return listener


def _listen(listener: socket.socket, host: str, port: int) -> None:
    try:
        listener.listen(_WAITING)
    except OSError as error:  # another one was quicker
        listener.close()
        raise _cannot_listen(host, port, error) from error


def _cannot_listen(host: str, port: int, error: Exception) -> CutoutError:
    number = error.errno if isinstance(error, OSError) else None
    hint = {errno.EADDRINUSE: "choose another --port; 0 takes a free one", errno.EACCES: "choose a --port above 1023"}
    why = getattr(error, "strerror", None) or str(error)
    return CutoutError(
        f"cannot listen on {host} port {port}: {why}",
        hint=hint.get(number or 0, "choose another --host: an address of this machine, or 0.0.0.0 for all"),
    )
