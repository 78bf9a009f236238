"""What travels beside the pixels: EXIF and XMP as cameras and other programs write them, profiles, 16 bits."""

from __future__ import annotations

import io
import json
import shutil
import struct
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageColor
from profiles import LINEAR_GREY, wide_gamut
from small import brightness_model, half

from cutout.enums import Strip
from cutout.errors import OutputError, PictureError
from cutout.formats import color as colors
from cutout.formats.decode import Metadata, decode
from cutout.formats.encode import encode
from cutout.formats.metadata import exif, xmp
from cutout.formats.metadata.exif import Exif, Tag
from cutout.options import RemoveOptions
from cutout.output_formats import OutputFormat
from cutout.pipeline.remover import Remover

if TYPE_CHECKING:
    from conftest import Cutout

DATA = Path(__file__).parents[1] / "data"
META = (DATA / "meta.jpg").read_bytes()  # written by exiftool: see data/make.sh
KINDS = tuple(OutputFormat)
ORIENTATION, ARTIST, SIZE, COMMENT = 0x0112, 0x013B, (0xA002, 0xA003), 0x9286


def written(kind: OutputFormat, strip: Strip = Strip.NONE) -> bytes:
    picture = decode(META)
    alpha = Image.new("L", picture.rgb.size, 200) if kind.has_alpha else None
    return encode(picture.rgb, alpha, kind, picture.metadata.stripped(strip)[0])


def blocks(data: bytes) -> tuple[Exif, bytes]:
    """The EXIF directories and the XMP packet that Pillow finds in a file of ours."""
    with Image.open(io.BytesIO(data)) as image:
        if image.format == "TIFF":
            return exif.parse(data), image.info.get("xmp", b"")
        return exif.parse(image.info["exif"]), image.info.get("xmp", b"")


# --- kept ---


@pytest.mark.parametrize("kind", KINDS)
def test_exif_and_xmp_are_kept_in_every_format(kind: OutputFormat) -> None:
    found, packet = blocks(written(kind))
    assert found.main[ARTIST].data == "Zoë Müller".encode() + b"\0", "bytes are kept, whatever text they are"
    assert found.exif[COMMENT].data[8:] == "hällo".encode("utf-16-be"), "in the block's own byte order"
    assert found.exif[0x829A].data == struct.pack(found.order + "II", 1, 200), "the exposure, as the fraction it was"
    assert found.interop[1].data == b"R98\0"
    assert found.gps[2].data[:8] == struct.pack(found.order + "II", 52, 1)
    assert "Kätzchen".encode() in packet
    assert b"GPSLatitude" in packet


@pytest.mark.parametrize("kind", KINDS)
def test_what_no_longer_holds_is_corrected(kind: OutputFormat) -> None:
    data = written(kind)
    found, packet = blocks(data)
    assert ORIENTATION not in found.main or struct.unpack(found.order + "H", found.main[ORIENTATION].data) == (1,)
    assert [struct.unpack(found.order + "I", found.exif[tag].data) for tag in SIZE] == [(48,), (32,)]
    assert b"Orientation" not in packet
    thumbnail = META[META.index(b"\xff\xd8", 2) :][:200]
    assert thumbnail[:3] == b"\xff\xd8\xff"
    assert thumbnail not in data, "it shows what has been cut away"
    with Image.open(io.BytesIO(data)) as image:
        assert image.getexif().get_ifd(1) == {} or kind is OutputFormat.TIFF  # whose next directory is a page
        assert image.getexif().get(ORIENTATION, 1) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_written_is_read_again(kind: OutputFormat) -> None:
    """So a cut-out of a cut-out loses nothing either."""
    once = decode(written(kind)).metadata
    assert once.exif is not None
    first, again = decode(META).metadata, exif.parse(once.exif)
    assert first.exif is not None
    assert {**exif.parse(first.exif).exif}.keys() == again.exif.keys()
    assert once.xmp == first.xmp
    assert once.dpi == pytest.approx((300, 300), abs=0.1) or kind in {
        OutputFormat.WEBP,
        OutputFormat.AVIF,
        OutputFormat.HEIC,
    }


