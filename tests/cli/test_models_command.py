"""`cutout models`: what exists, what is here, whether it is sound, and where."""

from __future__ import annotations

import contextlib
import http.server
import os
import pty
import shutil
import subprocess
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cutout.models import files
from cutout.models.registry import MODELS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from conftest import Cutout

EMBEDDED = Path(files.__file__).parent / "weights" / "u2netp.onnx"
SILUETA = MODELS["silueta"]


def holey(path: Path, size: int) -> Path:
    """A file of the size, full of nothing: what a broken download manager leaves."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.truncate(size)
    return path


@pytest.fixture
def ours(home: Path) -> Path:
    """Where `pull` puts silueta."""
    return home / "cutout" / "models" / SILUETA.file


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """What works now works without a network."""
    monkeypatch.setenv("CUTOUT_OFFLINE", "1")


@pytest.mark.usefixtures("offline")
class TestList:
    def test_shows_every_model_with_size_licence_and_state(self, cutout: Cutout) -> None:
        run = cutout("models", "list")
        head, *rows = run.out.decode().splitlines()
        assert head.split() == ["model", "MB", "licence", "state", "about"]
        assert [row.split()[0].rstrip(",") for row in rows] == list(MODELS)
        for row, spec in zip(rows, MODELS.values(), strict=True):
            assert spec.licence in row
            assert f" {spec.bytes / 1e6:.1f} " in row
            assert spec.about in row
            assert all(alias in row for alias in spec.aliases)
            assert (" in this package " if spec.embedded else " missing ") in row
        assert (run.code, run.err) == (0, "")

    def test_marks_the_one_that_forbids_commercial_use(self, cutout: Cutout) -> None:
        (marked,) = [line for line in cutout("models", "list").out.decode().splitlines() if "(non-commercial)" in line]
        assert marked.startswith("rmbg-2.0")
        assert "CC BY-NC 4.0 (non-commercial)" in marked

    def test_says_where_models_lie(self, cutout: Cutout, tmp_path: Path) -> None:
        """Literally: a folder in brackets is a folder, and no colour."""
        folder = tmp_path / "[bold]nets :smile:"
        path = holey(folder / "models" / SILUETA.file, SILUETA.bytes)
        lines = cutout("models", "list", CUTOUT_HOME=str(folder)).out.decode().splitlines()
        assert f"silueta: {path}" in lines
        (row,) = [line for line in lines if line.startswith("silueta ")]
        assert " unverified " in row

    def test_cuts_no_name_however_narrow_the_terminal(self, cutout: Cutout) -> None:
        leader, follower = pty.openpty()
        child = subprocess.Popen(
            [*cutout.command, "models", "list"], stdout=follower, env={**os.environ, "TERM": "xterm", "COLUMNS": "60"}
        )
        os.close(follower)
        shown = b""
        with contextlib.suppress(OSError):  # how a terminal says that nobody is left
            while chunk := os.read(leader, 4096):
                shown += chunk
        os.close(leader)
        assert child.wait(60) == 0
        words = set(shown.decode().replace(",", " ").split())
        assert {name for spec in MODELS.values() for name in (spec.name, *spec.aliases)} <= words

    def test_shows_a_file_of_wrong_size_as_corrupt(self, cutout: Cutout, ours: Path) -> None:
        holey(ours, 5)
        lines = cutout("models", "list").out.decode().splitlines()
        (row,) = [line for line in lines if line.startswith("silueta ")]
        assert " corrupt " in row
        assert f"silueta: {ours}" in lines

    def test_as_json_is_a_line_per_model(self, cutout: Cutout, ours: Path) -> None:
        holey(ours, 5)
        run = cutout("models", "list", "--json")
        rows = {line["model"]: line for line in run.lines}
        assert list(rows) == list(MODELS)
        for name, spec in MODELS.items():
            assert rows[name]["sha256"] == spec.sha256
            assert rows[name]["bytes"] == spec.bytes
            assert rows[name]["licence"] == spec.licence
        assert [name for name, row in rows.items() if row["non_commercial"]] == ["rmbg-2.0"]
        assert rows["rmbg-2.0"]["aliases"] == ["RMBG-2.0", "bria-rmbg"]
        assert (rows["u2netp"]["embedded"], rows["u2netp"]["path"]) == (True, str(EMBEDDED))
        assert (rows["silueta"]["state"], rows["silueta"]["path"]) == ("corrupt", str(ours))
        assert (rows["u2net"]["state"], rows["u2net"]["path"]) == ("missing", None)
        assert (run.code, run.err) == (0, "")


class TestPull:
    @pytest.mark.usefixtures("offline")
    def test_of_the_embedded_model_needs_no_network(self, cutout: Cutout) -> None:
        run = cutout("models", "pull", "u2netp")
        assert (run.code, run.out, run.err) == (0, b"", f"u2netp: {EMBEDDED} (Apache-2.0)\n")

    @pytest.mark.usefixtures("offline")
    def test_quietly_says_nothing(self, cutout: Cutout) -> None:
        run = cutout("models", "pull", "--quiet", "u2netp")
        assert (run.code, run.out, run.err) == (0, b"", "")

    @pytest.fixture
    def asked(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, str]]]:
        """What a mirror without models was asked for, each with what the command had said by then in `said`."""
        asked: list[tuple[str, str]] = []

        class Mirror(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked.append((self.path, (tmp_path / "said").read_text()))
                self.send_error(404)

            def log_message(self, *args: object) -> None:
                pass

        for name in ("http_proxy", "all_proxy", "no_proxy"):
            monkeypatch.delenv(name, raising=False)
            monkeypatch.delenv(name.upper(), raising=False)
        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Mirror) as server:
            monkeypatch.setenv("CUTOUT_MODEL_MIRROR", f"http://127.0.0.1:{server.server_port}")
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
            thread.start()
            yield asked
            server.shutdown()
            thread.join()

    @pytest.mark.parametrize("name", ["rmbg-2.0", "BRIA-RMBG"])
    def test_says_that_commercial_use_is_forbidden_before_it_downloads(
        self, name: str, cutout: Cutout, tmp_path: Path, asked: list[tuple[str, str]]
    ) -> None:
        with (tmp_path / "said").open("wb") as err:
            done = subprocess.run(
                [*cutout.command, "models", "pull", name], stderr=err, env=os.environ, timeout=60, check=False
            )
        ((path, said),) = asked
        assert path == "/bria-rmbg-2.0.onnx"
        assert said == (
            "warning: rmbg-2.0 is licensed CC BY-NC 4.0: commercial use is not allowed without a contract\n"
        )
        assert done.returncode == 3
        assert "answered 404" in (tmp_path / "said").read_text()

    def test_of_an_unknown_name_pulls_none_of_the_others(self, cutout: Cutout, asked: list[tuple[str, str]]) -> None:
        run = cutout("models", "pull", "u2net", "siluetta")
        assert run.code == 2
        assert "there is no model 'siluetta'" in run.err
        assert "did you mean silueta" in run.err
        assert asked == []

    @pytest.mark.usefixtures("offline")
    def test_offline_of_what_is_missing_ends_with_3(self, cutout: Cutout, ours: Path) -> None:
        run = cutout("models", "pull", "silueta")
        assert (run.code, run.out) == (3, b"")
        assert "CUTOUT_OFFLINE is set, so silueta is not downloaded" in run.err
        assert f"copy silueta.onnx into {ours.parent}" in run.err

    @pytest.mark.usefixtures("offline")
    def test_of_all_takes_those_that_anybody_may_use(self, cutout: Cutout, home: Path) -> None:
        run = cutout("models", "pull", "--all")
        assert run.code == 3
        assert run.err.startswith("without rmbg-2.0: commercial use is not allowed without a contract\nu2netp: ")
        assert "CUTOUT_OFFLINE is set, so u2net is not downloaded" in run.err

    @pytest.mark.parametrize("args", [(), ("u2netp", "--all")])
    def test_of_nothing_and_of_two_things_is_refused(self, cutout: Cutout, args: tuple[str, ...]) -> None:
        run = cutout("models", "pull", *args)
        assert (run.code, run.out) == (2, b"")
        assert "error: name models, or say --all\n" in run.err


@pytest.mark.usefixtures("offline")
class TestRemove:
    def test_of_a_download_deletes_it(self, cutout: Cutout, ours: Path) -> None:
        holey(ours, 5)
        run = cutout("models", "rm", "silueta")
        assert (run.code, run.out.decode()) == (0, f"silueta: removed {ours}\n")
        assert not ours.exists()
        run = cutout("models", "rm", "silueta")
        assert (run.code, run.err) == (3, "error: the model silueta is not on this machine\n")

    def test_of_what_others_keep_leaves_it(self, cutout: Cutout, home: Path) -> None:
        theirs = holey(home / ".u2net" / SILUETA.file, SILUETA.bytes)
        for name, path in (("silueta", theirs), ("u2netp", EMBEDDED)):
            run = cutout("models", "rm", name)
            assert run.code == 3
            assert f"the model {name} lies in {path}, and was not downloaded by cutout" in run.err
            assert path.is_file()


@pytest.mark.usefixtures("offline")
class TestVerify:
    def test_of_a_good_file(self, cutout: Cutout) -> None:
        run = cutout("models", "verify", "u2netp")
        assert (run.code, run.out.decode(), run.err) == (0, f"u2netp: good  {EMBEDDED}\n", "")

    def test_without_a_name_reads_all_that_are_here(self, cutout: Cutout, home: Path) -> None:
        other = home / ".u2net" / "u2netp.onnx"
        other.parent.mkdir()
        shutil.copy(EMBEDDED, other)
        run = cutout("models", "verify", "--json")
        assert [(line["model"], line["state"], line["path"]) for line in run.lines] == [
            ("u2netp", "verified", str(EMBEDDED)),
            ("u2netp", "verified", str(other)),
        ]
        assert run.code == 0

    @pytest.mark.parametrize("size", [SILUETA.bytes, 5], ids=["changed", "short"])
    def test_of_a_corrupt_file_names_it_and_what_mends_it(self, size: int, cutout: Cutout, ours: Path) -> None:
        holey(ours, size)
        run = cutout("models", "verify", "silueta")
        assert run.code == 3
        assert run.out.decode() == f"silueta: CORRUPT  {ours}\n"
        assert f"error: the model file {ours} is corrupt\n" in run.err
        assert "fetch a good one: cutout models pull silueta\n" in run.err

    def test_tells_of_a_corrupt_file_beside_good_ones(self, cutout: Cutout, home: Path) -> None:
        """A download does not replace rembg's file, so it is to be deleted."""
        bad = holey(home / ".u2net" / "u2netp.onnx", 5)
        worse = holey(home / ".u2net" / "silueta.onnx", 5)
        run = cutout("models", "verify")
        assert run.code == 3
        assert run.out.decode().splitlines() == [
            f"u2netp: good  {EMBEDDED}",
            f"u2netp: CORRUPT  {bad}",
            f"silueta: CORRUPT  {worse}",
        ]
        assert f"error: the model file {bad} is corrupt (and 1 more)\n" in run.err
        assert "delete that file, then cutout models pull u2netp\n" in run.err

    def test_reads_again_what_was_verified_before(self, cutout: Cutout, home: Path) -> None:
        """Bytes can change where size and time do not: this command is how one finds out."""
        path = home / ".u2net" / "u2netp.onnx"
        path.parent.mkdir()
        shutil.copy(EMBEDDED, path)
        assert cutout("models", "verify").code == 0
        before = path.stat()
        with path.open("r+b") as file:
            file.write(b"rot")
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert cutout("models", "verify").code == 3

    def test_of_a_missing_model(self, cutout: Cutout) -> None:
        run = cutout("models", "verify", "silueta")
        assert (run.code, run.out) == (3, b"")
        assert "the model silueta is not on this machine" in run.err
        assert "cutout models pull silueta\n" in run.err


