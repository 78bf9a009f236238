"""`cutout serve`: one picture over HTTP, limits, and what happens under load."""

from __future__ import annotations

import io
import json
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from PIL import Image
from served import Held, Process, quick, served, until
from small import ORANGE, half

from cutout.errors import CutoutError, OutOfMemoryError, UsageError
from cutout.options import Encoding, RemoveOptions
from cutout.output_formats import OutputFormat
from cutout.pipeline.convert import convert
from cutout.service.models import Models
from cutout.service.settings import Settings, read_keys
from cutout.timing import StageTimes

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from cutout.pipeline.remover import Remover

PATH = "/remove-background"


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """The service with the embedded model."""
    folder = tmp_path_factory.mktemp("real")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUTOUT_HOME", str(folder))
        settings = Settings(device="cpu", workers=2, folder=folder / "jobs")
        with served(settings, Models(settings)) as client:
            yield client


@pytest.fixture(scope="module")
def fast(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """The service with a model that takes no time, which keeps the right half of `picture`."""
    with served(*quick(tmp_path_factory.mktemp("fast"), max_body=200_000, max_pixels=1_000_000)) as client:
        yield client


@pytest.fixture
def picture(tmp_path: Path) -> bytes:
    """Left black, right orange."""
    return half(tmp_path / "half.png").read_bytes()


def post(client: httpx.Client, data: bytes, **fields: str) -> httpx.Response:
    return client.post(PATH, files={"file": ("a.jpg", data)}, data=fields)


def opened(answer: httpx.Response) -> Image.Image:
    assert answer.status_code == 200, answer.text
    return Image.open(io.BytesIO(answer.content))


def test_the_result_is_that_of_the_command_byte_for_byte(real: httpx.Client, examples: Path, remover: Remover) -> None:
    """Whether a picture is alone in the service or one of many."""
    data = (examples / "astronaut.jpg").read_bytes()
    alone = post(real, data)
    with ThreadPoolExecutor(3) as pool:
        many = list(pool.map(lambda _: post(real, data), range(3)))
    expected = convert(data, OutputFormat.PNG, remover, RemoveOptions(), Encoding(), StageTimes()).encoded
    assert {answer.content for answer in [alone, *many]} == {expected}
    assert alone.headers["content-type"] == "image/png"
    assert alone.headers["x-model-version"].startswith("u2netp-")
    assert alone.headers["x-device"] == "cpu"
    assert 0 < float(alone.headers["x-processing-time"]) < 60
    assert "inference;dur=" in alone.headers["server-timing"]


def test_every_option_of_the_command_is_a_form_field(fast: httpx.Client) -> None:
    described = fast.get("/openapi.json").json()["paths"][PATH]["post"]["requestBody"]["content"]
    fields = set(described["multipart/form-data"]["schema"]["properties"])
    assert {*RemoveOptions.names(), "quality", "lossless", "output_format", "model", "file"} <= fields
    assert {"alpha_matting", "foreground_threshold", "background_threshold"} <= fields
    assert not fields & {"threads", "max_pixels"}


@pytest.mark.parametrize(
    ("fields", "mode", "right", "left"),
    [
        ({}, "RGBA", (*ORANGE, 255), (0, 0, 0, 0)),
        ({"mask": "true"}, "L", 255, 0),
        ({"output_format": "jpg"}, "RGB", ORANGE, (255, 255, 255)),
        ({"output_format": "jpg", "background": "#0000ff"}, "RGB", ORANGE, (0, 0, 255)),
        ({"output_format": "webp", "lossless": "on"}, "RGBA", (*ORANGE, 255), (0, 0, 0, 0)),
        ({"background": "", "threshold": "", "model": "brightness"}, "RGBA", (*ORANGE, 255), (0, 0, 0, 0)),
        ({"output_format": "jpg", "background": "gradient:#0000ff,rgb(0,0,255)"}, "RGB", ORANGE, (0, 0, 255)),
    ],
)
def test_fields_do_what_the_options_do(
    fast: httpx.Client, picture: bytes, fields: dict[str, str], mode: str, right: Any, left: Any
) -> None:
    image = opened(post(fast, picture, **fields, rescale="true"))
    assert image.mode == mode
    for place, wanted in (((60, 16), right), ((3, 16), left)):
        found = image.getpixel(place)
        assert found == pytest.approx(wanted, abs=4)


def test_a_background_picture_can_be_sent_along(fast: httpx.Client, picture: bytes) -> None:
    green = io.BytesIO()
    Image.new("RGB", (10, 10), (0, 200, 0)).save(green, "PNG")
    answer = fast.post(PATH, files={"file": ("a.png", picture), "background": ("b.png", green.getvalue())})
    assert opened(answer).getpixel((3, 16)) == (0, 200, 0)
    batch = fast.post(
        "/batch-remove-background", files={"files": ("a.png", picture), "background": ("b.png", green.getvalue())}
    )
    assert batch.status_code == 422
    assert "'background' takes no file" in batch.json()["error"]["message"]
    assert "colour" in batch.json()["error"]["hint"]
    broken = fast.post(PATH, files={"file": ("a.png", picture), "background": ("b.png", b"no picture")})
    assert broken.status_code == 422


def test_a_background_needs_no_temporary_file(tmp_path: Path, picture: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
    with served(*quick(tmp_path)) as client:
        files = {"file": ("a.png", picture), "background": ("b.png", picture)}
        assert opened(client.post(PATH, files=files)).mode == "RGB"


@pytest.mark.parametrize("charset", ["undefined", "idna", "unknown", "utf-7", "hex"])
def test_no_charset_of_a_form_is_a_bug(fast: httpx.Client, picture: bytes, charset: str) -> None:
    lines = [
        b"--x",
        b'Content-Disposition: form-data; name="threshold"',
        b"",
        b"\\ud800\xff" + b"a" * 70,
        b"--x--",
        b"",
    ]
    kind = f"multipart/form-data; boundary=x; charset={charset}"
    answer = fast.post(PATH, content=b"\r\n".join(lines), headers={"Content-Type": kind})
    assert answer.status_code in {400, 422}


def test_texts_are_texts_and_no_way_to_fill_the_memory(fast: httpx.Client, picture: bytes) -> None:
    for path, name in ((PATH, "file"), ("/batch-remove-background", "files")):
        answer = fast.post(path, files={name: ("a.png", picture)}, data={"background": "a" * 100_000})
        assert answer.status_code == 400
        assert "64KB" in answer.json()["error"]["message"]


def _large() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (2000, 600)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "fields", "status", "kind"),
    [
        (b"", {}, 400, "empty"),
        (b"This is no picture at all.", {}, 415, "not-a-picture"),
        (b"\x89PNG\r\n\x1a\n and nothing else", {}, 422, "picture"),
        (_large(), {}, 413, "too-large"),
        (b"\xff\xd8\xff" + bytes(200_001), {}, 413, "too-large"),
        (None, {"output_format": "bmp"}, 422, "usage"),
        (None, {"model": "u2net"}, 422, "usage"),
        (None, {"mattingg": "1"}, 422, "usage"),
        (None, {"threshold": "300"}, 422, "usage"),
        (None, {"threshold": "low"}, 422, "usage"),
        (None, {"mask": "perhaps"}, 422, "usage"),
        (None, {"quality": "101"}, 422, "usage"),
        (None, {"threads": "64"}, 422, "usage"),
        (None, {"max_pixels": "999999999"}, 422, "usage"),
        (None, {"background": "nocolor"}, 422, "usage"),
        (None, {"matting_erode": "999999999"}, 422, "usage"),
        (None, {"crop": "true", "margin": "900%"}, 422, "usage"),
        (None, {"canvas": "2000x2000"}, 422, "usage"),
        (None, {"erode": "1000"}, 422, "usage"),
        (None, {"erode": "1_000"}, 422, "usage"),
        (None, {"erode": "0_5"}, 422, "usage"),
        (None, {"erode": "１０００"}, 422, "usage"),
        (None, {"erode": "-1000"}, 422, "usage"),
        (None, {"matting": "true", "matting_erode": "9_999"}, 422, "usage"),
        (None, {"min_area": "1e9"}, 422, "usage"),
        (None, {"min_area": "1_0"}, 422, "usage"),
        (None, {"canvas": "2000X2000"}, 422, "usage"),
        (None, {"canvas": "1x20000"}, 422, "usage"),
    ],
)
def test_what_is_wrong_is_said_in_one_shape(
    fast: httpx.Client, picture: bytes, data: bytes | None, fields: dict[str, str], status: int, kind: str
) -> None:
    answer = post(fast, picture if data is None else data, **fields)
    assert answer.status_code == status
    error = answer.json()["error"]
    assert set(error) == {"kind", "message", "hint", "request_id"}
    assert error["kind"] == kind
    assert error["request_id"] == answer.headers["x-request-id"]
    assert "--" not in error["message"], "fields are named as in the form"


