"""The web page in a real browser: what can be chosen, how it looks at once, and that it is in the download."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from browsers import Page, chromium
from PIL import Image
from served import Watched, quick, served, until
from small import ORANGE, half

from cutout.enums import BackgroundFit
from cutout.options import Encoding, RemoveOptions
from cutout.options.backgrounds import Blur
from cutout.options.values import Length
from cutout.service.routes import pages

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


def _whole(file: Path) -> Image.Image | None:
    """A download, once it is there."""
    if not file.exists():
        return None
    with Image.open(file) as image:
        image.load()
    file.unlink()
    return image


def _downloaded(page: Page, file: Path) -> Image.Image:
    page.click("#download")
    found: Image.Image = until(lambda: _whole(file))
    return found


def _seen(page: Page, *places: tuple[float, float]) -> list[tuple[int, ...]]:
    """The colours on the screen at these shares of the picture's width and height."""
    page.enter("divider", "0")
    until(lambda: page.run("return [...document.images].every((image) => image.complete)"))
    left, top, width, height = page.run(
        "const box = document.getElementById('sheet').getBoundingClientRect();"
        "return [box.left, box.top, box.width, box.height]"
    )
    screen = Image.open(io.BytesIO(page.browser.get_screenshot_as_png()))
    return _colors(screen.crop((left, top, left + width, top + height)), *places)


def _are_alike(some: list[tuple[int, ...]], others: list[tuple[int, ...]]) -> bool:
    """But for what lies on an edge."""
    return bool((np.abs(np.subtract(some, others)).max(1) <= 6).mean() > 0.9)


def _colors(image: Image.Image, *places: tuple[float, float]) -> list[tuple[int, ...]]:
    pixels = np.asarray(image.convert("RGB"))
    return [tuple(map(int, pixels[int(y * image.height), int(x * image.width)])) for x, y in places]


@pytest.mark.parametrize("ground", ["#2563c9", "own", "gradient", "cover", "contain", "tile", "stretch"])
def test_a_background_is_seen_at_once_and_is_in_the_download(
    page: Page, downloads: Path, tmp_path: Path, picture: Path, ground: str
) -> None:
    page.drop(picture)
    page.ends("done")
    is_picture = ground in list(BackgroundFit)
    page.choose("ground", "picture" if is_picture else ground)
    if ground == "own":
        page.enter("color", "#8040c0")
    if ground == "gradient":
        page.enter("start", "#ff0000")
        page.enter("angle", "90")
    if is_picture:
        meadow = Image.new("RGB", (500, 160), (20, 200, 90))
        meadow.paste((90, 40, 200), (250, 0, 500, 80))
        meadow.paste((230, 220, 30), (100, 80, 250, 160))
        meadow.save(tmp_path / "meadow.png")
        page.enter("option-background_fit", ground)
        page.find("#backdrop").send_keys(str(tmp_path / "meadow.png"))
        until(lambda: page.text("#picked") == "meadow.png")
    places = [(x / 20, y / 10) for x in range(2, 20) for y in (1, 2, 3, 8, 9)]  # beside the divider's handle
    seen = _seen(page, *places)
    made = _colors(_downloaded(page, downloads / "half-cutout.png"), *places)
    assert _are_alike(seen, made)
    assert (0, 0, 0) not in made
    assert np.abs(np.subtract(made[-1], ORANGE)).max() <= 4
    until(lambda: page.find("#after").get_property("naturalWidth") == 640)
    assert _are_alike(_seen(page, *places), made), "it is the file that is seen now"


def test_a_blurred_background_comes_from_the_service_by_itself(
    page: Page, models: tuple[Watched, httpx.Client], picture: Path
) -> None:
    page.drop(picture)
    page.ends("done")
    page.choose("ground", "blur")
    until(lambda: str(models[0].asked[-1].options.background).startswith("Blur"))
    until(lambda: not page.find("#blurred").is_displayed())
    for radius in ("3", "5", "6.5"):
        page.enter("radius", radius)
    assert page.find("#blurred").is_displayed()
    until(lambda: models[0].asked[-1].options.background == Blur(Length(6.5, percent=True)))
    page.ends("done")
    assert not page.find("#blurred").is_displayed()


def test_a_format_without_transparency_is_shown_as_it_will_be(page: Page, downloads: Path, picture: Path) -> None:
    page.drop(picture)
    page.ends("done")
    page.enter("option-output_format", "jpg")
    assert page.text("#ground-hint") == "JPEG has no transparency: white stands behind."
    assert _seen(page, (0.1, 0.5)) == [(255, 255, 255)]
    file = _downloaded(page, downloads / "half-cutout.jpg")
    assert file.format == "JPEG"
    assert np.min(_colors(file, (0.1, 0.5))) > 250


