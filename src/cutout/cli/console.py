"""What people see, on standard error: progress, warnings, errors; and lines of data, on standard output."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
import time
from typing import TYPE_CHECKING, Any

from cutout.errors import printable

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType
    from typing import Self

    from cutout.errors import CutoutError
    from cutout.jobs.report import Outcome

__all__ = ["Console", "Progress", "dashed", "emit_json", "emit_line", "error_json"]

_SPARSE_SECONDS = 30.0
_SPARSE_FILES = 20  # shorter runs need no lines in between


class Console:
    """Writes to standard error.

    Args:
        quiet: Errors only.
        verbose: Also stage times.
    """

    def __init__(self, *, quiet: bool = False, verbose: bool = False) -> None:
        self.quiet = quiet
        self.verbose = verbose
        self._stream: Any = sys.stderr  # None where the caller closed it
        self.terminal = self._stream is not None and self._stream.isatty() and os.environ.get("TERM") != "dumb"
        self.color = self.terminal and not os.environ.get("NO_COLOR")
        self._hints: set[str] = set()
        self.live: Any = None  # rich's console while a bar is drawn, so that lines go above it

    def say(self, text: str) -> None:
        """A line worth telling."""
        if not self.quiet:
            self._write(printable(text))

    def detail(self, text: str) -> None:
        """A line for `--verbose`."""
        if self.verbose and not self.quiet:
            self._write(printable(text))

    def warn(self, text: str) -> None:
        """Something a user should know, though the work goes on."""
        if not self.quiet:
            self._write(f"{self._paint('warning:', '33')} {printable(text)}")

    def error(self, error: CutoutError, *, subject: str = "") -> None:
        """What failed, and what to do next; shown even when quiet."""
        where = f"{subject}: " if subject else ""
        self._write(f"{self._paint('error:', '31;1')} " + printable(where + dashed(error.message, error.options)))
        if error.hint and error.hint not in self._hints:  # once is enough where many files fail alike
            self._hints.add(error.hint)
            self._write(f"  {self._paint('try:', '36')} {printable(dashed(error.hint, error.options))}")
        if self.verbose and error.__cause__ is not None:
            import traceback

            for line in "".join(traceback.format_exception(error.__cause__)).splitlines():
                self._write(printable(line))

    def outcome(self, outcome: Outcome) -> None:
        """A file's failure, warnings and, when verbose, stage times."""
        if outcome.error is not None:
            self.error(outcome.error, subject=outcome.job.source_name)
        for warning in outcome.warnings:
            self.warn(f"{outcome.job.source_name}: {warning}")
        if outcome.ms:
            times = "  ".join(f"{stage} {ms:.1f}" for stage, ms in outcome.ms.items())
            written = "" if outcome.error else f" → {outcome.job.target_name}"
            self.detail(f"{outcome.job.source_name}{written}  [ms] {times}")

    def leave(self) -> None:
        """Give the terminal back as it was, for an end that unwinds nothing."""
        if self.live is not None:
            self.live.show_cursor()

    def _paint(self, text: str, code: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self.color else text

    def _write(self, text: str) -> None:
        if self.live is not None:
            from rich.text import Text

            self.live.print(Text.from_ansi(text), soft_wrap=True)
            return
        if self._stream is None:
            return
        encoding = self._stream.encoding or "utf-8"
        text = text.encode(encoding, "backslashreplace").decode(encoding)  # a terminal without the arrow
        with contextlib.suppress(OSError):  # nobody listens: the exit code still tells
            self._stream.write(text + "\n")
            self._stream.flush()


def dashed(text: str, options: Iterable[str]) -> str:
    """A text of the core, which names options by their plain names, in the words of the command line."""
    for name in options:
        flag = "--" + name.replace("_", "-")
        text = re.sub(rf"(?<!\S){name}(?=[\s,;:]|$)", flag, text, count=1)  # of further ones, it may be another word
    return text


def error_json(error: CutoutError) -> dict[str, str | None]:
    """An error as `--json` tells it."""
    hint = None if error.hint is None else dashed(error.hint, error.options)
    return {"kind": error.kind, "message": dashed(error.message, error.options), "hint": hint}


def emit_line(text: str) -> None:
    """A line of data for people, on standard output."""
    from cutout.jobs.storage import emit

    emit(printable(text).encode() + b"\n")


def emit_json(line: dict[str, Any]) -> None:
    """A line of data for programs, in UTF-8; bytes of a name that are no text become U+FFFD."""
    from cutout.jobs.storage import emit

    text = json.dumps(line, ensure_ascii=False).encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    emit(text.encode() + b"\n")


class Progress:
    """A bar on a terminal, sparse lines elsewhere: at every tenth of the way, or every half a minute."""

    def __init__(self, console: Console, total: int) -> None:
        self._console = console
        self._total = total
        self._done = self._skipped = 0
        self._start = self._last_line = time.monotonic()
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Self:
        if self._console.terminal and not self._console.quiet and self._total > 1:
            self._bar = _bar(color=self._console.color)
            self._task = self._bar.add_task("", total=self._total, rate="")
            self._bar.start()
            self._console.live = self._bar.console
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._console.live = None
        if self._bar is not None:
            self._bar.stop()

    def step(self, *, skipped: bool = False) -> None:
        """One file is finished; a skipped one took no time and says nothing of the speed."""
        self._done += 1
        self._skipped += skipped
        now = time.monotonic()
        rate = (self._done - self._skipped) / max(now - self._start, 1e-9)
        if self._bar is not None:
            told = f"{rate:.1f} pictures/s  {self._left(rate)}" if rate else ""
            self._bar.update(self._task, advance=1, rate=told)
        elif self._tenth() or now - self._last_line > _SPARSE_SECONDS:
            self._last_line = now
            left = f"  {rate:.1f} pictures/s  {self._left(rate)} left" if rate else ""
            self._console.say(f"{self._done}/{self._total}{left}")

    def _left(self, rate: float) -> str:
        """Time left, as long as the rest takes at the rate that stands beside it."""
        seconds = round((self._total - self._done) / rate)
        if seconds <= 180:
            return f"{seconds} s"
        minutes = round(seconds / 60)
        return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"

    def _tenth(self) -> bool:
        """Whether this file passed a tenth of a long way."""
        return self._total >= _SPARSE_FILES and self._done * 10 // self._total != (self._done - 1) * 10 // self._total


def _bar(*, color: bool) -> Any:
    from rich import progress
    from rich.console import Console as RichConsole

    return progress.Progress(
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TextColumn("{task.fields[rate]}"),
        console=RichConsole(stderr=True, no_color=not color, highlight=False),
        transient=True,
    )
