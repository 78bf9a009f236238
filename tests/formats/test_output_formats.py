"""The table of formats that can be written: what follows from a row."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

import cutout
from cutout.output_formats import names

ROW = """
    TOY = (
        "bmp",
        Row(
            title="BMP",
            suffixes=(".bmp", ".dib"),
            media_type="image/bmp",
            side=2**31 - 1,
            memory=Memory(3.0, 4.0),
            encoder="BMP",
            alpha=False,
        ),
    )

    def __new__("""


@pytest.fixture(scope="module")
def with_a_toy_format(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a process that finds the program with one more row."""
    folder = tmp_path_factory.mktemp("toy")
    source = Path(cutout.__file__).parent
    shutil.copytree(source, folder / "cutout", ignore=shutil.ignore_patterns("__pycache__"))
    table = folder / "cutout" / "output_formats.py"
    text = table.read_text("utf-8")
    assert text.count("\n    def __new__(") == 1
    table.write_text(text.replace("\n    def __new__(", ROW), "utf-8")
    measured = {"COVERAGE_PROCESS_CONFIG", "COVERAGE_PROCESS_START"}  # a copy's lines are not ours
    return {name: value for name, value in os.environ.items() if name not in measured} | {"PYTHONPATH": str(folder)}


def test_a_format_is_a_row_for_the_command_line(
    with_a_toy_format: dict[str, str], examples: Path, tmp_path: Path
) -> None:
    run = [sys.executable, "-m", "cutout", "remove", str(examples / "coffee.jpg"), "--device", "cpu"]
    for target, told in (("by-suffix.dib", []), ("folder/", ["--format", "bmp", "--quality", "5"])):
        done = subprocess.run(
            [*run, "-o", str(tmp_path / target), *told],
            env=with_a_toy_format,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert not told or "--quality does nothing here: only webp, jpg, avif and heic have one" in done.stderr
    for path in (tmp_path / "by-suffix.dib", tmp_path / "folder" / "coffee.bmp"):
        with Image.open(path) as image:
            assert (image.format, image.mode) == ("BMP", "RGB"), "laid over white, as it has no transparency"


def test_a_format_is_a_row_for_python_and_the_service(
    with_a_toy_format: dict[str, str], examples: Path, tmp_path: Path
) -> None:
    code = (
        "import sys, cutout\n"
        "from cutout.service import form\n"
        "print(cutout.remove(sys.argv[1], output=sys.argv[2]))\n"
        "print(form.schema(), cutout.OutputFormat('bmp').row.media_type)"
    )
    target = tmp_path / "x.bmp"
    done = subprocess.run(
        [sys.executable, "-c", code, str(examples / "coffee.jpg"), str(target)],
        env=with_a_toy_format, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert target.read_bytes()[:2] == b"BM"
    assert "'bmp'" in done.stdout
    assert "image/bmp" in done.stdout


def test_names_are_listed_as_one_says_them() -> None:
    assert names(lambda row: row.sixteen_bits) == "png and tiff"
    assert names(lambda row: row.pages) == "tiff"
