"""`cutout remove`."""

from __future__ import annotations

import glob
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cutout.atomic import status_of
from cutout.cli.console import Console
from cutout.cli.options import (
    Engine,
    in_dashes,
    jobs_option,
    key_values,
    memory_option,
    option,
    rows,
    with_rows,
    workers_for,
)
from cutout.cli.run import Interrupt, is_terminal, print_plan, run_plan
from cutout.enums import BitDepth, EngineName, Existing, OnCollision, Precision
from cutout.errors import CutoutError, ExitCode, PictureError, UsageError
from cutout.jobs.executors.base import EXECUTORS
from cutout.models.registry import DEFAULT_MODEL
from cutout.options import ACCELERATORS, FILES, RUN, DeviceOptions, Encoding, RemoveOptions
from cutout.output_formats import OutputFormat, names
from cutout.pipeline.budget import budget_of
from cutout.system import threads_each

if TYPE_CHECKING:
    from cutout.jobs.plan import Plan
    from cutout.options.idle import Asked
    from cutout.options.kinds import Options

__all__ = ["remove"]

_MODEL = "Model and device"


@with_rows(
    dry_run=rows(Encoding, FILES),
    engine=rows(DeviceOptions, ACCELERATORS),
    jobs=rows(RemoveOptions),
    as_json=rows(Encoding, RUN),
)
def remove(
    context: typer.Context,
    inputs: Annotated[
        list[str] | None,
        typer.Argument(help="Files, folders, glob patterns, or - for standard input.", metavar="INPUT..."),
    ] = None,
    output: Annotated[
        str | None,
        option(
            "--output",
            "-o",
            text="File, folder, or - for standard output. Without it: NAME-cutout.png beside the input, "
            "FOLDER-cutout/ for a folder.",
            panel=FILES,
        ),
    ] = None,
    output_format: Annotated[
        OutputFormat | None,
        option(
            "--format",
            "-f",
            text="Format of the outputs; else by the extension of OUTPUT, else png.",
            panel=FILES,
            case_sensitive=False,
        ),
    ] = None,
    recursive: Annotated[
        bool, option("--recursive/--no-recursive", text="Walk the folders below an input folder.", panel=FILES)
    ] = True,
    files_from: Annotated[
        str | None,
        option(
            "--files-from",
            text="File, or - for standard input, that names further inputs: one to a line, or each ended by a NUL.",
            metavar="FILE",
            panel=FILES,
        ),
    ] = None,
    exclude: Annotated[
        list[str] | None,
        option(
            "--exclude",
            text="Pattern of names or paths that are left out of folders. Can be repeated.",
            metavar="GLOB",
            panel=FILES,
        ),
    ] = None,
    suffix: Annotated[
        str | None,
        option(
            "--suffix",
            text="Added to the names of results. (default: -cutout beside the input, nothing in OUTPUT)",
            metavar="TEXT",
            panel=FILES,
        ),
    ] = None,
    existing: Annotated[
        Existing | None,
        option(
            "--existing",
            text="What to do with an output that is there; newer: do it again where its input is newer. (default: "
            "overwrite a single file, skip in a batch)",
            panel=FILES,
        ),
    ] = None,
    on_collision: Annotated[
        OnCollision, option("--on-collision", text="What to do when two inputs would write one output.", panel=FILES)
    ] = OnCollision.REFUSE,
    dry_run: Annotated[bool, option("--dry-run", text="Print the plan and do nothing.", panel=FILES)] = False,
    model: Annotated[
        str,
        option("--model", "-m", text="A name from `cutout models list`, an .onnx file, or rembg:NAME.", panel=_MODEL),
    ] = DEFAULT_MODEL,
    model_config: Annotated[
        Path | None,
        option(
            "--model-config", text="JSON file that describes an .onnx file: size, divisor, mean, std, ...", panel=_MODEL
        ),
    ] = None,
    model_option: Annotated[
        list[str] | None,
        option(
            "--model-option", text="KEY=VALUE for the model itself, such as class=upper. Can be repeated.", panel=_MODEL
        ),
    ] = None,
    device: Annotated[
        str | None,
        option(
            "--device",
            "-d",
            text="auto, cpu, cuda, cuda:1, ... A device that is named is used or the run fails. (default: auto)",
            panel=_MODEL,
        ),
    ] = None,
    provider_option: Annotated[
        list[str] | None,
        option("--provider-option", text="KEY=VALUE for the named device. Can be repeated.", panel=ACCELERATORS),
    ] = None,
    engine: Engine = EngineName.AUTO,
    precision: Annotated[
        Precision,
        option(
            "--precision",
            text="reduced: bfloat16 on a CPU that computes it, about twice as fast (u2netp; needs the reduced extra).",
            panel=_MODEL,
        ),
    ] = Precision.FULL,
    pull: Annotated[bool, option("--pull", text="Download the model first if it is missing.", panel=_MODEL)] = False,
    jobs: Annotated[int, jobs_option(RUN)] = 0,
    executor: Annotated[
        str, option("--executor", text="What runs the jobs.", panel=RUN, hidden=len(EXECUTORS) < 2)
    ] = next(iter(EXECUTORS)),
    memory_limit: Annotated[str | None, memory_option(RUN)] = None,
    fail_empty: Annotated[
        bool, option("--fail-empty", text="Exit with 2 where there is no picture among the inputs.", panel=RUN)
    ] = False,
    as_json: Annotated[
        bool, option("--json", text="JSON lines on standard output: files, errors, a summary.", panel=RUN)
    ] = False,
    quiet: Annotated[bool, option("--quiet", "-q", text="Print errors only.", panel=RUN)] = False,
    verbose: Annotated[
        bool, option("--verbose", "-v", text="Print stage times per picture, and tracebacks.", panel=RUN)
    ] = False,
    **given: Any,
) -> None:
    """Remove the background of pictures.

    One file becomes one file; folders are walked and mirrored below OUTPUT. Outputs that exist are skipped in a batch,
    so a stopped run goes on when it is run again.
    """
    from cutout.jobs.executors.base import RunRequest
    from cutout.jobs.plan import plan

    console = Console(quiet=quiet, verbose=verbose)
    inputs = inputs or []
    if not inputs and files_from is None:
        raise UsageError(
            "no input is named: a picture, a folder, or - for standard input",
            hint="cutout remove photo.jpg, or cutout remove FOLDER; cutout remove --help tells the rest",
        )
    _check_order(inputs, output)
    listed = None if files_from is None else _listed(files_from, inputs)
    options = RemoveOptions.from_mapping(_of(RemoveOptions, given))
    todo = plan(
        inputs,
        output,
        output_format=output_format,
        recursive=recursive,
        existing=existing,
        on_collision=on_collision,
        keep=_further_files(options, model, model_config),
        listed=listed,
        exclude=exclude or [],
        suffix=suffix,
    )
    if fail_empty and not todo.jobs and not todo.unreadable:
        raise UsageError("there is no picture among the inputs", hint="cutout remove --verbose lists what is ignored")
    _check_standard_streams(todo, as_json=as_json)
    _check_formats(todo, given["bit_depth"])
    _check_heic(todo, console)
    _tell_folder(todo, output, console)
    budget_of(memory_limit, os.environ)  # what is no size is told now
    if dry_run:
        print_plan(todo, console, as_json=as_json)
        if todo.unreadable:  # as the run would end
            raise typer.Exit(int(ExitCode.SOME_FAILED))
        return
    workers = workers_for(jobs, len(todo.jobs))  # by the whole plan: a resumed run computes as the first one did
    encoding = Encoding(**_of(Encoding, given), threads=threads_each(workers))
    if named := _given(context) - {"output", "model", "device", "jobs", "quiet", "verbose"}:  # which never do nothing
        from cutout.options.idle import idle

        names = [*inputs, *(listed or ())]
        for text in idle(_asked(options, encoding, todo, names, output, model, model_config), named, in_dashes):
            console.warn(text)
    settings = {
        "model": model,
        "device": device,
        "model_config": model_config,
        "model_options": key_values(model_option or []),
        "device_options": DeviceOptions(
            **_of(DeviceOptions, given),
            provider_options=key_values(provider_option or [], "--provider-option") or None,
            pictures=len(todo.jobs),
        ),
        "engine": engine,
        "precision": precision,
        "memory_limit": memory_limit,
    }
    if pull:
        _pull(model, console)
    with Interrupt(console) as stop:
        request = RunRequest(options=options, encoding=encoding, workers=workers, remover=settings)
        report = run_plan(todo, request, executor, console, as_json=as_json, stop=stop)
    if report.exit_code is not ExitCode.OK:
        raise typer.Exit(int(report.exit_code))


