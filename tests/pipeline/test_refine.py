"""Refined masks: the contour lies on the picture's edges, seams do not show, and memory stays small."""

from __future__ import annotations

import tracemalloc
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter
from small import ORANGE

from cutout.enums import Fit
from cutout.errors import UsageError
from cutout.formats.decode import Picture, decode
from cutout.imaging import guided_filter
from cutout.imaging.resample import upscale
from cutout.models.registry import MODELS
from cutout.options import RemoveOptions
from cutout.pipeline import inference
from cutout.pipeline import remover as pipeline
from cutout.timing import StageTimes

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import numpy.typing as npt
    from conftest import Cutout

    from cutout.pipeline.remover import Remover

REFINED = RemoveOptions(refine=True, mask=True)
PLAIN = RemoveOptions(mask=True)


def disc(size: int) -> tuple[Image.Image, npt.NDArray[np.floating]]:
    """An orange disc before a noisy blue wall, and its true alpha (0–1)."""
    truth = Image.new("L", (size * 2, size * 2))
    ImageDraw.Draw(truth).ellipse((size // 2, size // 2, size * 3 // 2, size * 3 // 2), fill=255)
    truth = truth.resize((size, size), Image.Resampling.BOX)
    noise = np.random.default_rng(1).normal(0, 6, (size, size, 3))
    wall = Image.fromarray(np.clip(noise + np.array([40, 60, 120]), 0, 255).astype(np.uint8))
    rgb = Image.composite(Image.new("RGB", (size, size), ORANGE), wall, truth)
    return rgb, np.asarray(truth, np.float32) / 255


def coarse(truth: npt.NDArray[np.floating], side: int = 80) -> Image.Image:
    """What a model makes of a true alpha: small, blurred, and off by a pixel."""
    mask = Image.fromarray((truth * 255).astype(np.uint8)).resize((side, side), Image.Resampling.BOX)
    return mask.filter(ImageFilter.GaussianBlur(1)).transform(mask.size, Image.Transform.AFFINE, (1, 0, 1, 0, 1, 0))


def error(alpha: Image.Image | None, truth: npt.NDArray[np.floating]) -> float:
    assert alpha is not None
    return float(np.abs(np.asarray(alpha, np.float32) / 255 - truth).mean())


class Painter:
    """A session that answers with a function of the part it is shown, and notes the parts' sizes."""

    def __init__(self, paint: Callable[[Image.Image], Image.Image]) -> None:
        self.paint, self.seen, self.spec, self.device = paint, [(0, 0)], MODELS["u2netp"], "cpu"
        self.fits: list[Fit | None] = []

    def predict(self, rgb: Image.Image, *, fit: Fit | None, **_: object) -> Image.Image:
        self.seen.append(rgb.size)
        self.fits.append(fit)
        return self.paint(rgb)


def by_red(rgb: Image.Image) -> Image.Image:
    """A mask that is the picture's red channel at 64×64."""
    return rgb.getchannel("R").resize((64, 64), Image.Resampling.BOX)


# --- with the real model ---


def test_a_subject_pasted_before_a_wall_is_cut_along_its_true_edge(remover: Remover) -> None:
    """The bundled model; the picture is twelve times as large as its mask, and the truth is known."""
    rgb, truth = disc(900)
    picture = Picture(rgb=rgb)
    plain, refined = (error(remover.cut(picture, options).alpha, truth) for options in (PLAIN, REFINED))
    assert refined < 0.7 * plain


def test_refining_a_photograph_sharpens_its_edge_and_keeps_its_subject(examples: Path, remover: Remover) -> None:
    picture = decode((examples / "astronaut.jpg").read_bytes())
    plain, refined = (np.asarray(remover.cut(picture, options).alpha, np.float32) for options in (PLAIN, REFINED))
    same = (plain > 127) == (refined > 127)
    assert same.mean() > 0.93, same.mean()
    soft = [((alpha > 12) & (alpha < 243)).mean() for alpha in (plain, refined)]
    assert soft[1] < 0.9 * soft[0]


def test_the_same_picture_gives_the_same_bytes(examples: Path, remover: Remover) -> None:
    picture = decode((examples / "coffee.jpg").read_bytes())
    options = RemoveOptions(refine=True, tiles=2, mask=True)
    first, second = (remover.cut(picture, options).image.tobytes() for _ in range(2))
    assert first == second


def test_without_either_option_the_network_looks_once_and_the_mask_is_its_own(examples: Path, remover: Remover) -> None:
    rgb = decode((examples / "coffee.jpg").read_bytes()).rgb
    expected = remover.session.predict(rgb, fit=None, rescale=None, stages=StageTimes())
    mask, resolution = pipeline.predict(remover.session, rgb, RemoveOptions(), StageTimes())
    assert resolution == (320, 320)
    assert mask.tobytes() == expected.tobytes()


def test_the_command_refines(cutout: Cutout, examples: Path, tmp_path: Path) -> None:
    small = ("remove", examples / "coffee.jpg", "--max-size", "200", "-o")
    for run in (
        cutout(*small, tmp_path / "plain.png"),
        cutout(*small, tmp_path / "option.png", "--refine"),
        cutout(*small, tmp_path / "variable.png", CUTOUT_REFINE="1"),
    ):
        assert run.code == 0, run.err
    assert (tmp_path / "option.png").read_bytes() == (tmp_path / "variable.png").read_bytes()
    assert (tmp_path / "option.png").read_bytes() != (tmp_path / "plain.png").read_bytes()


# --- along the edges ---


def test_a_coarse_mask_moves_onto_the_edge() -> None:
    rgb, truth = disc(640)
    mask = coarse(truth)
    plain, refined = (
        error(upscale(mask, rgb.size), truth),
        error(guided_filter.sharpen_edges(rgb, mask, mask.size), truth),
    )
    assert refined < 0.45 * plain


def test_where_colours_tell_nothing_the_contour_stays() -> None:
    _, truth = disc(640)
    mask = coarse(truth)
    flat = Image.new("RGB", (640, 640), (90, 90, 90))
    plain, refined = (
        np.asarray(found) > 127
        for found in (upscale(mask, flat.size), guided_filter.sharpen_edges(flat, mask, mask.size))
    )
    assert (plain != refined).mean() < 0.005


def test_far_from_the_contour_nothing_changes() -> None:
    rgb, truth = disc(640)
    refined = np.asarray(guided_filter.sharpen_edges(rgb, coarse(truth), (80, 80)))
    assert (refined[:100] == 0).all()
    assert (refined[260:380, 260:380] == 255).all()


@pytest.mark.parametrize("value", [0, 255])
def test_a_mask_without_a_contour_stays_as_it_is(value: int) -> None:
    alpha = guided_filter.sharpen_edges(disc(300)[0], Image.new("L", (80, 80), value), (80, 80))
    assert alpha.getextrema() == (value, value)


@pytest.mark.parametrize("size", [(1, 1), (1, 900), (3, 2), (900, 1), (1300, 40)])
def test_any_size_is_refined(size: tuple[int, int]) -> None:
    mask = Image.new("L", (80, 80))
    mask.paste(255, (0, 0, 40, 80))
    assert guided_filter.sharpen_edges(Image.new("RGB", size), mask, mask.size).size == size


def test_blocks_leave_no_seam(monkeypatch: pytest.MonkeyPatch) -> None:
    rgb, truth = disc(1100)
    mask = coarse(truth)
    blocks = np.asarray(guided_filter.sharpen_edges(rgb, mask, mask.size), np.int16)
    monkeypatch.setattr(guided_filter, "_BLOCK", 4096)
    whole = np.asarray(guided_filter.sharpen_edges(rgb, mask, mask.size), np.int16)
    assert np.abs(blocks - whole).max() <= 1


def test_leaving_out_what_lies_far_from_the_contour_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rgb, truth = disc(800)
    small = Image.fromarray((truth * 255).astype(np.uint8)).resize((80, 80), Image.Resampling.BOX)
    part = np.asarray(guided_filter.sharpen_edges(rgb, small, (80, 80)), np.int16)
    monkeypatch.setattr(guided_filter, "_extent", lambda near, _margin: (0, 0, near.shape[1], near.shape[0]))
    assert np.abs(part - np.asarray(guided_filter.sharpen_edges(rgb, small, (80, 80)), np.int16)).max() <= 1


def test_a_large_picture_needs_little_memory_beside_its_own() -> None:
    rgb = Image.effect_noise((4000, 3000), 40).convert("RGB")
    mask = Image.new("L", (320, 320))
    mask.paste(255, (80, 80, 240, 240))
    tracemalloc.start()
    guided_filter.sharpen_edges(rgb, mask, mask.size)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100e6, "numpy's share; a dozen float32 planes of the whole picture would be 576 MB"


def test_steepening_keeps_both_ends_and_the_middle() -> None:
    values = np.array([0, 0.25, 0.5, 0.75, 1], np.float32)
    assert guided_filter.steepen(values, 2).tolist() == pytest.approx([0, 0.1, 0.5, 0.9, 1])


def test_an_average_of_logits_follows_the_certain_mask_and_keeps_certainty() -> None:
    sure, wavering = np.array([[0, 1, 0.02]], np.float32), np.array([[0, 1, 0.6]], np.float32)
    mean = guided_filter.average([sure, wavering], [0.5, 0.5])
    assert mean[0, :2].tolist() == pytest.approx([0, 1], abs=1e-6)
    assert mean[0, 2] < 0.2 < (0.02 + 0.6) / 2


def test_the_box_mean_is_that_of_its_window() -> None:
    plane = np.random.default_rng(0).random((9, 13), np.float32)
    found = guided_filter.box_mean(plane, 2)
    assert found[4, 6] == pytest.approx(plane[2:7, 4:9].mean(), abs=1e-6)
    assert found[0, 12] == pytest.approx(plane[:3, 10:].mean(), abs=1e-6)


def test_the_coefficients_are_those_of_a_least_squares_fit() -> None:
    """One window over everything: the closed form against numpy's solver."""
    rng = np.random.default_rng(3)
    rgb = Image.fromarray(rng.integers(0, 256, (12, 12, 3), np.uint8))
    values = rng.random((12, 12), np.float32)
    found = [float(plane[5, 5]) for plane in guided_filter.linear_coefficients(rgb, values, 20)]
    colors = np.asarray(rgb).reshape(-1, 3) / 255
    centred = colors - colors.mean(0)
    slopes = np.linalg.solve(centred.T @ centred / 144 + np.eye(3) * 1e-4, centred.T @ values.ravel() / 144)
    assert found == pytest.approx([*slopes, values.mean() - colors.mean(0) @ slopes], abs=1e-3)


# --- passes ---


def test_the_picture_is_looked_at_in_both_fits_and_the_subject_closely() -> None:
    rgb = Image.new("RGB", (1000, 800))
    rgb.paste(ORANGE, (450, 350, 550, 450))
    session: Any = Painter(by_red)
    mask, resolution = pipeline.predict(session, rgb, RemoveOptions(refine=True), StageTimes())
    assert resolution == (64, 64)
    whole, again, subject = session.seen[1:]
    assert whole == again == (1000, 800)
    assert session.fits == [None, Fit.PAD, None]
    assert all(140 <= side <= 240 for side in subject), "the subject with a quarter of its size around it"
    plain = by_red(rgb).resize(mask.size, Image.Resampling.LANCZOS)
    truth = np.asarray(rgb.getchannel("R").resize(mask.size), np.float32) / 255
    assert error(mask, truth) < 0.6 * error(plain, truth)


@pytest.mark.parametrize(("size", "looks"), [((300, 300), 1), ((305, 300), 1), ((400, 300), 2)])
def test_what_would_show_the_same_again_is_not_looked_at(size: tuple[int, int], looks: int) -> None:
    """A subject that fills the picture, a picture that is as square as the input, and one that is not."""
    session: Any = Painter(by_red)
    pipeline.predict(session, Image.new("RGB", size, ORANGE), RemoveOptions(refine=True), StageTimes())
    assert session.seen[1:] == [size] * looks


def test_padding_that_was_asked_for_is_complemented_by_stretching() -> None:
    session: Any = Painter(by_red)
    pipeline.predict(
        session, Image.new("RGB", (400, 300), ORANGE), RemoveOptions(refine=True, fit=Fit.PAD), StageTimes()
    )
    assert session.fits == [Fit.PAD, Fit.STRETCH]


def test_a_model_that_takes_any_aspect_sees_the_picture_once() -> None:
    session: Any = Painter(by_red)
    session.spec = MODELS["modnet"]
    pipeline.predict(session, Image.new("RGB", (400, 300), ORANGE), RemoveOptions(refine=True), StageTimes())
    assert len(session.fits) == 1


def test_an_empty_mask_and_a_class_model_are_looked_at_once() -> None:
    empty: Any = Painter(by_red)
    pipeline.predict(empty, Image.new("RGB", (300, 300)), RemoveOptions(refine=True, tiles=3), StageTimes())
    clothes: Any = Painter(by_red)
    clothes.spec = MODELS["u2net_cloth_seg"]
    pipeline.predict(clothes, disc(300)[0], RemoveOptions(refine=True, tiles=3), StageTimes())
    assert len(empty.seen) == len(clothes.seen) == 2


def test_only_tiles_on_the_contour_are_looked_at() -> None:
    rgb = Image.new("RGB", (1600, 1600))
    rgb.paste(ORANGE, (200, 200, 500, 500))
    session: Any = Painter(by_red)
    pipeline.predict(session, rgb, RemoveOptions(tiles=4), StageTimes())
    assert len(session.seen[2:]) == 4


@pytest.mark.parametrize(
    ("size", "grid"),
    [
        ((100, 100), (1, 1)),
        ((320, 320), (1, 1)),
        ((800, 533), (3, 2)),
        ((640, 200), (2, 1)),
        ((1280, 1280), (4, 4)),
        ((9000, 3000), (8, 8)),
    ],
)
def test_no_more_tiles_are_looked_at_than_the_picture_has_parts_of_the_models_size(
    size: tuple[int, int], grid: tuple[int, int]
) -> None:
    """Whatever is asked for: a small picture with a contour everywhere cost 65 looks."""
    rgb = Image.new("RGB", size)
    for left in range(0, size[0], 20):
        rgb.paste(ORANGE, (left, 0, left + 10, size[1]))
    session: Any = Painter(by_itself)
    mask, _ = pipeline.predict(session, rgb, RemoveOptions(tiles=8), StageTimes())
    whole, *tiles = session.seen[1:]
    assert whole == size
    assert len(tiles) <= (0 if grid == (1, 1) else grid[0] * grid[1])
    assert all(tile[0] >= min(size[0], 280) and tile[1] >= min(size[1], 280) for tile in tiles)
    assert inference.tile_grid(size, 8, (320, 320)) == grid
    if grid == (1, 1):
        assert mask.tobytes() == by_itself(rgb).tobytes(), "the mask is the network's own"


def by_itself(rgb: Image.Image) -> Image.Image:
    return rgb.getchannel("R").resize((320, 320), Image.Resampling.BOX)


def test_one_tile_is_none() -> None:
    session: Any = Painter(by_red)
    pipeline.predict(session, disc(900)[0], RemoveOptions(tiles=1), StageTimes())
    assert len(session.seen[1:]) == 1


def test_tiles_cover_the_picture_and_their_windows_add_up_to_one() -> None:
    size = (1000, 700)
    boxes = inference.tile_boxes(size, (3, 3))
    assert len(boxes) == 9
    total = sum(inference.window(box, size, size, 1 / 3) for box in boxes)
    assert np.allclose(total, 1, atol=0.02)


def test_a_tile_that_errs_leaves_no_step() -> None:
    """Every second tile sees nothing: along the border of tiles the alpha changes no faster than elsewhere."""
    rgb = Image.new("RGB", (1600, 1600))
    rgb.paste(ORANGE, (0, 0, 1600, 700))
    count = iter(range(100))

    def err(part: Image.Image) -> Image.Image:
        found = by_red(part)
        number = next(count)
        return found if number == 0 or number % 2 else found.point(lambda value: value // 3)

    session: Any = Painter(err)
    mask, _ = pipeline.predict(session, rgb, RemoveOptions(tiles=4), StageTimes())
    values = np.asarray(mask, np.int16)
    assert np.ptp(values) == 255
    assert np.abs(np.diff(values, axis=1)).max() <= 8, "along the contour"


# --- what is asked ---


@pytest.mark.parametrize("value", [-1, 9, 2.5, None])
def test_tiles_are_a_whole_number_up_to_eight(value: Any) -> None:
    with pytest.raises(UsageError, match="tiles"):
        RemoveOptions(tiles=value)
