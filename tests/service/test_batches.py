"""Batches over HTTP: what is accepted is finished or reported failed, whatever happens to the process."""

from __future__ import annotations

import io
import json
import threading
import zipfile
from typing import TYPE_CHECKING, Any

import pytest
from served import Held, Process, quick, served, until
from small import brightness_model, half
from stores import at_once

from cutout.atomic import write_atomic
from cutout.errors import CutoutError, OutputError
from cutout.service import runner
from cutout.service.http.problems import Problem
from cutout.service.store import sqlite
from cutout.service.store.base import MOST_ATTEMPTS
from cutout.service.store.sqlite import SqliteJobs

if TYPE_CHECKING:
    from pathlib import Path

    import httpx

PATH = "/batch-remove-background"


@pytest.fixture
def picture(tmp_path: Path) -> bytes:
    """Left black, right orange."""
    return half(tmp_path / "half.png").read_bytes()


def start(client: httpx.Client, files: list[tuple[str, bytes]], **fields: str) -> str:
    answer = client.post(PATH, files=[("files", file) for file in files], data=fields)
    assert answer.status_code == 202, answer.text
    assert answer.json()["total"] == len(files)
    return str(answer.json()["task_id"])


def finished(client: httpx.Client, task: str) -> dict[str, Any]:
    def look() -> dict[str, Any] | None:
        answer = client.get(f"/task-status/{task}")
        assert answer.status_code == 200, answer.text
        return dict(answer.json()) if answer.json()["state"] == "finished" else None

    found = until(look)
    assert isinstance(found, dict)
    return found


def test_a_batch_from_beginning_to_end(tmp_path: Path, picture: bytes) -> None:
    """Names are labels: two of the same stay apart, none leaves the zip's folder; a broken one is told."""
    names = ["a.png", "a.jpg", "../../etc/passwd", "broken.jpg"]
    with served(*quick(tmp_path)) as client:
        files = [(name, b"no picture" if name == "broken.jpg" else picture) for name in names]
        task = start(client, files, output_format="webp")
        status = finished(client, task)
        assert (status["completed"], status["failed"], status["total"]) == (3, 1, 4)
        assert [file["name"] for file in status["files"]] == ["a.png", "a.jpg", "passwd", "broken.jpg"]
        assert status["files"][3]["error"]["kind"] == "not-a-picture"
        single = client.post("/remove-background", files={"file": picture}, data={"output_format": "webp"})
        one = client.get(f"/task-result/{task}/1")
        assert (one.content, one.headers["content-type"]) == (single.content, "image/webp")
        assert client.get(f"/task-result/{task}/3").status_code == 422
        assert client.get(f"/task-result/{task}/4").status_code == 404
        with zipfile.ZipFile(io.BytesIO(client.get(f"/task-result/{task}").content)) as archive:
            assert archive.namelist() == ["a.webp", "a-2.webp", "passwd.webp", "errors.json"]
            assert archive.read("a-2.webp") == single.content
            assert json.loads(archive.read("errors.json"))[0]["name"] == "broken.jpg"
        assert client.delete(f"/task/{task}").status_code == 204
        for path in ("task-status", "task-result"):
            assert client.get(f"/{path}/{task}").status_code == 404
        assert client.delete(f"/task/{task}").status_code == 404
        assert not [path for path in (tmp_path / "jobs").iterdir() if path.is_dir()], "nothing is left on the disk"


def test_what_cannot_become_a_batch_is_refused_before_anything_is_kept(tmp_path: Path, picture: bytes) -> None:
    settings, _ = quick(tmp_path, max_files=2, max_tasks=1, workers=1)
    engine = Held(settings)
    with served(settings, engine) as client:
        assert client.post(PATH, files=[("files", ("a", picture))] * 3).status_code == 413
        assert client.post(PATH, files={"files": ("a", b"")}).status_code == 400
        assert client.post(PATH, files={"other": ("a", picture)}).status_code == 400
        wrong = client.post(PATH, files={"files": ("a", picture)}, data={"model": "u2net"})
        assert (wrong.status_code, wrong.json()["error"]["kind"]) == (422, "usage")
        task = start(client, [("a", picture)])
        assert client.post(PATH, files={"files": ("a", picture)}).status_code == 429
        assert client.get(f"/task-result/{task}").status_code == 409
        assert client.get(f"/task-result/{task}/0").status_code == 409
        engine.go.set()
        finished(client, task)
        start(client, [("a", picture)])


def test_results_expire_and_leave_nothing_behind(tmp_path: Path, picture: bytes) -> None:
    with served(*quick(tmp_path, expiry=0.5)) as client:
        task = start(client, [("a", picture)])
        until(lambda: client.get(f"/task-status/{task}").status_code == 404)
        until(lambda: not [path for path in (tmp_path / "jobs").iterdir() if path.is_dir()])


