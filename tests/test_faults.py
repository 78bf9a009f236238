"""What goes wrong while many pictures are done: broken ones, kills, signals, full disks, runs side by side.

The promise: every picture that can be done is done and whole, every other one is named, and running the same command
again finishes what is left.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import io
import json
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
import zipfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image
from small import half

from cutout.cli.console import Console
from cutout.cli.run import Interrupt
from cutout.enums import Existing, Precision
from cutout.errors import OutputError
from cutout.jobs.executors.base import Running
from cutout.jobs.executors.threads import in_threads
from cutout.jobs.plan import Job, plan
from cutout.jobs.report import BugError, Outcome, Report, Status
from cutout.jobs.worker import process
from cutout.options import Encoding, RemoveOptions
from cutout.output_formats import OutputFormat

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from conftest import Cutout

    from cutout.pipeline.remover import Remover

GOOD, BROKEN, IGNORED = 188, 12, 4


def save(image: Image.Image, path: Path, **settings: Any) -> None:
    """Write a picture in the format that its extension names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **settings)


def sixteen_bits(image: Image.Image) -> Image.Image:
    return Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)


def with_alpha(image: Image.Image) -> Image.Image:
    image = image.convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    return image


def turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


# Kinds of picture: extension, what becomes of an RGB image, how it is saved.
KINDS: tuple[tuple[str, Callable[[Image.Image], Image.Image], dict[str, Any]], ...] = (
    ("jpg", lambda image: image, {"quality": 85}),
    ("jpg", lambda image: image, {"progressive": True, "dpi": (300, 300)}),
    ("JPG", lambda image: image.convert("L"), {"format": "JPEG"}),
    ("jpeg", lambda image: image.convert("CMYK"), {}),
    ("jpg", lambda image: image, {"exif": turned()}),
    ("png", lambda image: image, {}),
    ("png", with_alpha, {}),
    ("png", lambda image: image.convert("P"), {}),
    ("png", lambda image: image.quantize(16), {"transparency": 3}),
    ("png", sixteen_bits, {}),
    ("png", lambda image: image.convert("1"), {}),
    ("png", lambda image: image.convert("LA"), {}),
    ("webp", lambda image: image, {}),
    ("webp", with_alpha, {"lossless": True}),
    ("tif", lambda image: image, {"compression": "tiff_lzw"}),
    ("tiff", lambda image: image.convert("CMYK"), {}),
    ("tiff", sixteen_bits, {}),
    ("bmp", lambda image: image, {}),
    ("gif", lambda image: image, {}),
    ("gif", lambda image: image, {"save_all": True, "append_images": [Image.new("RGB", (64, 64))]}),
    ("avif", lambda image: image, {}),
    ("avif", with_alpha, {}),
    ("ppm", lambda image: image, {}),
    ("jp2", lambda image: image, {}),
    ("dat", lambda image: image, {"format": "PNG"}),
    ("png", lambda image: image, {"format": "JPEG"}),
)


def good_pictures(folder: Path, examples: Path, count: int) -> list[Path]:
    """Small pictures of every kind, cut from the examples at chance, some folders deep."""
    chance = random.Random(1)
    sources = []
    for path in sorted(examples.glob("*.jpg")):
        with Image.open(path) as image:
            sources.append(image.convert("RGB").resize((256, 192)))
    found = []
    for number in range(count):
        extension, change, settings = KINDS[number % len(KINDS)]
        source = sources[number % len(sources)]
        width, height = chance.randint(24, 96), chance.randint(24, 96)
        left, top = chance.randint(0, 256 - width), chance.randint(0, 192 - height)
        path = folder / ("", "a", "a/b", "ü 🐈")[number % 4] / f"{number:03}.{extension}"
        save(change(source.crop((left, top, left + width, top + height))), path, **settings)
        found.append(path)
    return found


