"""What `eval` and `compare` share: whom to ask, with which options, and how to print."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from cutout.cli.options import key_values
from cutout.errors import UsageError, printable
from cutout.models.registry import DEFAULT_MODEL
from cutout.options import RemoveOptions
from cutout.system import usable_cpus

if TYPE_CHECKING:
    from pathlib import Path

    from cutout.cli.console import Console
    from cutout.evaluate.predictors import Predictor

__all__ = ["emit_json", "emit_line", "open_sides", "options_of", "workers_for"]


def options_of(texts: list[str], /, **named: Any) -> RemoveOptions:
    """`RemoveOptions` of those that have an option of their own and of `--set NAME=VALUE` texts.

    Raises:
        UsageError: An unknown name, a value out of range, or one option said twice.
    """
    values = {name.replace("-", "_"): value for name, value in key_values(texts, "--set").items()}
    said = {name: value for name, value in named.items() if value is not None and value is not False}
    if twice := sorted(set(values) & set(said)):
        raise UsageError(f"{twice[0]} is said twice, once by --set")
    return RemoveOptions.from_mapping(said | values)


def open_sides(
    models: list[str] | None,
    results: list[str] | None,
    options: RemoveOptions,
    console: Console,
    *,
    device: str | None,
    config: Path | None,
    model_option: list[str] | None,
    workers: int,
) -> list[Predictor]:
    """Models and folders of results; the default model where neither is named."""
    from cutout.evaluate.predictors import open_predictors

    settings = {
        "device": device,
        "jobs": workers,
        "model_options": key_values(model_option or []),
        "warn": console.warn,
    }
    wanted = models or ([] if results else [DEFAULT_MODEL])
    return open_predictors(wanted, results or [], options, config=config, settings=settings)


def workers_for(jobs: int, pictures: int) -> int:
    """Pictures side by side."""
    return max(1, min(jobs or usable_cpus(), pictures))


def emit_line(text: str) -> None:
    """One line of data for people, on standard output."""
    from cutout.jobs.storage import emit

    emit(printable(text).encode() + b"\n")


def emit_json(line: dict[str, Any]) -> None:
    """One line of data for programs, as UTF-8; bytes of a name that are no text become U+FFFD."""
    from cutout.jobs.storage import emit

    emit(json.dumps(line, ensure_ascii=False).encode("utf-8", "surrogateescape").decode("utf-8", "replace").encode())
    emit(b"\n")
