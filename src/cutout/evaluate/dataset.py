"""How good are cut-outs: pictures paired with their true masks, scored by the metrics of the field."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from cutout.errors import CutoutError, PictureError, UsageError
from cutout.evaluate.metrics import Scores, score
from cutout.evaluate.predictors import Prediction, by_key, decoded, mask_of, pictures
from cutout.jobs.report import BugError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import numpy.typing as npt

    from cutout.pipeline.remover import Cutout

__all__ = ["SIDE", "Pair", "Verdict", "compared", "judge", "pairs"]

SIDE = 2000
"""Longest side in pixels at which masks are compared, unless everything is asked for."""

_LEEWAY = 0.02
"""By how much the shapes of a mask and its picture may differ: rounding, when one of them was scaled."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """A picture and its true mask."""

    found: Prediction
    mask: Path


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What one picture's cut-out is worth, or why that cannot be told."""

    pair: Pair
    scores: Scores | None = None
    error: CutoutError | None = None


def pairs(images: str, masks: str) -> tuple[list[Pair], list[Path]]:
    """Pictures and masks of one name, and the masks that belong to no picture.

    Args:
        images: A folder, or a single picture.
        masks: A folder of masks with the same names and any extension, or a single mask.

    Raises:
        UsageError: A picture has no mask, two share a name, or there is nothing.
    """
    shown, truths = pictures([images]), pictures([masks])
    if not shown:
        raise UsageError(f"there is no picture in {images}")
    by_key(shown)
    if len(shown) == len(truths) == 1 and shown[0].path.samefile(images) and truths[0].path.samefile(masks):
        return [Pair(found=shown[0], mask=truths[0].path)], []
    ready = by_key(truths)
    missing = [found.path for found in shown if found.key not in ready]
    if missing:
        raise UsageError(
            f"{len(missing)} of {len(shown)} pictures have no mask in {masks}: "
            + ", ".join(map(str, missing[:5]))
            + (", …" if len(missing) > 5 else ""),
            hint="a picture and its mask have one name, whatever the extension",
        )
    wanted = {found.key for found in shown}
    found_pairs = [Pair(found=found, mask=ready[found.key]) for found in shown]
    return found_pairs, [path for key, path in ready.items() if key not in wanted]


def judge(pair: Pair, cut: Callable[[Prediction], Cutout], *, side: int | None = SIDE) -> Verdict:
    """Make or find the cut-out of a picture and score it; whatever goes wrong becomes the verdict.

    Args:
        pair: The picture and its mask.
        cut: What the `with` block of `Predictor.open` gave.
        side: Longest side at which masks are compared; None takes them as they are.
    """
    try:
        truth = mask_of(*decoded(pair.mask), str(pair.mask))
        made = cut(pair.found)
        if made.alpha is None:
            raise PictureError("there is no alpha to score: the result is opaque")
        return Verdict(pair=pair, scores=score(*compared(made.alpha, truth, side=side)))
    except CutoutError as error:
        return Verdict(pair=pair, error=error)
    except MemoryError:
        return Verdict(
            pair=pair,
            error=PictureError("there is not enough memory for this picture", hint="try jobs 1", options=("jobs",)),
        )
    except Exception as error:  # noqa: BLE001 - the last resort: one picture never stops the others
        return Verdict(pair=pair, error=BugError.of(error))


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
    if side is not None and max(truth.size) > side:
        scale = side / max(truth.size)
        size = (max(1, round(truth.width * scale)), max(1, round(truth.height * scale)))
        alpha, truth = (mask.resize(size, Image.Resampling.BOX) for mask in (alpha, truth))
    top = np.float32(255)
    return np.asarray(alpha, np.float32) / top, np.asarray(truth, np.float32) / top
