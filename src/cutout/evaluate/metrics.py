"""How good is a mask: the metrics of salient object detection, segmentation and matting, as pure functions.

Every function takes `alpha`, what a tool gave, and `truth`, what is right: floating point arrays of one shape
(height, width), 0–1. Nothing is normalised before it is compared: a tool whose masks are grey is scored as grey.
Truth is used as it is where a metric allows soft values (MAE, SAD, MSE, gradient, connectivity) and cut at one half
where it is defined for a binary one (F, S, IoU, boundary IoU). There is no trimap, so the matting errors are taken over
the whole picture.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from cutout.imaging.components import largest_region, square_maximum

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    Array = npt.NDArray[np.floating]
    Bits = npt.NDArray[np.bool_]

__all__ = [
    "METRICS",
    "Metric",
    "Scores",
    "boundary_iou",
    "connectivity_error",
    "f_curve",
    "gradient_error",
    "iou",
    "mae",
    "mean_scores",
    "mse",
    "s_measure",
    "sad",
    "score",
]

_TINY = float(np.finfo(np.float64).eps)


class Metric(NamedTuple):
    """One column of a table of scores.

    Attributes:
        name: The word in JSON.
        title: The word in tables.
        digits: Decimals that are worth showing.
        more_is_better: Whether a large value is a good one.
    """

    name: str
    title: str
    digits: int
    more_is_better: bool


METRICS: tuple[Metric, ...] = (
    Metric("mae", "MAE", 4, more_is_better=False),
    Metric("max_f", "maxF", 4, more_is_better=True),
    Metric("mean_f", "meanF", 4, more_is_better=True),
    Metric("s_measure", "S", 4, more_is_better=True),
    Metric("iou", "IoU", 4, more_is_better=True),
    Metric("boundary_iou", "B-IoU", 4, more_is_better=True),
    Metric("sad", "SAD", 2, more_is_better=False),
    Metric("mse", "MSE", 2, more_is_better=False),
    Metric("gradient", "Grad", 2, more_is_better=False),
    Metric("connectivity", "Conn", 2, more_is_better=False),
)
"""All that `score` computes, in the order of a table; the functions below say what each is."""


class Scores(NamedTuple):
    """All metrics of one picture.

    Attributes:
        values: By the name of the metric.
        curve: What `f_curve` gave.
    """

    values: dict[str, float]
    curve: npt.NDArray[np.float64]


def score(alpha: Array, truth: Array) -> Scores:
    """All metrics of one picture."""
    curve = f_curve(alpha, truth)
    values = {
        "mae": mae(alpha, truth),
        "max_f": float(curve.max()),
        "mean_f": float(curve.mean()),
        "s_measure": s_measure(alpha, truth),
        "iou": iou(alpha, truth),
        "boundary_iou": boundary_iou(alpha, truth),
        "sad": sad(alpha, truth),
        "mse": mse(alpha, truth),
        "gradient": gradient_error(alpha, truth),
        "connectivity": connectivity_error(alpha, truth),
    }
    return Scores(values, curve)


def mean_scores(scores: Sequence[Scores]) -> dict[str, float]:
    """The scores of a set: means over its pictures; max F is the maximum of the mean curve, as the field has it."""
    means = {metric.name: float(np.mean([one.values[metric.name] for one in scores])) for metric in METRICS}
    means["max_f"] = float(np.mean([one.curve for one in scores], axis=0).max())
    return means


def mae(alpha: Array, truth: Array) -> float:
    """Mean absolute error, 0–1 (Perazzi et al., Saliency Filters, CVPR 2012)."""
    return float(np.abs(alpha - truth).mean(dtype=np.float64))


def mse(alpha: Array, truth: Array) -> float:
    """Mean squared error · 1000 (Rhemann et al., CVPR 2009, there over the unknown part of a trimap)."""
    return float(np.square(alpha - truth).mean(dtype=np.float64) * 1e3)


def sad(alpha: Array, truth: Array) -> float:
    """Sum of absolute differences / 1000: thousands of pixels that are all wrong (Rhemann et al., CVPR 2009)."""
    return float(np.abs(alpha - truth).sum(dtype=np.float64) / 1e3)


def f_curve(alpha: Array, truth: Array) -> npt.NDArray[np.float64]:
    """F-measure with beta² = 0.3 at the thresholds 255, 254, … 0 of 255.

    Achanta et al., Frequency-tuned Salient Region Detection, CVPR 2009. It is 0 where the truth holds no subject.
    """
    levels = np.rint(alpha * 255).astype(np.uint8)
    right = truth > 0.5
    inside = np.bincount(levels[right], minlength=256)[::-1].cumsum()
    found = np.bincount(levels.ravel(), minlength=256)[::-1].cumsum()
    precision = inside / np.maximum(found, 1)
    recall = inside / max(1, int(inside[-1]))
    return np.asarray(1.3 * precision * recall / np.maximum(0.3 * precision + recall, _TINY))


def s_measure(alpha: Array, truth: Array) -> float:
    """Structure measure, 0–1: half object-aware, half region-aware similarity (Fan et al., ICCV 2017)."""
    right = truth > 0.5
    share = float(right.mean())
    exact = np.asarray(alpha, np.float64)
    if share == 0:
        return 1 - float(exact.mean())
    if share == 1:
        return float(exact.mean())
    objects = share * _object(exact[right]) + (1 - share) * _object(1 - exact[~right])
    return max(0.0, (objects + _regions(exact, right)) / 2)


def _object(values: npt.NDArray[np.float64]) -> float:
    """How bright and how even the values of one side are; 1 is best."""
    mean = float(values.mean())
    spread = float(values.std(ddof=1)) if values.size > 1 else 0.0
    return 2 * mean / (mean**2 + 1 + spread + _TINY)


def _regions(alpha: npt.NDArray[np.float64], right: Bits) -> float:
    """Structural similarity of the four parts around the subject's centroid, weighted by their areas."""
    height, width = right.shape
    down, across = right.sum(axis=1), right.sum(axis=0)
    total = int(down.sum())
    # the published code counts from 1 and cuts behind the centroid's row and column
    y = round(float(np.arange(height) @ down) / total) + 1
    x = round(float(np.arange(width) @ across) / total) + 1
    result = 0.0
    for rows in (slice(None, y), slice(y, None)):
        for columns in (slice(None, x), slice(x, None)):
            part = right[rows, columns]
            if part.size:
                result += part.size / right.size * _similarity(alpha[rows, columns], part.astype(np.float64))
    return result


