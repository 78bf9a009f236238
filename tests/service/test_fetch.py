"""Fetching at a client's word: whatever the other side does, it ends in time, and holds up nobody else."""

from __future__ import annotations

import asyncio
import gzip
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING

import httpx
import pytest
from served import quick, served, until
from small import brightness_model, half

from cutout.service.http.fetch import fetch
from cutout.service.http.problems import Problem

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

PATH = "/v1.0/removebg"
_OK = b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\n"


@contextmanager
def web(answer: Callable[[socket.socket, bytes], None], tls: ssl.SSLContext | None = None) -> Iterator[int]:
    """A server whose answer to a request's head is made by hand; its port."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=100)

    def one(connection: socket.socket) -> None:
        try:
            with connection if tls is None else tls.wrap_socket(connection, server_side=True) as talk:
                head = b""
                while b"\r\n\r\n" not in head and (data := talk.recv(65536)):
                    head += data
                answer(talk, head)
        except OSError:
            pass

    def run() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=one, args=(connection,), daemon=True).start()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(10)


class Drip:
    """A byte now and then, without a length and without end, until the other side hangs up."""

    def __init__(self, head: bytes = _OK + b"\r\n") -> None:
        self.head = head
        self.begun = 0
        self.left = 0

    def __call__(self, connection: socket.socket, _head: bytes) -> None:
        self.begun += 1
        try:
            connection.sendall(self.head)
            for _ in range(1200):
                connection.sendall(b"x")
                time.sleep(0.05)
        except OSError:
            self.left += 1


def test_an_answer_without_length_that_never_ends_is_given_up_in_time() -> None:
    """Nor do headers that never end, or a chunk, take longer."""
    for head in (_OK + b"\r\n", _OK + b"X-Long: ", _OK + b"Transfer-Encoding: chunked\r\n\r\nffff\r\n"):
        drip = Drip(head)
        with web(drip) as port:
            with pytest.raises(Problem, match="takes too long"):
                asyncio.run(fetch(f"http://127.0.0.1:{port}/", max_bytes=10_000, seconds=0.5, private=True))
            until(lambda: drip.left == 1, 20)  # noqa: B023 - called at once


def test_a_name_that_is_looked_up_for_ever_is_given_up_in_time() -> None:
    go = threading.Event()

    def resolve(_host: str, _port: int) -> list[str]:
        go.wait(60)
        return ["93.184.215.14"]

    with pytest.raises(Problem, match="takes too long"):
        asyncio.run(fetch("https://slow.example/", max_bytes=1000, seconds=0.3, resolve=resolve))
    assert not go.is_set()
    go.set()


def test_slow_answers_do_not_end_fetching_for_others(tmp_path: Path) -> None:
    data = half(tmp_path / "half.png").read_bytes()
    drip = Drip()

    def answer(connection: socket.socket, _head: bytes) -> None:
        connection.sendall(_OK + b"\r\n" + data)

    with (
        served(*quick(tmp_path, image_url=True, fetch_private=True)) as client,
        web(drip) as slow,
        web(answer) as good,
        ThreadPoolExecutor(12) as pool,
    ):

        def ask(port: int) -> int:
            url = f"http://127.0.0.1:{port}/picture"
            return httpx.post(f"{client.base_url}{PATH}", json={"image_url": url}, timeout=120).status_code

        waiting = [pool.submit(ask, slow) for _ in range(12)]
        until(lambda: drip.begun == 12)
        assert ask(good) == 200
        assert not any(one.done() for one in waiting), "the slow ones are still being waited for"
        assert [one.result() for one in waiting] == [400] * 12
        until(lambda: drip.left == 12)


def test_a_fetch_ends_when_its_client_has_gone(tmp_path: Path) -> None:
    drip = Drip()
    with served(*quick(tmp_path, image_url=True, fetch_private=True)) as client, web(drip) as port:
        url = f"http://127.0.0.1:{port}/picture"
        with pytest.raises(httpx.ReadTimeout), httpx.Client(base_url=client.base_url, timeout=0.5) as impatient:
            impatient.post(PATH, json={"image_url": url})
        until(lambda: drip.left == 1, 10)  # less than the deadline of the fetch
        until(lambda: "cutout_queue_depth 0.0" in client.get("/metrics").text)


_SERVE = """
import sys, time
from pathlib import Path
from cutout.service.http import fetch
from cutout.service.http.server import serve
from cutout.service.settings import Settings

known = fetch._resolve
def resolve(host, port):
    if host == "never.example":
        print("looked up", flush=True)
        time.sleep(3600)
    return known(host, port)
