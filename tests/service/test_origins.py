"""What pages of other origins cannot do to a service that only this machine, or only this network, can reach."""

from __future__ import annotations

import base64
import socket
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from browsers import chromium
from served import Held, quick, served
from small import half

from cutout.service.http.origins import default_hosts, is_known_host

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import httpx

PATH, BATCH = "/remove-background", "/batch-remove-background"
SHOP = "https://shop.example"


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A service that pages of one other origin may call."""
    with served(*quick(tmp_path_factory.mktemp("origins"), origins=(SHOP,), max_tasks=100)) as found:
        yield found


@pytest.fixture
def picture(tmp_path: Path) -> bytes:
    """Left black, right orange."""
    return half(tmp_path / "half.png").read_bytes()


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),  # curl, libraries
        ({"Sec-Fetch-Site": "same-origin", "Origin": "{own}"}, 200),
        ({"Sec-Fetch-Site": "none"}, 200),
        ({"Sec-Fetch-Site": "same-origin", "Origin": "https://proxy.example"}, 200),  # a proxy writes another Host
        ({"Origin": "{own}"}, 200),
        ({"Sec-Fetch-Site": "cross-site", "Origin": SHOP}, 200),
        ({"Origin": SHOP}, 200),
        ({"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site", "Origin": "http://127.0.0.1:3000"}, 403),
        ({"Sec-Fetch-Site": "anything"}, 403),
        ({"Origin": "http://127.0.0.1:3000"}, 403),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "https://shop.example.evil.example"}, 403),
        ({"Origin": "http://[x"}, 403),
        ({"Origin": "null"}, 403),
    ],
)
def test_requests_of_other_pages_are_refused(
    client: httpx.Client, picture: bytes, headers: dict[str, str], status: int
) -> None:
    sent = {name: value.format(own=str(client.base_url).rstrip("/")) for name, value in headers.items()}
    answer = client.post(PATH, files={"file": picture}, headers=sent)
    assert answer.status_code == status, answer.text
    for path, body in ((BATCH, {"files": picture}), ("/v1.0/removebg", {"image_file": picture})):
        assert (client.post(path, files=body, headers=sent).status_code < 300) == (status == 200)
    assert client.delete("/task/none", headers=sent).status_code == (404 if status == 200 else 403)
    assert client.get("/health", headers=sent).status_code == 200
    if status == 403:
        assert answer.json()["error"]["kind"] == "origin"
        assert "--origin" in answer.json()["error"]["hint"]


def test_a_foreign_page_cannot_use_up_what_the_local_user_may_have(tmp_path: Path, picture: bytes) -> None:
    settings, _ = quick(tmp_path, workers=1, max_tasks=2)
    engine = Held(settings)
    foreign = {"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}
    with served(settings, engine) as client:
        sent = [client.post(BATCH, files={"files": picture}, headers=foreign).status_code for _ in range(4)]
        assert sent == [403] * 4
        assert client.post(BATCH, files={"files": picture}).status_code == 202
        engine.go.set()


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:8000", 200),
        ("localhost", 200),
        ("LOCALHOST.:8000", 200),
        ("page.localhost:8000", 200),
        ("[::1]:8000", 200),
        ("192.168.1.5", 200),
        ("evil.example:8000", 421),
        ("127.0.0.1.evil.example", 421),
        ("localhost.evil.example", 421),
        ("evil", 421),
        ("2130706433", 421),
        ("evil.example:80:80", 421),
        ("[evil.example]", 421),
    ],
)
def test_names_of_others_are_refused(client: httpx.Client, picture: bytes, host: str, status: int) -> None:
    """A page of such a name is of the same origin as what it leads to."""
    headers = {"Host": host, "Origin": f"http://{host}", "Sec-Fetch-Site": "same-origin"}
    answer = client.post(PATH, files={"file": picture}, headers=headers)
    assert answer.status_code == status, answer.text
    for path in ("/", "/health", "/metrics", "/openapi.json", "/task-status/x"):
        assert (client.get(path, headers={"Host": host}).status_code == 421) == (status == 421)
    if status == 421:
        assert answer.json()["error"]["kind"] == "host"
        assert "--allowed-host" in answer.json()["error"]["hint"]


def test_two_hosts_are_none(client: httpx.Client) -> None:
    with socket.create_connection((client.base_url.host, client.base_url.port or 0), 30) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: evil.example\r\nHost: localhost\r\n\r\n")
        assert connection.recv(12) == b"HTTP/1.1 400"


@pytest.mark.parametrize(
    ("bound", "keys", "good", "bad"),
    [
        ("127.0.0.1", True, ["localhost", "10.0.0.1"], ["cutout", "cutout.example", "nas.local"]),
        ("::1", False, ["localhost", "[::1]:80"], ["cutout"]),
        ("0.0.0.0", True, ["cutout.example", "anything"], []),
        ("0.0.0.0", False, ["cutout:8000", "a.svc.cluster.local", "nas.local", "localhost"], ["cutout.example"]),
        ("nas.example", False, ["nas.example", "NAS.example:80"], ["evil.example", "a.nas.example"]),
    ],
)
def test_the_names_that_pass_follow_from_where_it_listens(
    bound: str, keys: bool, good: list[str], bad: list[str]
) -> None:
    allowed = default_hosts(bound, keys=keys)
    assert all(is_known_host(name, allowed) for name in [*good, "192.168.1.5:8000", ""])
    assert not any(is_known_host(name, allowed) for name in bad)


def test_names_can_be_allowed() -> None:
    allowed = ("cutout.example", "*.shop.example")
    assert all(is_known_host(name, allowed) for name in ("cutout.example:8000", "a.b.shop.example", "localhost"))
    assert not any(is_known_host(name, allowed) for name in ("a.cutout.example", "shop.example", "notshop.example"))
    assert is_known_host("evil.example", ("*",))


def test_the_command_takes_names(cutout: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from typer.testing import CliRunner

    from cutout.cli import app

    given: list[Any] = []
    monkeypatch.setattr("cutout.service.http.server.serve", lambda settings, **_: given.append(settings.allowed_hosts))
    options = ["serve", "--allowed-host", "Cutout.example.", "--allowed-host", "*.shop.example"]
    CliRunner().invoke(app, options, catch_exceptions=False)
    CliRunner().invoke(app, ["serve"], env={"CUTOUT_ALLOWED_HOST": "a.example *"}, catch_exceptions=False)
    assert given == [("cutout.example", "*.shop.example"), ("a.example", "*")]
    for wrong in ("https://cutout.example", "cutout.example:8000", "*evil", "a.*"):
        run = cutout("serve", "--allowed-host", wrong)
        assert (run.code, "is not the name of a host" in run.err) == (2, True)


@contextmanager
def _page(text: str) -> Iterator[str]:
    """A page of another origin on this machine."""
    import threading
    from http.server import BaseHTTPRequestHandler, HTTPServer

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_args: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://localhost:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


_SEND = """
const [base, data, done] = arguments, form = new FormData();
form.append("files", new Blob([Uint8Array.from(atob(data), (sign) => sign.charCodeAt(0))]), "a.png");
fetch(base + "batch-remove-background", { method: "POST", mode: "no-cors", body: form })
  .then((answer) => done(answer.type), (error) => done(String(error)));
"""


def test_a_real_browser_sends_them_and_is_refused(tmp_path: Path, picture: bytes) -> None:
    """Both: a page of another origin, and a name that was led here."""
    pages = _page("<title>elsewhere</title>")
    with chromium(tmp_path) as browser, served(*quick(tmp_path)) as client, pages as url:
        browser.get(url)
        data = base64.b64encode(picture).decode()
        browser.execute_async_script(_SEND, f"{client.base_url}/", data)
        told = client.get("/metrics").text
        assert 'endpoint="other",outcome="origin"' in told
        assert "/batch-remove-background" not in told
        browser.get(f"http://evil.example:{client.base_url.port}/")
        assert "not known as" in browser.page_source
