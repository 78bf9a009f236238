"""Pixels to model input, model output to mask: the numbers of rembg, and masks from every kind of output."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cutout.enums import Fit
from cutout.errors import ModelError
from cutout.models.registry import MODELS, Activation, ModelSpec
from cutout.models.tensors import Placement, input_size, to_input, to_mask

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

U2NET, MODNET, CLOTH = MODELS["u2net"], MODELS["modnet"], MODELS["u2net_cloth_seg"]
WHOLE = Placement(0, 0, 4, 4, (4, 4))


def rembg_formula(image: Image.Image, spec: ModelSpec, size: tuple[int, int]) -> npt.NDArray[np.float64]:
    """rembg's `BaseSession.normalize` in its own words and in double precision."""
    pixels = np.array(image.convert("RGB").resize((size[1], size[0]), Image.Resampling.LANCZOS))
    scaled = pixels / (spec.divisor or max(np.max(pixels), 1e-6))
    normal = np.zeros((*size, 3))
    for channel in range(3):
        normal[:, :, channel] = (scaled[:, :, channel] - spec.mean[channel]) / spec.std[channel]
    return np.expand_dims(normal.transpose((2, 0, 1)), 0)


def noise(size: tuple[int, int], top: int = 255) -> Image.Image:
    pixels = np.random.default_rng(size[0]).integers(0, top + 1, (size[1], size[0], 3))
    return Image.fromarray(pixels.astype(np.uint8))


# --- to_input ---


@pytest.mark.parametrize("name", ["u2net", "isnet-general-use", "isnet-anime", "rmbg-2.0", "birefnet-general"])
@pytest.mark.parametrize("picture", ["astronaut.jpg", "chelsea.jpg", "coffee.jpg"])
def test_input_is_what_rembg_computes_to_the_last_bit(name: str, picture: str, examples: Path) -> None:
    spec = MODELS[name]
    assert spec.size is not None
    with Image.open(examples / picture) as image:
        batch, place = to_input(image.convert("RGB"), spec, spec.size, Fit.STRETCH)
        expected = rembg_formula(image, spec, spec.size)
    assert batch.dtype == np.float32
    assert batch.flags.c_contiguous
    assert batch.shape == (1, 3, *spec.size)
    assert np.abs(batch - expected).max() < 1e-6
    assert np.array_equal(batch, expected.astype(np.float32)), "models in int8 make the last bit visible"
    assert place == Placement(0, 0, spec.size[1], spec.size[0], spec.size)


def test_models_in_int8_see_pillows_own_resize_of_large_pictures() -> None:
    """Others are given `resize.shrink`'s, which is one level off here and there: enough for int8 to show it."""
    picture = noise((2000, 1500))
    silueta, u2netp = MODELS["silueta"], MODELS["u2netp"]
    exact = rembg_formula(picture, silueta, (320, 320)).astype(np.float32)
    assert np.array_equal(to_input(picture, silueta, (320, 320), Fit.STRETCH)[0], exact)
    near = to_input(picture, u2netp, (320, 320), Fit.STRETCH)[0]
    assert 0 < (near != exact).mean() < 0.01


@pytest.mark.parametrize("top", [0, 1, 60, 200, 255])
def test_u2nets_divisor_is_the_pictures_own_largest_value(top: int) -> None:
    image = noise((320, 320), top)
    batch, _ = to_input(image, U2NET, (320, 320), Fit.STRETCH)
    assert np.isfinite(batch).all()
    assert np.abs(batch - rembg_formula(image, U2NET, (320, 320))).max() < 1e-6


def test_a_fixed_divisor_is_the_same_for_dark_and_light_pictures() -> None:
    spec = replace(U2NET, divisor=255.0)
    dark, _ = to_input(Image.new("RGB", (320, 320), (51, 51, 51)), spec, (320, 320), Fit.STRETCH)
    assert dark[0, :, 0, 0] == pytest.approx(
        [(0.2 - mean) / std for mean, std in zip(spec.mean, spec.std, strict=True)]
    )


