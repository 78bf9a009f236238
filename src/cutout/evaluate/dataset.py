"""How good are cut-outs: pictures paired with their true masks, scored by the metrics of the field."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image

from cutout.errors import PictureError, UsageError
from cutout.evaluate.metrics import Scores, score
from cutout.evaluate.predictors import Sample, by_key, decoded, mask_of, pictures
from cutout.imaging.guided_filter import working

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

    from cutout.evaluate.predictors import Cut

__all__ = ["SIDE", "Pair", "compared", "judge", "pairs"]

SIDE = 2000
"""Longest side in pixels at which masks are compared, unless everything is asked for."""

_LEEWAY = 0.02
"""By how much the shapes of a mask and its picture may differ: rounding, when one of them was scaled."""


class Pair(NamedTuple):
    """A picture and its true mask."""

    sample: Sample
    mask: Path


def pairs(images: str, masks: str) -> tuple[list[Pair], list[Path]]:
    """Pictures and masks of one name, and the masks that belong to no picture.

    Args:
        images: A folder, or a single picture.
        masks: A folder of masks with the same names and any extension, or a single mask.

    Raises:
        UsageError: A picture has no mask, two share a name, or there is nothing.
    """
    samples, truths = pictures([images]), pictures([masks])
    if not samples:
        raise UsageError(f"there is no picture in {images}")
    by_key(samples)
    if len(samples) == len(truths) == 1 and samples[0].path.samefile(images) and truths[0].path.samefile(masks):
        return [Pair(samples[0], truths[0].path)], []
    ready = by_key(truths)
    missing = [sample.path for sample in samples if sample.key not in ready]
    if missing:
        raise UsageError(
            f"{len(missing)} of {len(samples)} pictures have no mask in {masks}: "
            + ", ".join(map(str, missing[:5]))
            + (", …" if len(missing) > 5 else ""),
            hint="a picture and its mask have one name, whatever the extension",
        )
    return [Pair(sample, ready.pop(sample.key)) for sample in samples], list(ready.values())


def judge(pair: Pair, cut: Cut, *, side: int | None = SIDE) -> Scores:
    """Make or find the cut-out of a picture and score it.

    Args:
        pair: The picture and its mask.
        cut: What the `with` block of `Predictor.open` gave.
        side: Longest side at which masks are compared; None takes them as they are.

    Raises:
        CutoutError: There is no cut-out, no mask, or they differ in shape.
    """
    truth = mask_of(*decoded(pair.mask), str(pair.mask))
    made = cut(pair.sample)
    if made.alpha is None:
        raise PictureError("there is no alpha to score: the result is opaque")
    return score(*compared(made.alpha, truth, side=side))


def compared(
    alpha: Image.Image, truth: Image.Image, *, side: int | None = SIDE
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Both masks at one size: the truth's, or smaller.

    Args:
        alpha: Mode L.
        truth: Mode L.
        side: Longest side of the result; None takes the truth's.

    Returns:
        Two float32 arrays (height, width), 0–1.

    Raises:
        PictureError: They differ in shape, so they cannot show the same.
    """
    if abs(alpha.width * truth.height / (alpha.height * truth.width) - 1) > _LEEWAY:
        raise PictureError(
            f"the mask has {truth.width}×{truth.height} pixels and the cut-out {alpha.width}×{alpha.height}: "
            "they do not show the same",
            hint="masks are as large as their pictures, or the same made smaller",
        )
    if alpha.size != truth.size:
        alpha = alpha.resize(truth.size, Image.Resampling.LANCZOS)
    if side is not None:
        alpha, truth = (mask.resize(working(mask.size, side), Image.Resampling.BOX) for mask in (alpha, truth))
    top = np.float32(255)
    return np.asarray(alpha, np.float32) / top, np.asarray(truth, np.float32) / top
