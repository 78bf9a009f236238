"""`cutout bench`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from cutout.cli.console import Console
from cutout.cli.options import Engine, option
from cutout.enums import EngineName, Precision
from cutout.errors import UsageError
from cutout.models.registry import DEFAULT_MODEL
from cutout.options import RemoveOptions
from cutout.output_formats import OutputFormat

__all__ = ["bench"]


def bench(
    inputs: Annotated[
        list[str] | None, typer.Argument(help="Pictures or folders; one is made without any.", metavar="[INPUT]...")
    ] = None,
    model: Annotated[str, option("--model", "-m", text="The model to measure.")] = DEFAULT_MODEL,
    device: Annotated[str | None, option("--device", "-d", text="auto, cpu, cuda, ... (default: auto)")] = None,
    engine: Engine = EngineName.AUTO,
    precision: Annotated[
        Precision, option("--precision", text="full, or reduced where the model has it.")
    ] = Precision.FULL,
    jobs: Annotated[
        str | None, option("--jobs", "-j", text="Pictures side by side to compare. (default: 1,2,4,...)", metavar="N,N")
    ] = None,
    megapixels: Annotated[
        float, option("--megapixels", text="Size of the picture that is made.", metavar="N", min=0.01, max=200)
    ] = 2.0,
    seconds: Annotated[
        float, option("--seconds", text="How long each setting is measured.", metavar="N", min=0.1, max=86400)
    ] = 5.0,
    output_format: Annotated[
        OutputFormat, option("--format", "-f", text="Format of the outputs.", case_sensitive=False)
    ] = OutputFormat.PNG,
    as_json: Annotated[bool, option("--json", text="One JSON line per setting and a recommendation.")] = False,
    quiet: Annotated[bool, option("--quiet", "-q", text="No progress on standard error.")] = False,
) -> None:
    """Measure this machine: pictures per second and stage times, and the best number of pictures side by side."""
    from cutout.evaluate.benchmark import jobs_to_try, measure

    console = Console(quiet=quiet)
    results = measure(
        inputs or [],
        _numbers(jobs) if jobs else jobs_to_try(),
        seconds=seconds,
        megapixels=megapixels,
        options=RemoveOptions(),
        output_format=output_format,
        remover_settings={
            "model": model,
            "device": device,
            "engine": engine,
            "precision": precision,
            "warn": console.warn,
        },
        tell=console.say,
    )
    best = max(results, key=lambda result: result.rate)
    if as_json:
        for result in results:
            typer.echo(json.dumps({"event": "setting", **result.as_json()}))
        typer.echo(json.dumps({"event": "recommendation", "jobs": best.jobs}))
        return
    stages = list(best.ms)
    typer.echo(f"{best.model} on {best.device} ({best.engine}){best.note}; milliseconds of one picture by stage")
    typer.echo("  ".join(["jobs", "pictures/s", *(f"{stage:>11}" for stage in stages)]))
    for result in results:
        times = (f"{result.ms.get(stage, 0.0):11.1f}" for stage in stages)
        typer.echo("  ".join([f"{result.jobs:4}", f"{result.rate:10.2f}", *times]))
    typer.echo(f"best here: --jobs {best.jobs}")


def _numbers(text: str) -> list[int]:
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) < 1:
        raise UsageError(f"--jobs {text!r} is not a list of whole numbers", hint="for example: --jobs 1,2,4")
    return numbers
