"""Work that nobody wants any more ends at its next step, in the core and in the service."""

from __future__ import annotations

import io
import threading
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from PIL import Image
from served import quick, served, until
from small import ORANGE

from cutout.errors import CancelledError
from cutout.formats import decode
from cutout.formats.decode import Picture
from cutout.imaging import cleanup, closed_form, decontaminate, layout
from cutout.options import Encoding, RemoveOptions
from cutout.output_formats import OutputFormat
from cutout.pipeline.convert import convert
from cutout.pipeline.remover import Remover
from cutout.service.store.sqlite import SqliteJobs
from cutout.timing import Cancellation, StageTimes

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from cutout.service.models import Models

PATH = "/remove-background"
MANY = {"tiles": "8"}


def stripes(frames: int = 1) -> bytes:
    """A picture with a contour in every tile, as a PNG; or an animation of several."""
    images = []
    for number in range(frames):
        images.append(Image.new("RGB", (512, 512)))
        for left in range(number, 512, 20):
            images[-1].paste(ORANGE, (left, 0, left + 10, 512))
    buffer = io.BytesIO()
    images[0].save(buffer, "PNG", save_all=frames > 1, append_images=images[1:])
    return buffer.getvalue()


class Gate:
    """A model that looks only as often as it is let, and counts."""

    def __init__(self, inner: Any, looks: int = 0) -> None:
        self.inner, self.spec, self.device = inner, inner.spec, inner.device
        self.looks = 0
        self.go = threading.Semaphore(looks)

    def predict(self, *args: Any, **words: Any) -> Any:
        """One look."""
        self.looks += 1
        assert self.go.acquire(timeout=60)
        return self.inner.predict(*args, **words)

    def close(self) -> None:
        """Nothing."""


# --- the core ---


def test_a_cancellation_holds() -> None:
    wanted = Cancellation()
    wanted.check()
    for _ in range(2):
        wanted.cancel()
        with pytest.raises(CancelledError, match="nobody waits"):
            wanted.check()


@pytest.mark.parametrize("after", [1, 2, 5])
@pytest.mark.parametrize(
    ("frames", "look"),
    [
        (1, {"tiles": 8}),
        (1, {"tiles": 8, "refine": True, "matting": True}),
        (9, {}),
        (9, {"crop": True}),
        (9, {"tiles": 2}),
    ],
    ids=["tiles", "refined", "frames", "frames that are framed alike", "tiles of frames"],
)
def test_no_look_follows_the_one_during_which_it_was_cancelled(
    model: Path, frames: int, look: dict[str, Any], after: int
) -> None:
    wanted = Cancellation()
    remover: Any = Remover(model, device="cpu")
    gate = remover.session = Gate(remover.session, 1000)
    plain = gate.inner.predict

    def cancelling(*args: Any, **words: Any) -> Any:
        if gate.looks == after:
            wanted.cancel()
        return plain(*args, **words)

    gate.inner.predict = cancelling
    with pytest.raises(CancelledError):
        convert(stripes(frames), OutputFormat.PNG, remover, RemoveOptions(**look), Encoding(), StageTimes(wanted.check))
    assert gate.looks == after


@pytest.mark.parametrize(
    ("module", "step", "options"),
    [
        (cleanup, "clean_up", RemoveOptions(largest=True)),
        (decontaminate, "decontaminate", RemoveOptions()),
        (layout, "finish", RemoveOptions()),
    ],
    ids=["clean-up", "colours", "framing"],
)
def test_what_was_cancelled_is_not_encoded(
    model: Path, monkeypatch: pytest.MonkeyPatch, module: Any, step: str, options: RemoveOptions
) -> None:
    """Whichever step after the looks it was cancelled in."""
    wanted = Cancellation()

    def no_more(*_: object, **__: object) -> Any:
        raise AssertionError("it was encoded")

    def cancelling(*args: Any, **words: Any) -> Any:
        wanted.cancel()
        return original(*args, **words)

    original = getattr(module, step)
    monkeypatch.setattr(module, step, cancelling)
    monkeypatch.setattr("cutout.pipeline.convert.encode", no_more)
    with pytest.raises(CancelledError):
        convert(
            stripes(),
            OutputFormat.PNG,
            Remover(model, device="cpu"),
            options,
            Encoding(),
            StageTimes(wanted.check),
        )


