"""Standard streams, pipes and devices: what goes through them arrives whole, ends, or is refused."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from small import half

from cutout.errors import PictureError
from cutout.formats.reading import TooManyBytesError, most_bytes, read_file

if TYPE_CHECKING:
    from conftest import Cutout

MOST_MEMORY = 6_000_000_000
"""Bytes of address space: an endless input that is kept takes more within seconds."""


pytestmark = pytest.mark.usefixtures("here", "quick_model")


def noise(path: Path) -> Path:
    """A picture whose result is larger than any pipe."""
    import numpy as np
    from PIL import Image

    pixels = np.random.default_rng(1).integers(128, 256, (500, 500, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def non_blocking(descriptor: int) -> int:
    fcntl.fcntl(descriptor, fcntl.F_SETFL, fcntl.fcntl(descriptor, fcntl.F_GETFL) | os.O_NONBLOCK)
    return descriptor


class TestOutput:
    @pytest.mark.parametrize("unbuffered", ["", "1"])
    @pytest.mark.parametrize("blocking", [True, False])
    def test_a_pipe_that_is_read_late_and_slowly_gets_every_byte(
        self, cutout: Cutout, unbuffered: str, blocking: bool
    ) -> None:
        args = [*cutout.command, "remove", str(noise(Path("a.png"))), "--background", "red", "-o"]
        subprocess.run([*args, "whole.png"], check=True, timeout=60)
        reader, writer = os.pipe()
        child = subprocess.Popen(
            [*args, "-"],
            stdout=writer if blocking else non_blocking(writer),
            env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
        )
        os.close(writer)
        whole = Path("whole.png").read_bytes()
        assert len(whole) > 300_000, "more than a pipe holds"
        got = b""
        while chunk := os.read(reader, 10_000):
            got += chunk
            time.sleep(0.01)
        os.close(reader)
        assert child.wait(60) == 0
        assert got == whole

    @pytest.mark.parametrize("unbuffered", ["", "1"])
    def test_a_reader_that_goes_away_in_the_middle_is_a_failure(self, cutout: Cutout, unbuffered: str) -> None:
        reader, writer = os.pipe()
        child = subprocess.Popen(
            [*cutout.command, "remove", str(noise(Path("a.png"))), "--background", "red", "-o", "-"],
            stdout=non_blocking(writer),
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
        )
        os.close(writer)
        assert os.read(reader, 1)
        os.close(reader)
        _, told = child.communicate(timeout=60)
        assert child.returncode == 1
        assert b"Traceback" not in told

    def test_lines_for_programs_are_waited_for_too(self, cutout: Cutout) -> None:
        """600 lines of a plan are more than a pipe holds."""
        half(Path("in/a.png"))
        for number in range(600):
            Path(f"in/{number:03}{'n' * 100}.png").symlink_to("a.png")
        reader, writer = os.pipe()
        child = subprocess.Popen(
            [*cutout.command, "remove", "in", "-o", "out", "--dry-run"],
            stdout=non_blocking(writer),
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        os.close(writer)
        time.sleep(1)
        with os.fdopen(reader, "rb") as lines:
            got = lines.read()
        assert child.wait(60) == 0
        assert len(got) > 65_536
        assert got.count(b"\n") == 601

    def test_a_program_that_gives_a_stream_of_its_own_gets_the_bytes(self, cutout: Cutout) -> None:
        half(Path("a.png"))
        code = (
            "import io, sys; from cutout.cli import main\n"
            "real, sys.stdout = sys.stdout, io.TextIOWrapper(io.BytesIO()); sys.argv[0] = 'cutout'\n"
            "try: main()\n"
            "except SystemExit as end: print(end.code, len(sys.stdout.buffer.getvalue()) > 100, file=real)"
        )
        run = subprocess.run(
            [sys.executable, "-c", code, "remove", "a.png", "-o", "-"], capture_output=True, check=True
        )
        assert run.stdout == b"0 True\n"


class TestInput:
    def bounded(self, cutout: Cutout, *args: str, **streams: Any) -> subprocess.CompletedProcess[bytes]:
        """A run that may not take much memory."""
        import resource

        return subprocess.run(
            [*cutout.command, "remove", *args, "-o", "out.png"],
            capture_output=True,
            check=False,
            timeout=120,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY)),
            **streams,
        )

    @pytest.mark.parametrize("device", ["/dev/zero", "/dev/full"])
    def test_a_device_that_never_ends_is_refused(self, cutout: Cutout, device: str) -> None:
        if not Path(device).exists():
            pytest.skip(f"no {device} here")
        with Path(device).open("rb") as endless:
            runs = [self.bounded(cutout, "-", stdin=endless), self.bounded(cutout, device)]
        for run in runs:
            assert run.returncode == 1
            assert b"this is not a picture of a known format, and it has no end" in run.stderr

    @pytest.mark.parametrize("name", ["-", "pipe.png"])
    def test_what_begins_like_a_picture_and_never_ends_is_read_as_far_as_a_file_would_be(
        self, cutout: Cutout, name: str
    ) -> None:
        data = half(Path("a.png")).read_bytes()
        code = (
            "import os, sys\n"
            "out = os.open(sys.argv[1], os.O_WRONLY) if sys.argv[1] != '-' else 1\n"
            "os.write(out, bytes.fromhex(sys.argv[2]))\n"
            "while True: os.write(out, bytes(1 << 20))"
        )
        if name != "-":
            os.mkfifo(name)
        with subprocess.Popen(
            [sys.executable, "-c", code, name, data.hex()], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        ) as feeder:
            run = self.bounded(cutout, name, "--max-pixels", "1000000", stdin=feeder.stdout)
            feeder.kill()
        assert run.returncode == 1
        assert b"it goes on after 75 MB" in run.stderr
        assert b"raise --max-pixels" in run.stderr

    def test_no_more_is_read_than_the_memory_that_pictures_may_take(self, cutout: Cutout) -> None:
        """The default limit of pixels would let through two gigabytes, times the pictures side by side."""
        data = half(Path("a.png")).read_bytes()
        code = "import os, sys\nos.write(1, bytes.fromhex(sys.argv[1]))\nwhile True: os.write(1, bytes(1 << 20))"
        with subprocess.Popen(
            [sys.executable, "-c", code, data.hex()], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        ) as feeder:
            run = self.bounded(cutout, "-", "--memory-limit", "100MB", stdin=feeder.stdout)
            feeder.kill()
        assert run.returncode == 1
        assert b"it goes on after 100 MB" in run.stderr
        assert b"a higher --memory-limit" in run.stderr
        os.truncate("a.png", 200_000_000)
        run = self.bounded(cutout, "a.png", "--memory-limit", "100MB")
        assert run.returncode == 1
        assert b"the file has 200 MB, and no more than 100 MB are read" in run.stderr
        assert b"a higher --memory-limit" in run.stderr

    def test_a_pipe_by_name_is_read_to_its_end(self, cutout: Cutout) -> None:
        data = noise(Path("a.png")).read_bytes()
        os.mkfifo("pipe.png")
        child = cutout.start("remove", "pipe.png", "-o", "out.png")
        with Path("pipe.png").open("wb", buffering=0) as pipe:  # returns when the run has opened the other end
            for start in range(0, len(data), 60_000):
                pipe.write(data[start : start + 60_000])
                time.sleep(0.02)
        _, told = child.communicate(timeout=60)
        assert child.returncode == 0, told
        assert Path("out.png").is_file()

    def test_an_input_that_is_non_blocking_is_waited_for(self, cutout: Cutout) -> None:
        data = noise(Path("a.png")).read_bytes()
        reader, writer = os.pipe()
        child = subprocess.Popen(
            [*cutout.command, "remove", "-", "-o", "out.png"], stdin=non_blocking(reader), stderr=subprocess.PIPE
        )
        os.close(reader)
        time.sleep(3)  # by then it has asked
        with os.fdopen(writer, "wb", buffering=0) as pipe:
            for start in range(0, len(data), 60_000):
                pipe.write(data[start : start + 60_000])
                time.sleep(0.02)
        _, told = child.communicate(timeout=60)
        assert child.returncode == 0, told

    @pytest.mark.parametrize(
        ("args", "words"),
        [
            (("a.png", "-b", "pipe.png"), "background 'pipe.png' is neither a colour nor a picture file"),
            (("a.png", "--model-config", "pipe.png"), "pipe.png cannot be read: it is a pipe or a device"),
            (("a.png", "-o", "pipe.png"), "pipe.png cannot be written: it is a device or a pipe"),
            (("a.png", "-m", "./pipe.onnx"), "the model file pipe.onnx is no regular file"),
        ],
    )
    def test_a_pipe_where_a_file_belongs_is_refused(self, cutout: Cutout, args: tuple[str, ...], words: str) -> None:
        half(Path("a.png"))
        os.mkfifo("pipe.png")
        os.mkfifo("pipe.onnx")
        run = cutout("remove", *args)
        assert run.code in {1, 2, 3}
        assert words in run.err
        assert "Traceback" not in run.err

    def test_so_it_is_by_the_other_commands(self, cutout: Cutout) -> None:
        half(Path("a.png"))
        os.mkfifo("pipe.png")
        os.mkfifo("pipe.html")
        for args in (("a.png", "-o", "pipe.png"), ("a.png", "-o", "pipe.html")):
            run = cutout("compare", *args)
            assert run.code == 1
            assert "it is a device or a pipe" in run.err
        run = cutout("compare", "pipe.png", "-o", "sheet.png")
        assert "pipe.png cannot be read: it is a pipe or a device, not a file" in run.err

    def test_a_pipe_in_a_folder_is_passed_over(self, cutout: Cutout) -> None:
        half(Path("in/a.png"))
        os.mkfifo("in/pipe.png")
        run = cutout("remove", "in", "-o", "out")
        assert run.code == 0
        assert "1 done, 1 ignored (no pictures)" in run.err


class TestReadFile:
    def test_no_more_than_the_limit_is_read(self, here: Path) -> None:
        (here / "a").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(992))
        assert len(read_file(here / "a", 1000)) == 1000
        with pytest.raises(TooManyBytesError, match="the file has 0 MB"):
            read_file(here / "a", 999)

    def test_a_file_that_grows_while_it_is_read_is_bounded_too(
        self, here: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = here / "a"
        path.write_bytes(b"\x89PNG\r\n\x1a\n")
        status = path.stat()
        path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(5_000_000))
        monkeypatch.setattr(Path, "stat", lambda *_, **__: status)
        assert len(read_file(path, 5_000_008)) == 5_000_008
        with pytest.raises(TooManyBytesError, match="it goes on after 5 MB"):
            read_file(path, 5_000_007)

    def test_the_programs_own_interface_is_bounded_alike(self, here: Path) -> None:
        from cutout import remove
        from cutout.formats import decode

        with (here / "huge.png").open("wb") as file:
            file.truncate(most_bytes(decode.DEFAULT_MAX_PIXELS) + 1)
        with pytest.raises(PictureError, match=r"the file has 2\.1 GB"):
            remove(here / "huge.png", force_return_bytes=True)
