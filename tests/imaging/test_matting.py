"""Alpha matting: as good as the exact solution, bounded in memory, and what happens where there is nothing to solve."""

from __future__ import annotations

import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from cutout.formats.decode import Picture
from cutout.imaging.matting import UnsolvableError, matte, trimap
from cutout.options import RemoveOptions

if TYPE_CHECKING:
    from pathlib import Path

    from cutout.pipeline.remover import Remover


MATTING = RemoveOptions(matting=True)


def scene(size: int = 72) -> tuple[Image.Image, Image.Image]:
    """An orange disc before a striped wall, and a soft mask of it."""
    rgb = Image.new("RGB", (size, size), (40, 60, 120))
    draw = ImageDraw.Draw(rgb)
    for x in range(0, size, 6):
        draw.line((x, 0, x, size), fill=(60, 80, 150))
    mask = Image.new("L", (size * 4, size * 4), 0)
    ImageDraw.Draw(mask).ellipse((size, size, size * 3, size * 3), fill=255)
    mask = mask.resize((size, size), Image.Resampling.LANCZOS)
    rgb.paste((230, 140, 30), (0, 0), mask)
    return rgb, mask


# --- trimap ---


def test_a_trimap_is_sure_beyond_the_thresholds_only() -> None:
    mask = Image.fromarray(np.array([[0, 9, 10, 11, 239, 240, 241, 255]], np.uint8))
    found = trimap(mask, foreground=240, background=10, erode=0)
    assert found.tolist() == [[0, 0, 128, 128, 128, 128, 255, 255]]


def test_a_trimap_is_rembgs() -> None:
    """Also at the border, which shrinks the foreground but not the background."""
    binary_erosion = pytest.importorskip("scipy.ndimage").binary_erosion
    _, mask = scene()
    values, square = np.asarray(mask), np.ones((10, 10), np.uint8)
    expected = np.full(values.shape, 128, np.uint8)
    expected[binary_erosion(values > 240, square)] = 255
    expected[binary_erosion(values < 10, square, border_value=1)] = 0
    found = trimap(mask, foreground=240, background=10, erode=10)
    assert {0, 128, 255} == set(np.unique(found))
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("erode", [1, 2, 3, 7, 8, 150])
def test_a_trimap_is_rembgs_with_any_erosion(erode: int) -> None:
    ndimage = pytest.importorskip("scipy.ndimage")
    values = np.random.default_rng(1).integers(0, 256, (40, 57), np.uint8)
    values = ndimage.uniform_filter(values, 9)
    square, middle = np.ones((erode, erode), np.uint8), int(np.median(values))
    found = trimap(Image.fromarray(values), foreground=middle, background=middle, erode=erode)
    assert np.array_equal(found == 255, ndimage.binary_erosion(values > middle, square))
    assert np.array_equal(found == 0, ndimage.binary_erosion(values < middle, square, border_value=1))


def test_an_erosion_far_beyond_the_picture_costs_no_memory() -> None:
    mask = Image.new("L", (30, 20), 255)
    assert (trimap(mask, foreground=240, background=10, erode=10**9) == 128).all()


def test_erosion_makes_both_sure_regions_smaller() -> None:
    _, mask = scene()
    counts = [
        tuple(int((trimap(mask, foreground=240, background=10, erode=erode) == value).sum()) for value in (0, 255))
        for erode in (0, 3, 9)
    ]
    assert counts == sorted(counts, reverse=True)
    assert len({background for background, _ in counts}) == len({foreground for _, foreground in counts}) == 3


# --- refine ---


