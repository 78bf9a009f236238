"""The web page in a real browser: what is seen, how it is handled, what comes out."""

from __future__ import annotations

import io
import shutil
import subprocess
import zipfile
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from browsers import Page, chromium
from PIL import Image
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.actions.wheel_input import ScrollOrigin
from selenium.webdriver.common.keys import Keys
from served import Held, Watched, quick, served, until
from small import half

from cutout.service.models import Models
from cutout.service.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import httpx


@pytest.fixture(scope="module")
def downloads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the browser puts files."""
    return tmp_path_factory.mktemp("downloads")


@pytest.fixture(scope="module")
def browser(downloads: Path) -> Iterator[Any]:
    with chromium(downloads) as found:
        yield found


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Watched, httpx.Client]]:
    settings, _ = quick(tmp_path_factory.mktemp("page"))
    watched = Watched(settings)
    with served(settings, watched) as client:
        yield watched, client


@pytest.fixture
def page(browser: Any, models: tuple[Watched, httpx.Client]) -> Page:
    return Page(browser, models[1])


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """Left black, which the model takes for the background; right orange."""
    return half(tmp_path / "half.png", (640, 320))


def test_drop_a_picture_see_the_cutout_download_it(
    browser: Any, downloads: Path, examples: Path, tmp_path: Path
) -> None:
    """The file is what the interface gives, byte for byte; the page asks nobody but the service."""
    settings = Settings(device="cpu", workers=2, folder=tmp_path / "jobs")
    with served(settings, Models(settings)) as client:
        page = Page(browser, client)
        until(lambda: page.text("#queue") == "Service on cpu: 0 waiting, 0 working")
        page.drop(examples / "chelsea.jpg")
        page.ends("done")
        seen = page.find("#after")
        assert (seen.is_displayed(), seen.get_property("naturalWidth")) == (True, 451)
        assert page.text("#counts") == "1 done"
        page.click("#download")
        data = (examples / "chelsea.jpg").read_bytes()
        expected = client.post("/remove-background", files={"file": data}).content
        file = downloads / "chelsea-cutout.png"
        until(lambda: file.exists() and len(file.read_bytes()) == len(expected))
        assert file.read_bytes() == expected
        page.click("#all")
        packed = downloads / "cutouts.zip"
        until(lambda: packed.exists() and packed.stat().st_size > len(expected))
        with zipfile.ZipFile(io.BytesIO(packed.read_bytes())) as archive:
            assert archive.testzip() is None
            assert archive.read("chelsea-cutout.png") == expected
        packed.unlink()
        assert not [entry for entry in browser.get_log("browser") if entry["level"] in {"SEVERE", "WARNING"}]
        asked = page.run("return performance.getEntriesByType('resource').map((entry) => entry.name)")
        assert all(name.startswith((str(client.base_url), "blob:")) for name in asked)


def test_the_original_is_seen_at_once_and_counters_tell_who_waits(browser: Any, tmp_path: Path, picture: Path) -> None:
    settings, _ = quick(tmp_path, workers=1)
    held = Held(settings)
    with served(settings, held) as client:
        page = Page(browser, client)
        page.drop(picture, half(tmp_path / "other.png"))
        until(lambda: held.begun)
        until(lambda: page.text("#counts") == "1 waiting · 1 working")
        before = page.find("#before")
        assert (before.is_displayed(), before.get_property("naturalWidth")) == (True, 640)
        assert page.text("#step") == "working"
        assert page.find("#progress").is_displayed()
        until(lambda: page.text("#queue") == "Service on cpu: 0 waiting, 1 working")
        held.go.set()
        page.ends("done", "done")
        assert page.text("#counts") == "2 done"


def test_a_format_that_browsers_do_not_show_is_shown_by_the_service(page: Page, tmp_path: Path) -> None:
    Image.open(half(tmp_path / "half.png", (3000, 1500))).save(tmp_path / "scan.tif", compression="tiff_lzw")
    page.drop(tmp_path / "scan.tif")
    page.ends("done")
    assert page.find("#before").get_property("naturalWidth") == 2048
    assert page.find("#after").get_property("naturalWidth") == 3000
    page.enter("divider", "100")
    box = page.find("#before").rect
    assert box["width"] / box["height"] == pytest.approx(2, 0.01)


def test_the_divider_is_dragged_on_the_picture_which_zooms_and_pans(page: Page, picture: Path) -> None:
    page.drop(picture)
    page.ends("done")
    view, sheet = page.find("#view"), page.find("#sheet")
    width = sheet.rect["width"]
    ActionChains(page.browser, 20).move_to_element_with_offset(view, -100, 0).click_and_hold().move_by_offset(
        160, 0
    ).release().perform()
    assert page.find("#divider").get_property("value") == str(round(50 + 60 / width * 100))
    ActionChains(page.browser).scroll_from_origin(ScrollOrigin.from_element(view), 0, -400).perform()
    assert sheet.rect["width"] > 1.3 * width
    place = sheet.rect["x"]
    view.send_keys("+" + Keys.ARROW_LEFT)
    page.enter("divider", "100")
    moved = sheet.rect["x"]
    assert moved != place
    ActionChains(page.browser, 20).move_to_element_with_offset(view, 0, 40).click_and_hold().move_by_offset(
        -50, 0
    ).release().perform()
    assert sheet.rect["x"] == pytest.approx(moved - 50, abs=1)
    view.send_keys("1")
    assert sheet.rect["width"] == 640
    view.send_keys("0")
    assert sheet.rect["width"] == width


def test_one_finger_compares_two_zoom_and_then_one_moves(
    browser: Any, models: tuple[Watched, httpx.Client], picture: Path
) -> None:
    page = Page(browser, models[1], width=360)
    page.drop(picture)
    page.ends("done")
    page.run("scrollTo(0, 0)")
    box = page.find("#view").rect
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] * 0.8

    def fingers(*moments: list[tuple[float, float]]) -> None:
        for number, places in enumerate(moments):
            kind = "touchMove" if number else "touchStart"
            points = [{"x": across, "y": down, "id": finger} for finger, (across, down) in enumerate(places)]
            browser.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
        browser.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})

    sheet, divider = page.find("#sheet"), page.find("#divider")
    width = sheet.rect["width"]
    fingers([(x, y)], [(x - 30, y)], [(x - 60, y)])
    compared = divider.get_property("value")
    assert 25 < int(compared) < 40
    fingers([(x - 20, y), (x + 20, y)], [(x - 40, y), (x + 40, y)], [(x - 60, y), (x + 60, y)])
    assert sheet.rect["width"] > 1.8 * width
    left = sheet.rect["x"]
    fingers([(x, y)], [(x - 20, y)], [(x - 40, y)])
    assert sheet.rect["x"] < left - 15
    assert divider.get_property("value") == compared


def test_the_list_is_walked_emptied_and_restored_by_keys(page: Page, tmp_path: Path) -> None:
    def names() -> list[str]:
        return [found.text.split("\n")[0] for found in page.browser.find_elements("css selector", ".thumb")]

    page.drop(*(half(tmp_path / f"{name}.png") for name in "abc"))
    page.ends("done", "done", "done")
    page.find(".thumb").send_keys(Keys.ARROW_RIGHT)
    assert page.text("#name") == "b.png"
    page.browser.switch_to.active_element.send_keys(Keys.DELETE)
    assert names() == ["a.png", "c.png"]
    assert page.text("#name") == "c.png"
    assert page.text("#said") == "Removed b.png"
    page.browser.switch_to.active_element.send_keys(Keys.CONTROL, "z")
    assert names() == ["a.png", "b.png", "c.png"]
    assert page.text("#name") == "b.png"
    page.click("#clear")
    assert names() == []
    assert page.find("#drop").rect["height"] > 400, "the empty page is one place to drop"
    page.click("#undo")
    assert names() == ["a.png", "b.png", "c.png"]
    page.ends("done", "done", "done")


def test_a_folder_is_dropped_and_comes_back_as_one_zip(page: Page, downloads: Path, tmp_path: Path) -> None:
    shop = tmp_path / "shop"
    half(shop / "one.png")
    half(shop / "shoes" / "one.png")
    (shop / "notes.txt").write_text("no picture")
    page.drop(shop)
    until(lambda: page.text("#said") == "1 file that is no picture left out")
    page.ends("done", "done")
    page.click("#all")
    packed = downloads / "cutouts.zip"
    until(packed.exists)
    with zipfile.ZipFile(packed) as archive:
        assert sorted(archive.namelist()) == ["shop/one-cutout.png", "shop/shoes/one-cutout.png"]
    packed.unlink()


def test_nothing_sticks_out_at_the_width_of_a_phone(
    browser: Any, models: tuple[Watched, httpx.Client], picture: Path
) -> None:
    page = Page(browser, models[1], width=360)
    page.drop(picture)
    page.ends("done")
    page.run("for (const group of document.querySelectorAll('details')) group.open = true")
    for ground in ("transparent", "own", "picture", "blur", "gradient"):
        page.choose("ground", ground)
        inner, body = page.run("return [innerWidth, document.documentElement.scrollWidth]")
        assert body <= inner, ground


@contextmanager
def _dark(page: Page) -> Iterator[None]:
    def scheme(value: str) -> None:
        features = [{"name": "prefers-color-scheme", "value": value}]
        page.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    scheme("dark")
    try:
        yield
    finally:
        scheme("")


@pytest.fixture(scope="module")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The script of axe-core."""
    npm, folder = shutil.which("npm"), tmp_path_factory.mktemp("axe")
    if (
        npm is None
        or subprocess.run([npm, "install", "--silent", "axe-core@4.14.1"], cwd=folder, check=False).returncode
    ):
        pytest.skip("axe-core cannot be had")
    return (folder / "node_modules/axe-core/axe.min.js").read_text("utf-8")


