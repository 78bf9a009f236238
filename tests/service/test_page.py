"""The web page in a real browser."""

from __future__ import annotations

import base64
import io
import zipfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from browsers import chromium
from served import Held, quick, served, until
from small import half

from cutout.service.models import Models
from cutout.service.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import httpx

_DROP = """
const [name, data] = arguments, bytes = Uint8Array.from(atob(data), (sign) => sign.charCodeAt(0));
const transfer = new DataTransfer();
transfer.items.add(new File([bytes], name, { type: "image/jpeg" }));
document.getElementById("drop").dispatchEvent(
  new DragEvent("drop", { dataTransfer: transfer, bubbles: true, cancelable: true }));
"""


@pytest.fixture(scope="module")
def downloads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the browser puts files."""
    return tmp_path_factory.mktemp("downloads")


@pytest.fixture(scope="module")
def browser(downloads: Path) -> Iterator[Any]:
    with chromium(downloads) as found:
        yield found


def _text(browser: Any, selector: str) -> str:
    return " ".join(element.text for element in browser.find_elements("css selector", selector))


def test_drop_a_picture_see_the_cutout_download_it(
    browser: Any, downloads: Path, examples: Path, tmp_path: Path
) -> None:
    """The file is what the interface gives, byte for byte; the page asks nobody but the service."""
    data = (examples / "chelsea.jpg").read_bytes()
    settings = Settings(device="cpu", workers=2, folder=tmp_path / "jobs")
    with served(settings, Models(settings)) as client:
        browser.get(str(client.base_url))
        find = browser.find_element
        until(lambda: "waiting in the queue" in find("id", "queue").text)
        until(lambda: len(browser.find_elements("css selector", "#options [name]")) > 8)
        browser.execute_script(_DROP, "chelsea.jpg", base64.b64encode(data).decode())
        link = until(lambda: next(iter(browser.find_elements("css selector", "a.download")), None))
        seen = find("css selector", "img.after")
        assert until(lambda: seen.get_property("naturalWidth")) == 451
        assert seen.is_displayed()
        assert "1 of 1 done" in find("id", "progress").text
        slider = find("css selector", ".card input[type=range]")
        slider.send_keys("\ue014" * 5)  # the right arrow
        assert slider.get_property("value") == "40"
        assert "40%" in find("css selector", ".view").get_attribute("style")
        find("css selector", "input[value=black]").click()
        assert "black" in find("css selector", ".view").get_attribute("class")
        link.click()
        expected = client.post("/remove-background", files={"file": data}).content
        file = downloads / "chelsea-cutout.png"
        until(lambda: file.exists() and len(file.read_bytes()) == len(expected))
        assert file.read_bytes() == expected
        find("id", "all").click()
        packed = downloads / "cutouts.zip"
        until(lambda: packed.exists() and packed.stat().st_size > len(expected))
        with zipfile.ZipFile(io.BytesIO(packed.read_bytes())) as archive:
            assert archive.testzip() is None
            assert archive.read("chelsea-cutout.png") == expected
        browser.set_window_size(500, 800)
        inner, body = browser.execute_script("return [innerWidth, document.documentElement.scrollWidth]")
        assert body <= inner, "nothing sticks out at the width of a phone"
        bad = [entry for entry in browser.get_log("browser") if entry["level"] in {"SEVERE", "WARNING"}]
        assert not bad
        asked = browser.execute_script("return performance.getEntriesByType('resource').map((entry) => entry.name)")
        assert all(name.startswith((str(client.base_url), "blob:")) for name in asked)


def test_what_cannot_be_done_is_told_beside_its_picture(browser: Any, tmp_path: Path) -> None:
    settings = Settings(device="cpu", workers=2, folder=tmp_path / "jobs", api_keys=("some-key",))
    with served(settings, Models(settings)) as client:
        browser.get(str(client.base_url))
        browser.execute_script(_DROP, "broken.jpg", base64.b64encode(b"no picture").decode())
        until(lambda: "API key" in _text(browser, ".card .error"))
        key = browser.find_element("id", "key")
        until(key.is_displayed)
        key.send_keys("some-key\t")
        browser.find_element("css selector", ".card button").click()
        until(lambda: "not a picture" in _text(browser, ".card .error"))


_WATCHED = """
window.sent = 0;
window.timers = [];
window.held = %s;
const send = XMLHttpRequest.prototype.send, later = window.setTimeout.bind(window);
XMLHttpRequest.prototype.send = function (...given) { window.sent += 1; return send.apply(this, given); };
window.setTimeout = (work, milliseconds) => window.held ? window.timers.push(work) : later(work, milliseconds / 50);
"""


@contextmanager
def _busy(tmp_path: Path, picture: bytes, **changes: Any) -> Iterator[tuple[httpx.Client, Held]]:
    """A service that takes no further picture until it is let go."""
    settings, _ = quick(tmp_path, workers=1, queue=1, **changes)
    engine = Held(settings)
    with served(settings, engine) as client, ThreadPoolExecutor(2) as pool:
        for number in (1, 2):  # a client with one there may have a second
            pool.submit(client.post, "/remove-background", files={"file": picture})
            until(partial(_holds, client, number))
        try:
            yield client, engine
        finally:
            engine.go.set()


def _watch(browser: Any, client: httpx.Client, picture: bytes, *, hold_timers: bool = False) -> None:
    """Drop a picture on the page, which counts what it sends."""
    browser.get(str(client.base_url))
    browser.execute_script(_WATCHED % str(hold_timers).lower())
    browser.execute_script(_DROP, "half.png", base64.b64encode(picture).decode())


def _holds(client: httpx.Client, number: int) -> bool:
    return f"cutout_queue_depth {number}.0" in client.get("/metrics").text


def test_a_busy_service_is_asked_a_few_times_and_then_no_more(browser: Any, tmp_path: Path) -> None:
    picture = half(tmp_path / "half.png").read_bytes()
    with _busy(tmp_path, picture) as (client, engine):
        _watch(browser, client, picture)
        until(lambda: "busy" in _text(browser, ".card .error"))
        assert browser.execute_script("return window.sent") == 6
        engine.go.set()
        until(lambda: _holds(client, 0))
        browser.find_element("css selector", ".card button").click()
        until(lambda: browser.find_elements("css selector", "a.download"))
        assert not _text(browser, ".card .error")


def test_what_has_run_out_of_time_is_not_sent_again_by_itself(browser: Any, tmp_path: Path) -> None:
    settings, _ = quick(tmp_path, workers=1, timeout=0.3)
    engine = Held(settings)
    with served(settings, engine) as client:
        _watch(browser, client, half(tmp_path / "half.png").read_bytes())
        until(lambda: "time limit" in _text(browser, ".card .error"))
        assert browser.execute_script("return window.sent") == 1
        engine.go.set()


def test_pictures_that_were_cleared_are_not_sent_again(browser: Any, tmp_path: Path) -> None:
    picture = half(tmp_path / "half.png").read_bytes()
    with _busy(tmp_path, picture) as (client, _engine):
        _watch(browser, client, picture, hold_timers=True)
        until(lambda: "trying again" in _text(browser, ".card"))
        browser.find_element("id", "clear").click()
        browser.execute_script("for (const work of window.timers.splice(0)) work();")
        assert browser.execute_async_script("requestAnimationFrame(() => arguments[0](window.sent))") == 1
