"""`cutout remove` as a user runs it: files, streams, looks, exit codes, environment."""

from __future__ import annotations

import io
import json
import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import typer
from PIL import Image
from small import ORANGE, half, limited
from typer.core import TyperOption

from cutout.cli import app

if TYPE_CHECKING:
    from conftest import Cutout, Run

BLACK, WHITE, CLEAR = (0, 0, 0), (255, 255, 255), 0


pytestmark = pytest.mark.usefixtures("here", "quick_model")


def opened(path: Path | str | bytes) -> Image.Image:
    with Image.open(io.BytesIO(path) if isinstance(path, bytes) else path) as image:
        image.load()
        return image


def left_and_right(path: Path | str) -> tuple[object, object]:
    """A pixel of either half, away from the edge between them."""
    image = opened(path)
    return image.getpixel((3, 16)), image.getpixel((image.width - 4, 16))


def near(one: object, other: tuple[int, ...], by: int = 6) -> bool:
    """Equal but for what a lossy format changes."""
    assert isinstance(one, tuple)
    return len(one) == len(other) and all(abs(a - b) <= by for a, b in zip(one, other, strict=True))


def tree() -> list[str]:
    return sorted(str(path) for path in Path().rglob("*") if path.is_file())


def done(run: Run) -> Run:
    assert run.code == 0, run.err
    return run