fetch._resolve = resolve
model, folder = sys.argv[1:]
serve(
    Settings(models=(model,), device="cpu", workers=1, folder=Path(folder), image_url=True, fetch_private=True),
    port=0, log_format="json",
)
"""


def test_neither_a_slow_answer_nor_a_slow_name_keeps_the_service_from_ending(tmp_path: Path) -> None:
    """What was accepted has its answer first: the deadline of a fetch is 15 seconds."""
    command = [sys.executable, "-c", _SERVE, str(brightness_model(tmp_path)), str(tmp_path / "jobs")]
    log = tmp_path / "log.jsonl"
    drip = Drip()
    with (
        log.open("wb") as told,
        web(drip) as port,
        ThreadPoolExecutor(2) as pool,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=told, env=dict(os.environ)) as process,
    ):
        try:
            line = until(lambda: next((row for row in log.read_text().splitlines() if "http://" in row), None))
            base = "http://" + line.split("http://")[1].split('"')[0]
            urls = [f"http://127.0.0.1:{port}/", "http://never.example/"]
            until(lambda: httpx.get(f"{base}/ready").status_code == 200)
            asked = [pool.submit(httpx.post, base + PATH, json={"image_url": url}, timeout=120) for url in urls]
            until(lambda: drip.begun == 1)
            assert process.stdout is not None
            assert process.stdout.readline() == b"looked up\n"
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0
            assert [one.result().status_code for one in asked] == [400, 400]
        finally:
            process.kill()


def _packed(data: bytes, bits: int) -> bytes:
    packer = zlib.compressobj(9, wbits=bits)
    return packer.compress(data) + packer.flush()


@pytest.mark.parametrize(
    ("coding", "body", "wanted"),
    [
        ("gzip", gzip.compress(b"picture" * 100), b"picture" * 100),
        ("deflate", zlib.compress(b"picture" * 100), b"picture" * 100),
        ("identity", b"picture" * 100, b"picture" * 100),
        ("gzip", gzip.compress(b"picture" * 100)[:-12], "broken"),
        ("gzip", b"no gzip", "broken"),
        ("br", b"anything", "compression"),
        ("gzip, gzip", gzip.compress(gzip.compress(b"picture")), "compression"),
        ("identity", bytes(1001), "larger than"),
        ("gzip", gzip.compress(bytes(1001)), "larger than"),
        ("gzip", _packed(bytes(200_000_000), 31), "larger than"),
    ],
    ids=["gzip", "deflate", "identity", "cut", "no gzip", "br", "twice", "large", "large inside", "bomb"],
)
def test_the_size_is_that_of_what_was_unpacked(coding: str, body: bytes, wanted: bytes | str) -> None:
    def answer(connection: socket.socket, head: bytes) -> None:
        assert b"accept-encoding: identity\r\n" in head.lower()
        connection.sendall(_OK + f"Content-Encoding: {coding}\r\n\r\n".encode() + body)

    def get() -> bytes:
        return asyncio.run(fetch(f"http://127.0.0.1:{port}/", max_bytes=1000, private=True))

    with web(answer) as port:
        if isinstance(wanted, bytes):
            assert get() == wanted
        else:
            with pytest.raises(Problem, match=wanted):
                get()


def test_a_bomb_is_not_unpacked_to_be_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = _packed(bytes(200_000_000), 31)
    given: list[int] = []

    class Watched:
        def __init__(self, bits: int) -> None:
            self.inner = zlib.decompressobj(bits)
            self.eof = False

        def decompress(self, data: bytes, most: int) -> bytes:
            given.append(len(found := self.inner.decompress(data, most)))
            return found

    monkeypatch.setattr("cutout.service.http.fetch._unpacker", Watched)
    with (
        web(lambda connection, _: connection.sendall(_OK + b"Content-Encoding: gzip\r\n\r\n" + bomb)) as port,
        pytest.raises(Problem, match="larger than"),
    ):
        asyncio.run(fetch(f"http://127.0.0.1:{port}/", max_bytes=1000, private=True))
    assert sum(given) == 1001


def test_a_length_that_is_too_large_is_not_waited_for() -> None:
    drip = Drip(_OK + b"Content-Length: 2000\r\n\r\n")
    with web(drip) as port, pytest.raises(Problem, match="larger than"):
        asyncio.run(fetch(f"http://127.0.0.1:{port}/", max_bytes=1000, seconds=60, private=True))


def test_proxies_of_the_environment_are_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """They would connect to whatever the name means to them."""

    def never(_connection: socket.socket, _head: bytes) -> None:
        asked.append(1)

    asked: list[int] = []
    with web(never) as proxy, web(lambda connection, _: connection.sendall(_OK + b"\r\npicture")) as port:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy}")
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        got = asyncio.run(
            fetch(f"http://a.example:{port}/", max_bytes=1000, private=True, resolve=lambda *_: ["127.0.0.1"])
        )
    assert (got, asked) == (b"picture", [])


_CERTIFICATE = """
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgJ0vAc5ffbz5SCC84
mtxjyuOU5KXDnwvSUfkYcKv2g8GhRANCAARe6ccHzSn6T1zBo6eIgmq68IcCtLsO
kLDkE2TgMle6s14Dv++HVmuCi/Yrt8i0HpXTiFh2odqvwI5uCvunS71G
-----END PRIVATE KEY-----
-----BEGIN CERTIFICATE-----
MIIBqjCCAVCgAwIBAgIUOomQKB549rzu4fEihZ7GrY/JfGYwCgYIKoZIzj0EAwIw
GzEZMBcGA1UEAwwQcGljdHVyZXMuZXhhbXBsZTAgFw0yNjExMjUwNzEzMDhaGA8y
MTI2MTEwMTA3MTMwOFowGzEZMBcGA1UEAwwQcGljdHVyZXMuZXhhbXBsZTBZMBMG
ByqGSM49AgEGCCqGSM49AwEHA0IABF7pxwfNKfpPXMGjp4iCarrwhwK0uw6QsOQT
ZOAyV7qzXgO/74dWa4KL9iu3yLQeldOIWHah2q/Ajm4K+6dLvUajcDBuMB0GA1Ud
DgQWBBTkzq7osZ6L+Pq4Eh7JZz6yq+ca/TAfBgNVHSMEGDAWgBTkzq7osZ6L+Pq4
Eh7JZz6yq+ca/TAPBgNVHRMBAf8EBTADAQH/MBsGA1UdEQQUMBKCEHBpY3R1cmVz
LmV4YW1wbGUwCgYIKoZIzj0EAwIDSAAwRQIgZbXVLnppg4Js1HFfLbmw2TyZrZzI
/fHuVpPlETU1x/0CIQDO3rkZDnXvFX5fH98uzsDQapHPcGM8ywEZT+d84BokEg==
-----END CERTIFICATE-----
"""  # of pictures.example alone, self-signed


def test_host_and_certificate_are_those_of_the_name_though_an_address_is_connected_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also after a redirect to another name of the same address."""
    path = tmp_path / "certificate.pem"
    path.write_text(_CERTIFICATE)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(path)
    names: list[str | None] = []
    server.sni_callback = lambda _socket, name, _context: names.append(name)
    trusting = ssl.create_default_context(cafile=str(path))
    monkeypatch.setattr("cutout.service.http.fetch._certificates", lambda: trusting)
    hosts: list[bytes] = []

    def answer(connection: socket.socket, head: bytes) -> None:
        hosts.append(next(line[6:] for line in head.split(b"\r\n") if line.lower().startswith(b"host: ")))
        if b"GET /away" in head:
            away = f"HTTP/1.1 302 Found\r\nLocation: https://other.example:{port}/\r\nContent-Length: 0\r\n\r\n"
            connection.sendall(away.encode())
        else:
            connection.sendall(_OK + b"Content-Length: 7\r\n\r\npicture")

    def get(url: str) -> bytes:
        return asyncio.run(fetch(url, max_bytes=1000, private=True, resolve=lambda *_: ["127.0.0.1"]))

    with web(answer, server) as port:
        assert get(f"https://pictures.example:{port}/a") == b"picture"
        assert (names, hosts) == (["pictures.example"], [f"pictures.example:{port}".encode()])
        for url in (f"https://other.example:{port}/", f"https://pictures.example:{port}/away"):
            with pytest.raises(Problem, match="cannot be reached"):
                get(url)
    assert names[1:] == ["other.example", "pictures.example", "other.example"]
    assert len(hosts) == 2, "nothing is asked of a server whose certificate is another's"


