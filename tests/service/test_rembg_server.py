"""The interface of rembg's server: each field, the picture as a file and by its address, and what is refused."""

from __future__ import annotations

import importlib.util
import io
import re
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from PIL import Image
from served import Held, quick, served, until, website

from cutout.service.routes import rembg

if TYPE_CHECKING:
    from collections.abc import Iterator

    import httpx

PATH, ONE = "/api/remove", "/remove-background"


@pytest.fixture(scope="module")
def picture() -> bytes:
    """A spot that fades into the dark: the brightness model keeps it, with a wide edge for matting."""
    far = Image.radial_gradient("L")
    red = far.point([min(255, max(0, round((175 - value) * 2.5))) for value in range(256)])
    buffer = io.BytesIO()
    Image.merge("RGB", (red, red.point([value * 3 // 4 for value in range(256)]), far)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A service that fetches, from this very machine too."""
    settings = quick(tmp_path_factory.mktemp("rembg"), image_url=True, fetch_private=True, max_body=100_000)
    with served(*settings) as found:
        yield found


@pytest.fixture(scope="module")
def address(picture: bytes) -> Iterator[str]:
    """Of the picture on a web server."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path.startswith("/photo.jpg") else 404)
            self.end_headers()
            self.wfile.write(picture if self.path.startswith("/photo.jpg") else b"")

        def log_message(self, *_args: object) -> None:
            pass

    with website(Handler) as found:
        yield f"{found}/photo.jpg"


_DEFAULTS = {"a": "false", "af": "240", "ab": "10", "ae": "10", "om": "false", "ppm": "false", "bgc": "", "extras": ""}

# what a client of rembg sends, and the fields of ours that do the same
ROWS: list[tuple[dict[str, str], dict[str, str]]] = [
    ({}, {}),
    (_DEFAULTS, {}),
    ({"model": "brightness"}, {"model": "brightness"}),
    ({"a": "true"}, {"matting": "true"}),
    ({"a": "true", "af": "200"}, {"matting": "true", "matting_foreground": "200"}),
    ({"a": "true", "ab": "50"}, {"matting": "true", "matting_background": "50"}),
    ({"a": "true", "ae": "2"}, {"matting": "true", "matting_erode": "2"}),
    ({"om": "true"}, {"mask": "true"}),
    ({"ppm": "true"}, {"post_process": "true"}),
    ({"dc": "true"}, {"edge_colors": "clean"}),
    ({"dc": "false"}, {"edge_colors": "keep"}),
    ({"bgc": "0,0,255,255"}, {"background": "#0000ff"}),
    ({"bgc": "0, 0, 255, 128"}, {"background": "#0000ff80"}),
    ({"vm": "false", "extras": "{}"}, {}),
]


@pytest.mark.parametrize(("words", "ours"), ROWS, ids=[str(row[0])[:60] for row in ROWS])
def test_every_field_means_what_it_means_there(
    client: httpx.Client, picture: bytes, address: str, words: dict[str, str], ours: dict[str, str]
) -> None:
    """In the form, in the query of a form (where rembg reads some of them), and in that of an address."""
    wanted = client.post(ONE, files={"file": picture}, data=ours)
    assert wanted.status_code == 200, wanted.text
    for answer in (
        client.post(PATH, files={"file": picture}, data=words),
        client.post(PATH, files={"file": picture}, params=words),
        client.get(PATH, params={"url": address, **words}),
    ):
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"] == "image/png"
        assert answer.content == wanted.content
        assert "x-warning" not in answer.headers


def test_the_rows_differ(client: httpx.Client, picture: bytes) -> None:
    """So that a field that does nothing would show."""
    rows = [words for words, ours in ROWS if ours and "model" not in ours]
    found = {client.post(PATH, files={"file": picture}, data=words).content for words in rows}
    assert len(found) == len(rows)


def test_the_fields_are_those_of_the_installed_rembg() -> None:
    spec = importlib.util.find_spec("rembg")
    if spec is None or spec.origin is None:
        pytest.skip("rembg is not installed")
    source = (Path(spec.origin).parent / "commands" / "s_command.py").read_text("utf-8")
    theirs = set(re.findall(r"^ {12}(\w+): [\w\[\]]+ = (?:Query|Form)\(", source, re.MULTILINE))
    assert {"model", "a", "bgc"} <= theirs
    assert theirs == {*rembg._OURS, *rembg._ABOUT}


def test_what_is_ignored_is_named(client: httpx.Client, picture: bytes) -> None:
    plain = client.post(PATH, files={"file": picture})
    refined = client.post(PATH, files={"file": picture}, data={"vm": "true"})
    assert refined.content == plain.content
    assert "vm does nothing here" in refined.headers["x-warning"]
    idle = client.post(PATH, files={"file": picture}, data={"af": "200"})
    assert idle.headers["x-warning"] == "af does nothing here: it goes with a"
    mask = client.post(PATH, files={"file": picture}, data={"om": "true", "bgc": "255,0,0,255"})
    assert "bgc does nothing here" in mask.headers["x-warning"]
    with Image.open(io.BytesIO(mask.content)) as image:
        assert image.mode == "L"


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ({"model": "u2net_custom"}, "has no model 'u2net_custom'"),
        ({"extras": '{"model_path": "/etc/passwd"}'}, "extras are not understood"),
        ({"extras": "["}, "extras are not understood"),
        ({"alpha": "true"}, "unknown field 'alpha'"),
        ({"matting": "true"}, "unknown field 'matting'"),
        ({"a": "perhaps"}, "true or false"),
        ({"dc": "perhaps"}, "dc is 'perhaps'"),
        ({"af": "256"}, "256"),
        ({"ae": "100000"}, "100000"),
        ({"bgc": "1,2"}, "background"),
        ({"bgc": "/etc/passwd"}, "background is no colour"),
    ],
)
def test_what_is_refused_is_named_too(
    client: httpx.Client, picture: bytes, address: str, words: dict[str, str], text: str
) -> None:
    for answer in (
        client.post(PATH, files={"file": picture}, data=words),
        client.get(PATH, params={"url": address, **words}),
    ):
        assert answer.status_code == 422
        assert text in answer.json()["error"]["message"]


def test_a_field_that_is_there_twice_is_refused(client: httpx.Client, picture: bytes, address: str) -> None:
    for answer in (
        client.post(PATH, files={"file": picture}, data={"om": "true"}, params={"om": "false"}),
        client.get(PATH, params=[("url", address), ("om", "true"), ("om", "false")]),
        client.get(PATH, params=[("url", address), ("url", "http://example.org/")]),
        client.get(PATH, params=[("url", address), ("url", address)]),
    ):
        assert answer.status_code == 422, answer.text


def test_a_picture_must_be_named(client: httpx.Client) -> None:
    assert client.post(PATH, files={"image": b"x"}).status_code in {400, 422}
    for params in ({}, {"url": ""}, {"om": "true"}):
        answer = client.get(PATH, params=params)
        assert (answer.status_code, answer.json()["error"]["message"]) == (422, "one url is needed")


def test_the_result_is_named_after_the_address(client: httpx.Client, address: str) -> None:
    answer = client.get(PATH, params={"url": f"{address}?width=64"})
    assert answer.headers["content-disposition"] == 'attachment; filename="photo-cutout.png"'
    assert client.get(PATH, params={"url": f"{address[:-9]}missing"}).status_code == 400


def test_nothing_is_fetched_unless_the_service_is_told_to(tmp_path: Path, picture: bytes, address: str) -> None:
    with served(*quick(tmp_path)) as closed:
        answer = closed.get(PATH, params={"url": address})
        assert (answer.status_code, answer.json()["error"]["kind"]) == (400, "url-off")
        assert "--image-url" in answer.json()["error"]["hint"]
        assert closed.post(PATH, files={"file": picture}).status_code == 200


def test_addresses_of_the_inside_are_not_fetched(tmp_path: Path, address: str) -> None:
    with served(*quick(tmp_path, image_url=True)) as client:
        for url in (address, "http://127.0.0.1/", "file:///etc/passwd", "http://169.254.169.254/latest"):
            answer = client.get(PATH, params={"url": url})
            assert (answer.status_code, answer.json()["error"]["kind"]) == (400, "url"), url


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Sec-Fetch-Site": "none"}, 200),
        ({"Sec-Fetch-Site": "same-origin"}, 200),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Origin": "https://evil.example"}, 403),
    ],
)
def test_no_page_of_others_makes_the_service_fetch(
    client: httpx.Client, address: str, headers: dict[str, str], status: int
) -> None:
    """An image on any page would be such a GET."""
    for ask in (client.get, client.head):
        assert ask(PATH, params={"url": address}, headers=headers).status_code == status


def test_a_full_queue_fetches_nothing(tmp_path: Path, picture: bytes, address: str) -> None:
    settings, _ = quick(tmp_path, queue=1, workers=1, image_url=True, fetch_private=True)
    models = Held(settings)
    with served(settings, models) as client, ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(client.post, PATH, files={"file": picture}) for _ in range(2)]
        until(lambda: "cutout_queue_depth 2.0" in client.get("/metrics").text)
        answer = client.get(PATH, params={"url": address})
        assert (answer.status_code, answer.json()["error"]["kind"]) == (503, "overloaded")
        assert int(answer.headers["retry-after"]) >= 1
        models.go.set()
        assert [one.result().status_code for one in waiting] == [200, 200]
