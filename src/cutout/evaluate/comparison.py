"""Pictures and what several predictors make of them, made small enough to be looked at together."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING
from urllib.parse import quote

from cutout.atomic import is_there
from cutout.errors import UsageError
from cutout.evaluate.contact_sheet import Result, SheetRow, edge_window, enlarged, fitted
from cutout.evaluate.html import MARK
from cutout.evaluate.predictors import decoded
from cutout.imaging import composite
from cutout.jobs.plan import plan
from cutout.output_formats import SUFFIXES, OutputFormat

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from PIL import Image

    from cutout.evaluate.predictors import Cut, Sample
    from cutout.pipeline.remover import Cutout

__all__ = ["Comparison", "check_output", "spread"]

_PAGES = {".html", ".htm"}
"""Extensions of a gallery; every other one is a sheet."""

_ZOOM = 3
"""How many times as large details are shown."""


class Comparison:
    """One picture and its cut-outs, which are added one by one; only what is shown is kept."""

    def __init__(self, sample: Sample, *, size: int, detail: bool) -> None:
        self.sample = sample
        self._size, self._detail = size, detail
        self._box: tuple[int, int, int, int] | None = None
        self._picture: Image.Image | None = None
        self._close: Image.Image | None = None
        self._results: list[Result] = []
        self._enlarged: list[Result] = []

    def add(self, by: str, cut: Cut) -> None:
        """What one predictor makes of it; where that fails, the error is also shown in its place."""
        try:
            rgb = decoded(self.sample.path)[0].rgb
            made = cut(self.sample)
        except Exception as error:
            self._results.append(Result(by, None, str(error) or type(error).__name__))
            raise
        whole = _rgba(made, rgb)
        if self._picture is None:
            self._picture = fitted(rgb, self._size)
        if self._detail and whole.size == rgb.size:
            self._box = self._box or edge_window(whole.getchannel("A"), max(1, self._size // _ZOOM))
            self._close = self._close or enlarged(rgb.crop(self._box), _ZOOM)
            self._enlarged.append(Result(by, enlarged(whole.crop(self._box), _ZOOM)))
        self._results.append(Result(by, fitted(whole, self._size), "; ".join(made.warnings)))

    def rows(self, below: Path) -> list[SheetRow]:
        """The picture, and its detail, for a sheet that will lie in that folder."""
        name = self.sample.path.name.encode("utf-8", "replace").decode().replace("\n", " ")
        whole = SheetRow(name, self._picture, tuple(self._results), _link(self.sample.path, below))
        if self._box is None:
            return [whole]
        left, top, *_ = self._box
        detail = f"{name}, detail at {left},{top}, {_ZOOM} times as large"
        return [whole, SheetRow(detail, self._close, tuple(self._enlarged))]


def _rgba(made: Cutout, rgb: Image.Image) -> Image.Image:
    """A cut-out in colour: a result that is a mask alone gets the picture's colours."""
    if made.alpha is None:
        return made.image.convert("RGBA")
    colors = made.rgb or (rgb if made.alpha.size == rgb.size else rgb.resize(made.alpha.size))
    return composite.cut(colors, made.alpha)


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
    if suffix not in _PAGES and suffix not in SUFFIXES:
        raise UsageError(
            f"the output {output} ends in {suffix or 'nothing'}, which is no format of a sheet",
            hint=f"use .html, or one of {' '.join(SUFFIXES)}",
        )
    chosen = SUFFIXES.get(suffix)
    plan([str(inputs[0])], str(output), output_format=chosen or OutputFormat.PNG, keep=inputs)
    if is_there(output) and chosen is None:
        with output.open("rb") as page:
            if MARK.encode() not in page.read(1000):
                raise UsageError(f"{output} is a page that `cutout compare` did not make", hint="choose another output")
    return chosen


def spread(samples: Sequence[Sample], limit: int | None) -> list[Sample]:
    """At most so many of the pictures, evenly from first to last."""
    count = len(samples) if limit is None else min(limit, len(samples))
    return [samples[number * len(samples) // count] for number in range(count)]
