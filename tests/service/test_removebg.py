"""remove.bg's interface, and the guard of pictures that are fetched."""

from __future__ import annotations

import asyncio
import base64
import io
import zipfile
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image
from served import quick, served, website
from small import ORANGE, brightness_model, half

from cutout.service.http.fetch import fetch, is_public
from cutout.service.http.problems import Problem
from cutout.service.models import Models
from cutout.service.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import httpx

PATH = "/v1.0/removebg"


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A service that asks for a key and fetches, from this very machine too."""
    settings = quick(
        tmp_path_factory.mktemp("removebg"),
        api_keys=("some-key",),
        image_url=True,
        fetch_private=True,
        max_body=100_000,
    )
    with served(*settings) as found:
        found.headers["X-Api-Key"] = "some-key"
        yield found


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Left black, right orange."""
    return half(tmp_path_factory.mktemp("picture") / "half.png").read_bytes()


@pytest.fixture(scope="module")
def web(picture: bytes) -> Iterator[str]:
    """A web server with the picture, ways to it, and worse."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            onward = {
                "/moved": "/picture",
                "/round": "/round",
                "/away": "http://169.254.169.254/",
                "/broken": "http://[x",
                "/utf-8": "/h\u00fcte".encode().decode("latin-1"),
                "/latin-1": "/h\u00fcte",
            }.get(self.path)
            found = {
                "/picture": picture,
                "/h%C3%BCte?%C3%A4": picture,
                "/h%C3%BCte": picture,
                "/large": bytes(200_000),
            }.get(self.path)
            self.send_response(302 if onward else 200 if found else 404)
            if onward:
                self.send_header("Location", onward)
            self.end_headers()
            self.wfile.write(found or b"")

        def log_message(self, *_args: object) -> None:
            pass

    with website(Handler) as address:
        yield address


def test_the_clients_of_remove_bg_get_what_they_ask_for(client: httpx.Client, picture: bytes, web: str) -> None:
    """As a file, as base64 in a form or in JSON, by address."""
    form = client.post(PATH, files={"image_file": ("a.png", picture)}, data={"size": "auto", "type": "auto"})
    assert form.status_code == 200, form.text
    assert (form.headers["x-width"], form.headers["x-height"]) == ("64", "32")
    coded = base64.b64encode(picture).decode()
    others = [
        client.post(PATH, data={"image_file_b64": coded, "size": "full"}),
        client.post(PATH, json={"image_file_b64": coded, "semitransparency": True}),
        client.post(PATH, json={"image_url": f"{web}/picture"}),
        client.post(PATH, data={"image_url": f"{web}/moved"}),
        client.post(PATH, data={"image_url": f"{web}/h\u00fcte?\u00e4"}),
        client.post(PATH, data={"image_url": f"{web}/utf-8"}),
    ]
    assert {answer.content for answer in others} == {form.content}
    wrapped = client.post(PATH, files={"image_file": picture}, headers={"Accept": "application/json"}).json()
    assert base64.b64decode(wrapped["data"]["result_b64"]) == form.content


def test_words_of_remove_bg_mean_what_they_mean_there(client: httpx.Client, picture: bytes) -> None:
    def image(**words: str) -> Image.Image:
        answer = client.post(PATH, files={"image_file": picture}, data=words)
        assert answer.status_code == 200, answer.text
        return Image.open(io.BytesIO(answer.content))

    assert image(channels="alpha").mode == "L"
    assert image(channels="alpha", add_shadow="true").mode == "L"
    colored = image(bg_color="0000ff")
    assert (colored.format, colored.getpixel((3, 3))) == ("JPEG", (0, 0, 254))
    assert image(bg_color="0000ff", format="png").getpixel((3, 3)) == (0, 0, 255)
    part = image(roi="75% 0% 100% 50%").getchannel("A")
    assert part.getbbox() == (48, 0, 64, 16)
    assert image(roi="48 0 64 100%").getchannel("A").getbbox() == (48, 0, 64, 32)
    assert image(roi="50px 0px 60px 32px").getchannel("A").getbbox() == (50, 0, 60, 32)
    packed = client.post(PATH, files={"image_file": picture}, data={"format": "zip"})
    with zipfile.ZipFile(io.BytesIO(packed.content)) as archive:
        assert archive.namelist() == ["color.jpg", "alpha.png"]
        with Image.open(io.BytesIO(archive.read("alpha.png"))) as alpha:
            assert (alpha.mode, alpha.getextrema()[0], alpha.getpixel((3, 3))) == ("L", 0, 0)
    green = io.BytesIO()
    Image.new("RGB", (10, 10), (0, 200, 0)).save(green, "PNG")
    behind = client.post(PATH, files={"image_file": picture, "bg_image_file": green.getvalue()}, data={"format": "png"})
    with Image.open(io.BytesIO(behind.content)) as whole:
        assert whole.getpixel((3, 3)) == (0, 200, 0)
        assert whole.getpixel((60, 16)) == pytest.approx(ORANGE, abs=4)


def test_sizes_hold_where_the_subject_is_scaled(client: httpx.Client, tmp_path: Path) -> None:
    """And a picture's own size is no number that a client chose."""

    def size(data: bytes, **words: str) -> tuple[int, int]:
        answer = client.post(PATH, files={"image_file": data}, data=words)
        assert answer.status_code == 200, answer.text
        with Image.open(io.BytesIO(answer.content)) as image:
            assert answer.headers["x-width"] == str(image.width)
            return image.size

    large = half(tmp_path / "large.png", (1000, 800)).read_bytes()
    assert size(large, size="preview") == size(large, size="preview", scale="50%") == (559, 447)
    assert size(large, size="preview", position="0% 0%") == (559, 447)
    assert size(large, size="full", scale="50%") == (1000, 800)
    wide = half(tmp_path / "wide.png", (12_000, 20)).read_bytes()
    assert size(wide, scale="80%") == (12_000, 20)


