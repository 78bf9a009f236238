"""`cutout eval`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from cutout.cli.console import Console, emit_json, emit_line, error_json
from cutout.cli.options import option, with_rows
from cutout.cli.predictors import predictor_rows, predictors_of, raise_for, run_predictors

if TYPE_CHECKING:
    from cutout.evaluate.dataset import Pair
    from cutout.evaluate.metrics import Scores
    from cutout.evaluate.predictors import Attempt

    Verdict = Attempt[Pair, Scores]

__all__ = ["evaluate"]


@with_rows(full=predictor_rows("fit", "threshold", "post_process", "matting"))
def evaluate(
    images: Annotated[str, typer.Argument(help="Folder of pictures, or one picture.", metavar="IMAGES")],
    masks: Annotated[
        str,
        typer.Argument(
            help="Folder of their true masks: same names, grey, or the alpha of a transparent picture.", metavar="MASKS"
        ),
    ],
    full: Annotated[
        bool, option("--full", text="Compare at the masks' full size, not at 2000 pixels of the longer side.")
    ] = False,
    worst: Annotated[
        int, option("--worst", text="List the N pictures with the largest MAE of each model.", min=0, metavar="N")
    ] = 0,
    as_json: Annotated[bool, option("--json", text="One JSON line per picture and one per model.")] = False,
    quiet: Annotated[bool, option("--quiet", "-q", text="Print errors only.")] = False,
    verbose: Annotated[bool, option("--verbose", "-v", text="Say which masks belong to no picture.")] = False,
    **given: Any,
) -> None:
    """Score models, or the results of any tool, against true masks.

    MAE, F, S-measure, IoU and boundary IoU of segmentation; SAD, MSE, gradient and connectivity error of matting.
    """
    from cutout.evaluate.dataset import SIDE, judge, pairs

    console = Console(quiet=quiet, verbose=verbose)
    todo, spare = pairs(images, masks)
    for path in spare:
        console.detail(f"{path}: a mask without a picture")
    side = None if full else SIDE
    predictors, workers = predictors_of(given, len(todo), console, mask=True)
    verdicts = run_predictors(
        predictors,
        todo,
        lambda pair, _by, cut: judge(pair, cut, side=side),
        console,
        path=lambda pair: pair.sample.path,
        workers=workers,
        without="a part of the pictures gives no scores",
    )
    verdicts.sort(key=lambda verdict: verdict.item.sample.key)
    table = {one.name: [verdict for verdict in verdicts if verdict.by == one.name] for one in predictors}
    if as_json:
        _print_json(table, side)
    else:
        _print_table(table, worst)
    raise_for(verdicts)


def _scores(verdicts: list[Verdict]) -> list[Scores]:
    return [verdict.result for verdict in verdicts if verdict.result is not None]


def _print_json(table: dict[str, list[Verdict]], side: int | None) -> None:
    from cutout.evaluate.metrics import mean_scores

    for by, verdicts in table.items():
        for verdict in verdicts:
            line: dict[str, Any] = {"picture": str(verdict.item.sample.path), "mask": str(verdict.item.mask)}
            line |= _rounded(verdict.result.values) if verdict.result is not None else {}
            line |= {"error": error_json(verdict.error)} if verdict.error is not None else {}
            emit_json({"event": "picture", "by": by, **line})
    for by, verdicts in table.items():
        scores = _scores(verdicts)
        counts = {"pictures": len(scores), "failed": len(verdicts) - len(scores), "side": side}
        emit_json({"event": "scores", "by": by, **counts, **_rounded(mean_scores(scores) if scores else {})})


def _rounded(values: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 6) for name, value in values.items()}


def _print_table(table: dict[str, list[Verdict]], worst: int) -> None:
    """A row for each model or folder, the best of several marked by a star; below it the worst pictures of each."""
    from cutout.evaluate.metrics import METRICS, mean_scores

    means = {by: mean_scores(scores) for by, verdicts in table.items() if (scores := _scores(verdicts))}
    wide = max(len("by"), *map(len, table))
    emit_line("  ".join([f"{'by':{wide}}", "pictures", *(f"{metric.title:>8}" for metric in METRICS)]))
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
        emit_line("  ".join(cells))
    for by in means if worst else ():
        emit_line("")
        emit_line(f"worst of {by}, by MAE")
        scored = [(one.result.values, str(one.item.sample.path)) for one in table[by] if one.result is not None]
        for values, path in sorted(scored, key=lambda one: (-one[0]["mae"], one[0]["iou"], one[1]))[:worst]:
            emit_line(f"  MAE {values['mae']:.4f}  IoU {values['iou']:.4f}  {path}")