def test_a_client_sees_its_own_batches_only(tmp_path: Path, picture: bytes) -> None:
    with served(*quick(tmp_path, api_keys=("first-key", "second-key"))) as client:
        client.headers["X-Api-Key"] = "first-key"
        task = start(client, [("a", picture)])
        client.headers["X-Api-Key"] = "second-key"
        assert client.get(f"/task-status/{task}").status_code == 404
        assert client.delete(f"/task/{task}").status_code == 404


def test_single_pictures_do_not_wait_for_batches(tmp_path: Path, picture: bytes) -> None:
    settings, _ = quick(tmp_path, workers=1)
    engine = Held(settings)
    single = half(tmp_path / "single.png", (70, 32)).read_bytes()
    with served(settings, engine) as client:
        task = start(client, [("a", picture)] * 20)
        until(lambda: engine.begun)
        engine.go.set()
        assert client.post("/remove-background", files={"file": single}).status_code == 200
        finished(client, task)
    assert engine.begun.index(single) < 20


def test_small_batches_do_not_wait_for_large_ones_of_others(tmp_path: Path, picture: bytes) -> None:
    settings, _ = quick(tmp_path, workers=1, api_keys=("greedy-key", "modest-key"))
    engine = Held(settings)
    other = half(tmp_path / "other.png", (70, 32)).read_bytes()
    with served(settings, engine) as client:
        client.headers["X-Api-Key"] = "greedy-key"
        large = [start(client, [("a", picture)] * 20) for _ in range(2)]
        until(lambda: engine.begun)
        client.headers["X-Api-Key"] = "modest-key"
        small = start(client, [("b", other)] * 2)
        engine.go.set()
        assert finished(client, small)["completed"] == 2
        client.headers["X-Api-Key"] = "greedy-key"
        assert [finished(client, task)["completed"] for task in large] == [20, 20]
    assert [number for number, data in enumerate(engine.begun) if data == other][-1] < 10


def test_a_batch_outlives_a_killed_service(tmp_path: Path) -> None:
    model = str(brightness_model(tmp_path))
    large = half(tmp_path / "large.png", (1500, 1200)).read_bytes()
    options = ("--model", model, "--folder", str(tmp_path / "jobs"), "--jobs", "1")
    process = Process(tmp_path, *options)
    task = start(process.client, [(f"{number}.png", large) for number in range(12)])
    until(lambda: process.client.get(f"/task-status/{task}").json()["completed"] >= 2)
    process.kill()
    again = Process(tmp_path, *options)
    status = finished(again.client, task)
    assert (status["completed"], status["failed"]) == (12, 0)
    assert again.client.get(f"/task-result/{task}/11").status_code == 200
    assert again.stop() == 0


def test_a_picture_that_kills_the_service_is_given_up(tmp_path: Path) -> None:
    for _ in range(MOST_ATTEMPTS):
        store = SqliteJobs(tmp_path / "jobs", expiry=60)
        if store.pending() == 0:
            task = store.add("client", {}, [("a.png", lambda: b"data")], most=9)
        work = store.claim("client")
        assert work is not None
        assert store.source(work) == b"data"
        store.close()  # in the middle of its work, as far as the store knows
    store = SqliteJobs(tmp_path / "jobs", expiry=60)
    assert store.claim("client") is None
    found = store.task(task)
    assert found is not None
    assert found.finished
    assert (found.items[0].error or {})["kind"] == "died"
    store.close()


def test_two_services_never_share_a_folder(tmp_path: Path) -> None:
    first = SqliteJobs(tmp_path / "jobs", expiry=60)
    with pytest.raises(CutoutError, match="another service"):
        SqliteJobs(tmp_path / "jobs", expiry=60)
    first.close()
    SqliteJobs(tmp_path / "jobs", expiry=60).close()


def test_a_store_that_another_thread_closes_frees_its_folder(tmp_path: Path) -> None:
    first = SqliteJobs(tmp_path / "jobs", expiry=60)
    closing = threading.Thread(target=first.close)
    closing.start()
    closing.join()
    SqliteJobs(tmp_path / "jobs", expiry=60).close()
    assert first is not None  # it lives until here: not its collection has freed the folder


def full(target: Path, _data: bytes) -> bool:
    """What `write_atomic` does on a full disk."""
    raise OutputError(f"{target} cannot be written: the disk is full")


