"""The mask of a picture: one inference, or several where the options ask for closer views."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image

    from cutout.engines.base import Engine
    from cutout.options import RemoveOptions
    from cutout.timing import StageTimes

    Box = tuple[int, int, int, int]

__all__ = ["MaskResult", "predict"]


@dataclass(frozen=True, kw_only=True, slots=True)
class MaskResult:
    """What was found in a picture; colours, frame and background are still to come.

    Attributes:
        alpha: Mode L, the picture's size: cleaned up, refined, and what was transparent before stays so.
        warnings: Things a user should know.
        subject: Left, top, right, bottom of what the picture is framed by; None is its own subject.
    """

    alpha: Image.Image
    warnings: tuple[str, ...] = ()
    subject: Box | None = None


def predict(
    session: Engine, rgb: Image.Image, options: RemoveOptions, stages: StageTimes
) -> tuple[Image.Image, tuple[int, int]]:
    """The mask of a picture in mode RGB (mode L, any size), and the (width, height) of that which the network gave.

    Class models infer once, since they have no certainty to weigh; so does a picture in which nothing is found.
    """
    whole = session.predict(rgb, fit=options.fit, rescale=options.rescale, stages=stages)
    if not (options.refine or options.tiles > 1) or session.spec.classes:
        return whole, whole.size
    from cutout.pipeline.views import closer

    return closer(session, rgb, whole, options, stages), whole.size
