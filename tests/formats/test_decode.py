"""Reading pictures: upright, in RGB, with their metadata, and with one kind of error."""

from __future__ import annotations

import functools
import io
import struct
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import pillow_heif
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image, ImageCms, ImageFile
from PIL import __version__ as pillow_version
from profiles import LINEAR_GREY, SRGB, WHITE_POINT, profile

from cutout.errors import PictureError
from cutout.formats import decode as codec
from cutout.formats.decode import Picture, decode
from cutout.formats.picture import from_array, from_image

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

pillow_heif.register_heif_opener()

RED, GREEN, BLUE, WHITE = (230, 20, 20), (20, 200, 30), (20, 40, 220), (250, 250, 250)
SIZE = (48, 32)
LOSSY = 14.0  # mean difference that a lossy format may make to flat colours
INVERSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
"""How an upright picture must be stored so that the EXIF orientation of this number describes it."""


def quarters() -> Image.Image:
    """Four colours, so that every turn and flip shows: red and green above, blue and white below."""
    image = Image.new("RGB", SIZE, RED)
    width, height = SIZE[0] // 2, SIZE[1] // 2
    image.paste(GREEN, (width, 0, 2 * width, height))
    image.paste(BLUE, (0, height, width, 2 * height))
    image.paste(WHITE, (width, height, 2 * width, 2 * height))
    return image


def saved(image: Image.Image, kind: str, **how: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **how)
    return buffer.getvalue()


def png(width: int, height: int, *, depth: int, color: int, rows: bytes, extra: bytes = b"") -> bytes:
    """A PNG that Pillow cannot write itself."""
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    return b"".join(
        (b"\x89PNG\r\n\x1a\n", chunk(b"IHDR", header), extra, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b""))
    )


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def difference(picture: Image.Image, expected: Image.Image) -> float:
    """Mean over all pixels and channels."""
    assert picture.size == expected.size
    assert picture.mode == expected.mode
    return float(np.abs(np.asarray(picture, np.float32) - np.asarray(expected, np.float32)).mean())


def values(image: Image.Image | None) -> npt.NDArray[np.uint8]:
    assert image is not None
    return np.asarray(image)


def pixel(picture: Picture, x: int = 0, y: int = 0) -> tuple[int, ...]:
    found = picture.rgb.getpixel((x, y))
    assert isinstance(found, tuple)
    return tuple(int(value) for value in found)


def is_whole(picture: Picture) -> bool:
    """What every caller relies on."""
    alpha = picture.alpha
    return picture.rgb.mode == "RGB" and (alpha is None or (alpha.mode == "L" and alpha.size == picture.rgb.size))


# --- formats ---

FORMATS: dict[str, dict[str, Any]] = {
    "PNG": {},
    "JPEG": {"quality": 95, "subsampling": 0},
    "WEBP": {"lossless": True},
    "AVIF": {"quality": 95},
    "HEIF": {"quality": 95},
    "TIFF": {"compression": "tiff_lzw"},
    "GIF": {},
    "BMP": {},
    "DIB": {},
    "JPEG2000": {},
    "PPM": {},
    "QOI": {},
}
Image.init()
if "QOI" not in Image.SAVE:  # older Pillows only read it
    del FORMATS["QOI"]


@functools.cache
def sample(kind: str) -> bytes:
    return saved(quarters(), kind, **FORMATS[kind])


@pytest.mark.parametrize("kind", sorted(set(FORMATS) - {"DIB"}))
def test_every_promised_format_is_read(kind: str) -> None:
    picture = decode(sample(kind))
    assert is_whole(picture)
    assert difference(picture.rgb, quarters()) < LOSSY
    assert picture.alpha is None
    assert picture.notes == ()


