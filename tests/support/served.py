"""What the tests of the service share: a server in a thread, one in a process, an engine that waits to be let go."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from http.server import ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import httpx
import uvicorn
from small import brightness_model

from cutout.service.app import create_app
from cutout.service.http.server import configure
from cutout.service.models import CutRequest, Done, Models
from cutout.service.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from socketserver import BaseRequestHandler


@contextmanager
def served(settings: Settings, models: Models | None, *, ready: dict[str, str] | None = None) -> Iterator[httpx.Client]:
    """A real server on a free port, and a client of it; without models it opens its own; with headers for /ready."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    server = uvicorn.Server(configure(create_app(settings, models), settings))
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{listener.getsockname()[1]}", timeout=60) as client:
            until(lambda: client.get("/ready", headers=ready).status_code == 200)
            yield client
    finally:
        server.should_exit = True
        thread.join(60)
        listener.close()
    assert not thread.is_alive()


@contextmanager
def website(handler: Callable[..., BaseRequestHandler]) -> Iterator[str]:
    """A web server of somebody else's in a thread; gives its address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def until(true: Callable[[], Any], seconds: float = 60) -> Any:
    """Wait for something to become true, and give it."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if found := true():
                return found
        except httpx.TransportError:
            pass
        time.sleep(0.02)
    raise AssertionError("it never became true")


def connected(client: httpx.Client) -> socket.socket:
    """A connection to where the client's requests go."""
    return socket.create_connection((client.base_url.host, client.base_url.port or 0), 60)


def received(connection: socket.socket) -> bytes:
    """All that comes until the other side closes."""
    found = b""
    try:
        while data := connection.recv(65536):
            found += data
    except ConnectionError:
        pass
    return found


class Process:
    """`cutout serve` as a user starts it."""

    def __init__(self, folder: Path, *args: str, **environ: str) -> None:
        self.log = folder / "log.jsonl"
        command = [sys.executable, "-m", "cutout", "serve", "--port", "0", "--log-format", "json", "--device", "cpu"]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen([*command, *args], stderr=log, env={**os.environ, **environ})
        self.url = until(lambda: next((e["url"] for e in self.events() if e["event"] == "listening"), None))
        self.client = httpx.Client(base_url=self.url, timeout=60)
        until(lambda: self.client.get("/ready").status_code == 200)

    def events(self) -> list[dict[str, Any]]:
        """What it has logged since it was started."""
        lines = [line for line in self.log.read_text().splitlines() if line.endswith("}")]
        events = [json.loads(line) for line in lines]
        starts = [number for number, event in enumerate(events) if event["event"] == "listening"]
        return events[starts[-1] :] if starts else events

    def kill(self) -> None:
        """As the kernel does when memory runs out."""
        self.client.close()
        self.process.kill()
        self.process.wait()
        self.log.unlink()

    def stop(self) -> int:
        """As an operator does; the exit status."""
        self.client.close()
        self.process.terminate()
        return self.process.wait(60)


def quick(folder: Path, **changes: Any) -> tuple[Settings, Models]:
    """A service whose model takes no time; its name is `brightness`."""
    settings = Settings(
        **{
            "models": (str(brightness_model(folder)),),
            "device": "cpu",
            "workers": 2,
            "folder": folder / "jobs",
            **changes,
        }
    )
    return settings, Models(settings)


class Held(Models):
    """Models that begin with nothing until they are let go, and remember what they began with."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.go = threading.Event()
        self.begun: list[bytes] = []

    def cut(self, data: bytes, cut_request: CutRequest, **how: Any) -> Done:
        self.begun.append(data)
        assert self.go.wait(60)
        return super().cut(data, cut_request, **how)


class Watched(Models):
    """Models that remember what was asked of them."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.asked: list[CutRequest] = []

    def cut(self, data: bytes, cut_request: CutRequest, **how: Any) -> Done:
        self.asked.append(cut_request)
        return super().cut(data, cut_request, **how)
