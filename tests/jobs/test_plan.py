"""What becomes of which file is decided, and refused where it could lose one, before any work; outputs are whole."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from small import limited

from cutout import atomic
from cutout.atomic import check_writable, is_there, sweep, write_atomic
from cutout.enums import Existing, OnCollision
from cutout.errors import OutputError, UsageError
from cutout.jobs.plan import Plan, plan
from cutout.output_formats import OutputFormat

if TYPE_CHECKING:
    from collections.abc import Iterator

PNG = b"\x89PNG\r\n\x1a\n" + bytes(24)
JPEG = b"\xff\xd8\xff\xe0" + bytes(28)
TIFF = b"II*\x00" + bytes(28)
TEXT = b"Dear diary, today I saw a cat.\n"


pytestmark = pytest.mark.usefixtures("here")


def put(*names: str, content: bytes = PNG) -> None:
    """Files with the content, and the folders they lie in."""
    for name in names:
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def names(folder: Path | str = ".") -> list[str]:
    """What lies in the folder."""
    return sorted(path.name for path in Path(folder).iterdir())


def pairs(found: Plan) -> dict[str, str]:
    """Input → output."""
    assert len({job.source_name for job in found.jobs}) == len(found.jobs)
    return {job.source_name: job.target_name for job in found.jobs}


def planned(*inputs: str, output: str | None = None, **settings: Any) -> dict[str, str]:
    return pairs(plan(inputs, output, **settings))


def refused(*inputs: str, output: str | None = None, **settings: Any) -> str:
    """Message and hint with which a plan is refused; nothing is written or removed by then."""
    before = sorted(Path().rglob("*"))
    with pytest.raises(UsageError) as caught:
        plan(inputs, output, **settings)
    assert sorted(Path().rglob("*")) == before
    return f"{caught.value.message} | {caught.value.hint}"


class TestOneFile:
    def test_without_an_output_the_result_lies_beside_the_input(self) -> None:
        put("pics/cat.jpg", content=JPEG)
        assert planned("pics/cat.jpg") == {"pics/cat.jpg": "pics/cat-cutout.png"}

    def test_the_asked_for_format_is_the_extension_of_a_name_that_we_choose(self) -> None:
        put("cat.jpg")
        assert planned("cat.jpg", output_format=OutputFormat.WEBP) == {"cat.jpg": "cat-cutout.webp"}

    def test_a_named_output_is_taken_as_it_is(self) -> None:
        put("cat.jpg")
        assert planned("cat.jpg", output="new/Result.PNG") == {"cat.jpg": "new/Result.PNG"}

    @pytest.mark.parametrize(
        ("name", "output_format"),
        [
            ("x.png", OutputFormat.PNG),
            ("x.webp", OutputFormat.WEBP),
            ("x.jpg", OutputFormat.JPEG),
            ("x.JPEG", OutputFormat.JPEG),
            ("x.tif", OutputFormat.TIFF),
            ("x.tiff", OutputFormat.TIFF),
            ("x.avif", OutputFormat.AVIF),
        ],
    )
    def test_the_extension_of_the_output_says_the_format(self, name: str, output_format: OutputFormat) -> None:
        put("cat.jpg")
        assert plan(["cat.jpg"], name).jobs[0].output_format is output_format

    def test_an_asked_for_format_wins_over_the_extension(self) -> None:
        put("cat.jpg")
        job = plan(["cat.jpg"], "cat.dat", output_format=OutputFormat.TIFF).jobs[0]
        assert (job.target_name, job.output_format) == ("cat.dat", OutputFormat.TIFF)

    @pytest.mark.parametrize("name", ["cat.gif", "cat.psd", "cat.v2"])
    def test_an_extension_that_cannot_be_written_is_refused_with_those_that_can(self, name: str) -> None:
        put("cat.jpg")
        message = refused("cat.jpg", output=name)
        assert name in message
        assert ".png .webp .jpg" in message

    def test_an_output_without_an_extension_is_a_folder(self) -> None:
        put("pics/cat.jpg")
        assert planned("pics/cat.jpg", output="out") == {"pics/cat.jpg": "out/cat.png"}

    def test_an_output_with_a_slash_at_the_end_is_a_folder(self) -> None:
        put("cat.jpg")
        assert planned("cat.jpg", output="out.png/") == {"cat.jpg": "out.png/cat.png"}

    def test_an_output_that_is_a_folder_gets_the_file(self) -> None:
        put("cat.jpg")
        Path("out.d").mkdir()
        assert planned("cat.jpg", output="out.d") == {"cat.jpg": "out.d/cat.png"}

    def test_an_empty_output_name_is_refused(self) -> None:
        """`-o "$OUT"` with OUT unset must not fill the current folder."""
        put("pics/cat.jpg")
        assert "empty name" in refused("pics/cat.jpg", output="")

    def test_a_missing_input_is_refused_by_name(self) -> None:
        assert "the input nowhere.jpg does not exist" in refused("nowhere.jpg")

    def test_an_empty_input_name_is_refused(self) -> None:
        assert "does not exist" in refused("")

    def test_a_single_file_is_taken_whatever_it_is(self) -> None:
        """What was asked for by name is done, or fails loudly."""
        put("notes.txt", content=TEXT)
        assert planned("notes.txt") == {"notes.txt": "notes-cutout.png"}

    def test_the_part_before_the_last_dot_is_kept(self) -> None:
        put("cat.v1.2.jpg", "noext")
        assert planned("cat.v1.2.jpg") == {"cat.v1.2.jpg": "cat.v1.2-cutout.png"}
        assert planned("noext", output="out/") == {"noext": "out/noext.png"}


class TestStandardStreams:
    @pytest.mark.parametrize("name", ["-", "/dev/stdin", "/dev/fd/0"])
    def test_standard_input_goes_to_standard_output(self, name: str) -> None:
        job = plan([name], None).jobs[0]
        assert (job.source, job.target, job.output_format) == (None, None, OutputFormat.PNG)

    def test_standard_input_goes_to_a_file(self) -> None:
        assert planned("-", output="cat.webp") == {"-": "cat.webp"}

    def test_standard_input_goes_to_a_folder_by_its_own_name(self) -> None:
        assert planned("-", output="out/", output_format=OutputFormat.AVIF) == {"-": "out/stdin.avif"}

    @pytest.mark.parametrize("name", ["-", "/dev/stdout", "/dev/fd/1"])
    def test_a_file_goes_to_standard_output(self, name: str) -> None:
        put("cat.jpg")
        assert plan(["cat.jpg"], name, output_format=OutputFormat.WEBP).jobs[0].target is None

    def test_several_pictures_cannot_go_to_standard_output(self) -> None:
        put("a.jpg", "b.jpg")
        assert "-o - writes one picture" in refused("a.jpg", "b.jpg", output="-")
        assert "-o - writes one picture" in refused(".", output="-")

    def test_standard_input_is_read_once(self) -> None:
        assert "only once" in refused("-", "-", output="out")

    def test_standard_input_among_files(self) -> None:
        put("a.jpg")
        assert planned("-", "a.jpg", output="out") == {"-": "out/stdin.png", "a.jpg": "out/a.png"}


class TestSeveralInputs:
    def test_they_go_into_the_output_folder_by_name(self) -> None:
        put("one/a.jpg", "two/b.png")
        assert planned("one/a.jpg", "two/b.png", output="out") == {
            "one/a.jpg": "out/a.png",
            "two/b.png": "out/b.png",
        }

    def test_without_an_output_each_result_lies_beside_its_input(self) -> None:
        put("one/a.jpg", "two/b.png")
        assert planned("one/a.jpg", "two/b.png") == {
            "one/a.jpg": "one/a-cutout.png",
            "two/b.png": "two/b-cutout.png",
        }

    def test_they_come_in_the_order_they_were_given(self) -> None:
        put("b.jpg", "a.jpg")
        assert [job.source_name for job in plan(["b.jpg", "a.jpg"], "out").jobs] == ["b.jpg", "a.jpg"]

    def test_an_output_that_is_a_file_is_refused(self) -> None:
        put("a.jpg", "b.jpg", "out.jpg")
        assert "is a file" in refused("a.jpg", "b.jpg", output="out.jpg")

    def test_an_output_that_is_named_like_a_picture_is_no_folder(self) -> None:
        put("in/a.jpg", "in/b.jpg")
        assert "several pictures go into a folder" in refused("in", output="out.png")
        assert planned("in", output="out.png/") == {"in/a.jpg": "out.png/a.png", "in/b.jpg": "out.png/b.png"}

    def test_a_pattern_is_expanded_in_order(self) -> None:
        put("pics/b.jpg", "pics/a.jpg", "pics/deep/c.jpg", "pics/d.png")
        assert planned("pics/*.jpg", output="out") == {"pics/a.jpg": "out/a.png", "pics/b.jpg": "out/b.png"}
        assert list(planned("pics/**/*.jpg", output="out")) == ["pics/a.jpg", "pics/b.jpg", "pics/deep/c.jpg"]

    def test_a_pattern_that_matches_nothing_is_refused(self) -> None:
        assert "*.jpg matches nothing" in refused("*.jpg")

    def test_a_file_whose_name_looks_like_a_pattern_is_that_file(self) -> None:
        put("cat[1].jpg", "cat1.jpg")
        assert planned("cat[1].jpg") == {"cat[1].jpg": "cat[1]-cutout.png"}

    def test_a_pattern_never_takes_unfinished_outputs(self) -> None:
        put("out/a.png", "out/.b.png.01234567.cutout-part")
        assert list(planned("out/*", "out/.*", output="new")) == ["out/a.png"]


class TestFolder:
    def test_its_tree_is_mirrored_below_the_output(self) -> None:
        put("in/a.jpg", "in/x/b.png", "in/x/y/c.webp")
        assert planned("in", output="out") == {
            "in/a.jpg": "out/a.png",
            "in/x/b.png": "out/x/b.png",
            "in/x/y/c.webp": "out/x/y/c.png",
        }

    def test_without_an_output_it_gets_a_folder_beside_it(self) -> None:
        put("pics/in/a.jpg")
        assert planned("pics/in") == {"pics/in/a.jpg": "pics/in-cutout/a.png"}
        assert planned("pics/in/") == {"pics/in/a.jpg": "pics/in-cutout/a.png"}

    def test_the_current_folder_gets_a_folder_beside_it(self, here: Path) -> None:
        put("a.jpg")
        assert planned(".") == {"a.jpg": str(here.with_name(f"{here.name}-cutout") / "a.png")}

    def test_beside_the_root_there_is_nothing(self) -> None:
        with pytest.raises(UsageError, match="nothing lies beside /"):
            plan(["/"], None, recursive=False)

    def test_no_recursive_takes_the_files_of_the_folder_alone(self) -> None:
        put("in/a.jpg", "in/x/b.png")
        assert planned("in", output="out", recursive=False) == {"in/a.jpg": "out/a.png"}

    def test_files_come_sorted_those_of_the_folder_before_those_below(self) -> None:
        put("in/b.jpg", "in/a/z.jpg", "in/a/y.jpg", "in/c.jpg")
        order = [job.source_name for job in plan(["in"], "out").jobs]
        assert order == ["in/b.jpg", "in/c.jpg", "in/a/y.jpg", "in/a/z.jpg"]

    def test_an_output_folder_inside_the_input_folder_is_not_walked(self) -> None:
        put("in/a.jpg", "in/results/a.png", "in/x/results/b.png")
        assert planned("in", output="in/results") == {
            "in/a.jpg": "in/results/a.png",
            "in/x/results/b.png": ("in/results/x/results/b.png"),
        }

    def test_an_output_folder_inside_the_input_folder_is_known_under_any_name(self, here: Path) -> None:
        put("in/a.jpg", "in/results/a.png")
        Path("alias").symlink_to("in")
        assert list(planned("in", output="in/../alias/results")) == ["in/a.jpg"]
        assert list(planned("in", output=str(here / "in" / "results"))) == ["in/a.jpg"]

    @pytest.mark.parametrize("output", ["in", "in/", "./in", "in/x/.."])
    def test_the_input_folder_is_refused_as_output(self, output: str) -> None:
        put("in/a.jpg", "in/x/b.jpg")
        assert "is the input folder" in refused("in", output=output)

    def test_the_input_folder_is_refused_as_output_through_a_link(self) -> None:
        put("in/a.jpg")
        Path("alias").symlink_to("in")
        assert "is the input folder" in refused("in", output="alias")

    def test_two_folders_share_an_output_folder(self) -> None:
        put("one/a.jpg", "two/b.jpg")
        assert planned("one", "two", output="out") == {"one/a.jpg": "out/a.png", "two/b.jpg": "out/b.png"}

    def test_an_empty_folder_gives_an_empty_plan(self) -> None:
        Path("in").mkdir()
        assert plan(["in"], "out").jobs == ()


class TestWhatIsAPicture:
    def test_the_content_decides_not_the_name(self) -> None:
        put("in/foo.dat", content=PNG)
        put("in/bar", content=JPEG)
        assert planned("in", output="out") == {"in/bar": "out/bar.png", "in/foo.dat": "out/foo.png"}

    def test_other_files_are_ignored_and_counted(self) -> None:
        put("in/a.jpg")
        put("in/notes.txt", "in/.DS_Store", "in/Thumbs.db", "in/x/._a.jpg", content=TEXT)
        put("in/empty", content=b"")
        found = plan(["in"], "out")
        assert pairs(found) == {"in/a.jpg": "out/a.png"}
        assert {str(path) for path in found.ignored} == {
            "in/notes.txt",
            "in/.DS_Store",
            "in/Thumbs.db",
            "in/x/._a.jpg",
            "in/empty",
        }

    @pytest.mark.parametrize("content", [TEXT, b"", b"PK\x03\x04 a zip"])
    def test_what_is_named_like_a_picture_is_taken_so_that_it_fails_loudly(self, content: bytes) -> None:
        put("in/x.jpg", "in/y.HEIC", content=content)
        assert set(planned("in", output="out")) == {"in/x.jpg", "in/y.HEIC"}

    def test_a_hidden_picture_is_taken_for_its_content(self) -> None:
        put("in/.hidden.jpg", content=JPEG)
        assert planned("in", output="out") == {"in/.hidden.jpg": "out/.hidden.png"}

    def test_a_text_that_begins_like_a_portable_pixmap_is_a_text(self) -> None:
        put("in/list.txt", content=b"P1 tasks: call Anna, write Bert\n")
        put("in/real.dat", content=b"P5\n# made by hand\n2 2\n255\n\0\0\0\0")
        put("in/goals.txt", content=b"P2 3 goals for May\n")
        put("in/plain.dat", content=b"P6 2 2 255\n" + bytes(12))
        assert set(planned("in", output="out")) == {"in/real.dat", "in/plain.dat"}

    def test_camera_raw_files_are_ignored(self) -> None:
        """They are TIFF by their first bytes, but all that could be cut out of them is a thumbnail."""
        put("in/IMG_1.NEF", "in/IMG_1.dng", content=TIFF)
        put("in/IMG_1.jpg", content=JPEG)
        put("in/IMG_2.tif", content=TIFF)
        found = plan(["in"], "out")
        assert set(pairs(found)) == {"in/IMG_1.jpg", "in/IMG_2.tif"}
        assert len(found.ignored) == 2

    def test_unfinished_outputs_are_no_inputs_and_not_worth_telling(self) -> None:
        put("in/a.jpg", "in/.a.png.0123abcd.cutout-part")
        found = plan(["in"], "out")
        assert set(pairs(found)) == {"in/a.jpg"}
        assert found.ignored == ()

    def test_pipes_and_devices_are_never_read(self) -> None:
        """Reading them may never end, whatever their name is."""
        put("in/a.jpg")
        os.mkfifo("in/pipe.jpg")
        os.mkfifo("in/pipe")
        Path("in/zero.png").symlink_to("/dev/zero")
        found = plan(["in"], "out")
        assert set(pairs(found)) == {"in/a.jpg"}
        assert {path.name for path in found.ignored} == {"pipe.jpg", "pipe", "zero.png"}

    def test_a_folder_named_like_a_picture_is_a_folder(self) -> None:
        put("in/album.jpg/a.png")
        assert planned("in", output="out") == {"in/album.jpg/a.png": "out/album.jpg/a.png"}

    def test_a_link_to_nowhere_named_like_a_picture_is_taken_so_that_it_fails_loudly(self) -> None:
        Path("in").mkdir()
        Path("in/gone.jpg").symlink_to("nowhere")
        Path("in/circle.png").symlink_to("circle.png")
        Path("in/other").symlink_to("nowhere")
        assert set(planned("in", output="out")) == {"in/gone.jpg", "in/circle.png"}

    def test_linked_pictures_are_taken_linked_folders_are_not_walked(self) -> None:
        put("store/a.jpg", "in/b.jpg")
        Path("in/a.jpg").symlink_to("../store/a.jpg")
        Path("in/store").symlink_to("../store")
        Path("in/circle").symlink_to(".")
        found = plan(["in"], "out")
        assert set(pairs(found)) == {"in/a.jpg", "in/b.jpg"}
        assert {str(path) for path in found.ignored} == {"in/store", "in/circle"}

    def test_a_linked_input_folder_is_walked(self) -> None:
        put("store/a.jpg")
        Path("in").symlink_to("store")
        assert planned("in") == {"in/a.jpg": "in-cutout/a.png"}


class TestCollisions:
    def test_two_pictures_that_would_become_one_are_refused_by_name(self) -> None:
        put("in/a.jpg", "in/a.png")
        message = refused("in", output="out")
        assert "in/a.jpg and in/a.png would both become out/a.png" in message
        assert "on_collision suffix" in message

    def test_two_inputs_of_one_name_are_refused(self) -> None:
        put("one/a.jpg", "two/a.jpg")
        assert "one/a.jpg and two/a.jpg would both become out/a.png" in refused("one/a.jpg", "two/a.jpg", output="out")

    def test_several_collisions_are_counted(self) -> None:
        put("in/a.jpg", "in/a.png", "in/b.jpg", "in/b.png", "in/c.jpg", "in/c.png")
        assert "(2 more such outputs)" in refused("in", output="out")

    @pytest.mark.parametrize("again", ["a.jpg", "./a.jpg", "alias.d/a.jpg"])
    def test_one_file_given_twice_is_refused_as_such(self, again: str) -> None:
        put("a.jpg")
        Path("alias.d").symlink_to(".")
        message = refused("a.jpg", again, output="out")
        assert f"a.jpg and {Path(again)} would both become out/a.png" in message
        assert "name it once" in message
        assert "name it once" in refused("a.jpg", again, output="out", on_collision=OnCollision.SUFFIX)

    def test_outputs_beside_the_inputs_collide_too(self) -> None:
        put("a.jpg", "a.png")
        assert "would both become a-cutout.png" in refused("a.jpg", "a.png")

    def test_outputs_collide_through_a_link(self) -> None:
        put("in/a/x.jpg", "in/b/x.jpg", "out/a/keep.txt")
        Path("out/b").symlink_to("a")
        assert "in/a/x.jpg and in/b/x.jpg would both become" in refused("in", output="out")

    @pytest.mark.parametrize(("one", "other"), [("Cat", "cat"), ("cafe\u0301", "caf\u00e9")])
    def test_names_that_some_file_systems_take_for_one_collide(self, one: str, other: str) -> None:
        """The output may lie on a memory card that does not tell upper from lower case: nothing may be lost there."""
        put(f"in/{one}.jpg", f"in/{other}.png")
        assert f"in/{one}.jpg and in/{other}.png would both become" in refused("in", output="out")
        told_apart = planned("in", output="out", on_collision=OnCollision.SUFFIX)
        assert told_apart == {
            f"in/{one}.jpg": f"out/{one}-jpg.png",
            f"in/{other}.png": f"out/{other}-png.png",
        }

    def test_an_extension_that_contradicts_the_format_is_refused(self) -> None:
        put("a.jpg")
        assert "ends in .png, but format says jpg" in refused("a.jpg", output="b.png", output_format=OutputFormat.JPEG)
        assert planned("a.jpg", output="b.jpeg", output_format=OutputFormat.JPEG) == {"a.jpg": "b.jpeg"}

    def test_hidden_folders_are_not_walked_unless_named(self) -> None:
        put("in/a.jpg", "in/.thumbnails/a.jpg")
        assert planned("in", output="out") == {"in/a.jpg": "out/a.png"}
        assert planned("in/.thumbnails", output="out") == {"in/.thumbnails/a.jpg": "out/a.png"}

    def test_a_suffix_tells_them_apart_by_extension(self) -> None:
        put("in/a.jpg", "in/a.png", "in/b.jpg")
        assert planned("in", output="out", on_collision=OnCollision.SUFFIX) == {
            "in/a.jpg": "out/a-jpg.png",
            "in/a.png": "out/a-png.png",
            "in/b.jpg": "out/b.png",
        }

    def test_a_suffix_does_not_depend_on_order(self) -> None:
        inputs = ["one/a.jpg", "two/a.jpg", "two/a.png"]
        put(*inputs)
        first = planned(*inputs, output="out", on_collision=OnCollision.SUFFIX)
        assert len(set(first.values())) == 3
        assert first["two/a.png"] == "out/a-png.png"
        assert planned(*reversed(inputs), output="out", on_collision=OnCollision.SUFFIX) == first

    def test_a_suffix_does_not_depend_on_further_files(self) -> None:
        put("one/a.jpg", "two/a.jpg", "two/a.png")
        first = planned("one", "two", output="out", on_collision=OnCollision.SUFFIX)
        put("one/0.jpg", "two/a.gif", "one/z.png", "two/b-jpg.png")
        second = planned("one", "two", output="out", on_collision=OnCollision.SUFFIX)
        assert first.items() <= second.items()
        assert len(set(second.values())) == len(second) == 7

    def test_a_suffix_never_takes_the_name_of_another(self) -> None:
        put("in/a.jpg", "in/a.png", "in/a-jpg.gif", "in/a-png.gif")
        found = planned("in", output="out", on_collision=OnCollision.SUFFIX)
        assert len(set(found.values())) == len(found) == 4


class TestInputsAreNeverOverwritten:
    def test_an_output_that_is_the_input_is_refused(self) -> None:
        put("a.png")
        assert "the output a.png of a.png is the input a.png" in refused("a.png", output="a.png")
        assert "is the input a.png" in refused("a.png", output="./a.png")

    def test_an_output_that_is_another_input_is_refused(self) -> None:
        put("a.jpg", "a-cutout.png")
        message = refused("a.jpg", "a-cutout.png")
        assert "the output a-cutout.png of a.jpg is the input a-cutout.png" in message

    def test_an_output_folder_that_holds_the_inputs_is_refused(self) -> None:
        put("in/a.png", "in/b.png")
        assert "is the input in/a.png" in refused("in/a.png", "in/b.png", output="in")

    def test_an_output_that_links_to_an_input_is_refused(self) -> None:
        put("a.jpg")
        Path("b.png").symlink_to("a.jpg")
        assert "the output b.png of a.jpg is the input a.jpg" in refused("a.jpg", output="b.png")

    def test_an_output_that_is_an_input_by_a_hard_link_is_refused(self) -> None:
        put("a.jpg", "c.jpg")
        Path("out").mkdir()
        os.link("a.jpg", "out/c.png")
        assert "the output out/c.png of c.jpg is the input a.jpg" in refused("a.jpg", "c.jpg", output="out")

    def test_an_input_that_is_reached_through_a_link_is_refused_as_output(self) -> None:
        put("real.png")
        Path("link.jpg").symlink_to("real.png")
        assert "the output real.png of link.jpg is the input link.jpg" in refused("link.jpg", output="real.png")

    def test_an_output_that_is_a_file_of_the_run_is_refused(self) -> None:
        put("a.jpg", "sky.png")
        assert "is the input sky.png" in refused("a.jpg", output="sky.png", keep=[Path("sky.png")])
        Path("out").mkdir()
        os.link("sky.png", "out/a.png")
        assert "is the input sky.png" in refused("a.jpg", output="out", keep=[Path("sky.png")])


class TestExistingOutputs:
    def rule(self, *inputs: str, output: str, existing: Existing | None = None) -> Existing:
        (rule,) = {job.existing for job in plan(inputs, output, existing=existing).jobs}
        return rule

    def test_a_single_output_is_overwritten(self) -> None:
        put("a.jpg", "out.png")
        assert self.rule("a.jpg", output="out.png") is Existing.OVERWRITE

    def test_outputs_of_a_batch_are_skipped(self) -> None:
        put("in/a.jpg", "in/b.jpg", "out/a.png")
        assert self.rule("in", output="out") is Existing.SKIP
        assert self.rule("in/a.jpg", "in/b.jpg", output="out") is Existing.SKIP

    def test_jobs_that_have_nothing_left_to_do_are_in_the_plan(self) -> None:
        put("in/a.jpg", "in/b.jpg", "out/a.png")
        assert len(plan(["in"], "out").jobs) == 2

    @pytest.mark.parametrize("existing", [Existing.SKIP, Existing.OVERWRITE])
    def test_the_asked_for_rule_wins(self, existing: Existing) -> None:
        put("in/a.jpg", "in/b.jpg", "out/a.png", "out.png")
        assert self.rule("in", output="out", existing=existing) is existing
        assert self.rule("in/a.jpg", output="out.png", existing=existing) is existing

    def test_fail_refuses_before_any_work_and_names_the_output(self) -> None:
        put("in/a.jpg", "in/b.jpg", "out/b.png")
        assert "the output out/b.png exists already" in refused("in", output="out", existing=Existing.FAIL)

    def test_fail_lets_a_run_begin_that_finds_nothing(self) -> None:
        put("in/a.jpg", "in/b.jpg")
        assert self.rule("in", output="out", existing=Existing.FAIL) is Existing.FAIL


class TestOddNames:
    @pytest.mark.parametrize(
        "name",
        ["new\nline.jpg", b"bad\xff\xfe.jpg", "katze 🐈.jpg", "-dash.jpg", "'quote\".jpg", "a;b&c$d.jpg", "..jpg"],
    )
    def test_they_are_kept(self, name: str | bytes) -> None:
        text = os.fsdecode(name)
        put(f"in/{text}")
        stem = text.removesuffix(".jpg")
        assert planned("in", output="out") == {f"in/{text}": f"out/{stem}.png"}

    def test_an_output_name_that_is_too_long_does_not_stop_the_plan(self) -> None:
        long = "n" * 251 + ".png"
        put(long, "a.jpg")
        assert planned(long, "a.jpg")[long] == "n" * 251 + "-cutout.png"


def as_a_user(code: str, *args: str) -> str:
    """What the code prints, run without the right to pass permissions by."""
    run = subprocess.run(
        [*limited(), sys.executable, "-c", code, *args],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()


@pytest.fixture
def locked(here: Path) -> Iterator[Path]:
    """A folder with a picture that nobody may look into."""
    put("in/a.jpg", "in/locked/b.jpg", "in/z/c.jpg")
    folder = here / "in" / "locked"
    folder.chmod(0)
    yield folder
    folder.chmod(0o755)


PLAN = """
import sys
from cutout.errors import UsageError
from cutout.jobs.plan import plan
try:
    found = plan(sys.argv[1:2], *sys.argv[2:])
    print([job.source_name for job in found.jobs], [job.source_name for job in found.unreadable])
