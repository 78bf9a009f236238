"""Alpha matting: rembg's result, and what happens where there is nothing to solve or nothing to solve it with."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from cutout import matting
from cutout.codec import Picture
from cutout.errors import ExitCode, UsageError
from cutout.matting import UnsolvableError, check_available, refine, trimap
from cutout.options import RemoveOptions
from cutout.pipeline import Remover

if TYPE_CHECKING:
    from pathlib import Path


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
    from scipy.ndimage import binary_erosion

    _, mask = scene()
    values, square = np.asarray(mask), np.ones((10, 10), np.uint8)
    expected = np.full(values.shape, 128, np.uint8)
    expected[binary_erosion(values > 240, square)] = 255
    expected[binary_erosion(values < 10, square, border_value=1)] = 0
    found = trimap(mask, foreground=240, background=10, erode=10)
    assert {0, 128, 255} == set(np.unique(found))
    assert np.array_equal(found, expected)


def test_erosion_makes_both_sure_regions_smaller() -> None:
    _, mask = scene()
    counts = [
        tuple(int((trimap(mask, foreground=240, background=10, erode=erode) == value).sum()) for value in (0, 255))
        for erode in (0, 3, 9)
    ]
    assert counts == sorted(counts, reverse=True)
    assert len({background for background, _ in counts}) == len({foreground for _, foreground in counts}) == 3


# --- refine ---


def test_matting_is_rembgs() -> None:
    from rembg.bg import alpha_matting_cutout

    rgb, mask = scene()
    expected = np.asarray(alpha_matting_cutout(rgb, mask, 240, 10, 10), np.float64)
    alpha, foreground = refine(rgb, mask, MATTING)
    assert (alpha.mode, foreground.mode) == ("L", "RGB")
    assert np.abs(np.asarray(alpha, np.float64) - expected[:, :, 3]).mean() < 1
    assert np.abs(np.asarray(foreground, np.float64) - expected[:, :, :3]).mean() < 1


def test_matting_takes_the_wall_out_of_the_edge() -> None:
    rgb, mask = scene()
    alpha, foreground = refine(rgb, mask, MATTING)
    soft = (np.asarray(mask) > 30) & (np.asarray(mask) < 225)
    blue_before, blue_after = np.asarray(rgb)[soft][:, 2].mean(), np.asarray(foreground)[soft][:, 2].mean()
    assert blue_after < 45 < blue_before, "the disc has 30"
    assert alpha.getpixel((36, 36)) == 255
    assert alpha.getpixel((2, 2)) == 0


@pytest.mark.parametrize(("value", "missing"), [(0, "foreground"), (255, "background"), (128, "foreground")])
def test_a_mask_without_a_sure_region_cannot_be_solved(value: int, missing: str) -> None:
    with pytest.raises(UnsolvableError, match=f"no sure {missing}"):
        refine(Image.new("RGB", (40, 40)), Image.new("L", (40, 40), value), MATTING)


def test_a_solver_that_gives_up_is_told_as_that(monkeypatch: pytest.MonkeyPatch) -> None:
    import pymatting

    def give_up(*_: object) -> None:
        raise ValueError("no convergence")

    monkeypatch.setattr(pymatting, "estimate_alpha_cf", give_up)
    with pytest.raises(UnsolvableError, match="no convergence"):
        refine(*scene(), MATTING)


@pytest.mark.parametrize("size", [(2, 1), (2, 2), (50, 2)])
def test_a_picture_smaller_than_the_solvers_windows_is_told_as_that(size: tuple[int, int]) -> None:
    mask = Image.new("L", size, 0)
    mask.putpixel((0, 0), 255)
    with pytest.raises(UnsolvableError, match="too small"):
        refine(Image.new("RGB", size), mask, RemoveOptions(matting=True, matting_erode=0))


def test_the_solver_prints_nothing_to_where_pictures_go(capsys: pytest.CaptureFixture[str]) -> None:
    """pymatting prints each time it has to try again, as it does for this matrix."""
    from pymatting import ichol
    from scipy.sparse import csc_matrix

    refine(*scene(), MATTING)
    with pytest.raises(ValueError, match="Cholesky"):
        ichol(csc_matrix([[1.0, 2.0], [2.0, 1.0]]), shifts=[0.0])
    assert capsys.readouterr() == ("", "")


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
    from cutout.codec import decode

    picture = decode((examples / "chelsea.jpg").read_bytes(), max_size=160)
    plain, refined = remover.cut(picture), remover.cut(picture, MATTING)
    assert refined.warnings == ()
    difference = np.abs(
        np.asarray(plain.image.getchannel("A"), np.float32) - np.asarray(refined.image.getchannel("A"), np.float32)
    )
    assert 0 < difference.mean() < 25, "the same cat, with other edges"


# --- not installed ---


@pytest.mark.parametrize("missing", ["pymatting", "scipy"])
def test_without_its_package_matting_is_refused_before_any_work(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, package=None: None if name == missing else real(name, package)
    )
    for attempt in (check_available, lambda: Remover(device="cpu", options=MATTING)):
        with pytest.raises(UsageError, match="pymatting") as caught:
            attempt()
        assert 'pip install "cutout-cli[rembg]"' in (caught.value.hint or "")
        assert caught.value.exit_code is ExitCode.USAGE


def test_without_its_package_a_single_picture_is_refused_too(remover: Remover, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise UsageError("not installed")

    monkeypatch.setattr(matting, "check_available", fail)
    with pytest.raises(UsageError, match="not installed"):
        remover.cut(Picture(rgb=Image.new("RGB", (5, 5))), MATTING)