@pytest.mark.skipif(shutil.which("exiftool") is None, reason="exiftool is not installed")
@pytest.mark.parametrize("kind", KINDS)
def test_exiftool_finds_the_same_as_before(kind: OutputFormat, tmp_path: Path) -> None:
    path = tmp_path / f"out.{kind.value}"
    path.write_bytes(written(kind))

    def told(file: Path) -> dict[str, Any]:
        command: list[str | Path] = [
            "exiftool",
            "-j",
            "-n",
            "-a",
            "-G1",
            "-ExifIFD:all",
            "-GPS:all",
            "-InteropIFD:all",
            "-XMP:all",
            file,
        ]
        found: dict[str, Any] = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)[0]
        return found

    before, after = told(DATA / "meta.jpg"), told(path)
    changed = {"SourceFile", "ExifIFD:ExifImageWidth", "ExifIFD:ExifImageHeight", "XMP-tiff:Orientation"}
    assert {key: value for key, value in after.items() if key not in changed} == {
        key: value for key, value in before.items() if key not in changed
    }
    warnings = subprocess.run(["exiftool", "-warning", "-s3", path], capture_output=True, text=True, check=True).stdout
    assert warnings == ""


def test_a_raw_profile_of_a_png_is_read() -> None:
    """How ImageMagick stored EXIF before PNG had a chunk for it."""
    block = b"Exif\0\0" + exif.build(Exif(main={ARTIST: Tag(2, 4, b"Zoe\0")}))
    lines = "\n".join(block.hex()[start : start + 72] for start in range(0, 2 * len(block), 72))
    image = Image.new("RGB", (4, 4))
    image.info["Raw profile type exif"] = f"\nexif\n{len(block):8}\n{lines}\n"
    from cutout.formats.picture import from_image

    kept = from_image(image).metadata.exif
    assert kept is not None
    assert exif.parse(kept).main[ARTIST].data == b"Zoe\0"


def test_a_makers_note_is_kept_byte_for_byte() -> None:
    note = bytes(range(200))
    first = exif.build(Exif(order=">", exif={0x829A: Tag(5, 1, bytes(8)), 0x927C: Tag(7, 200, note)}))
    again = exif.build(exif.parse(first).sized(1000, 1000).upright())
    assert exif.parse(again).exif == exif.parse(first).exif
    assert note in again


# --- left out ---


@pytest.mark.parametrize("kind", KINDS)
def test_strip_gps_takes_the_place_alone(kind: OutputFormat) -> None:
    data = written(kind, Strip.GPS)
    found, packet = blocks(data)
    assert found.gps == {}
    assert found.main[ARTIST]
    assert b"GPS" not in packet
    assert "Kätzchen".encode() in packet
    with Image.open(io.BytesIO(data)) as image:
        assert not image.getexif().get_ifd(0x8825)


@pytest.mark.parametrize("kind", KINDS)
def test_strip_all_leaves_profile_and_resolution(kind: OutputFormat) -> None:
    picture = decode(META)
    metadata = Metadata(icc=SRGB, dpi=(300, 300), exif=picture.metadata.exif, xmp=picture.metadata.xmp)
    data = encode(picture.rgb, None, kind, metadata.stripped(Strip.ALL)[0])
    assert "Zoë".encode() not in data
    assert b"xpacket" not in data
    left = decode(data).metadata
    assert (left.icc, left.exif, left.xmp) == (SRGB, None, None)


SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def test_the_command_strips_in_every_place_it_is_told(cutout: Cutout, tmp_path: Path) -> None:
    model = brightness_model(tmp_path)
    for strip, artist, place in (("none", True, True), ("gps", True, False), ("all", False, False)):
        run = cutout("remove", DATA / "meta.jpg", "-o", tmp_path / f"{strip}.png", "-m", model, CUTOUT_STRIP=strip)
        assert run.code == 0, run.err
        data = (tmp_path / f"{strip}.png").read_bytes()
        assert ("Zoë".encode() in data, b"GPSLatitude" in data) == (artist, place)


# --- broken ---