def test_requests_that_are_no_form_are_refused(fast: httpx.Client, picture: bytes) -> None:
    assert fast.post(PATH, content=picture, headers={"Content-Type": "image/png"}).status_code == 415
    assert fast.post(PATH, data={"file": "text"}, files={"x": b"1"}).status_code in {400, 422}
    assert fast.post(PATH, content=b"--x", headers={"Content-Type": "multipart/form-data"}).status_code == 400
    assert fast.get(PATH).status_code == 405
    assert fast.get("/nothing").json()["error"]["kind"] == "not-found"


def test_a_client_names_no_files_of_this_machine(fast: httpx.Client, picture: bytes, examples: Path) -> None:
    """Nor does it learn which there are."""
    there, missing = str(examples / "coffee.jpg"), str(examples / "tea.jpg")
    said = [post(fast, picture, background=path).json()["error"] for path in (there, missing)]
    assert said[0]["kind"] == said[1]["kind"] == "usage"
    assert said[0]["message"].replace(there, "") == said[1]["message"].replace(missing, "")
    here, gone = (post(fast, picture, background=name).json()["error"] for name in ("pyproject.toml", "pyproject.tom"))
    assert here["message"] == gone["message"]


def test_a_body_is_refused_while_it_is_read(fast: httpx.Client) -> None:
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
        while sent < 200:
            sent += 1
            yield bytes(100_000)

    try:
        answer = fast.post(PATH, content=endless(), headers={"Content-Type": "multipart/form-data; boundary=x"})
        assert answer.status_code == 413
    except httpx.TransportError:
        pass  # it hung up, as it may
    with socket.create_connection((fast.base_url.host, fast.base_url.port or 0), 30) as announced:
        announced.sendall(f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 999999999\r\n\r\n".encode())
        assert announced.recv(12) == b"HTTP/1.1 413"


def test_answers_are_safe_to_show_in_a_browser(fast: httpx.Client, picture: bytes) -> None:
    for answer in (post(fast, picture), fast.get("/"), fast.get("/health"), fast.get("/nothing")):
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert "access-control-allow-origin" not in answer.headers
        assert "server" not in answer.headers
    assert fast.get("/health", headers={"X-Request-Id": "mine-1"}).headers["x-request-id"] == "mine-1"
    assert fast.get("/health", headers={"X-Request-Id": "a b"}).headers["x-request-id"] != "a b"


def test_pages_ask_nobody_else(fast: httpx.Client) -> None:
    for path in ("/", "/docs"):
        text = fast.get(path).text
        assert "<script>" in text
        assert "http://" not in text
        assert "https://" not in text
        assert " src=" not in text


def test_what_watches_the_service_can_read(fast: httpx.Client, picture: bytes) -> None:
    post(fast, picture)
    assert fast.get("/health").json()["status"] == "ok"
    assert fast.get("/ready").json()["models"] == ["brightness"]
    for path in ("/health", "/ready", "/", "/docs"):
        head = fast.head(path)
        assert (head.status_code, head.content) == (200, b"")
    text = fast.get("/metrics").text
    for line in (
        'cutout_requests_total{endpoint="/remove-background",outcome="200"}',
        'cutout_stage_seconds_bucket{le="0.005",stage="decode"}',
        'cutout_model_loads_total{model="brightness"} 1.0',
        "cutout_queue_depth 0.0",
        "cutout_queue_limit 128.0",
        "process_resident_memory_bytes",
    ):
        assert line in text


def test_keys_open_the_service(tmp_path: Path, picture: bytes) -> None:
    with served(*quick(tmp_path, api_keys=("first-key", "second-key"), origins=("https://shop.example",))) as client:
        assert post(client, picture).status_code == 401
        for name, value in (("X-Api-Key", "second-key"), ("Authorization", "Bearer first-key")):
            client.headers = httpx.Headers({name: value})
            assert post(client, picture).status_code == 200
        client.headers = httpx.Headers({"X-Api-Key": "second-ke", "Origin": "https://shop.example"})
        refused = post(client, picture)
        assert refused.status_code == 401
        assert refused.headers["access-control-allow-origin"] == "https://shop.example"
        assert client.get("/health").status_code == 200
        other = client.options(PATH, headers={"Origin": "https://other.example"})
        assert other.status_code == 401
        assert "access-control-allow-origin" not in other.headers
        assert client.options(PATH).status_code == 204


def test_a_full_queue_says_so_at_once_and_shuts_nobody_else_out(tmp_path: Path, picture: bytes) -> None:
    settings, _ = quick(tmp_path, workers=1, queue=3, api_keys=("greedy-key", "modest-key"))
    engine = Held(settings)
    with served(settings, engine) as client, ThreadPoolExecutor(4) as pool:
        client.headers["X-Api-Key"] = "greedy-key"
        first = [pool.submit(post, client, picture) for _ in range(3)]
        until(lambda: "cutout_queue_depth 3.0" in client.get("/metrics").text)
        refused = post(client, picture)
        assert refused.status_code == 503
        assert refused.json()["error"]["kind"] == "overloaded"
        assert int(refused.headers["retry-after"]) >= 1
        assert client.get("/ready").status_code == 503
        other = pool.submit(client.post, PATH, files={"file": picture}, headers={"X-Api-Key": "modest-key"})
        until(lambda: "cutout_queue_depth 4.0" in client.get("/metrics").text)
        engine.go.set()
        assert [answer.result().status_code for answer in [*first, other]] == [200] * 4


def _waits(client: httpx.Client, number: int) -> bool:
    return f"cutout_queue_waiting {number}.0" in client.get("/metrics").text


def test_clients_take_turns(tmp_path: Path) -> None:
    settings, _ = quick(tmp_path, workers=1, api_keys=("greedy-key", "modest-key"))
    engine = Held(settings)
    pictures = {size: half(tmp_path / f"{size}.png", (size, 32)).read_bytes() for size in range(64, 70)}
    with served(settings, engine) as client, ThreadPoolExecutor(6) as pool:
        answers = []
        for number, (size, data) in enumerate(pictures.items()):
            key = "modest-key" if size == 69 else "greedy-key"
            answers.append(pool.submit(client.post, PATH, files={"file": data}, headers={"X-Api-Key": key}))
            until(partial(_waits, client, number))
        engine.go.set()
        assert all(answer.result().status_code == 200 for answer in answers)
    order = [next(size for size, data in pictures.items() if data == begun) for begun in engine.begun]
    assert order == [64, 65, 69, 66, 67, 68]


def test_what_nobody_waits_for_any_more_is_not_done(tmp_path: Path, picture: bytes) -> None:
    settings, _ = quick(tmp_path, workers=1)
    engine = Held(settings)
    abandoned = half(tmp_path / "other.png", (70, 32)).read_bytes()
    with served(settings, engine) as client, ThreadPoolExecutor(2) as pool:
        kept = pool.submit(post, client, picture)
        until(lambda: engine.begun)
        with pytest.raises(httpx.ReadTimeout), httpx.Client(base_url=client.base_url, timeout=1) as impatient:
            post(impatient, abandoned)
        until(lambda: 'outcome="gone"' in client.get("/metrics").text)
        engine.go.set()
        assert kept.result().status_code == 200
        assert post(client, picture).status_code == 200
    assert engine.begun == [picture, picture]


def test_a_request_takes_no_longer_than_it_may(tmp_path: Path, picture: bytes) -> None:
    settings, _ = quick(tmp_path, workers=1, timeout=0.3)
    engine = Held(settings)
    with served(settings, engine) as client:
        late = post(client, picture)
        assert (late.status_code, late.json()["error"]["kind"]) == (503, "timeout")
        engine.go.set()


def test_sixty_four_connections_at_once_are_all_served(tmp_path: Path, picture: bytes) -> None:
    with served(*quick(tmp_path)) as client, ThreadPoolExecutor(64) as pool:
        barrier = threading.Barrier(64)

        def one(_number: int) -> int:
            with httpx.Client(base_url=client.base_url, timeout=60) as own:
                barrier.wait()
                return post(own, picture).status_code

        assert list(pool.map(one, range(64))) == [200] * 64


def _caused(text: str, cause: str) -> CutoutError:
    error = CutoutError(text)
    error.__cause__ = RuntimeError(cause)
    return error


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (MemoryError(), 503, "memory"),
        (
            CutoutError("u2netp failed on cuda:0: Failed to allocate memory for requested buffer of size 9"),
            503,
            "memory",
        ),
        (
            _caused("u2netp failed on cuda:0: the memory of the device is full", "CUDA failure 2: out of mem"),
            503,
            "memory",
        ),
        (OutOfMemoryError(), 503, "memory"),
        (ZeroDivisionError("secret inside"), 500, "bug"),
    ],
)
def test_faults_inside_are_answers_too(
    tmp_path: Path, picture: bytes, monkeypatch: pytest.MonkeyPatch, error: Exception, status: int, kind: str
) -> None:
    def broken(*_args: object, **_how: object) -> None:
        raise error

    settings, engine = quick(tmp_path)
    with served(settings, engine) as client:
        monkeypatch.setattr("cutout.service.models.convert", broken)
        answer = post(client, picture)
        assert (answer.status_code, answer.json()["error"]["kind"]) == (status, kind)
        assert "secret" not in answer.text
        assert "Traceback" not in answer.text
        monkeypatch.undo()
        assert post(client, picture).status_code == 200


