"""`cutout bench` measures real runs, and leaves nothing behind."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import pytest
from PIL import Image

from cutout.evaluate.benchmark import jobs_to_try, synthetic_picture
from cutout.timing import STAGES

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Cutout


def test_every_setting_is_measured_and_the_fastest_recommended(cutout: Cutout, tmp_path: Path) -> None:
    run = cutout("bench", "--jobs", "1,2", "--seconds", "0.3", "--megapixels", "0.1", "--json", TMPDIR=str(tmp_path))
    assert run.code == 0, run.err
    *settings, last = run.lines
    assert [line["jobs"] for line in settings] == [1, 2]
    for line in settings:
        assert list(line["ms"]) == list(STAGES)
        assert line["pictures"] >= line["jobs"]
        assert (line["model"], line["device"]) == ("u2netp", "cpu")
    best = max(settings, key=lambda line: line["pictures_per_second"])
    assert last == {"event": "recommendation", "jobs": best["jobs"]}
    assert not list(tmp_path.iterdir())


def test_own_pictures_can_be_measured_and_stay_as_they_are(cutout: Cutout, examples: Path) -> None:
    before = sorted(examples.iterdir())
    run = cutout("bench", examples / "coffee.jpg", "--jobs", "1", "--seconds", "0.2", "--quiet")
    assert run.code == 0, run.err
    assert "best here: --jobs 1" in run.out.decode()
    assert run.err == ""
    assert sorted(examples.iterdir()) == before


@pytest.mark.parametrize("jobs", ["0", "x", "1,,2", "-1"])
def test_numbers_of_jobs_that_make_no_sense_are_refused(cutout: Cutout, jobs: str) -> None:
    run = cutout("bench", "--jobs", jobs)
    assert run.code == 2
    assert "not a list of whole numbers" in run.err


def test_a_broken_picture_ends_the_measurement_with_its_name(cutout: Cutout, tmp_path: Path) -> None:
    (tmp_path / "bad.jpg").write_bytes(b"no picture")
    run = cutout("bench", tmp_path / "bad.jpg", "--seconds", "0.1")
    assert run.code == 2
    assert "bad.jpg" in run.err


def test_numbers_that_are_tried_double_up_to_the_processors() -> None:
    assert jobs_to_try(1) == [1]
    assert jobs_to_try(2) == [1, 2]
    assert jobs_to_try(6) == [1, 2, 4, 6]
    assert jobs_to_try(16) == [1, 2, 4, 8, 16]


def test_the_made_picture_has_the_asked_size() -> None:
    with Image.open(io.BytesIO(synthetic_picture(0.3))) as image:
        assert image.width * image.height == pytest.approx(0.3e6, rel=0.02)
