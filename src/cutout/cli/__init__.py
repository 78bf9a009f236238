"""The `cutout` command: parse, build options, call once, exit."""

from __future__ import annotations

import errno
import os
import shlex
import sys
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from cutout import __version__
from cutout.console import Console
from cutout.errors import CutoutError, ExitCode, OutputError, UsageError
from cutout.memory import keep_small
from cutout.options import OUTPUT_SUFFIXES

__all__ = ["app", "main"]

_COMMANDS = {
    "remove": "remove",
    "models": "models",
    "bench": "bench",
    "compare": "compare",
    "eval": "evaluate",
    "doctor": "doctor",
    "serve": "serve",
    "worker": "worker",
}
"""The module of each, which has a function of the same name."""
_EPILOG = "Every option can be set in the environment: --device is CUTOUT_DEVICE, --on-collision CUTOUT_ON_COLLISION."
_NEED_ARGUMENTS = {"remove", "compare", "eval"}


class _Commands(TyperGroup):
    """The commands; who leaves the command out before a picture is told which one is meant."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        first = args[0]
        means_input = first == "-" or os.path.lexists(first) or Path(first).suffix.lower() in OUTPUT_SUFFIXES
        if first not in self.commands and means_input:
            raise UsageError(f"{first} is no command", hint=f"cutout remove {shlex.join(args)}")
        return super().resolve_command(ctx, args)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"cutout {__version__}")
        raise typer.Exit


def _root(
    _version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Remove the background of pictures."""


def _build(*names: str) -> typer.Typer:
    """The command line with some of its commands, or all of them: making one takes longer than many a picture."""
    built = typer.Typer(
        name="cutout",
        cls=_Commands,
        help="Remove the background of pictures.",
        epilog=_EPILOG,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    built.callback()(_root)
    for name in names or _COMMANDS:
        module = import_module(f"cutout.cli.{_COMMANDS[name]}")
        if name == "models":
            built.add_typer(module.app, name=name)
        else:
            built.command(name, no_args_is_help=name in _NEED_ARGUMENTS)(getattr(module, _COMMANDS[name]))
    return built


def __getattr__(name: str) -> Any:
    if name == "app":  # all commands; who needs one of them does not wait for the others
        return _build()
    raise AttributeError(name)


def _hush() -> None:
    """Keep what Pillow remarks on broken files off standard error: what matters is told in words of our own."""
    import logging
    import warnings

    warnings.filterwarnings("ignore", module=r"PIL\.")
    logging.getLogger("PIL").addHandler(logging.NullHandler())


def main() -> None:
    """Run the command line; the one place that turns errors into exit codes."""
    keep_small()
    asked = os.environ.get("CUTOUT_VERBOSE", "").strip().lower() not in {"", "0", "false", "no", "n", "f", "off"}
    verbose = asked or not {"-v", "--verbose"}.isdisjoint(sys.argv)
    console = Console(verbose=verbose)
    _hush()
    try:
        first = sys.argv[1:2]
        _build(*(first if first and first[0] in _COMMANDS else ()))()
    except CutoutError as error:
        console.error(error)
        code = error.exit_code
    except KeyboardInterrupt:
        console.say("interrupted")
        code = ExitCode.INTERRUPTED
    except Exception as error:  # noqa: BLE001 - the last resort: a bug is told as one
        from cutout.report import BugError

        failure: CutoutError = BugError.of(error)
        if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EIO}:
            failure = OutputError(f"the output cannot be written: {error.strerror}")
        console.error(failure)
        code = failure.exit_code
    else:
        code = ExitCode.OK
    sys.exit(code)