except UsageError as error:
    print(error.message)
"""


@pytest.mark.usefixtures("locked")
class TestWhatMayNotBeRead:
    def test_a_folder_below_is_told_and_the_others_are_walked(self) -> None:
        assert as_a_user(PLAN, "in", "out") == "['in/a.jpg', 'in/z/c.jpg'] ['in/locked']"

    def test_an_input_folder_is_refused(self) -> None:
        assert "the folder in/locked cannot be read: Permission denied" in as_a_user(PLAN, "in/locked", "out")

    def test_an_input_below_such_a_folder_is_refused_for_that_reason(self) -> None:
        assert "in/locked/b.jpg cannot be reached: permission denied" in as_a_user(PLAN, "in/locked/b.jpg", "out")

    def test_an_output_below_such_a_folder_does_not_stop_the_plan(self) -> None:
        assert as_a_user(PLAN, "in/a.jpg", "in/locked/b.png") == "['in/a.jpg'] []"


def parts(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.name.endswith(".cutout-part")]


def cannot_write(target: Path, data: bytes = b"new") -> str:
    """The message; by then nothing is left behind, and what was there is as it was."""
    folder = next(above for above in target.parents if above.is_dir())
    before = {path: path.is_file() and path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(OutputError) as caught:
        write_atomic(target, data)
    assert {path: path.is_file() and path.read_bytes() for path in folder.iterdir()} == before
    assert str(target) in caught.value.message
    return f"{caught.value.message} | {caught.value.hint}"


class TestWriteAtomic:
    def test_it_writes_the_file_and_makes_its_folders(self, here: Path) -> None:
        assert write_atomic(here / "x" / "y" / "a.png", b"data")
        assert (here / "x" / "y" / "a.png").read_bytes() == b"data"
        assert names("x/y") == ["a.png"]

    def test_it_replaces_what_is_there(self, here: Path) -> None:
        put("a.png")
        assert write_atomic(here / "a.png", b"new")
        assert Path("a.png").read_bytes() == b"new"
        assert names() == ["a.png"]

    def test_it_leaves_what_is_there_if_told_so(self, here: Path) -> None:
        put("a.png")
        assert not write_atomic(here / "a.png", b"new", replace_existing=False)
        assert Path("a.png").read_bytes() == PNG
        assert names() == ["a.png"]

    def test_it_leaves_what_comes_to_exist_while_it_writes(self, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        real = os.fsync

        def another_run_is_faster(descriptor: int) -> None:
            put("a.png")
            real(descriptor)

        monkeypatch.setattr(os, "fsync", another_run_is_faster)
        assert not write_atomic(here / "a.png", b"new", replace_existing=False)
        assert Path("a.png").read_bytes() == PNG
        assert names() == ["a.png"]

    def test_it_needs_no_hard_links(self, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*_: object) -> None:
            raise PermissionError(errno.EPERM, "no hard links on this file system")

        monkeypatch.setattr(os, "link", refuse)
        assert write_atomic(here / "a.png", b"one", replace_existing=False)
        assert not write_atomic(here / "a.png", b"two", replace_existing=False)
        assert Path("a.png").read_bytes() == b"one"
        assert names() == ["a.png"]

    def test_it_needs_no_locks(self, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*_: object) -> None:
            raise OSError(errno.ENOLCK, "no locks on this file system")

        monkeypatch.setattr(atomic.fcntl, "flock", refuse)
        assert write_atomic(here / "a.png", b"data")
        monkeypatch.setattr(atomic, "fcntl", None)
        assert write_atomic(here / "b.png", b"data")
        assert names() == ["a.png", "b.png"]

    def test_the_name_appears_with_all_of_the_content(self, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """When the data is on the disk, there is still no such name."""
        seen: list[bool] = []
        real = os.fsync

        def look(descriptor: int) -> None:
            assert os.fstat(descriptor).st_size == 1_000_000
            seen.append(Path("a.png").exists())
            real(descriptor)

        monkeypatch.setattr(os, "fsync", look)
        write_atomic(here / "a.png", bytes(1_000_000))
        assert seen == [False]

    def test_the_file_has_the_rights_that_any_new_file_has(self, here: Path) -> None:
        before = os.umask(0o027)
        try:
            write_atomic(here / "a.png", b"data")
        finally:
            os.umask(before)
        assert stat.S_IMODE(Path("a.png").stat().st_mode) == 0o640

    @pytest.mark.parametrize(
        "name", ["n" * 251 + ".png", "é" * 125 + ".png", "🐈" * 62 + ".png", "-x.png", "a\nb.png", b"\xff\xfe.png"]
    )
    def test_odd_names_and_those_of_255_bytes(self, here: Path, name: str | bytes) -> None:
        target = here / os.fsdecode(name)
        assert write_atomic(target, b"data")
        assert names() == [target.name]
        assert target.read_bytes() == b"data"

    def test_a_name_that_is_too_long(self, here: Path) -> None:
        assert "the name is too long" in cannot_write(here / ("n" * 252 + ".png"))

    def test_a_folder_in_the_way(self, here: Path) -> None:
        (here / "a.png").mkdir()
        assert "a folder of that name is in the way" in cannot_write(here / "a.png")

    @pytest.mark.parametrize("replace_existing", [True, False])
    def test_devices_and_pipes_are_not_replaced(self, here: Path, replace_existing: bool) -> None:
        os.mkfifo("a.png")
        with pytest.raises(OutputError, match="it is a device or a pipe"):
            write_atomic(here / "a.png", b"data", replace_existing=replace_existing)
        assert stat.S_ISFIFO(Path("a.png").stat().st_mode)
        assert names() == ["a.png"]

    def test_a_file_among_its_folders(self, here: Path) -> None:
        put("x")
        assert "part of its path is a file" in cannot_write(here / "x" / "a.png")
        assert "part of its path is a file" in cannot_write(here / "x" / "y" / "a.png")

    @pytest.mark.parametrize("replace_existing", [True, False])
    def test_a_link_to_nowhere_is_replaced(self, here: Path, replace_existing: bool) -> None:
        Path("a.png").symlink_to("elsewhere/b.png")
        assert write_atomic(here / "a.png", b"data", replace_existing=replace_existing)
        assert not Path("a.png").is_symlink()
        assert names() == ["a.png"]

    def test_a_link_is_replaced_and_what_it_points_to_left_alone(self, here: Path) -> None:
        put("elsewhere/b.png")
        Path("a.png").symlink_to("elsewhere/b.png")
        assert write_atomic(here / "a.png", b"data")
        assert Path("a.png").read_bytes() == b"data"
        assert Path("elsewhere/b.png").read_bytes() == PNG

    @pytest.mark.parametrize(
        ("code", "words"),
        [
            (errno.ENOSPC, "the disk is full | free some space"),
            (errno.EDQUOT, "your disk quota is used up"),
            (errno.EIO, "Input/output error"),
        ],
    )
    @pytest.mark.parametrize("existing", [True, False])
    def test_a_disk_that_takes_no_more(
        self, here: Path, monkeypatch: pytest.MonkeyPatch, code: int, words: str, existing: bool
    ) -> None:
        """Some file systems tell only when they are asked to bring the data to the disk."""
        if existing:
            put("a.png", content=b"old")

        def full(_: int) -> None:
            raise OSError(code, os.strerror(code))

        monkeypatch.setattr(os, "fsync", full)
        assert words in cannot_write(here / "a.png")

    def test_a_disk_that_is_full(self, here: Path, tiny_disk: Path) -> None:
        write_atomic(tiny_disk / "a.png", b"old")
        assert "the disk is full" in cannot_write(tiny_disk / "a.png", bytes(2_000_000))
        assert "the disk is full" in cannot_write(tiny_disk / "b.png", bytes(2_000_000))
        assert write_atomic(tiny_disk / "b.png", bytes(500_000))

    def test_a_disk_that_can_only_be_read(self, tiny_disk: Path) -> None:
        subprocess.run(["mount", "-o", "remount,ro", str(tiny_disk)], check=True)
        assert "the file system is read-only" in cannot_write(tiny_disk / "a.png")
        with pytest.raises(OutputError, match="the file system is read-only"):
            check_writable(tiny_disk / "x" / "a.png")

    def test_a_limit_on_the_size_of_files(self, here: Path) -> None:
        """The system cuts the file in the middle of a write."""
        code = (
            "import resource, sys; from pathlib import Path; from cutout.atomic import write_atomic\n"
            "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
            "try: write_atomic(Path('a.png'), bytes(1_000_000))\n"
            "except Exception as error: print(type(error).__name__, error)"
        )
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert run.stdout == "OutputError a.png cannot be written: File too large\n"
        assert names() == []

    def test_a_folder_that_may_not_be_written_to(self, here: Path) -> None:
        put("locked/a.png", content=b"old")
        Path("locked").chmod(0o555)
        code = (
            "import sys; from pathlib import Path; from cutout.atomic import check_writable, write_atomic\n"
            "for call in (check_writable, lambda target: write_atomic(target, b'new')):\n"
            "  for name in ('locked/a.png', 'locked/b.png', 'locked/x/y.png'):\n"
            "    try: call(Path(name))\n"
            "    except Exception as error: print(type(error).__name__, error)"
        )
        try:
            told = as_a_user(code).splitlines()
        finally:
            Path("locked").chmod(0o755)
        targets = ("locked/a.png", "locked/b.png", "locked/x/y.png")
        assert told == [f"OutputError {name} cannot be written: permission denied" for name in targets] * 2
        assert names("locked") == ["a.png"]
        assert Path("locked/a.png").read_bytes() == b"old"

    def test_a_file_system_that_answers_wrongly_is_put_to_the_test(
        self, here: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(os, "access", lambda *_: False)
        check_writable(here / "x" / "a.png")
        assert names() == []

    def test_a_folder_that_takes_files_is_left_as_it_is_by_the_check(self, here: Path) -> None:
        check_writable(here / "x" / "y" / "a.png")
        assert names() == []


@pytest.fixture
def tiny_disk(here: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    folder = here / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("no right to mount a small file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


class TestIsThere:
    def test_a_file_is(self, here: Path) -> None:
        put("a.png")
        assert is_there(here / "a.png")

    def test_nothing_and_a_link_to_nowhere_are_not(self, here: Path) -> None:
        Path("b.png").symlink_to("nowhere")
        assert not is_there(here / "a.png")
        assert not is_there(here / "b.png")
        assert not is_there(here / ("n" * 300))

    def test_a_folder_and_a_pipe_never_become_one(self, here: Path) -> None:
        (here / "a.png").mkdir()
        os.mkfifo("b.png")
        for name, words in (("a.png", "a folder"), ("b.png", "a device or a pipe")):
            with pytest.raises(OutputError, match=words):
                is_there(here / name)


WRITE_AND_WAIT = """
import os, sys, time
from pathlib import Path
from cutout.atomic import write_atomic
def wait(_):
    print('written', flush=True)
    time.sleep(60)
