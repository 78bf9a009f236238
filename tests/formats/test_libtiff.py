"""What libtiff says of a damaged file is the picture's warning, and never a line without a name."""

from __future__ import annotations

import io
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image
from small import brightness_model

from cutout.errors import PictureError
from cutout.formats.checks import tiff as libtiff
from cutout.formats.decode import decode, film
from cutout.formats.picture import from_image

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Cutout

pytestmark = pytest.mark.skipif(not libtiff.can_listen(), reason="libtiff cannot be reached inside this Pillow")

NOTE = "the TIFF file is damaged, and the picture may be wrong in places: "


_MIDDLE = 258
"""Of the first page's strip, which begins behind the header."""


def fax(*, damaged: bool = True, pages: int = 1, compression: str = "group4") -> bytes:
    """A page as a fax machine or a scanner writes it: text-like strokes of one bit."""
    rows, columns = np.indices((96, 160))
    page = Image.fromarray((((rows // 7 + columns // 5) % 3 > 0) * 255).astype(np.uint8)).convert("1")
    file = io.BytesIO()
    page.save(file, "TIFF", compression=compression, save_all=True, append_images=[page] * (pages - 1))
    data = bytearray(file.getvalue())
    if damaged:
        data[_MIDDLE : _MIDDLE + 8] = b"\x01" * 8
    return bytes(data)


def grey(*, damaged: bool) -> bytes:
    file = io.BytesIO()
    Image.effect_noise((64, 64), 90).save(file, "TIFF", compression="tiff_lzw")
    data = bytearray(file.getvalue())
    if damaged:
        data[400:440] = bytes(range(40))
    return bytes(data)


def test_a_damaged_fax_is_done_with_a_warning_that_names_it(cutout: Cutout, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name, damaged in (("good", False), ("bad", True)):
        (tmp_path / "in" / f"{name}.tif").write_bytes(fax(damaged=damaged))
    model = brightness_model(tmp_path)
    run = cutout("remove", tmp_path / "in", "-o", tmp_path / "out", "-m", model, "--device", "cpu", "--json")
    assert run.code == 0
    *lines, _ = run.lines
    by_name = {line["input"].rsplit("/", 1)[1]: line.get("warnings", []) for line in lines}
    assert by_name["good.tif"] == []
    (warning,) = by_name["bad.tif"]
    assert warning.startswith(NOTE + "Fax4Decode: ")
    told = [line for line in run.err.splitlines() if "Fax4Decode" in line]
    assert len(told) == 1
    assert told[0].startswith(f"warning: {tmp_path / 'in' / 'bad.tif'}: {NOTE}")


def test_quiet_means_quiet(cutout: Cutout, tmp_path: Path) -> None:
    (tmp_path / "bad.tif").write_bytes(fax())
    run = cutout("remove", "-q", tmp_path / "bad.tif", "-o", tmp_path / "a.png", "-m", brightness_model(tmp_path))
    assert (run.code, run.err) == (0, "")


def test_a_file_that_cannot_be_decoded_says_why_in_one_error(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(PictureError, match=r"the TIFF file is broken or cut short: \w.*(not yet in table|LZW)"):
        decode(grey(damaged=True))
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("compression", ["group4", "tiff_ccitt"])
def test_no_line_of_any_mutant_gets_past(compression: str, capfd: pytest.CaptureFixture[str]) -> None:
    """What libtiff says of it is a note of the picture, or its error; nothing is written beside."""
    whole, random, spoken = fax(damaged=False, compression=compression), np.random.default_rng(3), 0
    for _ in range(40):
        data = bytearray(whole)
        place = random.integers(8, len(data))
        data[place : place + 4] = random.bytes(len(data[place : place + 4]))
        try:
            spoken += any(note.startswith(NOTE) for note in decode(bytes(data), max_pixels=1_000_000).notes)
        except PictureError:
            continue
    assert spoken >= 1, "the test itself"
    assert capfd.readouterr().err == ""


def test_every_thread_hears_its_own_picture_alone() -> None:
    expected = [number % 2 == 0 for number in range(40)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda damaged: decode(fax(damaged=damaged)).notes, expected))
    assert [bool(notes) for notes in found] == expected


def test_a_page_s_damage_is_said_of_that_page() -> None:
    notes = [page.notes for page in film(fax(pages=3))]
    assert [len(entry) for entry in notes] == [1, 0, 0]
    assert notes[0][0].startswith(NOTE)


def test_few_of_many_lines_are_told_and_all_are_counted() -> None:
    with libtiff.listening() as said:
        for row in range(500):
            said.add(f"line {row}".format)
    assert str(said) == "line 0; line 1; and 498 more"


def test_an_image_that_the_caller_opened_is_heard_too(capfd: pytest.CaptureFixture[str]) -> None:
    with Image.open(io.BytesIO(fax())) as image:
        (note,) = from_image(image).notes
    assert note.startswith(NOTE)
    assert capfd.readouterr().err == ""


# --- the program that we are a part of ---


def load(data: bytes) -> None:
    with Image.open(io.BytesIO(data)) as image:
        image.load()


def test_afterwards_libtiff_speaks_to_the_host_as_before(capfd: pytest.CaptureFixture[str]) -> None:
    decode(fax())
    assert capfd.readouterr().err == ""
    load(fax())
    assert "Fax4Decode" in capfd.readouterr().err


def test_meanwhile_the_host_s_own_pictures_are_still_told_where_they_were(capfd: pytest.CaptureFixture[str]) -> None:
    with libtiff.listening() as said:
        other = threading.Thread(target=load, args=(fax(),))
        other.start()
        other.join()
    assert str(said) == ""
    assert "Fax4Decode: Bad code word" in capfd.readouterr().err


def test_where_libtiff_cannot_be_reached_pictures_are_read_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libtiff, "_library", lambda: None)
    assert decode(fax()).notes == ()
