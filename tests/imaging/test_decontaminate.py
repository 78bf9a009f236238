"""Soft pixels lose the old background's colour, at little cost, and nothing else changes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image, ImageChops, ImageFilter
from small import brightness_model

from cutout.enums import EdgeColors
from cutout.errors import UsageError
from cutout.formats.decode import Picture, decode
from cutout.imaging.decontaminate import decontaminate
from cutout.options import RemoveOptions

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt
    from conftest import Cutout

    from cutout.pipeline.remover import Remover

KEEP = RemoveOptions(edge_colors=EdgeColors.KEEP)


def pixels(image: Image.Image | None) -> npt.NDArray[np.uint8]:
    assert image is not None
    return np.asarray(image)


def blurred_disc(size: tuple[int, int]) -> Image.Image:
    """Full inside, empty outside, soft between."""
    disc = Image.radial_gradient("L").resize(size).point([255 if value < 130 else 0 for value in range(256)])
    return disc.filter(ImageFilter.GaussianBlur(max(size) / 100))


def error(found: Image.Image, true: Image.Image, alpha: Image.Image) -> float:
    """Mean colour error of a composite over its soft pixels, of 255."""
    share = pixels(alpha)
    soft = (share > 0) & (share < 255)
    difference = np.abs(pixels(found).astype(float) - pixels(true))[soft]
    return float((difference * share[soft][:, None] / 255).mean())


@pytest.fixture(scope="module")
def cat(examples: Path) -> Picture:
    return decode((examples / "chelsea.jpg").read_bytes())


@pytest.fixture(scope="module")
def ground(examples: Path, cat: Picture) -> Image.Image:
    """Another photograph of the cat's size."""
    return decode((examples / "coffee.jpg").read_bytes()).rgb.resize(cat.rgb.size)


@pytest.mark.parametrize("scale", [1, 4])
@pytest.mark.parametrize("ground_is", ["photo", "green"])
def test_the_error_of_a_composite_falls_by_half_and_more(
    cat: Picture, ground: Image.Image, scale: int, ground_is: str
) -> None:
    size = cat.rgb.width * scale, cat.rgb.height * scale
    alpha = blurred_disc(size)
    true = cat.rgb.resize(size)
    behind = ground.resize(size) if ground_is == "photo" else Image.new("RGB", size, "#00c040")
    shown = Image.composite(true, behind, alpha)
    found = decontaminate(shown, alpha)
    assert error(found, true, alpha) < 0.5 * error(shown, true, alpha)


def test_a_plain_object_before_a_plain_wall_gets_its_own_colour_everywhere() -> None:
    alpha = blurred_disc((200, 150))
    true = Image.new("RGB", alpha.size, (200, 40, 90))
    found = decontaminate(Image.composite(true, Image.new("RGB", alpha.size, "white"), alpha), alpha)
    off = np.abs(pixels(found).astype(int) - pixels(true)).max(2) * (pixels(alpha) / 255)
    assert off.max() < 20
    assert off.mean() < 1


@pytest.mark.parametrize("size", [(451, 300), (2000, 1331)])
def test_opaque_and_hidden_pixels_stay_exact(cat: Picture, size: tuple[int, int]) -> None:
    rgb, alpha = cat.rgb.resize(size), blurred_disc(size)
    found, share = pixels(decontaminate(rgb, alpha)), pixels(alpha)
    for value in (0, 255):
        assert (found[share == value] == pixels(rgb)[share == value]).all()
    assert (found != pixels(rgb)).any()


@pytest.mark.parametrize("alpha", ["empty", "full", "hard", "one value"])
def test_a_picture_without_an_edge_to_clean_is_given_back_as_it_is(cat: Picture, alpha: str) -> None:
    given = {
        "empty": Image.new("L", cat.rgb.size, 0),
        "full": Image.new("L", cat.rgb.size, 255),
        "hard": blurred_disc(cat.rgb.size).point([0] * 128 + [255] * 128),
        "one value": Image.new("L", cat.rgb.size, 2),
    }[alpha]
    assert decontaminate(cat.rgb, given) is cat.rgb


