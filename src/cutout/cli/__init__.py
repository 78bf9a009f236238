"""The `cutout` command: parse, build options, call once, exit."""

from __future__ import annotations

import atexit
import contextlib
import errno
import os
import shlex
import signal
import sys
import threading
from enum import EnumType
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer
from typer.core import TyperCommand, TyperGroup

from cutout import __version__
from cutout.cli.console import Console
from cutout.errors import CutoutError, ExitCode, OutputError, UsageError
from cutout.output_formats import SUFFIXES
from cutout.system import keep_small

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

__all__ = ["app", "command", "main"]

_COMMANDS = {  # module, what it holds
    "remove": ("remove", "remove"),
    "bench": ("bench", "bench"),
    "compare": ("compare", "compare"),
    "eval": ("evaluate", "evaluate"),
    "doctor": ("doctor", "doctor"),
    "serve": ("serve", "serve"),
    "worker": ("worker", "worker"),
    "models": ("models", "app"),
}

_PARSER_ERROR: Any = typer.BadParameter.__mro__[2]
"""The base of Typer's own errors, which it gives no name to."""


class _Converter(NamedTuple):
    """Hands on values that have their option's type already: Typer's own converters load pydantic, 50 ms of a start."""

    typers: Callable[[], Any]

    def coerce(self, value: Any, param: Any, ctx: Any) -> Any:
        kind = param.type_descriptor.annotation
        if value is None or type(value) is kind:
            return () if value is None and (param.multiple or param.nargs == -1) else value
        if kind == list[str] and isinstance(value, list | tuple):
            return list(value)
        if isinstance(kind, EnumType):
            with contextlib.suppress(ValueError):
                return kind(value)
        return self.typers().coerce(value, param, ctx)


class _Quick:
    """A command whose parameters are read by `_Converter`."""

    def get_params(self, ctx: Any) -> list[Any]:
        found: list[Any] = super().get_params(ctx)  # type: ignore[misc]
        for parameter in found:
            if hasattr(parameter, "get_runtime_param"):  # from Typer 0.29 on
                parameter.get_runtime_param = partial(_Converter, parameter.get_runtime_param)
        return found


class _Command(_Quick, TyperCommand):
    pass


