"""Mask to alpha and to the finished picture."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFilter

from cutout.enums import BackgroundFit
from cutout.imaging import cleanup, composite, resample
from cutout.imaging.background import fitted
from cutout.options import RemoveOptions

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

    from cutout.pipeline.remover import Remover


def array(image: Image.Image) -> npt.NDArray[np.uint8]:
    return np.asarray(image)


def blob(size: tuple[int, int] = (120, 90)) -> Image.Image:
    """A soft disc with specks and holes, which smoothing is there for."""
    image = Image.new("L", size, 0)
    draw = ImageDraw.Draw(image)
    draw.ellipse((20, 10, 100, 80), fill=255)
    for x, y in ((5, 5), (110, 80), (3, 60)):
        draw.point((x, y), 255)
    return image.filter(ImageFilter.GaussianBlur(2))


def test_a_mask_is_scaled_by_lanczos_as_rembg_does() -> None:
    mask = blob((32, 32))
    assert (
        array(resample.upscale(mask, (100, 77))).tolist()
        == array(mask.resize((100, 77), Image.Resampling.LANCZOS)).tolist()
    )
    assert resample.upscale(mask, (32, 32)) is mask


@settings(max_examples=150, deadline=None)
@given(
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.tuples(st.integers(1, 200), st.integers(1, 200)),
    st.lists(st.integers(0, 39), min_size=4, max_size=4),
    st.integers(0, 255),
)
def test_any_mask_is_scaled_as_the_whole_would_be(
    size: tuple[int, int], wanted: tuple[int, int], box: list[int], value: int
) -> None:
    """Also where only a part of it has content, and whatever is left out of the work for that."""
    mask = Image.new("L", size, 0)
    left, right = sorted(box[:2])
    top, bottom = sorted(box[2:])
    mask.paste(value, (min(left, size[0]), min(top, size[1]), min(right + 1, size[0]), min(bottom + 1, size[1])))
    found = array(resample.upscale(mask, wanted)).astype(int)
    assert np.abs(found - array(mask.resize(wanted, Image.Resampling.LANCZOS))).max() <= 2


@pytest.mark.parametrize("threshold", [0, 1, 128, 255])
def test_alpha_from_the_threshold_on_is_opaque(threshold: int) -> None:
    ramp = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16))
    found = array(cleanup.binary(ramp, threshold)).ravel()
    assert found.tolist() == [255 if value >= threshold else 0 for value in range(256)]


def agreement(mask: Image.Image) -> float:
    """Share of pixels on which our smoothing and rembg's agree."""
    post_process = pytest.importorskip("rembg.bg").post_process

    return float((array(cleanup.post_process(mask)) == post_process(np.array(mask))).mean())


@pytest.mark.parametrize("picture", ["astronaut.jpg", "chelsea.jpg", "coffee.jpg"])
def test_post_process_is_rembgs_on_real_masks(picture: str, examples: Path, remover: Remover) -> None:
    from cutout.formats.decode import decode

    mask = remover.cut(decode((examples / picture).read_bytes()), RemoveOptions(mask=True)).image
    assert set(np.unique(array(cleanup.post_process(mask)))) <= {0, 255}
    assert agreement(mask) > 0.999


def test_post_process_is_rembgs_on_drawn_masks() -> None:
    assert agreement(blob((400, 300)).resize((1200, 900))) > 0.999
    for flat in (0, 126, 127, 255):
        assert agreement(Image.new("L", (40, 30), flat)) == 1


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (50, 1), (2, 2), (3, 200)])
def test_post_process_takes_pictures_of_any_size(size: tuple[int, int]) -> None:
    for value in (0, 255):
        assert array(cleanup.post_process(Image.new("L", size, value))).tolist() == [[value] * size[0]] * size[1]


def test_post_process_removes_specks_and_leaves_the_disc() -> None:
    mask = Image.new("L", (100, 100), 0)
    ImageDraw.Draw(mask).rectangle((30, 30, 90, 90), fill=255)
    mask.putpixel((10, 10), 255)
    found = cleanup.post_process(mask)
    assert found.getpixel((10, 10)) == 0
    assert found.getpixel((60, 60)) == 255
    assert found.getbbox() == (30, 30, 91, 91)