def test_the_input_is_left_alone_unless_it_may_be_used(cat: Picture) -> None:
    alpha, before = blurred_disc(cat.rgb.size), cat.rgb.copy()
    found = decontaminate(cat.rgb, alpha)
    assert cat.rgb.tobytes() == before.tobytes()
    assert decontaminate(before, alpha, in_place=True) is before
    assert before == found


@pytest.mark.parametrize("size", [(1, 1), (1, 700), (900, 1), (2, 3), (65, 63), (701, 433)])
def test_odd_sizes_and_pictures_that_are_soft_all_over(size: tuple[int, int]) -> None:
    random = np.random.default_rng(1)
    rgb = Image.fromarray(random.integers(0, 256, (size[1], size[0], 3), np.uint8))
    for alpha in (
        Image.fromarray(random.integers(0, 256, (size[1], size[0]), np.uint8)),
        Image.new("L", size, 128),
        Image.linear_gradient("L").resize(size),
    ):
        assert decontaminate(rgb, alpha).size == size


def test_where_no_foreground_is_near_the_pictures_own_colours_stay(cat: Picture) -> None:
    alpha = Image.new("L", cat.rgb.size, 90)
    assert error(decontaminate(cat.rgb, alpha), cat.rgb, alpha) == 0


def test_the_same_picture_gives_the_same_colours(cat: Picture, remover: Remover) -> None:
    first, second = remover.cut(cat), remover.cut(cat)
    assert first.rgb == second.rgb


def test_the_default_cleans_edges_and_keep_leaves_the_picture(cat: Picture, remover: Remover) -> None:
    cleaned, kept = remover.cut(cat), remover.cut(cat, KEEP)
    assert pixels(kept.rgb).tobytes() == cat.rgb.tobytes()
    assert cleaned.alpha == kept.alpha
    assert cleaned.alpha is not None
    assert cleaned.rgb is not None
    opaque = cleaned.alpha.point([0] * 255 + [255])
    changed = ImageChops.difference(cleaned.rgb, cat.rgb)
    changed.paste(0, None, ImageChops.invert(opaque))
    assert not changed.getbbox()
    assert (pixels(cleaned.rgb) != pixels(cat.rgb)).any()


def test_a_picture_is_changed_only_when_it_is_not_needed_any_more(examples: Path, remover: Remover) -> None:
    picture = decode((examples / "chelsea.jpg").read_bytes())
    before = picture.rgb.copy()
    expected = remover.cut(picture)
    assert picture.rgb.tobytes() == before.tobytes()
    assert (pixels(remover.cut(picture, consume=True).rgb) == pixels(expected.rgb)).all()


def test_the_command_takes_the_word_and_its_variable(cutout: Cutout, tmp_path: Path) -> None:
    model = brightness_model(tmp_path)
    ramp = Image.linear_gradient("L").resize((64, 64))
    Image.merge("RGB", (ramp, ramp.point(list(range(256)[::-1])), ramp)).save(tmp_path / "in.png")

    def run(*words: str, stdin: bytes = b"", **environ: str) -> bytes:
        done = cutout("remove", tmp_path / "in.png", "-o", "-", "-m", model, *words, stdin=stdin, cwd=None, **environ)
        assert done.code == 0, done.err
        return done.out

    cleaned = run()
    kept = run("--edge-colors", "keep")
    assert cleaned == run("--edge-colors", "clean")
    assert cleaned != kept
    assert kept == run(CUTOUT_EDGE_COLORS="keep")
    assert cutout("remove", tmp_path / "in.png", "-m", model, "--edge-colors", "scrub").code == 2


def test_a_wrong_word_is_named_with_the_right_ones() -> None:
    assert RemoveOptions.from_mapping({"edge_colors": "keep"}).edge_colors is EdgeColors.KEEP
    with pytest.raises(UsageError, match=r"edge_colors is 'scrub'.* keep, clean"):
        RemoveOptions.from_mapping({"edge_colors": "scrub"})