@pytest.mark.parametrize("kind", sorted({"WEBP", "TIFF", "AVIF", "JPEG2000", "QOI", "PPM"} & set(FORMATS)))
def test_formats_are_read_whether_or_not_the_heic_decoder_was_needed_before(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pillow knows HEIF only once its decoder is registered."""
    for table in (Image.OPEN, Image.SAVE):
        monkeypatch.delitem(table, "HEIF", raising=False)
    assert is_whole(decode(sample(kind)))


def test_a_heic_picture_registers_its_decoder_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    data = sample("HEIF")
    monkeypatch.delitem(Image.OPEN, "HEIF")
    assert difference(decode(data).rgb, quarters()) < LOSSY


def test_without_the_heic_decoder_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    data = sample("HEIF")
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(PictureError, match="HEIC") as caught:
        decode(data)
    assert 'pip install "cutout-cli[heif]"' in (caught.value.hint or "")


@pytest.mark.parametrize("extension", ["EPS", "TGA", "PCX", "SGI", "PDF"])
def test_formats_that_run_programs_or_are_guessed_at_are_refused(extension: str) -> None:
    with pytest.raises(PictureError):
        decode(saved(quarters(), extension))


# --- upright exactly once ---


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF", "HEIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pixels_are_upright_exactly_once(kind: str, orientation: int) -> None:
    stored = quarters()
    if orientation in INVERSE:
        stored = stored.transpose(INVERSE[orientation])
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    how = FORMATS[kind] | {"exif": exif}
    if kind == "HEIF":  # what turns it is a property of its own, which its encoder derives from the image's block
        stored.info["exif"] = how.pop("exif").tobytes()
    picture = decode(saved(stored, kind, **how))
    assert difference(picture.rgb, quarters()) < LOSSY
    # and no encoder or viewer finds a reason to turn it once more
    assert picture.rgb.getexif().get(ExifTags.Base.Orientation, 1) == 1


def test_the_alpha_is_turned_with_the_colours() -> None:
    upright = quarters()
    alpha = Image.new("L", SIZE, 255)
    alpha.paste(0, (0, 0, 24, 16))
    upright.putalpha(alpha)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    picture = decode(saved(upright.transpose(INVERSE[6]), "PNG", exif=exif))
    assert picture.alpha is not None
    assert difference(picture.alpha, alpha) == 0


GARBAGE_EXIF = {
    "nothing": b"Exif\x00\x00",
    "half a byte order": b"Exif\x00\x00M",
    "no such byte order": b"Exif\x00\x00XX*\x00\x08\x00\x00\x00",
    "directory beyond the end": b"Exif\x00\x00II*\x00\xff\xff\xff\xff",
    "directory that is cut short": b"Exif\x00\x00II*\x00\x08\x00\x00\x00\xff\xff",
    "value beyond the end": b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\x00\x01\x01\x12\x00\x03\x00\x00" + b"\xff" * 6,
    "no signature": b"\x00\x01\x02\x03" * 8,
    "noise": bytes(range(256)),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])  # AVIF's decoder itself refuses one
@pytest.mark.parametrize("garbage", GARBAGE_EXIF.values(), ids=GARBAGE_EXIF.keys())
def test_a_broken_exif_block_does_not_make_a_good_picture_fail(kind: str, garbage: bytes) -> None:
    data = saved(quarters(), kind, exif=garbage, **FORMATS[kind])
    assert difference(decode(data).rgb, quarters()) < LOSSY


@pytest.mark.parametrize("orientation", [0, 9, 255, 65535])
def test_an_orientation_that_does_not_exist_turns_nothing(orientation: int) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    assert difference(decode(saved(quarters(), "JPEG", exif=exif, **FORMATS["JPEG"])).rgb, quarters()) < LOSSY


def test_an_orientation_that_is_no_number_turns_nothing() -> None:
    entry = struct.pack(">HHI4sI", ExifTags.Base.Orientation, 2, 4, b"six", 0)
    exif = b"Exif\0\0MM\0*" + struct.pack(">IH", 8, 1) + entry
    assert difference(decode(saved(quarters(), "PNG", exif=exif)).rgb, quarters()) == 0


# --- modes ---


def test_bilevel_becomes_black_and_white() -> None:
    image = Image.new("1", SIZE, 0)
    image.putpixel((3, 2), 1)
    picture = decode(saved(image, "PNG"))
    assert (pixel(picture, 3, 2), pixel(picture, 0, 0)) == ((255, 255, 255), (0, 0, 0))


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM", "BMP", "JPEG2000"])
def test_grey_becomes_equal_channels(kind: str) -> None:
    image = Image.linear_gradient("L").resize(SIZE)
    assert difference(decode(saved(image, kind)).rgb, image.convert("RGB")) == 0


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_grey_with_alpha_keeps_both(kind: str) -> None:
    grey, alpha = Image.linear_gradient("L").resize(SIZE), Image.radial_gradient("L").resize(SIZE)
    image = Image.merge("LA", (grey, alpha))
    picture = decode(saved(image, kind, **({"lossless": True, "exact": True} if kind == "WEBP" else {})))
    assert difference(picture.rgb, grey.convert("RGB")) == 0
    assert picture.alpha is not None
    assert difference(picture.alpha, alpha) == 0


def test_grey_with_one_transparent_shade() -> None:
    image = Image.linear_gradient("L").resize((4, 256))
    picture = decode(saved(image, "PNG", transparency=7))
    assert picture.alpha is not None
    assert [y for y in range(256) if picture.alpha.getpixel((0, y)) == 0] == [7]


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP", "GIF"])
def test_palette_becomes_its_colours(kind: str) -> None:
    image = quarters().quantize(8)
    assert difference(decode(saved(image, kind)).rgb, image.convert("RGB")) == 0


def test_palette_with_one_transparent_entry() -> None:
    image = quarters().quantize(8)
    entry = image.getpixel((0, 0))
    for kind in ("PNG", "GIF"):
        picture = decode(saved(image, kind, transparency=entry))
        assert picture.alpha is not None
        assert picture.alpha.getpixel((0, 0)) == 0
        assert picture.alpha.getpixel((40, 30)) == 255


def test_palette_with_graded_transparency() -> None:
    image = quarters().quantize(4)
    entry = int(np.asarray(image)[0, 0])
    shades = bytearray(b"\xff" * 4)
    shades[entry] = 99
    picture = decode(saved(image, "PNG", transparency=bytes(shades)))
    assert picture.alpha is not None
    assert picture.alpha.getpixel((0, 0)) == 99
    assert pixel(picture) == pytest.approx(RED, abs=3)


def test_palette_that_holds_alpha_itself() -> None:
    """Pillow's own quantiser makes such images."""
    image = quarters()
    image.putalpha(Image.new("L", SIZE, 80))
    picture = from_image(image.quantize(8))
    assert picture.alpha is not None
    assert picture.alpha.getextrema() == (80, 80)


def test_palette_beside_alpha() -> None:
    palette = quarters().quantize(8).convert("PA")
    palette.putalpha(Image.new("L", SIZE, 120))
    picture = from_image(palette)
    assert picture.alpha is not None
    assert picture.alpha.getextrema() == (120, 120)
    assert difference(picture.rgb, quarters()) < 3


def test_rgb_with_one_transparent_colour() -> None:
    picture = decode(saved(quarters(), "PNG", transparency=GREEN))
    assert picture.alpha is not None
    assert picture.alpha.getpixel((40, 2)) == 0
    assert picture.alpha.getpixel((2, 2)) == 255
    assert difference(picture.rgb, quarters()) == 0


@pytest.mark.parametrize("kind", sorted({"PNG", "TIFF", "WEBP", "QOI"} & set(FORMATS)))
def test_alpha_is_kept_beside_untouched_colours(kind: str) -> None:
    image, alpha = quarters(), Image.linear_gradient("L").resize(SIZE)
    image.putalpha(alpha)
    picture = decode(saved(image, kind, **({"lossless": True, "exact": True} if kind == "WEBP" else {})))
    assert difference(picture.rgb, quarters()) == 0
    assert picture.alpha is not None
    assert difference(picture.alpha, alpha) == 0


def test_an_alpha_that_hides_nothing_is_none() -> None:
    image = quarters()
    image.putalpha(255)
    assert decode(saved(image, "PNG")).alpha is None


@pytest.mark.parametrize(("mode", "straight"), [("RGBa", "RGBA"), ("La", "LA")])
def test_premultiplied_colours_are_made_straight(mode: str, straight: str) -> None:
    picture = from_image(
        Image.new(straight, (4, 4), (200, 128) if straight == "LA" else (200, 100, 50, 128)).convert(mode)
    )
    assert picture.alpha is not None
    assert picture.alpha.getextrema() == (128, 128)
    assert pixel(picture) == pytest.approx((200, 200, 200) if straight == "LA" else (200, 100, 50), abs=2)


@pytest.mark.parametrize("adobe", [True, False], ids=["with Adobe marker", "without Adobe marker"])
def test_cmyk_jpeg_has_the_right_colours(adobe: bool) -> None:
    data = saved(quarters().convert("CMYK"), "JPEG", quality=95)
    if not adobe:
        start = data.index(b"\xff\xee")
        (length,) = struct.unpack(">H", data[start + 2 : start + 4])
        data = data[:start] + data[start + 2 + length :]
    assert (b"Adobe" in data) is adobe
    assert difference(decode(data).rgb, quarters()) < LOSSY


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr"])
def test_other_colour_spaces_in_tiff(mode: str) -> None:
    if mode == "YCbCr" and int(pillow_version.partition(".")[0]) < 13:
        pytest.skip("Pillow before 13 cannot read the YCbCr TIFF it writes")
    assert difference(decode(saved(quarters().convert(mode), "TIFF")).rgb, quarters()) < 3


def test_lab_tiff_becomes_srgb() -> None:
    to_lab = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
    lab = ImageCms.applyTransform(quarters(), to_lab)
    assert lab is not None
    assert difference(decode(saved(lab, "TIFF")).rgb, quarters()) < 4


# --- more than 8 bits ---

RAMP = (np.arange(256, dtype=np.uint32) * 257).reshape(16, 16)
"""All shades from 0 to 65535, each of which is one of 8 bits exactly."""


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM", "JPEG2000"])
def test_16_bit_grey_is_scaled_not_clipped(kind: str) -> None:
    image = Image.fromarray(RAMP.astype(np.uint16))
    picture = decode(saved(image, kind))
    assert np.array_equal(values(picture.rgb)[:, :, 1].ravel(), np.arange(256))


def test_16_bit_grey_of_the_other_byte_order() -> None:
    image = Image.frombytes("I;16B", (16, 16), RAMP.astype(">u2").tobytes())
    assert np.array_equal(values(from_image(image).rgb)[:, :, 1].ravel(), np.arange(256))
    assert np.array_equal(values(decode(saved(image, "TIFF")).rgb)[:, :, 1].ravel(), np.arange(256))


def test_a_ppm_of_any_depth_reaches_white() -> None:
    picture = decode(b"P5 3 1 1023 " + struct.pack(">3H", 0, 512, 1023))
    assert values(picture.rgb)[0, :, 0].tolist() == pytest.approx([0, 128, 255], abs=1)


def test_16_bit_rgb_png_is_scaled_not_clipped() -> None:
    rows = b"".join(b"\0" + row.astype(">u2").repeat(3).tobytes() for row in RAMP)
    picture = decode(png(16, 16, depth=16, color=2, rows=rows))
    assert np.array_equal(values(picture.rgb)[:, :, 2].ravel(), np.arange(256))


def test_16_bit_rgb_png_with_a_transparent_colour() -> None:
    rows = b"".join(b"\0" + row.astype(">u2").repeat(3).tobytes() for row in RAMP)
    transparent = chunk(b"tRNS", struct.pack(">3H", *[257 * 200] * 3))
    picture = decode(png(16, 16, depth=16, color=2, rows=rows, extra=transparent))
    assert np.array_equal(values(picture.rgb)[:, :, 0].ravel(), np.arange(256))
    assert np.flatnonzero(values(picture.alpha) == 0).tolist() == [200]


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize(("color", "channels"), [(0, 1), (2, 3)], ids=["grey", "rgb"])
def test_one_transparent_colour_of_16_bits_is_told_from_its_neighbours(color: int, channels: int, deep: bool) -> None:
    """1000 is 3·256 + 232: neither all pixels of the upper byte 3 are meant, nor those of 232."""
    shades = np.asarray([[1000, 1001, 999, 232 * 257], [1000, 1000, 0, 65535]])
    rows = b"".join(b"\0" + row.astype(">u2").repeat(channels).tobytes() for row in shades)
    key = chunk(b"tRNS", struct.pack(f">{channels}H", *[1000] * channels))
    picture = decode(png(4, 2, depth=16, color=color, rows=rows, extra=key), deep=deep)
    assert values(picture.alpha).tolist() == [[0, 255, 255, 255], [0, 0, 255, 255]]
    assert (picture.deep is not None) is deep
    absent = chunk(b"tRNS", struct.pack(f">{channels}H", *[1002] * channels))
    assert decode(png(4, 2, depth=16, color=color, rows=rows, extra=absent), deep=deep).alpha is None


@pytest.mark.parametrize(("depth", "row"), [(1, b"\x60"), (2, b"\x1b"), (4, b"\x01\x2f"), (8, b"\x00\x01\x02\xff")])
def test_one_transparent_grey_of_a_few_bits(depth: int, row: bytes) -> None:
    key = chunk(b"tRNS", struct.pack(">H", 1))
    picture = decode(png(4, 1, depth=depth, color=0, rows=b"\0" + row, extra=key))
    wanted = [255, 0, 0, 255] if depth == 1 else [255, 0, 255, 255]
    assert values(picture.alpha).tolist() == [wanted]


def test_16_bit_rgba_and_grey_alpha_png() -> None:
    for color, channels in ((6, 4), (4, 2)):
        rows = b"".join(b"\0" + row.astype(">u2").repeat(channels).tobytes() for row in RAMP)
        picture = decode(png(16, 16, depth=16, color=color, rows=rows))
        assert np.array_equal(values(picture.alpha).ravel(), np.arange(256))
        assert np.array_equal(values(picture.rgb)[:, :, 0].ravel(), np.arange(256))


@pytest.mark.parametrize("top", [65535, 2**31 - 1])
def test_32_bit_tiff_is_scaled_by_the_range_its_values_show(top: int) -> None:
    ramp = (np.linspace(0, top, 256)).astype(np.int32).reshape(16, 16)
    picture = decode(saved(Image.fromarray(ramp), "TIFF"))
    assert np.abs(values(picture.rgb)[:, :, 0].ravel().astype(int) - np.arange(256)).max() <= 1


@pytest.mark.parametrize("top", [1.0, 255.0, 4000.0])
def test_floating_point_tiff_is_scaled_by_the_range_its_values_show(top: float) -> None:
    ramp = np.linspace(0, top, 256, dtype=np.float32).reshape(16, 16)
    picture = decode(saved(Image.fromarray(ramp), "TIFF"))
    assert np.abs(values(picture.rgb)[:, :, 0].ravel().astype(int) - np.arange(256)).max() <= 1


def test_floating_point_tiff_without_sense_is_black_there() -> None:
    ramp = np.array([[np.nan, -1.0], [0.5, 1.0]], np.float32)
    assert values(decode(saved(Image.fromarray(ramp), "TIFF")).rgb)[:, :, 0].tolist() == [[0, 0], [127, 255]]


# --- several frames ---


def frames() -> list[Image.Image]:
    return [quarters(), quarters().transpose(INVERSE[3]), Image.new("RGB", SIZE, "black")]


@pytest.mark.parametrize(
    ("kind", "how"), [("GIF", {}), ("WEBP", {"lossless": True}), ("PNG", {}), ("TIFF", {}), ("AVIF", {"quality": 95})]
)
def test_the_first_frame_is_taken_and_said_so(kind: str, how: dict[str, Any]) -> None:
    first, *rest = frames()
    picture = decode(saved(first, kind, save_all=True, append_images=rest, **how))
    assert difference(picture.rgb, quarters()) < LOSSY
    assert picture.notes == ("only the first of 3 frames was taken",)


def test_a_phones_further_views_are_not_worth_a_note() -> None:
    first, *rest = frames()
    data = saved(first, "MPO", save_all=True, append_images=rest, quality=95, subsampling=0)
    with Image.open(io.BytesIO(data)) as image:
        assert image.format == "MPO"
    picture = decode(data)
    assert difference(picture.rgb, quarters()) < LOSSY
    assert picture.notes == ()


# --- profiles and resolution ---

RED_INK_FIRST = profile(
    b"CMYK",
    {
        b"wtpt": WHITE_POINT,
        b"A2B0": b"mft1\0\0\0\0\x04\x03\x02\0"
        + struct.pack(">9i", *(0x10000 if i in {0, 4, 8} else 0 for i in range(9)))
        + bytes(range(256)) * 4
        + b"\xff\x80\x80"  # no ink: white
        + b"\x00\x80\x80" * 7  # any but the first: black
        + b"\x89\xd0\xc3" * 8  # the first: red
        + bytes(range(256)) * 3,
    },
    b"Lab ",
)
"""A printer whose first ink is red where all others have cyan."""


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_an_rgb_profile_travels_with_the_colours_it_describes(kind: str) -> None:
    picture = decode(saved(quarters(), kind, icc_profile=SRGB, **FORMATS[kind]))
    assert picture.metadata.icc == SRGB
    assert difference(picture.rgb, quarters()) < LOSSY


def test_a_profile_travels_with_palette_and_alpha_too() -> None:
    transparent = quarters()
    transparent.putalpha(100)
    for image in (quarters().quantize(8), transparent):
        assert decode(saved(image, "PNG", icc_profile=SRGB)).metadata.icc == SRGB


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
def test_a_grey_profile_is_used_and_dropped(kind: str) -> None:
    picture = decode(saved(Image.new("L", SIZE, 128), kind, icc_profile=LINEAR_GREY))
    assert pixel(picture) == pytest.approx((188, 188, 188), abs=2)
    assert picture.metadata.icc is None


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_a_cmyk_profile_is_used_and_dropped(kind: str) -> None:
    data = saved(Image.new("CMYK", SIZE, (255, 0, 0, 0)), kind, icc_profile=RED_INK_FIRST)
    picture = decode(data)
    red, green, blue = pixel(picture)
    assert red > 100
    assert max(green, blue) < 40
    assert picture.metadata.icc is None
    assert "icc_profile" not in picture.rgb.info


BROKEN_PROFILES = {
    "noise": bytes(range(256)),
    "short": b"\0" * 10,
    "CMYK in name only": profile(b"CMYK", {}),
    "grey in name only": profile(b"GRAY", {}),
    "cut short": SRGB[:200],
}


@pytest.mark.parametrize("broken", BROKEN_PROFILES.values(), ids=BROKEN_PROFILES.keys())
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK", "P"])
def test_a_broken_profile_is_harmless(mode: str, broken: bytes) -> None:
    image = quarters().convert(mode)
    picture = decode(saved(image, "TIFF", icc_profile=broken))
    assert difference(picture.rgb, image.convert("RGB")) < 2
    if picture.metadata.icc is not None:
        assert picture.metadata.icc[16:20] == b"RGB "


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "BMP"])
def test_the_resolution_is_kept(kind: str) -> None:
    assert decode(saved(quarters(), kind, dpi=(300, 150))).metadata.dpi == pytest.approx((300, 150), abs=0.1)


