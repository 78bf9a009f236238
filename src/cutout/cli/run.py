"""A planned run of `cutout remove`: what is printed, counted and interrupted."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

from cutout.cli.console import Console, Progress, dashed, emit_json, error_json
from cutout.enums import Precision
from cutout.errors import CutoutError, ExitCode, OutputError, PictureError, printable

if TYPE_CHECKING:
    from cutout.jobs.executors.base import Executor, Running, RunRequest
    from cutout.jobs.plan import Job, Plan
    from cutout.jobs.report import Outcome, Report

__all__ = ["Interrupt", "emit_end", "is_terminal", "print_plan", "run_plan"]


_NO_PICTURE = "there is no picture among the inputs"
_MOST_NAMED = 20
"""Failures that are named again at the end."""


def is_terminal(stream: Any) -> bool:
    """Whether a standard stream is open and a terminal."""
    return stream is not None and stream.isatty()  # None where the caller closed it


def print_plan(todo: Plan, console: Console, *, as_json: bool) -> None:
    """What would become what, on standard output."""
    from cutout.jobs.report import Outcome, Status
    from cutout.jobs.storage import emit

    _tell_ignored(todo, console, as_json=as_json)
    terminal = is_terminal(sys.stdout)
    for outcome in _unreadable(todo):
        console.outcome(outcome)
        if as_json:
            emit_json(_line(outcome))
    for job in todo.jobs:
        status = Status.SKIPPED if _is_there(job) else Status.PLANNED
        if as_json:
            emit_json(Outcome(job=job, status=status).as_json())
        else:
            note = "  (exists, skipped)" if status is Status.SKIPPED else ""
            line = f"{job.source_name} -> {job.target_name}{note}"
            emit(os.fsencode(printable(line) if terminal else line) + b"\n")
    total, ignored = len(todo.jobs) + len(todo.unreadable), len(todo.ignored) + len(todo.earlier)
    if not total:
        console.warn(_NO_PICTURE)
    if as_json:
        emit_json({"event": "plan", "total": total, "ignored": ignored})


def _tell_ignored(todo: Plan, console: Console, *, as_json: bool) -> None:
    """Files of the input folders that are left alone."""
    from cutout.jobs.report import with_bytes

    for path, reason in (
        *((path, "no picture") for path in todo.ignored),
        *((path, "earlier result") for path in todo.earlier),
    ):
        console.detail(f"{path}: ignored, {reason}")
        if as_json:
            emit_json(with_bytes({"event": "ignored", "input": str(path), "reason": reason}))


def _is_there(job: Job) -> bool:
    """Whether the job has nothing left to do."""
    from cutout.jobs.storage import is_settled

    try:
        return is_settled(job)
    except OutputError:  # something is in the way: doing the job will tell
        return False


def _line(outcome: Outcome) -> dict[str, Any]:
    return outcome.as_json() | ({} if outcome.error is None else {"error": error_json(outcome.error)})


def _unreadable(todo: Plan) -> list[Outcome]:
    """Folders that could not be walked, as failures like any other."""
    from cutout.jobs.report import Outcome, Status

    def error(reason: OSError) -> PictureError:
        message = f"the folder cannot be read, nor any picture in it: {reason.strerror or reason}"
        if reason.errno == errno.ENAMETOOLONG:
            return PictureError(message, hint="start from a folder further down: cd there and name . as the input")
        return PictureError(message, hint="change its permissions")

    return [Outcome(job=job, status=Status.FAILED, error=error(job.reason)) for job in todo.unreadable]


def run_plan(
    todo: Plan, request: RunRequest, executor: str, console: Console, *, as_json: bool, stop: threading.Event
) -> Report:
    """Do what was planned, and tell about it as it goes.

    Args:
        todo: The plan.
        request: What to do with each file.
        executor: A name of `EXECUTORS`.
        console: For people.
        as_json: Also JSON lines on standard output.
        stop: Ends the run early when it is set.
    """
    from cutout.atomic import sweep
    from cutout.jobs.executors.base import executor_named
    from cutout.jobs.report import Outcome, Report, Status

    start = time.monotonic()
    report = Report(total=len(todo.jobs) + len(todo.unreadable), ignored=len(todo.ignored), earlier=len(todo.earlier))
    _tell_ignored(todo, console, as_json=as_json)
    sweep({job.target.parent for job in todo.jobs if job.target is not None})
    waiting: list[Job] = []
    running: Running | None = None
    with Progress(console, report.total) as progress, contextlib.ExitStack() as opened:

        def record(outcome: Outcome) -> None:
            report.add(outcome)
            console.outcome(outcome)
            if as_json:
                emit_json(_line(outcome))
            progress.step(skipped=outcome.status is Status.SKIPPED)

        for outcome in _unreadable(todo):
            record(outcome)
        for job in todo.jobs:
            if _is_there(job):
                record(Outcome(job=job, status=Status.SKIPPED))
            else:
                waiting.append(job)
        if waiting:  # a run with nothing left to do opens no model
            workers = opened.enter_context(executor_named(executor)(request, console.warn))
            running = _open(workers, report, console)
        if running is not None:
            for outcome in workers.run((job for job in waiting if not _closed(job, report)), stop):
                record(outcome)
            report.interrupted = stop.is_set() and report.finished < report.total
    seconds = time.monotonic() - start
    if as_json:
        emit_end(report, seconds, running)
    _close(report, todo, console, seconds, "" if running is None else f", {_used(running)}")
    return report


def emit_end(report: Report, seconds: float = 0.0, running: Running | None = None) -> None:
    """The last lines for programs: what stopped the whole run, if anything did, and the summary."""
    if report.error is not None:
        emit_json({"event": "error", "error": error_json(report.error)})
    emit_json(report.as_json(seconds=seconds, running=running))


def _open(workers: Executor, report: Report, console: Console) -> Running | None:
    """What runs; None where nothing can, which the report then says."""
    try:
        running = workers.open()
    except CutoutError as error:
        report.error = error
        console.error(error)
        return None
    batches = f", batches of {running.batch}" if running.batch > 1 else ""
    console.detail(f"{_used(running)}, {running.workers} at a time{batches}")
    return running


def _used(running: Running) -> str:
    note = "" if running.precision is Precision.FULL else f" in {running.precision} precision"
    return f"{running.model} on {running.device} ({running.engine}){note}"


def _closed(job: Job, report: Report) -> bool:
    """Whether a job is left undone, as another one found out that nothing can be written there: a full disk, say."""
    from cutout.atomic import closed_to

    if job.target is None:
        return False
    for failure in report.blocks.values():
        if closed_to(failure, job.target):
            report.stopped = failure
            return True
    return False


def _close(report: Report, todo: Plan, console: Console, seconds: float, used: str) -> None:
    from cutout.jobs.report import Status

    if report.error is not None:
        return
    if not report.total:
        console.warn(_NO_PICTURE)
    elif todo.batch or report.interrupted or report.stopped:
        where = f" -> {folder}" if (folder := _output_folder(todo)) and report.counts[Status.DONE] else ""
        console.say(dashed(report.summary(seconds=seconds), ["existing"]) + used + where)
        if len(report.failures) > 1:
            for outcome in report.failures[:_MOST_NAMED]:
                console.say(f"failed: {outcome.job.source_name}")
            if len(report.failures) > _MOST_NAMED:
                console.say(f"failed: {len(report.failures) - _MOST_NAMED} more")
    elif report.counts[Status.DONE] and todo.jobs[0].target is not None:
        console.say(f"{todo.jobs[0].target_name}  ({seconds:.2f} s{used})")
    elif report.counts[Status.SKIPPED]:
        console.say(f"{todo.jobs[0].target_name} exists and was skipped")


def _output_folder(todo: Plan) -> str:
    """The folder that all results lie in or below; none where they lie beside their pictures all over the place."""
    folders = {str(job.target.parent) for job in todo.jobs if job.target is not None}
    try:
        return os.path.commonpath(folders) if folders else ""
    except ValueError:  # absolute and relative ones, or several drives
        return ""


class Interrupt:
    """Ctrl-C or SIGTERM ends a run in order: what was started is finished. The second one ends it at once."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._stop = threading.Event()
        self._before: dict[int, Any] = {}

    def __enter__(self) -> threading.Event:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._handle)
        return self._stop

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, _number: int, _frame: object) -> None:
        from cutout.jobs.storage import activity

        # a signal may arrive in the middle of a write to the same stream, which refuses a second one
        if self._stop.is_set() or activity.only_waits:  # what waits for input may wait for ever
            with contextlib.suppress(RuntimeError):
                self._console.leave()
            os._exit(int(ExitCode.INTERRUPTED))  # safe: unfinished outputs have no final name
        self._stop.set()
        with contextlib.suppress(RuntimeError):
            self._console.say("interrupted: finishing what was started; once more to stop at once")
