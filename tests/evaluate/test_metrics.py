"""The metrics are those of the papers: other packages, run once and recorded, say the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from masks import CASES, pair
from scipy import ndimage

from cutout.evaluate import metrics
from cutout.evaluate.metrics import METRICS, mean_scores, score
from cutout.imaging.components import largest_region

if TYPE_CHECKING:
    import numpy.typing as npt

REFERENCE = json.loads((Path(__file__).parents[1] / "data" / "metrics.json").read_text("utf-8"))
"""Made by metrics_reference.py."""


def mask(text: str) -> npt.NDArray[np.float64]:
    """A mask as drawn: a row a line, `.` is 0, `#` is 1, a digit so many tenths."""
    values = {".": 0.0, "#": 1.0, **{str(digit): digit / 10 for digit in range(10)}}
    return np.array([[values[sign] for sign in line] for line in text.split()])


SQUARE = mask("..... .###. .###. .###. .....")


@pytest.mark.parametrize("case", CASES)
def test_other_packages_give_the_same_figures(case: str) -> None:
    alpha, truth = pair(case)
    ours = score(alpha, truth).values | {"mae_of_binary": metrics.mae(alpha, (truth > 0.5).astype(float))}
    assert set(REFERENCE[case]) < set(ours)
    for name, theirs in REFERENCE[case].items():
        assert ours[name] == pytest.approx(theirs, rel=2e-5, abs=2e-6), name


def test_the_reference_tells_the_cases_apart() -> None:
    for name in REFERENCE["disc"]:
        assert len({figures[name] for figures in REFERENCE.values()}) == len(CASES)


@pytest.mark.parametrize("case", CASES)
def test_the_truth_itself_is_without_fault(case: str) -> None:
    truth = np.rint(pair(case)[1])
    values = score(truth, truth).values
    for metric in METRICS:
        best = 1.0 if metric.more_is_better else 0.0
        if metric.name != "mean_f":  # at threshold 0 everything is foreground
            assert values[metric.name] == pytest.approx(best, abs=1e-6), metric.name
    assert values["mean_f"] > 0.99


def test_every_metric_tells_worse_from_better() -> None:
    alpha, truth = pair("disc")
    better, worse = score((alpha + truth) / 2, truth).values, score(alpha, truth).values
    for metric in METRICS:
        gain = better[metric.name] - worse[metric.name]
        assert (gain if metric.more_is_better else -gain) > 0, metric.name


def test_simple_figures_are_those_on_paper() -> None:
    alpha = mask("..... .##.. .##5. .##.. .....")
    assert metrics.mae(alpha, SQUARE) == pytest.approx(2.5 / 25)
    assert metrics.sad(alpha, SQUARE) == pytest.approx(2.5 / 1000)
    assert metrics.mse(alpha, SQUARE) == pytest.approx(2.25 / 25 * 1000)
    assert metrics.iou(alpha, SQUARE) == pytest.approx(6 / 9)


def test_f_at_a_threshold() -> None:
    alpha = mask("..... .##.. .##.. .##.. ....#")
    curve = metrics.f_curve(alpha, SQUARE)
    precision, recall = 6 / 7, 6 / 9
    assert curve.shape == (256,)
    assert curve[0] == pytest.approx(1.3 * precision * recall / (0.3 * precision + recall)), "threshold 255"
    assert curve[-1] == pytest.approx(1.3 * (9 / 25) / (0.3 * 9 / 25 + 1)), "threshold 0: all is foreground"


def test_a_loose_speck_is_a_connectivity_error_and_a_faint_fringe_is_none() -> None:
    truth = mask("####..... ####.....")
    assert metrics.connectivity_error(mask("####...## ####....."), truth) == pytest.approx(2 / 1000)
    assert metrics.connectivity_error(mask("####1.... ####1...."), truth) == 0, "0.1 beyond its level is forgiven"
    assert metrics.connectivity_error(mask("####2.... ####2...."), truth) == pytest.approx(0.4 / 1000)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_pictures_without_or_full_of_a_subject_have_finite_scores(value: float) -> None:
    truth = np.full((20, 30), value)
    for alpha in (truth, 1 - truth):
        values = score(alpha, truth).values
        assert all(np.isfinite(list(values.values())))
        assert values["s_measure"] == values["iou"] == values["boundary_iou"] == float(alpha is truth)


def test_the_smallest_picture_has_scores() -> None:
    assert score(np.ones((1, 1)), np.ones((1, 1))).values["mae"] == 0


def test_max_f_of_a_set_is_that_of_the_mean_curve() -> None:
    one, other = score(*pair("stripes")), score(*pair("pale"))
    both = mean_scores([one, other])
    assert both["max_f"] == pytest.approx(((one.curve + other.curve) / 2).max())
    assert both["max_f"] < (one.values["max_f"] + other.values["max_f"]) / 2
    assert both["mae"] == pytest.approx((one.values["mae"] + other.values["mae"]) / 2)


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 2**32), st.floats(0.2, 0.9))
def test_the_largest_region_is_scipys(height: int, width: int, seed: int, share: float) -> None:
    bits = np.random.default_rng(seed).random((height, width)) < share
    labels, count = ndimage.label(bits)
    sizes = ndimage.sum_labels(bits, labels, range(1, count + 1))
    found = largest_region(bits)
    if not count:
        assert not found.any()
        return
    (label,) = set(labels[found])
    assert label == 1 + int(np.argmax(sizes)), "the uppermost of equals, as scipy numbers them"
    assert found.sum() == sizes.max()


def test_a_winding_region_is_followed_to_its_end() -> None:
    """A spiral and a comb: the shapes that simple passes from the top do not join."""
    spiral = mask("####### #.....# #.###.# #.#.#.# #.#...# #.##### #......").astype(bool)
    assert np.array_equal(largest_region(spiral), spiral)
    comb = mask("#.#.#.# #.#.#.# #######").astype(bool)
    assert np.array_equal(largest_region(comb), comb)
