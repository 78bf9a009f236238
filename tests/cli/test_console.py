"""What people see on standard error: only what was asked for, whatever a file is called and whoever listens."""

from __future__ import annotations

import io
import os
import pickle
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from cutout.cli.console import Console, Progress, dashed, error_json
from cutout.errors import PictureError, UsageError, printable
from cutout.jobs.plan import Job
from cutout.jobs.report import Outcome, Status
from cutout.output_formats import OutputFormat

if TYPE_CHECKING:
    from collections.abc import Callable

Capture = pytest.CaptureFixture[str]


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self._monkeypatch = monkeypatch

    def isatty(self) -> bool:
        return True

    def console(self, *, quiet: bool = False) -> Console:
        """A console whose standard error is this terminal, from now to the end of the test."""
        self._monkeypatch.setattr(sys, "stderr", self)
        return Console(quiet=quiet)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """A terminal that can do everything."""
    for name in ("NO_COLOR", "FORCE_COLOR", "COLORTERM"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    return Terminal(monkeypatch)


def outcome(
    status: Status = Status.DONE,
    *,
    name: str = "in/a.jpg",
    error: PictureError | None = None,
    warnings: tuple[str, ...] = (),
    ms: dict[str, float] | None = None,
) -> Outcome:
    job = Job(source=Path(name), target=Path("out/a.png"), output_format=OutputFormat.PNG)
    return Outcome(job=job, status=status, error=error, warnings=warnings, ms=ms or {})


BROKEN = PictureError("the file is broken", hint="copy it again")


class TestHowMuchIsSaid:
    def speak(self, console: Console) -> None:
        console.say("said")
        console.detail("detail")
        console.warn("warned")
        console.error(BROKEN)

    def test_by_default_all_but_details(self, capsys: Capture) -> None:
        self.speak(Console())
        assert capsys.readouterr().err == "said\nwarning: warned\nerror: the file is broken\n  try: copy it again\n"

    def test_verbose_also_details(self, capsys: Capture) -> None:
        self.speak(Console(verbose=True))
        assert "\ndetail\n" in capsys.readouterr().err

    @pytest.mark.parametrize("verbose", [False, True])
    def test_quiet_errors_alone(self, capsys: Capture, verbose: bool) -> None:
        self.speak(Console(quiet=True, verbose=verbose))
        assert capsys.readouterr().err == "error: the file is broken\n  try: copy it again\n"

    def test_nothing_ever_goes_to_standard_output(self, capsys: Capture) -> None:
        console = Console(verbose=True)
        self.speak(console)
        console.outcome(outcome(error=BROKEN, warnings=("odd",), ms={"load": 1.0}))
        with Progress(console, 20) as progress:
            for _ in range(20):
                progress.step()
        assert capsys.readouterr().out == ""


class TestOutcome:
    def test_a_success_is_not_worth_a_line(self, capsys: Capture) -> None:
        Console().outcome(outcome(ms={"load": 1.0}))
        assert capsys.readouterr().err == ""

    @pytest.mark.parametrize("name", ["in/a.jpg", "file", "e"])
    def test_a_failure_names_its_file(self, capsys: Capture, name: str) -> None:
        """Also a file whose name happens to be a part of the message."""
        Console().outcome(outcome(Status.FAILED, name=name, error=BROKEN))
        assert capsys.readouterr().err.splitlines()[0] == f"error: {name}: the file is broken"

    def test_many_that_fail_alike_are_given_one_hint(self, capsys: Capture) -> None:
        console = Console()
        for name in ("a.heic", "b.heic"):
            console.outcome(outcome(Status.FAILED, name=name, error=BROKEN))
        told = capsys.readouterr().err.splitlines()
        assert told == [
            "error: a.heic: the file is broken",
            "  try: copy it again",
            "error: b.heic: the file is broken",
        ]

    def test_a_warning_names_its_file(self, capsys: Capture) -> None:
        Console().outcome(outcome(warnings=("only the first of 3 frames was taken",)))
        assert capsys.readouterr().err == "warning: in/a.jpg: only the first of 3 frames was taken\n"

    def test_verbose_shows_stage_times(self, capsys: Capture) -> None:
        Console(verbose=True).outcome(outcome(ms={"load": 1.25, "inference": 200.0}))
        assert capsys.readouterr().err == "in/a.jpg → out/a.png  [ms] load 1.2  inference 200.0\n"

    def test_what_failed_is_not_told_as_if_it_had_been_written(self, capsys: Capture) -> None:
        Console(verbose=True).outcome(outcome(Status.FAILED, error=BROKEN, ms={"load": 1.25}))
        assert capsys.readouterr().err.splitlines()[-1] == "in/a.jpg  [ms] load 1.2"

    def test_a_traceback_is_shown_to_those_who_asked(self, capsys: Capture) -> None:
        def fail() -> PictureError:
            try:
                int("seven")
            except ValueError as error:
                failure = PictureError("broken")
                failure.__cause__ = error
                return failure
            raise AssertionError

        Console().outcome(outcome(Status.FAILED, error=fail()))
        assert "Traceback" not in capsys.readouterr().err
        Console(verbose=True).outcome(outcome(Status.FAILED, error=fail()))
        text = capsys.readouterr().err
        assert "Traceback (most recent call last)" in text
        assert "ValueError: invalid literal" in text


class TestNames:
    @pytest.mark.parametrize(
        ("name", "shown"),
        [
            ("a\x1b[2Jb.jpg", r"a\x1b[2Jb.jpg"),
            ("a\rb\x07\x7f.jpg", r"a\x0db\x07\x7f.jpg"),
            ("two\nlines.jpg", r"two\nlines.jpg"),
            ("\x9b31m.jpg", r"\x9b31m.jpg"),
            (b"bad\xff.jpg".decode("utf-8", "surrogateescape"), r"bad\udcff.jpg"),
            ("é 🐈 [red].jpg", "é 🐈 [red].jpg"),
        ],
    )
    def test_they_neither_command_the_terminal_nor_break_the_line(self, capsys: Capture, name: str, shown: str) -> None:
        assert printable(name) == shown
        console = Console(verbose=True)
        for say in (console.say, console.detail, console.warn):
            say(name)
        console.error(PictureError(name, hint=name))
        console.outcome(outcome(name=name, error=BROKEN))
        text = capsys.readouterr().err
        assert text.count(shown) == text.count("\n") - 1, "one to a line, but for one hint"

    def test_a_stream_that_cannot_write_them_gets_escapes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        written = io.BytesIO()
        stream = io.TextIOWrapper(written, encoding="latin-1")
        monkeypatch.setattr(sys, "stderr", stream)
        Console().say("é → 🐈")
        assert written.getvalue() == b"\xe9 \\u2192 \\U0001f408\n"


class TestWhoListens:
    def test_colour_on_a_terminal(self, terminal: Terminal) -> None:
        terminal.console().warn("odd")
        assert terminal.getvalue() == "\x1b[33mwarning:\x1b[0m odd\n"

    @pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
    def test_no_colour_where_it_is_not_wanted(
        self, terminal: Terminal, monkeypatch: pytest.MonkeyPatch, name: str, value: str
    ) -> None:
        monkeypatch.setenv(name, value)
        terminal.console().warn("odd")
        assert terminal.getvalue() == "warning: odd\n"

    def test_no_colour_in_a_file(self, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TERM", "xterm-256color")
        Console().error(BROKEN)
        assert "\x1b" not in capsys.readouterr().err

    def test_nobody_because_it_is_closed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "stderr", None)
        console = Console()
        console.error(BROKEN)
        with Progress(console, 20) as progress:
            progress.step()

    def test_nobody_because_the_disk_is_full(self, monkeypatch: pytest.MonkeyPatch) -> None:
        if not Path("/dev/full").exists():
            pytest.skip("no /dev/full here")
        stream = Path("/dev/full").open("w", encoding="utf-8")  # noqa: SIM115 - closing it fails
        monkeypatch.setattr(sys, "stderr", stream)
        Console().error(BROKEN)
        with pytest.raises(OSError, match="No space left"):
            stream.close()


class Clock:
    """A time that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The time as the progress sees it."""
    found = Clock()
    monkeypatch.setattr(time, "monotonic", found)
    return found


class TestProgressElsewhere:
    """On anything that is no terminal: few lines, each worth reading."""

    @pytest.fixture
    def run(self, capsys: Capture, clock: Clock) -> Callable[..., list[str]]:
        def run(total: int, *, seconds: float = 1.0, skipped: int = 0, quiet: bool = False) -> list[str]:
            with Progress(Console(quiet=quiet), total) as progress:
                for number in range(total):
                    clock.now += 0 if number < skipped else seconds
                    progress.step(skipped=number < skipped)
            return capsys.readouterr().err.splitlines()

        return run

    def test_a_line_at_every_tenth_of_a_long_way(self, run: Callable[..., list[str]]) -> None:
        lines = run(200)
        assert [line.split()[0] for line in lines] == [f"{done}/200" for done in range(20, 201, 20)]
        assert lines[0] == "20/200  1.0 pictures/s  180 s left"
        assert lines[-1] == "200/200  1.0 pictures/s  0 s left"

    @pytest.mark.parametrize(
        ("seconds", "left"), [(0.9, "162 s"), (1.5, "4 min"), (20.0, "1 h 0 min"), (25.0, "1 h 15 min")]
    )
    def test_the_time_left_is_told_as_people_count_it(
        self, run: Callable[..., list[str]], seconds: float, left: str
    ) -> None:
        (line,) = (line for line in run(200, seconds=seconds) if line.startswith("20/200 "))
        assert line.endswith(f" pictures/s  {left} left")

    def test_no_line_on_a_short_way(self, run: Callable[..., list[str]]) -> None:
        assert run(19) == []

    def test_a_line_every_half_a_minute_when_it_is_slow(self, run: Callable[..., list[str]]) -> None:
        assert [line.split()[0] for line in run(10, seconds=16)] == ["2/10", "4/10", "6/10", "8/10", "10/10"]

    def test_no_line_when_quiet(self, run: Callable[..., list[str]]) -> None:
        assert run(200, quiet=True) == []

    def test_skipped_files_say_nothing_of_the_speed(self, run: Callable[..., list[str]]) -> None:
        lines = run(200, seconds=0.5, skipped=100)
        assert lines[4] == "100/200", "nothing was done yet, so nobody knows"
        assert lines[5] == "120/200  2.0 pictures/s  40 s left"


class TestProgressOnATerminal:
    def test_a_bar_that_is_gone_at_the_end(self, terminal: Terminal) -> None:
        with Progress(terminal.console(), 3) as progress:
            for _ in range(3):
                progress.step()
        drawn = terminal.getvalue()
        assert "3/3" in drawn
        assert drawn.rindex("\x1b[2K") > drawn.rindex("3/3"), "its line is cleared"
        assert drawn.rindex("\x1b[?25h") > drawn.rindex("\x1b[?25l"), "the cursor is back"

    def test_the_time_left_goes_by_the_rate_beside_it(self, terminal: Terminal, clock: Clock) -> None:
        with Progress(terminal.console(), 26) as progress:
            for _ in range(2):
                clock.now += 1.5
                progress.step()
        assert "0.7 pictures/s  36 s" in terminal.getvalue()

    def test_lines_go_above_the_bar_as_they_are(self, terminal: Terminal) -> None:
        console = terminal.console()
        with Progress(console, 3) as progress:
            console.warn("[bold]x.jpg[/bold] is " + "long " * 40)
            progress.step()
        assert "[bold]x.jpg[/bold] is " + "long " * 39 + "long" in terminal.getvalue()

    def test_no_bar_for_one_picture(self, terminal: Terminal) -> None:
        with Progress(terminal.console(), 1) as progress:
            progress.step()
        assert terminal.getvalue() == ""

    def test_no_bar_when_quiet(self, terminal: Terminal) -> None:
        with Progress(terminal.console(quiet=True), 3) as progress:
            progress.step()
        assert terminal.getvalue() == ""

    def test_the_bar_goes_when_the_run_breaks(self, terminal: Terminal) -> None:
        console = terminal.console()

        def run() -> None:
            with Progress(console, 3) as progress:
                progress.step()
                raise RuntimeError("stop")

        with pytest.raises(RuntimeError, match="stop"):
            run()
        assert terminal.getvalue().rindex("\x1b[?25h") > terminal.getvalue().rindex("\x1b[?25l")
        terminal.truncate(0)
        console.say("after")
        assert terminal.getvalue().lstrip("\0") == "after\n"

    def test_an_end_at_once_gives_the_cursor_back(self, terminal: Terminal) -> None:
        console = terminal.console()
        with Progress(console, 3):
            hidden = len(terminal.getvalue())
            console.leave()
            assert "\x1b[?25h" in terminal.getvalue()[hidden:]


class TestTheEnd:
    """The process ends at once, but with all that ending means."""

    CODE = (
        "import atexit, sys, threading, time, cutout.cli as cli\n"
        "atexit.register(lambda: print('left in order'))\n"
        "def main():\n"
        "    print('said', end='')\n"
        "    {extra}\n"
        "    sys.exit(int(sys.argv[1]))\n"
        "cli.main = main\n"
        "cli.command()\n"
    )

    def end(self, code: int, extra: str = "pass", **settings: Any) -> subprocess.CompletedProcess[bytes]:
        command = [sys.executable, "-c", self.CODE.format(extra=extra), str(code)]
        environ = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
        return subprocess.run(command, check=False, timeout=60, env=environ, **settings)

    @pytest.mark.parametrize("code", [0, 3])
    def test_what_was_said_is_written_and_the_exit_code_kept(self, code: int) -> None:
        run = self.end(code, capture_output=True)
        assert (run.returncode, run.stderr) == (code, b"")
        assert run.stdout.decode().splitlines() == ["saidleft in order"]

    def test_a_thread_that_works_is_waited_for(self) -> None:
        work = "threading.Thread(target=lambda: (time.sleep(0.5), print('worked', end=''))).start()"
        assert b"worked" in self.end(0, work, capture_output=True).stdout

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
    def test_a_full_disk_is_no_success(self) -> None:
        with Path("/dev/full").open("wb") as full:
            assert self.end(0, stdout=full).returncode == 120

    def test_closed_streams_are_no_failure(self) -> None:
        assert self.end(0, "sys.stdout.close(); sys.stdout = None").returncode == 0


def test_a_plain_name_of_the_core_becomes_an_option_of_the_command_line() -> None:
    error = UsageError(
        "max_size is 'max_size', but it goes with crop, or canvas", hint="a smaller max_size", options=("max_size",)
    )
    assert error_json(error) == {
        "kind": "usage",
        "message": "--max-size is 'max_size', but it goes with crop, or canvas",
        "hint": "a smaller --max-size",
    }
    assert (
        dashed("a crop.png is there: crop, or mask it", ("crop", "mask")) == "a crop.png is there: --crop, or --mask it"
    )
    assert pickle.loads(pickle.dumps(error)).options == error.options