def _listed(files_from: str, inputs: list[str]) -> list[str]:
    from cutout.jobs.inputs import named_in

    if files_from == "-" and "-" in inputs:
        raise UsageError("standard input cannot be a picture and the list of pictures", hint="put the list in a file")
    return named_in(files_from)


def _of(owner: type[Options], given: dict[str, Any]) -> dict[str, Any]:
    """The options of a table among all that were given."""
    return {name: given[name] for name in owner.table if name in given}


def _given(context: typer.Context) -> frozenset[str]:
    """The options that stand in the command itself: those of the environment are meant for many commands."""
    named = (name for name in context.params if name != "inputs")
    return frozenset(name for name in named if str(context.get_parameter_source(name)).endswith("COMMANDLINE"))


def _asked(
    options: RemoveOptions,
    encoding: Encoding,
    todo: Plan,
    inputs: list[str],
    output: str | None,
    model: str,
    config: Path | None,
) -> Asked:
    from cutout.engines.base import describe
    from cutout.options.idle import Asked

    spec = describe(model, config)
    return Asked(
        options=options,
        encoding=encoding,
        formats=frozenset(job.output_format for job in todo.jobs),
        folders=any(Path(name).is_dir() for name in inputs),
        patterns=any(glob.has_magic(name) and not os.path.lexists(name) for name in inputs),
        to_file=not todo.batch and output in [job.target_name for job in todo.jobs if job.target is not None],
        to_stream=any(job.target is None for job in todo.jobs),
        own_file=spec.path is not None,
        rembg=not spec.file,
        classes=bool(spec.classes),
    )


