"""Pulling a model from a real HTTP server on this machine that does what servers, proxies and cables do."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, NamedTuple

import pytest

from cutout.errors import ExitCode, ModelError
from cutout.models import download
from cutout.models import files as store
from cutout.models.download import pull
from cutout.models.registry import MODELS, ModelSpec

if TYPE_CHECKING:
    from pathlib import Path

BODY = random.Random(0).randbytes(400_000)
WRONG = bytes(len(BODY))
HALF = len(BODY) // 2
PATIENCE = 30.0  # seconds until a test that waits for something gives up


@dataclass
class Request:
    """What was asked for, and how many bytes of an answer were sent."""

    path: str
    range: str | None
    sent: int = 0


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        asked = Request(self.path, self.headers["Range"])
        with self.server.lock:
            self.server.requests.append(asked)
            answer = self.server.script.pop(0) if self.server.script else serve
        try:
            answer(self, asked)
        except OSError:
            return  # the client was killed

    def log_message(self, *args: object) -> None:
        pass


Answer = Callable[[Handler, Request], None]


@dataclass
class _Settings:
    body: bytes = BODY
    script: list[Answer] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)
    go_on: threading.Event = field(default_factory=threading.Event)


class Server(_Settings, ThreadingHTTPServer):
    """Answers each request with the next answer of the script, and properly when there is none."""

    def __init__(self) -> None:
        _Settings.__init__(self)
        ThreadingHTTPServer.__init__(self, ("127.0.0.1", 0), Handler)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def ranges(self) -> list[str | None]:
        return [request.range for request in self.requests]

    @property
    def sent(self) -> list[int]:
        return [request.sent for request in self.requests]


def send(to: Handler, asked: Request, status: int, body: bytes, **headers: str) -> None:
    to.send_response(status)
    for name, value in {"Content_Length": str(len(body)), **headers}.items():
        to.send_header(name.replace("_", "-"), value)
    to.end_headers()
    write(to, asked, body)


def write(to: Handler, asked: Request, body: bytes) -> None:
    to.wfile.write(body)
    to.wfile.flush()
    asked.sent += len(body)


def serve(to: Handler, asked: Request) -> None:
    """As a good server does."""
    body = to.server.body
    if asked.range is None:
        send(to, asked, 200, body)
    elif (start := int(asked.range.removeprefix("bytes=").removesuffix("-"))) < len(body):
        send(to, asked, 206, body[start:], Content_Range=f"bytes {start}-{len(body) - 1}/{len(body)}")
    else:
        send(to, asked, 416, b"", Content_Range=f"bytes */{len(body)}")


def everything(to: Handler, asked: Request) -> None:
    """As a server that knows no ranges does."""
    send(to, asked, 200, to.server.body)


def status(code: int) -> Answer:
    return lambda to, asked: send(to, asked, code, b"no")


def content(body: bytes) -> Answer:
    return lambda to, asked: send(to, asked, 200, body)


def cut(to: Handler, asked: Request) -> None:
    """Half of what was promised, then nothing."""
    length = len(to.server.body)
    to.send_response(200)
    to.send_header("Content-Length", str(length))
    to.end_headers()
    write(to, asked, to.server.body[: length // 2])


def stall(to: Handler, asked: Request) -> None:
    """Half, and the rest when the test says so."""
    cut(to, asked)
    to.server.go_on.wait(PATIENCE)
    write(to, asked, to.server.body[len(to.server.body) // 2 :])


def endless(to: Handler, asked: Request) -> None:
    """Bytes without a length and without an end, until the client goes."""
    to.send_response(200)
    to.end_headers()
    while asked.sent < 100 * len(BODY):
        write(to, asked, WRONG[: 1 << 16])


def dripping(to: Handler, asked: Request) -> None:
    """A byte now and then, of a good answer."""
    to.send_response(200)
    to.send_header("Content-Length", str(len(BODY)))
    to.end_headers()
    for at in range(2000):
        write(to, asked, BODY[at : at + 1])
        if to.server.go_on.wait(0.01):
            return


def hesitating(to: Handler, asked: Request) -> None:
    """An answer whose headers come byte by byte, and do not end."""
    for byte in b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 500:
        to.wfile.write(bytes([byte]))
        if to.server.go_on.wait(0.01):
            return


def promising(to: Handler, asked: Request) -> None:
    """Always about to answer."""
    while not to.server.go_on.wait(0.01):
        to.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")


def compressed(to: Handler, asked: Request) -> None:
    """A small answer that grows to a thousand times its size."""
    send(to, asked, 200, gzip.compress(bytes(100_000_000)), Content_Encoding="gzip")


def leads_to(address: str) -> Answer:
    return lambda to, asked: send(to, asked, 302, b"", Location=address)


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server is here, whatever proxy this machine uses."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as here:
        thread = threading.Thread(target=here.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield here
        here.go_on.set()
        here.shutdown()
        thread.join()


@pytest.fixture
def spec(server: Server) -> ModelSpec:
    return replace(
        MODELS["silueta"],
        name="tiny",
        file="tiny.onnx",
        url=f"{server.address}/tiny.onnx",
        bytes=len(BODY),
        sha256=hashlib.sha256(BODY).hexdigest(),
    )


@pytest.fixture
def target(home: Path) -> Path:
    """Where the model ends up."""
    return home / "cutout" / "models" / "tiny.onnx"


@pytest.fixture
def part(target: Path) -> Path:
    """Where bytes gather until then."""
    target.parent.mkdir(parents=True)
    return target.with_name(".tiny.onnx.part")


@pytest.fixture
def dead() -> str:
    """An address where nobody listens."""
    with socket.socket() as here:
        here.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{here.getsockname()[1]}"


def files(target: Path) -> set[str]:
    """What lies in the folder of models, but for the lock, which stays."""
    return {path.name for path in target.parent.iterdir()} - {".tiny.onnx.lock"}


def fails(spec: ModelSpec, *, force: bool = False, say: Callable[[str], None] = print) -> ModelError:
    """Pull, which must fail as a fault of the model does."""
    with pytest.raises(ModelError) as caught:
        pull(spec, pause=0, force=force, say=say)
    assert caught.value.exit_code is ExitCode.MODEL
    return caught.value


def test_a_model_arrives_whole_and_under_its_name(server: Server, spec: ModelSpec, target: Path) -> None:
    assert pull(spec) == target
    assert target.read_bytes() == BODY
    assert files(target) == {"tiny.onnx"}
    assert [request.path for request in server.requests] == ["/tiny.onnx"]


def test_what_is_there_is_not_pulled_again(server: Server, spec: ModelSpec, target: Path) -> None:
    pull(spec)
    assert pull(spec) == target
    assert len(server.requests) == 1


def test_the_bar_is_drawn_on_standard_error_when_asked_for(spec: ModelSpec, capsys: pytest.CaptureFixture[str]) -> None:
    pull(spec, progress=True)
    shown = capsys.readouterr()
    assert "tiny.onnx: 100%" in shown.err
    assert shown.out == ""
    pull(spec, force=True)
    shown = capsys.readouterr()
    assert shown.err == shown.out == ""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such permissions")
def test_the_file_is_as_readable_as_any_other(spec: ModelSpec, tmp_path: Path) -> None:
    (tmp_path / "any").touch()
    assert pull(spec).stat().st_mode == (tmp_path / "any").stat().st_mode


class TestMirror:
    def test_is_asked_instead_of_the_registrys_address(
        self, server: Server, spec: ModelSpec, dead: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("CUTOUT_MODEL_MIRROR", f" {server.address}/deep/mirror/ ")
        assert pull(replace(spec, url=f"{dead}/tiny.onnx")).read_bytes() == BODY
        assert [request.path for request in server.requests] == ["/deep/mirror/tiny.onnx"]

    def test_that_is_no_address_is_an_error_at_once(self, spec: ModelSpec, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CUTOUT_MODEL_MIRROR", "mirror.example/models")
        said: list[str] = []
        error = fails(spec, say=said.append)
        assert "mirror.example/models/tiny.onnx" in error.message
        assert "CUTOUT_MODEL_MIRROR" in (error.hint or "")
        assert said == []

    def test_with_a_password_keeps_it_to_itself(
        self, server: Server, spec: ModelSpec, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("CUTOUT_MODEL_MIRROR", server.address.replace("//", "//me:secret@"))
        server.script = [status(503), status(404)]
        said: list[str] = []
        error = fails(spec, say=said.append)
        assert f"{server.address}/tiny.onnx answered 404" in error.message
        assert "secret" not in f"{error.message}{error.hint}{said}"


class TestBroken:
    def test_is_continued_where_it_broke(self, server: Server, spec: ModelSpec, target: Path) -> None:
        """The second request asks for the missing bytes only, and no others are sent."""
        server.script = [cut]
        said: list[str] = []
        assert pull(spec, pause=0, say=said.append).read_bytes() == BODY
        first, second = server.ranges
        assert first is None
        assert second is not None
        start = int(second.removeprefix("bytes=").removesuffix("-"))
        assert 0 < start <= HALF
        assert server.sent == [HALF, len(BODY) - start]
        assert files(target) == {"tiny.onnx"}
        (line,) = said
        assert "trying again" in line

    def test_by_a_server_without_ranges_starts_over(self, server: Server, spec: ModelSpec, target: Path) -> None:
        server.script = [cut, everything]
        assert pull(spec, pause=0).read_bytes() == BODY
        assert server.ranges[1] is not None
        assert server.sent == [HALF, len(BODY)]
        assert files(target) == {"tiny.onnx"}

    def test_by_a_server_that_sends_another_range_starts_over(
        self, server: Server, spec: ModelSpec, part: Path
    ) -> None:
        def other(to: Handler, asked: Request) -> None:
            send(to, asked, 206, BODY[7:], Content_Range=f"bytes 7-{len(BODY) - 1}/{len(BODY)}")

        part.write_bytes(BODY[:HALF])
        server.script = [other]
        assert pull(spec).read_bytes() == BODY
        assert server.ranges == [f"bytes={HALF}-", None]

    def test_without_a_length_is_noticed_all_the_same(self, server: Server, spec: ModelSpec) -> None:
        def silent(to: Handler, asked: Request) -> None:
            to.send_response(200)
            to.end_headers()
            write(to, asked, BODY[:HALF])

        server.script = [silent]
        assert pull(spec, pause=0).read_bytes() == BODY
        assert server.ranges == [None, f"bytes={HALF}-"]

    def test_every_time_is_told_and_continued_by_the_next_call(
        self, server: Server, spec: ModelSpec, target: Path
    ) -> None:
        server.script = [cut] * 5
        error = fails(spec)
        assert "broke the connection off" in error.message
        assert "continued by the next try" in (error.hint or "")
        assert len(server.requests) == 5
        assert files(target) == {".tiny.onnx.part"}
        assert pull(spec).read_bytes() == BODY
        assert server.ranges[5] is not None
        assert files(target) == {"tiny.onnx"}


class TestKeptPart:
    def test_of_another_file_is_given_up_for_a_fresh_start(
        self, server: Server, spec: ModelSpec, part: Path, target: Path
    ) -> None:
        part.write_bytes(WRONG[:HALF])
        assert pull(spec).read_bytes() == BODY
        assert server.ranges == [f"bytes={HALF}-", None]
        assert files(target) == {"tiny.onnx"}

    def test_that_is_whole_needs_no_server(self, server: Server, spec: ModelSpec, part: Path, target: Path) -> None:
        """The process was killed after the last byte."""
        part.write_bytes(BODY)
        assert pull(spec).read_bytes() == BODY
        assert server.requests == []
        assert files(target) == {"tiny.onnx"}

    def test_that_is_whole_but_wrong_is_pulled_afresh(self, server: Server, spec: ModelSpec, part: Path) -> None:
        part.write_bytes(WRONG)
        assert pull(spec).read_bytes() == BODY
        assert server.ranges == [None]

    def test_that_is_longer_than_the_model_is_pulled_afresh(self, server: Server, spec: ModelSpec, part: Path) -> None:
        part.write_bytes(BODY + b"x")
        assert pull(spec).read_bytes() == BODY
        assert server.ranges == [None]

    def test_that_the_server_cannot_continue_is_pulled_afresh(
        self, server: Server, spec: ModelSpec, part: Path
    ) -> None:
        part.write_bytes(BODY[:HALF])
        server.script = [status(416)]
        said: list[str] = []
        assert pull(spec, say=said.append).read_bytes() == BODY
        assert server.ranges == [f"bytes={HALF}-", None]
        assert said == []

    def test_survives_a_page_that_is_not_the_model(
        self, server: Server, spec: ModelSpec, part: Path, target: Path
    ) -> None:
        """A sign-in page answers 200 to everything; what had arrived before must outlive it."""
        part.write_bytes(BODY[:HALF])
        server.script = [content(b"<html>please sign in</html>")]
        assert "27 bytes instead of 400000" in fails(spec).message
        assert part.read_bytes() == BODY[:HALF]
        assert not target.exists()


class TestRefused:
    @pytest.mark.parametrize("body", [WRONG, BODY[:-1], BODY + b"x", b""], ids=["changed", "short", "long", "empty"])
    def test_wrong_content_never_gets_the_models_name(
        self, body: bytes, server: Server, spec: ModelSpec, target: Path
    ) -> None:
        server.body = body
        error = fails(spec)
        assert f"what {spec.url} sent is not tiny" in error.message
        assert "CUTOUT_MODEL_MIRROR" in (error.hint or "")
        assert files(target) == set()
        assert len(server.requests) == 1
        server.body = BODY
        assert pull(spec).read_bytes() == BODY

    @pytest.mark.parametrize("code", [401, 403, 404, 410])
    def test_an_answer_that_will_not_change_is_told_at_once(self, code: int, server: Server, spec: ModelSpec) -> None:
        server.script = [status(code)]
        error = fails(spec)
        assert f"{spec.url} answered {code}" in error.message
        assert "copy that file into" in (error.hint or "")
        assert len(server.requests) == 1

    def test_no_range_at_all_is_told_at_once(self, server: Server, spec: ModelSpec, part: Path) -> None:
        part.write_bytes(BODY[:HALF])
        server.script = [status(416)] * 2
        assert "answered 416" in fails(spec).message
        assert len(server.requests) == 2
        assert part.read_bytes() == BODY[:HALF]

    @pytest.mark.parametrize("codes", [[500, 500], [502, 503], [429, 408]])
    def test_a_busy_server_is_asked_again(self, codes: list[int], server: Server, spec: ModelSpec) -> None:
        server.script = [status(code) for code in codes]
        assert pull(spec, pause=0).read_bytes() == BODY
        assert len(server.requests) == 3

    def test_a_server_that_stays_broken_is_named(self, server: Server, spec: ModelSpec) -> None:
        server.script = [status(500)] * 9
        assert f"{spec.url} answered 500" in fails(spec).message
        assert len(server.requests) == 5

    def test_retries_wait_longer_each_time(
        self, server: Server, spec: ModelSpec, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        waits: list[float] = []
        monkeypatch.setattr(time, "sleep", waits.append)
        server.script = [status(503)] * 4
        pull(spec, pause=0.5)
        assert waits == [0.5, 1, 2, 4]

    def test_a_silent_server_is_told_apart_from_one_that_is_away(
        self, server: Server, spec: ModelSpec, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(download, "_TIMEOUT", (10.0, 0.05))
        monkeypatch.setattr(download, "_ATTEMPTS", 1)
        server.script = [stall]
        assert "stopped sending" in fails(spec).message

    def test_nobody_listening_keeps_the_part_for_the_next_call(
        self, server: Server, spec: ModelSpec, part: Path, dead: str
    ) -> None:
        part.write_bytes(BODY[:HALF])
        said: list[str] = []
        error = fails(replace(spec, url=f"{dead}/tiny.onnx"), say=said.append)
        assert "refused the connection" in error.message
        assert "CUTOUT_MODEL_MIRROR" in (error.hint or "")
        assert len(said) == 4
        assert part.read_bytes() == BODY[:HALF]
        assert pull(spec).read_bytes() == BODY
        assert server.ranges == [f"bytes={HALF}-"]

    def test_an_unknown_host_is_told_as_such(self, spec: ModelSpec, monkeypatch: pytest.MonkeyPatch) -> None:
        def unknown(*_args: object, **_settings: object) -> object:
            raise socket.gaierror(-2, "Name or service not known")

        monkeypatch.setattr(socket, "getaddrinfo", unknown)
        error = fails(replace(spec, url="http://nowhere.invalid/tiny.onnx"))
        assert error.message.endswith("http://nowhere.invalid/tiny.onnx has a host name that cannot be resolved")

    def test_more_bytes_than_the_model_has_are_not_taken(self, server: Server, spec: ModelSpec, target: Path) -> None:
        """Without a length the first byte too many ends it, and what came is not kept."""
        server.script = [endless]
        assert f"it has more than {len(BODY)} bytes" in fails(spec).message
        assert files(target) == set()
        assert server.sent[0] < 100 * len(BODY)

    def test_a_model_of_unknown_size_has_a_bound_too(
        self, server: Server, spec: ModelSpec, target: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(download, "_LARGEST", 1_000_000)
        server.script = [endless]
        assert "it has more than 1000000 bytes" in fails(replace(spec, bytes=0)).message
        assert files(target) == set()
        assert pull(replace(spec, bytes=0)).read_bytes() == BODY

    def test_a_compressed_answer_is_not_unpacked(self, server: Server, spec: ModelSpec, target: Path) -> None:
        """None was asked for, and a hundred kilobytes may hold a hundred megabytes."""
        server.script = [compressed]
        assert "it is compressed (gzip)" in fails(spec).message
        assert files(target) == set()
        assert pull(spec).read_bytes() == BODY

    def test_a_byte_now_and_then_is_not_waited_for(
        self, server: Server, spec: ModelSpec, target: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(download, "_WINDOW", 0.2)
        monkeypatch.setattr(download, "_ATTEMPTS", 2)
        server.script = [dripping] * 2
        error = fails(spec)
        assert "sends too slowly" in error.message
        assert max(server.sent) < 2000
        assert server.ranges[1] is not None, "what had come was continued"
        assert files(target) == {".tiny.onnx.part"}

    @pytest.mark.parametrize("answer", [hesitating, promising])
    def test_an_answer_that_does_not_begin_is_not_waited_for(
        self, answer: Answer, server: Server, spec: ModelSpec, target: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(download, "_WINDOW", 0.3)
        monkeypatch.setattr(download, "_ATTEMPTS", 2)
        server.script = [answer] * 2
        assert "sends too slowly" in fails(spec).message
        assert len(server.requests) == 2
        assert files(target) == set()
        monkeypatch.setattr(download, "_WINDOW", 60.0)
        assert pull(spec).read_bytes() == BODY

    def test_a_name_that_is_looked_up_for_ever_is_not_waited_for(
        self, spec: ModelSpec, target: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        over = threading.Event()
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_args, **_how: over.wait(PATIENCE) and [])
        monkeypatch.setattr(download, "_WINDOW", 0.2)
        monkeypatch.setattr(download, "_ATTEMPTS", 1)
        assert "sends too slowly" in fails(spec).message
        over.set()
        assert files(target) == set()

    @pytest.mark.parametrize(
        "address", ["http://[half/tiny.onnx", "nonsense://x/tiny.onnx", "http://" + "a" * 70 + ".example/"]
    )
    def test_a_redirect_to_no_address_is_told_as_such(
        self, address: str, server: Server, spec: ModelSpec, target: Path
    ) -> None:
        server.script = [leads_to(address)]
        message = fails(spec).message
        assert "cannot be downloaded" in message
        assert "leads to one that is none" in message
        assert "hash" not in message
        assert len(server.requests) == 1
        assert files(target) == set()

    def test_a_circle_of_redirects_is_told_as_such(self, server: Server, spec: ModelSpec) -> None:
        server.script = [leads_to("/tiny.onnx")] * 100
        assert "redirects without end" in fails(spec).message

    def test_a_model_without_an_address(self, spec: ModelSpec) -> None:
        assert "no download address" in fails(replace(spec, url="")).message

    @pytest.mark.parametrize("value", ["1", "true"])
    def test_offline_nothing_connects(
        self, value: str, server: Server, spec: ModelSpec, target: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("CUTOUT_OFFLINE", value)
        monkeypatch.setenv("CUTOUT_MODEL_MIRROR", server.address)
        error = fails(spec)
        assert "CUTOUT_OFFLINE is set" in error.message
        assert f"copy tiny.onnx into {target.parent}" in (error.hint or "")
        assert "CUTOUT_OFFLINE" in fails(spec, force=True).message
        assert server.requests == []
        assert not target.parent.exists()


class TestFolder:
    def test_too_full_a_disk_is_told_before_it_is_filled(
        self, server: Server, spec: ModelSpec, part: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Only what is still missing must fit."""
        free = HALF - 1
        monkeypatch.setattr(shutil, "disk_usage", lambda _path: shutil._ntuple_diskusage(10**9, 10**9 - free, free))
        part.write_bytes(BODY[:HALF])
        error = fails(spec)
        assert f"needs 0 MB in {part.parent}" in error.message
        assert "CUTOUT_HOME" in (error.hint or "")
        assert part.read_bytes() == BODY[:HALF]
        free += 1
        assert pull(spec).read_bytes() == BODY

    def test_a_disk_that_fills_up_meanwhile_keeps_what_it_can(
        self, spec: ModelSpec, target: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(*_args: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(download._Transfer, "_take", full)
        error = fails(spec)
        assert error.message == f"tiny cannot be stored in {target.parent}: No space left on device"
        assert "free some space" in (error.hint or "")

    def test_that_cannot_be_made_is_named_with_the_variable_that_moves_it(
        self, server: Server, spec: ModelSpec, home: Path, target: Path
    ) -> None:
        (home / "cutout").write_text("a file where the folder would be")
        error = fails(spec)
        assert error.message.startswith(f"tiny cannot be stored in {target.parent}: ")
        assert error.hint == "point CUTOUT_HOME at a folder that can be written to"
        assert server.requests == []

    @pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="nothing is forbidden to root")
    def test_that_may_not_be_written_to_is_named(self, spec: ModelSpec, home: Path, target: Path) -> None:
        home.chmod(0o555)
        error = fails(spec)
        home.chmod(0o755)
        assert error.message == f"tiny cannot be stored in {target.parent}: Permission denied"

    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no such files")
    @pytest.mark.parametrize("name", [".tiny.onnx.part", "tiny.onnx"])
    def test_with_a_pipe_in_the_way_is_told(self, name: str, spec: ModelSpec, server: Server, target: Path) -> None:
        """Opening one would wait for a writer that never comes."""
        target.parent.mkdir(parents=True)
        os.mkfifo(target.with_name(name))
        error = fails(spec)
        assert f"{target.with_name(name)} is no regular file" in error.message
        assert error.hint == "remove it"
        assert server.requests == []

    @pytest.mark.parametrize("place", [".u2net/tiny.onnx", ".rembg/models/tiny/tiny.onnx"])
    def test_of_rembgs_with_a_good_copy_saves_the_download(
        self, place: str, server: Server, spec: ModelSpec, home: Path
    ) -> None:
        path = home / place
        path.parent.mkdir(parents=True)
        path.write_bytes(BODY)
        assert pull(spec) == path
        assert server.requests == []

    def test_of_rembgs_with_a_good_copy_mends_a_bad_one_of_ours(
        self, server: Server, spec: ModelSpec, home: Path, target: Path
    ) -> None:
        for path, body in ((target, WRONG), (home / ".u2net" / "tiny.onnx", BODY)):
            path.parent.mkdir(parents=True)
            path.write_bytes(body)
        assert pull(spec) == home / ".u2net" / "tiny.onnx"
        assert server.requests == []

    @pytest.mark.parametrize("body", [WRONG, BODY[:100]], ids=["changed", "short"])
    @pytest.mark.parametrize("folder", ["cutout/models", ".u2net"])
    def test_with_a_corrupt_file_gets_a_good_one(self, folder: str, body: bytes, spec: ModelSpec, home: Path) -> None:
        bad = home / folder / "tiny.onnx"
        bad.parent.mkdir(parents=True)
        bad.write_bytes(body)
        assert pull(spec).read_bytes() == BODY

    def test_with_an_unreadable_file_gets_a_readable_one(
        self, spec: ModelSpec, target: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        real, inode = store.sha256, 0

        def sha256(path: Path) -> str:
            if path.stat().st_ino == inode:
                raise PermissionError(13, "Permission denied", str(path))
            return real(path)

        target.parent.mkdir(parents=True)
        target.write_bytes(BODY)
        inode = target.stat().st_ino
        monkeypatch.setattr(store, "sha256", sha256)
        assert pull(spec) == target
        assert target.stat().st_ino != inode
        assert target.read_bytes() == BODY

    def test_that_loses_bytes_is_found_out(self, spec: ModelSpec, monkeypatch: pytest.MonkeyPatch) -> None:
        """The file is read once more under its final name."""
        monkeypatch.setattr(store, "sha256", lambda _path: "0" * 64)
        error = fails(spec)
        assert "changed while it was written" in error.message
        assert "cutout models pull tiny" in (error.hint or "")


class TestForce:
    def test_pulls_what_is_there_already(self, server: Server, spec: ModelSpec, target: Path) -> None:
        pull(spec)
        assert pull(spec, force=True) == target
        assert server.sent == [len(BODY)] * 2
        assert files(target) == {"tiny.onnx"}

    @pytest.mark.parametrize("answer", [status(404), content(WRONG)], ids=["gone", "changed"])
    def test_that_fails_leaves_the_good_file_alone(
        self, answer: Answer, server: Server, spec: ModelSpec, target: Path
    ) -> None:
        pull(spec)
        server.script = [answer]
        fails(spec, force=True)
        assert target.read_bytes() == BODY


class Child(NamedTuple):
    """`cutout models pull tiny`, in a process whose registry has that model."""

    process: subprocess.Popen[str]

    def said(self, word: str) -> None:
        """Wait until it says so."""
        assert self.process.stderr is not None
        assert any(word in line for line in self.process.stderr)

    def ends(self) -> tuple[int, str, str]:
        out, err = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, out, err


_CHILD = """
import json, sys
from dataclasses import replace
from cutout.models import registry as models
models.MODELS["tiny"] = replace(models.MODELS["silueta"], **json.loads(sys.argv.pop(1)))
from cutout.cli import main
main()
"""


class TestProcesses:
    @pytest.fixture
    def start(self, server: Server, spec: ModelSpec) -> Iterator[Callable[[], Child]]:
        row = {name: getattr(spec, name) for name in ("name", "file", "bytes", "sha256")}
        started: list[subprocess.Popen[str]] = []

        def start() -> Child:
            process = subprocess.Popen(
                [sys.executable, "-c", _CHILD, json.dumps(row), "models", "pull", "tiny"],
                env={**os.environ, "CUTOUT_MODEL_MIRROR": server.address},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            started.append(process)
            return Child(process)

        yield start
        for process in started:
            process.kill()
            process.communicate()

    def test_one_says_where_the_model_is(self, start: Callable[[], Child], target: Path) -> None:
        assert start().ends() == (0, "", f"tiny: {target} (not stated by its author)\n")

    def test_two_at_once_download_once(self, start: Callable[[], Child], server: Server, target: Path) -> None:
        server.script = [stall]
        first = start()
        until(lambda: server.sent == [HALF])
        second = start()
        second.said("another process is downloading tiny")
        server.go_on.set()
        assert first.ends()[0] == 0
        assert second.ends()[0] == 0
        assert server.sent == [len(BODY)]
        assert target.read_bytes() == BODY

    def test_a_killed_one_is_continued(
        self, start: Callable[[], Child], server: Server, target: Path, part: Path
    ) -> None:
        """SIGKILL: nothing could be tidied up."""
        server.script = [stall]
        first = start()
        until(lambda: part.exists() and part.stat().st_size > 0)
        first.process.kill()
        first.ends()
        arrived = part.stat().st_size
        assert start().ends()[0] == 0
        assert server.ranges == [None, f"bytes={arrived}-"]
        assert server.sent[1] == len(BODY) - arrived
        assert target.read_bytes() == BODY
        assert files(target) == {"tiny.onnx"}

    def test_the_one_that_waits_takes_over_from_the_one_that_is_killed(
        self, start: Callable[[], Child], server: Server, target: Path, part: Path
    ) -> None:
        server.script = [stall]
        first = start()
        until(lambda: part.exists() and part.stat().st_size > 0)
        second = start()
        second.said("another process is downloading tiny")
        first.process.kill()
        assert second.ends()[0] == 0
        assert len(server.requests) == 2
        assert target.read_bytes() == BODY
        assert files(target) == {"tiny.onnx"}

    def test_offline_none_connects(
        self, start: Callable[[], Child], server: Server, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("CUTOUT_OFFLINE", "1")
        code, out, err = start().ends()
        assert (code, out) == (3, "")
        assert "CUTOUT_OFFLINE is set" in err
        assert server.requests == []

    def test_wrong_content_ends_with_3(self, start: Callable[[], Child], server: Server, target: Path) -> None:
        server.body = WRONG
        code, out, err = start().ends()
        assert (code, out) == (3, "")
        assert "is not tiny: its hash differs" in err
        assert files(target) == set()


def until(done: Callable[[], bool]) -> None:
    """Wait for something that another process does."""
    end = time.monotonic() + PATIENCE
    while not done():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)
