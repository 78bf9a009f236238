"""`cutout compare`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cutout.cli.console import Console, emit_json
from cutout.cli.options import option, with_rows
from cutout.cli.predictors import predictor_rows, predictors_of, raise_for, run_predictors
from cutout.errors import UsageError
from cutout.options.values import parse_color

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cutout.evaluate.contact_sheet import Color, SheetRow
    from cutout.output_formats import OutputFormat

__all__ = ["compare"]

_ONE, _MANY = 480, 240  # longest side of a view: of one picture, of several
_MOST_PIXELS = 200_000_000  # of a sheet, and of all that a page holds


@with_rows(color=predictor_rows("fit", "matting"))
def compare(
    inputs: Annotated[list[str], typer.Argument(help="Pictures, folders or glob patterns.", metavar="INPUT...")],
    output: Annotated[
        Path | None,
        option(
            "--output",
            "-o",
            text="A picture (sheet.png) or a page (gallery.html). Without it: NAME-compare.png, FOLDER-compare.html.",
        ),
    ] = None,
    color: Annotated[str, option("--color", text="The coloured background.")] = "#1e9646",
    size: Annotated[
        int | None,
        option(
            "--size",
            text=f"Longest side of a view in pixels. (default: {_ONE}, of several pictures {_MANY})",
            min=16,
            metavar="N",
        ),
    ] = None,
    detail: Annotated[
        bool, option("--detail", text="Show the place with most of the soft edge, enlarged, as well.")
    ] = False,
    limit: Annotated[
        int | None, option("--limit", text="At most N pictures, evenly from all.", min=1, metavar="N")
    ] = None,
    as_json: Annotated[bool, option("--json", text="One JSON line that says what was written.")] = False,
    quiet: Annotated[bool, option("--quiet", "-q", text="Print errors only.")] = False,
    verbose: Annotated[bool, option("--verbose", "-v", text="Print tracebacks.")] = False,
    **given: Any,
) -> None:
    """Show cut-outs on checkerboard, black, white and a colour, as one picture or one HTML page.

    Several models, or folders of results, stand below each other.
    """
    from cutout.atomic import check_writable, write_atomic
    from cutout.evaluate.comparison import Comparison, check_output, spread
    from cutout.evaluate.predictors import pictures

    console = Console(quiet=quiet, verbose=verbose)
    found = pictures(inputs)
    if not found:
        raise UsageError("there is no picture among the inputs")
    target = output or _beside(inputs, several=len(found) > 1)
    output_format = check_output(target, [sample.path for sample in found])
    check_writable(target)
    found, total = spread(found, limit), len(found)
    predictors, workers = predictors_of(given, len(found), console)
    paint = _color(color)
    view_side = size or (_ONE if len(found) == 1 else _MANY)
    _check_size(len(found) * len(predictors) * (2 if detail else 1) * view_side**2, page=output_format is None)
    comparisons = [Comparison(sample, size=view_side, detail=detail) for sample in found]
    done = run_predictors(
        predictors,
        comparisons,
        Comparison.add,
        console,
        path=lambda one: one.sample.path,
        workers=workers,
        without="no sheet was written",
    )
    entries = [row for one in comparisons for row in one.rows(target.parent)]
    write_atomic(target, _drawn(entries, output_format, paint))
    if as_json:
        counts = {"pictures": len(found), "of": total, "failed": sum(one.error is not None for one in done)}
        emit_json({"event": "sheet", "output": str(target), "by": [one.name for one in predictors], **counts})
    of_all = "" if len(found) == total else f" of {total}"
    console.say(f"{target}  ({len(found)}{of_all} picture{'s' if total > 1 else ''})")
    raise_for(done)


def _beside(inputs: Sequence[str], *, several: bool) -> Path:
    if len(inputs) > 1 or any(sign in inputs[0] for sign in "*?["):
        raise UsageError("several inputs need an output", hint="-o gallery.html")
    first = Path(os.path.abspath(inputs[0]))  # noqa: PTH100 - links are kept
    folder = first.is_dir()
    return first.with_name(f"{first.name if folder else first.stem}-compare{'.html' if folder or several else '.png'}")


def _color(text: str) -> Color:
    found = parse_color(text)
    if found is None:
        raise UsageError(f"--color {text!r} is not a colour", hint="colours are names (green), #rrggbb or rgb(r,g,b)")
    return found[:3]


def _check_size(pixels: int, *, page: bool) -> None:
    """Refuse before the work what could not be opened after it: pixels of one view of each cut-out."""
    from cutout.evaluate.contact_sheet import View

    pixels *= 2 if page else len(View)
    if pixels > _MOST_PIXELS * (4 if page else 1):
        other = "" if page else "-o gallery.html makes a page, "
        raise UsageError(
            f"{'a page' if page else 'a sheet'} of {pixels / 1e6:.0f} megapixels is more than anybody can open",
            hint=f"{other}--limit N takes fewer pictures, --size N smaller ones",
        )


def _drawn(entries: Sequence[SheetRow], output_format: OutputFormat | None, color: Color) -> bytes:
    if output_format is None:
        from cutout.evaluate.html import gallery

        return gallery(entries, color).encode("utf-8", "replace")
    from cutout.evaluate.contact_sheet import stacked
    from cutout.formats.encode import encode

    return encode(stacked(entries, color), None, output_format)