def test_a_tiff_that_says_nothing_of_its_resolution_has_none() -> None:
    assert decode(saved(quarters(), "TIFF")).metadata.dpi is None


@pytest.mark.parametrize("dpi", [(0, 0), (-1, -1), (float("nan"), 72), (1e9, 1e9), "many", None, 72, (1, 2, 3)])
def test_a_resolution_that_makes_no_sense_is_left_out(dpi: object) -> None:
    image = quarters()
    image.info["dpi"] = dpi
    assert from_image(image).metadata.dpi is None


def test_nothing_but_the_metadata_travels() -> None:
    """Encoders take what they find in `info`: a stale profile or comment there would be written."""
    data = saved(quarters(), "JPEG", icc_profile=RED_INK_FIRST, comment=b"secret place", dpi=(300, 300))
    assert decode(data).rgb.info == {}


# --- size ---


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize(("size", "wanted"), [((400, 200), (100, 50)), ((200, 401), (50, 100)), ((1000, 1), (100, 1))])
def test_max_size_limits_the_longest_side(kind: str, size: tuple[int, int], wanted: tuple[int, int]) -> None:
    picture = decode(saved(Image.new("RGB", size, RED), kind), max_size=100)
    assert picture.rgb.size == wanted
    assert pixel(picture) == pytest.approx(RED, abs=5)


