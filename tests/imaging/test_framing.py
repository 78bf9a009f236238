"""Cropping, canvases, shadows and backgrounds: what is asked for, to the pixel, without rims and without waste."""

from __future__ import annotations

import tracemalloc
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from cutout.enums import BackgroundFit
from cutout.errors import UsageError
from cutout.imaging import background as backdrop
from cutout.imaging import composite, layout
from cutout.options import RemoveOptions, backgrounds

if TYPE_CHECKING:
    import numpy.typing as npt

RED, GREEN, WHITE = (220, 30, 20), (20, 200, 40), (255, 255, 255)
SUBJECT = (60, 40, 140, 100)


def array(image: Image.Image | None) -> npt.NDArray[np.uint8]:
    assert image is not None
    return np.asarray(image)


def scene(size: tuple[int, int] = (240, 160), box: tuple[int, int, int, int] = SUBJECT) -> tuple[Image.Image, ...]:
    """A red box on green, and its alpha."""
    rgb, alpha = Image.new("RGB", size, GREEN), Image.new("L", size)
    rgb.paste(RED, box)
    alpha.paste(255, box)
    return rgb, alpha


def finish(rgb: Image.Image, alpha: Image.Image, **wanted: Any) -> tuple[Any, Any]:
    return layout.finish(rgb, alpha, RemoveOptions(**wanted))


def box_of(alpha: Image.Image | None, level: int = 128) -> tuple[int, int, int, int] | None:
    return Image.fromarray(array(alpha) >= level).getbbox()


# --- where the subject is ---


def test_the_subjects_box_passes_haze_and_specks_by() -> None:
    _, alpha = scene((1600, 1000), (300, 200, 900, 700))
    haze = ImageChops.lighter(alpha, Image.new("L", alpha.size, 9))
    for x, y in ((3, 3), (1590, 500), (20, 990)):
        haze.paste(255, (x, y, x + 8, y + 8))
    assert layout.subject_box(haze) == (300, 200, 900, 700)


def test_a_ghost_that_is_nowhere_solid_is_not_the_subject_unless_all_is() -> None:
    _, alpha = scene((1600, 1000), (300, 200, 900, 700))
    alpha.paste(100, (1200, 100, 1300, 900))
    assert layout.subject_box(alpha) == (300, 200, 900, 700)
    faint = alpha.point([value // 3 for value in range(256)])
    assert layout.subject_box(faint) == (300, 100, 1300, 900)
    faint.paste(255, (5, 5, 9, 9))
    assert layout.subject_box(faint) == (300, 100, 1300, 900), "a solid speck is a speck"


def test_what_is_small_but_no_speck_belongs_to_the_subject() -> None:
    _, alpha = scene((1600, 1000), (300, 200, 900, 700))
    alpha.paste(255, (1500, 900, 1530, 930))
    assert layout.subject_box(alpha) == (300, 200, 1530, 930)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 1400), min_size=4, max_size=4), st.integers(20, 255))
def test_the_box_of_one_object_is_exact(edges: list[int], value: int) -> None:
    (left, right), (top, bottom) = sorted(edges[:2]), sorted(edges[2:])
    alpha = Image.new("L", (1500, 1500))
    alpha.paste(value, (left, top, right + 1, bottom + 1))
    assert layout.subject_box(alpha) == (left, top, right + 1, bottom + 1)


def test_nothing_has_no_box() -> None:
    assert layout.subject_box(Image.new("L", (9, 9), 5)) is None


# --- cropping ---


def test_nothing_asked_is_nothing_done() -> None:
    rgb, alpha = scene()
    found = finish(rgb, alpha)
    assert found[0] is rgb
    assert found[1] is alpha


def test_a_crop_has_the_pixels_of_the_picture() -> None:
    rgb, alpha = scene()
    colors, transparency = finish(rgb, alpha, crop=True)
    assert np.array_equal(array(colors), array(rgb.crop(SUBJECT)))
    assert np.array_equal(array(transparency), array(alpha.crop(SUBJECT)))