def png_header(width: int, height: int) -> bytes:
    """A PNG that promises so many pixels and holds none."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    )


def broken_pictures(folder: Path, whole: dict[str, Path]) -> list[Path]:
    """One of each way in which a picture can be none; `whole` has good ones by extension."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("cat.txt", "meow")
    contents = {
        "cut-jpg.jpg": whole["jpg"].read_bytes()[:-200],
        "cut-png.png": whole["png"].read_bytes()[:-200],
        "cut-webp.webp": whole["webp"].read_bytes()[:-100],
        "cut-avif.avif": whole["avif"].read_bytes()[:-100],
        "cut-tif.tif": whole["tif"].read_bytes()[:100],
        "empty.jpg": b"",
        "text.jpg": b"Dear diary, today I saw a cat.\n",
        "zip.png": archive.getvalue(),
        "garbage.png": b"\x89PNG\r\n\x1a\n" + random.Random(2).randbytes(500),
        "bomb.png": png_header(60_000, 60_000),
        "nothing.gif": b"GIF89a" + bytes(4) + b"\x80\0\0" + bytes(6) + b";",
    }
    paths = []
    for number, (name, content) in enumerate(contents.items()):
        path = folder / ("", "a", "broken")[number % 3] / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        paths.append(path)
    (folder / "gone.jpg").symlink_to("nowhere.jpg")
    return [*paths, folder / "gone.jpg"]


class Batch:
    """A folder of good pictures, 200 where not said, 12 broken ones, and four things that are none."""

    def __init__(self, folder: Path, examples: Path, good: int = GOOD) -> None:
        self.folder = folder / "in"
        self.good = good_pictures(self.folder, examples, good)
        kinds = [extension for extension, _, _ in KINDS]
        self.broken = broken_pictures(self.folder, {kind: self.good[kinds.index(kind)] for kind in kinds})
        (self.folder / "notes.txt").write_text("no picture")
        (self.folder / "a" / ".DS_Store").write_bytes(bytes(100))
        (self.folder / "a" / "circle").symlink_to("..")
        os.mkfifo(self.folder / "pipe.jpg")

    def expected(self, out: Path) -> set[Path]:
        """All that a finished run leaves behind."""
        return {out / path.relative_to(self.folder).with_suffix(".png") for path in self.good}


@pytest.fixture(scope="module")
def batch(tmp_path_factory: pytest.TempPathFactory, examples: Path) -> Batch:
    """The judged batch."""
    return Batch(tmp_path_factory.mktemp("batch"), examples)


def environ(home: Path) -> dict[str, str]:
    """An environment without the user's settings, for runs that outlive one test."""
    mine = {name: value for name, value in os.environ.items() if not name.startswith(("CUTOUT_", "U2NET", "REMBG"))}
    return {**mine, "HOME": str(home), "CUTOUT_HOME": str(home / "cutout")}


class Finished:
    """A run of the judged batch, from begin to end."""

    def __init__(self, batch: Batch, folder: Path, *args: str | Path) -> None:
        self.batch, self.settings, self.good = batch, args, len(batch.good)
        self.out = folder / "out"
        self.args = ("remove", str(batch.folder), "-o", str(self.out), "--json", "--max-size", "64", *map(str, args))
        done = subprocess.run(
            [sys.executable, "-m", "cutout", *self.args],
            capture_output=True,
            env=environ(folder),
            check=False,
            timeout=300,
        )
        self.code, self.err = done.returncode, done.stderr.decode()
        *lines, self.summary = [json.loads(line) for line in done.stdout.splitlines()]
        self.lines = [line for line in lines if line["event"] != "ignored"]
        self.ignored = [line["input"] for line in lines if line["event"] == "ignored"]


@pytest.fixture(scope="module")
def quick(batch: Batch, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """The judged batch, done by the model that takes no time, never interrupted."""
    return Finished(batch, tmp_path_factory.mktemp("quick"), "-j", "2", "--model", model)


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory, examples: Path) -> Finished:
    """Every kind of picture once and all the broken ones, done by the real model."""
    batch = Batch(tmp_path_factory.mktemp("kinds"), examples, good=len(KINDS))
    return Finished(batch, tmp_path_factory.mktemp("real"), "--device", "cpu", "-j", "2")


@pytest.fixture(params=["real", "quick"])
def judged(request: pytest.FixtureRequest) -> Finished:
    """What is promised of either run: the real model's, and that of 200 pictures."""
    found: Finished = request.getfixturevalue(request.param)
    return found


def files(folder: Path) -> set[Path]:
    """All files below, unfinished ones too."""
    return {path for path in folder.rglob("*") if not path.is_dir()}


