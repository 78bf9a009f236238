"""`cutout compare` as a user runs it."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image
from small import ORANGE, half

if TYPE_CHECKING:
    from conftest import Cutout, Run


pytestmark = pytest.mark.usefixtures("here", "quick_model")


def done(run: Run) -> Run:
    assert run.code == 0, run.err
    return run


def pixels(path: str) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def tree() -> list[str]:
    return sorted(str(path) for path in Path().rglob("*") if path.is_file())


def test_a_picture_becomes_a_sheet_beside_it(cutout: Cutout) -> None:
    half(Path("in/a.png"))
    run = done(cutout("compare", "in/a.png", "--color", "blue"))
    assert tree() == ["in/a-compare.png", "in/a.png"]
    assert "a-compare.png" in run.err
    assert run.out == b""
    sheet = pixels("in/a-compare.png")
    orange = (np.abs(sheet - ORANGE) < 3).all(axis=2).sum()
    assert orange > 4.2 * 32 * 32, "the subject in the input and, but for its soft edge, in four of the views"
    assert (sheet == (0, 0, 255)).all(axis=2).sum() > 0.8 * 32 * 32, "the coloured background"


def test_the_real_model_with_its_edge_enlarged(cutout: Cutout, examples: Path) -> None:
    run = done(cutout("compare", examples / "coffee.jpg", "-o", "sheet.webp", "--detail", "--json", "-m", "u2netp"))
    assert run.lines == [
        {"event": "sheet", "output": "sheet.webp", "by": ["u2netp"], "pictures": 1, "of": 1, "failed": 0}
    ]
    assert pixels("sheet.webp").shape[:2] > (600, 2800)


def test_a_folder_becomes_a_page_with_links_to_the_pictures(cutout: Cutout) -> None:
    for name in ("a", "b c", "x/d"):
        half(Path(f"in/{name}.png"))
    done(cutout("compare", "in"))
    page = Path("in-compare.html").read_text()
    assert re.findall(r'href="([^"]*)"', page) == ["in/a.png", "in/b%20c.png", "in/x/d.png"]
    done(cutout("compare", "in", "--limit", "2", "-o", "pages/two.html"))
    assert re.findall(r'href="([^"]*)"', Path("pages/two.html").read_text()) == ["../in/a.png", "../in/b%20c.png"]


def test_results_of_any_tool_stand_beside_a_model(cutout: Cutout, model: Path) -> None:
    half(Path("in/a.png"))
    own = ("--set", "edge_colors=keep")  # masks have no colours to clean
    done(cutout("remove", "in", "-o", "cut", "--edge-colors", "keep"))
    done(cutout("remove", "in", "-o", "masks", "--mask"))
    done(cutout("compare", "in", "--model", model, "--results", "cut", "--results", "masks", "-o", "sheet.png", *own))
    done(cutout("compare", "in", "--model", model, "-o", "one.png", *own))
    alone, all_three = pixels("one.png"), pixels("sheet.png")
    height = 32
    assert all_three.shape[0] == alone.shape[0] + 2 * (alone.shape[0] - 22 - 8)
    top = 22 + 8 + 22
    step = height + 22 + 8
    for number in (1, 2):
        row = all_three[top + number * step :][:height, 80:]
        assert np.abs(row - all_three[top : top + height, 80:]).max() <= 1, "one subject, whoever made it"


def test_a_broken_picture_is_named_and_the_others_are_shown(cutout: Cutout) -> None:
    half(Path("in/a.png"))
    Path("in/b.png").write_bytes(b"no picture")
    run = cutout("compare", "in", "-o", "page.html")
    assert run.code == 1
    assert "in/b.png by brightness: " in run.err
    page = Path("page.html").read_text()
    assert "not a picture of a known format" in page
    assert page.count('class="view') == 6


def test_inputs_and_foreign_pages_are_never_overwritten(cutout: Cutout) -> None:
    half(Path("in/a.png"))
    shutil.copy("in/a.png", "in/b.png")
    before = Path("in/b.png").read_bytes()
    run = cutout("compare", "in", "-o", "in/b.png")
    assert run.code == 2
    assert "inputs are never overwritten" in run.err
    assert Path("in/b.png").read_bytes() == before
    Path("index.html").write_text("<p>my diary")
    run = cutout("compare", "in", "-o", "index.html")
    assert run.code == 2
    assert Path("index.html").read_text() == "<p>my diary"
    done(cutout("compare", "in", "-o", "page.html"))
    done(cutout("compare", "in", "-o", "page.html"))


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["in", "-o", "sheet.xyz"], "no format of a sheet"),
        (["in", "-o", "in"], "is a folder"),
        (["in", "--color", "reddish"], "is not a colour"),
        (["in", "in/a.png"], "need an output"),
        (["-", "-o", "a.png"], "standard input cannot be read here"),
        (["nothing", "-o", "a.png"], "does not exist"),
        (["in", "-o", "a.png", "--size", "16000"], "-o gallery.html makes a page"),
        (["in", "-o", "a.html", "--size", "32000"], "more than anybody can open"),
    ],
)
def test_what_cannot_work_is_refused(cutout: Cutout, args: list[str], message: str) -> None:
    half(Path("in/a.png"))
    run = cutout("compare", *args)
    assert run.code == 2, run.err
    assert message in run.err
    assert tree() == ["in/a.png"]


@pytest.mark.parametrize("side", [(), ("--results", "cut")])
def test_a_picture_beyond_the_memory_limit_is_named_and_the_others_are_shown(
    cutout: Cutout, monkeypatch: pytest.MonkeyPatch, side: tuple[str, ...]
) -> None:
    half(Path("in/a.png"))
    half(Path("cut/a.png"))
    half(Path("in/large.png"), (3000, 2000))
    half(Path("cut/large.png"))
    monkeypatch.setenv("CUTOUT_MEMORY_LIMIT", "40MB")
    run = cutout("compare", "in", *side, "-o", "sheet.png")
    assert run.code == 1
    assert "large.png" in run.err
    assert "a picture of 6 megapixels as PNG would take about" in run.err
    assert "more than the limit of 40 MB" in run.err.replace("\n", " ")
    assert Path("sheet.png").is_file()
