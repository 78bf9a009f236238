"""What was found in a picture, and in all frames of an animation that are to be framed alike."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from PIL import Image

from cutout.imaging.layout import subject_box

if TYPE_CHECKING:
    from collections.abc import Iterator

    Box = tuple[int, int, int, int]

__all__ = ["FrameMasks", "MaskResult"]


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


class FrameMasks:
    """What was found in frame after frame: each alpha compressed, and one box around the subjects of all."""

    def __init__(self) -> None:
        self._packed: list[tuple[tuple[int, int], bytes, tuple[str, ...]]] = []
        self._subject: Box | None = None

    def add(self, mask_result: MaskResult) -> None:
        """Append the next frame's."""
        pixels = zlib.compress(mask_result.alpha.tobytes(), 1)  # flat almost everywhere: a hundredth of its size
        self._packed.append((mask_result.alpha.size, pixels, mask_result.warnings))
        box, before = subject_box(mask_result.alpha), self._subject
        if box is not None and before is not None:
            box = (*map(min, before[:2], box[:2]), *map(max, before[2:], box[2:]))  # type: ignore[assignment]
        self._subject = box or before

    def __iter__(self) -> Iterator[MaskResult]:
        """In order, all to be framed by the same box; one is in memory at a time."""
        for size, pixels, warnings in self._packed:
            alpha = Image.frombytes("L", size, zlib.decompress(pixels))
            yield MaskResult(alpha=alpha, warnings=warnings, subject=self._subject)