def test_a_stop_finishes_what_was_accepted(tmp_path: Path, examples: Path) -> None:
    """And every line of the log is JSON that tells of a request by its id."""
    process = Process(tmp_path, "--folder", str(tmp_path / "jobs"), "--jobs", "1")
    data = (examples / "coffee.jpg").read_bytes()
    with ThreadPoolExecutor(3) as pool:
        answers = [pool.submit(post, process.client, data) for _ in range(3)]
        until(lambda: "cutout_queue_depth 3.0" in process.client.get("/metrics").text)
        process.process.terminate()
        assert [answer.result().status_code for answer in answers] == [200] * 3
    ids = {answer.result().headers["x-request-id"] for answer in answers}
    assert process.stop() == 0
    told = {event["request_id"]: event for event in process.events() if event["event"] == "request"}
    assert ids <= set(told)
    assert all(told[name]["status"] == 200 and told[name]["ms"] > 0 for name in ids)


def test_a_service_that_cannot_start_says_why(cutout: Any, tmp_path: Path) -> None:
    missing = cutout("serve", "--model", "birefnet-general")
    assert missing.code == 3
    assert "models pull" in missing.err
    later = cutout("serve", "--no-preload", "--port", "0", "--model", "birefnet-general")
    assert later.code == 3
    assert "models pull" in later.err
    short = cutout("serve", "--api-key", "short")
    assert (short.code, "fewer than 8" in short.err) == (2, True)
    star = cutout("serve", "--origin", "*")
    assert star.code == 2