os.fsync = wait
write_atomic(Path(sys.argv[1]), b'unfinished')
"""


@pytest.fixture
def writing(here: Path) -> Iterator[subprocess.Popen[str]]:
    """A process in the middle of writing out/a.png."""
    child = subprocess.Popen(
        [sys.executable, "-c", WRITE_AND_WAIT, "out/a.png"], stdout=subprocess.PIPE, text=True, cwd=here
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "written\n"
    yield child
    child.kill()
    child.wait()
    child.stdout.close()


class TestSweep:
    def test_what_a_killed_process_left_is_removed(self, writing: subprocess.Popen[str]) -> None:
        out = Path("out")
        writing.send_signal(signal.SIGKILL)
        writing.wait()
        put("out/b.png")
        assert len(parts(out)) == 1, "the unfinished output is there under its own name only"
        assert not (out / "a.png").exists()
        sweep({out})
        assert names(out) == ["b.png"]

    def test_what_a_living_process_writes_is_left(self, writing: subprocess.Popen[str]) -> None:
        before = parts(Path("out"))
        assert len(before) == 1
        sweep({Path("out")})
        assert parts(Path("out")) == before
        assert before[0].read_bytes() == b"unfinished"

    def test_a_file_that_is_swept_while_it_is_opened_is_opened_anew(
        self, here: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The sweep of another run falls between making the temporary file and locking it."""
        real, calls = atomic.fcntl.flock, []

        def swept_first(descriptor: int, operation: int) -> None:
            calls.append(descriptor)
            if len(calls) == 1:
                for part in parts(here):
                    part.unlink()
            real(descriptor, operation)

        monkeypatch.setattr(atomic.fcntl, "flock", swept_first)
        assert write_atomic(here / "a.png", b"data")
        assert len(calls) == 2
        assert names() == ["a.png"]

    def test_a_file_that_only_ends_alike_is_left(self, here: Path) -> None:
        put("mine.cutout-part", ".x.cutout-part", "a.png.0123abcd.cutout-part")
        (here / ".a.png.0123abcd.cutout-part").mkdir()
        sweep({here})
        assert len(names()) == 4

    def test_where_open_files_cannot_be_removed_no_lock_is_asked_for(
        self, here: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        put(".a.png.0123abcd.cutout-part")
        monkeypatch.setattr(atomic, "fcntl", None)
        sweep({here})
        assert names() == []

    def test_without_locks_nobody_knows_so_all_is_left(self, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*_: object) -> None:
            raise OSError(errno.ENOLCK, "no locks on this file system")

        put(".a.png.0123abcd.cutout-part")
        monkeypatch.setattr(atomic.fcntl, "flock", refuse)
        sweep({here})
        assert names() == [".a.png.0123abcd.cutout-part"]

    def test_folders_that_are_not_there_are_no_trouble(self, here: Path) -> None:
        put("file")
        sweep({here / "nowhere", here / "file"})

    def test_other_folders_are_left_alone(self, here: Path) -> None:
        put("out/.a.png.0123abcd.cutout-part", "out/x/.a.png.0123abcd.cutout-part")
        sweep({here / "out"})
        assert not parts(here / "out")
        assert parts(here / "out" / "x")
