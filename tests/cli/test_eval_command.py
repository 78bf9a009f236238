"""`cutout eval` as a user runs it: models and folders of results against true masks."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image
from small import half

if TYPE_CHECKING:
    from conftest import Cutout, Run

SIZE = (64, 32)


pytestmark = pytest.mark.usefixtures("here", "quick_model")


def truth(path: str, size: tuple[int, int] = SIZE, *, share: float = 0.5) -> Path:
    """A true mask: white on the right."""
    image = Image.new("L", size)
    image.paste(255, (round(size[0] * share), 0, *size))
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
    return Path(path)


def done(run: Run) -> Run:
    assert run.code == 0, run.err
    return run


def scores(run: Run) -> dict[str, dict[str, Any]]:
    """The closing lines of `--json`, by who made the cut-outs."""
    return {line["by"]: line for line in run.lines if line["event"] == "scores"}


class TestTheRealModel:
    def test_a_model_is_without_fault_against_its_own_masks(
        self, cutout: Cutout, examples: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Also when its cut-outs come from a folder, transparent or as masks."""
        monkeypatch.setenv("CUTOUT_MODEL", "u2netp")
        Path("in").mkdir()
        shutil.copy(examples / "coffee.jpg", "in")
        done(cutout("remove", "in", "-o", "masks", "--mask"))
        done(cutout("remove", "in", "-o", "cut"))
        run = done(
            cutout("eval", "in", "masks", "--model", "u2netp", "--results", "cut", "--results", "masks", "--json")
        )
        found = scores(run)
        assert list(found) == ["u2netp", "cut", "masks"]
        for line in found.values():
            assert line["pictures"] == 1
            assert line["mae"] == 0
            assert line["iou"] == line["boundary_iou"] == 1
        assert len([line for line in run.lines if line["event"] == "picture"]) == 3


class TestPairs:
    def test_folders_are_paired_by_name_and_place(self, cutout: Cutout) -> None:
        for name in ("a", "x/b"):
            half(Path(f"in/{name}.jpg"))
            truth(f"masks/{name}.png")
        truth("masks/spare.png")
        run = done(cutout("eval", "in", "masks", "--json", "--verbose"))
        assert scores(run)["brightness"]["pictures"] == 2
        assert [line["mask"] for line in run.lines[:2]] == ["masks/a.png", "masks/x/b.png"]
        assert "spare.png: a mask without a picture" in run.err

    def test_one_picture_and_one_mask_need_no_common_name(self, cutout: Cutout) -> None:
        run = done(cutout("eval", half(Path("a.png")), truth("other.png"), "--json"))
        assert scores(run)["brightness"]["iou"] > 0.95

    def test_a_picture_without_a_mask_is_named_before_any_work(self, cutout: Cutout) -> None:
        half(Path("in/a.png"))
        half(Path("in/b.png"))
        truth("masks/a.png")
        run = cutout("eval", "in", "masks")
        assert run.code == 2
        assert "1 of 2 pictures have no mask in masks: in/b.png" in run.err
        assert run.out == b""

    def test_two_masks_of_one_name_are_refused(self, cutout: Cutout) -> None:
        half(Path("in/a.png"))
        truth("masks/a.png")
        truth("masks/a.bmp")
        run = cutout("eval", "in", "masks")
        assert run.code == 2
        assert "have one name" in run.err

    def test_an_empty_folder_is_refused(self, cutout: Cutout) -> None:
        Path("in").mkdir()
        truth("masks/a.png")
        assert cutout("eval", "in", "masks").code == 2


class TestMasks:
    def test_the_alpha_of_a_transparent_mask_counts(self, cutout: Cutout) -> None:
        half(Path("in/a.png"))
        image = Image.new("RGBA", SIZE, (255, 255, 255, 0))
        image.paste((0, 0, 0, 255), (32, 0, 64, 32))
        Path("masks").mkdir()
        image.save("masks/a.png")
        assert scores(done(cutout("eval", "in", "masks", "--json")))["brightness"]["iou"] > 0.95

    def test_a_mask_of_another_size_is_compared_at_its_own(self, cutout: Cutout) -> None:
        half(Path("in/a.png"), (200, 100))
        truth("masks/a.png", (100, 50))
        assert scores(done(cutout("eval", "in", "masks", "--json")))["brightness"]["iou"] > 0.95

    @pytest.mark.parametrize(
        ("mask", "message"),
        [
            (Image.new("L", (32, 64), 255), "they do not show the same"),
            (Image.new("RGB", SIZE, (200, 30, 30)), "is no mask: it is coloured"),
            (Image.fromarray(np.eye(32, 64, dtype=np.uint8)), "holds 0 and 1"),
        ],
    )
    def test_what_is_no_mask_fails_and_the_others_are_scored(
        self, cutout: Cutout, mask: Image.Image, message: str
    ) -> None:
        half(Path("in/a.png"))
        half(Path("in/b.png"))
        truth("masks/a.png")
        mask.save("masks/b.png")
        run = cutout("eval", "in", "masks", "--json")
        assert run.code == 1
        assert "in/b.png by brightness: " in run.err
        assert message in run.err
        assert (scores(run)["brightness"]["pictures"], scores(run)["brightness"]["failed"]) == (1, 1)
        assert run.lines[1]["error"]["kind"] == "picture"

    def test_large_masks_are_compared_at_2000_pixels_unless_full(self, cutout: Cutout) -> None:
        half(Path("in/a.png"), (2400, 40))
        truth("masks/a.png", (2400, 40), share=0.25)
        small, full = (
            scores(done(cutout("eval", "in", "masks", "--json", *options)))["brightness"]
            for options in ([], ["--full"])
        )
        assert (small["side"], full["side"]) == (2000, None)
        assert full["sad"] == pytest.approx(small["sad"] * 1.2**2, rel=0.05), "a sum over more pixels"
        assert full["mae"] == pytest.approx(small["mae"], rel=0.02)


