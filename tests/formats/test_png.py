"""Our PNG encoder: what it writes is a correct PNG, and holds what was to be seen."""

from __future__ import annotations

import io
import shutil
import struct
import subprocess
import sys
import zlib
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from cutout.enums import PngLevel
from cutout.formats import png
from cutout.formats.decode import Metadata
from cutout.formats.encode import encode
from cutout.formats.png import encode_png
from cutout.output_formats import OutputFormat

if TYPE_CHECKING:
    from pathlib import Path

LEVELS = list(PngLevel)


def noise(width: int, height: int, channels: int, seed: int = 0) -> Image.Image:
    shape = (height, width) if channels == 1 else (height, width, channels)
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, np.uint8))


def photo(examples: Path) -> tuple[Image.Image, Image.Image]:
    with Image.open(examples / "chelsea.jpg") as image:
        rgb = image.convert("RGB")
    across = np.clip(np.linspace(-60, 320, rgb.width), 0, 255).astype(np.uint8)
    return rgb, Image.fromarray(np.tile(across, (rgb.height, 1)))


def reopen(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


@settings(max_examples=60, deadline=None)
@given(
    width=st.integers(1, 70),
    height=st.integers(1, 70),
    kind=st.sampled_from(["L", "RGB", "RGBA"]),
    level=st.sampled_from(LEVELS),
    seed=st.integers(0, 99),
)
def test_any_size_and_mode_comes_back_as_it_was(width: int, height: int, kind: str, level: PngLevel, seed: int) -> None:
    rgb = None if kind == "L" else noise(width, height, 3, seed)
    alpha = None if kind == "RGB" else noise(width, height, 1, seed + 1)
    image = reopen(encode_png(rgb, alpha, level=level, keep_hidden=True))
    assert image.mode == kind
    expected = rgb if alpha is None else alpha
    if rgb is not None and alpha is not None:
        expected = rgb.convert("RGBA")
        expected.putalpha(alpha)
    assert expected is not None
    assert np.array_equal(np.asarray(image), np.asarray(expected))


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1), (1201, 997)])
def test_segments_and_strips_of_every_shape_join(size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Segments so small that there are many, worked on by one thread or several: one and the same correct file."""
    monkeypatch.setattr(png, "_SEGMENT_BYTES", 100_000)
    monkeypatch.setattr(png, "_STRIP_BYTES", 7_000)
    rgb, alpha = noise(*size, 3), noise(*size, 1)
    one = encode_png(rgb, alpha, keep_hidden=True)
    assert encode_png(rgb, alpha, keep_hidden=True, threads=4) == one
    assert np.array_equal(np.asarray(reopen(one))[..., :3], np.asarray(rgb))
    assert len(unpacked(one)) == size[1] * (4 * size[0] + 1)


def unpacked(data: bytes) -> bytes:
    """The filtered rows of a PNG file; their Adler-32 is checked as well."""
    return zlib.decompress(b"".join(content for name, content in chunks(data) if name == b"IDAT"))


def chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    found, at = [], 8
    while at < len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        found.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += length + 12
    return found


def test_what_can_be_seen_is_kept_and_what_cannot_is_simplified(examples: Path) -> None:
    rgb, alpha = photo(examples)
    result = np.asarray(reopen(encode_png(rgb, alpha))).astype(int)
    colors, transparency = np.asarray(rgb).astype(int), np.asarray(alpha).astype(int)
    assert np.array_equal(result[..., 3], transparency)
    assert np.array_equal(result[transparency >= 128][:, :3], colors[transparency >= 128])
    assert not result[transparency == 0].any()
    error = np.abs(result[..., :3] - colors) * transparency[..., None] / 255
    assert error.max() < 1
    exact = np.asarray(reopen(encode_png(rgb, alpha, keep_hidden=True)))
    assert np.array_equal(exact[..., :3], np.asarray(rgb))


def test_simplified_colours_make_the_file_smaller(examples: Path) -> None:
    rgb, alpha = photo(examples)
    assert len(encode_png(rgb, alpha)) < 0.9 * len(encode_png(rgb, alpha, keep_hidden=True))


def test_levels_are_ordered_by_size(examples: Path) -> None:
    rgb, alpha = photo(examples)
    fastest, fast, small = (len(encode_png(rgb, alpha, level=level)) for level in LEVELS)
    assert small < fast < fastest


def test_the_default_level_is_about_as_small_as_pillow(examples: Path) -> None:
    rgb, alpha = photo(examples)
    ours = encode_png(rgb, alpha)
    buffer = io.BytesIO()
    reopen(ours).save(buffer, "PNG")
    assert len(ours) < 1.05 * len(buffer.getvalue())


def test_profile_and_resolution_are_kept() -> None:
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    image = reopen(encode(noise(9, 9, 3), noise(9, 9, 1), OutputFormat.PNG, Metadata(icc=icc, dpi=(300, 150))))
    assert image.info["icc_profile"] == icc
    assert image.info["dpi"] == pytest.approx((300, 150), abs=0.02)  # PNG counts whole pixels per metre


def test_a_grey_picture_gets_no_rgb_profile() -> None:
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    image = reopen(encode(None, noise(9, 9, 1), OutputFormat.PNG, Metadata(icc=icc)))
    assert image.mode == "L"
    assert "icc_profile" not in image.info


@pytest.mark.parametrize("level", LEVELS)
def test_without_the_fast_libraries_zlib_does_it(level: PngLevel, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("isal", "zlib_ng"):
        monkeypatch.setitem(sys.modules, name, None)
    png.deflater.cache_clear()
    try:
        assert png.backend(level).startswith("zlib ")
        rgb, alpha = noise(50, 40, 3), noise(50, 40, 1)
        image = reopen(encode_png(rgb, alpha, level=level, keep_hidden=True))
        assert np.array_equal(np.asarray(image)[..., :3], np.asarray(rgb))
    finally:
        png.deflater.cache_clear()


@pytest.fixture(scope="module")
def large(examples: Path) -> tuple[Image.Image, Image.Image]:
    """A photograph with a camera's grain, 5 megapixels, its alpha empty at the top and at the bottom."""
    rgb, alpha = (image.resize((2560, 2000), Image.Resampling.BICUBIC) for image in photo(examples))
    grain = np.random.default_rng(0).normal(0, 4, (2000, 2560, 3))
    rgb = Image.fromarray(np.clip(np.asarray(rgb) + grain, 0, 255).astype(np.uint8))
    alpha.paste(0, (0, 0, 2560, 300))
    alpha.paste(0, (0, 1800, 2560, 2000))
    return rgb, alpha


class TestLargePictures:
    """igzip takes over where it costs little, in one stream with zlib-ng's."""

    @staticmethod
    def without_igzip(large: tuple[Image.Image, Image.Image], monkeypatch: pytest.MonkeyPatch) -> bytes:
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, "isal", None)
            png.deflater.cache_clear()
            alone = encode_png(*large)
        png.deflater.cache_clear()
        return alone

    def test_the_pixels_are_the_same_whoever_compresses(
        self, large: tuple[Image.Image, Image.Image], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        mixed, alone = encode_png(*large), self.without_igzip(large, monkeypatch)
        assert mixed != alone
        assert np.array_equal(np.asarray(reopen(mixed)), np.asarray(reopen(alone)))

    def test_the_file_grows_as_little_as_was_promised(
        self, large: tuple[Image.Image, Image.Image], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        mixed, alone = encode_png(*large), self.without_igzip(large, monkeypatch)
        assert 1 < len(mixed) / len(alone) < 1 + png._GROWTH + 0.01

    def test_the_bytes_do_not_depend_on_the_threads(self, large: tuple[Image.Image, Image.Image]) -> None:
        assert encode_png(*large, threads=1) == encode_png(*large, threads=3)

    def test_colours_that_were_kept_are_the_pictures_own(self, large: tuple[Image.Image, Image.Image]) -> None:
        assert np.array_equal(np.asarray(reopen(encode_png(*large, keep_hidden=True)))[..., :3], np.asarray(large[0]))

    @pytest.mark.parametrize("top", [0, 1, 900])
    @pytest.mark.parametrize("rows", [0, 1, 40, 2000])
    def test_little_content_is_no_trouble(self, rows: int, top: int, large: tuple[Image.Image, Image.Image]) -> None:
        alpha = Image.new("L", large[0].size)
        alpha.paste(255, (100, top, 2000, top + rows))
        expected = np.asarray(large[0]) * (np.asarray(alpha) > 0)[..., None]
        result = encode_png(large[0], alpha)
        assert np.array_equal(np.asarray(reopen(result))[..., :3], expected)
        assert len(unpacked(result)) == alpha.height * (4 * alpha.width + 1)
        assert encode_png(large[0], alpha, threads=3) == result

    @pytest.mark.parametrize("level", LEVELS)
    def test_empty_rows_take_a_thousandth_of_their_bytes(self, level: PngLevel) -> None:
        """They are compressed once, and these bytes repeated."""
        size = (3001, 1501)
        result = encode_png(Image.new("RGB", size, "red"), Image.new("L", size), level=level)
        assert not any(unpacked(result))
        assert len(result) < 4 * size[0] * size[1] / 700

    @pytest.mark.parametrize("tool", ["pngcheck", "pngtopam"])
    def test_other_readers_agree(self, tool: str, large: tuple[Image.Image, Image.Image], tmp_path: Path) -> None:
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed (Debian: pngcheck, netpbm)")
        path = tmp_path / "a.png"
        path.write_bytes(encode_png(*large))
        command = ["pngcheck", "-v", str(path)] if tool == "pngcheck" else ["pngtopam", "-alphapam", str(path)]
        done = subprocess.run(command, capture_output=True, check=True)
        with Image.open(path) as image:
            assert tool == "pngcheck" or done.stdout.endswith(np.asarray(image).tobytes())


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("kind", ["L", "RGB", "RGBA"])
@pytest.mark.parametrize("tool", ["pngcheck", "pngtopam"])
def test_other_readers_agree(tool: str, kind: str, level: PngLevel, examples: Path, tmp_path: Path) -> None:
    """`pngcheck` finds no fault, and libpng (through netpbm) reads the same pixels."""
    if shutil.which(tool) is None:
        pytest.skip(f"{tool} is not installed (Debian: pngcheck, netpbm)")
    rgb, alpha = photo(examples)
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    chunks = [(b"pHYs", struct.pack(">IIB", 2835, 2835, 1))]
    if kind != "L":
        chunks.insert(0, (b"iCCP", b"sRGB\0\0" + zlib.compress(icc)))
    path = tmp_path / "a.png"
    path.write_bytes(
        encode_png(
            None if kind == "L" else rgb,
            None if kind == "RGB" else alpha,
            chunks,
            level=level,
        )
    )
    if tool == "pngcheck":
        done = subprocess.run(["pngcheck", "-v", path], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout
        assert "No errors detected" in done.stdout
        return
    command = ["pngtopam", *(["-alphapam"] if kind == "RGBA" else []), str(path)]
    pam = subprocess.run(command, capture_output=True, check=True).stdout
    with Image.open(path) as image:
        expected = np.asarray(image).tobytes()
    assert pam.endswith(expected)
    assert len(pam) - len(expected) < 200  # nothing but a header before the pixels
