"""What `eval` and `compare` share: whom to ask, with which options, and how it runs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cutout.cli.console import Console, Progress
from cutout.cli.options import jobs_option, key_values, option, parameter, rows, workers_for
from cutout.cli.run import Interrupt
from cutout.errors import ExitCode, UsageError
from cutout.models.registry import DEFAULT_MODEL
from cutout.options import RemoveOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from inspect import Parameter

    from cutout.evaluate.predictors import Attempt, Cut, Item, Predictor, Result

__all__ = ["predictor_rows", "predictors_of", "raise_for", "run_predictors"]

_Texts = list[str] | None


def predictor_rows(*shown: str) -> list[Parameter]:
    """The options that `predictors_of` reads; those of `RemoveOptions` that are named have one of their own."""
    model = option("--model", "-m", text="A model to run. Can be repeated. (default: u2netp)")
    results = option(
        "--results", text="A folder of ready cut-outs or masks, of any tool. Can be repeated.", metavar="FOLDER"
    )
    more = option("--set", text="Any other option of `cutout remove`. Can be repeated.", metavar="NAME=VALUE")
    config = option("--model-config", text="JSON file that describes the .onnx files among the models.")
    further = option("--model-option", text="KEY=VALUE for the models themselves. Can be repeated.")
    return [
        parameter("model", _Texts, model),
        parameter("results", _Texts, results),
        *(row for row in rows(RemoveOptions, grouped=False) if row.name in shown),
        parameter("more", _Texts, more),
        parameter("model_config", Path | None, config),
        parameter("model_option", _Texts, further),
        parameter("device", str | None, option("--device", "-d", text="auto, cpu, cuda, ... (default: auto)")),
        parameter("jobs", int, jobs_option(), 0),
    ]


def predictors_of(given: dict[str, Any], pictures: int, console: Console, **always: Any) -> tuple[list[Predictor], int]:
    """Models and folders of results, the default model where neither is named, and how many pictures side by side.

    Args:
        given: The options of `predictor_rows`.
        pictures: How many there are to do.
        console: For warnings.
        always: Of `RemoveOptions`: what the command itself needs.

    Raises:
        UsageError: An unknown name, a value out of range, one option given twice, an unknown model, or no folder.
        ModelError: A model is missing.
    """
    from cutout.evaluate.predictors import open_predictors

    table = RemoveOptions.table
    own = {name: value for name, value in given.items() if name in table and value != table[name].default}
    more = {name.replace("-", "_"): value for name, value in key_values(given["more"] or [], "--set").items()}
    if twice := sorted(set(more) & set(own | always)):
        raise UsageError(f"{twice[0]} is said twice, once by --set")
    workers = workers_for(given["jobs"], pictures)
    settings = {
        "device": given["device"],
        "jobs": workers,
        "model_options": key_values(given["model_option"] or []),
        "warn": console.warn,
    }
    options = RemoveOptions.from_mapping(own | always | more)
    results = given["results"] or []
    models = given["model"] or ([] if results else [DEFAULT_MODEL])
    return open_predictors(models, results, options, config=given["model_config"], settings=settings), workers


def run_predictors(
    predictors: Sequence[Predictor],
    items: Sequence[Item],
    work: Callable[[Item, str, Cut], Result],
    console: Console,
    *,
    path: Callable[[Item], Path],
    workers: int,
    without: str,
) -> list[Attempt[Item, Result]]:
    """Every item by every predictor; what fails is told as it happens.

    Args:
        predictors: What `predictors_of` gave.
        items: What is done by each.
        work: As `evaluate.predictors.attempts` calls it.
        console: For progress and errors.
        path: The picture of an item.
        workers: Items side by side.
        without: What an interrupted run does without.

    Raises:
        SystemExit: It was interrupted.
    """
    from cutout.evaluate.predictors import attempts

    done = []
    with Interrupt(console) as stop, Progress(console, len(items) * len(predictors)) as progress:
        for attempt in attempts(predictors, items, work, workers=workers, stop=stop):
            done.append(attempt)
            if attempt.error is not None:
                console.error(attempt.error, subject=f"{path(attempt.item)} by {attempt.by}")
            progress.step()
    if len(done) < len(items) * len(predictors):
        console.say(f"interrupted: {without}")
        sys.exit(int(ExitCode.INTERRUPTED))
    return done


def raise_for(done: Sequence[Attempt[Any, Any]]) -> None:
    """End with the exit code of a run in which something failed, if it did."""
    from cutout.jobs.report import BugError

    if errors := [attempt.error for attempt in done if attempt.error is not None]:
        bug = any(isinstance(error, BugError) for error in errors)
        sys.exit(int(ExitCode.BUG if bug else ExitCode.SOME_FAILED))
