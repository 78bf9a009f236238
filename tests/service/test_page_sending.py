"""The web page in a real browser: what is sent, what is not, and what is told when it cannot be done."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler
from typing import TYPE_CHECKING, Any

import pytest
from browsers import Page, chromium
from served import Held, quick, served, until, website
from small import half

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import httpx


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with chromium(tmp_path_factory.mktemp("downloads")) as found:
        yield found


_WATCHED = """
window.sent = [];
window.timers = [];
window.held = %s;
const { open } = XMLHttpRequest.prototype, later = window.setTimeout.bind(window);
XMLHttpRequest.prototype.open = function (...given) { window.sent.push(given[1]); return open.apply(this, given); };
window.setTimeout = (work, milliseconds) => window.held ? window.timers.push(work) : later(work, milliseconds / 50);
"""


def _watched(browser: Any, client: httpx.Client, *, hold_timers: bool = False) -> Page:
    """The page, which notes what it sends, and waits a fiftieth of its times or until it is let."""
    page = Page(browser, client)
    page.run(_WATCHED % str(hold_timers).lower())
    return page


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


def _holds(client: httpx.Client, number: int) -> bool:
    return f"cutout_queue_depth {number}.0" in client.get("/metrics").text


def test_a_busy_service_is_asked_a_few_times_and_then_no_more(browser: Any, tmp_path: Path) -> None:
    picture = half(tmp_path / "half.png")
    with _busy(tmp_path, picture.read_bytes()) as (client, engine):
        page = _watched(browser, client)
        page.drop(picture)
        until(lambda: "busy" in page.text("#why"))
        assert page.run("return window.sent") == ["remove-background"] * 6
        engine.go.set()
        until(lambda: _holds(client, 0))
        page.click("#again")
        page.ends("done")
        assert not page.text("#why")


def test_what_has_run_out_of_time_is_not_sent_again_by_itself(browser: Any, tmp_path: Path) -> None:
    settings, _ = quick(tmp_path, workers=1, timeout=0.3)
    engine = Held(settings)
    with served(settings, engine) as client:
        page = _watched(browser, client)
        page.drop(half(tmp_path / "half.png"))
        until(lambda: "time limit" in page.text("#why"))
        assert page.run("return window.sent") == ["remove-background"]
        engine.go.set()


def test_pictures_that_were_removed_are_not_sent_again(browser: Any, tmp_path: Path) -> None:
    picture = half(tmp_path / "half.png")
    with _busy(tmp_path, picture.read_bytes()) as (client, _engine):
        page = _watched(browser, client, hold_timers=True)
        page.drop(picture)
        until(lambda: "trying again" in page.text("#step"))
        assert page.text("#counts") == "1 waiting", "nobody works on it"
        page.click("#clear")
        page.run("for (const work of window.timers.splice(0)) work();")
        sent = browser.execute_async_script("requestAnimationFrame(() => arguments[0](window.sent))")
        assert sent == ["remove-background"]


def test_limits_stand_on_the_page_and_are_looked_at_before_anything_is_sent(browser: Any, tmp_path: Path) -> None:
    heavy, large = half(tmp_path / "heavy.bmp", (700, 500)), half(tmp_path / "large.png", (2000, 1500))
    with served(*quick(tmp_path, max_body=1_000_000, max_pixels=2_000_000)) as client:
        page = _watched(browser, client)
        assert "Up to 1.0 MB and 2 megapixels each" in page.text("#limits")
        page.drop(heavy, large)
        page.ends("failed", "failed")
        assert page.text("#why") == "1.1 MB, but this service takes at most 1.0 MB a picture."
        assert page.find("#before").get_property("naturalWidth") == 700, "which picture it is can be seen"
        page.run("document.querySelectorAll('.thumb')[1].click()")
        assert page.text("#why") == "3 megapixels, but this service takes at most 2."
        assert page.run("return window.sent") == []


def test_one_question_for_the_key_lets_all_pictures_go_on(browser: Any, tmp_path: Path) -> None:
    with served(*quick(tmp_path, api_keys=("some-key",))) as client:
        page = _watched(browser, client)
        broken = tmp_path / "broken.jpg"
        broken.write_bytes(b"no picture")
        page.drop(*(half(tmp_path / f"{name}.png") for name in "abc"), broken)
        until(page.find("#key-dialog").is_displayed)
        until(lambda: page.text("#counts") == "4 waiting")
        page.find("#key").send_keys("wrong-key\n")
        until(lambda: page.text("#key-why") == "The service does not know that key.")
        until(page.find("#key-dialog").is_displayed)
        page.find("#key").send_keys("some-key\n")
        page.ends("done", "done", "done", "failed")
        assert not page.find("#key-dialog").is_displayed()
        page.run("document.querySelectorAll('.thumb')[3].click()")
        assert page.text("#why").startswith("This is not a picture of a known format.\n")


def test_what_cannot_be_done_holds_up_nothing_else(browser: Any, tmp_path: Path) -> None:
    drawing, empty, cut_short = (tmp_path / name for name in ("drawing.svg", "empty.png", "short.png"))
    drawing.write_text("<svg xmlns='http://www.w3.org/2000/svg' width='0' height='0'/>")
    empty.touch()
    good = half(tmp_path / "half.png", (300, 200))
    cut_short.write_bytes(good.read_bytes()[:200])
    with served(*quick(tmp_path)) as client:
        page = _watched(browser, client)
        page.drop(drawing, empty, cut_short, good)
        page.ends("failed", "failed", "failed", "done")
        reasons = ("not a picture of a known format", "is empty", "broken or cut short")
        for number, reason in enumerate(reasons):
            page.run("document.querySelectorAll('.thumb')[arguments[0]].click()", number)
            assert reason in page.text("#why")


def _paste(page: Page, text: str) -> None:
    script = """
    const clipboardData = new DataTransfer();
    clipboardData.setData("text/plain", arguments[0]);
    document.body.dispatchEvent(new ClipboardEvent("paste", { clipboardData, bubbles: true }));
    """
    page.run(script, text)


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[str]:
    """The address of a web server that has a picture, and a page."""
    half(tmp_path / "shop" / "shoe.png")
    (tmp_path / "shop" / "about.html").write_text("<p>no picture")

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its name there
            pass

    with website(partial(Quiet, directory=str(tmp_path / "shop"))) as address:
        yield address


def test_links_are_fetched_where_the_service_fetches_any(browser: Any, tmp_path: Path, shop: str) -> None:
    with served(*quick(tmp_path, image_url=True, fetch_private=True)) as client:
        page = _watched(browser, client)
        _paste(page, f"see {shop}/shoe.png?size=2\nand {shop}/about.html")
        page.ends("done", "failed")
        assert page.text("#name") == "shoe.png"
        assert page.find("#before").get_property("naturalWidth") == 64
        page.run("document.querySelectorAll('.thumb')[1].click()")
        assert page.text("#why") == "What the address leads to is not a picture of a known format."
        page.find("#link").send_keys(f"{shop}/none.png\n")
        page.ends("done", "failed", "failed")


def test_else_it_is_told_why_not(browser: Any, tmp_path: Path, shop: str) -> None:
    with served(*quick(tmp_path)) as client:
        page = _watched(browser, client, hold_timers=True)
        assert not page.find("#link").is_displayed()
        _paste(page, f"{shop}/shoe.png")
        assert "started without --image-url" in page.text("#said")
        assert page.run("return window.sent") == []
        answer = client.post("/page/link", files={"image_url": (None, f"{shop}/shoe.png")})
        assert (answer.status_code, answer.json()["error"]["kind"]) == (400, "url-off")


def test_what_the_page_asks_beside_the_interface_is_guarded_like_the_rest(tmp_path: Path) -> None:
    with served(*quick(tmp_path, api_keys=("some-key",), max_body=1_000_000, max_pixels=1_000_000)) as client:
        key = {"X-Api-Key": "some-key"}

        def preview(data: bytes, **headers: str) -> tuple[int, str]:
            answer = client.post("/page/preview", files={"file": data}, headers=key | headers)
            good = answer.status_code == 200
            return answer.status_code, answer.headers["Content-Type"] if good else answer.json()["error"]["kind"]

        picture = half(tmp_path / "half.bmp").read_bytes()
        assert preview(picture) == (200, "image/jpeg")
        assert preview(b"no picture") == (422, "picture")
        assert preview(b"BM" + bytes(1_000_000)) == (413, "too-large")
        assert preview(half(tmp_path / "large.png", (1500, 1000)).read_bytes()) == (413, "too-large")
        assert preview(picture, Origin="https://evil.example") == (403, "origin")
        assert client.post("/page/preview", headers=key, files={"other": picture}).status_code == 400
        for path in ("/page/preview", "/page/link"):
            assert client.post(path, files={"file": picture}).status_code == 401