def test_a_picture_of_the_right_size_is_not_resampled() -> None:
    image = noise((320, 320))
    spec = replace(U2NET, divisor=255.0, mean=(0, 0, 0), std=(1, 1, 1))
    batch, _ = to_input(image, spec, (320, 320), Fit.STRETCH)
    assert np.array_equal(np.rint(batch[0].transpose(1, 2, 0) * 255), np.asarray(image))


@pytest.mark.parametrize(
    ("picture", "place"),
    [
        ((640, 320), (0, 80, 320, 160)),
        ((320, 640), (80, 0, 160, 320)),
        ((500, 500), (0, 0, 320, 320)),
        ((100, 99), (0, 1, 320, 317)),
        ((5000, 1), (0, 159, 320, 1)),
        ((1, 5000), (159, 0, 1, 320)),
        ((1, 1), (0, 0, 320, 320)),
    ],
)
def test_padding_keeps_the_aspect_and_centres(picture: tuple[int, int], place: tuple[int, int, int, int]) -> None:
    batch, found = to_input(Image.new("RGB", picture, "white"), U2NET, (320, 320), Fit.PAD)
    assert (found.left, found.top, found.width, found.height) == place
    left, top, width, height = place
    inside = np.zeros((320, 320), bool)
    inside[top : top + height, left : left + width] = True
    assert (batch[0, :, inside] > 1).all(), "the picture, which is white"
    assert (batch[0, :, ~inside] == 0).all(), "the padding, which is the mean colour"


# --- input_size ---


def test_a_fixed_model_takes_its_own_size() -> None:
    assert input_size(U2NET, (5000, 100)) == (320, 320)


@pytest.mark.parametrize(
    ("picture", "size"),
    [
        ((1024, 512), (256, 512)),
        ((300, 400), (512, 384)),
        ((512, 512), (512, 512)),
        ((4000, 1), (32, 512)),
        ((1, 1), (512, 512)),
    ],
)
def test_a_free_model_gets_the_aspect_in_multiples_of_32(picture: tuple[int, int], size: tuple[int, int]) -> None:
    assert input_size(MODNET, picture) == size


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 30000), st.integers(1, 30000), st.sampled_from([1, 8, 32, 64]), st.integers(64, 2048))
def test_a_free_models_size_is_always_usable(width: int, height: int, multiple: int, long_side: int) -> None:
    spec = replace(MODNET, multiple=multiple, long_side=long_side)
    size = input_size(spec, (width, height))
    assert all(side >= multiple and side % multiple == 0 for side in size)
    assert max(size) <= max(long_side + multiple / 2, multiple)


# --- to_mask ---


def mask(output: object, spec: ModelSpec = U2NET, place: Placement = WHOLE, **how: Any) -> npt.NDArray[np.uint8]:
    how = {"rescale": False} | how
    image = to_mask(np.asarray(output, np.float32), spec, place, **how)
    assert image.mode == "L"
    return np.asarray(image)


def test_a_mask_is_truncated_to_bytes_as_rembg_does() -> None:
    found = mask([[0.0, 0.999, 1.0, 0.5], [1 / 255, 0.9999 / 255, 2.5 / 255, 0.25]])
    assert found.tolist() == [[0, 254, 255, 127], [1, 0, 2, 63]]


def test_rescaling_makes_the_extremes_0_and_255() -> None:
    output = np.linspace(0.2, 0.6, 16).reshape(4, 4)
    assert mask(output, rescale=True)[[0, -1], [0, -1]].tolist() == [0, 255]
    assert mask(output, rescale=False)[[0, -1], [0, -1]].tolist() == [51, 153]


@pytest.mark.parametrize(("value", "byte"), [(0.0, 0), (0.5, 127), (1.0, 255)])
def test_a_flat_mask_has_nothing_to_stretch(value: float, byte: int) -> None:
    assert (mask(np.full((4, 4), value), rescale=True) == byte).all()