def test_further_addresses_of_a_name_are_tried() -> None:
    """Of those that were judged."""
    with web(lambda connection, _: connection.sendall(_OK + b"\r\npicture")) as port:
        url = f"http://a.example:{port}/"
        got = asyncio.run(fetch(url, max_bytes=1000, private=True, resolve=lambda *_: ["127.0.0.2", "127.0.0.1"]))
    assert got == b"picture"


def test_names_that_are_looked_up_for_ever_take_a_bounded_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is beyond is told to come again; once names are answered there is room."""
    monkeypatch.setattr("cutout.service.http.fetch._LOOKUPS", threading.BoundedSemaphore(2))
    go = threading.Event()

    def resolve(_host: str, _port: int) -> list[str]:
        go.wait(60)
        return ["10.0.0.1"]

    async def ask(count: int, seconds: float) -> list[str]:
        asked = (fetch("http://a.example/", max_bytes=9, seconds=seconds, resolve=resolve) for _ in range(count))
        return [str(error) for error in await asyncio.gather(*asked, return_exceptions=True)]

    told = asyncio.run(ask(3, 0.3))
    assert [("takes too long" in text, "too many names" in text) for text in told] == [(True, False)] * 2 + [
        (False, True)
    ]
    go.set()
    until(lambda: "not on the public internet" in asyncio.run(ask(1, 30))[0], 20)
