"""The linear system of closed-form matting, compared with its definition."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from cutout.imaging.closed_form import Band

if TYPE_CHECKING:
    import numpy.typing as npt

EPSILON = 1e-3


def matting_laplacian(rgb: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """Equation 12 of Levin et al. 2008, entry by entry: a dense matrix over all pixels."""
    height, width, _ = rgb.shape
    colors = rgb.reshape(-1, 3) / 255
    result = np.zeros((height * width, height * width))
    for y in range(1, height - 1):
        for x in range(1, width - 1):
            window = [(y + dy) * width + x + dx for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
            centred = colors[window] - colors[window].mean(axis=0)
            inverse = np.linalg.inv(centred.T @ centred / 9 + EPSILON * np.eye(3))
            result[np.ix_(window, window)] += np.eye(9) - (1 + centred @ inverse @ centred.T) / 9
    return result


def noise(height: int, width: int) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(3).integers(0, 256, (height, width, 3), np.uint8)


def everything(height: int, width: int) -> npt.NDArray[np.bool_]:
    return np.ones((height, width), bool)


def patches(height: int, width: int) -> npt.NDArray[np.bool_]:
    """Unknown pixels in the middle, alone, and in two corners."""
    unknown = np.zeros((height, width), bool)
    unknown[3:7, 4:9] = unknown[0, 0] = unknown[-1, -1] = unknown[height // 2, 1] = True
    return unknown


@pytest.mark.parametrize("make", [everything, patches])
@pytest.mark.parametrize("size", [(3, 3), (10, 13)])
def test_the_solution_is_that_of_the_definition(make: Any, size: tuple[int, int]) -> None:
    rgb, unknown = noise(*size), make(*size)
    random = np.random.default_rng(5)
    alpha, prior, pull = (random.random(size).astype(np.float32) for _ in range(3))
    pull = pull * np.float32(0.1) + np.float32(0.01)

    free = unknown.ravel()
    laplacian = matting_laplacian(rgb)
    system = laplacian[np.ix_(free, free)] + np.diag(pull.ravel()[free])
    known = laplacian[np.ix_(free, ~free)] @ alpha.ravel()[~free].astype(float)
    expected = alpha.copy()
    expected[unknown] = np.linalg.solve(system, (pull * prior).ravel()[free] - known).clip(0, 1)

    found = Band(rgb, unknown, epsilon=EPSILON).solve(alpha, prior, pull, steps=500)
    assert np.abs(found - expected).max() < 2e-3
    assert np.array_equal(found[~unknown], alpha[~unknown])


def test_more_steps_come_closer() -> None:
    rgb, unknown = noise(12, 12), everything(12, 12)
    start, prior = np.zeros((2, 12, 12), np.float32)
    prior = np.random.default_rng(7).random((12, 12)).astype(np.float32)
    band = Band(rgb, unknown, epsilon=EPSILON)
    solve = [band.solve(start, prior, np.full_like(prior, 0.01), steps=steps) for steps in (0, 3, 12, 400)]
    away = [float(np.abs(found - solve[-1]).mean()) for found in solve[:-1]]
    assert away == sorted(away, reverse=True)
    assert away[-1] < away[0] / 4


def test_models_give_back_an_alpha_that_is_linear_in_the_colours() -> None:
    rgb = noise(9, 11)
    unknown = np.zeros((9, 11), bool)
    unknown[2:6, 0:5] = True
    colors = rgb / np.float32(255)
    alpha = (colors @ np.array([0.5, -0.2, 0.3], np.float32) + np.float32(0.2)).astype(np.float32)
    red, green, blue, rest = Band(rgb, unknown, epsilon=1e-6).models(alpha)
    again = red * colors[..., 0] + green * colors[..., 1] + blue * colors[..., 2] + rest
    assert np.abs(again - alpha)[unknown].max() < 2e-3
    assert not red[8, 10], "far from the band"


def test_flat_colours_are_no_trouble() -> None:
    flat = np.full((8, 8, 3), 128, np.uint8)
    alpha = np.zeros((8, 8), np.float32)
    alpha[:, 4:] = 1
    unknown = np.zeros((8, 8), bool)
    unknown[:, 2:6] = True
    band = Band(flat, unknown, epsilon=1e-6)
    found = band.solve(alpha, alpha, np.full_like(alpha, 1e-3), steps=200)
    assert np.isfinite(band.models(found)).all()
    assert (np.diff(found, axis=1) >= -1e-3).all(), "from background to foreground without a step back"
