"""What became of one file, and of a run: counts, JSON, exit code."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from cutout.enums import Precision
from cutout.errors import CutoutError, ExitCode, OutputError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from cutout.jobs.executors.base import Running
    from cutout.jobs.plan import Job

__all__ = ["BugError", "Outcome", "Report", "Status", "with_bytes"]


class BugError(CutoutError):
    """An exception that nobody expected; the exception itself is its `__cause__`."""

    exit_code = ExitCode.BUG
    kind = "bug"

    @classmethod
    def of(cls, error: Exception) -> BugError:
        """The exception as a message for people."""
        from cutout import __version__

        bug = cls(
            f"this is a bug of cutout {__version__}: {type(error).__name__}: {error}",
            hint="please report it with the output of the same command and --verbose",
        )
        bug.__cause__ = error
        return bug


class Status(StrEnum):
    """How one file ended."""

    DONE = "done"
    SKIPPED = "skipped"
    """The output was there already."""
    FAILED = "failed"
    PLANNED = "planned"
    """Nothing was done: `--dry-run`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What became of one file.

    Attributes:
        job: The file.
        status: How it ended.
        error: Why it failed.
        warnings: Things a user should know about a file that did not fail.
        size: (width, height) of the output, of its first page if there are several.
        frames: Frames or pages of the output.
        ms: Milliseconds by stage.
    """

    job: Job
    status: Status
    error: CutoutError | None = None
    warnings: tuple[str, ...] = ()
    size: tuple[int, int] | None = None
    frames: int = 1
    ms: Mapping[str, float] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """One line of `--json`."""
        line: dict[str, Any] = {
            "event": "file",
            "input": self.job.source_name,
            "output": self.job.target_name,
            "status": self.status.value,
        }
        line = with_bytes(line)
        if self.error is not None:
            line["error"] = {"kind": self.error.kind, "message": self.error.message, "hint": self.error.hint}
        if self.warnings:
            line["warnings"] = list(self.warnings)
        if self.size is not None:
            line["width"], line["height"] = self.size
        if self.frames > 1:
            line["frames"] = self.frames
        if self.ms:
            line["ms"] = dict(self.ms)
        return line


def with_bytes(line: dict[str, Any]) -> dict[str, Any]:
    """A line of `--json`, with the names that JSON cannot hold once more as bytes."""
    names = {key: _percent(line[key]) for key in ("input", "output") if key in line}
    return line | {f"{key}_bytes": name for key, name in names.items() if name is not None}


def _percent(name: str) -> str | None:
    """A file's name that is no UTF-8, percent-encoded; None for any other, which JSON holds as it is."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return quote(os.fsencode(name))
    return None


class Report:
    """Counts of a run and the exit code that follows from them."""

    def __init__(self, *, total: int, ignored: int = 0, earlier: int = 0, error: CutoutError | None = None) -> None:
        self.total = total
        self.ignored = ignored
        self.earlier = earlier
        """Results of earlier runs that were left alone."""
        self.error = error
        """Why no file could be done at all."""
        self.interrupted = False
        self.stopped: OutputError | None = None
        """Why no more could be written where files were left undone."""
        self.counts: Counter[Status] = Counter()
        self.failures: list[Outcome] = []
        self.blocks: dict[tuple[int | None, Path | None], OutputError] = {}
        """Failures that every other output of the same disk or folder would meet, by that."""

    def add(self, outcome: Outcome) -> None:
        """Count one file; a failure is kept, to be named again at the end."""
        self.counts[outcome.status] += 1
        if outcome.status is Status.FAILED:
            self.failures.append(outcome)
        error = outcome.error
        if isinstance(error, OutputError) and (error.disk, error.folder) != (None, None):
            self.blocks.setdefault((error.disk, error.folder), error)

    @property
    def finished(self) -> int:
        """Files that have an outcome."""
        return self.counts.total()

    @property
    def exit_code(self) -> ExitCode:
        """0, 1 when a file failed, 70 when one failed by a bug of ours, 130 when interrupted, or that of `error`."""
        if self.error is not None:
            return self.error.exit_code
        if self.interrupted:
            return ExitCode.INTERRUPTED
        if any(isinstance(outcome.error, BugError) for outcome in self.failures):
            return ExitCode.BUG
        return ExitCode.SOME_FAILED if self.failures else ExitCode.OK

    def as_json(self, *, seconds: float, running: Running | None) -> dict[str, Any]:
        """The closing line of `--json`; a run with nothing left to do opened no model."""
        return {
            "event": "summary",
            "total": self.total,
            **{status.value: self.counts[status] for status in (Status.DONE, Status.SKIPPED, Status.FAILED)},
            "ignored": self.ignored + self.earlier,
            "not_started": self.total - self.finished,
            "interrupted": self.interrupted,
            **({} if self.stopped is None else {"stopped": self.stopped.cause}),
            "model": running.model if running else "",
            "device": running.device if running else "",
            "engine": running.engine if running else "",
            **({"precision": running.precision.value} if running and running.precision is not Precision.FULL else {}),
            "seconds": round(seconds, 3),
            "exit_code": int(self.exit_code),
            **({"batch": running.batch} if running and running.batch > 1 else {}),
        }

    def summary(self, *, seconds: float) -> str:
        """One line for people, which may name the option existing."""
        parts = [f"{self.counts[Status.DONE]} done"]
        parts += [
            f"{self.counts[status]} {word}"
            for status, word in (
                (Status.SKIPPED, "skipped (output exists; existing overwrite does them again)"),
                (Status.FAILED, "failed"),
            )
            if self.counts[status]
        ]
        if self.ignored:
            parts.append(f"{self.ignored} ignored (no pictures)")
        if self.earlier:
            parts.append(f"{self.earlier} ignored (earlier results)")
        line = f"{', '.join(parts)} in {seconds:.1f} s"
        if self.interrupted:
            line += f"; interrupted, {self.total - self.finished} left: run the same command again"
        elif self.stopped is not None:
            line += f"; stopped, {self.total - self.finished} left undone: {self.stopped.cause}"
            line += f", {self.stopped.hint}" if self.stopped.hint else ""
        return line