def test_keys_come_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text("# of the shop\nfirst-key\n\n second-key \n")
    assert read_keys(path) == ("first-key", "second-key")
    path.write_text("# none\n")
    with pytest.raises(UsageError, match="holds no key"):
        read_keys(path)
    with pytest.raises(UsageError, match="cannot be read"):
        read_keys(tmp_path / "missing")


def test_a_missing_extra_is_named(cutout: Any, tmp_path: Path) -> None:
    (tmp_path / "fastapi.py").write_text("raise ModuleNotFoundError(\"No module named 'fastapi'\", name='fastapi')\n")
    run = cutout("serve", PYTHONPATH=str(tmp_path))
    assert run.code == 2
    assert "cutout-cli[cpu,serve]" in run.err


def test_openapi_describes_the_errors(fast: httpx.Client) -> None:
    answers = fast.get("/openapi.json").json()["paths"][PATH]["post"]["responses"]
    assert {"200", "400", "401", "413", "415", "422", "503"} <= set(answers)
    assert json.dumps(answers["503"]).count("request_id") == 2


def test_a_field_that_does_nothing_is_told(fast: httpx.Client, picture: bytes) -> None:
    files = {"file": ("a.png", picture)}
    answer = fast.post(PATH, files=files, data={"matting_erode": "3", "background_fit": "tile", "threshold": "9"})
    assert answer.headers["X-Warning"] == (
        "background_fit does nothing here: the background is no picture; "
        "matting_erode does nothing here: it goes with matting"
    )
    defaults = {
        "matting_erode": "10",
        "background_fit": "cover",
        "tiles": "0",
        "png_level": "fast",
    }  # as the page sends
    assert "X-Warning" not in fast.post(PATH, files=files, data=defaults).headers
