"""Every command works for a user without a home, or with one that may not be looked into: usual in containers."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from small import half, limited

from cutout.models import files

if TYPE_CHECKING:
    from collections.abc import Iterator

    from conftest import Cutout

NO_PASSWD_ENTRY = """
import os, pwd, sys
def nobody(_): raise KeyError('getpwuid(): uid not found')
pwd.getpwuid = nobody
from cutout.cli import command
command()
"""


@pytest.fixture(params=["a home that may not be looked into", "no home at all"])
def homeless(
    request: pytest.FixtureRequest, cutout: Cutout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Cutout]:
    """The command without a home, in an empty folder."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.delenv("CUTOUT_HOME")
    home = tmp_path / "home"
    home.mkdir()
    if request.param == "no home at all":
        if os.name == "nt":
            pytest.skip("asks for the POSIX user database")
        monkeypatch.delenv("HOME")
        monkeypatch.setattr(cutout, "command", (sys.executable, "-c", NO_PASSWD_ENTRY))
    else:
        home.chmod(0)
        monkeypatch.setenv("HOME", str(home))
        monkeypatch.setattr(cutout, "command", (*limited(), *cutout.command))
    yield cutout
    home.chmod(0o755)


@pytest.mark.parametrize(
    "args",
    [
        ("remove", "a.png", "-o", "out.png", "--device", "cpu"),
        ("models", "list"),
        ("models", "list", "--json"),
        ("models", "verify"),
        ("models", "path", "u2netp"),
        ("models", "pull", "u2netp"),
        ("doctor",),
        ("bench", "a.png", "--jobs", "1", "--seconds", "0.1", "--device", "cpu"),
        ("compare", "a.png", "-o", "sheet.png", "--device", "cpu"),
        ("compare", "a.png", "-o", "gallery.html", "--device", "cpu"),
    ],
    ids=" ".join,
)
def test_every_command_works_without_a_home(homeless: Cutout, args: tuple[str, ...]) -> None:
    half(Path("a.png"))
    run = homeless(*args)
    assert run.code == 0, run.err
    left = {path.name for path in Path().rglob("*")}
    assert left <= {"a.png", "out.png", "sheet.png", "gallery.html"}, "no folder called ~"


def test_a_model_cannot_be_kept_and_the_way_out_is_said(homeless: Cutout) -> None:
    for args in (("models", "pull", "u2net"), ("remove", "a.png", "-m", "u2net", "--pull")):
        half(Path("a.png"))
        run = homeless(*args, CUTOUT_MODEL_MIRROR="http://127.0.0.1:9")
        assert run.code == 3
        assert "u2net cannot be stored in " in run.err
        assert "point CUTOUT_HOME at a folder that can be written to" in run.err


def test_a_path_below_a_home_that_nobody_has_is_a_file_that_is_not_there(homeless: Cutout) -> None:
    half(Path("a.png"))
    run = homeless("remove", "a.png", "-m", "~nosuchuser/mine.onnx")
    assert run.code == 3
    assert "the model file ~nosuchuser/mine.onnx does not exist" in run.err


def test_a_service_starts_and_says_where_its_batches_lie(homeless: Cutout) -> None:
    pytest.importorskip("uvicorn")
    child = homeless.start("serve", "--port", "0", "--device", "cpu")
    try:
        assert child.stderr is not None
        told = b""
        for line in child.stderr:
            told += line
            if b"ready" in line or b"error" in line:
                break
        assert b"there is no home to keep batches in: they lie in " in told
        folder = Path(os.fsdecode(told.split(b"they lie in ")[1].split(b",")[0]))
        assert folder.stat().st_mode & 0o077 == 0, "nobody else may look into it"
        assert b"listening" in told
        child.send_signal(signal.SIGTERM)
        assert child.wait(60) == 0
        assert not folder.exists()
    finally:
        child.kill()
        child.communicate()


@pytest.mark.parametrize("found", [RuntimeError("could not determine the home directory"), Path("~/.local/share")])
def test_whatever_the_system_says_of_a_missing_home_it_is_nowhere(
    monkeypatch: pytest.MonkeyPatch, found: Path | Exception
) -> None:
    import platformdirs

    def user_data_path(*_: object, **__: object) -> Path:
        if isinstance(found, Exception):
            raise found
        return found

    monkeypatch.delenv("CUTOUT_HOME")
    monkeypatch.setattr(platformdirs, "user_data_path", user_data_path)
    assert files.data_home() == files.NOWHERE
    assert not files.is_file(files.model_home() / "u2net.onnx")
    with pytest.raises(OSError, match="Not a directory"):
        files.model_home().mkdir(parents=True)
