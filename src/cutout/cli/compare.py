"""`cutout compare`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cutout.cli.console import Console, Progress
from cutout.cli.options import option
from cutout.cli.predictors import emit_json, open_sides, options_of, workers_for
from cutout.cli.run import Interrupt
from cutout.enums import Fit  # noqa: TC001 - Typer reads the annotations
from cutout.errors import ExitCode, UsageError
from cutout.options.values import parse_color

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cutout.evaluate.comparison import Gathered
    from cutout.evaluate.contact_sheet import Color, SheetRow
    from cutout.evaluate.predictors import Prediction, Predictor
    from cutout.output_formats import OutputFormat
    from cutout.pipeline.remover import Cutout

__all__ = ["compare"]

_ONE, _MANY = 480, 240  # longest side of a view: of one picture, of several
_MOST_PIXELS = 200_000_000  # of a sheet, and of all that a page holds


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
    model: Annotated[
        list[str] | None, option("--model", "-m", text="A model to show. Can be repeated. (default: u2netp)")
    ] = None,
    results: Annotated[
        list[str] | None,
        option(
            "--results", text="A folder of ready cut-outs or masks, of any tool. Can be repeated.", metavar="FOLDER"
        ),
    ] = None,
    fit: Annotated[
        Fit | None, option("--fit", text="How pictures are brought to the model's input. (default: the model's own)")
    ] = None,
    matting: Annotated[bool, option("--matting", "-a", text="Refine the edge by alpha matting.")] = False,
    more: Annotated[
        list[str] | None,
        option("--set", text="Any other option of `cutout remove`. Can be repeated.", metavar="NAME=VALUE"),
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
    model_config: Annotated[
        Path | None, option("--model-config", text="JSON file that describes the .onnx files among the models.")
    ] = None,
    model_option: Annotated[
        list[str] | None, option("--model-option", text="KEY=VALUE for the models themselves. Can be repeated.")
    ] = None,
    device: Annotated[str | None, option("--device", "-d", text="auto, cpu, cuda, ... (default: auto)")] = None,
    jobs: Annotated[
        int, option("--jobs", "-j", text="Pictures side by side; 0: as many as processors.", min=0, metavar="N")
    ] = 0,
    as_json: Annotated[bool, option("--json", text="One JSON line that says what was written.")] = False,
    quiet: Annotated[bool, option("--quiet", "-q", text="Print errors only.")] = False,
    verbose: Annotated[bool, option("--verbose", "-v", text="Print tracebacks.")] = False,
) -> None:
    """Show cut-outs on checkerboard, black, white and a colour, as one picture or one HTML page.

    Several models, or folders of results, stand below each other.
    """
    from cutout.atomic import check_writable, write_atomic
    from cutout.evaluate.comparison import check_output, spread
    from cutout.evaluate.contact_sheet import VIEWS
    from cutout.evaluate.predictors import pictures

    console = Console(quiet=quiet, verbose=verbose)
    found = pictures(inputs)
    if not found:
        raise UsageError("there is no picture among the inputs")
    target = output or _beside(inputs, several=len(found) > 1)
    output_format = check_output(target, [one.path for one in found])
    check_writable(target)
    found, all_of_them = spread(found, limit), len(found)
    workers = workers_for(jobs, len(found))
    sides = open_sides(
        model,
        results,
        options_of(more or [], fit=fit, matting=matting),
        console,
        device=device,
        config=model_config,
        model_option=model_option,
        workers=workers,
    )
    paint = _color(color)
    side_length = size or (_ONE if len(found) == 1 else _MANY)
    shown = len(found) * len(sides) * (2 if detail else 1)
    _check_paper(shown * (2 if output_format is None else len(VIEWS)) * side_length**2, page=output_format is None)
    gathered = _gather(found, sides, console, size=side_length, detail=detail, workers=workers)
    entries = [entry for one in gathered for entry in one.entries(target.parent)]
    write_atomic(target, _drawn(entries, output_format, paint))
    failed = [error for one in gathered for _, error in one.errors]
    if as_json:
        counts = {"pictures": len(found), "of": all_of_them, "failed": len(failed)}
        emit_json({"event": "sheet", "output": str(target), "by": [side.name for side in sides], **counts})
    of_all = "" if len(found) == all_of_them else f" of {all_of_them}"
    console.say(f"{target}  ({len(found)}{of_all} picture{'s' if all_of_them > 1 else ''})")
    if failed:
        raise typer.Exit(int(max((error.exit_code for error in failed), key=lambda code: code is ExitCode.BUG)))


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


def _gather(
    found: Sequence[Prediction], sides: Sequence[Predictor], console: Console, *, size: int, detail: bool, workers: int
) -> list[Gathered]:
    from cutout.evaluate.comparison import Gathered
    from cutout.jobs.executors.threads import in_threads

    gathered = [Gathered(one, size=size, detail=detail) for one in found]
    with Interrupt(console) as stop, Progress(console, len(found) * len(sides)) as progress:
        for side in sides:
            with side.open() as cut:

                def work(one: Gathered, by: str = side.name, cut: Callable[[Prediction], Cutout] = cut) -> Gathered:
                    one.add(by, cut)
                    return one

                for one in in_threads(gathered, work, workers=workers, stop=stop):
                    for by, error in one.errors:
                        if by == side.name:
                            console.error(error, subject=f"{one.found.path} by {by}")
                    progress.step()
            if stop.is_set():
                console.say("interrupted: no sheet was written")
                raise typer.Exit(int(ExitCode.INTERRUPTED))
    return gathered


def _check_paper(pixels: int, *, page: bool) -> None:
    """Refuse before the work what could not be opened after it."""
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
