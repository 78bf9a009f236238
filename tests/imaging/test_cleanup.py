"""Mask clean-up does what its option says, keeps soft edges, and leaves everything else alone."""

from __future__ import annotations

import tracemalloc
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from cutout.imaging import cleanup
from cutout.imaging.components import find_regions
from cutout.options import RemoveOptions

if TYPE_CHECKING:
    import numpy.typing as npt


def array(image: Image.Image) -> npt.NDArray[np.uint8]:
    return np.asarray(image)


def discs(
    *circles: tuple[int, int, int], size: tuple[int, int] = (300, 200), fill: int = 255, soft: float = 2
) -> Image.Image:
    """Discs (x, y, radius) with soft edges."""
    image = Image.new("L", size)
    draw = ImageDraw.Draw(image)
    for x, y, radius in circles:
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=fill)
    return image.filter(ImageFilter.GaussianBlur(soft))


def clean(alpha: Image.Image, **wanted: object) -> Image.Image:
    return cleanup.clean_up(alpha, RemoveOptions(**wanted))  # type: ignore[arg-type]


BIG, SMALL = (110, 100, 70), (250, 60, 12)
MASKS = st.tuples(st.integers(1, 12), st.integers(1, 12), st.integers(0, 2**32 - 1), st.floats(0, 1))


@settings(max_examples=200, deadline=None)
@given(MASKS, st.booleans())
def test_regions_are_those_of_a_reference(drawn: tuple[int, int, int, float], diagonal: bool) -> None:
    ndimage = pytest.importorskip("scipy.ndimage")
    height, width, seed, share = drawn
    mask = np.random.default_rng(seed).random((height, width)) < share
    labels, count = ndimage.label(mask, np.ones((3, 3)) if diagonal else None)
    regions = find_regions(mask, diagonal=diagonal)
    assert regions.count == count
    for number in range(count):
        painted = regions.paint(np.arange(count) == number) > 0
        label = labels[painted].max()
        assert np.array_equal(painted, labels == label)
        assert regions.areas[number] == painted.sum()
        inner = painted[1:-1, 1:-1]
        assert regions.at_frame[number] == (inner.sum() < painted.sum())


def test_where_nothing_is_asked_nothing_is_done() -> None:
    alpha = discs(BIG)
    assert cleanup.clean_up(alpha, RemoveOptions()) is alpha


def test_the_order_is_the_documented_one() -> None:
    alpha = discs(BIG, SMALL, (110, 100, 8))
    alpha.paste(0, (100, 90, 120, 110))
    found = clean(
        alpha,
        threshold=100,
        min_area=30,
        largest=True,
        fill_holes="all",
        erode=5,
        dilate=3,
        feather=4,
        invert=True,
    )
    expected = clean(alpha, threshold=100)
    expected = cleanup.keep_largest(cleanup.remove_small(expected, 30))
    expected = cleanup.dilate(cleanup.erode(cleanup.fill_holes(expected), 5), 3)
    expected = ImageChops.invert(cleanup.feather(expected, 4))
    assert np.array_equal(array(found), array(expected))


def test_no_input_is_changed() -> None:
    alpha = discs(BIG, SMALL)
    before = alpha.tobytes()
    clean(alpha, threshold=9, min_area=9, largest=True, fill_holes=True, erode=2, dilate=2, feather=2, invert=True)
    assert alpha.tobytes() == before


@pytest.mark.parametrize("size", [(1, 1), (1, 90), (90, 1), (2, 2)])
@pytest.mark.parametrize("value", [0, 20, 100, 255])
def test_flat_masks_of_any_size_stay_flat(size: tuple[int, int], value: int) -> None:
    alpha = Image.new("L", size, value)
    options: list[dict[str, object]] = [
        {"largest": True},
        {"fill_holes": True},
        {"erode": 3},
        {"dilate": 30},
        {"feather": 3},
    ]
    for option in options:
        assert set(array(clean(alpha, **option)).ravel().tolist()) == {value}, option


# --- the largest object ---


def test_the_largest_object_keeps_its_soft_edge_to_the_last_level() -> None:
    found = array(clean(discs(BIG, SMALL), largest=True))
    assert np.abs(found.astype(int) - array(discs(BIG))).max() <= 1
    assert found[:, 232:].max() == 0, "nothing of the other is left, no rim either"


@pytest.mark.parametrize("factor", [1, 7])
def test_objects_that_haze_connects_are_told_apart(factor: int) -> None:
    size = (300 * factor, 200 * factor)
    big, small = (80 * factor, 100 * factor, 60 * factor), (240 * factor, 100 * factor, 30 * factor)
    alpha = discs(big, small, size=size)
    haze = Image.new("L", size)
    haze.paste(90, (100 * factor, 85 * factor, 240 * factor, 115 * factor))
    found = array(clean(ImageChops.lighter(alpha, haze), largest=True))
    solid = array(discs(big, size=size)) >= 128
    assert np.array_equal(found >= 128, solid)
    assert found[100 * factor, 150 * factor] == 90, "the haze beside it is its own"
    assert found[:, 206 * factor :].max() == 0


def test_what_is_faint_but_connected_stays_and_what_floats_goes() -> None:
    alpha = discs(BIG)
    alpha.paste(100, (178, 90, 230, 100))  # a glass handle
    alpha.paste(100, (250, 10, 290, 40))
    found = array(clean(alpha, largest=True))
    assert (found[91:99, 185:229] == 100).all()
    assert found[10:40, 250:290].max() == 0


def test_where_all_is_faint_the_largest_faint_object_stays() -> None:
    found = clean(discs(BIG, SMALL, fill=90), largest=True)
    assert found.getpixel(BIG[:2]) == 90
    assert found.getpixel(SMALL[:2]) == 0