def strands(width: int, height: int) -> tuple[Image.Image, Image.Image, Image.Image]:
    """A picture with a head of hair before a coloured background, its true alpha, and the blurred mask of a network."""
    big = Image.new("L", (width * 2, height * 2), 0)
    draw = ImageDraw.Draw(big)
    side, x, y = min(big.size), big.width // 2, big.height // 2
    draw.ellipse((x - side // 4, y - side // 4, x + side // 4, y + side // 4), fill=255)
    for angle in np.linspace(0, 2 * np.pi, 60, endpoint=False):
        reach = side * (0.31 + 0.03 * np.sin(7 * angle))
        end = x + reach * np.cos(angle + 0.1), y + reach * np.sin(angle + 0.1)
        start = x + side * 0.24 * np.cos(angle), y + side * 0.24 * np.sin(angle)
        draw.line((*start, *end), fill=255, width=max(2, side // 180))
    true = big.resize((width, height), Image.Resampling.BOX)
    wave = np.linspace(0, 6, width)[None] + np.linspace(0, 4, height)[:, None]
    front = np.stack([110 + 20 * np.sin(wave), 60 + 10 * np.cos(wave), 30 + 5 * np.sin(wave)], axis=-1)
    back = np.stack([150 + 30 * np.cos(wave), 190 + 20 * np.sin(wave), 220 + 20 * np.cos(wave)], axis=-1)
    alpha = np.asarray(true)[..., None] / 255
    rgb = Image.fromarray(np.uint8(front * alpha + back * (1 - alpha) + 0.5))
    mask = true.filter(ImageFilter.GaussianBlur(min(width, height) / 60))
    return rgb, true, mask


def away(one: Image.Image, other: Image.Image) -> float:
    """Mean difference, in levels."""
    return float(np.abs(np.asarray(one, np.float32) - np.asarray(other, np.float32)).mean())


def slope_error(one: Image.Image, other: Image.Image) -> float:
    """Mean difference of the gradients, in levels per pixel."""
    first, second = (np.array(np.gradient(np.asarray(image, np.float32))) for image in (one, other))
    return float(np.hypot(*(first - second)).mean())


def test_matting_is_close_to_the_exact_solution() -> None:
    """pymatting's, as rembg calls it, which takes ten times as long."""
    alpha_matting_cutout = pytest.importorskip("rembg.bg").alpha_matting_cutout
    rgb, _, mask = strands(240, 200)
    exact = alpha_matting_cutout(rgb, mask, 240, 10, 10).getchannel("A")
    found = matte(rgb, mask, MATTING)
    assert found.mode == "L"
    assert away(found, exact) < away(mask, exact) / 5
    rgb, mask = scene()
    assert away(matte(rgb, mask, MATTING), alpha_matting_cutout(rgb, mask, 240, 10, 10).getchannel("A")) < 0.2


@pytest.mark.parametrize("size", [(240, 200), (700, 900), (1500, 1200)])
def test_hair_is_found_where_the_mask_is_blurred(size: tuple[int, int]) -> None:
    """On the picture's own grid, and on coarser ones."""
    rgb, true, mask = strands(*size)
    found = matte(rgb, mask, MATTING)
    assert away(found, true) < away(mask, true) / 3
    assert slope_error(found, true) < slope_error(mask, true) / 2


@pytest.mark.parametrize("size", [(240, 200), (1500, 1200)])
def test_what_the_trimap_is_sure_of_stays(size: tuple[int, int]) -> None:
    rgb, _, mask = strands(*size)
    sure = trimap(mask, foreground=240, background=10, erode=10)
    found = np.asarray(matte(rgb, mask, MATTING))
    assert (found[sure == 255] == 255).all()
    assert (found[sure == 0] == 0).all()


def test_there_are_no_seams_between_tiles() -> None:
    """Where alpha is the picture's own brightness, it comes back so on both sides of every tile's border."""
    ramp = np.tile(np.linspace(0, 255, 900), (1100, 1)).astype(np.uint8)
    rgb = Image.merge("RGB", [Image.fromarray(ramp)] * 3)
    alpha = np.asarray(matte(rgb, Image.fromarray(ramp), MATTING), np.float32)
    step_down, step_across = np.abs(np.diff(alpha, axis=0)), np.abs(np.diff(alpha, axis=1))
    assert step_down.max() <= 2
    assert step_across[:, 60:-60].max() <= 4


def test_the_result_depends_on_the_picture_alone() -> None:
    jobs = [strands(400, 300), strands(1500, 1200)]
    alone = [matte(rgb, mask, MATTING).tobytes() for rgb, _, mask in jobs]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda job: matte(job[0], job[2], MATTING).tobytes(), jobs * 2))
    assert together == alone * 2


def test_twelve_megapixels_take_little_memory() -> None:
    rgb, mask = (picture.resize((4000, 3000)) for picture in strands(800, 600)[::2])
    tracemalloc.start()
    try:
        matte(rgb, mask, RemoveOptions(matting=True, matting_erode=60))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 200e6, "17 bytes a pixel"


@pytest.mark.parametrize(("value", "missing"), [(0, "foreground"), (255, "background"), (128, "foreground")])
def test_a_mask_without_a_sure_region_cannot_be_solved(value: int, missing: str) -> None:
    with pytest.raises(UnsolvableError, match=f"no sure {missing}"):
        matte(Image.new("RGB", (40, 40)), Image.new("L", (40, 40), value), MATTING)


def test_a_mask_that_is_sure_everywhere_needs_no_solution() -> None:
    mask = Image.new("L", (40, 40), 0)
    mask.paste(255, (0, 0, 20, 40))
    with pytest.raises(UnsolvableError, match="no unknown pixels"):
        matte(Image.new("RGB", (40, 40)), mask, RemoveOptions(matting=True, matting_erode=0))


@pytest.mark.parametrize("size", [(3, 1), (3, 2), (50, 2)])
def test_a_picture_smaller_than_the_solvers_windows_is_told_as_that(size: tuple[int, int]) -> None:
    mask = Image.new("L", size, 0)
    mask.putpixel((0, 0), 255)
    mask.putpixel((1, 0), 100)
    with pytest.raises(UnsolvableError, match="too small"):
        matte(Image.new("RGB", size), mask, RemoveOptions(matting=True, matting_erode=0))


@pytest.mark.parametrize("size", [(3, 3), (3, 400), (5000, 4), (7, 5)])
def test_narrow_pictures_are_solved(size: tuple[int, int]) -> None:
    values = np.tile(np.linspace(0, 255, size[0]), (size[1], 1)).astype(np.uint8)
    rgb = Image.merge("RGB", [Image.fromarray(values)] * 3)
    found = matte(rgb, Image.fromarray(values), RemoveOptions(matting=True, matting_erode=0))
    assert found.size == size
    assert away(found, Image.fromarray(values)) < 20


# --- in a run ---


class Answer:
    """A session with a given answer: the real ones do not give empty masks on demand."""

    def __init__(self, mask: Image.Image) -> None:
        self.mask = mask

    def predict(self, *_: object, **__: object) -> Image.Image:
        return self.mask


@pytest.mark.parametrize("value", [0, 255])
def test_an_empty_trimap_falls_back_to_the_plain_mask_with_a_warning(
    value: int, remover: Remover, monkeypatch: pytest.MonkeyPatch
) -> None:
    rgb, _ = scene()
    session: Any = Answer(Image.new("L", rgb.size, value))
    monkeypatch.setattr(remover, "session", session)
    cutout = remover.cut(Picture(rgb=rgb), MATTING)
    assert [warning for warning in cutout.warnings if "matting was left out" in warning]
    assert cutout.image.getchannel("A").getextrema() == (value, value)
    assert np.array_equal(np.asarray(cutout.image.convert("RGB")), np.asarray(rgb))


def test_matting_refines_a_real_cut_out(examples: Path, remover: Remover) -> None:
    from cutout.formats.decode import decode

    picture = decode((examples / "chelsea.jpg").read_bytes(), max_size=160)
    plain, refined = remover.cut(picture), remover.cut(picture, MATTING)
    assert refined.warnings == ()
    difference = np.abs(
        np.asarray(plain.image.getchannel("A"), np.float32) - np.asarray(refined.image.getchannel("A"), np.float32)
    )
    assert 0 < difference.mean() < 25, "the same cat, with other edges"


def test_a_picture_of_one_pixel_comes_back_with_a_warning(remover: Remover) -> None:
    cutout = remover.cut(Picture(rgb=Image.new("RGB", (1, 1), (200, 10, 10))), MATTING)
    assert cutout.size == (1, 1)
    assert any("matting was left out" in warning for warning in cutout.warnings)