def test_max_size_limits_the_alpha_alike() -> None:
    image = Image.new("RGBA", (300, 200), (10, 20, 30, 99))
    picture = decode(saved(image, "PNG"), max_size=90)
    assert is_whole(picture)
    assert picture.rgb.size == (90, 60)
    assert picture.alpha is not None
    assert picture.alpha.getextrema() == (99, 99)


def test_max_size_enlarges_nothing() -> None:
    assert decode(sample("JPEG"), max_size=4000).rgb.size == SIZE


def test_max_size_counts_the_upright_picture() -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    data = saved(quarters().transpose(INVERSE[6]), "JPEG", exif=exif, **FORMATS["JPEG"])
    picture = decode(data, max_size=24)
    assert difference(picture.rgb, quarters().resize((24, 16))) < LOSSY


def test_a_reduced_jpeg_looks_like_the_scaled_whole(examples: Path) -> None:
    data = (examples / "coffee.jpg").read_bytes()
    whole = decode(data).rgb
    small = decode(data, max_size=100).rgb
    assert max(small.size) == 100
    assert difference(small, whole.resize(small.size, Image.Resampling.LANCZOS)) < 3


@pytest.mark.parametrize("kind", sorted({"PNG", "GIF", "BMP", "QOI"} & set(FORMATS)))
def test_a_bomb_is_refused_by_its_header(kind: str) -> None:
    """60000×60000 pixels would take 10 GB."""
    data = bytearray(sample(kind))
    match kind:
        case "PNG":
            data[8:33] = chunk(b"IHDR", struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0))
        case "GIF":
            data[6:10] = struct.pack("<HH", 60000, 60000)
        case "BMP":
            data[18:26] = struct.pack("<ii", 60000, 60000)
        case "QOI":
            data[4:12] = struct.pack(">II", 60000, 60000)
    with pytest.raises(PictureError, match="60000×60000 = 3600 megapixels") as caught:
        decode(bytes(data))
    assert "max_pixels" in (caught.value.hint or "")