def test_a_zip_holds_colours_and_mask_however_it_is_asked_for(client: httpx.Client, picture: bytes) -> None:
    packed = [
        client.post(PATH, files={"image_file": picture}, data=words)
        for words in ({"format": "zip"}, {"format": "ZIP"}, {"format": "zip", "channels": "alpha"})
    ]
    assert {answer.headers["content-type"] for answer in packed} == {"application/zip"}
    contents = set()
    for answer in packed:
        with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
            contents.add(tuple(archive.read(name) for name in ("color.jpg", "alpha.png")))
    assert len(contents) == 1


def test_a_model_may_have_any_name(tmp_path: Path, picture: bytes) -> None:
    named = tmp_path / "gr\u00f6\u00dfe-\u540d.onnx"
    brightness_model(tmp_path).rename(named)
    settings = Settings(models=(str(named),), device="cpu", workers=1, folder=tmp_path / "jobs")
    with served(settings, Models(settings)) as found:
        answer = found.post(PATH, files={"image_file": picture})
        assert answer.status_code == 200, answer.text
        assert answer.headers["x-model-version"].startswith("gr??e-?")


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ({}, "missing_source"),
        ({"image_file_b64": "AAAA", "image_url": "https://example.org/"}, "multiple_sources"),
        ({"image_file_b64": "no base64!"}, "invalid_image_file_b64"),
        ({"image_file_b64": "AAAA"}, "invalid_file_type"),
        ({"image_file_b64": "AAAA", "size": "huge"}, "invalid_size"),
        ({"image_file_b64": "AAAA", "format": "gif"}, "invalid_format"),
        ({"image_file_b64": "AAAA", "channels": "rgb"}, "invalid_channels"),
        ({"image_file_b64": "AAAA", "roi": "0 " * 501}, "invalid_roi"),
        ({"image_url": "ftp://example.org/a.png"}, "invalid_image_url"),
    ],
)
def test_errors_have_the_shape_of_remove_bg(client: httpx.Client, words: dict[str, str], code: str) -> None:
    answer = client.post(PATH, data=words or {"type": "auto"})
    assert answer.status_code == 400
    assert [error["code"] for error in answer.json()["errors"]] == [code]


