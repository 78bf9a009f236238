"""What a client may rely on, row by row: nothing is lost in silence, and every refusal says what it is."""

from __future__ import annotations

import io
import json
import re
import socket
import sqlite3
import threading
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any
from unittest.mock import Mock

import httpx
import pytest
from PIL import Image
from served import Held, Process, connected, quick, received, served, until
from small import brightness_model, half

from cutout.errors import CutoutError, UsageError
from cutout.service.http.answers import disposition, label
from cutout.service.http.problems import Problem
from cutout.service.models import further_frames
from cutout.service.queue import WorkQueue
from cutout.service.settings import Settings
from cutout.service.store.sqlite import SqliteJobs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

ONE, BATCH, BG = "/remove-background", "/batch-remove-background", "/v1.0/removebg"


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """The service with a model that takes no time."""
    with served(*quick(tmp_path_factory.mktemp("contract"), max_body=200_000, max_tasks=1000)) as found:
        yield found


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Left black, right orange."""
    return half(tmp_path_factory.mktemp("picture") / "half.png").read_bytes()


# --- every refusal is JSON -------------------------------------------------------------------------------------------

_HOST = b"Host: localhost\r\n"
_REFUSALS: dict[str, tuple[bytes, int, str]] = {
    "no HTTP": (b"garbage\r\n\r\n", 400, "request"),
    "a version that there is not": (b"GET / HTTP/9.9\r\n\r\n", 400, "request"),
    "a length that is none": (b"POST / HTTP/1.1\r\n" + _HOST + b"Content-Length: abc\r\n\r\n", 400, "request"),
    "two hosts": (b"GET / HTTP/1.1\r\nConnection: close\r\n" + _HOST + _HOST + b"\r\n", 400, "host"),
    "long headers": (b"GET / HTTP/1.1\r\n" + _HOST + b"Cookie: " + b"a" * 66_000 + b"\r\n\r\n", 431, "too-long"),
    "no such page": (b"GET /none HTTP/1.1\r\nConnection: close\r\n" + _HOST + b"\r\n", 404, "not-found"),
    "no such method": (b"PUT / HTTP/1.1\r\nConnection: close\r\n" + _HOST + b"\r\n", 405, "method"),
    "a large body": (
        b"POST " + ONE.encode() + b" HTTP/1.1\r\nConnection: close\r\n" + _HOST + b"Content-Length: 99999999\r\n\r\n",
        413,
        "too-large",
    ),
    "no form": (b"POST " + ONE.encode() + b" HTTP/1.1\r\nConnection: close\r\n" + _HOST + b"\r\n", 415, "not-a-form"),
    "a broken form": (
        b"POST "
        + ONE.encode()
        + b" HTTP/1.1\r\nConnection: close\r\n"
        + _HOST
        + b"Content-Type: multipart/form-data\r\nContent-Length: 3\r\n\r\n--x",
        400,
        "request",
    ),
    "another's name": (b"GET / HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n", 421, "host"),
}


@pytest.mark.parametrize(("sent", "status", "kind"), _REFUSALS.values(), ids=_REFUSALS.keys())
def test_every_refusal_is_json_of_one_shape(client: httpx.Client, sent: bytes, status: int, kind: str) -> None:
    with connected(client) as connection:
        connection.sendall(sent)
        head, _, body = received(connection).partition(b"\r\n\r\n")
    lines = head.decode().lower().split("\r\n")
    assert lines[0].startswith(f"http/1.1 {status} ")
    assert "content-type: application/json" in lines
    assert "x-content-type-options: nosniff" in lines
    error = json.loads(body)["error"]
    assert set(error) == {"kind", "message", "hint", "request_id"}
    assert error["kind"] == kind
    assert f"x-request-id: {error['request_id']}" in lines
    assert status != 405 or "allow: get, head" in lines or "allow: head, get" in lines


# --- nothing is lost in silence --------------------------------------------------------------------------------------

_Sent = list[tuple[str, Any]]
_TWICE: dict[str, tuple[str, Callable[[bytes], dict[str, Any]], int]] = {
    "two pictures": (ONE, lambda p: {"files": [("file", ("a", p)), ("file", ("b", p))]}, 422),
    "two backgrounds": (
        ONE,
        lambda p: {"files": [("file", ("a", p)), ("background", ("b", p)), ("background", ("c", p))]},
        422,
    ),
    "a background as picture and colour": (
        ONE,
        lambda p: {"files": [("file", ("a", p)), ("background", ("b", p))], "data": {"background": "white"}},
        422,
    ),
    "a picture as text and file": (ONE, lambda p: {"files": [("file", ("a", p))], "data": {"file": "x"}}, 422),
    "a text": (ONE, lambda p: {"files": [("file", ("a", p))], "data": {"threshold": ["1", "2"]}}, 422),
    "a text of a batch": (BATCH, lambda p: {"files": [("files", ("a", p))], "data": {"threshold": ["1", "2"]}}, 422),
    "two pictures for remove.bg": (BG, lambda p: {"files": [("image_file", ("a", p)), ("image_file", ("b", p))]}, 400),
    "a word of remove.bg": (BG, lambda p: {"files": [("image_file", ("a", p))], "data": {"size": ["hd", "4k"]}}, 400),
    "a word in JSON": (
        BG,
        lambda _: {"content": '{"size": "hd", "size": "4k"}', "headers": {"Content-Type": "application/json"}},
        400,
    ),
}


@pytest.mark.parametrize(("path", "sent", "status"), _TWICE.values(), ids=_TWICE.keys())
def test_of_two_values_none_is_passed_over(
    client: httpx.Client, picture: bytes, path: str, sent: Callable[[bytes], dict[str, Any]], status: int
) -> None:
    answer = client.post(path, **sent(picture))
    assert answer.status_code == status, answer.text
    assert "is there twice" in answer.text


@pytest.mark.parametrize(("count", "status"), [(50, 202), (51, 413), (54, 413), (55, 413), (61, 413), (300, 413)])
def test_more_pictures_than_a_batch_may_have_are_413(
    client: httpx.Client, picture: bytes, count: int, status: int
) -> None:
    answer = client.post(BATCH, files=[("files", (f"{number}.png", picture)) for number in range(count)])
    assert answer.status_code == status
    if status == 413:
        assert answer.json()["error"]["kind"] == "too-many-files"
        assert "50" in answer.json()["error"]["message"]
    else:
        client.delete(f"/task/{answer.json()['task_id']}")


def _saved(kind: str, count: int, **how: Any) -> bytes:
    frames = [Image.new("RGB", (40, 40), (90 * number, 200, 30)) for number in range(count)]
    for frame in frames:
        frame.paste("black", (0, 0, 20, 40))  # or nothing would be found
    buffer = io.BytesIO()
    more: dict[str, Any] = {"save_all": True, "append_images": frames[1:]} if count > 1 else {}
    frames[0].save(buffer, kind, **more, **how)
    return buffer.getvalue()


_ANIMATED = ["GIF", "PNG", "WEBP", "TIFF", "AVIF"]


@pytest.mark.parametrize("kind", _ANIMATED)
def test_a_picture_of_which_only_the_first_frame_is_left_comes_with_a_warning(client: httpx.Client, kind: str) -> None:
    many, one = _saved(kind, 3), _saved(kind, 1)
    for path, field in ((ONE, "file"), (BG, "image_file")):
        told = client.post(path, files={field: ("a", many)})
        assert told.status_code == 200, told.text
        assert "only the first" in told.headers["x-warning"]
        assert "only the first" not in client.post(path, files={field: ("a", one)}).headers.get("x-warning", "")
    batch = client.post(BATCH, files=[("files", ("one", one)), ("files", ("many", many))]).json()
    assert [(entry["number"], entry["name"]) for entry in batch["warnings"]] == [(1, "many")]
    done = until(
        lambda: (state := client.get(f"/task-status/{batch['task_id']}").json())["state"] == "finished" and state
    )
    assert done["completed"] == 2, "they were looked at before, and are whole nevertheless"


further = partial(further_frames, max_pixels=1_000_000)


@pytest.mark.parametrize("kind", _ANIMATED)
def test_looking_for_further_frames_never_fails(kind: str) -> None:
    """Nor does it believe a count: what it takes is bounded by the file that is there."""
    data = _saved(kind, 3)
    for end in range(len(data)):
        further(data[:end])
    for at in range(min(len(data), 400)):
        further(data[:at] + b"\xff\xff\xff\xff" + data[at + 4 :])
    assert not further(b"")


def test_a_claim_of_frames_alone_is_no_animation() -> None:
    one = _saved("PNG", 1)
    claim = b"\0\0\0\x08acTL\x7f\xff\xff\xff\0\0\0\0\0\0\0\0"
    assert not further(one[:33] + claim + one[33:])


@pytest.mark.parametrize(
    ("path", "fields", "status", "mode"),
    [
        (ONE, {"background": "#ff000080", "output_format": "jpg"}, 422, ""),
        (ONE, {"background": "transparent", "output_format": "jpg"}, 422, ""),
        (ONE, {"background": "#ff000080", "output_format": "png"}, 200, "RGBA"),
        (ONE, {"background": "#ff0000", "output_format": "jpg"}, 200, "RGB"),
        (ONE, {"output_format": "jpg"}, 200, "RGB"),
        (ONE, {"output_format": "jpg", "mask": "true"}, 200, "L"),
        (BATCH, {"background": "#ff000080", "output_format": "jpg"}, 422, ""),
        (BG, {"bg_color": "ff000080", "format": "jpg"}, 400, ""),
        (BG, {"bg_color": "ff000080", "format": "auto"}, 200, "RGBA"),
        (BG, {"bg_color": "ff000080"}, 200, "RGBA"),
        (BG, {"bg_color": "ff0000"}, 200, "RGB"),
    ],
)
def test_transparency_that_was_asked_for_is_kept_or_refused(
    client: httpx.Client, picture: bytes, path: str, fields: dict[str, str], status: int, mode: str
) -> None:
    field = {ONE: "file", BATCH: "files", BG: "image_file"}[path]
    answer = client.post(path, files={field: ("a", picture)}, data=fields)
    assert answer.status_code == status, answer.text
    if status == 200:
        assert Image.open(io.BytesIO(answer.content)).mode == mode
    else:
        assert "transparency" in answer.text


# --- names of files --------------------------------------------------------------------------------------------------

_NAMES: dict[str, tuple[str, str]] = {
    "photo.jpg": ("photo-cutout.png", ""),
    "my photo (1).JPG": ("my photo (1)-cutout.png", ""),
    "../../etc/passwd": ("passwd-cutout.png", ""),
    "C:\\temp\\a.png": ("a-cutout.png", ""),
    "größe.png": ("gr__e-cutout.png", "gr%C3%B6%C3%9Fe-cutout.png"),
    'a".png\r\nX-Evil: 1': ("a_-cutout.png", ""),
    "fdp\u202egnp.exe": ("fdp_gnp-cutout.png", ""),
    "con.png": ("_con-cutout.png", ""),
    "..": ("picture-cutout.png", ""),
    "": ("picture-cutout.png", ""),
    "a" * 300: ("a" * 120 + "-cutout.png", ""),
    "100%;x.png": ("100__x-cutout.png", "100%25%3Bx-cutout.png"),
}


@pytest.mark.parametrize(("given", "plain", "full"), [(given, *names) for given, names in _NAMES.items()])
def test_results_have_names_that_are_safe_to_save_under(given: str, plain: str, full: str) -> None:
    header = disposition(given, "png")
    found = re.fullmatch(r"attachment; filename=\"([A-Za-z0-9 ._()+-]+)\"(?:; filename\*=UTF-8''(\S+))?", header)
    assert found is not None, header
    assert (found[1], found[2] or "") == (plain, full)


def test_every_result_has_a_name(client: httpx.Client, picture: bytes) -> None:
    wanted = 'attachment; filename="my photo-cutout.png"'
    assert client.post(ONE, files={"file": ("my photo.jpg", picture)}).headers["content-disposition"] == wanted
    assert client.post(BG, files={"image_file": ("my photo.jpg", picture)}).headers["content-disposition"] == wanted
    packed = client.post(BG, files={"image_file": ("a.jpg", picture)}, data={"format": "zip"})
    assert packed.headers["content-disposition"] == 'attachment; filename="a-cutout.zip"'
    task = client.post(BATCH, files={"files": ("my photo.jpg", picture)}).json()["task_id"]
    one = until(lambda: (answer := client.get(f"/task-result/{task}/0")).status_code == 200 and answer)
    assert one.headers["content-disposition"] == wanted
    assert label("a\u200b\u202eb", "x") == "a__b"


# --- HEAD ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    ["/", "/docs", "/health", "/ready", "/metrics", "/openapi.json", "/favicon.ico", "{status}", "{all}", "{one}"],
)
def test_what_can_be_read_can_be_asked_for_its_headers(client: httpx.Client, picture: bytes, path: str) -> None:
    if "{" in path:
        task = client.post(BATCH, files={"files": ("a.png", picture)}).json()["task_id"]
        until(lambda: client.get(f"/task-result/{task}").status_code == 200)
        path = path.format(status=f"/task-status/{task}", all=f"/task-result/{task}", one=f"/task-result/{task}/0")
    head, got = client.head(path), client.get(path)
    assert (head.status_code, head.content) == (200, b"")
    for name in ("content-type", "content-disposition", "content-security-policy"):
        assert head.headers.get(name) == got.headers.get(name)
    if path != "/metrics":
        assert head.headers["content-length"] == str(len(got.content))


# --- the description -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keys", [(), ("some-key",)])
def test_the_description_says_which_keys_are_needed_where(tmp_path: Path, keys: tuple[str, ...]) -> None:
    with served(*quick(tmp_path, api_keys=keys)) as client:
        for _ in range(2):
            found = client.get("/openapi.json").json()
    assert found["components"]["securitySchemes"] == {
        "key": {"type": "apiKey", "in": "header", "name": "X-Api-Key"},
        "bearer": {"type": "http", "scheme": "bearer"},
    }
    paths = found["paths"]
    both: list[dict[str, list[str]]] = [{"key": []}, {"bearer": []}]
    assert paths[ONE]["post"]["security"] == (both if keys else [{}, *both])
    assert paths["/health"]["get"]["security"] == []
    assert {"403", "421"} <= set(paths[BATCH]["post"]["responses"])
    assert "Retry-After" in paths[ONE]["post"]["responses"]["503"]["headers"]


def test_bounds_in_the_description_are_those_that_hold(client: httpx.Client, picture: bytes) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    body = paths[BATCH]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]["properties"]
    assert body["files"]["maxItems"] == 50
    fields = paths[ONE]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]["properties"]
    tried = 0
    for name, schema in fields.items():
        for kind in schema.get("anyOf", [schema]):
            if kind.get("type") not in {"integer", "number"}:
                continue
            assert "minimum" in kind, name
            assert "maximum" in kind or name == "max_size", name
            beyond = [kind[word] + step for word, step in (("minimum", -1), ("maximum", 1)) if word in kind]
            for value in beyond:
                with_it = {"crop": "true"} if name == "margin" else {}
                answer = client.post(ONE, files={"file": ("a", picture)}, data={name: str(value), **with_it})
                assert answer.status_code == 422, f"{name}={value}: {answer.status_code}"
                tried += 1
            for value in (kind[word] for word in ("minimum", "maximum") if word in kind):
                error = client.post(ONE, files={"file": ("a", b"GIF89a")}, data={name: str(value)}).json()["error"]
                assert not re.search(r"at most|between|negative|at least", error["message"]), f"{name}={value}: {error}"
    assert tried > 20


# --- keys ------------------------------------------------------------------------------------------------------------


def test_keys_may_have_signs_of_any_alphabet(tmp_path: Path, picture: bytes) -> None:
    """As UTF-8, or as Latin-1, which is what many libraries make of a header; both are the same client."""
    with served(*quick(tmp_path, api_keys=("schlüssel-1", "ключ-ключ", "plain-key"))) as client:
        rows = [
            (b"schl\xc3\xbcssel-1", 200),
            (b"schl\xfcssel-1", 200),
            ("ключ-ключ".encode(), 200),
            (b"plain-key", 200),
            (b"schl\xc3\xbcssel-2", 401),
            (b"schl?ssel-1", 401),
            (b"????-????", 401),
            ("schlüssel-1".encode("utf-16-le"), 401),
        ]
        for key, status in rows:
            for name, value in ((b"X-Api-Key", key), (b"Authorization", b"Bearer " + key)):
                if b"\0" in value:
                    continue
                answer = client.post(ONE, files={"file": picture}, headers=[(name, value)])
                assert answer.status_code == status, value
        task = client.post(BATCH, files={"files": picture}, headers=[(b"X-Api-Key", rows[0][0])]).json()["task_id"]
        assert client.get(f"/task-status/{task}", headers=[(b"X-Api-Key", rows[1][0])]).status_code == 200
        assert client.get(f"/task-status/{task}", headers=[(b"X-Api-Key", rows[2][0])]).status_code == 404


@pytest.mark.parametrize("key", [" spaces-around ", "a-line\nbreak", "a-nul\0-byte"])
def test_keys_that_no_header_holds_are_refused_at_once(key: str) -> None:
    with pytest.raises(UsageError, match="API key"):
        Settings(api_keys=(key,))


# --- figures that are true -------------------------------------------------------------------------------------------


def test_what_is_not_known_of_batches_is_no_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with served(*quick(tmp_path)) as client:
        assert "cutout_batch_pending 0.0" in client.get("/metrics").text
        assert "cutout_batch_store_up 1.0" in client.get("/metrics").text
        for error in (CutoutError("the broker is away"), sqlite3.DatabaseError("malformed"), OSError("away")):
            monkeypatch.setattr(SqliteJobs, "pending", Mock(side_effect=error))
            text = client.get("/metrics").text
            assert not re.search(r"^cutout_batch_pending ", text, re.MULTILINE)
            assert "cutout_batch_store_up 0.0" in text
            assert "cutout_queue_depth 0.0" in text
            monkeypatch.undo()
        assert "cutout_batch_pending 0.0" in client.get("/metrics").text


def test_retry_after_follows_from_what_is_worked_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes long now counts, though nothing of it is finished; a number of pictures takes its share of workers."""
    now = 1000.0
    monkeypatch.setattr("cutout.service.queue.time.monotonic", lambda: now)
    queue, inside = WorkQueue(2, 10), ExitStack()
    go, begun = threading.Event(), threading.Semaphore(0)
    for number in range(10):
        inside.enter_context(queue.admitted(f"client {number}"))
    assert queue.retry_after() == 2, "10 inside, half of them, at half a second, by two: 1.25"

    def work(_alone: object) -> bool:
        begun.release()
        return go.wait(60)

    busy = [queue.submit("lane", work) for _ in range(2)]
    assert all(begun.acquire(timeout=60) for _ in busy)
    now = 1040.0
    assert queue.retry_after() == 100
    assert queue.retry_after(1) == 20
    now = 1000_000.0
    assert queue.retry_after() == 600
    go.set()
    assert all(one.result() for one in busy)
    queue.close()