@pytest.mark.parametrize(
    ("module", "step", "options"),
    [
        (cleanup, "keep_largest", RemoveOptions(largest=True, feather=3)),
        (closed_form.Band, "solve", RemoveOptions(matting=True)),
        (closed_form.Band, "models", RemoveOptions(matting=True)),
    ],
    ids=["clean-up", "matting", "matting of a large picture"],
)
def test_long_steps_end_in_the_middle(
    model: Path, monkeypatch: pytest.MonkeyPatch, module: Any, step: str, options: RemoveOptions
) -> None:
    """Clean-up and matting of a large picture take longer than a look."""
    wanted, original, calls = Cancellation(), getattr(module, step), list[str]()

    def cancelling(*args: Any, **words: Any) -> Any:
        calls.append(step)
        wanted.cancel()
        return original(*args, **words)

    monkeypatch.setattr(module, step, cancelling)
    later = "feather" if module is cleanup else "clean_up"
    monkeypatch.setattr(cleanup, later, lambda *_, **__: calls.append(later))
    image = Image.effect_noise((1500, 1500), 200).convert("RGB")
    with pytest.raises(CancelledError):
        Remover(model, device="cpu").cut(Picture(rgb=image), options, StageTimes(wanted.check))
    assert calls == [step]


def test_what_is_wanted_is_as_it_was(model: Path) -> None:
    remover, options = Remover(model, device="cpu"), RemoveOptions(tiles=8)
    made = [
        convert(stripes(), OutputFormat.PNG, remover, options, Encoding(), stages).encoded
        for stages in (StageTimes(), StageTimes(Cancellation().check))
    ]
    assert made[0] == made[1]
    assert decode.decode(made[0]).rgb.size == (512, 512)


# --- the service ---


def gated(engine: Models) -> Gate:
    (opened,) = engine._models.values()
    gate: Any = Gate(opened.many.session)
    opened.many.session = opened.alone.session = gate
    return gate  # type: ignore[no-any-return]


@pytest.fixture
def held(tmp_path: Path) -> Iterator[tuple[httpx.Client, Gate]]:
    """A service of one worker whose model waits at every look."""
    settings, engine = quick(tmp_path, workers=1, timeout=5)
    gate = gated(engine)
    with served(settings, engine) as client:
        yield client, gate


def is_idle(client: httpx.Client) -> bool:
    said = client.get("/metrics").text
    return "cutout_queue_running 0.0" in said and "cutout_queue_depth 0.0" in said


def still_works(client: httpx.Client) -> bool:
    return client.post(PATH, files={"file": stripes()}).status_code == 200


def test_a_picture_whose_client_has_gone_frees_its_worker_within_one_look(held: tuple[httpx.Client, Gate]) -> None:
    client, gate = held
    with pytest.raises(httpx.ReadTimeout), httpx.Client(base_url=client.base_url) as impatient:
        impatient.post(PATH, files={"file": stripes()}, data=MANY, timeout=1)
    assert gate.looks == 1
    until(lambda: "cutout_queue_depth 0.0" in client.get("/metrics").text)
    gate.go.release(1000)
    until(lambda: is_idle(client))
    assert gate.looks == 1
    assert still_works(client)


def test_a_picture_whose_time_is_over_frees_its_worker_within_one_look(held: tuple[httpx.Client, Gate]) -> None:
    client, gate = held
    answer = client.post(PATH, files={"file": stripes()}, data=MANY)
    assert (answer.status_code, answer.json()["error"]["kind"]) == (503, "timeout")
    assert gate.looks == 1
    gate.go.release(1000)
    until(lambda: is_idle(client))
    assert gate.looks == 1
    assert still_works(client)


def test_a_batch_that_is_deleted_drops_the_picture_that_is_worked_on(
    held: tuple[httpx.Client, Gate], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("cutout.service.runner.LOOK", 0)
    client, gate = held
    task = client.post("/batch-remove-background", files=[("files", stripes())] * 3, data=MANY).json()["task_id"]
    until(lambda: gate.looks == 1)
    assert client.delete(f"/task/{task}").status_code == 204
    gate.go.release(1000)
    until(lambda: is_idle(client))
    assert gate.looks == 1
    assert "cutout_batch_pending 0.0" in client.get("/metrics").text
    assert not (tmp_path / "jobs" / task).exists()
    assert still_works(client)


def test_a_store_that_cannot_be_asked_ends_no_work(
    held: tuple[httpx.Client, Gate], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cutout.service.runner.LOOK", 0)
    client, gate = held
    task = client.post("/batch-remove-background", files=[("files", stripes())], data=MANY).json()["task_id"]
    until(lambda: gate.looks == 1)

    def away(*_: object) -> Any:
        raise OSError("no room")

    with monkeypatch.context() as patch:
        patch.setattr(SqliteJobs, "task", away)
        gate.go.release(1000)
        until(lambda: is_idle(client))
    assert gate.looks > 2
    assert client.get(f"/task-status/{task}").json()["completed"] == 1


def test_an_animation_costs_the_service_one_frame(held: tuple[httpx.Client, Gate]) -> None:
    client, gate = held
    gate.go.release(1000)
    assert client.post(PATH, files={"file": stripes(9)}, data={"output_format": "webp"}).status_code == 200
    assert gate.looks == 1
