"""Pairs of masks by formula, alpha and truth, on which metrics are compared with those of other packages."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[np.float64]

CASES = ("disc", "pieces", "stripes", "pale", "frame", "hair")
HEIGHT, WIDTH = 97, 131


def pair(case: str) -> tuple[Array, Array]:
    """Alpha and truth in steps of 1/255; both reach 0 and 1, because other packages stretch them first."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.float64)
    match case:
        case "disc":
            alpha, truth = disc(x, y, 60, 50, 30, soft=6), disc(x, y, 64, 47, 29, soft=1)
        case "pieces":
            alpha = np.maximum(disc(x, y, 30, 40, 20, soft=8), disc(x, y, 95, 60, 15, soft=3))
            truth = np.maximum(disc(x, y, 32, 40, 21, soft=2), 0.9 * disc(x, y, 100, 62, 13, soft=2))
        case "stripes":
            alpha = np.where(disc(x, y, 66, 48, 40, soft=4) > 0.3, 0.5 + 0.5 * np.sin(x / 3), 0)
            truth = np.where(disc(x, y, 66, 48, 38, soft=4) > 0.3, np.sin(x / 3) > -0.2, 0).astype(np.float64)
        case "pale":
            alpha = 0.62 * disc(x, y, 50, 50, 35, soft=10) + 0.38 * disc(x, y, 45, 55, 8, soft=2)
            truth = disc(x, y, 50, 50, 33, soft=2)
        case "frame":
            alpha, truth = disc(x, y, 0, 96, 60, soft=5), disc(x, y, 5, 90, 58, soft=1)
        case "hair":
            wave = 1 / (1 + np.exp(4 * (y - 40 - 25 * np.sin(x / 2.5) * np.exp(-((x - 66) ** 2) / 900))))
            truth = np.where(x < 120, wave, 0)
            alpha = np.where(x < 118, (wave + np.roll(wave, 2, 0) + np.roll(wave, -1, 1)) / 3, 0.1)
        case _:
            raise ValueError(case)
    return quantised(alpha), quantised(truth)


def disc(x: Array, y: Array, at_x: float, at_y: float, radius: float, *, soft: float) -> Array:
    """1 inside, 0 outside, a straight ramp of so many pixels between."""
    return np.clip((radius - np.hypot(x - at_x, y - at_y)) / soft + 0.5, 0, 1)


def quantised(values: Array) -> Array:
    """Stretched to 0–1, in steps of 1/255."""
    values = (values - values.min()) / (values.max() - values.min())
    return np.rint(values * 255) / 255