def test_the_limit_of_pixels_can_be_set() -> None:
    assert decode(sample("PNG"), max_pixels=48 * 32).rgb.size == SIZE
    with pytest.raises(PictureError, match="more than the limit"):
        decode(sample("PNG"), max_pixels=48 * 32 - 1)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_pillows_own_limit_neither_counts_nor_changes(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It warns and fails at sizes below ours, and belongs to the program that calls."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert is_whole(decode(sample(kind)))
    assert Image.MAX_IMAGE_PIXELS == 100
    with pytest.raises(PictureError):
        decode(b"no picture")
    assert Image.MAX_IMAGE_PIXELS == 100


# --- what is no picture, or not all of one ---


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "empty"),
        (b"\0" * 100, "not a picture of a known format"),
        (b"%PDF-1.7 and so on", "not a picture of a known format"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not a picture of a known format"),
        (b"\x89PNG\r\n\x1a\n", "the PNG file is broken"),
        (b"\xff\xd8\xff\xe0" + b"\0" * 50, "the JPEG file is broken"),
        (b"RIFF\x10\0\0\0WEBPVP8 " + b"\0" * 50, "the WebP file is broken"),
    ],
)
def test_what_is_no_picture_is_named_as_what_it_is(data: bytes, message: str) -> None:
    with pytest.raises(PictureError, match=message) as caught:
        decode(data)
    assert caught.value.hint