class TestTheRealModel:
    def test_a_blank_sheet_is_told(self, cutout: Cutout, examples: Path) -> None:
        Image.new("RGB", (400, 300), (200, 200, 200)).save("blank.png")
        run = done(cutout("remove", "blank.png", examples / "coffee.jpg", "-o", "out", "-m", "u2netp", "--json"))
        warned = {Path(line["input"]).name: line.get("warnings") for line in run.lines[:-1]}
        assert warned == {
            "blank.png": ["nothing was found with certainty: most of the cut-out is see-through"],
            "coffee.jpg": None,
        }

    def test_a_person_is_cut_out(self, cutout: Cutout, examples: Path) -> None:
        run = done(cutout("remove", examples / "astronaut.jpg", "-o", "out.png", "-m", "u2netp"))
        image, source = opened("out.png"), opened(examples / "astronaut.jpg")
        assert (image.format, image.mode, image.size) == ("PNG", "RGBA", source.size)
        alpha = np.asarray(image.getchannel("A"))
        height, width = alpha.shape
        assert alpha[height // 2, width // 2] > 200, "the suit"
        assert alpha[: height // 8, : width // 8].max() < 60, "the flag behind"
        assert run.out == b""
        assert "out.png" in run.err
        assert "u2netp on cpu" in run.err

    def test_it_is_the_default(self, cutout: Cutout, examples: Path) -> None:
        run = done(cutout("remove", examples / "coffee.jpg", "-o", "out.png", "--json", CUTOUT_MODEL=""))
        assert run.lines[-1]["model"] == "u2netp"


class TestFiles:
    def test_without_an_output_the_result_lies_beside_the_input(self, cutout: Cutout) -> None:
        half(Path("in/a.jpg"))
        done(cutout("remove", "in/a.jpg"))
        assert tree() == ["in/a-cutout.png", "in/a.jpg"]

    def test_a_folder_is_mirrored(self, cutout: Cutout) -> None:
        half(Path("in/a.jpg"))
        half(Path("in/x/y/b.png"))
        Path("in/notes.txt").write_text("no picture")
        run = done(cutout("remove", "in", "-o", "out"))
        assert [name for name in tree() if name.startswith("out")] == ["out/a.png", "out/x/y/b.png"]
        assert "2 done, 1 ignored (no pictures)" in run.err

    def test_a_quoted_pattern_is_expanded(self, cutout: Cutout) -> None:
        half(Path("a.jpg"))
        half(Path("b.jpg"))
        half(Path("c.png"))
        done(cutout("remove", "*.jpg", "-o", "out"))
        assert sorted(os.listdir("out")) == ["a.png", "b.png"]  # noqa: PTH208 - plain names

    def test_a_file_whose_name_begins_with_a_dash(self, cutout: Cutout) -> None:
        half(Path("-x.png"))
        done(cutout("remove", "-o", "out.png", "--", "-x.png"))
        assert Path("out.png").is_file()

    def test_odd_names_survive_the_whole_way(self, cutout: Cutout) -> None:
        """Also where the terminal speaks ASCII alone."""
        names = [b"new\nline.png", b"bad\xff.png", "🐈 [1].png".encode(), b"\x1b[2J.png"]
        data = half(Path("a.png")).read_bytes()
        Path("in").mkdir()
        for name in names:
            (Path("in") / os.fsdecode(name)).write_bytes(data)
        for args in ((), ("--json",), ("--verbose",), ("--dry-run",)):
            run = done(cutout("remove", "in", "-o", "out", "--existing", "overwrite", *args, PYTHONIOENCODING="ascii"))
            assert "\x1b" not in run.err
        assert {os.fsencode(path.name) for path in Path("out").iterdir()} == set(names)
        assert all(b"out/" + name + b"\n" in run.out for name in names), "the plan is data"

    def test_a_single_output_is_overwritten(self, cutout: Cutout) -> None:
        half(Path("a.jpg"))
        Path("out.png").write_text("old")
        done(cutout("remove", "a.jpg", "-o", "out.png"))
        assert opened("out.png").format == "PNG"

    def test_an_output_without_an_extension_is_a_folder_and_told_to_be_one(self, cutout: Cutout) -> None:
        half(Path("a.jpg"))
        told = "warning: new has no extension, so it is made a folder; a file would be -o new.png\n"
        assert told in done(cutout("remove", "a.jpg", "-o", "new", "--dry-run")).err
        assert told in done(cutout("remove", "a.jpg", "-o", "new")).err
        for output in ("new", "other/"):
            assert "extension" not in done(cutout("remove", "a.jpg", "-o", output)).err
        assert tree() == ["a.jpg", "new/a.png", "other/a.png"]

    def test_a_single_output_is_kept_if_told_so(self, cutout: Cutout) -> None:
        half(Path("a.jpg"))
        Path("out.png").write_text("old")
        run = done(cutout("remove", "a.jpg", "-o", "out.png", "--existing", "skip"))
        assert Path("out.png").read_text() == "old"
        assert "out.png exists and was skipped" in run.err

    def test_in_a_batch_existing_outputs_are_skipped(self, cutout: Cutout) -> None:
        half(Path("in/a.jpg"))
        half(Path("in/b.jpg"))
        Path("out").mkdir()
        Path("out/a.png").write_text("old")
        run = done(cutout("remove", "in", "-o", "out", "--json"))
        assert Path("out/a.png").read_text() == "old"
        assert opened("out/b.png").format == "PNG"
        assert {line["input"]: line["status"] for line in run.lines[:-1]} == {"in/a.jpg": "skipped", "in/b.jpg": "done"}

    def test_a_run_with_nothing_left_to_do_opens_no_model(self, cutout: Cutout) -> None:
        half(Path("in/a.jpg"))
        Path("out").mkdir()
        Path("out/a.png").write_text("old")
        run = done(cutout("remove", "in", "-o", "out", "--json", "--model", "u2net"))
        assert run.lines[-1]["skipped"] == 1
        assert run.lines[-1]["model"] == ""

    def test_a_folder_without_pictures_is_told(self, cutout: Cutout) -> None:
        Path("in").mkdir()
        for args in ((), ("--dry-run",)):
            run = done(cutout("remove", "in", "-o", "out", *args))
            assert "there is no picture among the inputs" in run.err

    def test_a_name_that_a_folder_bears_is_a_failure(self, cutout: Cutout) -> None:
        """It is not taken for a result that is there already."""
        half(Path("in/a.jpg"))
        half(Path("in/b.jpg"))
        Path("out/a.png").mkdir(parents=True)
        run = cutout("remove", "in", "-o", "out")
        assert run.code == 1
        assert "out/a.png cannot be written: a folder of that name is in the way" in run.err
        assert Path("out/b.png").is_file()

    def test_a_device_is_not_replaced(self, cutout: Cutout) -> None:
        half(Path("a.jpg"))
        os.mkfifo("pipe.png")
        run = cutout("remove", "a.jpg", "-o", "pipe.png")
        assert run.code == 1
        assert "it is a device or a pipe" in run.err
        assert Path("pipe.png").is_fifo()


class TestWhichFiles:
    @pytest.mark.parametrize("separator", [b"\n", b"\r\n", b"\0"])
    def test_a_list_names_files_and_folders(self, cutout: Cutout, separator: bytes) -> None:
        half(Path("a b.jpg"))
        half(Path("[1].jpg"))
        half(Path("in/c.jpg"))
        names = separator.join([b"a b.jpg", b"[1].jpg", b"in", b""])
        run = done(cutout("remove", "--files-from", "-", "-o", "out", stdin=names))
        assert [name for name in tree() if name.startswith("out")] == ["out/[1].png", "out/a b.png", "out/c.png"]
        Path("list").write_bytes(names)
        run = done(cutout("remove", "--files-from", "list", "-o", "out"))
        assert "3 skipped" in run.err, "a run of many, which goes on where one was stopped"

    def test_a_list_of_one_is_a_list_and_an_empty_one_names_no_picture(self, cutout: Cutout) -> None:
        half(Path("a.jpg"))
        done(cutout("remove", "--files-from", "-", "-o", "out", stdin=b"a.jpg\n"))
        assert tree() == ["a.jpg", "out/a.png"]
        run = cutout("remove", "--files-from", "-", "--fail-empty", stdin=b"")
        assert (run.code, "there is no picture" in run.err) == (2, True)

    @pytest.mark.parametrize(
        ("args", "stdin", "words"),
        [
            (("--files-from", "-"), b"a.jpg\nb*.jpg\n", "b*.jpg, which the list - names, does not exist"),
            (("--files-from", "nowhere"), b"", "the list nowhere cannot be read: No such file"),
            (("-", "--files-from", "-"), b"a.jpg", "standard input cannot be a picture and the list"),
            (("a.jpg", "--suffix", "x/y"), b"", "--suffix 'x/y' is no part of a file's name"),
        ],
    )
    def test_what_cannot_be_is_refused_before_any_work(
        self, cutout: Cutout, args: tuple[str, ...], stdin: bytes, words: str
    ) -> None:
        half(Path("a.jpg"))
        half(Path("b1.jpg"))
        run = cutout("remove", *args, stdin=stdin)
        assert run.code == 2
        assert words in run.err
        assert tree() == ["a.jpg", "b1.jpg"]

    def test_what_is_excluded_is_not_there(self, cutout: Cutout) -> None:
        for name in ("a.jpg", "a.tif.png", "thumbs/b.jpg", "x/thumbs/c.jpg", "x/d.jpg", "x/y/e.jpg"):
            half(Path("in") / name)
        run = done(
            cutout("remove", "in", "--exclude", "thumbs/", "--exclude", "*.tif.*", "--exclude", "x/d.jpg", "--json")
        )
        assert sorted(line["input"] for line in run.lines[:-1]) == ["in/a.jpg", "in/x/y/e.jpg"]
        run = done(cutout("remove", "in/**/*.jpg", "-o", "out", "--exclude", "thumbs", "--exclude", "a.*", "--dry-run"))
        assert run.out.split() == [b"in/x/d.jpg", b"->", b"out/d.png", b"in/x/y/e.jpg", b"->", b"out/e.png"]

    def test_where_nothing_could_be_excluded_it_is_said(self, cutout: Cutout) -> None:
        half(Path("in/a.jpg"))
        half(Path("in/a-cutout.png"))
        told = "--exclude does nothing here: no input is a folder or a pattern"
        assert told in done(cutout("remove", "in/a.jpg", "-o", "x.png", "--exclude", "b")).err
        for args, stdin in ((("in",), b""), (("in/*",), b""), (("--files-from", "-"), b"in")):
            run = done(cutout("remove", *args, "-o", "out", "--exclude", "b", "--recursive", stdin=stdin))
            assert told not in run.err
            assert ("--recursive does nothing" in run.err) is (args == ("in/*",))
        run = done(cutout("remove", "in/*.png", "-o", "y.png", "--exclude", "b"))
        assert "there is no picture among the inputs" in run.err, "but an earlier result"

    def test_only_what_has_changed_since_is_done_again(self, cutout: Cutout) -> None:
        for name in ("a.jpg", "b.jpg", "c.jpg"):
            half(Path("in") / name)
        Path("out").mkdir()
        for name, age in (("a.png", 10), ("b.png", -10)):
            Path("out", name).write_text("old")
            time = Path("in/a.jpg").stat().st_mtime - age
            os.utime(Path("out", name), (time, time))
        args = ("remove", "in", "-o", "out", "--existing", "newer")
        assert b"out/b.png  (exists, skipped)" in done(cutout(*args, "--dry-run")).out
        assert "2 done, 1 skipped" in done(cutout(*args)).err
        assert Path("out/b.png").read_text() == "old"
        assert opened("out/a.png").format == "PNG"
        assert "3 skipped" in done(cutout(*args)).err

    def test_results_bear_the_suffix_that_is_asked_for(self, cutout: Cutout) -> None:
        half(Path("in/a.jpg"))
        done(cutout("remove", "in/a.jpg", "--suffix", "_web"))
        done(cutout("remove", "in", "-o", "out", "--suffix", "_web"))
        done(cutout("remove", "in", "--suffix", " free"))
        assert tree() == ["in free/a.png", "in free/a_web.png", "in/a.jpg", "in/a_web.png", "out/a_web.png"]
        run = done(cutout("remove", "in/a.jpg", "-o", "x.png", "--suffix", "_web"))
        assert "--suffix does nothing here" in run.err

    def test_results_beside_their_pictures_are_no_pictures_unless_they_are_named(self, cutout: Cutout) -> None:
        half(Path("in/a.jpg"))
        half(Path("in/b-cutout.png"))
        half(Path("in/x/c.jpg"))
        for args in (("in/a.jpg",), ("in/x",), ("in/*.jpg",)):
            done(cutout("remove", *args))
        assert {"in/a-cutout.png", "in/x-cutout/c.png"} < set(tree())
        run = done(cutout("remove", "in", "-o", "out", "--json"))
        files = sorted(line["input"] for line in run.lines if line["event"] == "file")
        assert files == ["in/a.jpg", "in/b-cutout.png", "in/x/c.jpg"]
        ignored = [line["input"] for line in run.lines if line.get("reason") == "earlier result"]
        assert ignored == ["in/a-cutout.png", "in/x-cutout"]
        assert run.lines[-1]["ignored"] == 2
        run = done(cutout("remove", "in/*.*", "-o", "out"))
        assert "1 ignored (earlier results)" in run.err
        for named in ("in/a-cutout.png", "in/*-cutout.png"):
            assert done(cutout("remove", named, "-o", "again/", "--dry-run")).out.startswith(b"in/a-cutout.png -> ")


class TestFormats:
    @pytest.mark.parametrize(
        ("name", "kind", "mode"),
        [
            ("out.png", "PNG", "RGBA"),
            ("out.webp", "WEBP", "RGBA"),
            ("out.tiff", "TIFF", "RGBA"),
            ("out.avif", "AVIF", "RGBA"),
            ("out.jpg", "JPEG", "RGB"),
        ],
    )
    def test_each_can_be_written_and_read_again(self, cutout: Cutout, name: str, kind: str, mode: str) -> None:
        done(cutout("remove", half(Path("a.png")), "-o", name))
        image = opened(name)
        assert (image.format, image.mode, image.size) == (kind, mode, (64, 32))
        left, right = left_and_right(name)
        assert isinstance(left, tuple)
        assert near(right, (*ORANGE, 255)[: len(mode)], 12)
        if mode == "RGBA":
            assert left[3] == CLEAR
        else:
            assert near(left, WHITE), "no transparency: a white background"

    def test_a_format_for_a_whole_folder(self, cutout: Cutout) -> None:
        half(Path("in/a.png"))
        half(Path("in/x/b.png"))
        done(cutout("remove", "in", "-f", "webp"))
        assert [name for name in tree() if "cutout" in name] == ["in-cutout/a.webp", "in-cutout/x/b.webp"]
        assert opened("in-cutout/x/b.webp").format == "WEBP"

    @pytest.mark.parametrize(
        ("color", "expected"), [("#0000ff", (0, 0, 255)), ("#0000ff80", (127, 127, 255)), ("#0000ff00", WHITE)]
    )
    def test_jpeg_takes_the_asked_for_colour(self, cutout: Cutout, color: str, expected: tuple[int, int, int]) -> None:
        done(cutout("remove", half(Path("a.png")), "-o", "out.jpg", "-b", color))
        assert near(left_and_right("out.jpg")[0], expected)

    def test_an_extension_names_its_format(self, cutout: Cutout) -> None:
        if not hasattr(TyperOption, "get_runtime_param"):
            pytest.skip("this Typer takes an enumeration's own words alone")
        for name, extension in (("jpeg", "jpg"), ("JPG", "jpg"), ("tif", "tiff")):
            done(cutout("remove", half(Path(f"{name}.png")), "-f", name))
            assert Path(f"{name}-cutout.{extension}").is_file()

    def test_quality_is_heeded(self, cutout: Cutout, examples: Path) -> None:
        for quality in ("20", "95"):
            done(cutout("remove", examples / "coffee.jpg", "-o", f"{quality}.jpg", "--quality", quality))
        assert Path("20.jpg").stat().st_size < Path("95.jpg").stat().st_size / 2

    def test_lossless_webp_keeps_every_value(self, cutout: Cutout, examples: Path) -> None:
        for name in ("out.webp", "out.tiff"):
            done(cutout("remove", examples / "chelsea.jpg", "-o", name, "--lossless", "--max-size", "100"))
        webp, tiff = np.asarray(opened("out.webp")), np.asarray(opened("out.tiff"))
        assert np.array_equal(webp[..., 3], tiff[..., 3])
        visible = tiff[..., 3] > 0
        assert np.array_equal(webp[visible], tiff[visible])


class TestLook:
    def test_the_colours_are_kept_and_the_rest_is_clear(self, cutout: Cutout) -> None:
        done(cutout("remove", half(Path("a.png")), "-o", "out.png"))
        left, right = left_and_right("out.png")
        assert isinstance(left, tuple)
        assert left[3] == CLEAR
        assert near(right, (*ORANGE, 255))

    def test_mask_writes_the_alpha_alone(self, cutout: Cutout) -> None:
        for name in ("out.png", "out.jpg"):
            done(cutout("remove", half(Path("a.png")), "-o", name, "--mask"))
            assert opened(name).mode == "L"
            left, right = left_and_right(name)
            assert isinstance(left, int)
            assert isinstance(right, int)
            assert left < 3
            assert right > 250

    @pytest.mark.parametrize("color", ["lime", "#0f0"])
    def test_a_background_colour_fills_what_is_clear(self, cutout: Cutout, color: str) -> None:
        done(cutout("remove", half(Path("a.png")), "-o", "out.png", "--background", color))
        assert opened("out.png").mode == "RGB"
        left, right = left_and_right("out.png")
        assert left == (0, 255, 0)
        assert near(right, ORANGE)

    def test_a_background_colour_may_be_seen_through(self, cutout: Cutout) -> None:
        done(cutout("remove", half(Path("a.png")), "-o", "out.webp", "--background", "#00ff0080", "--lossless"))
        left, right = left_and_right("out.webp")
        assert left == (0, 255, 0, 128)
        assert near(right, (*ORANGE, 255))

    def test_a_background_picture_fills_what_is_clear(self, cutout: Cutout) -> None:
        Image.new("RGB", (10, 300), (10, 20, 200)).save("sky.png")
        done(cutout("remove", half(Path("a.png")), "-o", "out.png", "--background", "sky.png"))
        assert opened("out.png").size == (64, 32)
        left, right = left_and_right("out.png")
        assert left == (10, 20, 200)
        assert near(right, ORANGE)

    def test_max_size_limits_the_longer_side(self, cutout: Cutout) -> None:
        done(cutout("remove", half(Path("a.png"), (400, 200)), "-o", "out.png", "--max-size", "100"))
        assert opened("out.png").size == (100, 50)
        done(cutout("remove", "a.png", "-o", "same.png", "--max-size", "4000"))
        assert opened("same.png").size == (400, 200)

    def test_threshold_makes_the_edge_hard(self, cutout: Cutout) -> None:
        image = Image.linear_gradient("L").convert("RGB")
        image.save("a.png")
        done(cutout("remove", "a.png", "-o", "soft.png", "--mask"))
        assert len(np.unique(np.asarray(opened("soft.png")))) > 100
        done(cutout("remove", "a.png", "-o", "hard.png", "--mask", "--threshold", "200"))
        soft, hard = np.asarray(opened("soft.png")), np.asarray(opened("hard.png"))
        assert np.array_equal(hard, np.where(soft >= 200, 255, 0))

    def test_post_process_makes_the_mask_binary(self, cutout: Cutout) -> None:
        Image.linear_gradient("L").convert("RGB").save("a.png")
        done(cutout("remove", "a.png", "-o", "out.png", "--mask", "--post-process"))
        mask = np.asarray(opened("out.png"))
        assert set(np.unique(mask)) == {0, 255}
        assert mask[0].max() == 0
        assert mask[-1].min() == 255

    @pytest.mark.parametrize("fit", ["pad", "stretch"])
    def test_fit_keeps_the_mask_in_its_place(self, cutout: Cutout, fit: str) -> None:
        half(Path("a.png"), (200, 50))
        done(cutout("remove", "a.png", "-o", "out.png", "--mask", "--fit", fit))
        mask = np.asarray(opened("out.png"))
        assert mask.shape == (50, 200)
        assert mask[:, :90].max() < 40
        assert mask[:, 110:].min() > 215

    def test_the_two_fits_differ(self, cutout: Cutout, examples: Path) -> None:
        for fit in ("pad", "stretch"):
            done(cutout("remove", examples / "coffee.jpg", "-o", f"{fit}.png", "--mask", CUTOUT_FIT=fit))
        assert not np.array_equal(np.asarray(opened("pad.png")), np.asarray(opened("stretch.png")))


class TestStreams:
    def test_standard_input_becomes_a_png_on_standard_output(self, cutout: Cutout) -> None:
        data = half(Path("a.jpg")).read_bytes()
        run = done(cutout("remove", "-", stdin=data))
        assert opened(run.out).format == "PNG"
        assert opened(run.out).mode == "RGBA"
        assert run.err == ""
        assert tree() == ["a.jpg"]

    def test_a_file_goes_to_standard_output_in_the_asked_for_format(self, cutout: Cutout) -> None:
        run = done(cutout("remove", half(Path("a.png")), "-o", "-", "--format", "webp", "--verbose"))
        assert opened(run.out).format == "WEBP"
        assert "inference" in run.err

    def test_standard_input_goes_to_a_file(self, cutout: Cutout) -> None:
        done(cutout("remove", "-", "-o", "out.avif", stdin=half(Path("a.png")).read_bytes()))
        assert opened("out.avif").format == "AVIF"

    def test_the_picture_is_that_of_the_file(self, cutout: Cutout) -> None:
        half(Path("a.png"))
        done(cutout("remove", "a.png", "-o", "out.png"))
        assert done(cutout("remove", "-", stdin=Path("a.png").read_bytes())).out == Path("out.png").read_bytes()

    @pytest.mark.parametrize("data", [b"", b"no picture", b"\x89PNG\r\n\x1a\n and no more"])
    def test_what_is_no_picture_leaves_standard_output_empty(self, cutout: Cutout, data: bytes) -> None:
        run = cutout("remove", "-", stdin=data)
        assert (run.code, run.out) == (1, b"")
        assert run.err.startswith("error: -: ")

    @pytest.mark.parametrize("inputs", [("-",), ("a.png", "-o", "-"), ("a.png", "-o", "/dev/stdout")])
    def test_json_and_a_picture_cannot_share_it(self, cutout: Cutout, inputs: tuple[str, ...]) -> None:
        half(Path("a.png"))
        run = cutout("remove", *inputs, "--json")
        assert run.code == 2
        assert "--json and the picture cannot both go to standard output" in run.err
        error, summary = run.lines
        assert error["error"]["message"] == "--json and the picture cannot both go to standard output"
        assert summary["exit_code"] == 2

    @pytest.mark.parametrize(
        ("args", "words"),
        [(("a.png", "-o", "-"), b"standard output is a terminal"), (("-", "-o", "x.png"), b"standard input is a ter")],
    )
    def test_a_terminal_neither_takes_nor_gives_a_picture(
        self, cutout: Cutout, args: tuple[str, ...], words: bytes
    ) -> None:
        half(Path("a.png"))
        leader, follower = pty.openpty()
        try:
            run = subprocess.run(
                [*cutout.command, "remove", *args],
                stdin=follower,
                stdout=follower,
                stderr=subprocess.PIPE,
                check=False,
                timeout=60,
            )
        finally:
            os.close(leader)
            os.close(follower)
        assert run.returncode == 2
        assert words in run.stderr

    @pytest.mark.parametrize("args", [("-o", "-"), ("-o", "out.png", "--json"), ("--dry-run",)])
    def test_a_reader_that_has_gone_ends_the_run_without_noise(self, cutout: Cutout, args: tuple[str, ...]) -> None:
        half(Path("a.png"))
        reader, writer = os.pipe()
        os.close(reader)
        run = subprocess.run(
            [*cutout.command, "remove", "a.png", *args, "--quiet"],
            stdout=writer,
            stderr=subprocess.PIPE,
            check=False,
            timeout=60,
        )
        os.close(writer)
        assert (run.returncode, run.stderr) == (1, b"")

    @pytest.mark.parametrize("args", [("-o", "-"), ("-o", "out.png", "--json"), ("--dry-run",)])
    def test_a_full_disk_behind_it_is_told(self, cutout: Cutout, args: tuple[str, ...]) -> None:
        half(Path("a.png"))
        if not Path("/dev/full").exists():
            pytest.skip("no /dev/full here")
        with Path("/dev/full").open("wb", buffering=0) as full:
            run = subprocess.run(
                [*cutout.command, "remove", "a.png", *args],
                stdout=full,
                stderr=subprocess.PIPE,
                check=False,
                timeout=60,
            )
        assert run.returncode == 1
        assert b"standard output cannot be written: No space left on device" in run.stderr
        assert b"Exception ignored" not in run.stderr

    def test_so_it_is_for_other_commands(self, cutout: Cutout) -> None:
        if not Path("/dev/full").exists():
            pytest.skip("no /dev/full here")
        with Path("/dev/full").open("wb", buffering=0) as full:
            run = subprocess.run(
                [*cutout.command, "models", "list"], stdout=full, stderr=subprocess.PIPE, check=False, timeout=60
            )
        assert run.returncode == 1
        assert run.stderr == b"error: the output cannot be written: No space left on device\n"

    @pytest.mark.parametrize("redirection", ["2>&-", "2>/dev/full", "<&-", ">&-"])
    def test_a_closed_stream_that_nobody_needs_is_no_trouble(self, cutout: Cutout, redirection: str) -> None:
        half(Path("a.png"))
        command = f'"$0" -m cutout remove a.png -o out.png {redirection}'
        assert subprocess.run(["sh", "-c", command, sys.executable], check=False, timeout=60).returncode == 0
        assert opened("out.png").size == (64, 32)

    @pytest.mark.parametrize(
        ("args", "words"),
        [("- -o out.png <&-", "standard input cannot be read: it is closed"), ("a.png -o - >&-", "it is closed")],
    )
    def test_a_closed_stream_that_is_needed_is_told(self, cutout: Cutout, args: str, words: str) -> None:
        half(Path("a.png"))
        run = subprocess.run(
            ["sh", "-c", f'"$0" -m cutout remove {args}', sys.executable], capture_output=True, check=False, timeout=60
        )
        assert run.returncode == 1
        assert words in run.stderr.decode()


class TestWhatIsPrinted:
    def test_json_tells_of_every_file_and_sums_up(self, cutout: Cutout) -> None:
        half(Path("in/a.png"))
        half(Path("in/b.png"), (40, 20))
        Path("in/broken.jpg").write_text("no picture")
        Path("in/notes.txt").write_text("no picture")
        run = cutout("remove", "in", "-o", "out", "--json")
        ignored, *lines, summary = run.lines
        assert run.code == 1
        assert ignored == {"event": "ignored", "input": "in/notes.txt", "reason": "no picture"}
        by_input = {line["input"]: line for line in lines}
        assert {name: line["status"] for name, line in by_input.items()} == {
            "in/a.png": "done",
            "in/b.png": "done",
            "in/broken.jpg": "failed",
        }
        first, broken = by_input["in/a.png"], by_input["in/broken.jpg"]
        assert (first["event"], first["output"], first["width"], first["height"]) == ("file", "out/a.png", 64, 32)
        assert set(first["ms"]) == {"load", "decode", "preprocess", "inference", "postprocess", "encode", "write"}
        assert broken["error"]["kind"] == "picture"
        assert broken["error"]["message"]
        assert not Path(broken["output"]).exists()
        assert summary.pop("seconds") > 0
        assert summary == {
            "event": "summary",
            "total": 3,
            "done": 2,
            "skipped": 0,
            "failed": 1,
            "ignored": 1,
            "not_started": 0,
            "interrupted": False,
            "model": "brightness",
            "device": "cpu",
            "engine": "onnxruntime",
            "exit_code": 1,
        }

    def test_quiet_prints_nothing_on_success(self, cutout: Cutout) -> None:
        half(Path("in/a.png"))
        half(Path("in/b.png"))
        run = done(cutout("remove", "in", "-o", "out", "--quiet"))
        assert (run.out, run.err) == (b"", "")

    def test_quiet_still_tells_what_failed(self, cutout: Cutout) -> None:
        Path("a.jpg").write_text("no picture")
        run = cutout("remove", "a.jpg", "-o", "out.png", "-q")
        assert (run.code, run.out) == (1, b"")
        assert "error: a.jpg: " in run.err

    def test_verbose_shows_stage_times_device_and_what_was_ignored(self, cutout: Cutout) -> None:
        half(Path("in/a.png"))
        Path("in/notes.txt").write_text("no picture")
        run = done(cutout("remove", "in", "-o", "out", "-v"))
        assert "in/notes.txt: ignored, no picture" in run.err
        assert "brightness on cpu (onnxruntime), 1 at a time" in run.err
        (line,) = (line for line in run.err.splitlines() if "[ms]" in line)
        assert "in/a.png → out/a.png" in line
        for stage in ("load", "decode", "preprocess", "inference", "postprocess", "encode", "write"):
            assert f" {stage} " in line

    def test_without_verbose_there_are_no_stage_times_and_no_traceback(self, cutout: Cutout) -> None:
        Path("a.png").write_bytes(half(Path("b.png")).read_bytes()[:100])
        run = cutout("remove", "a.png", "b.png", "-o", "out")
        assert "[ms]" not in run.err
        assert "Traceback" not in run.err
        assert "Traceback" in cutout("remove", "a.png", "b.png", "-o", "out", "-v").err

    def test_a_dry_run_prints_the_plan_and_does_nothing(self, cutout: Cutout) -> None:
        half(Path("in/a.png"))
        half(Path("in/b.png"))
        Path("out").mkdir()
        Path("out/b.png").write_text("old")
        Path("out/.c.png.0123abcd.cutout-part").write_text("left behind")
        before = tree()
        run = done(cutout("remove", "in", "-o", "out", "--dry-run", "--model", "u2net"))
        assert run.out.decode().splitlines() == [
            "in/a.png -> out/a.png",
            "in/b.png -> out/b.png  (exists, skipped)",
        ]
        assert tree() == before

    def test_a_dry_run_speaks_json(self, cutout: Cutout) -> None:
        half(Path("in/a.png"))
        Path("in/notes.txt").write_text("no picture")
        run = done(cutout("remove", "in", "-o", "out", "--dry-run", "--json"))
        assert run.lines == [
            {"event": "ignored", "input": "in/notes.txt", "reason": "no picture"},
            {"event": "file", "input": "in/a.png", "output": "out/a.png", "status": "planned"},
            {"event": "plan", "total": 1, "ignored": 1},
        ]
        assert not Path("out").exists()

    def test_a_bar_is_drawn_on_a_terminal_and_leaves_no_trace(self, cutout: Cutout) -> None:
        for number in range(3):
            half(Path(f"in/{number}.png"))
        leader, follower = pty.openpty()
        child = subprocess.Popen(
            [*cutout.command, "remove", "in", "-o", "out"],
            stdout=subprocess.DEVNULL,
            stderr=follower,
            env={**os.environ, "TERM": "xterm"},
        )
        os.close(follower)
        drawn = b""
        try:
            while chunk := os.read(leader, 4096):
                drawn += chunk
        except OSError:  # how a terminal says that nobody is left
            pass
        os.close(leader)
        assert child.wait(60) == 0
        assert b"/3" in drawn
        assert drawn.rindex(b"\x1b[?25h") > drawn.rindex(b"\x1b[?25l"), "the cursor is back"
        last = drawn.decode().splitlines()[-1]
        assert "3 done in" in last


class TestExitCodes:
    def test_0_when_all_is_done(self, cutout: Cutout) -> None:
        assert cutout("remove", half(Path("a.png")), "-o", "out.png").code == 0

    def test_1_when_a_file_failed_and_the_others_are_done(self, cutout: Cutout) -> None:
        half(Path("in/a.png"))
        Path("in/broken.png").write_text("no picture")
        half(Path("in/z.png"))
        run = cutout("remove", "in", "-o", "out")
        assert run.code == 1
        assert "error: in/broken.png: " in run.err
        assert "2 done, 1 failed" in run.err
        assert run.err.splitlines()[-1].endswith(" -> out"), "where the results are"
        assert sorted(path.name for path in Path("out").iterdir()) == ["a.png", "z.png"]

    @pytest.mark.parametrize(
        ("args", "words"),
        [
            (("nowhere.png",), "the input nowhere.png does not exist"),
            (("https://a.b/c.jpg?d=1&e",), "curl -L 'https://a.b/c.jpg?d=1&e' | cutout remove - -o photo.png"),
            (("a.png", "-o", "a.png"), "the output a.png of a.png is the input a.png"),
            (("a.png", "a.jpg", "-o", "out"), "would both become out/a.png"),
            (("a.png", "-o", "out.gif"), "none that can be written"),
            (("a.png", "-o", "old.png", "--existing", "fail"), "the output old.png exists already"),
            (("a.png", "--mask", "--background", "red"), "--background has nothing to fill"),
            (("a.png", "--background", "nosuchcolour"), "neither a colour nor a picture file"),
            (("a.png", "--background", "broken.jpg"), "broken.jpg cannot be used"),
            (("a.png", "--background", "old.png", "-o", "old.png"), "is the input old.png"),
            (("a.png", "--model", "u3net"), "there is no model 'u3net'"),
            (("a.png", "--device", "toaster"), "there is no device 'toaster'"),
            (("a.png", "--model-option", "class"), "not of the form key=value"),
            (("a.png", "--background", "rgb(300,0,0)"), "neither a colour nor a picture file"),
            (("a.png", "--shadow", "0,0,9,1,rgb(300,0,0)"), "--shadow"),
            (("a.png", "--bit-depth", "16", "-o", "x.jpg"), "--bit-depth 16 goes with png and tiff"),
            (("a.png", "--bit-depth", "16", "-o", "x.jpg", "--dry-run"), "--bit-depth 16 goes with png and tiff"),
            (("a.png", "--threshold", "256"), "--threshold"),
            (("a.png", "--format", "gif"), "gif"),
            (("a.png", "--no-such-option"), "--no-such-option"),
        ],
    )
    def test_2_for_wrong_usage_before_any_work(self, cutout: Cutout, args: tuple[str, ...], words: str) -> None:
        for name in ("a.png", "a.jpg", "old.png"):
            half(Path(name))
        Path("broken.jpg").write_text("no picture")
        before = tree()
        run = cutout("remove", *args, COLUMNS="200")
        assert (run.code, run.out) == (2, b"")
        assert words in run.err
        assert tree() == before

    @pytest.mark.parametrize(
        ("args", "code", "kind", "total"),
        [
            ((), 2, "usage", 0),
            (("nowhere.png",), 2, "usage", 0),
            (("a.png", "--no-such-option"), 2, "usage", 0),
            (("a.png", "--format", "gif"), 2, "usage", 0),
            (("empty", "--fail-empty"), 2, "usage", 0),
            (("a.png", "--model", "u2net"), 3, "model", 1),
            (("a.png", "--device", "toaster"), 2, "usage", 1),
        ],
    )
    def test_json_tells_what_stopped_the_whole_run_and_sums_up(
        self, cutout: Cutout, args: tuple[str, ...], code: int, kind: str, total: int
    ) -> None:
        half(Path("a.png"))
        Path("empty").mkdir()
        for run in (cutout("remove", *args, "--json"), cutout("remove", *args, CUTOUT_JSON="yes")):
            error, summary = run.lines
            assert (run.code, error["event"], error["error"]["kind"]) == (code, "error", kind)
            assert run.err.startswith(f"error: {error['error']['message']}\n")
            assert error["error"]["hint"] in run.err
            counts = [summary[name] for name in ("event", "exit_code", "total", "done", "not_started")]
            assert counts == ["summary", code, total, 0, total]

    def test_other_commands_tell_programs_too(self, cutout: Cutout) -> None:
        run = cutout("models", "verify", "u3net", "--json")
        (line,) = run.lines
        assert (run.code, line["event"], line["error"]["kind"]) == (2, "error", "usage")

    def test_several_failures_are_named_again_one_to_a_line(self, cutout: Cutout) -> None:
        Path("in").mkdir()
        for name in ("a, b.mp4.jpg", "c.png"):
            Path("in", name).write_text("no picture")
        Path("film.mp4").write_bytes(b"\0\0\0\x18ftypmp42")
        run = cutout("remove", "in", "film.mp4", "-o", "out", "-j", "1")
        *_, summary, first, second, third = run.err.splitlines()
        assert summary.startswith("0 done, 3 failed in ")
        assert {first, second, third} == {"failed: in/a, b.mp4.jpg", "failed: in/c.png", "failed: film.mp4"}
        assert "error: film.mp4: this is a video, not a picture\n  try: take its pictures out: " in run.err

    def test_heic_without_its_codec_is_told_before_the_work(self) -> None:
        half(Path("in/a.png"))
        Path("in/b.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
        code = (
            "import sys; sys.modules['pillow_heif'] = None; from cutout.cli import main\n"
            "sys.argv = ['cutout', 'remove', 'in', '-o', 'out']; main()"
        )
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False, timeout=60)
        first, *others = run.stderr.decode().splitlines()
        assert first.startswith("warning: HEIC (1 of 2 inputs) needs a codec that is not installed: pip install")
        assert any(line.startswith("error: in/b.heic: ") for line in others)
        assert run.returncode == 1

    @pytest.mark.parametrize("args", [(), ("--fail-empty",)])
    def test_2_for_no_picture_where_it_was_asked_for(self, cutout: Cutout, args: tuple[str, ...]) -> None:
        Path("in").mkdir()
        run = cutout("remove", "in", *args)
        assert run.code == (2 if args else 0)
        assert "there is no picture among the inputs" in run.err

    def test_a_command_that_is_not_understood_is_told_in_two_lines(self, cutout: Cutout) -> None:
        for args, words, way in (
            (("remove",), "no input is named", "cutout remove photo.jpg"),
            (("remove", "a.png", "--nope"), "no such option: --nope", "cutout remove --help"),
            (("eval",), "missing argument 'IMAGES'", "cutout eval --help"),
            (("rmove", "x"), "no such command 'rmove'", "cutout --help"),
        ):
            run = cutout(*args, COLUMNS="40")
            error, hint = run.err.splitlines()
            assert (run.code, run.out) == (2, b"")
            assert error.startswith(f"error: {words}")
            assert hint.startswith("  try: ")
            assert way in hint

    def test_help_and_version_as_people_type_them(self, cutout: Cutout) -> None:
        assert done(cutout("help")).out == done(cutout("--help")).out
        assert done(cutout("help", "remove")).out == done(cutout("remove", "-h")).out
        assert done(cutout("-V")).out == done(cutout("--version")).out
        bare = cutout()
        assert (bare.code, bare.out.split()) == (2, cutout("--help").out.split())

    def test_3_for_a_missing_model_with_the_command_that_brings_it(self, cutout: Cutout) -> None:
        run = cutout("remove", half(Path("a.png")), "-o", "out.png", "--model", "u2net")
        assert (run.code, run.out) == (3, b"")
        assert run.err.splitlines()[0] == "error: the model u2net is not on this machine"
        assert "cutout models pull u2net" in run.err.splitlines()[1]
        assert tree() == ["a.png"]

    @pytest.mark.parametrize("content", [None, b"", b"no model at all"])
    def test_3_for_a_model_file_that_is_none(self, cutout: Cutout, content: bytes | None) -> None:
        half(Path("a.png"))
        if content is not None:
            Path("mine.onnx").write_bytes(content)
        run = cutout("remove", "a.png", "-o", "out.png", "--model", "mine.onnx")
        assert run.code == 3
        assert "mine.onnx" in run.err
        assert not Path("out.png").exists()

    @pytest.mark.parametrize("device", ["cuda", "coreml"])
    def test_4_for_a_device_that_cannot_be_used_with_the_reason(self, cutout: Cutout, device: str) -> None:
        import onnxruntime

        provider = {"cuda": "CUDAExecutionProvider", "coreml": "CoreMLExecutionProvider"}[device]
        if provider in onnxruntime.get_available_providers():
            pytest.skip(f"this machine may have {device}")
        run = cutout("remove", half(Path("a.png")), "-o", "out.png", "--device", device)
        assert (run.code, run.out) == (4, b"")
        assert f"--device {device} cannot be used: " in run.err
        assert f"was built without {provider}" in run.err
        assert not Path("out.png").exists()

    def bug(self, *args: str) -> Run:
        """A run of a program with a bug that one picture leads into."""
        from conftest import Run

        code = (
            "import sys, cutout.formats.decode as codec; from cutout.cli import main\n"
            "real = codec.check\n"
            "def check(data, **settings):\n"
            "    if len(data) == 5: raise ZeroDivisionError('nobody thought of this')\n"
            "    return real(data, **settings)\n"
            "codec.check = check; sys.argv[0] = 'cutout'; main()"
        )
        found = subprocess.run([sys.executable, "-c", code, *args], capture_output=True, check=False, timeout=60)
        return Run(found.returncode, found.stdout, found.stderr.decode())

    def test_70_for_a_bug_of_ours_and_the_others_are_done(self) -> None:
        half(Path("in/a.png"))
        Path("in/b.png").write_bytes(b"12345")
        half(Path("in/c.png"))
        run = self.bug("remove", "in", "-o", "out", "--json", "-j", "1")
        assert run.code == 70
        assert [line.get("status") for line in run.lines] == ["done", "failed", "done", None]
        assert run.lines[1]["error"]["kind"] == "bug"
        assert run.lines[-1]["exit_code"] == 70
        assert "in/b.png: this is a bug of cutout" in run.err
        assert "ZeroDivisionError: nobody thought of this" in run.err
        assert "report it" in run.err
        assert "Traceback" not in run.err
        assert "in check" in self.bug("remove", "in", "-o", "out", "--verbose").err

    def test_70_for_a_bug_outside_of_any_picture(self) -> None:
        code = (
            "import sys, cutout.jobs.plan as files; from cutout.cli import main\n"
            "def plan(*_, **__): raise ZeroDivisionError('nobody thought of this')\n"
            "files.plan = plan; sys.argv = ['cutout', 'remove', 'a.png', *sys.argv[1:]]; main()"
        )
        for args, traced in (((), False), (("--verbose",), True)):
            run = subprocess.run([sys.executable, "-c", code, *args], capture_output=True, check=False, timeout=60)
            assert run.returncode == 70
            assert b"this is a bug of cutout" in run.stderr
            assert (b"Traceback" in run.stderr) is traced

    def test_2_for_a_current_folder_that_is_gone(self, cutout: Cutout, tmp_path: Path) -> None:
        half(tmp_path / "a.png")
        gone = tmp_path / "gone"
        gone.mkdir()
        code = "import os, sys; os.rmdir(os.getcwd()); from cutout.cli import main; main()"
        for output in ("x.png", "x/"):
            gone.mkdir(exist_ok=True)
            run = subprocess.run(
                [sys.executable, "-P", "-c", code, "remove", str(tmp_path / "a.png"), "-o", output],
                cwd=gone,
                capture_output=True,
                check=False,
                timeout=60,
            )
            assert run.returncode == 2
            assert b"the current folder does not exist any more" in run.stderr

    def test_130_for_an_interrupt_before_the_work(self) -> None:
        code = (
            "import sys, cutout.jobs.plan as files; from cutout.cli import main\n"
            "def plan(*_, **__): raise KeyboardInterrupt\n"
            "files.plan = plan; sys.argv = ['cutout', 'remove', 'a.png']; main()"
        )
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False, timeout=60)
        assert run.returncode == 130
        assert b"Traceback" not in run.stderr


class TestEnvironment:
    def test_every_option_has_its_variable(self) -> None:
        command = typer.main.get_command(app).get_command(None, "remove")  # type: ignore[attr-defined]
        options = {param.name: param for param in command.params if param.param_type_name == "option"}
        assert len(options) > 20
        for option in options.values():
            if "--help" in option.opts:
                continue
            long = next(name for name in option.opts if name.startswith("--"))
            assert option.envvar == "CUTOUT_" + long.removeprefix("--").replace("-", "_").upper()

    def test_format(self, cutout: Cutout) -> None:
        done(cutout("remove", half(Path("a.png")), CUTOUT_FORMAT="webp"))
        assert opened("a-cutout.webp").format == "WEBP"

    def test_the_command_line_wins(self, cutout: Cutout) -> None:
        done(cutout("remove", half(Path("a.png")), "--format", "tiff", CUTOUT_FORMAT="webp"))
        assert tree() == ["a-cutout.tiff", "a.png"]

    def test_output_and_flags(self, cutout: Cutout) -> None:
        half(Path("in/a.png"))
        half(Path("in/x/b.png"))
        run = done(
            cutout("remove", "in", CUTOUT_OUTPUT="out", CUTOUT_MASK="1", CUTOUT_RECURSIVE="0", CUTOUT_QUIET="yes")
        )
        assert run.err == ""
        assert [path.name for path in Path("out").iterdir()] == ["a.png"]
        assert opened("out/a.png").mode == "L"

    def test_jobs(self, cutout: Cutout) -> None:
        for number in range(4):
            half(Path(f"in/{number}.png"))
        run = done(cutout("remove", "in", "-o", "out", "-v", CUTOUT_JOBS="3"))
        assert "3 at a time" in run.err

    def test_on_collision(self, cutout: Cutout) -> None:
        half(Path("in/a.png"))
        half(Path("in/a.jpg"))
        done(cutout("remove", "in", "-o", "out", CUTOUT_ON_COLLISION="suffix"))
        assert sorted(path.name for path in Path("out").iterdir()) == ["a-jpg.png", "a-png.png"]

    def test_existing(self, cutout: Cutout) -> None:
        half(Path("a.png"))
        Path("out.png").write_text("old")
        run = cutout("remove", "a.png", "-o", "out.png", CUTOUT_EXISTING="fail")
        assert run.code == 2
        assert Path("out.png").read_text() == "old"

    def test_device(self, cutout: Cutout) -> None:
        run = cutout("remove", half(Path("a.png")), "-o", "out.png", CUTOUT_DEVICE="toaster")
        assert run.code == 2
        assert "toaster" in run.err

    def test_a_value_that_makes_no_sense_is_wrong_usage(self, cutout: Cutout) -> None:
        run = cutout("remove", half(Path("a.png")), CUTOUT_QUALITY="very good", COLUMNS="200")
        assert run.code == 2
        assert "--quality" in run.err

    @pytest.mark.parametrize(("value", "traced"), [("0", False), ("false", False), ("1", True)])
    def test_verbose_is_a_flag_for_errors_too(self, cutout: Cutout, value: str, traced: bool) -> None:
        Path("bad.jpg").write_text("no picture")
        run = cutout("remove", half(Path("a.png")), "-b", "bad.jpg", CUTOUT_VERBOSE=value)
        assert run.code == 2
        assert ("Traceback" in run.err) is traced


class TestPermissions:
    @pytest.fixture(autouse=True)
    def as_a_user(self, cutout: Cutout, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(cutout, "command", (*limited(), *cutout.command))

    def test_an_input_that_may_not_be_read_fails_alone(self, cutout: Cutout) -> None:
        half(Path("in/a.png"))
        half(Path("in/b.png")).chmod(0)
        run = cutout("remove", "in", "-o", "out", "--json")
        assert run.code == 1
        assert [line["status"] for line in sorted(run.lines[:-1], key=lambda line: str(line["input"]))] == [
            "done",
            "failed",
        ]
        assert "in/b.png: the file cannot be read: Permission denied" in run.err

    def test_a_folder_below_that_may_not_be_read_fails_and_the_others_are_done(self, cutout: Cutout) -> None:
        half(Path("in/a.png"))
        half(Path("in/locked/b.png"))
        Path("in/locked").chmod(0)
        try:
            run = cutout("remove", "in", "-o", "out", "--json")
            dry = cutout("remove", "in", "-o", "other", "--dry-run", "--json")
        finally:
            Path("in/locked").chmod(0o755)
        assert run.code == 1
        lines = {line["input"]: line["status"] for line in run.lines[:-1]}
        assert lines == {"in/locked": "failed", "in/a.png": "done"}
        assert (run.lines[-1]["total"], run.lines[-1]["failed"]) == (2, 1)
        assert "in/locked: the folder cannot be read" in run.err
        assert dry.code == 1
        assert {line["input"]: line["status"] for line in dry.lines[:-1]} == {
            "in/locked": "failed",
            "in/a.png": "planned",
        }
        assert dry.lines[0]["error"] == next(line["error"] for line in run.lines if line.get("input") == "in/locked")
        assert dry.lines[-1]["total"] == 2
        assert "in/locked: the folder cannot be read" in dry.err

    def test_an_output_folder_that_may_not_be_written_to_is_told_before_the_work(self, cutout: Cutout) -> None:
        half(Path("in/a.png"))
        Path("out").mkdir()
        Path("out").chmod(0o555)
        run = cutout("remove", "in", "-o", "out/deep", "--json")
        assert run.code == 1
        assert "out/deep/a.png cannot be written: permission denied" in run.err
        assert "inference" not in run.lines[0].get("ms", {})

    def test_an_output_folder_that_may_not_be_looked_into(self, cutout: Cutout) -> None:
        half(Path("in/a.png"))
        Path("out").mkdir()
        Path("out").chmod(0)
        for output in ("out", "out/a.png", "out/x/"):
            run = cutout("remove", "in/a.png", "-o", output)
            assert run.code == 1
            assert "permission denied" in run.err
        Path("out").chmod(0o755)
        assert list(Path("out").iterdir()) == []


def test_json_lines_are_one_to_a_line_whatever_the_names(cutout: Cutout) -> None:
    name = "two\nlines \u2028 and \x1b[31m.png"
    Path("in").mkdir()
    half(Path("x.png")).rename(Path("in") / name)
    run = done(cutout("remove", "in", "-o", "out", "--json"))
    assert run.out.count(b"\n") == 2
    assert json.loads(run.out.splitlines()[0])["input"] == f"in/{name}"
