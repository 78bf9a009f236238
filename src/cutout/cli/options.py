"""What the commands share: how an option is made, and what an extra that is missing says."""

from __future__ import annotations

from contextlib import contextmanager
from inspect import Parameter, signature
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from cutout.enums import EngineName
from cutout.errors import UsageError
from cutout.system import usable_cpus

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cutout.options.kinds import Option, Options

__all__ = [
    "Engine",
    "in_dashes",
    "jobs_option",
    "key_values",
    "memory_option",
    "needs",
    "option",
    "parameter",
    "rows",
    "with_rows",
    "workers_for",
]

_Command = TypeVar("_Command", bound="Callable[..., None]")

_MOST_JOBS = 1024
"""Each is a thread."""


def option(*names: str, text: str, panel: str | None = None, **settings: Any) -> Any:
    """A Typer option; its environment variable follows from its long name (`--on-collision`: `CUTOUT_ON_COLLISION`)."""
    long = next(name for name in names if name.startswith("--")).split("/")[0]
    variable = "CUTOUT_" + long.removeprefix("--").removeprefix("no-").replace("-", "_").upper()
    return typer.Option(*names, help=text, envvar=variable, show_envvar=False, rich_help_panel=panel, **settings)


def parameter(name: str, kind: Any, given: Any, default: Any = None) -> Parameter:
    """An option as a parameter that Typer reads."""
    return Parameter(name, Parameter.POSITIONAL_OR_KEYWORD, default=default, annotation=Annotated[kind, given])


def rows(owner: type[Options], panel: str | None = None, *, grouped: bool = True) -> list[Parameter]:
    """The options of a table, or those of one panel, as parameters; the help groups them by their panels, or not."""
    return [
        _parameter(name, row, row.panel if grouped else None)
        for name, row in owner.table.items()
        if panel in {None, row.panel}
    ]


def _parameter(name: str, row: Option, panel: str | None) -> Parameter:
    off = [other for other in row.names if other.startswith("--")]
    bounds = {} if row.least is None else {"min": row.least, "max": row.most if row.shown else None}
    given = option(
        "/".join((in_dashes(name), *off)),
        *(other for other in row.names if other not in off),
        text=row.help(in_dashes),
        panel=panel,
        metavar=row.metavar,
        case_sensitive=not row.any_case,
        **bounds,
    )
    return parameter(name, row.kind | None if row.default is None else row.kind, given, row.default)


def in_dashes(name: str) -> str:
    """An option's name as it is written on the command line."""
    return "--" + name.replace("_", "-")


def with_rows(**before: list[Parameter]) -> Callable[[_Command], _Command]:
    """Give a command rows of tables as well: each list stands before a parameter, all arrive as keywords."""

    def add(command: _Command) -> _Command:
        written = signature(command, eval_str=True)
        parameters: list[Parameter] = []
        for name, parameter in written.parameters.items():
            parameters += before.get(name, [])
            if parameter.kind is not Parameter.VAR_KEYWORD:
                parameters.append(parameter)
        command.__signature__ = written.replace(parameters=parameters)  # type: ignore[attr-defined]
        return command

    return add


def jobs_option(panel: str | None = None) -> Any:
    """`--jobs`, the same for all commands that work on pictures side by side."""
    text = "Pictures worked on side by side; 0 means as many as there are processors."
    return option("--jobs", "-j", text=text, min=0, max=_MOST_JOBS, metavar="N", panel=panel)


def workers_for(jobs: int, pictures: int) -> int:
    """Pictures side by side: what `--jobs` asks for, and no more than there are."""
    return max(1, min(jobs or usable_cpus(), pictures))


def memory_option(panel: str | None = None) -> Any:
    """`--memory-limit`, the same for all commands that work on pictures of other people's choice."""
    text = "Memory that all pictures at work may take, such as 2GB; larger ones wait. (default: 60% of the machine's)"
    return option("--memory-limit", text=text, metavar="SIZE", panel=panel)


Engine = Annotated[
    EngineName,
    option("--engine", text="What runs the model on the processor; auto takes the faster.", panel="Model and device"),
]


@contextmanager
def needs(extra: str) -> Iterator[None]:
    """Around imports that an extra brings.

    Raises:
        UsageError: It is not installed; the hint is the command that installs it.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "cutout":
            raise
        raise UsageError(
            f"{error.name} is not installed, which this command needs", hint=f'pip install "cutout-cli[cpu,{extra}]"'
        ) from None


def key_values(texts: list[str], option: str = "--model-option") -> dict[str, Any]:
    """`key=value` texts as a mapping; a value that is JSON is taken as such.

    Raises:
        UsageError: A text without `=`.
    """
    import json

    result: dict[str, Any] = {}
    for text in texts:
        key, sign, value = text.partition("=")
        if not sign or not key:
            raise UsageError(f"{option} {text!r} is not of the form key=value")
        try:
            result[key] = json.loads(value)
        except ValueError:
            result[key] = value
    return result
