"""What a client without a key, or in bad faith, cannot have of the service: memory, connections, workers."""

from __future__ import annotations

import socket
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING

import httpx
import pytest
from served import Held, connected, quick, received, served, until
from small import half

from cutout.service.app import create_app
from cutout.service.http.server import configure
from cutout.service.queue import WorkQueue

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PATH = "/remove-background"


@pytest.fixture(scope="module")
def fast(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """The service with a model that takes no time."""
    with served(*quick(tmp_path_factory.mktemp("limits"), api_keys=("some-key",))) as client:
        client.headers["X-Api-Key"] = "some-key"
        yield client


@pytest.fixture
def picture(tmp_path: Path) -> bytes:
    """Left black, right orange."""
    return half(tmp_path / "half.png").read_bytes()


def one_answer(connection: socket.socket) -> bytes:
    """A small answer in JSON, in however many pieces it comes."""
    found = b""
    while not found.endswith(b"}") and (data := connection.recv(65536)):
        found += data
    return found


_CHUNKED = b"POST /health HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n"


@pytest.mark.parametrize(
    "start",
    [
        b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-Long: ",
        b"GET /",
        b"GET /health HTTP/1.1\r\nHost: localhost\r\n",
        _CHUNKED + b"X: ",
    ],
    ids=["one header", "address", "many headers", "after the body"],
)
def test_headers_are_refused_while_they_come(fast: httpx.Client, start: bytes) -> None:
    """Before they are whole, so that they take no memory; the connection is closed."""
    with connected(fast) as connection:
        connection.sendall(start)
        piece = b"a:b\r\n" * 200 if start.endswith(b"localhost\r\n") else b"a" * 1000
        sent = 0
        try:
            while sent < 20_000_000:
                connection.sendall(piece)
                sent += len(piece)
        except ConnectionError:
            pass
        assert sent < 20_000_000
    assert fast.get("/health").status_code == 200


def test_headers_a_little_too_long_are_431_and_long_ones_pass(fast: httpx.Client) -> None:
    assert fast.get("/health", headers={"Cookie": "a" * 50_000}).status_code == 200
    with connected(fast) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nCookie: " + b"a" * 66_000 + b"\r\n\r\n")
        assert received(connection).startswith(b"HTTP/1.1 431 ")


def test_connections_without_a_whole_request_are_closed(fast: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also those that have had an answer before; one that only waits for its next request is not."""
    monkeypatch.setattr("cutout.service.http.protocol.HEAD_SECONDS", 0.3)
    whole = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with connected(fast) as silent, connected(fast) as half_way, connected(fast) as again, connected(fast) as idle:
        half_way.sendall(whole[:-2])
        for connection in (again, idle):
            connection.sendall(whole)
            assert b"200 OK" in one_answer(connection)
        again.sendall(b"\r\n")
        assert received(silent) == received(half_way) == received(again) == b""
        idle.sendall(whole)
        assert b"200 OK" in one_answer(idle)


def test_a_slow_answer_outlives_the_time_for_headers(
    tmp_path: Path, picture: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the next request has begun on the same connection."""
    monkeypatch.setattr("cutout.service.http.protocol.HEAD_SECONDS", 0.2)
    settings, _ = quick(tmp_path, workers=1)
    engine = Held(settings)
    with served(settings, engine) as client, connected(client) as connection:
        body = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n' + picture + b"\r\n--x--\r\n"
        head = f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=x\r\n"
        connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body + b"GET /hea")
        until(lambda: engine.begun)
        threading.Timer(0.7, engine.go.set).start()
        assert connection.recv(65536).startswith(b"HTTP/1.1 200")


def test_idle_connections_are_kept_for_longer_than_proxies_keep_theirs(tmp_path: Path) -> None:
    """A proxy that sends on a connection which is just being closed answers 502; most close after 60 seconds."""
    settings, engine = quick(tmp_path)
    assert configure(create_app(settings, engine), settings).timeout_keep_alive > 60


class _Picture:
    """Something that can be seen to be gone."""


def _keep(picture: _Picture, _alone: object) -> _Picture:
    return picture


def _note(done: list[str], text: str, _alone: object) -> None:
    done.append(text)


def test_what_was_given_up_takes_no_memory() -> None:
    """Neither while the worker is busy with something else, nor afterwards; what is left is done in its order."""
    queue = WorkQueue(1, 4)
    go = threading.Event()
    done: list[str] = []
    busy = queue.submit("first", lambda _alone: go.wait(60))
    until(lambda: queue.running)
    seen = []
    futures = []
    for number in range(20):
        picture = _Picture()
        seen.append(weakref.ref(picture))
        futures.append(queue.submit(f"lane {number % 3}", partial(_keep, picture)))
        del picture
        queue.submit("lane 0", partial(_note, done, str(number)))
    assert queue.waiting == 40
    assert all(future.cancel() for future in futures)
    assert queue.waiting == 20
    assert not any(picture() for picture in seen)
    go.set()
    assert busy.result() is True
    queue.close()
    assert done == [str(number) for number in range(20)]


def test_an_idle_worker_keeps_no_picture() -> None:
    queue = WorkQueue(1, 4)
    given = _Picture()
    seen = weakref.ref(given)
    future = queue.submit("lane", partial(_keep, given))
    del given
    assert isinstance(future.result(), _Picture)
    del future
    until(lambda: seen() is None, 5)
    queue.close()


def test_clients_that_go_away_leave_no_pictures_behind(tmp_path: Path, picture: bytes) -> None:
    settings, _ = quick(tmp_path, workers=1, queue=4)
    engine = Held(settings)
    with served(settings, engine) as client:
        other = threading.Thread(target=lambda: client.post(PATH, files={"file": picture}))
        other.start()
        until(lambda: engine.begun)
        for _ in range(5):
            with pytest.raises(httpx.ReadTimeout), httpx.Client(base_url=client.base_url) as impatient:
                impatient.post(PATH, files={"file": picture}, timeout=0.3)
        until(lambda: "cutout_queue_depth 1.0" in client.get("/metrics").text)
        until(lambda: "cutout_queue_waiting 0.0" in client.get("/metrics").text)
        engine.go.set()
        other.join()


def test_addresses_that_answer_late_hold_up_nobody_else(tmp_path: Path) -> None:
    """However many of them clients name."""
    with (
        served(*quick(tmp_path, image_url=True, fetch_private=True)) as client,
        socket.create_server(("127.0.0.1", 0), backlog=100) as silent,
        ThreadPoolExecutor(40) as pool,
    ):
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/picture"
        answers = [
            pool.submit(httpx.post, f"{client.base_url}/v1.0/removebg", json={"image_url": url}, timeout=60)
            for _ in range(40)
        ]
        until(lambda: "cutout_queue_depth 40.0" in client.get("/metrics", timeout=5).text)
        silent.close()
        assert {given.result().status_code for given in answers} == {400}
