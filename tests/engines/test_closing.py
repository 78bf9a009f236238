"""Models are given back: by `close`, at the end of a `with` block, by every command, and when nobody holds them."""

from __future__ import annotations

import gc
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime
import pytest
from PIL import Image
from served import quick, served
from small import half

from cutout.cli import main
from cutout.engines.base import open_engine
from cutout.errors import ClosedError, CutoutError
from cutout.formats.decode import Picture
from cutout.options import DeviceOptions
from cutout.pipeline import remover as pipeline
from cutout.pipeline.remover import Remover
from cutout.service.http.server import _Server, serve

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def picture() -> Picture:
    image = Image.new("RGB", (40, 40))
    image.paste((255, 255, 255), (0, 0, 20, 40))
    return Picture(rgb=image)


def device_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("cutout-device")]


def sessions() -> int:
    gc.collect()
    return sum(isinstance(found, onnxruntime.InferenceSession) for found in gc.get_objects())


PLAIN, BATCHED = None, DeviceOptions(batch=2, cpu_fallback=True)


@pytest.mark.parametrize("options", [PLAIN, BATCHED], ids=["plain", "batched"])
class TestARemover:
    def test_gives_model_and_threads_back_at_the_end_of_a_with_block(self, model: Path, options: Any) -> None:
        before, threads = sessions(), device_threads()
        with Remover(model, device="cpu", device_options=options) as remover:
            assert remover.cut(picture()).size == (40, 40)
            assert sessions() > before
        assert device_threads() == threads
        assert sessions() == before, "though somebody still holds the Remover"
        assert remover.device == "cpu"

    def test_says_so_when_it_is_used_after_its_end(self, model: Path, options: Any) -> None:
        remover = Remover(model, device="cpu", device_options=options)
        for _ in range(3):
            remover.close()
        with pytest.raises(ClosedError, match="was closed") as caught:
            remover.cut(picture())
        assert caught.value.hint == "open it again"
        assert (remover.model, remover.device) == ("brightness", "cpu"), "what it was can still be asked"

    def test_closed_in_the_middle_of_work_leaves_nobody_waiting(self, model: Path, options: Any) -> None:
        """Every picture is done, or ends with the error that says why."""
        remover = Remover(model, device="cpu", device_options=options)
        done = threading.Semaphore(0)

        def work() -> str:
            for _ in range(10_000):
                try:
                    remover.cut(picture())
                except ClosedError:
                    return "closed"
                done.release()
            return "never closed"

        with ThreadPoolExecutor(10) as pool:
            workers = [pool.submit(work) for _ in range(6)]
            for _ in range(30):
                assert done.acquire(timeout=60)
            closing = [pool.submit(remover.close) for _ in range(3)]
            assert [future.result(60) for future in closing] == [None] * 3
            assert [future.result(60) for future in workers] == ["closed"] * 6

    def test_that_nobody_holds_any_more_leaves_no_thread_and_no_session(self, model: Path, options: Any) -> None:
        before, threads = sessions(), device_threads()
        for _ in range(4):
            Remover(model, device="cpu", device_options=options).cut(picture())
        gc.collect()
        for thread in set(device_threads()) - set(threads):
            thread.join(30)
        assert device_threads() == threads
        assert sessions() == before


# --- whoever opens one closes it ---


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The sessions that are opened from here on."""
    found: list[Any] = []
    original = open_engine

    def noting(*args: Any, **words: Any) -> Any:
        found.append(original(*args, **words))
        return found[-1]

    monkeypatch.setattr(pipeline, "open_engine", noting)
    return found


def closed(session: Any) -> bool:
    try:
        session.run(np.zeros((1, 3, 32, 32), np.float32))
    except ClosedError:
        return True
    return False


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Runs a command in this process."""

    def run(*args: str | Path) -> Any:
        monkeypatch.setattr(sys, "argv", ["cutout", *map(str, args)])
        with pytest.raises(SystemExit) as caught:
            main()
        return caught.value.code

    return run


@pytest.mark.parametrize(
    "args",
    [
        ("remove", "{in}", "-o", "{out}/"),
        ("bench", "{in}", "--seconds", "0.1", "--jobs", "1,2"),
        ("eval", "{in}", "{in}"),
        ("compare", "{in}", "-o", "{out}.html"),
    ],
    ids=lambda args: args[0],
)
def test_a_command_closes_what_it_opens(
    command: Callable[..., Any], opened: list[Any], model: Path, tmp_path: Path, args: tuple[str, ...]
) -> None:
    half(tmp_path / "in" / "a.png")
    words = [text.format(**{"in": tmp_path / "in", "out": tmp_path / "out"}) for text in args]
    command(*words, "-m", model, "--device", "cpu")
    assert len(opened) == (2 if args[0] == "bench" else 1)
    assert all(map(closed, opened))


def test_a_service_closes_what_it_opens_and_no_more(opened: list[Any], tmp_path: Path) -> None:
    """An engine that was given to it is its owner's."""
    settings, engine = quick(tmp_path)
    given = list(opened)
    with served(settings, engine):
        pass
    assert not any(map(closed, given))
    engine.close()
    engine.close()
    assert all(map(closed, given))
    with served(replace(settings, folder=tmp_path / "others"), None):
        assert len(opened) > len(given)
    assert all(map(closed, opened))


def test_the_command_serve_closes_what_it_opened_before_it_listened(
    opened: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, engine = quick(tmp_path)
    engine.close()
    opened.clear()
    open_while_it_serves: list[bool] = []

    def run(_server: Any, sockets: list[Any]) -> None:
        open_while_it_serves.extend(not closed(session) for session in opened)
        sockets[0].close()

    monkeypatch.setattr(_Server, "run", run)
    with pytest.raises(CutoutError, match="could not be started"):
        serve(settings, port=0)
    assert open_while_it_serves
    assert all(open_while_it_serves)
    assert all(map(closed, opened))