def test_values_outside_the_block_are_left_out_and_said_so() -> None:
    entries = struct.pack("<HHI4s", 0x010F, 2, 4, b"abc\0") + struct.pack("<HHII", 0x0110, 2, 65535, 65535)
    block = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2) + entries + bytes(4)
    picture = decode(half_with(block))
    assert picture.notes == ("parts of the EXIF block are broken and were left out",)
    assert picture.metadata.exif is not None
    assert exif.parse(picture.metadata.exif).main.keys() == {0x010F}


def test_a_block_that_cannot_be_read_is_left_out_and_said_so() -> None:
    picture = decode(half_with(b"Exif\0\0II*\0\xff\xff\xff\xff"))
    assert picture.metadata.exif is None
    assert len(picture.notes) == 1
    assert picture.notes[0].startswith("the EXIF block is broken and was left out")


def half_with(block: bytes) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), "orange").save(buffer, "PNG", exif=block)
    return buffer.getvalue()


def test_a_block_of_many_entries_that_share_their_bytes_stays_small() -> None:
    count = 4000
    entries = b"".join(struct.pack("<HHII", 0x9000 + i, 7, 60000, 8) for i in range(count))
    sub = struct.pack("<H", count) + entries + bytes(4)
    block = b"II*\0" + struct.pack("<IHHHII", 8, 1, 0x8769, 4, 1, 26) + bytes(4) + sub + bytes(70000)
    assert len(exif.build(exif.parse(block))) < 5 << 20


@pytest.mark.parametrize(
    "packet",
    [b"<x:xmpmeta", b"not xml", "<a></a>".encode("utf-16"), b"<!DOCTYPE a [<!ENTITY b 'c'>]><a>&b;</a>"],
    ids=["cut short", "noise", "utf-16", "entities"],
)  # fmt: skip
def test_a_broken_packet_is_left_out_and_said_so(packet: bytes) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), "orange").save(buffer, "JPEG", xmp=packet)
    picture = decode(buffer.getvalue())
    assert picture.metadata.xmp is None
    assert picture.notes[0].startswith("the XMP packet is broken and was left out")


XMP = b"""<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description xmlns:t="http://ns.adobe.com/tiff/1.0/" xmlns:exif="http://ns.adobe.com/exif/1.0/"
 xmlns:drone="http://www.dji.com/drone-dji/1.0/" xmlns:xmp="http://ns.adobe.com/xap/1.0/"
 t:Orientation="6" t:Make='A > B' exif:GPSAltitude="1/1" drone:GpsLongitude='+1.5' xmp:Label="GPS: yes">
<exif:GPSLatitude>52,30N</exif:GPSLatitude><exif:GPSTimeStamp/>
<xmp:Thumbnails><rdf:Alt><rdf:li>AAAA</rdf:li></rdf:Alt></xmp:Thumbnails>
</rdf:Description></rdf:RDF></x:xmpmeta>"""


def test_only_what_is_to_go_is_cut_out_of_a_packet() -> None:
    kept = XMP.replace(b' t:Orientation="6"', b"").replace(
        b"<xmp:Thumbnails><rdf:Alt><rdf:li>AAAA</rdf:li></rdf:Alt></xmp:Thumbnails>", b""
    )
    assert xmp.strip(XMP) == kept
    for gone in (
        b' exif:GPSAltitude="1/1"',
        b" drone:GpsLongitude='+1.5'",
        b"<exif:GPSLatitude>52,30N</exif:GPSLatitude>",
        b"<exif:GPSTimeStamp/>",
    ):
        assert gone in kept
        kept = kept.replace(gone, b"")
    assert xmp.strip(XMP, place=False) == kept
    assert b'xmp:Label="GPS: yes"' in kept


