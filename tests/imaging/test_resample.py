"""Pictures brought to a network's input: Pillow's Lanczos, faster."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from cutout.imaging.resample import shrink


def picture(width: int, height: int, *, noise: int = 60) -> Image.Image:
    """Edges, a gradient and noise, in colour."""
    random = np.random.default_rng(width * 7 + height)
    pixels = np.linspace(0, 255, width)[None, :, None] * np.ones((height, 1, 3))
    pixels[height // 3 :, : width // 2] = (250, 5, 128)
    pixels += random.normal(0, noise, (height, width, 3))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


@pytest.mark.parametrize(
    ("size", "target"),
    [
        ((1281, 900), (320, 320)),
        ((4000, 700), (320, 320)),
        ((1300, 2000), (320, 320)),
        ((2571, 1999), (317, 211)),
        ((500, 64), (100, 32)),
        ((90, 40), (1, 1)),
        ((4000, 41), (320, 10)),
    ],
)
def test_it_is_pillows_lanczos_but_for_single_levels(size: tuple[int, int], target: tuple[int, int]) -> None:
    rgb = picture(*size)
    exact = np.asarray(rgb.resize(target, Image.Resampling.LANCZOS), np.int16)
    ours = shrink(rgb, target)
    assert (ours.mode, ours.size) == ("RGB", target)
    difference = np.abs(np.asarray(ours, np.int16) - exact)
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.01


@pytest.mark.parametrize("size", [(640, 480), (320, 4000), (1300, 3001), (1, 1), (5000, 200)])
def test_what_is_not_worth_it_is_pillows_own(size: tuple[int, int]) -> None:
    rgb = picture(*size)
    assert shrink(rgb, (320, 320)).tobytes() == rgb.resize((320, 320), Image.Resampling.LANCZOS).tobytes()


def test_black_and_white_stay_what_they_are() -> None:
    for level in (0, 255):
        small = shrink(Image.new("RGB", (3000, 2000), (level,) * 3), (320, 320))
        assert small.getextrema() == ((level, level),) * 3


@pytest.mark.skipif(sys.platform != "linux", reason="the largest resident size is in kilobytes there")
def test_an_endless_strip_costs_no_more_than_its_pixels() -> None:
    """Pillow's weights for it would take half a gigabyte; no photograph has such a shape, a mutilated header may."""
    code = (
        "import resource\n"
        "from PIL import Image\n"
        "from cutout.imaging.resample import shrink\n"
        "strip = Image.new('RGB', (10_000_000, 2), (200, 100, 50))\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "small = shrink(strip, (32, 32))\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, small.getextrema())\n"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120).stdout
    grown, extrema = out.split(maxsplit=1)
    assert int(grown) < 100_000
    assert extrema.strip() == "((200, 200), (100, 100), (50, 50))"