class _Commands(_Quick, TyperGroup):
    """The commands, each made when it is asked for: that takes longer than many a picture."""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002
        return list(_COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ARG002
        if cmd_name in _COMMANDS and cmd_name not in self.commands:
            module, name = _COMMANDS[cmd_name]
            found = getattr(import_module(f"cutout.cli.{module}"), name)
            if not isinstance(found, typer.Typer):
                function, found = found, typer.Typer(add_completion=False)
                found.command(cmd_name, cls=_Command)(function)
            made = self.commands[cmd_name] = typer.main.get_command(found)
            made.name = cmd_name
        return self.commands.get(cmd_name)

    def parse_args(self, ctx: Any, args: list[str]) -> Any:
        """`cutout help remove` is `cutout remove --help`."""
        return super().parse_args(ctx, [*args[1:], "--help"] if args[:1] == ["help"] else args)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Who leaves the command out before a picture, or types rembg's, is told which one is meant."""
        first = args[0]
        if first not in _COMMANDS:
            if first == "-" or os.path.lexists(first) or Path(first).suffix.lower() in SUFFIXES:
                raise UsageError(f"{first} is no command", hint=f"cutout remove {shlex.join(args)}")
            from cutout.cli.from_rembg import COMMANDS, in_our_words

            if first in COMMANDS:
                raise UsageError(f"{first} is rembg's word, and no command here", hint=in_our_words(args))
            for name in _COMMANDS:  # a slip of the pen is compared with those that are there
                self.get_command(ctx, name)
        return super().resolve_command(ctx, args)


app = typer.Typer(
    name="cutout",
    cls=_Commands,
    help="Remove the background of pictures.",
    epilog="Every option can be set in the environment: --device is CUTOUT_DEVICE, --on-collision CUTOUT_ON_COLLISION.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"cutout {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    _version: Annotated[
        bool, typer.Option("--version", "-V", help="Print the version and exit.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Remove the background of pictures."""


def _hush() -> None:
    """Keep what Pillow remarks on broken files off standard error: what matters is told in words of our own."""
    import logging
    import warnings

    warnings.filterwarnings("ignore", module=r"PIL\.")
    logging.getLogger("PIL").addHandler(logging.NullHandler())


def _is_here() -> bool:
    """Whether the current folder still exists; what is relative to it leads nowhere otherwise."""
    try:
        os.getcwd()  # noqa: PTH109 - as good, and nothing is done with it
    except FileNotFoundError:
        return False
    return True


def main() -> None:
    """Run the command line; the one place that turns errors into exit codes."""
    keep_small()
    console = Console(verbose=_asked("--verbose", "-v"))
    _hush()
    try:
        code = app(standalone_mode=False) or 0
    except KeyboardInterrupt:
        console.say("interrupted")
        code = ExitCode.INTERRUPTED
    except Exception as error:  # noqa: BLE001 - the last resort: a bug is told as one
        failure = _translated(error)
        code = failure.exit_code
        if failure.message:  # else the help was asked for
            console.error(failure)
            if _asked("--json"):
                _tell_programs(failure)
    sys.exit(code)


def _asked(*names: str) -> bool:
    """Whether a flag was given that must be known although parsing may have failed."""
    value = os.environ.get("CUTOUT_" + names[0].removeprefix("--").upper(), "")
    return value.strip().lower() not in {"", "0", "false", "no", "n", "f", "off"} or not set(names).isdisjoint(sys.argv)


def _translated(error: Exception) -> CutoutError:
    """Any exception as an error of ours; one without a message where the help has been shown."""
    if isinstance(error, CutoutError):
        return error
    if isinstance(error, _PARSER_ERROR):
        if type(error).__name__ == "NoArgsIsHelpError":
            return UsageError("")
        context: Any = getattr(error, "ctx", None)
        text = " ".join(error.format_message().replace("Value error, ", "").split()).removesuffix(".")
        return UsageError(text[:1].lower() + text[1:], hint=f"{context.command_path if context else 'cutout'} --help")
    if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EIO}:
        return OutputError(f"the output cannot be written: {error.strerror}")
    if isinstance(error, FileNotFoundError) and not _is_here():
        return UsageError("the current folder does not exist any more", hint="cd to one that does")
    from cutout.jobs.report import BugError

    return BugError.of(error)


def _tell_programs(error: CutoutError) -> None:
    """What `--json` prints of a failure outside of any picture."""
    from cutout.cli.console import emit_json, error_json
    from cutout.cli.run import emit_end
    from cutout.jobs.report import Report

    with contextlib.suppress(OutputError, BrokenPipeError):  # standard output may be what failed
        if sys.argv[1:2] == ["remove"]:
            emit_end(Report(total=0, error=error))
        else:
            emit_json({"event": "error", "error": error_json(error)})


def _interrupt(number: int, frame: FrameType | None) -> None:
    """End at once while modules are loaded, where Python would print some exceptions and go on; else unwind."""
    at = frame
    while at is not None:
        if at.f_code.co_filename.startswith("<frozen importlib"):
            os._exit(int(ExitCode.INTERRUPTED))
        at = at.f_back
    signal.default_int_handler(number, frame)


def command(leave: Callable[[int, Any], None] | None = None) -> None:
    """`main`, and the end of the process at once.

    Taking apart all that was loaded takes 40 ms, more than the encoding of many a picture, and is of no use.

    Args:
        leave: Handles signals before `main` begins and after it has ended, when no message is worth the trouble.
    """
    code = int(ExitCode.INTERRUPTED)
    with contextlib.suppress(KeyboardInterrupt):
        try:
            if leave is not None and signal.getsignal(signal.SIGINT) is leave:
                signal.signal(signal.SIGINT, _interrupt)
            main()
        except SystemExit as end:
            code = int(end.code or 0)
        if leave is not None and signal.getsignal(signal.SIGINT) is _interrupt:
            signal.signal(signal.SIGINT, leave)
    if any(not thread.daemon for thread in threading.enumerate() if thread is not threading.main_thread()):
        sys.exit(code)  # which waits for them
    atexit._run_exitfuncs()  # noqa: SLF001 - temporary folders of libraries, coverage
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:  # where the caller closed it
                stream.flush()
        except (OSError, ValueError):  # nobody is left to tell, and Python's own end says 120 too
            code = code or 120
    os._exit(code)
