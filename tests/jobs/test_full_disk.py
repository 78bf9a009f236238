"""Where nothing can be written any more, nothing more is computed; one odd name stops nobody."""

from __future__ import annotations

import errno
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image
from small import half, limited

from cutout.atomic import closed_to, write_atomic
from cutout.errors import OutputError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from conftest import Cutout

COUNT = 26


pytestmark = pytest.mark.usefixtures("here", "quick_model")


@pytest.fixture
def disk(here: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    folder = here / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no right to mount a small file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def noisy() -> None:
    Path("in").mkdir()
    for number in range(COUNT):
        pixels = np.random.default_rng(number).integers(0, 256, (300, 300, 3), np.uint8)
        Image.fromarray(pixels).save(f"in/{number:02}.png")


def simple() -> None:
    for number in range(COUNT):
        half(Path(f"in/{number:02}.png"))


def test_a_full_disk_stops_the_batch_and_says_what_is_left(cutout: Cutout, disk: Path) -> None:
    noisy()
    args = ("remove", "in", "-o", disk / "out", "-f", "tiff", "-b", "red", "-j", "2", "--json")
    run = cutout(*args)
    *lines, summary = run.lines
    assert run.code == summary["exit_code"] == 1
    failed = [line for line in lines if line["status"] == "failed"]
    assert 1 <= len(failed) <= 3, "the first, and those that were begun by then"
    assert summary["not_started"] == COUNT - len(lines) > 10
    assert summary["stopped"] == "the disk is full"
    assert (
        f"stopped, {summary['not_started']} left undone: the disk is full, free some space and run the same" in run.err
    )
    subprocess.run(["mount", "-o", "remount,size=40m", str(disk)], check=True)
    assert cutout(*args).code == 0
    assert len(list((disk / "out").iterdir())) == COUNT


def test_a_disk_that_can_only_be_read_stops_the_batch(cutout: Cutout, disk: Path) -> None:
    simple()
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    run = cutout("remove", "in", "-o", disk / "out", "-j", "1", "--json")
    *lines, summary = run.lines
    assert run.code == 1
    assert len(lines) == 1
    assert (summary["failed"], summary["not_started"]) == (1, COUNT - 1)
    assert f"stopped, {COUNT - 1} left undone: the file system is read-only" in run.err


def test_a_folder_that_takes_no_files_stops_the_batch(cutout: Cutout, monkeypatch: pytest.MonkeyPatch) -> None:
    simple()
    Path("out").mkdir(mode=0o555)
    monkeypatch.setattr(cutout, "command", (*limited(), *cutout.command))
    run = cutout("remove", "in", "-o", "out", "-j", "1", "--json")
    *lines, summary = run.lines
    assert run.code == 1
    assert len(lines) == 1
    assert f"stopped, {COUNT - 1} left undone: permission denied" in run.err
    assert summary["not_started"] == COUNT - 1


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="it is Linux that has such a folder")
def test_a_folder_that_cannot_be_made_stops_the_batch(cutout: Cutout) -> None:
    simple()
    run = cutout("remove", "in", "-o", "/proc/nowhere", "-j", "1", "--json")
    *lines, summary = run.lines
    assert run.code == 1
    assert len(lines) == 1
    assert summary["not_started"] == COUNT - 1


def test_what_goes_elsewhere_is_done(cutout: Cutout, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the outputs of the folder that takes none are left."""
    for number in range(3):
        half(Path(f"in/a/{number}.png"))
        half(Path(f"in/z/{number}.png"))
    Path("out/a").mkdir(parents=True)
    Path("out/a").chmod(0o555)
    monkeypatch.setattr(cutout, "command", (*limited(), *cutout.command))
    run = cutout("remove", "in", "-o", "out", "-j", "1", "--json")
    assert run.code == 1
    assert [line["status"] for line in run.lines[:-1]] == ["failed", "done", "done", "done"]
    assert run.lines[-1]["not_started"] == 2


def test_a_file_where_a_folder_belongs_is_told_before_the_work_and_only_once(cutout: Cutout) -> None:
    simple()
    half(Path("in2/z.png"))
    Path("out").mkdir()
    Path("out/x").write_text("a file")
    Path("out/x").chmod(0o755)
    Path("in").rename("in2/x")
    run = cutout("remove", "in2", "-o", "out", "-j", "1", "--json")
    assert run.code == 1
    assert [line["status"] for line in run.lines[:-1]] == ["done", "failed"]
    assert "inference" not in run.lines[1].get("ms", {})
    assert run.lines[-1]["not_started"] == COUNT - 1


def test_one_name_that_cannot_be_written_stops_nobody(cutout: Cutout) -> None:
    half(Path("in/a.bmp"))
    half(Path("x.bmp")).rename(f"in/{'n' * 251}.bmp")
    half(Path("in/b.bmp"))
    half(Path("in/z.bmp"))
    Path("out/b.tiff").mkdir(parents=True)
    run = cutout("remove", "in", "-o", "out", "-j", "1", "--json", "-f", "tiff", "-b", "red")
    assert run.code == 1
    assert [line["status"] for line in run.lines[:-1]] == ["done", "failed", "failed", "done"]
    assert run.lines[-1]["not_started"] == 0
    assert "stopped" not in run.err


def test_a_refusal_to_rename_is_the_files_own(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that may not be replaced lies in a folder that takes others."""

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "immutable")

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(OutputError) as caught:
        write_atomic(here / "a.png", b"data")
    assert not closed_to(caught.value, here / "b.png")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO])
def test_what_concerns_the_whole_disk_concerns_every_folder_of_it(
    here: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def fail(_: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OutputError) as caught:
        write_atomic(here / "a.png", b"data")
    assert closed_to(caught.value, here / "x" / "y" / "b.png")
    assert not closed_to(caught.value, Path("/proc/b.png")), "another file system"
    assert not closed_to(None, here / "b.png")