@pytest.mark.parametrize("width", [1280, 360])
def test_axe_finds_nothing(
    browser: Any, models: tuple[Watched, httpx.Client], picture: Path, axe: str, width: int
) -> None:
    page = Page(browser, models[1], width)
    page.run(axe)

    def findings() -> Any:
        return browser.execute_async_script("""
          const found = ({ id, nodes }) => [id, nodes.map((node) => node.html)];
          axe.run().then(({ violations }) => arguments[0](violations.map(found)));
        """)

    assert findings() == []
    broken = picture.with_name("broken.png")
    broken.write_bytes(picture.read_bytes()[:60])
    page.drop(picture, broken)
    page.ends("done", "failed")
    page.run("for (const group of document.querySelectorAll('details')) group.open = true")
    page.choose("ground", "gradient")
    page.choose("frame", "Passport")
    assert findings() == []
    page.run("entries[1].button.click()")
    page.choose("ground", "picture")
    with _dark(page):
        assert findings() == []


def test_the_description_tells_of_fields_in_addresses_and_of_headers(
    browser: Any, models: tuple[Watched, httpx.Client]
) -> None:
    browser.get(str(models[1].base_url.join("/docs")))

    def told(name: str) -> list[str]:
        script = "return document.querySelector(`[aria-label='${arguments[0]}']`)?.innerText"
        return [line.strip() for line in until(lambda: browser.execute_script(script, name)).splitlines()]

    assert "url\tstring\t\tneeded" in told("get /api/remove")
    assert any(line.startswith("bgc\tstring") for line in told("get /api/remove"))
    assert "X-Foreground-Top\tWhere the subject begins in the result." in told("post /v1.0/removebg")
