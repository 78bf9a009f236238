"""`cutout eval`."""

from __future__ import annotations

from functools import partial
from pathlib import Path  # noqa: TC003 - Typer reads the annotations
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cutout.cli.console import Console, Progress, error_json
from cutout.cli.options import option
from cutout.cli.predictors import emit_json, emit_line, open_sides, options_of, workers_for
from cutout.cli.run import Interrupt
from cutout.enums import Fit  # noqa: TC001 - Typer reads the annotations
from cutout.errors import ExitCode

if TYPE_CHECKING:
    from cutout.evaluate.dataset import Verdict
    from cutout.evaluate.metrics import Scores

__all__ = ["evaluate"]


def evaluate(
    images: Annotated[str, typer.Argument(help="Folder of pictures, or one picture.", metavar="IMAGES")],
    masks: Annotated[
        str,
        typer.Argument(
            help="Folder of their true masks: same names, grey, or the alpha of a transparent picture.", metavar="MASKS"
        ),
    ],
    model: Annotated[
        list[str] | None, option("--model", "-m", text="A model to score. Can be repeated. (default: u2netp)")
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
    threshold: Annotated[
        int | None, option("--threshold", text="Make the edge hard.", min=0, max=255, metavar="N")
    ] = None,
    post_process: Annotated[bool, option("--post-process", text="Smooth the mask and make it binary.")] = False,
    matting: Annotated[bool, option("--matting", "-a", text="Refine the edge by alpha matting.")] = False,
    more: Annotated[
        list[str] | None,
        option(
            "--set",
            text="Any other option of `cutout remove` that changes the mask. Can be repeated.",
            metavar="NAME=VALUE",
        ),
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
    full: Annotated[
        bool, option("--full", text="Compare at the masks' full size, not at 2000 pixels of the longer side.")
    ] = False,
    worst: Annotated[
        int, option("--worst", text="List the N pictures with the largest MAE of each model.", min=0, metavar="N")
    ] = 0,
    as_json: Annotated[bool, option("--json", text="One JSON line per picture and one per model.")] = False,
    quiet: Annotated[bool, option("--quiet", "-q", text="Print errors only.")] = False,
    verbose: Annotated[bool, option("--verbose", "-v", text="Say which masks belong to no picture.")] = False,
) -> None:
    """Score models, or the results of any tool, against true masks.

    MAE, F, S-measure, IoU and boundary IoU of segmentation; SAD, MSE, gradient and connectivity error of matting.
    """
    from cutout.evaluate.dataset import SIDE, judge, pairs
    from cutout.jobs.executors.threads import in_threads

    console = Console(quiet=quiet, verbose=verbose)
    options = options_of(
        more or [], mask=True, fit=fit, threshold=threshold, post_process=post_process, matting=matting
    )
    todo, spare = pairs(images, masks)
    for path in spare:
        console.detail(f"{path}: a mask without a picture")
    workers = workers_for(jobs, len(todo))
    sides = open_sides(
        model, results, options, console, device=device, config=model_config, model_option=model_option, workers=workers
    )
    table: dict[str, list[Verdict]] = {}
    with Interrupt(console) as stop, Progress(console, len(todo) * len(sides)) as progress:
        for side in sides:
            if stop.is_set():
                break
            verdicts = table[side.name] = []
            with side.open() as cut:
                judged = partial(judge, cut=cut, side=None if full else SIDE)
                for verdict in in_threads(todo, judged, workers=workers, stop=stop):
                    verdicts.append(verdict)
                    if verdict.error is not None:
                        console.error(verdict.error, subject=f"{verdict.pair.found.path} by {side.name}")
                    progress.step()
            verdicts.sort(key=lambda verdict: verdict.pair.found.key)
        interrupted = stop.is_set() and sum(map(len, table.values())) < len(todo) * len(sides)
    if interrupted:
        console.say("interrupted: a part of the pictures gives no scores")
        raise typer.Exit(int(ExitCode.INTERRUPTED))
    _tell(table, worst=worst, as_json=as_json, side=None if full else SIDE)
    code = _exit_code(table)
    if code is not ExitCode.OK:
        raise typer.Exit(int(code))


def _tell(table: dict[str, list[Verdict]], *, worst: int, as_json: bool, side: int | None) -> None:
    from cutout.evaluate.metrics import mean_scores

    means = {by: mean_scores(scored) for by, verdicts in table.items() if (scored := _scores(verdicts))}
    if as_json:
        for by, verdicts in table.items():
            for verdict in verdicts:
                emit_json({"event": "picture", "by": by, **_as_json(verdict)})
        for by, verdicts in table.items():
            counts = {"pictures": len(_scores(verdicts)), "failed": sum(one.scores is None for one in verdicts)}
            emit_json({"event": "scores", "by": by, **counts, "side": side, **_rounded(means.get(by, {}))})
        return
    for line in _lines(table, means):
        emit_line(line)
    for by, verdicts in table.items():
        bad = sorted(
            (-verdict.scores.values["mae"], verdict.scores.values["iou"], str(verdict.pair.found.path))
            for verdict in verdicts
            if verdict.scores is not None
        )[:worst]
        if bad:
            emit_line("")
            emit_line(f"worst of {by}, by MAE")
        for less_mae, iou, path in bad:
            emit_line(f"  MAE {-less_mae:.4f}  IoU {iou:.4f}  {path}")


def _scores(verdicts: list[Verdict]) -> list[Scores]:
    return [verdict.scores for verdict in verdicts if verdict.scores is not None]


def _lines(table: dict[str, list[Verdict]], means: dict[str, dict[str, float]]) -> list[str]:
    """The table: a row for each side, the best of several marked by a star."""
    from cutout.evaluate.metrics import METRICS

    wide = max(len("by"), *map(len, table))
    lines = ["  ".join([f"{'by':{wide}}", "pictures", *(f"{metric.title:>8}" for metric in METRICS)])]
    best = {
        metric.name: (max if metric.more_is_better else min)(one[metric.name] for one in means.values())
        for metric in METRICS
        if len(means) > 1
    }
    for by, verdicts in table.items():
        cells = [f"{by:{wide}}", f"{len(_scores(verdicts)):8}"]
        for metric in METRICS if by in means else ():
            value = means[by][metric.name]
            text = f"{value:.{metric.digits}f}" + ("*" if best.get(metric.name) == value else " " if best else "")
            cells.append(f"{text:>8}")
        lines.append("  ".join(cells))
    return lines


def _as_json(verdict: Verdict) -> dict[str, Any]:
    line: dict[str, Any] = {"picture": str(verdict.pair.found.path), "mask": str(verdict.pair.mask)}
    if verdict.scores is not None:
        return line | _rounded(verdict.scores.values)
    assert verdict.error is not None  # noqa: S101 - a verdict has one of the two
    error = verdict.error
    return line | {"error": error_json(error)}


def _rounded(values: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 6) for name, value in values.items()}


def _exit_code(table: dict[str, list[Verdict]]) -> ExitCode:
    from cutout.jobs.report import BugError

    errors = [verdict.error for verdicts in table.values() for verdict in verdicts if verdict.error is not None]
    if any(isinstance(error, BugError) for error in errors):
        return ExitCode.BUG
    return ExitCode.SOME_FAILED if errors else ExitCode.OK