def test_values_beyond_0_to_1_are_clipped() -> None:
    assert mask([[-3.0, 7.0]]).tolist() == [[0, 255]]


def test_logits_go_through_the_sigmoid() -> None:
    spec = replace(U2NET, activation=Activation.SIGMOID)
    found = mask([[-1000.0, -1.0, 0.0, 1.0], [1000.0, np.inf, -np.inf, 3.0]], spec)
    assert found.tolist() == [[0, 68, 127, 186], [255, 255, 0, 242]]


def classes() -> npt.NDArray[np.float32]:
    """Background, upper, lower, full: each wins in one row; the background is strong elsewhere too."""
    output = np.zeros((1, 4, 4, 4), np.float32)
    for row in range(4):
        output[0, row, row] = 9
    return output


@pytest.mark.parametrize(("wanted", "rows"), [("upper", [1]), ("lower", [2]), ("full", [3]), ("all", [1, 2, 3])])
def test_classes_are_where_they_win(wanted: str, rows: list[int]) -> None:
    found = mask(classes(), CLOTH, wanted=wanted)
    assert [row for row in range(4) if (found[row] == 255).all()] == rows
    assert [row for row in range(4) if (found[row] == 0).all()] == [row for row in range(4) if row not in rows]


@pytest.mark.parametrize("shape", [(4, 4), (1, 4, 4), (1, 1, 4, 4), (1, 3, 4, 4)])
def test_outputs_of_every_usual_shape_are_masks(shape: tuple[int, ...]) -> None:
    assert (mask(np.full(shape, 1.0)) == 255).all()


@pytest.mark.parametrize("shape", [(), (4,), (1, 0, 4, 4), (1, 1, 0, 0), (0, 1, 4, 4)])
def test_an_output_of_another_shape_is_told(shape: tuple[int, ...]) -> None:
    with pytest.raises(ModelError, match="no mask"):
        mask(np.zeros(shape))


@pytest.mark.parametrize("activation", Activation)
def test_values_that_are_no_numbers_are_told(activation: Activation) -> None:
    spec = replace(CLOTH, activation=activation)
    output = classes()
    output[0, 0, 2, 2] = np.nan
    with pytest.raises(ModelError, match="no numbers"):
        mask(output, spec)


def test_an_infinite_mask_is_told() -> None:
    with pytest.raises(ModelError, match="no numbers"):
        mask([[0.0, np.inf]])


def test_half_precision_outputs_are_masks() -> None:
    output = np.linspace(0, 1, 16, dtype=np.float16).reshape(4, 4)
    found = np.asarray(to_mask(output, U2NET, WHOLE, rescale=True))
    assert (found[0, 0], found[-1, -1]) == (0, 255)


# --- there and back ---


@pytest.mark.parametrize("down", [1, 2, 4])
@pytest.mark.parametrize("picture", [(640, 320), (320, 640), (400, 300)])
def test_padding_is_cropped_from_the_mask_of_any_resolution(picture: tuple[int, int], down: int) -> None:
    """Some networks answer at a half or a quarter of their input's resolution."""
    batch, place = to_input(Image.new("RGB", picture, "white"), U2NET, (320, 320), Fit.PAD)
    answer = (batch[0, :1, ::down, ::down] > 0).astype(np.float32)
    found = mask(answer, U2NET, place)
    assert (found == 255).all(), "nothing of the padding is left"
    assert found.shape == (round(place.height / down), round(place.width / down)), "and nothing else is lost"


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 3000), st.integers(1, 3000), st.sampled_from([1, 2, 4, 8, 32]))
def test_a_padded_picture_always_leaves_a_mask(width: int, height: int, down: int) -> None:
    _, place = to_input(Image.new("RGB", (width, height)), U2NET, (320, 320), Fit.PAD)
    assert mask(np.ones((1, 320 // down, 320 // down)), U2NET, place).size > 0
