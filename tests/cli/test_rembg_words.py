"""Whoever types rembg's commands, or an output as a second input, is told what to type, and that works."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from typing import TYPE_CHECKING

import pytest
from conftest import ROOT
from PIL import Image

from cutout.cli.from_rembg import in_our_words

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Cutout


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("i in.jpg out.png", "cutout remove in.jpg -o out.png"),
        ("rembg i -om in.jpg out.png", "cutout remove in.jpg --mask -o out.png"),
        ("i -a -af 230 -ae 3 a b", "cutout remove a --matting --matting-foreground 230 --matting-erode 3 -o b"),
        ("i -ab 5 a b", "cutout remove a --matting-background 5 -o b"),
        ("i --model=silueta -ppm a b", "cutout remove a --model silueta --post-process -o b"),
        ("i -m sam -x {} a b", "cutout remove a --model rembg:sam -o b"),
        ("i -m u2net_custom a b", "cutout remove a --model FILE.onnx -o b"),
        ("i -bgc 255 0 16 128 a b", "cutout remove a --background '#ff001080' -o b"),
        ("i -bgc 0 0 0 0 -dc a b", "cutout remove a -o b"),
        ("i -h", "cutout remove - -o -"),
        ("i -bgc 255", "cutout remove - -o -"),
        ("p -w 'my folder' out", "cutout remove 'my folder' -o out"),
        ("p", "cutout remove INPUT -o OUTPUT"),
        ("rembg", "cutout remove INPUT -o OUTPUT"),
        ("s -p 7000 -h 0.0.0.0 -t 2", "cutout serve --port 7000 --host 0.0.0.0"),
        ("d u2net silueta", "cutout models pull u2net silueta"),
        ("d", "cutout models pull --all"),
        ("b 640 480 -o x.png", "ffmpeg -i VIDEO frames/%05d.png, then: cutout remove frames -o OUTPUT"),
    ],
)
def test_commands_of_rembg_in_our_words(typed: str, said: str) -> None:
    assert in_our_words(shlex.split(typed)) == said


def test_the_guide_says_the_same() -> None:
    rows = re.findall(
        r"^\| `(rembg [^`]*)` \| `([^`]*)` \|$", (ROOT / "docs" / "from-rembg.md").read_text("utf-8"), re.MULTILINE
    )
    assert len(rows) > 5
    for typed, said in rows:
        assert in_our_words(shlex.split(typed)) == said


@pytest.mark.parametrize(
    "typed",
    [
        "i -om -ppm in.jpg out.png",
        "rembg i -bgc 255 0 0 255 -a in.jpg out.png",
        "remove in.jpg out.png --crop",
        "remove --crop in.jpg out.png",
    ],
)
def test_what_is_said_works(typed: str, cutout: Cutout, quick_model: None, examples: Path, tmp_path: Path) -> None:
    shutil.copy(examples / "coffee.jpg", tmp_path / "in.jpg")
    told = cutout(*shlex.split(typed), cwd=tmp_path)
    assert told.code == 2
    assert not (tmp_path / "out.png").exists()
    said = told.err.splitlines()[1].removeprefix("  try: ").removeprefix("if it is the output: ")
    command, *args = shlex.split(said)
    assert command == "cutout"
    assert cutout(*args, cwd=tmp_path).code == 0
    with Image.open(tmp_path / "out.png") as image:
        image.load()


def test_one_name_beside_a_redirected_output_goes_there(monkeypatch: pytest.MonkeyPatch) -> None:
    for terminal, said in ((True, "cutout remove in.jpg"), (False, "cutout remove in.jpg -o -")):
        monkeypatch.setattr(sys.stdout, "isatty", lambda terminal=terminal: terminal)
        assert in_our_words(["i", "in.jpg"]) == said


def test_two_inputs_that_exist_are_two_inputs(
    cutout: Cutout, quick_model: None, examples: Path, tmp_path: Path
) -> None:
    for name in ("in.jpg", "other.jpg"):
        shutil.copy(examples / "coffee.jpg", tmp_path / name)
    assert cutout("remove", "in.jpg", "other.jpg", cwd=tmp_path).code == 0
    assert {path.name for path in tmp_path.glob("*.png")} == {"in-cutout.png", "other-cutout.png"}


def test_files_of_that_name_come_first(cutout: Cutout, tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    assert "cutout remove p -o out" in cutout("p", "-o", "out", cwd=tmp_path).err


def test_unchecked_models_are_named_by_their_path(cutout: Cutout, model: Path, examples: Path, tmp_path: Path) -> None:
    """`MODEL_CHECKSUM_DISABLED` is rembg's word for it."""
    shutil.copy(model, tmp_path / "silueta.onnx")
    words = ("remove", examples / "coffee.jpg", "-o", tmp_path / "out.png", "--model")
    plain = cutout(*words, "silueta", U2NET_HOME=str(tmp_path)).err
    told = cutout(*words, "silueta", U2NET_HOME=str(tmp_path), MODEL_CHECKSUM_DISABLED="").err
    assert "is corrupt" in plain
    assert "MODEL_CHECKSUM_DISABLED" not in plain
    assert f"--model {tmp_path / 'silueta.onnx'}" in told
    assert cutout(*words, tmp_path / "silueta.onnx").code == 0
