"""The table of remove.bg's interface: a row for every field and value, every header, every error code it describes."""

from __future__ import annotations

import base64
import io
import json
import threading
import time
import zipfile
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image, ImageStat
from served import Held, quick, served, until, website
from small import ORANGE, half

from cutout.options.values import Shadow, parse_shadow
from cutout.service import removebg

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import httpx

    Check = Callable[[httpx.Response], Any]

PATH, KEY = "/v1.0/removebg", "some-key"
BLUE = (0, 0, 255)


def square(size: tuple[int, int] = (320, 320)) -> bytes:
    """A picture whose middle is orange and whose rim is black: the brightness model keeps the middle."""
    image, buffer = Image.new("RGB", size), io.BytesIO()
    image.paste(ORANGE, (size[0] // 4, size[1] // 4, size[0] * 3 // 4, size[1] * 3 // 4))
    image.save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def web() -> Iterator[str]:
    """A web server with the picture and a text."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = {"/picture": square(), "/text": b"no picture"}.get(self.path)
            self.send_response(200 if found else 404)
            self.end_headers()
            self.wfile.write(found or b"")

        def log_message(self, *_args: object) -> None:
            pass

    with website(Handler) as address:
        yield address


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A service that asks for a key, fetches from this very machine too, and takes up to 5 megapixels and 1 MB."""
    folder = tmp_path_factory.mktemp("removebg")
    keys = (KEY, "another-key")
    how: dict[str, Any] = {"image_url": True, "fetch_private": True, "max_body": 1_000_000, "max_pixels": 5_000_000}
    with served(*quick(folder, api_keys=keys, **how)) as found:
        found.headers["X-Api-Key"] = KEY
        yield found


def ask(client: httpx.Client, picture: bytes | None = None, /, **words: Any) -> httpx.Response:
    """The request of a client that has the picture in a file."""
    files = {"image_file": ("a.png", picture or square())}
    if isinstance(words.get("bg_image_file"), bytes):
        files["bg_image_file"] = ("b.png", words.pop("bg_image_file"))
    return client.post(PATH, files=files, data={"size": "full", **words})


def image(answer: httpx.Response) -> Image.Image:
    """The picture of an answer."""
    assert answer.status_code == 200, answer.text
    return Image.open(io.BytesIO(answer.content))


def box(answer: httpx.Response) -> tuple[int, int, int, int]:
    """Left, top, width, height of the subject, as the headers tell."""
    left, top, width, height = (
        int(answer.headers[f"x-foreground-{side}"]) for side in ("left", "top", "width", "height")
    )
    return left, top, width, height


def shows(kind: str, mode: str, **pixels: Any) -> Check:
    """A check of format and mode, and of the colours in the corner and in the middle."""

    def check(answer: httpx.Response) -> None:
        found = image(answer)
        assert (found.format, found.mode) == (kind, mode)
        at = {"corner": (2, 2), "middle": (found.width // 2, found.height // 2)}
        for place, color in pixels.items():
            assert found.getpixel(at[place]) == pytest.approx(color, abs=4), place

    return check


def measures(width: int, height: int) -> Check:
    """A check of the result's size, in the picture and in the headers."""

    def check(answer: httpx.Response) -> None:
        assert image(answer).size == (width, height)
        assert (answer.headers["x-width"], answer.headers["x-height"]) == (str(width), str(height))

    return check


def lies(left: float, top: float, width: float, height: float) -> Check:
    """A check of where the subject is, in the headers and in the alpha."""

    def check(answer: httpx.Response) -> None:
        assert box(answer) == pytest.approx((left, top, width, height), abs=25), "the edge of the mask is soft"
        alpha = image(answer).getchannel("A").point([0] * 13 + [255] * 243)
        seen = alpha.getbbox()
        assert seen is not None
        assert (seen[0], seen[1], seen[2] - seen[0], seen[3] - seen[1]) == pytest.approx(box(answer), abs=1)

    return check


def tells(text: str) -> Check:
    """A check that the answer says what it did not do."""

    def check(answer: httpx.Response) -> None:
        assert image(answer).size
        assert text in answer.headers["x-warning"]

    return check


def has(name: str, value: str | None) -> Check:
    """A check of one header."""

    def check(answer: httpx.Response) -> None:
        assert answer.status_code == 200, answer.text
        assert answer.headers.get(name) == value

    return check


def packed(answer: httpx.Response) -> None:
    """A check of the two files of a zip."""
    assert answer.headers["content-type"] == "application/zip"
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert archive.namelist() == ["color.jpg", "alpha.png"]
        color, alpha = (Image.open(io.BytesIO(archive.read(name))) for name in archive.namelist())
        assert (color.format, color.mode, alpha.format, alpha.mode) == ("JPEG", "RGB", "PNG", "L")
        assert color.size == alpha.size == (320, 320)
        assert alpha.getpixel((2, 2)) == 0
        assert alpha.getpixel((160, 160)) == pytest.approx(255, abs=4)
        assert color.getpixel((160, 160)) == pytest.approx(ORANGE, abs=4)


WHOLE, MIDDLE = (0, 0, 320, 320), (80, 80, 160, 160)
CLEAR = shows("PNG", "RGBA", corner=(0, 0, 0, 0), middle=(*ORANGE, 255))

_DEFAULTS = {
    "type": "auto",
    "format": "auto",
    "roi": "0% 0% 100% 100%",
    "crop": "false",
    "crop_margin": "0px",
    "scale": "original",
    "position": "original",
    "channels": "rgba",
    "add_shadow": "false",
    "shadow_type": "none",
    "semitransparency": "true",
    "bg_color": "",
    "bg_image_url": "",
}

# what is sent, and what is checked
ROWS: list[tuple[dict[str, Any], Check]] = [
    ({}, CLEAR),
    (_DEFAULTS, CLEAR),
    (_DEFAULTS, has("x-warning", None)),
    *(({"type": name}, has("x-type", name)) for name in ("person", "product", "animal", "car", "graphic")),
    *(({"type": name}, has("x-type", name)) for name in ("transportation", "car_interior", "car_part", "graphics")),
    ({"type": "auto"}, has("x-type", "other")),
    ({"type": "car"}, tells("type car does nothing here")),
    ({"type_level": "none"}, has("x-type", None)),
    *(({"type_level": level}, has("x-type", "other")) for level in ("1", "2", "latest")),
    ({"type_level": "2"}, tells("type_level 2 does nothing here")),
    ({"format": "auto"}, CLEAR),
    ({"format": "png"}, CLEAR),
    ({"format": "jpg"}, shows("JPEG", "RGB", corner=(255, 255, 255), middle=ORANGE)),
    ({"format": "webp"}, shows("WEBP", "RGBA", middle=(*ORANGE, 255))),
    ({"format": "zip"}, packed),
    ({"format": "zip", "channels": "alpha"}, packed),
    ({"roi": "0% 0% 100% 100%"}, lies(*MIDDLE)),
    ({"roi": "0 0 100% 100%"}, lies(*MIDDLE)),
    ({"roi": "0% 0% 50% 100%"}, lies(80, 80, 80, 160)),
    ({"roi": "0px 160px 320px 320px"}, lies(80, 160, 160, 80)),
    ({"roi": "160px 0% 100% 50%"}, lies(160, 80, 80, 80)),
    ({"crop": "false"}, measures(320, 320)),
    ({"crop": "true"}, lambda answer: measures(*box(answer)[2:])(answer)),
    ({"crop": "true"}, lies(0, 0, 160, 160)),
    ({"crop": "true", "crop_margin": "30px"}, lies(30, 30, 160, 160)),
    ({"crop": "true", "crop_margin": "0"}, lies(0, 0, 160, 160)),
    ({"crop": "true", "crop_margin": "50%"}, lies(90, 90, 170, 170)),
    ({"crop": "true", "crop_margin": "10px 60px"}, lies(60, 10, 170, 170)),
    ({"crop": "true", "crop_margin": "10px 20px 30px 90px"}, lies(90, 10, 170, 170)),
    ({"crop_margin": "30px"}, tells("crop_margin does nothing here: it goes with crop")),
    ({"scale": "original"}, lies(*MIDDLE)),
    ({"scale": "100%"}, lies(*WHOLE)),
    ({"scale": "100%"}, measures(320, 320)),
    ({"scale": "10%"}, lies(144, 144, 32, 32)),
    ({"scale": "25%", "position": "0%"}, lies(0, 0, 80, 80)),
    ({"scale": "25%", "position": "100% 0%"}, lies(240, 0, 80, 80)),
    ({"scale": "25%", "position": "center"}, lies(120, 120, 80, 80)),
    ({"scale": "25%", "position": "original"}, tells("position original does nothing here")),
    ({"scale": "25%", "crop": "true"}, tells("crop does nothing here")),
    ({"position": "original"}, lies(*MIDDLE)),
    ({"position": "0%"}, lies(0, 0, 160, 160)),
    ({"position": "0% 100%"}, lies(0, 160, 160, 160)),
    ({"position": "center"}, lies(*MIDDLE)),
    ({"channels": "rgba"}, CLEAR),
    ({"channels": "alpha"}, shows("PNG", "L", corner=0, middle=255)),
    ({"channels": "alpha", "add_shadow": "true"}, shows("PNG", "L", corner=0, middle=255)),
    ({"channels": "alpha", "bg_color": "green"}, tells("bg_color does nothing here")),
    ({"channels": "alpha", "bg_image_file": square()}, tells("bg_image_file does nothing here")),
    ({"semitransparency": "true"}, has("x-warning", None)),
    ({"semitransparency": "false"}, tells("semitransparency false does nothing here")),
    ({"shadow_type": "3D"}, tells("shadow_type 3d does nothing here: the shadow is that of drop")),
    ({"shadow_type": "car"}, tells("shadow_type car")),
    ({"shadow_type": "drop"}, has("x-warning", None)),
    ({"shadow_opacity": "30"}, tells("shadow_opacity 30 does nothing here: there is no shadow")),
    ({"shadow_method": "latest"}, tells("shadow_method latest does nothing here")),
    ({"bg_color": "81d4fa"}, shows("JPEG", "RGB", corner=(0x81, 0xD4, 0xFA), middle=ORANGE)),
    ({"bg_color": "#81d4fa"}, shows("JPEG", "RGB", corner=(0x81, 0xD4, 0xFA))),
    ({"bg_color": "00f"}, shows("JPEG", "RGB", corner=BLUE)),
    ({"bg_color": "green"}, shows("JPEG", "RGB", corner=(0, 128, 0))),
    ({"bg_color": "81d4fa77"}, shows("PNG", "RGBA", corner=(0x81, 0xD4, 0xFA, 0x77), middle=(*ORANGE, 255))),
    ({"bg_color": "00f8"}, shows("PNG", "RGBA", corner=(*BLUE, 0x88))),
    ({"bg_color": "00f8", "format": "webp"}, shows("WEBP", "RGBA", corner=(*BLUE, 0x88))),
    ({"bg_color": "0000ff", "format": "png"}, shows("PNG", "RGB", corner=BLUE)),
    ({"bg_image_file": square((40, 80))}, shows("JPEG", "RGB", corner=(0, 0, 0), middle=ORANGE)),
    ({"bg_image_url": "{web}/picture"}, shows("JPEG", "RGB", corner=(0, 0, 0), middle=ORANGE)),
    ({"bg_image_url": "{web}/picture", "format": "png"}, shows("PNG", "RGB", corner=(0, 0, 0))),
]


@pytest.mark.parametrize(("words", "check"), ROWS, ids=[str(row[0])[:60] for row in ROWS])
def test_every_field_does_what_is_described(
    client: httpx.Client, web: str, words: dict[str, Any], check: Check
) -> None:
    words = {name: text.replace("{web}", web) if isinstance(text, str) else text for name, text in words.items()}
    check(ask(client, **words))


def test_no_field_is_left_out() -> None:
    """Of the table above; the sources and sizes have tests of their own."""
    assert {name for words, _ in ROWS for name in words} >= set(removebg.FIELDS) - {
        *("image_file", "image_file_b64", "image_url", "size", "add_shadow")
    }


@pytest.mark.parametrize("kind", ["multipart", "urlencoded", "json"])
def test_a_picture_comes_in_four_ways_and_three_kinds_of_body(client: httpx.Client, web: str, kind: str) -> None:
    coded = base64.b64encode(square()).decode()
    wanted = ask(client).content
    for words in (
        {"image_file_b64": coded},
        {"image_file_b64": f"data:image/png;base64,{coded}"},
        {"image_url": f"{web}/picture"},
    ):
        body: dict[str, Any] = {"json": words | {"size": "full"}}
        if kind == "multipart":
            body = {"files": {name: (None, text) for name, text in (words | {"size": "full"}).items()}}
        elif kind == "urlencoded":
            body = {"data": words | {"size": "full"}}
        assert client.post(PATH, **body).content == wanted


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Four megapixels."""
    return half(tmp_path_factory.mktemp("large") / "a.png", (2500, 1600)).read_bytes()


@pytest.mark.parametrize(
    ("size", "wanted"),
    [
        *((name, (625, 400)) for name in (None, "preview", "small", "regular")),
        ("medium", (1530, 979)),
        *((name, (2500, 1600)) for name in ("hd", "full", "4k", "50MP", "auto")),
    ],
)
def test_sizes_are_bounds_in_megapixels(
    client: httpx.Client, large: bytes, size: str | None, wanted: tuple[int, int]
) -> None:
    """A quarter of one is the bound of a client that names none; how large it could be is told."""
    answer = client.post(PATH, files={"image_file": large}, data={} if size is None else {"size": size})
    measures(*wanted)(answer)
    assert (answer.headers["x-max-width"], answer.headers["x-max-height"]) == ("2500", "1600")


@pytest.mark.parametrize("size", ["preview", "medium", "full"])
@pytest.mark.parametrize("roi", ["1250px 0px 2500px 800px", "50% 0% 100% 50%", "1250px 0px 100% 50%"])
def test_a_region_is_that_of_the_picture_as_it_was_sent(
    client: httpx.Client, large: bytes, size: str, roi: str
) -> None:
    answer = client.post(PATH, files={"image_file": large}, data={"size": size, "roi": roi})
    width, height = image(answer).size
    assert box(answer) == pytest.approx((width / 2, 0, width / 2, height / 2), abs=width * 0.02)
    beyond = client.post(PATH, files={"image_file": large}, data={"size": size, "roi": "0px 0px 2510px 800px"})
    assert code_of(beyond) == "roi_exceeds_bounds"
    assert "2500×1600" in beyond.json()["errors"][0]["title"]


def test_the_largest_size_is_told_of_what_is_cropped_turned_or_placed(client: httpx.Client, large: bytes) -> None:
    cropped = client.post(PATH, files={"image_file": large}, data={"crop": "true"})
    whole = client.post(PATH, files={"image_file": large}, data={"crop": "true", "size": "full"})
    assert int(cropped.headers["x-max-width"]) == pytest.approx(int(whole.headers["x-width"]), abs=4)
    placed = client.post(PATH, files={"image_file": large}, data={"scale": "50%"})
    assert (placed.headers["x-width"], placed.headers["x-max-width"]) == ("625", "2500")
    with Image.open(io.BytesIO(large)) as picture:
        exif, buffer = Image.Exif(), io.BytesIO()
        exif[0x0112] = 6
        picture.save(buffer, "JPEG", exif=exif)
    turned = client.post(PATH, files={"image_file": buffer.getvalue()})
    measures(400, 625)(turned)
    assert (turned.headers["x-max-width"], turned.headers["x-max-height"]) == ("1600", "2500")
    small = ask(client, size="preview")
    assert (small.headers["x-max-width"], small.headers["x-max-height"]) == ("320", "320")


def test_shadows_are_as_dark_as_is_asked_for(client: httpx.Client) -> None:
    def darkness(**words: str) -> float:
        return ImageStat.Stat(image(ask(client, **words)).getchannel("A")).sum[0]

    none = darkness()
    assert darkness(shadow_type="none") == darkness(shadow_type="none", add_shadow="true") == none
    usual = darkness(add_shadow="true")
    assert usual > none
    for kind in ("auto", "drop", "3D", "car"):
        assert darkness(shadow_type=kind) == darkness(shadow_type=kind, shadow_opacity="auto") == usual
    rising = [darkness(shadow_type="drop", shadow_opacity=str(opacity)) for opacity in (0, 30, 45, 100)]
    assert rising == sorted(set(rising))
    assert (rising[0], rising[2]) == (none, usual)
    assert parse_shadow(removebg._SHADOW.format(45)) == Shadow(), "only the opacity differs"


# --- headers ---------------------------------------------------------------------------------------------------------

HEADERS: dict[str, tuple[dict[str, Any], Callable[[str], bool]]] = {
    "X-Width": ({"crop": "true"}, lambda text: 150 < int(text) < 210),
    "X-Height": ({"crop": "true"}, lambda text: 150 < int(text) < 210),
    "X-Max-Width": ({}, lambda text: text == "320"),
    "X-Max-Height": ({}, lambda text: text == "320"),
    "X-Foreground-Top": ({"scale": "10%"}, lambda text: text == "144"),
    "X-Foreground-Left": ({"scale": "10%", "position": "0%"}, lambda text: text == "0"),
    "X-Foreground-Width": ({"scale": "10%"}, lambda text: text == "32"),
    "X-Foreground-Height": ({"scale": "10%"}, lambda text: text == "32"),
    "X-Type": ({}, lambda text: text == "other"),
    "X-Credits-Charged": ({}, lambda text: text == "0"),
    "X-RateLimit-Limit": ({}, lambda text: text == "128"),
    "X-RateLimit-Remaining": ({}, lambda text: text == "127"),
    "X-RateLimit-Reset": ({}, lambda text: 0 < int(text) - time.time() < 10),
    "Content-Type": ({"bg_color": "white"}, lambda text: text == "image/jpeg"),
}


@pytest.mark.parametrize("name", HEADERS)
def test_every_header_is_true(client: httpx.Client, name: str) -> None:
    words, is_true = HEADERS[name]
    assert is_true(ask(client, **words).headers[name])


@pytest.mark.parametrize("words", [{}, {"crop": "true"}, {"scale": "40%", "position": "0% 100%"}, {"bg_color": "red"}])
def test_the_subject_is_where_the_json_says(client: httpx.Client, words: dict[str, str]) -> None:
    answer = client.post(
        PATH,
        files={"image_file": square()},
        data={"size": "full", **words},
        headers={"Accept": "application/json"},
    )
    assert answer.headers["content-type"] == "application/json"
    data = answer.json()["data"]
    plain = ask(client, **words)
    assert base64.b64decode(data.pop("result_b64")) == plain.content
    names = [f"foreground_{side}" for side in ("left", "top", "width", "height")]
    assert data == dict(zip(names, box(plain), strict=True))


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("*/*", "image/png"),
        ("image/*", "image/png"),
        ("application/json, text/plain, */*", "image/png"),
        ("application/json, image/*", "image/png"),
        ("application/json", "application/json"),
        ("Application/JSON; charset=utf-8", "application/json"),
    ],
)
def test_json_is_for_those_who_accept_nothing_else(client: httpx.Client, accept: str, kind: str) -> None:
    """The third is what axios sends, with which the samples of that interface write the answer to a file."""
    answer = client.post(PATH, files={"image_file": square()}, headers={"Accept": accept})
    assert answer.headers["content-type"] == kind
    wrong = client.post(PATH, files={"image_file": b"none"}, headers={"Accept": accept})
    assert code_of(wrong) == "invalid_file_type", "errors are JSON for everybody"


def test_a_browser_s_page_of_an_allowed_origin_may_read_the_headers(tmp_path: Path) -> None:
    with served(*quick(tmp_path, origins=("https://shop.example",))) as client:
        answer = client.post(PATH, files={"image_file": square()}, headers={"Origin": "https://shop.example"})
        exposed = {name.strip().lower() for name in answer.headers["access-control-expose-headers"].split(",")}
        assert {name.lower() for name in HEADERS} - {"content-type"} <= exposed


# --- errors ----------------------------------------------------------------------------------------------------------


def _text(**words: Any) -> dict[str, Any]:
    return {"files": {"image_file": ("a.png", square())}, "data": words}


def _picture(data: bytes) -> dict[str, Any]:
    return {"files": {"image_file": ("a.png", data)}}


def _wide() -> bytes:
    buffer = io.BytesIO()
    Image.new("1", (3000, 2000)).save(buffer, "PNG")
    return buffer.getvalue()


def _black() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (32, 32)).save(buffer, "PNG")
    return buffer.getvalue()


_CODED = base64.b64encode(square()).decode()
ERRORS: dict[str, list[dict[str, Any]]] = {
    "missing_source": [{"data": {"size": "auto"}}, {"json": {"size": "auto"}}, {"data": {"image_url": ""}}],
    "multiple_sources": [
        {"data": {"image_file_b64": _CODED, "image_url": "https://example.org/"}},
        _text(image_file_b64=_CODED),
    ],
    "invalid_image_url": [
        {"data": {"image_url": url}} for url in ("nothing", "ftp://example.org/a.png", "http://", "http://[::1")
    ],
    "failed_image_download": [{"data": {"image_url": "{web}/missing"}}, {"json": {"image_url": "http://127.0.0.1:9/"}}],
    "invalid_bg_image_url": [_text(bg_image_url="nothing")],
    "failed_bg_download": [_text(bg_image_url="{web}/missing")],
    "multiple_bg_sources": [_text(bg_color="red", bg_image_url="{web}/picture")],
    "failed_to_read_image": [_picture(square()[:100]), _picture(b""), _picture(b"GIF89a")],
    "invalid_file_type": [
        _picture(b"\0\0\0\x18ftypmp42"),
        {"data": {"image_url": "{web}/text"}},
        {"data": {"image_file_b64": "AAAA"}},
    ],
    "file_too_large": [_picture(bytes(1_100_000)), _picture(bytes(3_000_000))],
    "resolution_too_high": [_picture(_wide())],
    "unknown_foreground": [_picture(_black()), _text(roi="0px 0px 20px 20px")],
    "roi_exceeds_bounds": [_text(roi=roi) for roi in ("0px 0px 321px 320px", "0% 0% 100% 101%", "0 0 99999 9")],
    "roi_region_empty": [_text(roi=roi) for roi in ("50% 0% 50% 100%", "10px 10px 5px 20px")],
    "invalid_roi": [_text(roi=roi) for roi in ("1 2 3", "a b c d", "-1px 0px 2px 2px", "0 0 1 1 1", "0 " * 501)],
    "invalid_crop_margin": [
        *(_text(crop="true", crop_margin=text) for text in ("51%", "501px", "-1px", "1px 2px 3px", "wide", "1px 60%"))
    ],
    "invalid_scale": [_text(scale=scale) for scale in ("9%", "101%", "0%", "50", "50px", "large")],
    "invalid_position": [_text(position=place) for place in ("101%", "50px", "top", "1% 2% 3%", "-1%")],
    "invalid_size": [_text(size="huge")],
    "invalid_type": [_text(type="ghost")],
    "invalid_type_level": [_text(type_level="3")],
    "invalid_format": [_text(format="gif")],
    "invalid_channels": [_text(channels="rgb")],
    "invalid_crop": [_text(crop="perhaps")],
    "invalid_add_shadow": [_text(add_shadow="perhaps")],
    "invalid_shadow_type": [_text(shadow_type="long")],
    "invalid_shadow_opacity": [_text(shadow_opacity=text) for text in ("101", "-1", "50%", "dark")],
    "invalid_semitransparency": [_text(semitransparency="perhaps")],
    "invalid_bg_color": [
        *(_text(bg_color=text) for text in ("blurple", "12345", "blur:5", "gradient:red,blue", "/etc/passwd")),
        _text(bg_color="00f8", format="jpg"),
        _text(bg_color="a" * 101),
    ],
    "invalid_image_file_b64": [{"data": {"image_file_b64": "no base64!"}}],
    "invalid_image_file": [{"data": {"image_file": "a text"}}],
    "invalid_bg_image_file": [_text(bg_image_file="a text")],
    "unknown_parameter": [_text(colour="red"), _text(size="auto", model="u2net"), {"json": {"image_base64": "AAAA"}}],
    "not_a_form": [{"content": b"x", "headers": {"Content-Type": "text/plain"}}],
    "json": [{"content": b"{", "headers": {"Content-Type": "application/json"}}],
    "invalid_parameter": [_text(size=["hd", "4k"])],
}


def code_of(answer: httpx.Response) -> str:
    """The code of an error, whose shape is checked."""
    assert answer.headers["content-type"] == "application/json"
    (error,) = answer.json()["errors"]
    assert set(error) <= {"title", "code", "detail"}
    assert error["title"]
    return str(error["code"])


_CASES = [(code, sent) for code, rows in ERRORS.items() for sent in rows]


@pytest.mark.parametrize(("code", "sent"), _CASES, ids=[f"{code}-{at}" for at, (code, _) in enumerate(_CASES)])
def test_every_error_has_the_code_and_the_status_it_has_there(
    client: httpx.Client, web: str, code: str, sent: dict[str, Any]
) -> None:
    filled = {
        name: json.loads(json.dumps(part).replace("{web}", web)) if name in {"data", "json"} else part
        for name, part in sent.items()
    }
    answer = client.post(PATH, **filled)
    assert (answer.status_code, code_of(answer)) == (400, code)


@pytest.mark.parametrize(("method", "path"), [("POST", PATH), ("GET", "/v1.0/account"), ("POST", "/v1.0/improve")])
def test_a_missing_or_wrong_key_is_403_as_there(client: httpx.Client, method: str, path: str) -> None:
    for key in ("", "wrong-key"):
        answer = client.request(method, path, headers={"X-Api-Key": key})
        assert (answer.status_code, code_of(answer)) == (403, "auth_failed")


def test_a_full_queue_is_429_with_true_figures_and_a_time_to_come_again(tmp_path: Path) -> None:
    settings, _ = quick(tmp_path, workers=1, queue=1)
    models = Held(settings)
    with served(settings, models) as client:
        waiting = [threading.Thread(target=ask, args=(client,)) for _ in range(2)]
        for thread in waiting:
            thread.start()
        until(lambda: "cutout_queue_depth 2.0" in client.get("/metrics").text)
        answer = ask(client)
        assert (answer.status_code, code_of(answer)) == (429, "rate_limit_exceeded")
        assert int(answer.headers["retry-after"]) >= 1
        assert answer.headers["x-ratelimit-limit"] == "1"
        assert answer.headers["x-ratelimit-remaining"] == "0"
        soon = int(answer.headers["x-ratelimit-reset"]) - time.time()
        assert soon == pytest.approx(int(answer.headers["retry-after"]), abs=2)
        metrics = client.get("/metrics").text
        assert 'outcome="overloaded"' in metrics, "one name for the operator, however a client calls it"
        models.go.set()
        for thread in waiting:
            thread.join()


# --- the other two addresses -----------------------------------------------------------------------------------------


@contextmanager
def _counted(client: httpx.Client, key: str, more: int) -> Iterator[None]:
    def account() -> dict[str, Any]:
        answer = client.get("/v1.0/account", headers={"X-Api-Key": key})
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()["data"]["attributes"]
        return found

    before = account()
    yield
    after = account()
    assert after["api"]["calls"] - before["api"]["calls"] == more
    assert after["credits"] == before["credits"], "credits never become fewer"
    assert set(after["credits"]) == {"total", "subscription", "payg", "enterprise"}
    assert after["credits"]["total"] == sum(after["credits"].values()) - after["credits"]["total"]
    assert (after["api"]["sizes"], after["api"]["free_calls"] > 1000) == ("all", True)


def test_an_account_has_credits_without_end_and_counts_the_pictures_of_its_key(client: httpx.Client) -> None:
    with _counted(client, KEY, 2), _counted(client, "another-key", 1):
        for key in (KEY, KEY, "another-key"):
            answer = client.post(PATH, files={"image_file": square()}, headers={"X-Api-Key": key})
            assert answer.status_code == 200
        assert ask(client, size="huge").status_code == 400


def test_pictures_are_not_collected(client: httpx.Client) -> None:
    answer = client.post("/v1.0/improve", files={"image_file": square()}, data={"tag": "batch"})
    assert (answer.status_code, code_of(answer)) == (400, "not_supported")
    assert "nothing leaves this machine" in answer.json()["errors"][0]["title"]


@pytest.mark.parametrize(
    ("words", "ours"),
    [
        ({}, {}),
        ({"crop": "true", "add_shadow": "true"}, {"crop": "true", "shadow": "true"}),
        ({"scale": "50%"}, {"canvas": "320x320", "scale": "50%"}),
        ({"channels": "alpha"}, {"mask": "true"}),
        ({"bg_color": "red"}, {"background": "red", "output_format": "jpg"}),
    ],
)
def test_the_bytes_are_those_of_the_other_address(
    client: httpx.Client, words: dict[str, str], ours: dict[str, str]
) -> None:
    """To know where the subject lies changes nothing."""
    answer = client.post("/remove-background", files={"file": ("a.png", square())}, data=ours)
    assert answer.status_code == 200, answer.text
    assert ask(client, **words).content == answer.content