class TestSides:
    def test_the_table_marks_the_best_and_lists_the_worst(self, cutout: Cutout) -> None:
        for name, share in (("good", 0.5), ("bad", 0.9), ("middling", 0.7)):
            half(Path(f"in/{name}.png"))
            truth(f"masks/{name}.png", share=share)
        shutil.copytree("masks", "ideal")
        run = done(cutout("eval", "in", "masks", "--results", "ideal", "--worst", "2"))
        head, model, ideal, *rest = run.out.decode().splitlines()
        assert head.split() == [
            "by",
            "pictures",
            "MAE",
            "maxF",
            "meanF",
            "S",
            "IoU",
            "B-IoU",
            "SAD",
            "MSE",
            "Grad",
            "Conn",
        ]
        assert ideal.split()[:3] == ["ideal", "3", "0.0000*"]
        assert "*" not in model
        assert rest[:2] == ["", "worst of brightness, by MAE"]
        assert [line.split()[-1] for line in rest[2:4]] == ["in/bad.png", "in/middling.png"]

    def test_results_alone_need_no_model(self, cutout: Cutout) -> None:
        half(Path("in/a.png"))
        truth("masks/a.png")
        run = done(cutout("eval", "in", "masks", "--results", "masks", "--json", CUTOUT_MODEL=""))
        assert list(scores(run)) == ["masks"]

    def test_a_result_that_is_missing_is_a_failure(self, cutout: Cutout) -> None:
        for name in ("a", "b"):
            half(Path(f"in/{name}.png"))
            truth(f"masks/{name}.png")
        truth("results/a-cutout.png")
        run = cutout("eval", "in", "masks", "--results", "results", "--json", CUTOUT_MODEL="")
        assert run.code == 1
        assert "in/b.png by results: results holds no result of that name" in run.err
        assert scores(run)["results"]["pictures"] == 1

    def test_options_change_the_masks(self, cutout: Cutout) -> None:
        half(Path("in/a.png"), (48, 96))
        truth("masks/a.png", (48, 96))
        runs = [
            cutout("eval", "in", "masks", *options, "--json")
            for options in ([], ["--threshold", "128"], ["--set", "fit=pad"], ["--fit", "pad"])
        ]
        found = [scores(done(run))["brightness"]["mae"] for run in runs]
        plain, hard, padded, padded_too = found
        assert hard < plain, "a hard edge is what the truth has"
        assert padded == padded_too > plain, "padding leaves a tall picture half of the columns"

    def test_the_number_of_jobs_changes_nothing(self, cutout: Cutout) -> None:
        for number in range(5):
            half(Path(f"in/{number}.png"), (64 + number, 32))
            truth(f"masks/{number}.png", (64 + number, 32), share=0.3 + number / 10)
        one, three = (done(cutout("eval", "in", "masks", "--json", "--jobs", jobs)).out for jobs in ("1", "3"))
        assert one == three

    @pytest.mark.parametrize(
        ("options", "code", "message"),
        [
            (["--model", "u2nett"], 2, "did you mean"),
            (["--results", "nowhere"], 2, "--results nowhere is no folder"),
            (["--model", "u2netp", "--model", "u2netp"], 2, "two of those to compare are called u2netp"),
            (["--set", "colour=red"], 2, "unknown option colour"),
            (["--fit", "pad", "--set", "fit=pad"], 2, "said twice"),
            (["--set", "background=white"], 2, "--background"),
            (["--model", "u2netp", "--model", "birefnet-general"], 3, "is not on this machine"),
        ],
    )
    def test_what_cannot_work_is_refused_before_any_work(
        self, cutout: Cutout, options: list[str], code: int, message: str
    ) -> None:
        half(Path("in/a.png"))
        truth("masks/a.png")
        run = cutout("eval", "in", "masks", *options)
        assert run.code == code, run.err
        assert message in run.err
        assert run.out == b""


class TestMemory:
    @pytest.mark.parametrize("large", ["in/b.png", "masks/b.png"])
    def test_a_picture_or_mask_beyond_the_limit_is_named_and_the_others_are_scored(
        self, cutout: Cutout, monkeypatch: pytest.MonkeyPatch, large: str
    ) -> None:
        for name in ("a", "b"):
            half(Path(f"in/{name}.png"))
            truth(f"masks/{name}.png")
        half(Path(large), (3000, 2000))
        monkeypatch.setenv("CUTOUT_MEMORY_LIMIT", "40MB")
        run = cutout("eval", "in", "masks", "--json")
        assert run.code == 1
        assert [line["pictures"] for line in scores(run).values()] == [1]
        assert "more than the limit of 40 MB" in run.err.replace("\n", " ") + run.out.decode()