@pytest.mark.usefixtures("offline")
class TestPath:
    def test_is_all_that_is_on_standard_output(self, cutout: Cutout) -> None:
        run = cutout("models", "path", "u2netp")
        assert (run.code, run.out.decode(), run.err) == (0, f"{EMBEDDED}\n", "")

    def test_of_a_copy_that_rembg_downloaded(self, cutout: Cutout, weights: Path) -> None:
        run = cutout("models", "path", "silueta", U2NET_HOME=str(weights))
        assert (run.code, run.out.decode()) == (0, f"{weights / 'silueta.onnx'}\n")

    def test_of_a_missing_model_gives_the_command(self, cutout: Cutout) -> None:
        run = cutout("models", "path", "silueta", CUTOUT_OFFLINE="0")
        assert (run.code, run.out) == (3, b"")
        assert run.err.splitlines() == [
            "error: the model silueta is not on this machine",
            "  try: fetch it first: cutout models pull silueta",
        ]

    def test_of_a_corrupt_model_gives_the_command(self, cutout: Cutout, ours: Path) -> None:
        holey(ours, SILUETA.bytes)
        run = cutout("models", "path", "silueta", CUTOUT_OFFLINE="0")
        assert (run.code, run.out) == (3, b"")
        assert f"the model file {ours} is corrupt" in run.err
        assert "fetch a good one: cutout models pull silueta\n" in run.err

    @pytest.mark.parametrize("command", ["path", "pull", "verify"])
    @pytest.mark.parametrize(
        ("name", "hint"),
        [("u2nett", "did you mean u2net"), ("zzzz", "`cutout models list` shows what exists")],
    )
    def test_of_an_unknown_name_suggests(self, command: str, name: str, hint: str, cutout: Cutout) -> None:
        run = cutout("models", command, name)
        assert (run.code, run.out) == (2, b"")
        assert f"error: there is no model {name!r}" in run.err
        assert hint in run.err
