"""What is made from models once and kept: trusted as long as it is what was written, bounded, and removable."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest

from cutout.engines import prepared
from cutout.models.files import prepared_home
from cutout.models.registry import MODELS

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Cutout

U2NETP = MODELS["u2netp"].sha256[:16]


def copies() -> list[Path]:
    return sorted(prepared_home().glob(f"{U2NETP}-*.onnx"))


@pytest.fixture
def cut(cutout: Cutout, examples: Path, tmp_path: Path) -> bytes:
    """A picture cut out with a copy that has just been made."""
    return once(cutout, examples, tmp_path)


def once(cutout: Cutout, examples: Path, tmp_path: Path) -> bytes:
    target = tmp_path / "out.png"
    run = cutout("remove", examples / "chelsea.jpg", "-o", target, "--device", "cpu")
    assert run.code == 0, run.err
    return target.read_bytes()


def damaged(data: bytes, way: str, other: bytes) -> bytes:
    """Damage of each kind that happens: a bit that flips in the weights, a file cut short, another good model."""
    if way == "bit":
        at = len(data) * 2 // 3
        return data[:at] + bytes([data[at] ^ 0x40]) + data[at + 1 :]
    return {"short": data[: len(data) // 2], "empty": b"", "other": other}[way]


@pytest.mark.parametrize("way", ["bit", "short", "empty", "other"])
def test_a_damaged_copy_is_made_again(way: str, cut: bytes, cutout: Cutout, examples: Path, tmp_path: Path) -> None:
    from small import brightness_model

    (copy,) = copies()
    good = copy.read_bytes()
    copy.write_bytes(damaged(good, way, brightness_model(tmp_path).read_bytes()))
    assert once(cutout, examples, tmp_path) == cut, "the cut-out is the same"
    assert [path.read_bytes() for path in copies()] == [good]


def test_what_bears_the_name_but_is_no_file_is_passed_over(
    cut: bytes, cutout: Cutout, examples: Path, tmp_path: Path
) -> None:
    (copy,) = copies()
    copy.unlink()
    os.mkfifo(copy)
    assert once(cutout, examples, tmp_path) == cut


def test_a_good_copy_is_used_and_not_made_again(cut: bytes, cutout: Cutout, examples: Path, tmp_path: Path) -> None:
    (copy,) = copies()
    inode = copy.stat().st_ino
    assert once(cutout, examples, tmp_path) == cut
    assert copy.stat().st_ino == inode


def test_copies_for_runtimes_that_have_gone_do_not_gather() -> None:
    for version in range(5):
        path = prepared.keep(f"abc-{version}-1", ".onnx", bytes([version]))
        os.utime(path, (version, version))
    prepared.keep("xyz-1-1", ".onnx", b"of another model")
    left = {path.name.rpartition("-")[0] for path in prepared_home().iterdir()}
    assert left == {"abc-3-1", "abc-4-1", "xyz-1-1"}


def test_two_installations_that_take_turns_keep_theirs() -> None:
    prepared.keep("abc-1-1", ".onnx", b"one")
    prepared.keep("abc-2-1", ".onnx", b"two")
    for _ in range(3):
        assert prepared.kept("abc-1-1", ".onnx") is not None
        assert prepared.kept("abc-2-1", ".onnx") is not None
    assert prepared.kept("abc-1", ".onnx") is None, "another's name is longer"


def test_the_cache_is_shown_and_cleared(cut: bytes, cutout: Cutout, examples: Path, tmp_path: Path) -> None:
    (copy,) = copies()
    left = copy.with_name(".making-abc")
    left.mkdir()
    (left / "folded.onnx").write_bytes(bytes(1000))
    shown = cutout("models", "cache")
    assert shown.code == 0
    assert str(copy) in shown.out.decode()
    line = json.loads(cutout("models", "cache", "--json").out)
    assert line == {
        "folder": str(prepared_home()),
        "files": 2,
        "bytes": copy.stat().st_size + 1000,
        "cleared": False,
    }
    assert json.loads(cutout("models", "cache", "--clear", "--json").out)["cleared"] is True
    assert not prepared_home().exists()
    assert cutout("models", "cache").out.split()[:2] == [b"0.0", b"MB"]
    assert once(cutout, examples, tmp_path) == cut