def contents(folder: Path) -> dict[str, bytes]:
    """All files below with their bytes."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in files(folder)}


class TestJudgedBatch:
    def test_what_can_be_done_is_done_and_what_cannot_is_named(self, judged: Finished) -> None:
        assert judged.code == 1
        by_status: dict[str, set[str]] = {"done": set(), "failed": set()}
        for line in judged.lines:
            by_status[line["status"]].add(line["input"])
        assert by_status["failed"] == set(map(str, judged.batch.broken))
        assert by_status["done"] == set(map(str, judged.batch.good))
        assert len(judged.lines) == judged.good + BROKEN
        assert len(set(judged.ignored)) == IGNORED

    def test_the_summary_agrees(self, judged: Finished) -> None:
        assert {**judged.summary, "seconds": 0} == {
            "event": "summary",
            "total": judged.good + BROKEN,
            "done": judged.good,
            "skipped": 0,
            "failed": BROKEN,
            "ignored": IGNORED,
            "not_started": 0,
            "interrupted": False,
            "model": "u2netp" if judged.settings[0] == "--device" else "brightness",
            "device": "cpu",
            "engine": "onnxruntime",
            "seconds": 0,
            "exit_code": 1,
        }

    def test_the_files_are_those_that_are_told_of_and_no_others(self, judged: Finished) -> None:
        told = {Path(line["output"]) for line in judged.lines if line["status"] == "done"}
        assert told == files(judged.out) == judged.batch.expected(judged.out)

    def test_every_file_is_whole_and_of_the_size_that_is_told(self, judged: Finished) -> None:
        for line in judged.lines:
            if line["status"] == "done":
                with Image.open(line["output"]) as image:
                    image.load()
                    assert (image.format, image.mode) == ("PNG", "RGBA")
                    assert image.size == (line["width"], line["height"])
                    assert max(image.size) <= 64

    def test_every_failure_says_why_and_what_to_do_in_words(self, judged: Finished) -> None:
        errors = {Path(line["input"]).name: line["error"] for line in judged.lines if "error" in line}
        assert {error["kind"] for error in errors.values()} == {"picture"}
        words = {
            "empty.jpg": "the file is empty",
            "bomb.png": "60000×60000",
            "text.jpg": "not a picture",
            "zip.png": "not a picture",
            "gone.jpg": "No such file",
        }
        for name, text in words.items():
            assert text in errors[name]["message"]
        for path in judged.batch.broken:
            assert f"error: {path}: {errors[path.name]['message']}" in judged.err
        assert "Traceback" not in judged.err
        assert f"{judged.good} done, {BROKEN} failed, {IGNORED} ignored" in judged.err

    def test_progress_is_sparse_where_there_is_no_terminal(self, quick: Finished) -> None:
        lines = [line for line in quick.err.splitlines() if "pictures/s" in line]
        assert [line.split()[0] for line in lines if line.split()[0] in {"20/200", "100/200", "200/200"}] == [
            "20/200",
            "100/200",
            "200/200",
        ]

    def test_a_result_does_not_depend_on_its_neighbours(self, cutout: Cutout, judged: Finished, tmp_path: Path) -> None:
        """The same pictures without a broken one among them, as many at a time."""
        for path in judged.batch.good[5 : 5 + max(4, os.cpu_count() or 1)]:
            (tmp_path / "in").mkdir(exist_ok=True)
            shutil.copy(path, tmp_path / "in")
        run = cutout("remove", tmp_path / "in", "-o", tmp_path / "out", "--max-size", "64", *judged.settings)
        assert run.code == 0
        everything = {path.name: path.read_bytes() for path in files(judged.out)}
        for path in files(tmp_path / "out"):
            assert path.read_bytes() == everything[path.name], path.name


@contextlib.contextmanager
def started(cutout: Cutout, *args: str | Path) -> Iterator[subprocess.Popen[bytes]]:
    """A run that cannot get far ahead of whoever reads its JSON lines: the pipe between them is small."""
    child = cutout.start(*args)
    assert child.stdout is not None
    assert child.stderr is not None
    fcntl.fcntl(child.stdout, fcntl.F_SETPIPE_SZ, 4096)
    try:
        yield child
    finally:
        child.kill()
        child.wait()
        child.stdout.close()
        child.stderr.close()


def wait_until_it_waits(child: subprocess.Popen[bytes]) -> None:
    """Until the pipe is full, so that the run cannot end by itself."""
    assert child.stdout is not None
    before = -1
    while (unread := struct.unpack("i", fcntl.ioctl(child.stdout, termios.FIONREAD, bytes(4)))[0]) < 3000:
        assert child.poll() is None, "it ended before the pipe was full"
        assert unread >= before
        before = unread
        time.sleep(0.01)


def read(child: subprocess.Popen[bytes], count: int = -1) -> list[dict[str, Any]]:
    """So many JSON lines, or all that are left; without those of files that are left alone."""
    assert child.stdout is not None
    lines = child.stdout if count < 0 else (child.stdout.readline() for _ in range(count))
    return [told for line in lines if (told := json.loads(line))["event"] != "ignored"]


class TestKill:
    def test_a_killed_run_is_finished_by_the_same_command_byte_for_byte(
        self, cutout: Cutout, batch: Batch, quick: Finished, model: Path, tmp_path: Path
    ) -> None:
        out = tmp_path / "out"
        args = ("remove", batch.folder, "-o", out, "--json", "--max-size", "64", "-j", "2", "--model", model)
        with started(cutout, *args) as child:
            read(child, 100)
            child.send_signal(signal.SIGKILL)
            assert child.wait(60) == -signal.SIGKILL
        reference = contents(quick.out)
        finished = {path for path in files(out) if path.suffix == ".png"}
        assert 80 < len(finished) < GOOD
        for path in finished:
            assert path.read_bytes() == reference[str(path.relative_to(out))], "a final name is never half written"

        leftover = out / ".half.png.0123abcd.cutout-part"  # as a kill in the middle of a write leaves
        leftover.write_bytes(b"half")
        again = cutout(*args)
        assert again.code == 1
        assert again.lines[-1]["skipped"] == len(finished)
        assert again.lines[-1]["done"] == GOOD - len(finished)
        assert again.lines[-1]["failed"] == BROKEN
        assert contents(out) == reference
        assert files(out) == batch.expected(out), "and nothing is left over"

    def test_so_is_one_of_the_real_model(self, cutout: Cutout, batch: Batch, tmp_path: Path) -> None:
        for path in batch.good[10:16]:
            (tmp_path / "in").mkdir(exist_ok=True)
            shutil.copy(path, tmp_path / "in")
        args = ("remove", tmp_path / "in", "--json", "--max-size", "64", "-j", "2", "--device", "cpu", "-o")
        assert cutout(*args, tmp_path / "whole").code == 0
        with started(cutout, *args, tmp_path / "killed") as child:
            read(child, 2)
            child.send_signal(signal.SIGKILL)
            child.wait(60)
        assert len(files(tmp_path / "killed")) < 6
        assert cutout(*args, tmp_path / "killed").code == 0
        assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


class TestSignals:
    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_what_was_started_is_finished_the_rest_is_left_for_the_next_run(
        self, cutout: Cutout, batch: Batch, quick: Finished, model: Path, tmp_path: Path, number: int
    ) -> None:
        out = tmp_path / "out"
        args = ("remove", batch.folder, "-o", out, "--json", "--max-size", "64", "-j", "2", "--model", model)
        with started(cutout, *args) as child:
            lines = read(child, 30)
            child.send_signal(number)
            lines += read(child)
            assert child.wait(60) == 130
            assert child.stderr is not None
            told = child.stderr.read().decode()
        *lines, summary = lines
        assert summary["interrupted"] is True
        assert summary["exit_code"] == 130
        assert summary["not_started"] == GOOD + BROKEN - len(lines) > 0
        assert "interrupted: finishing what was started" in told
        assert f"interrupted, {summary['not_started']} left: run the same command again" in told
        assert "Traceback" not in told
        done = {Path(line["output"]) for line in lines if line["status"] == "done"}
        assert files(out) == done, "all that was started is finished, and nothing else is there"

        again = cutout(*args)
        assert again.lines[-1]["skipped"] == len(done)
        assert again.lines[-1]["interrupted"] is False
        assert contents(out) == contents(quick.out)

    def test_the_second_one_ends_it_at_once(
        self, cutout: Cutout, batch: Batch, quick: Finished, model: Path, tmp_path: Path
    ) -> None:
        out = tmp_path / "out"
        with started(
            cutout, "remove", batch.folder, "-o", out, "--json", "--max-size", "64", "-j", "2", "--model", model
        ) as child:
            wait_until_it_waits(child)
            child.send_signal(signal.SIGINT)
            assert child.stderr is not None
            assert any(b"once more to stop at once" in line for line in iter(child.stderr.readline, b""))
            child.send_signal(signal.SIGINT)
            assert child.wait(60) == 130
        reference = contents(quick.out)
        for name, data in contents(out).items():
            assert name.endswith(".cutout-part") or data == reference[name]

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_a_run_that_only_waits_for_input_ends_at_the_first(
        self, cutout: Cutout, model: Path, tmp_path: Path, number: signal.Signals
    ) -> None:
        """`timeout` sends one signal, and nothing is lost where no picture has arrived."""
        pipe = tmp_path / "pipe.jpg"
        os.mkfifo(pipe)
        with started(cutout, "remove", pipe, "-o", tmp_path / "a.png", "--model", model) as child:
            writer = os.open(pipe, os.O_WRONLY)  # returns when the run has opened the other end
            child.send_signal(number)
            assert child.wait(timeout=60) == 130
            os.close(writer)
        assert not (tmp_path / "a.png").exists()

    def test_one_that_comes_too_late_changes_nothing(self) -> None:
        """In a process of its own: a signal that nobody takes would end the tests."""
        code = (
            "import os, signal\n"
            "from cutout.cli.console import Console\n"
            "from cutout.cli.run import Interrupt\n"
            "with Interrupt(Console(quiet=True)) as stop:\n"
            "    os.kill(os.getpid(), signal.SIGTERM)\n"
            "    assert stop.wait(10)\n"
        )
        subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
        report = Report(total=1)
        report.add(outcome(Status.DONE))
        report.interrupted = report.finished < report.total
        assert report.exit_code == 0

    def test_the_handlers_are_given_back(self) -> None:
        before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
        with Interrupt(Console(quiet=True)):
            assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] != before
        assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before

    def test_one_in_the_middle_of_a_message_is_no_bug(self) -> None:
        """Python refuses to write to a stream from a handler that interrupts a write to it."""
        code = (
            "import os, signal\n"
            "from cutout.cli.console import Console\n"
            "from cutout.cli.run import Interrupt\n"
            "class Busy(Console):\n"
            "    def say(self, text):\n"
            "        raise RuntimeError('reentrant call inside <_io.BufferedWriter>')\n"
            "with Interrupt(Busy()) as stop:\n"
            "    os.kill(os.getpid(), signal.SIGINT)\n"
            "    assert stop.wait(10)\n"
        )
        subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


class TestSideBySide:
    def test_two_runs_over_one_folder_both_end_well(
        self, cutout: Cutout, batch: Batch, quick: Finished, model: Path, tmp_path: Path
    ) -> None:
        for path in batch.good[:60]:
            target = tmp_path / "in" / path.relative_to(batch.folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
        out = tmp_path / "out"
        args = ("remove", tmp_path / "in", "-o", out, "--json", "--max-size", "64", "-j", "2", "--model", model)
        with started(cutout, *args) as one, started(cutout, *args) as two:
            # read in turns, so that they stay side by side
            first, second = read(one, 1), read(two, 1)
            first += read(one, 20)
            second += read(two)
            first += read(one)
            assert (one.wait(60), two.wait(60)) == (0, 0)
        for *lines, summary in (first, second):
            assert summary["done"] + summary["skipped"] == summary["total"] == len(lines) == 60
        # neither counts a picture as its own that the other one wrote
        assert first[-1]["done"] + second[-1]["done"] == 60
        reference = contents(quick.out)
        found = contents(out)
        assert len(found) == 60
        for name, data in found.items():
            assert data == reference[name]

    def test_a_run_never_sweeps_what_another_one_is_writing(self, tmp_path: Path, cutout: Cutout, model: Path) -> None:
        half(tmp_path / "in" / "a.png")
        out = tmp_path / "out"
        out.mkdir()
        part = out / ".b.png.0123abcd.cutout-part"
        with part.open("wb") as file:
            file.write(b"half of it")
            file.flush()
            fcntl.flock(file, fcntl.LOCK_EX)
            assert cutout("remove", tmp_path / "in", "-o", out, "--model", model).code == 0
            assert part.read_bytes() == b"half of it"
        assert cutout("remove", tmp_path / "in", "-o", out, "--model", model).code == 0
        assert [path.name for path in out.iterdir()] == ["a.png"]


class TestChangesMeanwhile:
    def test_an_input_that_vanishes_is_named_and_the_others_are_done(
        self, cutout: Cutout, model: Path, tmp_path: Path
    ) -> None:
        for number in range(60):
            half(tmp_path / "in" / f"{number:02}.png")
        args = ("remove", tmp_path / "in", "-o", tmp_path / "out", "--json", "-j", "2", "--model", model)
        with started(cutout, *args) as child:
            lines = read(child, 5)
            (tmp_path / "in" / "59.png").unlink()
            lines += read(child)
            assert child.wait(60) == 1
        failed = [line for line in lines[:-1] if line["status"] == "failed"]
        assert [Path(line["input"]).name for line in failed] == ["59.png"]
        assert "moved since" in failed[0]["error"]["hint"]
        assert lines[-1]["done"] == 59

    def test_an_output_folder_that_vanishes_is_made_again(self, cutout: Cutout, model: Path, tmp_path: Path) -> None:
        for number in range(60):
            half(tmp_path / "in" / f"{number:02}.png")
        args = ("remove", tmp_path / "in", "-o", tmp_path / "out", "--json", "-j", "2", "--model", model)
        with started(cutout, *args) as child:
            read(child, 5)
            (tmp_path / "out").rename(tmp_path / "moved")
            read(child)
            assert child.wait(60) in {0, 1}, "one write may have been caught in between"
        assert (tmp_path / "out" / "59.png").is_file()


class TestScarcity:
    def test_a_disk_that_becomes_full_is_told_and_the_run_goes_on_when_there_is_space(
        self, cutout: Cutout, model: Path, tmp_path: Path
    ) -> None:
        disk = tmp_path / "disk"
        disk.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(disk)]
        if subprocess.run(mount, capture_output=True, check=False).returncode:
            pytest.skip("no right to mount a small file system")
        try:
            for number in range(6):
                noise = np.random.default_rng(number).integers(0, 256, (300, 300, 3), np.uint8)
                save(Image.fromarray(noise), tmp_path / "in" / f"{number}.png")
            args = (
                "remove",
                tmp_path / "in",
                "-o",
                disk / "out",
                "--json",
                "--model",
                model,
                "-f",
                "tiff",
                "-b",
                "red",
            )
            first = cutout(*args)
            assert first.code == 1
            done = {Path(line["output"]) for line in first.lines[:-1] if line["status"] == "done"}
            assert 0 < len(done) < 6
            assert files(disk) == done, "no half of a file is left"
            for line in first.lines[:-1]:
                if line["status"] == "failed":
                    assert "cannot be written: the disk is full" in line["error"]["message"]
                    assert line["error"]["kind"] == "output"
            subprocess.run(["mount", "-o", "remount,size=9m", str(disk)], check=True)
            second = cutout(*args)
            assert second.code == 0
            assert second.lines[-1]["skipped"] == len(done)
            assert len(files(disk)) == 6
            for path in files(disk):
                with Image.open(path) as image:
                    image.load()
        finally:
            subprocess.run(["umount", str(disk)], check=True)

    def test_a_file_larger_than_any_picture_is_not_read(self, cutout: Cutout, model: Path, tmp_path: Path) -> None:
        half(tmp_path / "in" / "a.png")
        with (tmp_path / "in" / "huge.jpg").open("wb") as file:
            file.write(b"\xff\xd8\xff\xe0")
            file.truncate(1 << 40)
        done = cutout("remove", tmp_path / "in", "-o", tmp_path / "out", "--model", model)
        assert done.code == 1
        assert "huge.jpg: the file has 1099.5 GB" in done.err
        assert (tmp_path / "out" / "a.png").is_file()


def outcome(status: Status, job: Job | None = None) -> Outcome:
    return Outcome(job=job or Job(source=None, target=None, output_format=OutputFormat.PNG), status=status)


class TestProcess:
    """One file from begin to end; nothing is raised, whatever happens."""

    def process(self, path: Path, target: Path, remover: Remover, existing: Existing = Existing.SKIP) -> Outcome:
        job = Job(source=path, target=target, output_format=OutputFormat.PNG, existing=existing)
        return process(job, remover, RemoveOptions(), Encoding())

    @pytest.mark.parametrize(
        ("raised", "kind", "words"),
        [
            (MemoryError(), "picture", "not enough memory"),
            (ZeroDivisionError("nobody thought of this"), "bug", "ZeroDivisionError: nobody thought of this"),
        ],
    )
    def test_what_nobody_expected_is_an_outcome(
        self,
        remover: Remover,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        raised: Exception,
        kind: str,
        words: str,
    ) -> None:
        def cut(*_: object, **__: object) -> None:
            raise raised

        monkeypatch.setattr(type(remover), "cut", cut)
        found = self.process(half(tmp_path / "a.png"), tmp_path / "out.png", remover)
        assert found.status is Status.FAILED
        assert found.error is not None
        assert (found.error.kind, words in found.error.message) == (kind, True)
        assert not (tmp_path / "out.png").exists()

    @pytest.mark.parametrize(
        ("existing", "status"),
        [(Existing.SKIP, Status.SKIPPED), (Existing.FAIL, Status.FAILED), (Existing.OVERWRITE, Status.DONE)],
    )
    def test_an_output_that_comes_to_exist_meanwhile(
        self, remover: Remover, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, existing: Existing, status: Status
    ) -> None:
        target, real = tmp_path / "out.png", type(remover).cut

        def cut(*args: Any, **words: Any) -> Any:
            target.write_text("of another run")
            return real(*args, **words)

        monkeypatch.setattr(type(remover), "cut", cut)
        found = self.process(half(tmp_path / "a.png"), target, remover, existing)
        assert found.status is status
        assert (target.read_bytes() == b"of another run") is (status is not Status.DONE)

    def test_a_folder_is_no_picture(self, remover: Remover, tmp_path: Path) -> None:
        (tmp_path / "a.png").mkdir()
        found = self.process(tmp_path / "a.png", tmp_path / "out.png", remover)
        assert found.error is not None
        assert "Is a directory" in found.error.message


class TestRun:
    def jobs(self, count: int) -> list[Job]:
        return [Job(source=Path(f"{n}.png"), target=None, output_format=OutputFormat.PNG) for n in range(count)]

    def test_every_job_has_its_outcome(self) -> None:
        jobs = self.jobs(50)
        found = list(in_threads(jobs, lambda job: outcome(Status.DONE, job), workers=4))
        assert sorted(found_one.job.source_name for found_one in found) == sorted(job.source_name for job in jobs)

    def test_no_more_than_the_asked_for_number_at_once(self) -> None:
        lock, now, most = threading.Lock(), 0, 0
        together = threading.Barrier(3, timeout=30)

        def work(job: Job) -> Outcome:
            nonlocal now, most
            with lock:
                now += 1
                most = max(most, now)
            together.wait()  # and no fewer either
            with lock:
                now -= 1
            return outcome(Status.DONE, job)

        assert len(list(in_threads(self.jobs(12), work, workers=3))) == 12
        assert most == 3

    def test_jobs_are_taken_one_by_one(self) -> None:
        taken: list[int] = []

        def endless() -> Iterator[Job]:
            for number in range(1_000_000):
                taken.append(number)
                yield Job(source=Path(str(number)), target=None, output_format=OutputFormat.PNG)

        outcomes = in_threads(endless(), lambda job: outcome(Status.DONE, job), workers=2)
        for _ in range(5):
            next(outcomes)
        assert len(taken) < 20
        outcomes.close()  # type: ignore[attr-defined]

    def test_nothing_is_started_after_the_stop(self) -> None:
        stop, begun = threading.Event(), []

        def work(job: Job) -> Outcome:
            begun.append(job)
            if len(begun) == 3:
                stop.set()
            return outcome(Status.DONE, job)

        found = list(in_threads(self.jobs(50), work, workers=2, stop=stop))
        assert len(found) == len(begun) <= 5


class TestReport:
    def report(self, *outcomes: Outcome, total: int) -> Report:
        report = Report(total=total)
        for each in outcomes:
            report.add(each)
        return report

    def test_exit_codes(self) -> None:
        job = Job(source=None, target=None, output_format=OutputFormat.PNG)
        done, skipped = outcome(Status.DONE), outcome(Status.SKIPPED)
        failed = Outcome(job=job, status=Status.FAILED, error=OutputError("full"))
        bug = Outcome(job=job, status=Status.FAILED, error=BugError.of(ZeroDivisionError()))
        assert self.report(done, skipped, total=2).exit_code == 0
        assert self.report(done, failed, total=2).exit_code == 1
        assert self.report(failed, bug, total=2).exit_code == 70
        report = self.report(failed, bug, total=3)
        report.interrupted = True
        assert report.exit_code == 130

    def test_what_was_not_started_is_counted(self) -> None:
        running = Running(model="m", device="cpu", engine="mnn", precision=Precision.FULL, batch=1, workers=2)
        line = self.report(outcome(Status.DONE), total=5).as_json(seconds=1.23456, running=running)
        assert (line["not_started"], line["seconds"]) == (4, 1.235)


def test_a_failure_that_is_kept_does_not_keep_its_picture(remover: Remover, examples: Path, tmp_path: Path) -> None:
    """A run keeps its failures to the end, to name them again: many broken pictures must not fill the memory."""
    size = (640, 320)
    broken = tmp_path / "broken.jpg"
    buffer = io.BytesIO()
    with Image.open(examples / "coffee.jpg") as image:
        image.resize(size).save(buffer, "JPEG")
    broken.write_bytes(buffer.getvalue()[: len(buffer.getvalue()) * 2 // 3])
    job = plan([str(broken)], str(tmp_path / "out.png")).jobs[0]
    kept = process(job, remover, RemoveOptions(), Encoding())
    assert kept.error is not None
    assert kept.error.__traceback__ is not None, "for --verbose"
    gc.collect()
    assert not [found for found in gc.get_objects() if isinstance(found, Image.Image) and found.size == size]


class TestTheFirstMoments:
    """A signal may arrive before anything is loaded: it ends the run quietly, whenever it comes."""

    WAIT_FOR_A_MODULE = """