@pytest.mark.parametrize(
    ("margin", "expected"),
    [
        (0, (0, 0, 80, 60)),
        (20, (20, 20, 120, 100)),
        ("20px", (20, 20, 120, 100)),
        ("10%", (8, 8, 96, 76)),
        ("10,20", (20, 10, 120, 80)),
        ("10,20,30", (20, 10, 120, 100)),
        ("10,20,30,5", (5, 10, 105, 100)),
        ((10, "25%"), (20, 10, 120, 80)),
        (100, (100, 100, 280, 260)),
    ],
)
def test_margins_are_css_margins_also_beyond_the_picture(margin: object, expected: tuple[int, int, int, int]) -> None:
    rgb, alpha = scene()
    colors, transparency = finish(rgb, alpha, crop=True, margin=margin)
    left, top, width, height = expected
    assert transparency.size == colors.size == (width, height)
    assert box_of(transparency) == (left, top, left + 80, top + 60)


def test_an_empty_cut_out_is_not_cropped() -> None:
    rgb, _ = scene()
    empty = Image.new("L", rgb.size)
    assert finish(rgb, empty, crop=True)[1].size == rgb.size
    assert finish(rgb, empty, canvas="50x40")[1].getextrema() == (0, 0)


def test_margins_that_need_too_much_memory_are_refused() -> None:
    with pytest.raises(UsageError, match=r"^margin makes the picture"):
        finish(*scene(), crop=True, margin=900_000)


@pytest.mark.parametrize(
    ("shadow", "margin", "cause"),
    [
        ("0,0,100000,50%", None, "shadow"),
        ("90000,0,0,50%", 20, "shadow"),
        ("20000,20000,0,50%", 30_000, "margin"),
        ("default", 100_000, "margin"),
    ],
)
def test_what_makes_a_crop_too_large_is_named(shadow: str, margin: int | None, cause: str) -> None:
    with pytest.raises(UsageError, match=f"^{cause} makes the picture .* large") as caught:
        finish(*scene((3000, 3000), (0, 0, 3000, 3000)), crop=True, shadow=shadow, margin=margin)
    assert caught.value.hint == f"give a smaller {cause}"