def test_every_answer_that_says_later_says_when(
    tmp_path: Path, picture: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, _ = quick(tmp_path, workers=1, max_tasks=2, timeout=1.0, queue=3)
    engine = Held(settings)
    asked: list[float | None] = []

    def told(_self: WorkQueue, pictures: float | None = None) -> int:
        asked.append(pictures)
        return 77

    monkeypatch.setattr(WorkQueue, "retry_after", told)
    with served(settings, engine) as client:
        tasks = [client.post(BATCH, files=[("files", ("a", picture))] * count).json()["task_id"] for count in (3, 3)]
        rows: list[tuple[Callable[[], httpx.Response], int, float | None]] = [
            (partial(client.post, BATCH, files={"files": ("a", picture)}), 429, 3.0),
            (partial(client.get, f"/task-result/{tasks[0]}"), 409, 3),
            (partial(client.get, f"/task-result/{tasks[0]}/1"), 409, 3),
            (partial(client.post, ONE, files={"file": ("a", picture)}), 503, None),
        ]
        for ask, status, pictures in rows:
            asked.clear()
            answer = ask()
            assert (answer.status_code, answer.headers["retry-after"]) == (status, "77")
            assert asked == [pictures]
        engine.go.set()


# --- clients that have closed their half -----------------------------------------------------------------------------


def _request(picture: bytes) -> bytes:
    body = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n' + picture + b"\r\n--x--\r\n"
    head = f"POST {ONE} HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=x\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


@pytest.mark.skipif(
    not hasattr(socket, "TCP_INFO"), reason="the system does not tell a closed half from a closed whole"
)
def test_a_client_that_has_closed_its_half_gets_its_answer_and_one_that_has_gone_is_noticed(
    tmp_path: Path, picture: bytes
) -> None:
    settings, _ = quick(tmp_path, workers=1)
    engine = Held(settings)
    with served(settings, engine) as client, connected(client) as waits:
        waits.sendall(_request(picture))
        waits.shutdown(socket.SHUT_WR)
        until(lambda: engine.begun)
        with connected(client) as goes:
            goes.sendall(_request(picture))
            until(lambda: "cutout_queue_depth 2.0" in client.get("/metrics").text)
        until(lambda: 'outcome="gone"' in client.get("/metrics").text)
        assert "cutout_queue_depth 1.0" in client.get("/metrics").text
        engine.go.set()
        answer = received(waits)
    assert answer.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n")
    assert b"connection: close" in answer
    assert b"\x89PNG" in answer
    assert len(engine.begun) == 1


@pytest.mark.parametrize(
    "sent",
    [b"", b"GET /hea", _request(b"a" * 100)[:-30], b"GET /health HTTP/1.0\r\n\r\n"],
    ids=["", "head", "body", "1.0"],
)
def test_a_half_request_whose_rest_never_comes_is_closed(client: httpx.Client, sent: bytes) -> None:
    with connected(client) as connection:
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        assert received(connection)[:12] in {b"", b"HTTP/1.1 200"}
    until(lambda: "cutout_queue_depth 0.0" in client.get("/metrics").text)


# --- what stands in the way of a start -------------------------------------------------------------------------------


def _damaged(folder: Path) -> None:
    """A database with a page of rubbish in the middle."""
    store = SqliteJobs(folder, expiry=60)
    for _ in range(3):
        store.add("client", {"long": "x" * 9000}, [("a.png", lambda: b"data")], most=99)
    store.close()
    data = (folder / "jobs.sqlite").read_bytes()
    (folder / "jobs.sqlite").write_bytes(data[:4096] + b"\xff" * 8192 + data[12288:])


def _file(folder: Path) -> None:
    folder.write_bytes(b"")


def _no_database(folder: Path) -> None:
    folder.mkdir()
    (folder / "jobs.sqlite").write_bytes(b"This is no database. " * 500)


def _another(folder: Path) -> None:
    folder.mkdir()
    with sqlite3.connect(folder / "jobs.sqlite") as base:
        base.execute("CREATE TABLE items (picture TEXT)")
    base.close()


def _folder(folder: Path) -> None:
    (folder / "jobs.sqlite").mkdir(parents=True)


_IN_THE_WAY: dict[str, tuple[Callable[[Path], None], str]] = {
    "a file": (_file, "cannot be kept in"),
    "no database": (_no_database, "away"),
    "a damaged database": (_damaged, "away"),
    "another's database": (_another, "cannot be kept in"),
    "a folder as database": (_folder, "cannot be kept in"),
}


@pytest.mark.parametrize("preload", ["--preload", "--no-preload"])
@pytest.mark.parametrize(("make", "text"), _IN_THE_WAY.values(), ids=_IN_THE_WAY.keys())
def test_a_folder_that_cannot_be_used_ends_the_start_with_one_line(
    cutout: Any, tmp_path: Path, make: Callable[[Path], None], text: str, preload: str
) -> None:
    make(tmp_path / "jobs")
    model = str(brightness_model(tmp_path))
    run = cutout("serve", "--port", "0", "--device", "cpu", "--model", model, preload, "--folder", tmp_path / "jobs")
    _one_line(run, text, "--folder")


def test_a_folder_that_cannot_be_written_ends_the_start_with_one_line(cutout: Any) -> None:
    _one_line(cutout("serve", "--port", "0", "--device", "cpu", "--folder", "/proc/jobs"), "/proc/jobs", "--folder")


def test_what_another_service_has_ends_the_start_with_one_line(cutout: Any, tmp_path: Path) -> None:
    """Its folder; its port; an address that is another machine's."""
    model = ("--model", str(brightness_model(tmp_path)), "--device", "cpu")
    first = Process(tmp_path, *model, "--folder", str(tmp_path / "jobs"))
    try:
        port = str(httpx.URL(first.url).port)
        run = partial(cutout, "serve", *model)
        _one_line(run("--port", "0", "--folder", tmp_path / "jobs"), "another service keeps its batches", "--folder")
        _one_line(run("--port", port, "--folder", tmp_path / "other"), f"port {port}", "--port")
        _one_line(run("--port", "0", "--host", "192.0.2.1", "--folder", tmp_path / "other"), "192.0.2.1", "--host")
        _one_line(run("--port", "0", "--host", "a" * 70, "--folder", tmp_path / "other"), "cannot listen", "--host")
        assert first.client.get("/health").status_code == 200
    finally:
        assert first.stop() == 0


def test_a_port_that_is_taken_between_is_told_too(monkeypatch: pytest.MonkeyPatch) -> None:
    from cutout.service.http import server as run

    ours = run._bound("127.0.0.1", 0)
    port = ours.getsockname()[1]
    other = run._bound("127.0.0.1", port)  # both may bind as long as none listens
    other.listen()
    with pytest.raises(CutoutError, match="cannot listen"):
        run._listen(ours, "127.0.0.1", port)
    other.close()


def _one_line(run: Any, *texts: str) -> None:
    assert run.code not in {0, 70}, run.err
    assert "Traceback" not in run.err
    assert "listening" not in run.err
    lines = [line for line in run.err.splitlines() if line.strip()]
    assert len(lines) <= 2, run.err  # what happened, and what to do
    assert all(text in run.err.replace("\n", " ") for text in texts), run.err


def test_a_database_that_breaks_while_it_is_used_is_an_answer(tmp_path: Path) -> None:
    store = SqliteJobs(tmp_path / "jobs", expiry=60)

    class Broken:
        in_transaction = False

        def execute(self, *_args: object) -> None:
            raise sqlite3.DatabaseError("database disk image is malformed")

        def close(self) -> None:
            pass

    real, store._base = store._base, Broken()  # type: ignore[assignment]
    claim, task = partial(store.claim, "client"), partial(store.task, "x")
    asks: list[Callable[[], Any]] = [store.pending, store.waiting, claim, store.sweep, task]
    for ask in asks:
        with pytest.raises(Problem, match="cannot be kept") as caught:
            ask()
        assert caught.value.status == 503
    store._base = real
    store.close()