import builtins, importlib, os, sys, time
def slow(real):
    def slowly(name, *args, **settings):
        if name == {module!r} and not os.path.exists('told'):
            open('told', 'w').close()
            print('loading', flush=True)
            time.sleep(5)
        return real(name, *args, **settings)
    return slowly
builtins.__import__, importlib.import_module = slow(builtins.__import__), slow(importlib.import_module)
sys.argv = ['cutout', *sys.argv[1:]]
import runpy
runpy.run_module('cutout', run_name='__main__')
"""

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    @pytest.mark.parametrize("module", ["cutout.cli", "typer", "cutout.cli.remove", "cutout.jobs.plan", "numpy", "PIL"])
    def test_while_modules_are_loaded(
        self, tmp_path: Path, model: Path, number: signal.Signals, module: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        half(tmp_path / "a.png")
        child = subprocess.Popen(
            [sys.executable, "-c", self.WAIT_FOR_A_MODULE.format(module=module), "remove", "a.png", "-m", str(model)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert child.stdout is not None
        assert child.stdout.readline() == b"loading\n"
        child.send_signal(number)
        _, told = child.communicate(timeout=60)
        if b"interrupted" in told:  # by then the run has begun
            assert b"Traceback" not in told
        else:
            assert told == b""
        assert child.returncode == 130

    def test_a_signal_that_is_ignored_stays_ignored(self, tmp_path: Path, model: Path) -> None:
        """As for a process that a script starts in the background."""
        half(tmp_path / "a.png")
        code = self.WAIT_FOR_A_MODULE.format(module="cutout.cli").replace("time.sleep(5)", "os.kill(os.getpid(), 2)")
        run = subprocess.run(
            [sys.executable, "-c", code, "remove", "a.png", "-m", str(model), "-d", "cpu"],
            cwd=tmp_path,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
            capture_output=True,
            check=False,
            timeout=60,
        )
        assert run.returncode == 0, run.stderr

    def test_the_installed_command_begins_there(self) -> None:
        import tomllib

        project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text("utf-8"))["project"]
        assert project["scripts"] == {"cutout": "cutout.__main__:start"}