def test_a_cut_out_keeps_the_colours_straight() -> None:
    rgb = Image.effect_noise((30, 20), 90).convert("RGB")
    alpha = Image.linear_gradient("L").resize((30, 20))
    found = composite.cut(rgb, alpha)
    assert found.mode == "RGBA"
    assert np.array_equal(array(found)[:, :, :3], array(rgb)), "also where the alpha hides them"
    assert np.array_equal(array(found)[:, :, 3], array(alpha))


@pytest.mark.parametrize("size", [(100, 50), (50, 100), (64, 64), (7, 400)])
def test_a_background_covers_without_being_stretched(size: tuple[int, int]) -> None:
    """A disc in the middle stays round, and no border shows."""
    background = Image.new("RGB", (300, 200), (0, 0, 255))
    ImageDraw.Draw(background).ellipse((100, 50, 200, 150), fill=(255, 0, 0))
    found = fitted(background, size, BackgroundFit.COVER)
    assert found.size == size
    red = array(found)[:, :, 0] > 128
    assert array(found).sum(axis=2).min() > 200
    if min(size) >= 50:
        box = Image.fromarray(red).getbbox()
        assert box is not None
        assert (box[2] - box[0]) == pytest.approx(box[3] - box[1], abs=2)


def test_over_an_opaque_colour_nothing_is_transparent() -> None:
    alpha = Image.fromarray(np.array([[0, 128, 255]], np.uint8))
    found, transparency = composite.compose(Image.new("RGB", (3, 1), (200, 100, 0)), alpha, (0, 0, 100, 255))
    assert (found.mode, transparency) == ("RGB", None)
    assert array(found).tolist() == [[[0, 0, 100], [100, 50, 50], [200, 100, 0]]]


def test_over_a_picture_nothing_is_transparent() -> None:
    alpha = Image.fromarray(np.array([[0, 255]], np.uint8))
    background = Image.new("RGBA", (2, 1), (1, 2, 3, 0))
    found, transparency = composite.compose(Image.new("RGB", (2, 1), (200, 100, 0)), alpha, background)
    assert (found.mode, transparency) == ("RGB", None)
    assert array(found).tolist() == [[[1, 2, 3], [200, 100, 0]]]


def test_over_a_translucent_colour_both_alphas_count() -> None:
    alpha = Image.fromarray(np.array([[0, 255]], np.uint8))
    found, transparency = composite.compose(Image.new("RGB", (2, 1), (200, 100, 0)), alpha, (10, 20, 30, 128))
    assert transparency is not None
    assert array(composite.cut(found, transparency)).tolist() == [[[10, 20, 30, 128], [200, 100, 0, 255]]]


def test_nothing_is_changed_in_place() -> None:
    rgb, alpha = Image.new("RGB", (9, 9), (1, 2, 3)), blob((9, 9))
    before = rgb.tobytes(), alpha.tobytes()
    composite.cut(rgb, alpha)
    cleanup.post_process(alpha)
    cleanup.binary(alpha, 9)
    composite.compose(rgb, alpha, (0, 0, 0, 255))
    assert (rgb.tobytes(), alpha.tobytes()) == before


@pytest.mark.parametrize("size", [(1000, 800), (321, 4000), (333, 333), (1280, 1280)])
@pytest.mark.parametrize("box", [(100, 100, 180, 160), (0, 0, 30, 30), (300, 310, 320, 320), (0, 0, 320, 320)])
def test_upscaling_the_content_alone_is_upscaling_all(size: tuple[int, int], box: tuple[int, int, int, int]) -> None:
    mask = Image.new("L", (320, 320))
    soft = np.random.default_rng(0).integers(0, 256, (box[3] - box[1], box[2] - box[0]), np.uint8)
    mask.paste(Image.fromarray(soft), box[:2])
    rows = mask.resize((size[0], 320), Image.Resampling.LANCZOS)
    expected = np.asarray(rows.resize(size, Image.Resampling.LANCZOS)).astype(int)
    difference = np.abs(np.asarray(resample.upscale(mask, size)).astype(int) - expected)
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.01


def test_an_empty_mask_stays_empty() -> None:
    assert resample.upscale(Image.new("L", (320, 320)), (640, 480)).getextrema() == (0, 0)
