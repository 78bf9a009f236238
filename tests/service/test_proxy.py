"""Below a path behind a real nginx."""

from __future__ import annotations

import shutil
import socket
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from browsers import Page, chromium
from served import quick, served, until
from small import half

from cutout.errors import UsageError
from cutout.service.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_CONFIGURATION = """
daemon off; pid {folder}/pid; error_log {folder}/log;
events {{}}
http {{
  access_log off;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/f;
  uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  server {{
    listen 127.0.0.1:{port};
    location {at} {{
      proxy_pass {to};
      proxy_set_header Host $http_host;
    }}
  }}
}}
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with chromium(tmp_path_factory.mktemp("downloads")) as found:
        yield found


@contextmanager
def _nginx(folder: Path, at: str, to: str) -> Iterator[httpx.Client]:
    program = shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/bin")
    if program is None:
        pytest.skip("nginx is not installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (folder / "nginx.conf").write_text(_CONFIGURATION.format(folder=folder, port=port, at=at, to=to))
    process = subprocess.Popen([program, "-c", str(folder / "nginx.conf"), "-e", f"{folder}/log"])
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            until(lambda: client.get("/").status_code)
            yield client
    finally:
        process.terminate()
        process.wait(60)


@pytest.fixture(params=[True, False], ids=["taken off", "handed on"])
def proxied(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[httpx.Client]:
    """A service that wants a key, behind nginx that takes the path off, or hands it on."""
    with served(*quick(tmp_path, root_path="/cutout", api_keys=("some-key",))) as client:
        to = str(client.base_url).rstrip("/")
        with _nginx(tmp_path, "/cutout/", f"{to}/" if request.param else to) as found:
            yield found


def test_every_address_works_below_the_path(proxied: httpx.Client, tmp_path: Path) -> None:
    picture, key = {"file": half(tmp_path / "half.png").read_bytes()}, {"X-Api-Key": "some-key"}
    assert proxied.get("/cutout/ready").json()["status"] == "ready", "an open address needs no key here either"
    assert proxied.get("/cutout/openapi.json").json()["servers"] == [{"url": "/cutout"}]
    assert proxied.post("/cutout/remove-background", files=picture).status_code == 401
    assert proxied.post("/cutout/remove-background", files=picture, headers=key).content.startswith(b"\x89PNG")
    old = proxied.post("/cutout/v1.0/removebg", headers=key, data={"size": "auto"})
    assert (old.status_code, old.json()["errors"][0]["code"]) == (400, "missing_source")
    task = proxied.post("/cutout/batch-remove-background", files={"files": picture["file"]}, headers=key).json()
    until(lambda: proxied.get(f"/cutout/task-result/{task['task_id']}", headers=key).status_code == 200)


def test_the_page_works_below_the_path(browser: Any, proxied: httpx.Client, tmp_path: Path) -> None:
    page = Page(browser, proxied)
    browser.get(f"{proxied.base_url}/cutout/")
    page.drop(half(tmp_path / "half.png"))
    until(page.find("#key-dialog").is_displayed)
    page.find("#key").send_keys("some-key\n")
    page.ends("done")
    until(lambda: page.text("#queue") == "Service on cpu: 0 waiting, 0 working")
    page.click("header a")
    until(lambda: "POST /remove-background" in page.text("main"))
    assert f"{proxied.base_url.netloc.decode()}/cutout/remove-background" in page.text("main")


def test_without_the_last_slash_the_page_is_found_too(tmp_path: Path) -> None:
    with served(*quick(tmp_path, root_path="/cutout")) as client:
        answer = client.get("/cutout")
        assert (answer.status_code, answer.headers["location"]) == (307, "/cutout/")
        assert client.get("/cutouts").status_code == 404, "another path that only begins so"


@pytest.mark.parametrize("path", ["cutout", "/cut out", "//", "/a?b", "https://shop.example/cutout"])
def test_what_is_no_path_is_refused(path: str) -> None:
    with pytest.raises(UsageError, match="must be a path"):
        Settings(root_path=path)
