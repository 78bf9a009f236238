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
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from cutout import __version__
from cutout.cli.console import Console
from cutout.errors import CutoutError, ExitCode, OutputError, UsageError
from cutout.output_formats import SUFFIXES
from cutout.system import keep_small

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

__all__ = ["app", "command", "main"]

_EPILOG = "Every option can be set in the environment: --device is CUTOUT_DEVICE, --on-collision CUTOUT_ON_COLLISION."


class _Commands(TyperGroup):
    """The commands; who leaves the command out before a picture is told which one is meant."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        first = args[0]
        means_input = first == "-" or os.path.lexists(first) or Path(first).suffix.lower() in SUFFIXES
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


def _remove(app: typer.Typer) -> None:
    from cutout.cli.remove import remove

    app.command("remove", no_args_is_help=True)(remove)


def _models(app: typer.Typer) -> None:
    from cutout.cli import models

    app.add_typer(models.app, name="models")


def _bench(app: typer.Typer) -> None:
    from cutout.cli.bench import bench

    app.command("bench")(bench)


def _compare(app: typer.Typer) -> None:
    from cutout.cli.compare import compare

    app.command("compare", no_args_is_help=True)(compare)


def _evaluate(app: typer.Typer) -> None:
    from cutout.cli.evaluate import evaluate

    app.command("eval", no_args_is_help=True)(evaluate)


def _doctor(app: typer.Typer) -> None:
    from cutout.cli.doctor import doctor

    app.command("doctor")(doctor)


def _serve(app: typer.Typer) -> None:
    from cutout.cli.serve import serve

    app.command("serve")(serve)


def _worker(app: typer.Typer) -> None:
    from cutout.cli.worker import worker

    app.command("worker")(worker)


_COMMANDS = {
    "remove": _remove,
    "models": _models,
    "bench": _bench,
    "compare": _compare,
    "eval": _evaluate,
    "doctor": _doctor,
    "serve": _serve,
    "worker": _worker,
}


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
        _COMMANDS[name](built)
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
        from cutout.jobs.report import BugError

        failure: CutoutError = BugError.of(error)
        if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EIO}:
            failure = OutputError(f"the output cannot be written: {error.strerror}")
        if isinstance(error, FileNotFoundError) and not _is_here():
            failure = UsageError("the current folder does not exist any more", hint="cd to one that does")
        console.error(failure)
        code = failure.exit_code
    else:
        code = ExitCode.OK
    sys.exit(code)


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
