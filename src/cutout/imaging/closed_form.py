"""Closed-form matting on the unknown band alone: the matting Laplacian, and conjugate gradients that solve it.

Levin, Lischinski, Weiss: A Closed-Form Solution to Natural Image Matting, 2008, with its 3×3 windows. The system holds
the band and what shares a window with it, row after row, so that horizontal neighbours are neighbours in memory and all
work is whole-array arithmetic. Every unknown pixel is drawn weakly to its prior, the network's own mask: that decides
where colours say nothing and keeps the system well-conditioned. The solution comes with its local linear models
`alpha = a·colour + b`, by which it is carried to a finer grid (He, Sun: Fast Guided Filter, 2015).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cutout.imaging.components import square_maximum

if TYPE_CHECKING:
    import numpy.typing as npt

    Floats = npt.NDArray[np.float32]
    Bools = npt.NDArray[np.bool_]

__all__ = ["Band"]

_FAR = 2  # pixels of one window lie at most this far apart
_SPAN = 2 * _FAR + 1
_NINTH = np.float32(1 / 9)
_SOLVED = 1e-10  # energy of the rest per pixel at which alpha no longer changes by a visible step


class Band:
    """The unknown pixels of a picture with all that lies in a common window with them.

    Args:
        rgb: uint8, shape (height, width, 3); at least 3×3 pixels.
        unknown: Shape (height, width); True at one pixel or more.
        epsilon: Variance of colours (0–1) within a window below which it counts as flat.
    """

    def __init__(self, rgb: npt.NDArray[np.uint8], unknown: Bools, *, epsilon: float) -> None:
        height, width = unknown.shape
        stride = width + 2 * _FAR
        wide = np.zeros((height + 2 * _FAR, stride), bool)  # so that no neighbour lies beyond an end
        wide[_FAR:-_FAR, _FAR:-_FAR] = unknown
        centres = square_maximum(np.pad(wide, 1), 3)
        flat = np.flatnonzero(square_maximum(np.pad(centres, 1), 3))
        self.size = flat.size
        place = np.zeros((height + 4 * _FAR) * stride, np.intp)
        place[flat + _FAR * stride] = np.arange(flat.size)
        self._rows = {dy: place[flat + (_FAR + dy) * stride] for dy in range(-_FAR, _FAR + 1) if dy}
        y, x = flat // stride - _FAR, flat % stride - _FAR
        self._inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
        self._where = y.clip(0, height - 1) * width + x.clip(0, width - 1)
        whole = (y > 0) & (y < height - 1) & (x > 0) & (x < width - 1)
        self._windows = (centres.reshape(-1)[flat] & whole).astype(np.float32)
        self._unknown = wide.reshape(-1)[flat].astype(np.float32)
        colors = rgb.reshape(-1, 3)[self._where].T * np.float32(1 / 255)
        self._build(np.ascontiguousarray(colors), np.float32(epsilon))

    def solve(self, alpha: Floats, prior: Floats, pull: Floats, *, steps: int) -> Floats:
        """The alpha of the unknown pixels.

        Args:
            alpha: Shape (height, width), 0–1: what is known, and where the search starts.
            prior: Shape (height, width), 0–1: what unknown pixels are drawn to.
            pull: Shape (height, width), at least 0: how strongly; that of a pixel's own windows is about 1.
            steps: Steps of the conjugate gradients, which are preconditioned by the diagonal.

        Returns:
            A new alpha of the same shape, 0–1, that differs at unknown pixels only.
        """
        start, goal = self._gather(alpha), self._gather(prior)
        weight = self._gather(pull) * self._unknown
        scale = self._unknown / (self._laplacian[_FAR, _FAR] + weight + (1 - self._unknown))
        found = start
        rest = weight * (goal - start) - self._times(start)
        ready = scale * rest
        course, energy = ready.copy(), _dot(rest, ready)
        for _ in range(steps):
            if energy < _SOLVED * self.size:
                break
            image = self._times(course)
            image += weight * course
            step = energy / _dot(course, image)
            found += step * course
            rest -= step * image
            np.multiply(scale, rest, out=ready)
            energy, before = _dot(rest, ready), energy
            course *= energy / before
            course += ready
        result = alpha.copy()
        self._scatter(found.clip(0, 1), result)
        return result

    def models(self, alpha: Floats) -> Floats:
        """Local linear models of an alpha, shape (height, width): float32, shape (4, height, width).

        At a pixel of the band or near it, alpha is about `m[0] * red + m[1] * green + m[2] * blue + m[3]` with colours
        0–1; elsewhere the models are 0.
        """
        values = self._gather(alpha)
        near = self._neighbours(values)
        mean = near.sum(axis=0) * _NINTH
        white = [np.einsum("kn,kn->n", self._white[channel], near) * _NINTH for channel in range(3)]
        l00, l10, l11, l20, l21, l22 = self._factor
        blue = white[2] / l22
        green = (white[1] - l21 * blue) / l11
        red = (white[0] - l10 * green - l20 * blue) / l00
        mean -= red * self._mean[0] + green * self._mean[1] + blue * self._mean[2]
        count = self._summed(self._windows)
        count[count == 0] = 1
        result = np.zeros((4, *alpha.shape), np.float32)
        for plane, part in zip(result, (red, green, blue, mean), strict=True):
            self._scatter(self._summed(part * self._windows) / count, plane)
        return result

    def _gather(self, picture: Floats) -> Floats:
        values: Floats = picture.reshape(-1)[self._where]
        return values

    def _scatter(self, values: Floats, picture: Floats) -> None:
        picture.reshape(-1)[self._where[self._inside]] = values[self._inside]

    def _row(self, values: Floats, dy: int) -> list[Floats]:
        """What lies `dy` rows below each pixel, from two to the left of there to two to the right: five arrays."""
        line = np.empty(self.size + 2 * _FAR, np.float32)
        line[:_FAR] = line[-_FAR:] = 0
        if dy:
            values.take(self._rows[dy], out=line[_FAR:-_FAR], mode="clip")  # the mode without a second buffer
        else:
            line[_FAR:-_FAR] = values
        return [line[dx : dx + self.size] for dx in range(_SPAN)]

    def _neighbours(self, values: Floats) -> Floats:
        """The nine values of the window around each pixel: shape (9, size)."""
        return np.stack([value for dy in (-1, 0, 1) for value in self._row(values, dy)[1:4]])

    def _summed(self, values: Floats) -> Floats:
        total: Floats = self._neighbours(values).sum(axis=0)
        return total

    def _times(self, values: Floats) -> Floats:
        """The matting Laplacian times the values; 0 at known pixels."""
        result, product = np.zeros(self.size, np.float32), np.empty(self.size, np.float32)
        for dy, factors in enumerate(self._laplacian, -_FAR):
            for factor, value in zip(factors, self._row(values, dy), strict=True):
                np.multiply(factor, value, out=product)
                result += product
        return result

    def _build(self, rgb: Floats, epsilon: np.float32) -> None:
        near = np.stack([self._neighbours(channel) for channel in rgb])  # channel, neighbour, pixel
        self._mean = near.mean(axis=1)
        near -= self._mean[:, None]
        self._factor = _whiten(near, epsilon)
        self._white = near
        parts: dict[tuple[int, int, int], Floats] = {}
        for first in range(9):
            for second in range(first, 9):
                share = np.einsum("cn,cn->n", near[:, first], near[:, second])
                share += 1
                share *= -_NINTH
                if first == second:
                    share += 1
                share *= self._windows
                (y, x), (to_y, to_x) = divmod(first, 3), divmod(second, 3)
                # kept at the column of the first pixel, still in the row of the window's centre
                moved = self._row(share, 0)[_FAR + 1 - x]
                key = (y - 1, to_y - y, to_x - x)
                parts[key] = parts[key] + moved if key in parts else moved
        whole = np.zeros((_SPAN, _SPAN, self.size), np.float32)
        for (y, dy, dx), part in parts.items():
            whole[_FAR + dy, _FAR + dx] += self._row(part, -y)[_FAR]
        for dy, dx in {key[1:] for key in parts} - {(0, 0)}:  # it is symmetric
            whole[_FAR - dy, _FAR - dx] = self._row(whole[_FAR + dy, _FAR + dx], -dy)[_FAR - dx]
        whole *= self._unknown
        self._laplacian = whole


def _whiten(near: Floats, epsilon: np.float32) -> tuple[Floats, ...]:
    """Make the covariance of the centred colours (3, 9, size) of every window the unit matrix, in place.

    Returns:
        The Cholesky factor of the covariances by which the colours were divided: l00, l10, l11, l20, l21, l22.
    """
    red, green, blue = near

    def covariance(one: Floats, other: Floats) -> Floats:
        result: Floats = np.einsum("kn,kn->n", one, other)
        return result * _NINTH

    l00 = np.sqrt(covariance(red, red) + epsilon)
    l10, l20 = covariance(red, green) / l00, covariance(red, blue) / l00
    l11 = np.sqrt(covariance(green, green) + epsilon - l10 * l10)
    l21 = (covariance(green, blue) - l10 * l20) / l11
    l22 = np.sqrt(covariance(blue, blue) + epsilon - l20 * l20 - l21 * l21)
    red /= l00
    green -= l10 * red
    green /= l11
    blue -= l20 * red
    blue -= l21 * green
    blue /= l22
    return l00, l10, l11, l20, l21, l22


def _dot(one: Floats, other: Floats) -> np.float32:
    return np.float32((one * other).sum())  # summed in pairs: exact enough, and the same with any number of threads
