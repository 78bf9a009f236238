"""Clean-up, framing and backgrounds from the command line, and what it says to those who mistype."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image
from small import half

if TYPE_CHECKING:
    from conftest import Cutout


pytestmark = pytest.mark.usefixtures("here")


def opened(path: str) -> Image.Image:
    with Image.open(path) as image:
        image.load()
        return image


def test_a_product_shot_is_one_command(cutout: Cutout, examples: Path) -> None:
    """Every picture has the asked-for size, the subject in its middle, white around it; the resolution is kept."""
    Path("in").mkdir()
    for name in ("coffee", "astronaut"):
        with Image.open(examples / f"{name}.jpg") as photo:
            photo.save(f"in/{name}.jpg", dpi=(300, 300), quality=90)
    run = cutout(
        *("remove", "in", "-o", "out", "--format", "jpg", "--canvas", "400x400", "--scale", "80%"),
        *("--largest", "--fill-holes", "1%", "--shadow", "default", "--background", "white"),
    )
    assert run.code == 0, run.err
    for path in sorted(Path("out").iterdir()):
        image = opened(str(path))
        assert (image.size, image.mode) == ((400, 400), "RGB")
        assert image.info["dpi"] == (300, 300)
        pixels = np.asarray(image)
        assert pixels[:20].min() > 250
        assert pixels[:, :30].min() > 225, "the shadow at most"
        assert pixels[150:250, 150:250].mean() < 200


def test_a_real_cut_out_is_cropped_tightly_and_keeps_its_pixels(cutout: Cutout, examples: Path) -> None:
    assert cutout("remove", examples / "coffee.jpg", "-o", "whole.png").code == 0
    assert cutout("remove", examples / "coffee.jpg", "-o", "tight.png", CUTOUT_CROP="1", CUTOUT_MARGIN="4,8").code == 0
    whole, tight = np.asarray(opened("whole.png")), np.asarray(opened("tight.png"))
    box = Image.fromarray(whole[:, :, 3] >= 13).getbbox()
    assert box is not None
    assert tight.shape[:2] == (box[3] - box[1] + 8, box[2] - box[0] + 16)
    inside = tight[4:-4, 8:-8]
    assert np.array_equal(inside, whole[box[1] : box[3], box[0] : box[2]])


def test_the_pictures_own_background_is_blurred(cutout: Cutout, examples: Path) -> None:
    run = cutout("remove", examples / "astronaut.jpg", "-o", "out.png", "--background", "blur:3%")
    assert run.code == 0, run.err
    found, before = np.asarray(opened("out.png")), np.asarray(opened(str(examples / "astronaut.jpg")))
    assert found.shape == before.shape
    assert np.abs(found[300:340, 200:260].astype(int) - before[300:340, 200:260]).max() <= 3, "the suit is sharp"
    detail = [np.abs(np.diff(pixels[:150, :100].astype(int), axis=1)).mean() for pixels in (found, before)]
    assert detail[0] < detail[1] / 3, "the flag is not"


@pytest.mark.usefixtures("quick_model")
def test_every_look_reaches_the_picture(cutout: Cutout) -> None:
    picture = half(Path("a.png"))
    for args, size, corner in (
        (("--canvas", "90x40", "--scale", "original", "--position", "left", "--invert"), (90, 40), (0, 0, 0, 0)),
        (("--background", "gradient:red,red"), (64, 32), (255, 0, 0)),
        (("--background", str(picture), "--background-fit", "tile", "--invert"), (64, 32), (0, 0, 0)),
        (
            ("--shadow", "-20,0,0,100%,blue", "--crop", "--min-area", "1%", "--threshold", "128"),
            (52, 32),
            (0, 0, 255, 255),
        ),
        (("--background", "transparent", "--erode", "1", "--dilate", "1", "--feather", "1"), (64, 32), (0, 0, 0, 0)),
    ):
        run = cutout("remove", picture, "-o", "out.png", *args)
        assert run.code == 0, run.err
        found = opened("out.png")
        assert found.size == size, args
        assert found.getpixel((0, 0)) == corner, args


@pytest.mark.usefixtures("quick_model")
@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("remove", "a.png", "--margin", "5"), "--margin is the room around the subject: it goes with --crop"),
        (("remove", "a.png", "--shadow", "dark"), "--shadow is 'dark', but it must be default, none, or DX,DY,BLUR"),
        (("remove", "a.png", "-b", "missing.jpg"), "no such file exists"),
        (
            ("remove", "a.png", "--erode", "1000000000"),
            "--erode is 1000000000, but it must lie between 0 and 10000 pixels",
        ),
        (("a.png",), "cutout remove a.png"),
        (("new photo.jpg", "--crop"), "cutout remove 'new photo.jpg' --crop"),
    ],
)
def test_what_is_mistyped_is_answered_with_what_would_be_right(
    cutout: Cutout, args: tuple[str, ...], words: str
) -> None:
    half(Path("a.png"))
    run = cutout(*args)
    assert (run.code, run.out) == (2, b"")
    assert words in run.err


def test_a_mistyped_command_is_still_no_picture(cutout: Cutout) -> None:
    run = cutout("remvoe", "a.png")
    assert run.code == 2
    assert "no such command 'remvoe'. Did you mean 'remove'?" in run.err


@pytest.mark.usefixtures("quick_model")
def test_a_link_to_nowhere_is_told_as_one(cutout: Cutout) -> None:
    Path("gone.jpg").symlink_to("nowhere.jpg")
    run = cutout("remove", "gone.jpg", "-o", "out.png")
    assert run.code == 1
    assert "it is a link to nowhere.jpg, which does not exist" in run.err
