"""Trees deeper than Python calls itself, and deeper than the system takes paths: walked, or named."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from small import half

from cutout.atomic import write_atomic
from cutout.jobs.plan import plan

if TYPE_CHECKING:
    from collections.abc import Iterator

    from conftest import Cutout


def dig(folder: Path, name: str, levels: int, picture: bytes) -> None:
    """Folders in folders, a picture in every hundredth and the last; made from within, as no path leads there."""
    folder.mkdir()
    at = os.open(folder, os.O_RDONLY)
    for level in range(levels):
        os.mkdir(name, dir_fd=at)
        below = os.open(name, os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = below
        if level % 100 == 0 or level == levels - 1:
            file = os.open("a.png", os.O_WRONLY | os.O_CREAT, dir_fd=at)
            os.write(file, picture)
            os.close(file)
    os.close(at)


def fill_in(folder: Path) -> None:
    """Remove such a tree, level by level: its top is moved away from what lies below."""
    count = 0
    while folder.exists():
        at = os.open(folder, os.O_RDONLY)
        for name in os.listdir(at):  # noqa: PTH208 - an open folder has no path
            status = os.stat(name, dir_fd=at)
            if name == "a.png" or not status.st_mode & 0o040000:
                os.unlink(name, dir_fd=at)
            else:
                count += 1
                os.rename(name, folder.with_name(f"below{count}"), src_dir_fd=at)
        os.close(at)
        folder.rmdir()
        folder = folder.with_name(f"below{count}")


pytestmark = pytest.mark.usefixtures("quick_model")


@pytest.fixture(autouse=True)
def filled_in(here: Path) -> Iterator[None]:
    """No trees are left that whoever empties the temporary folder cannot walk."""
    yield
    for name in ("in", "out"):
        fill_in(here / name)


def test_1500_levels_are_walked_and_mirrored(cutout: Cutout, here: Path) -> None:
    data = half(here / "a.png").read_bytes()
    dig(here / "in", "d", 1500, data)
    run = cutout("remove", "in", "-o", "out")
    assert run.code == 0, run.err
    assert "16 done" in run.err
    assert Path("out" + "/d" * 1500 + "/a.png").is_file()
    again = cutout("remove", "in", "-o", "out", "--json")
    assert again.lines[-1]["skipped"] == 16


def test_what_no_path_leads_to_is_named_and_the_rest_is_done(cutout: Cutout, here: Path) -> None:
    data = half(here / "a.png").read_bytes()
    dig(here / "in", "n" * 100, 60, data)
    run = cutout("remove", "in", "-o", "out", "--json")
    assert run.code == 1
    assert [line["status"] for line in run.lines[:-1]] == ["failed", "done"]
    assert "the folder cannot be read, nor any picture in it: File name too long" in run.err
    assert "start from a folder further down" in run.err
    assert "Traceback" not in run.err
    assert cutout("remove", "in", "-o", "out", "--dry-run").code == 1


def test_an_output_that_no_path_leads_to_fails_before_the_work_and_leaves_no_folders(
    cutout: Cutout, here: Path
) -> None:
    data = half(here / "a.png").read_bytes()
    dig(here / "in", "n" * 100, 40, data)
    run = cutout("remove", "in", "-o", "out/" + "o" * 200, "--json", "-j", "1")
    assert run.code == 1
    assert [line["status"] for line in run.lines[:-1]] == ["done", "failed"]
    assert "cannot be written: the name is too long" in run.err
    assert "inference" not in run.lines[1].get("ms", {})
    assert run.lines[-1]["not_started"] == 0
    top = here / "out" / ("o" * 200) / ("n" * 100)
    assert [path.name for path in top.iterdir()] == ["a.png"]


def test_the_time_to_plan_grows_with_the_tree_alone(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system is asked a few times for each folder and file, not for each folder above each of them."""
    asked = []
    real = os.lstat

    def lstat(*args: Any, **settings: Any) -> os.stat_result:
        asked.append(args)
        return real(*args, **settings)

    data = half(here / "a.png").read_bytes()
    dig(here / "in", "d", 800, data)
    monkeypatch.setattr(os, "lstat", lstat)
    found = plan(["in"], "out")
    assert len(found.jobs) == 9
    assert len(asked) < 10 * 800


def test_a_file_is_written_however_many_folders_are_missing(here: Path) -> None:
    target = here / "out" / Path(*"d" * 1500) / "a.png"
    assert write_atomic(target, b"data")
    assert target.read_bytes() == b"data"