@pytest.mark.filterwarnings("ignore")  # Pillow's own, which are no errors outside the tests
@pytest.mark.parametrize("kind", FORMATS)
def test_a_file_cut_short_anywhere_is_a_picture_or_a_picture_error(kind: str) -> None:
    data = sample(kind)
    for cut in {*range(0, len(data), max(1, len(data) // 100)), *range(min(64, len(data)))}:
        try:
            picture = decode(data[:cut])
        except PictureError:
            continue
        assert is_whole(picture), cut


@pytest.mark.parametrize("kind", sorted(set(FORMATS) - {"DIB"}))
@pytest.mark.filterwarnings("ignore")
def test_half_a_file_is_told_never_taken_for_a_picture(kind: str) -> None:
    data = saved(Image.effect_noise((64, 64), 80).convert("RGB"), kind)
    with pytest.raises(PictureError, match=r"broken|cut short|known format"):
        decode(data[: len(data) // 2])


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    data = bytearray(sample(draw(st.sampled_from(sorted(FORMATS)))))
    # most of what decoders trust stands near the start
    place = st.integers(0, len(data) - 1) | st.integers(0, min(120, len(data) - 1))
    for position, value in draw(st.lists(st.tuples(place, st.integers(0, 255)), min_size=1, max_size=8)):
        data[position] = value
    return bytes(data)


@pytest.mark.filterwarnings("ignore")
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
@given(damaged())
def test_damaged_bytes_are_a_picture_or_a_picture_error(data: bytes) -> None:
    try:
        picture = decode(data, max_pixels=1_000_000)
    except PictureError:
        return
    assert is_whole(picture)


@pytest.mark.filterwarnings("ignore")
@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.binary(max_size=200) | st.binary(max_size=60).map(lambda tail: b"\x89PNG\r\n\x1a\n" + tail))
def test_any_bytes_at_all_are_a_picture_or_a_picture_error(data: bytes) -> None:
    try:
        picture = decode(data, max_pixels=1_000_000)
    except PictureError:
        return
    assert is_whole(picture)


def test_memory_that_does_not_suffice_is_told_as_that(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_self: object) -> None:
        raise MemoryError

    monkeypatch.setattr(ImageFile.ImageFile, "load", fail)
    with pytest.raises(PictureError, match="not enough memory") as caught:
        decode(sample("JPEG"))
    assert "max_size" in (caught.value.hint or "")


def test_many_threads_decode_the_same() -> None:
    kinds = sorted(FORMATS) * 4
    with ThreadPoolExecutor(8) as pool:
        pictures = list(pool.map(lambda kind: decode(sample(kind)), kinds))
    for kind, picture in zip(kinds, pictures, strict=True):
        assert difference(picture.rgb, decode(sample(kind)).rgb) == 0


# --- images and arrays of a calling program ---


def test_the_callers_image_is_left_as_it_is(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    path = tmp_path / "large.jpg"
    Image.new("RGB", (1600, 800), RED).save(path, exif=exif, dpi=(300, 300))
    with Image.open(path) as image:
        before = dict(image.info)
        picture = from_image(image, max_size=100)
        assert picture.rgb.size == (50, 100)
        assert image.size == (1600, 800), "not even reduced while it is decoded"
        assert image.info == before
        assert image.getexif()[ExifTags.Base.Orientation] == 6


def test_an_image_without_pixels_is_refused() -> None:
    with pytest.raises(PictureError, match="no pixels"):
        from_image(Image.new("RGB", (0, 5)))


def test_an_image_whose_file_is_broken_is_a_picture_error() -> None:
    data = saved(Image.effect_noise((64, 64), 80), "PNG")
    with Image.open(io.BytesIO(data[: len(data) // 2])) as image, pytest.raises(PictureError, match="cut short"):
        from_image(image)


def array(shape: tuple[int, ...], kind: Any) -> npt.NDArray[Any]:
    """The same picture in every type: 0, 51, 102, … of 255."""
    steps = np.arange(np.prod(shape)) % 6 * 51
    whole = steps.reshape(shape).astype(np.uint8)
    match np.dtype(kind).kind:
        case "f":
            return (whole / 255).astype(kind)
        case "b":
            return whole > 127
        case _:
            return whole.astype(kind) * (257 if np.dtype(kind).itemsize == 2 else 1)


@pytest.mark.parametrize("kind", ["u1", "u2", ">u2", "f2", "f4", "f8"])
@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 1), (5, 7, 2), (5, 7, 3), (5, 7, 4)])
def test_arrays_of_every_kind_are_the_same_picture(shape: tuple[int, ...], kind: str) -> None:
    picture, expected = from_array(array(shape, kind)), array(shape, "u1")
    assert picture.rgb.size == (7, 5)
    colors = expected if expected.ndim == 3 else expected[:, :, None]
    if colors.shape[2] in {2, 4}:
        assert np.array_equal(values(picture.alpha), colors[:, :, -1])
        colors = colors[:, :, :-1]
    else:
        assert picture.alpha is None
    assert np.array_equal(values(picture.rgb), np.broadcast_to(colors, (5, 7, 3)))


def test_16_bits_are_rounded_to_8() -> None:
    grey = np.array([[0, 128, 129, 65406, 65407, 65535]], np.uint16)
    assert values(from_array(grey).rgb)[0, :, 0].tolist() == [0, 0, 1, 254, 255, 255]


def test_truth_values_are_black_and_white() -> None:
    assert values(from_array(np.array([[True, False]])).rgb)[0, :, 0].tolist() == [255, 0]


def test_an_array_need_not_be_contiguous() -> None:
    whole = array((8, 12, 3), "u1")
    assert np.array_equal(values(from_array(whole[::2, ::-1]).rgb), whole[::2, ::-1])
    assert np.array_equal(values(from_array(np.asfortranarray(whole)).rgb), whole)


@pytest.mark.parametrize(
    "bad", [np.zeros(5), np.zeros((0, 4)), np.zeros((3, 3, 5)), np.zeros((2, 3, 3, 3)), np.array(3)]
)
def test_an_array_of_another_shape_is_refused(bad: npt.NDArray[Any]) -> None:
    with pytest.raises(PictureError, match="shape"):
        from_array(bad)


@pytest.mark.parametrize("kind", ["i4", "i8", "u4", "c8", "U1", "O"])
def test_an_array_of_another_type_is_refused(kind: str) -> None:
    with pytest.raises(PictureError, match="is no picture"):
        from_array(np.zeros((4, 4), kind))


def test_a_float_array_of_0_to_255_is_refused_rather_than_made_white() -> None:
    with pytest.raises(PictureError, match="up to 128") as caught:
        from_array(np.full((4, 4, 3), 128.0))
    assert "floats from 0 to 1" in (caught.value.hint or "")


def test_floats_a_little_beyond_their_range_are_clipped() -> None:
    assert values(from_array(np.array([[-0.1, 1.2, np.nan]])).rgb)[0, :, 0].tolist() == [0, 255, 0]


def test_256_megapixels_are_read_and_one_row_more_is_refused() -> None:
    def bilevel(height: int) -> bytes:
        return png(16_000, height, depth=1, color=0, rows=bytes(2001 * height))

    assert codec.header(bilevel(16_000)).size == (16_000, 16_000)
    with pytest.raises(codec.TooLargeError, match="256"):
        codec.header(bilevel(16_001))