def _further_files(options: RemoveOptions, model: str, model_config: Path | None) -> list[Path]:
    """What the run reads beside its inputs."""
    own_model = Path(model) if model.endswith(".onnx") else None
    return [path for path in (options.background_path, own_model, model_config) if path is not None]


def _check_order(inputs: list[str], output: str | None) -> None:
    """Who names the output as a second input, as with rembg, is told what to type."""
    from cutout.jobs.plan import STDIO

    if output is not None or len(inputs) != 2 or not os.path.lexists(inputs[0]):
        return
    if os.path.lexists(last := inputs[1]) or last == STDIO or glob.has_magic(last) or "://" in last:
        return
    typed = sys.argv[1:]
    place = len(typed) - 1 - typed[::-1].index(last) if last in typed else len(typed)
    command = shlex.join(["cutout", *typed[:place], "-o", *(typed[place:] or [last])])
    raise UsageError(f"the input {last} does not exist", hint=f"if it is the output: {command}")


def _check_standard_streams(todo: Plan, *, as_json: bool) -> None:
    if any(job.source is None for job in todo.jobs) and is_terminal(sys.stdin):
        raise UsageError("standard input is a terminal, not a picture", hint="redirect it, or name a file")
    if any(job.target is None for job in todo.jobs):
        if as_json:
            text = "--json and the picture cannot both go to standard output"
            raise UsageError(text, hint="write the picture to a file")
        if is_terminal(sys.stdout):
            raise UsageError(
                "standard output is a terminal, not a place for a picture", hint="redirect it, or use -o FILE"
            )


def _check_formats(todo: Plan, bit_depth: BitDepth) -> None:
    """What would fail at every picture fails before the first one."""
    formats = {job.output_format for job in todo.jobs}
    if bit_depth is BitDepth.SIXTEEN and not all(each.has_16_bits for each in formats):
        text = f"--bit-depth 16 goes with {names(lambda row: row.sixteen_bits)} alone"
        raise UsageError(text, hint="say --format png")
    if extra := [each.value for each in formats if each.row.extra]:
        from cutout.formats.pillow import register_heif

        register_heif(f"format {extra[0]}", options=("format",))


def _check_heic(todo: Plan, console: Console) -> None:
    """What will fail at every HEIC picture is told once, before the first one."""
    heic = sum(job.source is not None and job.source.suffix.lower() in {".heic", ".heif"} for job in todo.jobs)
    if heic:
        from cutout.formats.pillow import register_heif

        try:
            register_heif(f"HEIC ({heic} of {len(todo.jobs)} inputs)", PictureError)
        except CutoutError as error:
            console.warn(f"{error.message}: {error.hint}")


def _tell_folder(todo: Plan, output: str | None, console: Console) -> None:
    """Who names a new output without an extension may have meant a file."""
    target = todo.jobs[0].target if len(todo.jobs) == 1 and not todo.batch else None
    new = target is not None and status_of(target.parent) is None
    if output and new and target and target.parent == Path(output) and not output.endswith(("/", os.sep)):
        console.warn(f"{output} has no extension, so it is made a folder; a file would be -o {output}{target.suffix}")


def _pull(model: str, console: Console) -> None:
    from cutout.cli.models import pull_one
    from cutout.engines.base import describe

    if (spec := describe(model)).file and spec.path is None:
        pull_one(spec, console, force=False)