# --- small objects ---


@pytest.mark.parametrize(
    ("area", "stays"), [(300, True), (900, False), ("0.5%", True), ("1.5%", False), ("900px", False)]
)
def test_objects_below_the_area_go_with_their_edges(area: object, stays: bool) -> None:
    """The small disc has about 550 of the 60,000 pixels."""
    found = array(clean(discs(BIG, SMALL), min_area=area))
    assert np.array_equal(found[:, :200], array(discs(BIG))[:, :200])
    assert np.array_equal(found[:, 232:], array(discs(SMALL))[:, 232:] * stays)


def test_faint_specks_go_too() -> None:
    alpha = discs(BIG)
    alpha.paste(70, (280, 180, 284, 184))
    assert array(clean(alpha, min_area=64))[150:, 250:].max() == 0


# --- holes ---


@pytest.mark.parametrize("fill", ["all", True, "1%", 500])
def test_an_enclosed_hole_becomes_opaque_without_a_ring(fill: object) -> None:
    alpha = ImageChops.subtract(discs(BIG), discs((100, 90, 10)))
    found = array(clean(alpha, fill_holes=fill)).astype(int)
    assert np.abs(found - array(discs(BIG))).max() <= 1


def test_larger_holes_than_asked_for_stay() -> None:
    alpha = ImageChops.subtract(discs(BIG), discs((80, 90, 4), (130, 90, 20)))
    found = clean(alpha, fill_holes=200)
    assert found.getpixel((80, 90)) == 255
    assert found.getpixel((130, 90)) == alpha.getpixel((130, 90))


def test_what_the_frame_closes_is_no_hole() -> None:
    alpha = Image.new("L", (100, 100), 255)
    alpha.paste(0, (40, 60, 60, 100))
    assert clean(alpha, fill_holes="all") is alpha
    assert clean(alpha, fill_holes=False) is alpha


# --- the edge ---


def brute(pixels: npt.NDArray[np.uint8], radius: int) -> npt.NDArray[np.uint8]:
    around = np.pad(pixels, radius)
    height, width = pixels.shape
    shifted = [
        around[radius + y : radius + y + height, radius + x : radius + x + width]
        for y in range(-radius, radius + 1)
        for x in range(-radius, radius + 1)
        if x * x + y * y <= radius * radius + radius
    ]
    return np.asarray(np.max(shifted, axis=0), np.uint8)


@pytest.mark.parametrize("radius", [1, 2, 5, 8])
def test_dilation_is_by_a_disc(radius: int) -> None:
    rng = np.random.default_rng(radius)
    pixels = (rng.integers(0, 256, (40, 53)) * (rng.random((40, 53)) < 0.02)).astype(np.uint8)
    found = array(clean(Image.fromarray(pixels), dilate=radius))
    assert np.array_equal(found, brute(pixels, radius))


@pytest.mark.parametrize("radius", [9, 20, 50, 101])
def test_wide_dilation_is_by_a_disc_within_eight_percent(radius: int) -> None:
    alpha = Image.new("L", (260, 250))
    alpha.putpixel((130, 125), 200)
    found = array(clean(alpha, dilate=radius))
    rows, columns = np.mgrid[:250, :260]
    distance = np.hypot(rows - 125, columns - 130)
    assert (found[distance <= radius - 0.5] == 200).all()
    assert found[distance > radius * 1.08 + 0.5].max() == 0


def test_erosion_is_dilation_of_the_rest_and_the_frame_is_no_edge() -> None:
    alpha = discs((0, 100, 60), soft=4)
    for radius in (3, 25):
        found = array(clean(alpha, erode=radius))
        assert np.array_equal(found, 255 - array(clean(ImageChops.invert(alpha), dilate=radius)))
        assert found[100, 0] == 255, "cut by the frame, not shrunk from it"
        assert found[100].argmin() == pytest.approx(array(alpha)[100].argmin() - radius, abs=1)


def test_erosion_and_dilation_keep_the_edge_as_soft_as_it_was() -> None:
    alpha = discs(BIG, soft=4)
    edge = array(alpha)[100, BIG[0] :]
    shrunk = array(clean(alpha, erode=10))[100, BIG[0] :]
    assert np.abs(shrunk[:100].astype(int) - edge[10:110]).max() <= 1


@pytest.mark.parametrize("radius", [2, 6, 30])
def test_feathering_fades_the_edge_over_its_radius_on_either_side(radius: int) -> None:
    alpha = Image.new("L", (200, 100))
    alpha.paste(255, (0, 0, 100, 100))
    row = array(clean(alpha, feather=radius))[50].astype(int)
    assert row[0] == 255
    assert row[max(0, 99 - 2 * radius)] >= 250
    assert row[100 + 2 * radius] <= 5
    assert 200 < row[99 - radius] < 255
    assert 0 < row[100 + radius] < 55
    assert (np.diff(row) <= 0).all()
    assert (array(clean(alpha, feather=radius))[:, 20] == row[20]).all(), "the frame is no edge"


def test_inverting_swaps_subject_and_background() -> None:
    assert np.array_equal(array(clean(discs(BIG), invert=True)), 255 - array(discs(BIG)))


def test_an_edge_moved_further_than_the_picture_takes_no_more_memory_than_the_picture() -> None:
    alpha = discs((20, 20, 9), size=(60, 40))
    tracemalloc.start()
    try:
        far = [array(cleanup.dilate(alpha, 10_000)), array(cleanup.erode(alpha, 10_000))]
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 5_000_000
    near = [array(cleanup.dilate(alpha, 80)), array(cleanup.erode(alpha, 80))]
    assert all(map(np.array_equal, far, near))
    assert [part.min() for part in far] == [array(alpha).max(), 0]