# --- canvases ---


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ({}, (0, 50, 400, 350)),
        ({"scale": "50%"}, (100, 125, 300, 275)),
        ({"scale": "original"}, (160, 170, 240, 230)),
        ({"margin": "10%"}, (40, 80, 360, 320)),
        ({"margin": "0,100,0,0"}, (0, 87, 300, 312)),
        ({"scale": "50%", "position": "top-left"}, (0, 0, 200, 150)),
        ({"scale": "50%", "position": "bottom"}, (100, 250, 300, 400)),
        ({"scale": "50%", "position": "right"}, (200, 125, 400, 275)),
        ({"scale": "50%", "position": "0%,100%"}, (0, 250, 200, 400)),
        ({"scale": "original", "position": "bottom", "margin": 30}, (160, 310, 240, 370)),
    ],
)
def test_the_subject_stands_where_it_is_asked_to(wanted: dict[str, Any], expected: tuple[int, ...]) -> None:
    rgb, alpha = scene()
    colors, transparency = finish(rgb, alpha, canvas="400x400", **wanted)
    assert colors.size == transparency.size == (400, 400)
    found = box_of(transparency)
    assert found is not None
    assert np.abs(np.subtract(found, expected)).max() <= 1
    assert colors.getpixel(((expected[0] + expected[2]) // 2, (expected[1] + expected[3]) // 2)) == RED


@pytest.mark.parametrize("given_", ["300x200", "300×200", (300, 200), "300X200"])
def test_a_canvas_is_as_large_as_asked(given_: object) -> None:
    assert finish(*scene(), canvas=given_)[1].size == (300, 200)


@settings(max_examples=150, deadline=None)
@given(
    st.tuples(st.integers(1, 60), st.integers(1, 60)),
    st.tuples(st.integers(1, 90), st.integers(1, 90)),
    st.sampled_from(["fit", "original", "30%", "99%"]),
    st.sampled_from(["center", "top-left", "bottom-right", "13%,87%"]),
    st.integers(0, 2**32 - 1),
    st.booleans(),
)
def test_any_subject_goes_onto_any_canvas(
    size: tuple[int, int], canvas: tuple[int, int], scale: str, position: str, seed: int, shadow: bool
) -> None:
    noise = np.random.default_rng(seed).integers(0, 256, (size[1], size[0]), np.uint8)
    alpha = Image.fromarray(noise)
    rgb = Image.merge("RGB", [alpha] * 3)
    wanted = {"canvas": canvas, "scale": scale, "position": position, "shadow": shadow}
    colors, transparency = finish(rgb, alpha, **wanted)
    assert colors.size == transparency.size == canvas
    assert finish(rgb, alpha, **wanted, mask=True)[1].size == canvas
    assert finish(rgb, alpha, **wanted, background="blur:3")[0].size == canvas


@pytest.mark.parametrize("canvas", [(90, 90), (700, 500)])
def test_hidden_colours_make_no_rim(canvas: tuple[int, int]) -> None:
    """A white disc over black that nobody sees: on white, nothing of it may be darker than white."""
    alpha = Image.new("L", (300, 300))
    ImageDraw.Draw(alpha).ellipse((40, 40, 260, 260), fill=255)
    alpha = alpha.filter(ImageFilter.GaussianBlur(1))
    rgb = Image.composite(
        Image.new("RGB", alpha.size, WHITE), Image.new("RGB", alpha.size), alpha.point([0] + [255] * 255)
    )
    colors, transparency = finish(rgb, alpha, canvas=canvas, background="white")
    assert transparency is None
    assert array(colors).min() >= 253


def test_the_mask_is_framed_like_the_cut_out() -> None:
    rgb, alpha = scene()
    alpha = alpha.filter(ImageFilter.GaussianBlur(2))
    options: list[dict[str, Any]] = [
        {"crop": True, "margin": "5,7"},
        {"canvas": (300, 333), "scale": "80%"},
        {"canvas": 500, "position": "bottom-left"},
    ]
    for wanted in options:
        assert finish(rgb, alpha, mask=True, **wanted)[0] is None
        mask, cut = array(finish(rgb, alpha, mask=True, **wanted)[1]), array(finish(rgb, alpha, **wanted)[1])
        assert np.abs(mask.astype(int) - cut).max() <= 1


# --- shadows ---


def test_a_shadow_lies_beside_the_subject_and_in_the_alpha() -> None:
    rgb, alpha = scene()
    colors, transparency = finish(rgb, alpha, shadow="30,20,0,50%,navy")
    assert np.array_equal(array(colors)[50:90, 70:130], array(rgb)[50:90, 70:130])
    assert (colors.getpixel((160, 110)), transparency.getpixel((160, 110))) == ((0, 0, 128), 128)
    assert transparency.getpixel((50, 50)) == 0
    assert box_of(transparency, 1) == (60, 40, 170, 120)


def test_over_a_colour_a_transparent_shadow_and_one_painted_in_are_the_same() -> None:
    rgb, alpha = scene()
    alpha = alpha.filter(ImageFilter.GaussianBlur(3))
    for shadow in ("default", "5%,5%,10%,80%,#204060"):
        painted, nothing = finish(rgb, alpha, shadow=shadow, background="#ffeecc")
        assert nothing is None
        laid, _ = composite.compose(*finish(rgb, alpha, shadow=shadow), (0xFF, 0xEE, 0xCC, 255))
        assert np.abs(array(painted).astype(int) - array(laid)).max() <= 2


def test_over_a_translucent_colour_all_three_count() -> None:
    colors, transparency = finish(*scene(), shadow="0,40,0,100%", background="#ffffff80")
    assert (colors.getpixel((5, 5)), transparency.getpixel((5, 5))) == (WHITE, 128)
    assert (colors.getpixel((100, 130)), transparency.getpixel((100, 130))) == ((0, 0, 0), 255)
    assert (colors.getpixel((100, 70)), transparency.getpixel((100, 70))) == (RED, 255)


@pytest.mark.parametrize("shadow", ["default", "0,0,40,80%", "-30,10,20,1", "3%,40%,10%,1"])
def test_a_crop_and_a_fitted_canvas_leave_room_for_the_shadow(shadow: str) -> None:
    rgb, alpha = scene((400, 300))
    for wanted in ({"crop": True}, {"canvas": "300x200"}, {"canvas": "100x400"}):
        _, transparency = finish(rgb, alpha, shadow=shadow, **wanted)
        pixels = array(transparency)
        for side in (pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]):
            assert side.max() <= 3 or side.max() >= 190, "nothing but the subject itself may touch the frame"
    margins = finish(rgb, alpha, shadow="0,10,4,0.5", crop=True, margin=50)[1]
    assert (margins.size, box_of(margins, 250)) == ((180, 160), (50, 50, 130, 110)), (
        "a margin that is larger is room enough"
    )


def test_a_wide_blur_is_that_of_full_size() -> None:
    _, alpha = scene((500, 400), (150, 150, 300, 260))
    for sigma in (3, 8, 30):
        found = array(composite.gaussian(alpha, sigma)).astype(int)
        assert np.abs(found - array(alpha.filter(ImageFilter.GaussianBlur(sigma)))).max() <= 4


# --- backgrounds ---


def test_a_background_fills_the_canvas_not_the_picture() -> None:
    rgb, alpha = scene()
    for background in ("white", "gradient:white,white", "blur:5"):
        colors, transparency = finish(rgb, alpha, canvas="600x500", scale="30%", background=background)
        assert transparency is None
        expected = GREEN if background == "blur:5" else WHITE
        for corner in ((2, 2), (597, 2), (2, 497), (597, 497)):
            assert np.abs(np.subtract(colors.getpixel(corner), expected)).max() <= 1


def test_transparent_is_no_background() -> None:
    assert RemoveOptions(background="transparent") == RemoveOptions()


def test_each_fit_of_a_background_picture() -> None:
    picture = Image.new("RGB", (30, 10), (0, 0, 200))
    picture.paste((200, 0, 0), (0, 0, 10, 10))
    sizes = {fit: backdrop.fitted(picture, (60, 40), fit) for fit in BackgroundFit}
    assert {found.size for found in sizes.values()} == {(60, 40)}
    covering = array(sizes[BackgroundFit.COVER])  # four times as large, 30 pixels cut off on either side
    assert np.abs(covering[:, :6].astype(int) - (200, 0, 0)).max() <= 20
    assert np.abs(covering[:, 16:].astype(int) - (0, 0, 200)).max() <= 20
    contained = array(sizes[BackgroundFit.CONTAIN])
    assert (contained[:9] == 255).all()
    assert (contained[15:25, 25:] == (0, 0, 200)).all()
    tiled = array(sizes[BackgroundFit.TILE])
    assert np.array_equal(tiled[:10, :30], array(picture))
    assert np.array_equal(tiled[30:40, 30:60], array(picture))
    assert (array(sizes[BackgroundFit.STRETCH])[:, 2:12] == (200, 0, 0)).all()


@pytest.mark.parametrize(
    ("angle", "first", "last"),
    [
        (180, (50, 0), (50, 39)),
        (0, (50, 39), (50, 0)),
        (90, (0, 9), (99, 9)),
        (45, (0, 39), (99, 0)),
        (-90, (99, 9), (0, 9)),
    ],
)
def test_a_gradient_goes_from_one_colour_to_the_other(
    angle: float, first: tuple[int, int], last: tuple[int, int]
) -> None:
    ends = backgrounds.parse_paint(f"gradient: rgb(200, 0, 0), #000064, {angle}deg")
    assert isinstance(ends, backgrounds.Gradient)
    found = backdrop.gradient(ends, (100, 40))
    pixels = array(found).astype(int)
    for (x, y), color in ((first, (200, 0, 0)), (last, (0, 0, 100)), ((50, 20), (100, 0, 50))):
        assert np.abs(pixels[y, x] - color).max() <= 5


@pytest.mark.parametrize("sigma", [0, 2, 9, 40])
def test_nothing_of_the_subject_gets_into_the_blur_of_its_background(sigma: float) -> None:
    rgb, alpha = scene()
    alpha = alpha.filter(ImageFilter.GaussianBlur(1))
    found = array(backdrop.blurred(rgb, alpha, sigma, rgb.size, (0, 0, *rgb.size)))
    assert np.abs(found.astype(int) - GREEN).max() <= 1


@pytest.mark.parametrize("sigma", [1, 4, 13])
def test_a_blur_is_a_gaussian_away_from_the_subject(sigma: float, examples: Any) -> None:
    with Image.open(examples / "chelsea.jpg") as image:
        rgb = image.convert("RGB")
    found = array(backdrop.blurred(rgb, Image.new("L", rgb.size), sigma, rgb.size, (0, 0, *rgb.size)))
    inner = np.s_[40:-40, 40:-40]
    exact = array(rgb.filter(ImageFilter.GaussianBlur(sigma)))
    assert np.abs(found.astype(int) - exact)[inner].max() <= 3


def test_a_blurred_background_stays_in_its_place() -> None:
    """The left half of what is behind is blue: so it is in every frame, up to where the picture is mirrored."""
    rgb, alpha = scene()
    blue = Image.new("RGB", (100, 160), (0, 0, 250))
    rgb.paste(blue, (0, 0), ImageChops.invert(alpha).crop((0, 0, 100, 160)))
    for wanted in ({}, {"crop": True, "margin": 30}, {"canvas": (480, 240), "scale": "50%"}):
        colors, _ = finish(rgb, alpha, background="blur:3", **wanted)
        pixels = array(colors)
        found = np.flatnonzero(pixels[-1, :, 2] < 130)[0]
        red = np.flatnonzero(pixels[pixels.shape[0] // 2 - (0 if wanted else 10), :, 0] > 150)
        assert found == pytest.approx((red[0] + red[-1]) / 2, abs=3)


def test_a_subject_that_fills_the_picture_is_blurred_itself() -> None:
    rgb, _ = scene()
    found = backdrop.blurred(rgb, Image.new("L", rgb.size, 255), 3, rgb.size, (0, 0, *rgb.size))
    assert found.size == rgb.size


@pytest.mark.parametrize("background", ["blur:0", "blur:0.4", "blur:3"])
@pytest.mark.parametrize(
    ("size", "wanted"),
    [
        ((1200, 900), {"canvas": "800x800", "scale": "4%"}),
        ((1200, 900), {"canvas": "500x900", "scale": "1%", "position": "0%,100%"}),
        ((60, 9000), {"canvas": "9000x60", "scale": "original"}),
        ((9000, 60), {"canvas": "60x9000", "scale": "original"}),
    ],
)
def test_a_mirrored_background_takes_no_more_memory_than_the_picture_and_the_result(
    size: tuple[int, int], wanted: dict[str, Any], background: str
) -> None:
    """Arrays only: so large were the mirrored ones that nothing else counted."""
    width, height = size
    rgb, alpha = scene(size, (width // 4, height // 4, width * 3 // 4, height * 3 // 4))
    finish(rgb, alpha, **wanted, background=background)  # what is kept afterwards is not counted
    tracemalloc.start()
    try:
        colors, _ = finish(rgb, alpha, **wanted, background=background)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    canvas = colors.width * colors.height
    assert peak < 16 * canvas + 8 * width * height + (20 << 20)
    assert np.abs(array(colors)[::7, ::7].astype(int) - GREEN).max(axis=2).min() <= 1


def test_a_mirrored_background_is_the_picture_where_the_picture_is(examples: Any) -> None:
    with Image.open(examples / "coffee.jpg") as image:
        rgb = image.convert("RGB")
    alpha = Image.new("L", rgb.size)
    around = backdrop.blurred(
        rgb, alpha, 0, (rgb.width + 60, rgb.height + 80), (-20, -30, rgb.width + 40, rgb.height + 50)
    )
    assert np.array_equal(array(around)[30:-50, 20:-40], array(rgb))
    assert np.array_equal(array(around)[30:-50, 19::-1], array(around)[30:-50, 20:40])
    half_size = (rgb.width // 2, rgb.height // 2)
    view = (-rgb.width * 3.0, -rgb.height * 3.0, rgb.width * 4.0, rgb.height * 4.0)
    many = backdrop.blurred(rgb, alpha, 0, (half_size[0] * 7, half_size[1] * 7), view)
    middle = array(many)[half_size[1] * 3 : half_size[1] * 4, half_size[0] * 3 : half_size[0] * 4]
    assert np.abs(middle.astype(int) - array(rgb.resize(half_size, Image.Resampling.BICUBIC))).mean() < 2