def _similarity(one: npt.NDArray[np.float64], other: npt.NDArray[np.float64]) -> float:
    """SSIM of two patches as a whole (Wang et al. 2004), without its constants."""
    x, y, many = float(one.mean()), float(other.mean()), max(1, one.size - 1)
    variance = float(np.square(one - x).sum() + np.square(other - y).sum()) / many
    covariance = float(((one - x) * (other - y)).sum()) / many
    top, bottom = 4 * x * y * covariance, (x * x + y * y) * variance
    if top != 0:
        return top / (bottom + _TINY)
    return 1.0 if bottom == 0 else 0.0


def iou(alpha: Array, truth: Array) -> float:
    """Intersection over union of both, cut at one half; 1 where both are empty (Jaccard 1912)."""
    return _jaccard(alpha > 0.5, truth > 0.5)


def boundary_iou(alpha: Array, truth: Array) -> float:
    """IoU of the bands inside both contours, which large subjects cannot outweigh (Cheng et al., CVPR 2021).

    The bands are 2% of the picture's diagonal wide, as in the paper.
    """
    reach = max(1, round(0.02 * math.hypot(*truth.shape)))
    return _jaccard(*(_band(values > 0.5, reach) for values in (alpha, truth)))


def _jaccard(one: Bits, other: Bits) -> float:
    union = int(np.count_nonzero(one | other))
    return int(np.count_nonzero(one & other)) / union if union else 1.0


def _band(mask: Bits, reach: int) -> Bits:
    """The pixels of a mask within `reach` (by squares) of anything outside; the frame's outside counts."""
    return np.asarray(mask & square_maximum(np.pad(~mask, reach, constant_values=True), 2 * reach + 1))


def gradient_error(alpha: Array, truth: Array) -> float:
    """Squared difference of the gradients' lengths, summed, / 1000 (Rhemann et al., CVPR 2009).

    Gradients are by derivatives of Gaussians (sigma 1.4) whose kernels have unit energy, as in the published
    evaluation code.
    """
    difference = _gradient(alpha) - _gradient(truth)
    return float(np.square(difference).sum(dtype=np.float64) / 1e3)


def _gradient(values: Array, sigma: float = 1.4) -> npt.NDArray[np.float32]:
    """The gradient's length at every pixel; the border repeats."""
    half = math.ceil(sigma * math.sqrt(-2 * math.log(math.sqrt(2 * math.pi) * sigma * 0.01)))
    at = np.arange(-half, half + 1)
    smooth = np.exp(-(at**2) / (2 * sigma**2))
    smooth, slope = ((kernel / np.linalg.norm(kernel)).astype(np.float32) for kernel in (smooth, at * smooth))
    padded = np.pad(values.astype(np.float32), half, mode="edge")
    size = smooth.size
    across = sliding_window_view(sliding_window_view(padded, size, 0) @ smooth, size, 1) @ slope
    down = sliding_window_view(sliding_window_view(padded, size, 0) @ slope, size, 1) @ smooth
    return np.asarray(np.hypot(across, down, out=across))


def connectivity_error(alpha: Array, truth: Array) -> float:
    """Difference of how firmly each pixel hangs together with the subject, summed, / 1000 (Rhemann et al., CVPR 2009).

    A pixel is connected up to the threshold, in steps of 0.1, at which it leaves the largest 4-connected region where
    both masks reach it; what alpha has above that level counts from 0.15 on.
    """
    both = np.minimum(alpha, truth)
    steps = np.zeros(both.shape, np.uint8)
    connected = np.ones(both.shape, np.bool_)
    for step in range(1, 11):
        connected = connected & largest_region(both >= step / 10 - 1e-6)
        if not connected.any():
            break
        steps += connected
    level = steps.astype(np.float32) / 10
    loose = [np.where(beyond >= 0.15, beyond, 0) for beyond in (alpha - level, truth - level)]
    return float(np.abs(loose[0] - loose[1]).sum(dtype=np.float64) / 1e3)
