"""16 bits a channel: read whole, kept where the cut-out keeps the colours, written as PNG and TIFF."""

from __future__ import annotations

import io
import struct
import subprocess
import zlib
from pathlib import Path
from shutil import which
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image
from profiles import wide_gamut
from small import brightness_model

from cutout.enums import BitDepth, EdgeColors
from cutout.errors import OutputError
from cutout.formats.decode import decode
from cutout.formats.encode import encode
from cutout.formats.picture import Picture, read_image
from cutout.formats.sixteen_bit import merge, resize, turn
from cutout.jobs.plan import Job
from cutout.jobs.worker import process
from cutout.options import Encoding, RemoveOptions
from cutout.output_formats import OutputFormat
from cutout.pipeline.remover import Remover

if TYPE_CHECKING:
    import numpy.typing as npt
    from conftest import Cutout

DATA = Path(__file__).parents[1] / "data"
# all made by ImageMagick of one picture, with all of the 16 bits used: see data/make.sh
FILES = ("rgb16.png", "rgb16-interlaced.png", "rgba16.png", "rgb16-none.tif", "rgb16-lzw.tif")


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Remover:
    """A model whose mask is the picture's brightness."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUTOUT_HOME", str(tmp_path_factory.mktemp("quick")))
        return Remover(brightness_model(tmp_path_factory.mktemp("model")), device="cpu")


def png_samples(data: bytes) -> npt.NDArray[np.uint16]:
    """A second reader, for PNGs of 16 bits without interlacing: slow, and by the letter of the specification."""
    width, height, depth, kind = struct.unpack(">IIBB", data[16:26])
    assert (depth, data[28]) == (16, 0)
    packed, at = b"", 8
    while at < len(data):
        length, name = struct.unpack_from(">I4s", data, at)
        packed += data[at + 8 : at + 8 + length] if name == b"IDAT" else b""
        assert zlib.crc32(data[at + 4 : at + 8 + length]) == struct.unpack_from(">I", data, at + 8 + length)[0]
        at += 12 + length
    step = 2 * {0: 1, 2: 3, 4: 2, 6: 4}[kind]
    rows, plain = zlib.decompress(packed), []
    above = bytes(width * step)
    for top in range(height):
        method, *line = rows[top * (width * step + 1) : (top + 1) * (width * step + 1)]
        for i, value in enumerate(line):
            left, up = (line[i - step] if i >= step else 0), above[i]
            corner = above[i - step] if i >= step else 0
            guess = left + up - corner
            paeth = min((left, up, corner), key=lambda each: abs(guess - each))
            line[i] = (value + (0, left, up, (left + up) // 2, paeth)[method]) & 255
        above = bytes(line)
        plain.append(above)
    return np.frombuffer(b"".join(plain), ">u2").reshape(height, width, step // 2).astype(np.uint16)


ORIGINAL = png_samples((DATA / "rgb16.png").read_bytes())


# --- in ---


def test_the_samples_use_their_16_bits() -> None:
    """Otherwise nothing below would show anything."""
    assert len(np.unique(ORIGINAL & 255)) > 200


@pytest.mark.parametrize("name", FILES)
def test_16_bits_are_read_as_they_are(name: str) -> None:
    picture = decode((DATA / name).read_bytes(), deep=True)
    assert picture.deep is not None
    assert np.array_equal(picture.deep, ORIGINAL)
    assert np.abs(np.asarray(picture.rgb).astype(int) - ORIGINAL // 257).max() <= 1
    assert (picture.alpha is not None) is (name == "rgba16.png")


def test_tifffile_reads_the_same() -> None:
    tifffile = pytest.importorskip("tifffile")
    assert np.array_equal(tifffile.imread(DATA / "rgb16-none.tif"), ORIGINAL)


def test_grey_of_16_bits_is_read_as_it_is() -> None:
    grey = np.arange(0, 65536, 256, dtype=np.uint16).reshape(16, 16) + np.uint16(77)
    for kind in ("PNG", "TIFF", "PPM", "JPEG2000"):
        buffer = io.BytesIO()
        Image.fromarray(grey).save(buffer, kind)
        deep = decode(buffer.getvalue(), deep=True).deep
        assert deep is not None
        assert np.array_equal(deep, np.repeat(grey[:, :, None], 3, axis=2))


def test_8_bits_are_8_bits(examples: Path) -> None:
    assert decode((examples / "coffee.jpg").read_bytes(), deep=True).deep is None
    assert decode((DATA / "rgb16.png").read_bytes()).deep is None, "nobody asked"


@pytest.mark.parametrize("orientation", range(1, 9))
def test_they_are_turned_as_the_8_bits_are(orientation: int) -> None:
    values = np.arange(2 * 3 * 3, dtype=np.uint16).reshape(2, 3, 3)
    image = Image.fromarray(values.astype(np.uint8))
    exif = image.getexif()
    exif[0x0112] = orientation
    upright = read_image(image, None).rgb
    assert np.array_equal(turn(values, orientation), np.asarray(upright))


def test_they_are_scaled_as_the_8_bits_are() -> None:
    picture = decode((DATA / "rgb16.png").read_bytes(), max_size=12, deep=True)
    assert picture.deep is not None
    assert picture.deep.shape == (picture.rgb.height, picture.rgb.width, 3)
    assert np.abs(picture.deep / 257 - np.asarray(picture.rgb)).max() < 2
    assert np.array_equal(resize(ORIGINAL, (24, 16)), ORIGINAL)


# --- through ---


def test_a_pixel_that_was_changed_takes_the_change() -> None:
    deep = np.full((2, 2, 3), 1000, np.uint16)
    before = Image.new("RGB", (2, 2), (4, 4, 4))
    after = before.copy()
    after.putpixel((1, 0), (4, 9, 4))
    merged = merge(deep, before, after)
    assert merged is not None
    assert merged[0, 1].tolist() == [4 * 257, 9 * 257, 4 * 257]
    merged[0, 1] = 1000
    assert np.array_equal(merged, deep)
    assert merge(deep, before, before.crop((0, 0, 1, 1))) is None


def cut(name: str, target: Path, remover: Remover, options: RemoveOptions | None = None, **how: Any) -> bytes:
    kind = OutputFormat(target.suffix[1:])
    job = Job(source=DATA / name, target=target, output_format=kind)
    options = options or RemoveOptions(edge_colors=EdgeColors.KEEP)
    outcome = process(job, remover, options, Encoding(keep_hidden=True, **how))
    assert outcome.error is None
    return target.read_bytes()


@pytest.mark.parametrize("name", FILES)
def test_a_cut_out_keeps_them(name: str, tmp_path: Path, quick: Remover) -> None:
    samples = png_samples(cut(name, tmp_path / "out.png", quick))
    assert samples.shape == (16, 24, 4)
    assert np.array_equal(samples[:, :, :3], ORIGINAL)
    plain = decode(cut(name, tmp_path / "out.webp", quick, lossless=True)).alpha
    assert np.array_equal(samples[:, :, 3], np.asarray(plain).astype(np.uint16) * 257)
    tiff = decode(cut(name, tmp_path / "out.tiff", quick), deep=True)
    assert tiff.deep is not None
    assert np.array_equal(tiff.deep, ORIGINAL)


def test_over_a_background_they_are_kept_where_the_picture_is_opaque(tmp_path: Path, quick: Remover) -> None:
    options = RemoveOptions(background=(1, 2, 3), threshold=100, rescale=False)
    samples = png_samples(cut("rgb16.png", tmp_path / "out.png", quick, options))
    opaque = (samples == ORIGINAL).all(axis=2)
    assert opaque.any()
    assert (~opaque).any()
    assert {tuple(pixel) for pixel in samples[~opaque].tolist()} == {(257, 514, 771)}


@pytest.mark.parametrize(("depth", "bits"), [(BitDepth.EIGHT, 8), (BitDepth.AUTO, 16), (BitDepth.SIXTEEN, 16)])
def test_the_depth_can_be_chosen(depth: BitDepth, bits: int, tmp_path: Path, quick: Remover) -> None:
    assert cut("rgb16.png", tmp_path / "out.png", quick, bit_depth=depth)[24] == bits


def test_8_bits_can_be_widened(tmp_path: Path, quick: Remover) -> None:
    for options in (RemoveOptions(), RemoveOptions(mask=True), RemoveOptions(background="white")):
        narrow = cut("meta.jpg", tmp_path / "narrow.png", quick, options)
        wide = png_samples(cut("meta.jpg", tmp_path / "wide.png", quick, options, bit_depth=BitDepth.SIXTEEN))
        with Image.open(io.BytesIO(narrow)) as image:
            expected = np.asarray(image).astype(np.uint16) * 257
        assert np.array_equal(wide, expected.reshape(wide.shape))


def test_hidden_colours_are_black_unless_they_are_to_be_kept() -> None:
    rgb, alpha = Image.new("RGB", (4, 4), "orange"), Image.new("L", (4, 4), 0)
    alpha.putpixel((0, 0), 255)
    samples = png_samples(encode(rgb, alpha, OutputFormat.PNG, encoding=Encoding(bit_depth=BitDepth.SIXTEEN)))
    assert samples[0, 0].tolist() == [65535, 165 * 257, 0, 65535]
    assert samples[1:].max() == 0


@pytest.mark.parametrize("output_format", [OutputFormat.PNG, OutputFormat.TIFF, OutputFormat.WEBP])
def test_hidden_colours_that_are_to_be_kept_are(output_format: OutputFormat, examples: Path) -> None:
    rgb = decode((examples / "chelsea.jpg").read_bytes(), max_size=64).rgb
    alpha = Image.linear_gradient("L").resize(rgb.size).point([0] * 128 + list(range(128, 256)))
    for keep in (True, False):
        found = decode(encode(rgb, alpha, output_format, encoding=Encoding(lossless=True, keep_hidden=keep)))
        assert found.alpha is not None
        assert np.array_equal(np.asarray(found.alpha), np.asarray(alpha))
        assert np.array_equal(np.asarray(found.rgb), np.asarray(rgb)) is keep


def test_lossless_avif_is_nearly_so(examples: Path) -> None:
    """Should this become exact one day, its description may say so."""
    rgb = decode((examples / "chelsea.jpg").read_bytes(), max_size=64).rgb
    alpha = Image.linear_gradient("L").resize(rgb.size)
    found = decode(encode(rgb, alpha, OutputFormat.AVIF, encoding=Encoding(lossless=True, keep_hidden=True)))
    assert np.array_equal(np.asarray(found.alpha), np.asarray(alpha))
    assert 1 <= np.abs(np.asarray(found.rgb).astype(int) - np.asarray(rgb)).max() <= 3


def test_other_formats_refuse_16_bits(cutout: Cutout, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="8 bits a channel"):
        encode(Image.new("RGB", (4, 4)), None, OutputFormat.WEBP, encoding=Encoding(bit_depth=BitDepth.SIXTEEN))
    run = cutout("remove", DATA / "rgb16.png", "-o", tmp_path / "out.webp", "--bit-depth", "16")
    assert run.code == 2
    assert "--bit-depth 16 goes with png and tiff" in run.err


SUBJECT = (5, 3, 20, 14)


def with_a_subject() -> Picture:
    """Opaque within a box, transparent around it."""
    picture = decode((DATA / "rgb16.png").read_bytes(), deep=True)
    alpha = Image.new("L", picture.rgb.size)
    alpha.paste(255, SUBJECT)
    return picture._replace(alpha=alpha)


@pytest.mark.parametrize(
    ("wanted", "left", "top"),
    [
        ({"crop": True}, -5, -3),
        ({"crop": True, "margin": "2,0,0,1"}, -4, -1),
        ({"crop": True, "margin": "40,30,20,10", "shadow": "default"}, 5, 37),
        ({"canvas": "24x16", "scale": "original", "position": "bottom-right"}, 4, 2),
        ({"canvas": "9x7", "scale": "original", "position": "bottom-right"}, -11, -7),
        ({"canvas": "50x40", "scale": "original", "position": "bottom-right", "background": "white"}, 30, 26),
    ],
)
def test_a_frame_that_only_shifts_the_picture_takes_the_16_bits_along(
    wanted: dict[str, Any], left: int, top: int, quick: Remover
) -> None:
    cutout = quick.cut(with_a_subject(), RemoveOptions(threshold=1, rescale=False, **wanted))
    assert cutout.warnings == ()
    assert cutout.deep is not None
    width, height = cutout.size
    assert cutout.deep.shape == (height, width, 3)
    shown = 0
    for y in range(max(SUBJECT[1], -top), min(SUBJECT[3], height - top)):
        for x in range(max(SUBJECT[0], -left), min(SUBJECT[2], width - left)):
            assert cutout.deep[y + top, x + left].tolist() == ORIGINAL[y, x].tolist()
            shown += 1
    assert shown == min(width, 15) * min(height, 11)
    if "background" in wanted:
        assert (cutout.deep[:10] == 65535).all()


def test_a_scaled_picture_has_8_bits_and_it_is_told(quick: Remover) -> None:
    """Also where the canvas is as large as the picture."""
    cutout = quick.cut(with_a_subject(), RemoveOptions(rescale=False, canvas="24x16", scale="70%"))
    assert cutout.deep is None
    assert [warning for warning in cutout.warnings if warning.startswith("16 bits were reduced to 8: ")]


def in_another_space(name: str) -> Any:
    picture = decode((DATA / name).read_bytes(), deep=True)
    return picture._replace(metadata=picture.metadata._replace(icc=wide_gamut()))


@pytest.mark.parametrize("background", ["#ff8800", "gradient:white,navy"])
def test_16_bits_lost_for_a_background_of_another_space_are_told(background: str, quick: Remover) -> None:
    cutout = quick.cut(in_another_space("rgb16.png"), RemoveOptions(background=background))
    assert cutout.deep is None
    assert [warning for warning in cutout.warnings if warning.startswith("16 bits were reduced to 8: ")]


@pytest.mark.parametrize("background", ["white", "blur:2"])
def test_a_background_without_colours_of_its_own_leaves_space_and_bits(background: str, quick: Remover) -> None:
    picture = in_another_space("rgb16.png")
    options = RemoveOptions(background=background, threshold=100, rescale=False)
    cutout = quick.cut(picture, options)
    assert cutout.metadata.icc == picture.metadata.icc
    assert cutout.warnings == ()
    assert cutout.deep is not None
    opaque = np.asarray(quick.cut(picture, RemoveOptions(mask=True, threshold=100, rescale=False)).alpha) == 255
    assert opaque.any()
    assert np.array_equal(cutout.deep[opaque], ORIGINAL[opaque])


# --- our files, read by others ---


@pytest.mark.skipif(which("pngcheck") is None, reason="pngcheck is not installed")
def test_pngcheck_finds_our_files_right(tmp_path: Path, quick: Remover) -> None:
    cut("rgba16.png", tmp_path / "out.png", quick)
    told = subprocess.run(["pngcheck", tmp_path / "out.png"], capture_output=True, text=True, check=True)
    assert "64-bit RGB+alpha" in told.stdout


@pytest.mark.parametrize("depth", [BitDepth.EIGHT, BitDepth.SIXTEEN])
def test_tifffile_reads_our_tiff(depth: BitDepth, tmp_path: Path, quick: Remover) -> None:
    tifffile = pytest.importorskip("tifffile")
    cut("rgb16.png", tmp_path / "out.tiff", quick, bit_depth=depth)
    pixels = tifffile.imread(tmp_path / "out.tiff")
    assert pixels.dtype.itemsize * 8 == int(depth)
    shift = 0 if depth is BitDepth.SIXTEEN else 8
    assert np.abs(pixels[:, :, :3].astype(int) - (ORIGINAL >> shift)).max() <= 1


@pytest.mark.parametrize("size", [(1, 1), (700, 3), (3, 700), (333, 517)])
@pytest.mark.parametrize("depth", [BitDepth.EIGHT, BitDepth.SIXTEEN])
def test_a_tiff_of_any_size_is_what_went_in(size: tuple[int, int], depth: BitDepth) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (size[1], size[0], 4)).astype(np.uint8)
    pixels[:, :, 3] |= 1  # nothing hidden
    image = Image.fromarray(pixels)
    for rgb, alpha in (
        (image.convert("RGB"), image.getchannel("A")),
        (image.convert("RGB"), None),
        (None, image.getchannel("A")),
    ):
        data = encode(rgb, alpha, OutputFormat.TIFF, encoding=Encoding(bit_depth=depth))
        with Image.open(io.BytesIO(data)) as read_again:
            values = np.asarray(read_again)
        if values.dtype == np.uint16:
            values = (values // 257).astype(np.uint8)
        expected = pixels[:, :, 3] if rgb is None else pixels if alpha is not None else pixels[:, :, :3]
        assert np.array_equal(values, expected)