def test_a_missing_key_is_403_as_there(client: httpx.Client, picture: bytes) -> None:
    answer = client.post(PATH, files={"image_file": picture}, headers={"X-Api-Key": "wrong-key"})
    assert (answer.status_code, answer.json()["errors"][0]["code"]) == (403, "auth_failed")


def test_nothing_is_fetched_unless_the_service_is_told_to(tmp_path: Path, web: str) -> None:
    with served(*quick(tmp_path)) as closed:
        answer = closed.post(PATH, data={"image_url": f"{web}/picture"})
        assert (answer.status_code, answer.json()["errors"][0]["code"]) == (400, "url_off")


@pytest.mark.parametrize(
    "address",
    [
        *(
            "127.0.0.1",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",
            "224.0.0.1",
        ),
        *(
            "::1",
            "fe80::1",
            "fc00::1",
            "::ffff:127.0.0.1",
            "64:ff9b::7f00:1",
            "2002:7f00:1::",
            "::127.0.0.1",
            "ff02::1",
        ),
        *("240.0.0.1", "255.255.255.255", "not an address"),
    ],
)
def test_addresses_of_the_inside_are_known(address: str) -> None:
    assert not is_public(address)


def test_addresses_of_the_outside_are_known() -> None:
    assert is_public("93.184.215.14")
    assert is_public("2606:2800:21f:cb07:6820:80da:af6b:8b2c")


@pytest.mark.parametrize(
    "url",
    [
        "http://\ud800.example/",
        "file:///etc/passwd",
        "gopher://example.org/",
        "http://user:secret@example.org/",
        "http://example.org:22/",
        "http://[::1",
        "http://127.0.0.1/",
        "http://2130706433/",
        "http://localhost/",
        "http://example.org/\r\nX: y",
        "http:///nowhere",
    ],
)
def test_addresses_that_lead_inside_are_refused(url: str) -> None:
    with pytest.raises(Problem) as refused:
        asyncio.run(fetch(url, max_bytes=1000, seconds=5))
    assert refused.value.status == 400


def test_a_name_is_judged_by_all_its_addresses_and_reached_at_the_one_that_was_judged() -> None:
    asked: list[Any] = []

    def resolve(host: str, port: int) -> list[str]:
        asked.append((host, port))
        return ["93.184.215.14", "127.0.0.1"]

    with pytest.raises(Problem, match="not on the public internet"):
        asyncio.run(fetch("https://rebinding.example/", max_bytes=1000, resolve=resolve))
    assert asked == [("rebinding.example", 443)], "asked once: what is checked is what is used"


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("/large", "larger than"),
        ("/round", "more than 3 times"),
        ("/missing", "404"),
        ("/\ud800", "404"),
        ("/latin-1", "404"),
        ("/broken", "not valid"),
    ],
)
def test_size_and_redirects_are_bounded(web: str, path: str, text: str) -> None:
    with pytest.raises(Problem, match=text):
        asyncio.run(fetch(web + path, max_bytes=100_000, private=True))


def test_a_redirect_is_judged_like_the_first_address(web: str, monkeypatch: pytest.MonkeyPatch) -> None:
    judged: list[str] = []

    def judge(address: str) -> bool:
        judged.append(address)
        return address == "127.0.0.1"

    monkeypatch.setattr("cutout.service.http.fetch.is_public", judge)
    monkeypatch.setattr("cutout.service.http.fetch._PORTS", {"http": int(web.rpartition(":")[2]), "https": 443})
    with pytest.raises(Problem, match="not on the public internet"):
        asyncio.run(fetch(f"{web}/away", max_bytes=1000, resolve=lambda host, _port: [host]))
    assert judged == ["127.0.0.1", "169.254.169.254"]
