"""Pictures and what several sides make of them, made small enough to be looked at together."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING
from urllib.parse import quote

from cutout.atomic import is_there
from cutout.errors import CutoutError, UsageError
from cutout.evaluate.contact_sheet import Result, SheetRow, edge_window, enlarged, fitted
from cutout.evaluate.html import MARK
from cutout.evaluate.predictors import decoded
from cutout.imaging import composite
from cutout.jobs.plan import plan
from cutout.jobs.report import BugError
from cutout.output_formats import SUFFIXES, OutputFormat

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from PIL import Image

    from cutout.evaluate.predictors import Prediction
    from cutout.pipeline.remover import Cutout

__all__ = ["PAGES", "Gathered", "check_output", "spread"]

PAGES = frozenset({".html", ".htm"})
"""Extensions of a gallery; every other one is a sheet."""


ZOOM = 3
"""How many times as large details are shown."""


class Gathered:
    """One picture, to which sides are added one by one; only what is shown is kept.

    Attributes:
        errors: What went wrong, and with whom.
    """

    def __init__(self, found: Prediction, *, size: int, detail: bool) -> None:
        self.found = found
        self.errors: list[tuple[str, CutoutError]] = []
        self._size, self._detail = size, detail
        self._box: tuple[int, int, int, int] | None = None
        self._picture: Image.Image | None = None
        self._close: Image.Image | None = None
        self._sides: list[Result] = []
        self._near: list[Result] = []

    def add(self, by: str, cut: Callable[[Prediction], Cutout]) -> None:
        """What one side makes of it; whatever goes wrong becomes a note."""
        try:
            self._add(by, cut)
        except Exception as caught:  # noqa: BLE001 - the last resort: one picture never stops the others
            error = caught if isinstance(caught, CutoutError) else BugError.of(caught)
            self.errors.append((by, error))
            self._sides.append(Result(by=by, cut=None, note=error.message))

    def _add(self, by: str, cut: Callable[[Prediction], Cutout]) -> None:
        rgb = decoded(self.found.path)[0].rgb
        made = cut(self.found)
        whole = _rgba(made, rgb)
        if self._picture is None:
            self._picture = fitted(rgb, self._size)
        if self._detail and whole.size == rgb.size:
            self._box = self._box or edge_window(whole.getchannel("A"), max(1, self._size // ZOOM))
            self._close = self._close or enlarged(rgb.crop(self._box), ZOOM)
            self._near.append(Result(by=by, cut=enlarged(whole.crop(self._box), ZOOM)))
        self._sides.append(Result(by=by, cut=fitted(whole, self._size), note="; ".join(made.warnings)))

    def entries(self, below: Path) -> list[SheetRow]:
        """The picture, and its detail, for a sheet that will lie in that folder."""
        name = self.found.path.name.encode("utf-8", "replace").decode().replace("\n", " ")
        whole = SheetRow(name=name, picture=self._picture, sides=tuple(self._sides), link=_link(self.found.path, below))
        if self._box is None:
            return [whole]
        left, top, *_ = self._box
        detail = f"{name}, detail at {left},{top}, {ZOOM} times as large"
        return [whole, SheetRow(name=detail, picture=self._close, sides=tuple(self._near))]


def _rgba(made: Cutout, rgb: Image.Image) -> Image.Image:
    """A cut-out in colour: a result that is a mask alone gets the picture's colours."""
    if made.alpha is None:
        return made.image.convert("RGBA")
    if made.rgb is not None:
        return composite.cut(made.rgb, made.alpha)
    if made.alpha.size != rgb.size:
        return composite.cut(rgb.resize(made.alpha.size), made.alpha)
    return composite.cut(rgb, made.alpha)


def _link(path: Path, below: Path) -> str:
    try:
        relative = os.path.relpath(path, below)
    except ValueError:  # Windows: another drive
        return path.resolve().as_uri()
    return quote(os.fsencode(relative.replace(os.sep, "/")))


def check_output(output: Path, inputs: Sequence[Path]) -> OutputFormat | None:
    """The format of the sheet, None for a gallery.

    Args:
        output: What will be written.
        inputs: What is read, and must not be overwritten.

    Raises:
        UsageError: The extension is of no format, the output is an input or a folder, or a page that is not ours.
        OutputError: The output is a device or a pipe.
    """
    suffix = output.suffix.lower()
    if output.is_dir():
        raise UsageError(f"the output {output} is a folder", hint="name a file: sheet.png or gallery.html")
    if suffix not in PAGES and suffix not in SUFFIXES:
        raise UsageError(
            f"the output {output} ends in {suffix or 'nothing'}, which is no format of a sheet",
            hint=f"use .html, or one of {' '.join(SUFFIXES)}",
        )
    chosen = SUFFIXES.get(suffix)
    plan([str(inputs[0])], str(output), output_format=chosen or OutputFormat.PNG, keep=inputs)
    if is_there(output) and chosen is None and MARK.encode() not in _head(output):
        raise UsageError(f"{output} is a page that `cutout compare` did not make", hint="choose another output")
    return chosen


def _head(page: Path) -> bytes:
    with page.open("rb") as file:
        return file.read(1000)


def spread(found: Sequence[Prediction], limit: int | None) -> list[Prediction]:
    """At most so many of the pictures, evenly from first to last."""
    if limit is None or limit >= len(found):
        return list(found)
    return [found[number * len(found) // limit] for number in range(limit)]