def test_a_batch_waits_until_a_full_disk_has_room_again(
    tmp_path: Path, picture: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "PAUSE", 0.05)
    settings, _ = quick(tmp_path, workers=1)
    engine = Held(settings)
    with served(settings, engine) as client:
        task = start(client, [("a", picture), ("b", picture)])
        until(lambda: engine.begun)
        monkeypatch.setattr(sqlite, "write_atomic", full)
        engine.go.set()
        until(lambda: len(engine.begun) >= 3)
        monkeypatch.undo()
        status = finished(client, task)
        assert (status["completed"], status["failed"]) == (2, 0)


def test_a_disk_that_stays_full_is_reported(tmp_path: Path, picture: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "PAUSE", 0.05)
    settings, _ = quick(tmp_path, workers=1, max_tasks=1)
    engine = Held(settings)
    with served(settings, engine) as client:
        task = start(client, [("a", picture)])
        until(lambda: engine.begun)
        monkeypatch.setattr(sqlite, "write_atomic", full)
        engine.go.set()
        assert finished(client, task)["files"][0]["error"]["kind"] == "storage"
        refused = client.post(PATH, files={"files": ("a", picture)})
        assert (refused.status_code, refused.json()["error"]["kind"]) == (503, "storage")
        assert str(tmp_path) not in refused.text
        assert [path.name for path in (tmp_path / "jobs").iterdir() if path.is_dir()] == [task]
        monkeypatch.undo()
        finished(client, start(client, [("a", picture)]))


def test_a_picture_that_vanished_is_reported(tmp_path: Path, picture: bytes) -> None:
    settings, _ = quick(tmp_path, workers=1)
    engine = Held(settings)
    with served(settings, engine) as client:
        task = start(client, [("a", picture), ("b", picture)])
        until(lambda: engine.begun)
        (tmp_path / "jobs" / task / "1.in").unlink()
        engine.go.set()
        status = finished(client, task)
        assert [file["state"] for file in status["files"]] == ["done", "failed"]
        assert status["files"][1]["error"]["kind"] == "storage"


def test_a_full_database_is_an_answer_and_works_again_with_room(tmp_path: Path) -> None:
    store = SqliteJobs(tmp_path / "jobs", expiry=60)
    pages = store._base.execute("PRAGMA page_count").fetchone()[0]
    store._base.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(Problem, match="cannot be kept") as caught:
        store.add("client", {"long": "x" * 100_000}, [("a.png", lambda: b"data")], most=9)
    assert (caught.value.status, caught.value.word) == (503, "storage")
    assert not [path for path in (tmp_path / "jobs").iterdir() if path.is_dir()]
    store._base.execute("PRAGMA max_page_count = 100000")
    store.add("client", {"long": "x" * 100_000}, [("a.png", lambda: b"data")], most=9)
    assert store.pending() == 1
    store.close()


def test_what_is_deleted_while_its_result_is_written_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = SqliteJobs(tmp_path / "jobs", expiry=60)

    def deleted_before(target: Path, data: bytes) -> bool:
        store.delete(target.parent.name)
        return write_atomic(target, data)

    def deleted_within(target: Path, _data: bytes) -> bool:
        store.delete(target.parent.name)
        raise OutputError(f"{target} cannot be written: there is no such folder")

    for fault in (deleted_before, deleted_within):
        task = store.add("client", {}, [("a.png", lambda: b"data")], most=9)
        work = store.claim("client")
        assert work is not None
        monkeypatch.setattr(sqlite, "write_atomic", fault)
        store.finish(work, b"result", "png")
        monkeypatch.undo()
        assert store.task(task) is None
        assert not (tmp_path / "jobs" / task).exists()
    store.close()


def test_folders_of_no_batch_are_swept_and_those_of_others_are_not(tmp_path: Path) -> None:
    lost = tmp_path / "jobs" / ("x" * 24)
    others = [tmp_path / "jobs" / name / "0.in" for name in ("holidays", "y" * 24 + "/album")]
    for path in (lost / "0.in", *others):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"data")
    store = SqliteJobs(tmp_path / "jobs", expiry=60)
    assert not lost.exists(), "left by the last process"

    def read() -> bytes:
        store.sweep()
        return b"data"

    task = store.add("client", {}, [("a.png", read)], most=9)
    lost.mkdir()
    (lost / "0.out").write_bytes(b"data")
    store.sweep()
    assert not lost.exists()
    assert (tmp_path / "jobs" / task / "0.in").exists(), "what is just being added is no orphan"
    assert all(path.exists() for path in others)
    store.close()


def test_no_client_passes_its_number_of_batches_by_hurrying(tmp_path: Path) -> None:
    store = SqliteJobs(tmp_path / "jobs", expiry=60)
    assert sum(at_once(store)) == 1
    assert len([path for path in (tmp_path / "jobs").iterdir() if path.is_dir()]) == 1
    store.add("another", {}, [("a.png", lambda: b"data")], most=1)
    store.close()
