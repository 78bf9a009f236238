"""Sheets and galleries show what was made, on every background."""

from __future__ import annotations

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from cutout.evaluate.contact_sheet import (
    Result,
    SheetRow,
    View,
    checkerboard,
    edge_window,
    enlarged,
    fitted,
    shown,
    stacked,
)
from cutout.evaluate.html import MARK, gallery

RED, GREEN = (200, 0, 0), (0, 150, 0)


def cut(size: tuple[int, int] = (40, 30)) -> Image.Image:
    """Red on the right, nothing on the left; what is hidden is blue."""
    image = Image.new("RGBA", size, (0, 0, 255, 0))
    image.paste((*RED, 255), (size[0] // 2, 0, *size))
    return image


def entry(*sides: Result, name: str = "a.jpg", link: str = "") -> SheetRow:
    return SheetRow(name=name, picture=Image.new("RGB", (40, 30), (1, 2, 3)), results=sides, link=link)


@pytest.mark.parametrize(
    ("view", "left", "right"),
    [
        (View.MASK, (0, 0, 0), (255, 255, 255)),
        (View.BLACK, (0, 0, 0), RED),
        (View.WHITE, (255, 255, 255), RED),
        (View.COLOR, GREEN, RED),
        (View.INPUT, (1, 2, 3), (1, 2, 3)),
    ],
)
def test_each_view_shows_what_it_says(view: View, left: tuple[int, ...], right: tuple[int, ...]) -> None:
    image = shown(cut(), view, GREEN, Image.new("RGB", (40, 30), (1, 2, 3)))
    assert (image.getpixel((5, 15)), image.getpixel((35, 15))) == (left, right)


def test_the_checkerboard_shows_through() -> None:
    image = np.asarray(shown(cut(), View.CHECKERBOARD))
    assert np.array_equal(image[:, :20], np.asarray(checkerboard((40, 30)))[:, :20])
    assert len(np.unique(image[:, :20])) == 2
    assert (image[:, 20:] == RED).all()


def test_small_pictures_keep_their_size_and_large_ones_no_hidden_colour() -> None:
    assert fitted(cut(), 40) is not None
    assert fitted(cut(), 40).size == (40, 30)
    small = fitted(cut((400, 300)), 40)
    assert small.size == (40, 30)
    assert np.asarray(shown(small, View.BLACK))[..., 2].max() < 3, "blue was hidden and stays so"


def test_the_detail_lies_where_the_edge_is_soft() -> None:
    alpha = Image.new("L", (300, 200))
    alpha.paste(255, (100, 100, 300, 200))
    alpha.paste(128, (210, 120, 240, 150))
    left, top, right, bottom = edge_window(alpha, 64)
    assert (right - left, bottom - top) == (64, 64)
    assert left <= 210 < 240 <= right
    assert top <= 120 < 150 <= bottom


@pytest.mark.parametrize("size", [(10, 7), (64, 64), (65, 1), (1, 200)])
def test_the_detail_of_a_small_picture_lies_inside_it(size: tuple[int, int]) -> None:
    left, top, right, bottom = edge_window(Image.new("L", size, 99), 64)
    assert 0 <= left < right <= size[0]
    assert 0 <= top < bottom <= size[1]
    assert (right - left, bottom - top) == (min(64, size[0]), min(64, size[1]))


def test_enlarged_pixels_stay_sharp() -> None:
    assert set(map(tuple, np.asarray(enlarged(cut(), 3)).reshape(-1, 4))) == {(0, 0, 255, 0), (*RED, 255)}


def test_a_sheet_has_a_row_for_each_side_and_a_column_for_each_view() -> None:
    sides = (Result(by="one", cut=cut()), Result(by="two", cut=cut()))
    sheet = np.asarray(stacked([entry(*sides), entry(Result(by="one", cut=cut()))], GREEN))
    red = (sheet == RED).all(axis=2)
    assert red.sum() == 3 * 4 * 20 * 30, "three rows, of whose views four show the subject"
    assert (sheet == (1, 2, 3)).all(axis=2).sum() == 2 * 40 * 30, "each input once"


def test_a_side_that_failed_is_told_and_leaves_room() -> None:
    failed = stacked([entry(Result(by="one", cut=None, note="broken"))])
    silent = stacked([entry(Result(by="one", cut=None))])
    assert failed.size == silent.size
    assert not np.array_equal(np.asarray(failed), np.asarray(silent)), "the note is written"


def test_a_gallery_holds_all_it_shows_and_fetches_nothing() -> None:
    page = gallery([entry(Result(by="one", cut=cut()), Result(by="two", cut=None, note="broken")), entry()], GREEN)
    assert MARK in page[:1000]
    assert "default-src 'none'" in page
    assert not re.search(r"(src|href)=|https?:|@import|<script", page.replace("default-src", ""))
    found = [base64.b64decode(text) for text in re.findall(r"data:image/webp;base64,([\w+/=]+)", page)]
    sizes = [Image.open(io.BytesIO(data)).convert("RGBA").size for data in found]
    assert sizes == [(40, 30), (40, 30)], "one picture and one cut-out, each once for all its views"
    assert page.count('class="view') == 6
    assert "two: broken" in page


def test_names_command_nothing_in_a_gallery() -> None:
    nasty = '<script>alert("x")</script>'
    page = gallery([entry(Result(by=nasty, cut=cut()), name=nasty, link='a"b')])
    assert nasty not in page
    assert 'href="a&quot;b"' in page