def test_what_a_jpeg_cannot_hold_is_left_out_and_said_so(cutout: Cutout, tmp_path: Path) -> None:
    packet = XMP.replace(b"AAAA", b"").replace(b"GPS: yes", b"x" * 70000)
    half(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        image.save(tmp_path / "a.webp", xmp=packet, lossless=True)
    run = cutout("remove", tmp_path / "a.webp", "-o", tmp_path / "b.jpg", "-m", brightness_model(tmp_path))
    assert run.code == 0
    assert "the XMP block of 70 kB was left out: a JPEG holds 64 kB" in run.err


def test_pillow_remarks_nothing_on_standard_error(cutout: Cutout, tmp_path: Path) -> None:
    entries = struct.pack("<HHI4s", 0x010F, 2, 4, b"abc\0") + struct.pack("<HHII", 0x0110, 2, 65535, 65535)
    (tmp_path / "a.png").write_bytes(half_with(b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2) + entries))
    run = cutout("remove", tmp_path / "a.png", "-o", tmp_path / "b.png", "-m", brightness_model(tmp_path))
    assert run.code == 0
    assert "UserWarning" not in run.err
    assert "parts of the EXIF block are broken" in run.err


# --- colours ---


def test_the_model_sees_srgb_and_the_output_keeps_its_own_space(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remover = Remover(brightness_model(tmp_path), device="cpu")
    seen: list[Image.Image] = []
    real = type(remover.session).predict

    def predict(self: Any, rgb: Image.Image, **how: Any) -> Any:
        seen.append(rgb)
        return real(self, rgb, **how)

    monkeypatch.setattr(type(remover.session), "predict", predict)
    buffer = io.BytesIO()
    Image.new("RGB", (1000, 500), (230, 30, 30)).save(buffer, "PNG", icc_profile=wide_gamut())
    cutout = remover.cut(decode(buffer.getvalue()))
    red, green, _ = np.asarray(seen[0])[0, 0].tolist()
    assert (red < 60, green > 200) == (True, True)
    assert max(seen[0].size) < 300, "no more of it is converted than a model of 32 × 32 pixels can use"
    assert cutout.rgb is not None
    assert cutout.rgb.getpixel((0, 0)) == (230, 30, 30)
    assert cutout.metadata.icc == wide_gamut()


def test_a_colour_behind_a_picture_of_another_space_is_the_one_that_was_named(tmp_path: Path) -> None:
    remover = Remover(brightness_model(tmp_path), device="cpu")
    buffer = io.BytesIO()
    Image.new("RGB", (40, 40), (230, 30, 30)).save(buffer, "PNG", icc_profile=wide_gamut())
    picture = decode(buffer.getvalue())
    cutout = remover.cut(picture, RemoveOptions(background="#ff8800", rescale=False, threshold=255))
    assert (cutout.metadata.icc, cutout.image.getpixel((0, 0))) == (None, (255, 136, 0))
    cutout = remover.cut(picture, RemoveOptions(background="white", rescale=False, threshold=255))
    assert (cutout.metadata.icc, cutout.image.getpixel((0, 0))) == (wide_gamut(), (255, 255, 255))


def test_a_shadow_beside_a_picture_of_another_space_has_the_colour_that_was_named(tmp_path: Path) -> None:
    remover = Remover(brightness_model(tmp_path), device="cpu")
    buffer = io.BytesIO()
    image = Image.new("RGB", (40, 40))
    image.paste((255, 255, 255), (20, 0, 40, 40))
    image.save(buffer, "PNG", icc_profile=wide_gamut())
    picture = decode(buffer.getvalue())
    for color, icc in (("#ff8800", None), ("#777", wide_gamut())):
        cutout = remover.cut(picture, RemoveOptions(shadow=f"-10,0,0,100%,{color}", threshold=128, rescale=False))
        assert cutout.metadata.icc == icc
        assert cutout.image.getpixel((14, 20)) == (*ImageColor.getrgb(color), 255)
        assert cutout.image.getpixel((30, 20)) == pytest.approx((255, 255, 255, 255), abs=1)
        mask = RemoveOptions(shadow=f"-10,0,0,100%,{color}", mask=True, crop=True)
        assert remover.cut(picture, mask).metadata.icc == wide_gamut(), "a mask has no colours"


def test_a_background_picture_is_taken_by_its_own_profile(tmp_path: Path) -> None:
    remover = Remover(brightness_model(tmp_path), device="cpu")
    Image.new("RGB", (40, 40), (230, 30, 30)).save(tmp_path / "behind.png", icc_profile=wide_gamut())
    options = RemoveOptions(background=tmp_path / "behind.png", rescale=False, threshold=255)
    red, green, _ = np.asarray(remover.cut(decode(half_with(b"")), options).image)[0, 0].tolist()
    assert (red < 60, green > 200) == (True, True)


@pytest.mark.parametrize("icc", [None, SRGB, SRGB[:200], b"noise"], ids=["none", "sRGB", "cut short", "noise"])
def test_srgb_and_broken_profiles_change_nothing(icc: bytes | None) -> None:
    image = Image.new("RGB", (8, 8), "orange")
    assert colors.to_srgb(image, icc) is image


def test_a_grey_profile_holds_for_16_bits_too() -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.full((4, 4), 128 * 257, np.uint16)).save(buffer, "PNG", icc_profile=LINEAR_GREY)
    picture = decode(buffer.getvalue(), deep=True)
    assert picture.rgb.getpixel((0, 0)) == pytest.approx((188, 188, 188), abs=2)
    assert picture.deep is None