def test_only_formats_that_can_be_written_are_offered(
    browser: Any, models: tuple[Watched, httpx.Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    def offered() -> set[str]:
        page = Page(browser, models[1])
        return {option.text for option in page.find("#option-output_format").find_elements("tag name", "option")}

    assert offered() == {"PNG", "WebP", "JPEG", "TIFF", "AVIF", "HEIC"}
    monkeypatch.setattr(pages, "find_spec", lambda _name: None)
    assert offered() == {"PNG", "WebP", "JPEG", "TIFF", "AVIF"}
    assert "HEIC" not in Page(browser, models[1]).text("#formats")


def test_every_option_has_a_control_with_its_sentence_and_bounds(page: Page) -> None:
    """Those with a control of their own excepted; the groups are those of `--help`."""
    fixed = {"max_pixels", "max_frames", "first_frame", "threads"}
    rows = {name: row for name, row in {**RemoveOptions.table, **Encoding.table}.items() if name not in fixed}
    grouped = page.run("""
      const told = (input) => [input.closest("details").firstChild.textContent, input.closest(".field").textContent,
        input.min, input.max];
      const inputs = [...document.querySelectorAll("#groups [data-option]")];
      return Object.fromEntries(inputs.map((input) => [input.dataset.option, told(input)]));
    """)
    assert set(rows) - set(grouped) == {"background", "background_fit", "refine", "matting"}
    for name, (group, text, least, most) in grouped.items():
        row = rows[name]
        assert group == row.panel
        assert row.help() in text
        assert row.unit in text
        if row.takes == (int,) and row.service_most < 1e6:
            assert (least, most) == (str(row.service_least), f"{row.service_most:g}")
            assert f"{least} to {most}" in text


def test_a_reset_of_all_settings_can_be_taken_back(page: Page) -> None:
    page.enter("option-erode", "3")
    page.choose("edges", "refine")
    page.choose("ground", "#2563c9")
    before = page.run("return JSON.stringify([cutOptions(), output()])")
    page.click("#defaults")
    assert page.run("return cutOptions()") == {}
    page.click("#undo")
    assert page.run("return JSON.stringify([cutOptions(), output()])") == before


@pytest.mark.parametrize("edges", ["off", "refine", "matting"])
def test_fine_edges_are_one_choice(page: Page, models: tuple[Watched, httpx.Client], picture: Path, edges: str) -> None:
    page.choose("edges", edges)
    page.enter("option-threshold", "77")
    page.drop(picture)
    page.ends("done")
    options = models[0].asked[-1].options
    assert (options.refine, options.matting) == (edges == "refine", edges == "matting")
    assert options.threshold == 77


def _orange(page: Page, divider: str) -> tuple[int, int, int, int]:
    """The box of what is orange on the screen."""
    page.enter("divider", divider)
    screen = Image.open(io.BytesIO(page.find("#view").screenshot_as_png)).convert("RGB")
    close = np.abs(np.asarray(screen, int) - ORANGE).max(2) < 90
    down, across = np.flatnonzero(close.any(1)), np.flatnonzero(close.any(0))
    return int(across[0]), int(down[0]), int(across[-1]), int(down[-1])


@pytest.mark.parametrize(
    ("frame", "size"), [("Cut to subject", (331, 320)), ("Shop square", (2000, 2000)), ("Passport", (413, 531))]
)
def test_a_frame_is_applied_to_finished_pictures_and_taken_back(
    page: Page, models: tuple[Watched, httpx.Client], picture: Path, frame: str, size: tuple[int, int]
) -> None:
    page.drop(picture)
    page.ends("done")
    assert not page.find("#changed").is_displayed()
    page.choose("frame", frame)
    assert page.text("#outdated") == "half.png was made with other settings."
    page.click("#apply-all")
    page.ends("done")
    until(lambda: page.run("return document.getElementById('after').naturalWidth") == size[0])
    assert page.find("#after").get_property("naturalHeight") == size[1]
    box = page.find("#after").rect
    assert box["width"] / box["height"] == pytest.approx(size[0] / size[1], 0.02)
    before = page.find("#before").rect
    assert before["width"] / before["height"] == pytest.approx(2, 0.02), "the original keeps its form"
    original, cutout = (_orange(page, divider) for divider in ("100", "0"))
    assert np.abs(np.subtract(original, cutout)).max() < 0.02 * page.find("#view").rect["width"], (
        "they lie on each other"
    )
    assert (models[0].asked[-1].options.shadow is not None) == (frame == "Shop square")
    page.click("#undo")
    until(lambda: page.run("return document.getElementById('after').naturalWidth") == 640)
    assert page.text("#outdated") == "half.png was made with other settings."


def test_other_options_are_for_this_one_or_for_all(
    page: Page, models: tuple[Watched, httpx.Client], tmp_path: Path
) -> None:
    page.drop(*(half(tmp_path / f"{name}.png") for name in "abc"))
    page.ends("done", "done", "done")
    before = len(models[0].asked)
    page.enter("option-erode", "3")
    assert page.text("#outdated") == "3 pictures were made with other settings."
    page.click("#apply-one")
    page.ends("done", "done", "done")
    assert [request.options.erode for request in models[0].asked[before:]] == [3]
    assert page.text("#outdated") == "2 pictures were made with other settings."
    page.run("entries[1].button.click()")
    page.click("#apply-all")
    page.ends("done", "done", "done")
    assert [request.options.erode for request in models[0].asked[before:]] == [3, 3, 3]
    assert not page.find("#changed").is_displayed()