# --- what is refused ---


@pytest.mark.parametrize(
    "data",
    [
        b"II*\0\x10\0\0\0CR\x02\0" + bytes(60),
        b"FUJIFILMCCD-RAW 0201" + bytes(60),
        b"IIU\0\x18\0\0\0" + bytes(60),
        b"\0\0\0\x18ftypcrx \0\0\0\1crx isom" + bytes(60),
        b"MM\0*" + struct.pack(">IH", 8, 2) + struct.pack(">HHIHxxHHII", 254, 3, 1, 1, 330, 4, 1, 99),
        b"II*\0" + struct.pack("<IH", 8, 1) + struct.pack("<HHII", 0xC612, 1, 4, 1025),
    ],
    ids=["cr2", "raf", "rw2", "cr3", "nef", "dng"],
)  # fmt: skip
def test_camera_raw_files_are_told_by_their_content(data: bytes) -> None:
    with pytest.raises(PictureError, match="camera raw") as caught:
        decode(data)
    assert "export a TIFF or JPEG" in (caught.value.hint or "")


def test_a_camera_raw_file_that_is_named_is_refused(cutout: Cutout, tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.tif")
    (tmp_path / "a.tif").rename(tmp_path / "a.nef")
    run = cutout("remove", tmp_path / "a.nef", "-o", tmp_path / "a.png", "-m", brightness_model(tmp_path))
    assert run.code == 1
    assert "camera raw" in run.err


def test_heic_without_its_codec_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(OutputError) as caught:
        encode(Image.new("RGB", (8, 8)), None, OutputFormat.HEIC)
    assert 'pip install "cutout-cli[heif]"' in (caught.value.hint or "")


@pytest.mark.parametrize("name", ["still.heic", "still.avif"])
def test_heic_and_avif_of_other_encoders_go_in_and_out(name: str, cutout: Cutout, tmp_path: Path) -> None:
    """Made by heif-enc and avifenc."""
    model = brightness_model(tmp_path)
    run = cutout("remove", DATA / name, "-o", tmp_path / name, "-m", model, "--edge-colors", "keep")
    assert run.code == 0, run.err
    before, after = decode((DATA / name).read_bytes()), decode((tmp_path / name).read_bytes())
    assert after.alpha is not None
    assert after.rgb.size == before.rgb.size == (48, 32)
    opaque = np.asarray(after.alpha) > 100
    assert opaque.any()
    difference = np.asarray(after.rgb).astype(int) - np.asarray(before.rgb)
    assert np.abs(difference[opaque]).mean() < 12


def test_names_that_are_no_utf8_survive_in_json(cutout: Cutout, tmp_path: Path) -> None:
    import os
    from urllib.parse import unquote_to_bytes

    path = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png")
    try:
        half(Path(path))
    except OSError:
        pytest.skip("this file system takes UTF-8 alone")
    run = cutout("remove", path, "--json", "-m", brightness_model(tmp_path))
    line = run.lines[0]
    assert unquote_to_bytes(line["input_bytes"]) == os.fsencode(path)
    assert unquote_to_bytes(line["output_bytes"]).endswith(b"caf\xe9-cutout.png")
