"""Animations and pages: every frame composed, cut and timed, in files that other programs made and read."""

from __future__ import annotations

import io
import struct
import subprocess
from pathlib import Path
from shutil import which
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageSequence, TiffImagePlugin
from small import brightness_model, half

from cutout.enums import BitDepth
from cutout.errors import OutputError, PictureError
from cutout.formats.decode import decode, film
from cutout.formats.encode import Finished, encode_frames
from cutout.formats.png import Animation, chunk, encode_png
from cutout.jobs.plan import Job
from cutout.jobs.report import Outcome, Status
from cutout.jobs.worker import process
from cutout.options import Encoding, RemoveOptions
from cutout.output_formats import OutputFormat
from cutout.pipeline import animation
from cutout.pipeline.remover import Remover

if TYPE_CHECKING:
    from conftest import Cutout

DATA = Path(__file__).parents[1] / "data"
FILMS = ("film.gif", "film.webp", "film.png")  # made by ImageMagick, gif2webp and apngasm: see data/make.sh
SQUARES = [range(4 + 9 * number, 12 + 9 * number) for number in range(4)]
"""Where the red square of each frame stands."""


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Remover:
    """A model whose mask is the picture's brightness."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUTOUT_HOME", str(tmp_path_factory.mktemp("quick")))
        return Remover(brightness_model(tmp_path_factory.mktemp("model")), device="cpu")


def red(image: Image.Image) -> tuple[range, range]:
    """Columns and rows of what is red."""
    pixels = np.asarray(image.convert("RGB")).astype(int)
    rows, columns = np.nonzero((pixels[:, :, 0] > 190) & (pixels[:, :, 1:].max(axis=2) < 80))
    return range(columns.min(), columns.max() + 1), range(rows.min(), rows.max() + 1)


def work(source: Path, target: Path, remover: Remover, options: RemoveOptions | None = None, **how: Any) -> Outcome:
    kind = next(kind for kind in OutputFormat if kind.value[:3] == target.suffix[1:4])
    outcome = process(
        Job(source=source, target=target, output_format=kind), remover, options or RemoveOptions(), Encoding(**how)
    )
    if outcome.status is Status.DONE:
        assert outcome.error is None
    return outcome


def frames_of(path: Path) -> list[Image.Image]:
    with Image.open(path) as image:
        return [frame.copy() for frame in ImageSequence.Iterator(image)]


# --- in ---


@pytest.mark.parametrize("name", FILMS)
def test_frames_are_composed_whatever_the_file_leaves_out_of_them(name: str) -> None:
    pictures = list(film((DATA / name).read_bytes()))
    assert [red(picture.rgb) for picture in pictures] == [(columns, range(10, 18)) for columns in SQUARES]
    background = np.asarray(pictures[0].rgb).astype(int)[20:]  # below the square nothing moves
    for picture in pictures:
        assert np.abs(np.asarray(picture.rgb).astype(int)[20:] - background).mean() < 4
        assert picture.alpha is None or picture.alpha.getextrema() == (255, 255)
    assert [round(picture.duration) for picture in pictures] == [120] * 4
    assert {picture.frames for picture in pictures} == {4}


def test_loops_are_counted_alike() -> None:
    """A GIF counts repetitions, the others how often it plays."""
    assert [decode((DATA / name).read_bytes()).loop for name in FILMS] == [2, 2, 3]


@pytest.mark.parametrize(("loop", "plays"), [(None, 1), (0, 0), (4, 5)])
def test_the_loop_of_a_gif(loop: int | None, plays: int) -> None:
    assert decode(gif(2, **(dict[str, Any]() if loop is None else {"loop": loop}))).loop == plays


def gif(count: int, *, size: tuple[int, int] = (16, 8), **how: Any) -> bytes:
    first, *rest = (Image.new("RGB", size, (200, number % 256, 10)) for number in range(count))
    buffer = io.BytesIO()
    first.save(buffer, "GIF", save_all=True, append_images=rest, **how)
    return buffer.getvalue()


def test_a_gif_that_says_no_duration_gets_the_one_of_browsers() -> None:
    assert decode(gif(2, duration=0)).duration == 100


def test_the_default_image_of_an_animated_png_is_no_frame() -> None:
    first, *rest = (Image.new("RGB", (8, 8), (shade, 0, 0)) for shade in (10, 20, 30))
    buffer = io.BytesIO()
    first.save(buffer, "PNG", save_all=True, append_images=rest, default_image=True)
    assert [picture.rgb.getpixel((0, 0)) for picture in film(buffer.getvalue())] == [(20, 0, 0), (30, 0, 0)]


def opaque(kind: str, **how: Any) -> tuple[bytes, list[Image.Image]]:
    """An animation without transparency, and its frames: a red square that moves over blue."""
    frames = [Image.new("RGB", (48, 32), (20, 30, 200)) for _ in range(4)]
    for frame, columns in zip(frames, SQUARES, strict=True):
        frame.paste((230, 20, 10), (columns.start, 10, columns.stop, 18))
    buffer = io.BytesIO()
    frames[0].save(buffer, kind, save_all=True, append_images=frames[1:], duration=[100, 200, 300, 400], **how)
    return buffer.getvalue(), frames


@pytest.mark.parametrize(
    ("kind", "how"),
    [
        ("PNG", {"disposal": 0}),
        ("PNG", {"disposal": 1}),
        ("PNG", {"disposal": 2, "blend": 1}),
        ("WEBP", {"lossless": True}),
        ("AVIF", {"quality": 95}),
    ],
)
def test_an_opaque_animation_keeps_its_pixels_times_and_profile_to_the_last_frame(kind: str, how: Any) -> None:
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    data, _ = opaque(kind, icc_profile=icc, **how)
    with Image.open(io.BytesIO(data)) as image:
        shown = [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(image)]
    pictures = list(film(data))
    assert [picture.duration for picture in pictures] == [100, 200, 300, 400]
    assert {picture.metadata.icc for picture in pictures} == {icc}
    assert all(np.array_equal(np.asarray(picture.rgb), pixels) for picture, pixels in zip(pictures, shown, strict=True))
    assert [picture.rgb.info for picture in pictures] == [{}] * 4


@pytest.mark.parametrize("kind", ["png", "webp", "avif"])
def test_an_opaque_animation_becomes_one_with_the_same_times(kind: str, tmp_path: Path, quick: Remover) -> None:
    (tmp_path / f"in.{kind}").write_bytes(opaque(kind)[0])
    assert work(tmp_path / f"in.{kind}", tmp_path / "out.png", quick).frames == 4
    assert [frame.info["duration"] for frame in frames_of(tmp_path / "out.png")] == [100, 200, 300, 400]


# --- out ---


@pytest.mark.parametrize("name", FILMS)
@pytest.mark.parametrize("suffix", ["png", "webp", "avif"])
def test_an_animation_becomes_one_with_the_same_times(name: str, suffix: str, tmp_path: Path, quick: Remover) -> None:
    target = tmp_path / f"out.{suffix}"
    outcome = work(DATA / name, target, quick, quality=95)
    assert (outcome.status, outcome.frames, outcome.size, outcome.warnings) == (Status.DONE, 4, (48, 32), ())
    result = frames_of(target)
    assert [round(frame.info["duration"]) for frame in result] == [120] * 4
    if suffix != "avif":
        assert result[0].info["loop"] == decode((DATA / name).read_bytes()).loop
    pictures = list(film((DATA / name).read_bytes()))
    for frame, picture in zip(result, pictures, strict=True):
        expected = quick.cut(picture).image
        assert frame.mode == "RGBA"
        shown, wanted = (np.asarray(on_grey(image)).astype(int) for image in (frame, expected))
        assert np.abs(shown - wanted).mean() < (1 if suffix == "png" else 4)


def on_grey(image: Image.Image) -> Image.Image:
    return Image.alpha_composite(Image.new("RGBA", image.size, (128, 128, 128, 255)), image.convert("RGBA"))


def test_the_real_model_cuts_every_frame(cutout: Cutout, tmp_path: Path) -> None:
    run = cutout("remove", DATA / "film.gif", "-o", tmp_path / "film.png", "--json")
    assert run.code == 0, run.err
    assert run.lines[0]["frames"] == 4
    assert run.lines[0]["ms"]["encode"] < run.lines[0]["ms"]["inference"], "each stage has its own time"
    alphas = [np.asarray(frame.convert("RGBA"))[:, :, 3] for frame in frames_of(tmp_path / "film.png")]
    assert len(alphas) == 4
    assert all(alpha.max() > 128 for alpha in alphas)


@pytest.mark.skipif(which("webpmux") is None, reason="webpmux is not installed")
def test_webpmux_reads_our_webp(tmp_path: Path, quick: Remover) -> None:
    work(DATA / "film.png", tmp_path / "out.webp", quick)
    told = subprocess.run(
        ["webpmux", "-info", tmp_path / "out.webp"], capture_output=True, text=True, check=True
    ).stdout
    assert "Number of frames: 4" in told
    assert "Loop Count : 3" in told


@pytest.mark.parametrize(
    "options", [RemoveOptions(mask=True), RemoveOptions(background="white")], ids=["mask", "white"]
)
@pytest.mark.parametrize("suffix", ["png", "webp", "avif"])
def test_masks_and_backgrounds_are_animated_too(
    suffix: str, options: RemoveOptions, tmp_path: Path, quick: Remover
) -> None:
    target = tmp_path / f"out.{suffix}"
    assert work(DATA / "film.png", target, quick, options, quality=90).frames == 4
    shown = [np.asarray(frame.convert("RGB")).astype(int) for frame in frames_of(target)]
    for image, picture in zip(shown, film((DATA / "film.png").read_bytes()), strict=True):
        wanted = np.asarray(quick.cut(picture, options).image.convert("RGB")).astype(int)
        assert np.abs(image - wanted).mean() < 5


@pytest.mark.parametrize("suffix", ["jpg", "heic", "tiff"])
def test_a_format_of_one_picture_takes_the_first_and_says_so(suffix: str, tmp_path: Path, quick: Remover) -> None:
    outcome = work(DATA / "film.gif", tmp_path / f"out.{suffix}", quick)
    assert (outcome.status, outcome.frames) == (Status.DONE, 1)
    assert outcome.warnings == ("only the first of 4 frames was taken",)


def test_first_frame_takes_the_first_and_says_nothing(tmp_path: Path, quick: Remover) -> None:
    outcome = work(DATA / "film.gif", tmp_path / "out.png", quick, first_frame=True)
    assert (outcome.frames, outcome.warnings) == (1, ())
    assert len(frames_of(tmp_path / "out.png")) == 1


@pytest.mark.parametrize(
    "options",
    [RemoveOptions(), RemoveOptions(mask=True), RemoveOptions(background="white")],
    ids=["cut", "mask", "white"],
)
def test_an_animation_can_be_widened_to_16_bits(options: RemoveOptions, tmp_path: Path, quick: Remover) -> None:
    for name, depth in (("8.png", BitDepth.AUTO), ("16.png", BitDepth.SIXTEEN)):
        outcome = work(DATA / "film.png", tmp_path / name, quick, options, bit_depth=depth, keep_hidden=True)
        assert (outcome.frames, outcome.warnings) == (4, ())
    assert [(tmp_path / name).read_bytes()[24] for name in ("8.png", "16.png")] == [8, 16]
    for narrow, wide in zip(frames_of(tmp_path / "8.png"), frames_of(tmp_path / "16.png"), strict=True):
        assert wide.info["duration"] == 120
        expected, found = decode(png_of(narrow)), decode(png_of(wide))
        assert np.array_equal(np.asarray(expected.rgb), np.asarray(found.rgb))
        assert np.array_equal(np.asarray(expected.alpha), np.asarray(found.alpha))


def png_of(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize(("depth", "bits", "told"), [("auto", 8, 1), ("16", 16, 1), ("8", 8, 0)])
def test_an_animation_of_16_bits_says_that_it_loses_some(
    depth: str, bits: int, told: int, tmp_path: Path, quick: Remover
) -> None:
    deep = [np.full((8, 16, 3), shade, np.uint16) for shade in (70, 30000, 60001)]
    animation = Animation(3, 0)
    for colors in deep:
        animation.add(encode_png(None, None, wide=colors), 40)
    (tmp_path / "in.png").write_bytes(animation.finish())
    outcome = work(
        tmp_path / "in.png", tmp_path / "out.png", quick, RemoveOptions(rescale=False), bit_depth=BitDepth(depth)
    )
    assert (outcome.frames, (tmp_path / "out.png").read_bytes()[24]) == (3, bits)
    assert len([text for text in outcome.warnings if "16 bits were reduced to 8" in text]) == told


def test_max_size_holds_for_every_frame(tmp_path: Path, quick: Remover) -> None:
    assert work(DATA / "film.gif", tmp_path / "out.png", quick, RemoveOptions(max_size=24)).size == (24, 16)
    assert {frame.size for frame in frames_of(tmp_path / "out.png")} == {(24, 16)}


def test_a_warning_tells_how_many_frames_it_is_about(tmp_path: Path, quick: Remover) -> None:
    frames = [Image.new("RGB", (16, 8), color) for color in ("black", "white", "black")]
    frames[0].save(tmp_path / "in.webp", save_all=True, append_images=frames[1:], lossless=True)
    outcome = work(tmp_path / "in.webp", tmp_path / "out.png", quick, RemoveOptions(rescale=False))
    assert outcome.warnings == ("2 of 3 frames: nothing was found: the cut-out is empty",)


def test_one_frame_is_in_memory_at_a_time() -> None:
    """The encoder asks for a frame only when it has done the one before."""
    alive = most = 0

    class Counted(Image.Image):
        def __del__(self) -> None:
            nonlocal alive
            alive -= 1

    def frames() -> Any:
        nonlocal alive, most
        for number in range(30):
            image = Counted()
            solid = Image.new("RGB", (16, 8), (number, 0, 0))
            image.im, image._mode, image._size = solid.im, "RGB", solid.size
            alive += 1
            most = max(most, alive)
            yield Finished(rgb=image, alpha=None, duration=40)
            del image

    for kind in (OutputFormat.PNG, OutputFormat.WEBP, OutputFormat.AVIF):
        alive = most = 0
        assert encode_frames(frames(), kind, count=30)
        assert most <= 3, kind


@pytest.mark.parametrize("kind", [OutputFormat.PNG, OutputFormat.WEBP, OutputFormat.AVIF])
def test_an_animation_keeps_what_travels_beside_it(kind: OutputFormat) -> None:
    metadata = decode((DATA / "meta.jpg").read_bytes()).metadata
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    metadata = metadata._replace(icc=icc)
    frames = [Finished(Image.new("RGB", (8, 8), color), None, metadata, duration=40) for color in ("red", "blue")]
    kept = decode(encode_frames(frames, kind, count=2)).metadata
    assert kept.icc == icc
    assert kept.xmp == metadata.xmp
    assert kept.exif is not None
    assert "Zoë".encode() in kept.exif


def test_a_frame_of_another_size_is_an_output_error() -> None:
    frames = [Finished(rgb=Image.new("RGB", size), alpha=None, duration=40) for size in ((8, 8), (9, 8))]
    for kind in (OutputFormat.PNG, OutputFormat.WEBP):
        with pytest.raises(OutputError, match="another size"):
            encode_frames(frames, kind, count=2)


# --- framed ---


def moving(path: Path) -> Path:
    """A white square of 8 pixels that moves to the right by 9 a frame and is gone in the last, over black."""
    frames = [Image.new("RGB", (48, 32)) for _ in range(5)]
    for frame, columns in zip(frames, SQUARES, strict=False):
        frame.paste((255, 255, 255), (columns.start, 10, columns.stop, 18))
    frames[0].save(path, save_all=True, append_images=frames[1:], lossless=True, duration=50)
    return path


def solid(image: Image.Image) -> tuple[int, int, int, int] | None:
    """Left, top, right, bottom of what is more than half there."""
    alpha = image if image.mode == "L" else image.convert("RGBA").getchannel("A")
    return alpha.point([0] * 128 + [255] * 128).getbbox()


@pytest.mark.parametrize("suffix", ["png", "webp", "avif"])
@pytest.mark.parametrize("wanted", [{}, {"mask": True}], ids=["cut", "mask"])
def test_an_animation_is_cropped_to_what_all_its_frames_show(
    suffix: str, wanted: dict[str, Any], tmp_path: Path, quick: Remover
) -> None:
    plain = RemoveOptions(threshold=128, rescale=False, **wanted)
    source, whole, target = moving(tmp_path / "in.webp"), tmp_path / "whole.png", tmp_path / f"out.{suffix}"
    work(source, whole, quick, plain)
    outcome = work(source, target, quick, plain.replace(crop=True, margin=3), lossless=True)
    boxes = [solid(frame.convert("L") if plain.mask else frame) for frame in frames_of(whole)]
    there = [box for box in boxes if box is not None]
    left, top = (min(box[side] for box in there) - 3 for side in (0, 1))
    right, bottom = (max(box[side] for box in there) + 3 for side in (2, 3))
    assert len(there) == 4
    assert (outcome.status, outcome.frames, outcome.size) == (Status.DONE, 5, (right - left, bottom - top))
    assert outcome.warnings == ("1 of 5 frames: nothing was found: the cut-out is empty",)
    found = [solid(frame.convert("L") if plain.mask else frame) for frame in frames_of(target)]
    assert found == [
        None if box is None else (box[0] - left, box[1] - top, box[2] - left, box[3] - top) for box in boxes
    ]


def test_what_moves_still_moves_on_a_canvas(tmp_path: Path, quick: Remover) -> None:
    plain = RemoveOptions(threshold=128, rescale=False)
    source = moving(tmp_path / "in.webp")
    work(source, tmp_path / "whole.png", quick, plain)
    options = plain.replace(canvas="140x60", position="bottom", shadow=True)
    outcome = work(source, tmp_path / "out.png", quick, options)
    assert (outcome.frames, outcome.size) == (5, (140, 60))
    before, after = (
        np.asarray([box for frame in frames_of(tmp_path / name) if (box := solid(frame)) is not None])
        for name in ("whole.png", "out.png")
    )
    assert len(before) == len(after) == 4
    scale, _ = np.polyfit(before[:, 0], after[:, 0], 1)
    assert 3 < scale < 140 / 35, "all of its way fills the canvas, less the room for a shadow"
    for side in range(4):
        start = after[0, side] - scale * before[0, side]
        assert np.abs(scale * before[:, side] + start - after[:, side]).max() <= 1.5, "one frame is laid out as all are"


def test_the_model_sees_each_frame_once_however_it_is_framed(
    tmp_path: Path, quick: Remover, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[object] = []
    predict = quick.session.predict

    def counted(rgb: Image.Image, **how: Any) -> Image.Image:
        seen.append(rgb)
        return predict(rgb, **how)

    monkeypatch.setattr(quick.session, "predict", counted)
    work(moving(tmp_path / "in.webp"), tmp_path / "out.png", quick, RemoveOptions(crop=True))
    assert len(seen) == 5


def test_an_animation_of_nothing_is_not_cropped(tmp_path: Path, quick: Remover) -> None:
    frames = [Image.new("RGB", (16, 8), (shade, 0, 0)) for shade in (0, 9, 0)]
    frames[0].save(tmp_path / "in.webp", save_all=True, append_images=frames[1:], lossless=True)
    outcome = work(tmp_path / "in.webp", tmp_path / "out.png", quick, RemoveOptions(crop=True, rescale=False))
    assert (outcome.status, outcome.size) == (Status.DONE, (16, 8))


def test_a_crop_that_shows_all_is_the_animation_itself(tmp_path: Path, quick: Remover) -> None:
    """Looking first and cutting later is what is done at once otherwise, to the byte."""
    for name, options in (("a.png", RemoveOptions()), ("b.png", RemoveOptions(crop=True))):
        work(DATA / "film.gif", tmp_path / name, quick, options)
    whole, cropped = (frames_of(tmp_path / name) for name in ("a.png", "b.png"))
    assert whole[0].size == cropped[0].size
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_the_command_crops_an_animation(cutout: Cutout, tmp_path: Path) -> None:
    run = cutout("remove", DATA / "film.gif", "-o", tmp_path / "film.png", "--crop", "--json")
    assert run.code == 0, run.err
    assert run.lines[0]["frames"] == 4
    assert len({frame.size for frame in frames_of(tmp_path / "film.png")}) == 1


# --- pages ---


def test_pages_are_cropped_one_by_one(tmp_path: Path, quick: Remover) -> None:
    with TiffImagePlugin.AppendingTiffWriter(str(tmp_path / "in.tif")) as file:
        for box in ((4, 4, 20, 24), (10, 2, 40, 12)):
            page = Image.new("RGB", (48, 32))
            page.paste((255, 255, 255), box)
            page.save(file, "TIFF")
            file.newFrame()
    wanted = RemoveOptions(crop=True, threshold=128)
    assert work(tmp_path / "in.tif", tmp_path / "out.tiff", quick, wanted).frames == 2
    pages = frames_of(tmp_path / "out.tiff")
    assert len({page.size for page in pages}) == 2
    assert [solid(page) for page in pages] == [(0, 0, *page.size) for page in pages]


def test_pages_become_pages_of_their_own_sizes(tmp_path: Path, quick: Remover) -> None:
    outcome = work(DATA / "pages.tif", tmp_path / "out.tiff", quick)
    assert (outcome.frames, outcome.size, outcome.warnings) == (2, (48, 32), ())
    pages = frames_of(tmp_path / "out.tiff")
    assert [(page.mode, page.size) for page in pages] == [("RGBA", (48, 32)), ("RGBA", (24, 16))]
    for page, picture in zip(pages, film((DATA / "pages.tif").read_bytes()), strict=True):
        assert np.array_equal(np.asarray(page)[:, :, 3], np.asarray(quick.cut(picture).alpha))


@pytest.mark.skipif(which("tiffinfo") is None, reason="tiffinfo is not installed")
def test_libtiff_has_nothing_to_say_of_our_pages(tmp_path: Path, quick: Remover) -> None:
    work(DATA / "pages.tif", tmp_path / "out.tiff", quick)
    told = subprocess.run(["tiffinfo", "-D", tmp_path / "out.tiff"], capture_output=True, text=True, check=True)
    assert told.stdout.count("TIFF Directory") == 2
    assert told.stderr == ""


def test_pages_to_a_format_without_pages(tmp_path: Path, quick: Remover) -> None:
    outcome = work(DATA / "pages.tif", tmp_path / "out.png", quick)
    assert (outcome.frames, outcome.warnings) == (1, ("only the first of 2 frames was taken",))


def test_each_page_keeps_what_travels_beside_it(tmp_path: Path, quick: Remover) -> None:
    with TiffImagePlugin.AppendingTiffWriter(str(tmp_path / "in.tif")) as file:
        for artist, dpi in (("Ada", 150), ("Bob", 300)):
            Image.new("RGB", (16, 8), "orange").save(file, "TIFF", tiffinfo={315: artist}, dpi=(dpi, dpi))
            file.newFrame()
    work(tmp_path / "in.tif", tmp_path / "out.tiff", quick)
    with Image.open(tmp_path / "out.tiff") as image:
        pages = [(page.tag_v2[315], page.info["dpi"]) for page in ImageSequence.Iterator(image)]  # type: ignore[attr-defined]
    assert pages == [("Ada", (150, 150)), ("Bob", (300, 300))]


def test_a_page_without_profile_and_resolution_inherits_none() -> None:
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    buffer = io.BytesIO()
    told: list[dict[str, Any]] = [{}, {"icc_profile": icc, "dpi": (150, 150)}, {}]
    with TiffImagePlugin.AppendingTiffWriter(buffer) as file:
        for how in told:
            Image.new("RGB", (16, 8), "orange").save(file, "TIFF", **how)
            file.newFrame()
        data = buffer.getvalue()
    kept = [picture.metadata for picture in film(data)]
    assert [(metadata.icc, metadata.dpi) for metadata in kept] == [(None, None), (icc, (150, 150)), (None, None)]


def test_a_reduced_copy_is_no_page() -> None:
    pages = [Image.new("RGB", size, "red") for size in ((16, 8), (8, 4), (16, 8))]
    buffer = io.BytesIO()
    pages[0].save(buffer, "TIFF", save_all=True, append_images=pages[1:], tiffinfo={254: 0})
    data = bytearray(buffer.getvalue())
    assert len(list(film(bytes(data)))) == 3
    (start,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, start)
    (second,) = struct.unpack_from("<I", data, start + 2 + 12 * count)
    assert struct.unpack_from("<H", data, second + 2) == (254,)
    data[second + 10] = 1
    assert [picture.rgb.size for picture in film(bytes(data))] == [(16, 8), (16, 8)]


# --- faults ---


@pytest.mark.parametrize("name", FILMS)
def test_an_animation_cut_short_is_a_failure_that_says_where(name: str, tmp_path: Path, quick: Remover) -> None:
    data = (DATA / name).read_bytes()
    (tmp_path / name).write_bytes(data[: len(data) * 3 // 4])
    outcome = work(tmp_path / name, tmp_path / "out.png", quick)
    assert outcome.status is Status.FAILED
    assert isinstance(outcome.error, PictureError)
    assert "cut short" in outcome.error.message or "broken" in outcome.error.message
    assert not (tmp_path / "out.png").exists()


def test_a_count_of_frames_that_is_not_true() -> None:
    data = (DATA / "film.png").read_bytes()
    at = data.index(b"acTL")
    data = data[: at - 4] + chunk(b"acTL", struct.pack(">II", 9, 0)) + data[at + 16 :]
    with pytest.raises(PictureError, match="frame 5 of 9 is broken or cut short") as caught:
        list(film(data))
    assert "first_frame" in (caught.value.hint or "")


def test_thousands_of_frames_are_refused_before_the_first_is_cut(
    tmp_path: Path, quick: Remover, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bomb.gif").write_bytes(gif(1200, size=(2, 2)))
    calls: list[object] = []
    monkeypatch.setattr(animation, "encode_frames", lambda frames, *_args, **_how: calls.append(next(frames)))
    outcome = work(tmp_path / "bomb.gif", tmp_path / "out.png", quick)
    assert outcome.status is Status.FAILED
    assert outcome.error is not None
    assert "at least 1001 frames, more than the limit of 1000" in outcome.error.message
    assert "max_frames" in (outcome.error.hint or "")
    assert not calls


def test_a_gif_frame_beyond_its_screen_is_cropped_to_it() -> None:
    data = bytearray(gif(2, optimize=False))
    second = data.index(b"\x2c", data.index(b"\x2c") + 1)
    while struct.unpack_from("<HH", data, second + 5) not in {(16, 8), (1, 1)}:
        second = data.index(b"\x2c", second + 1)
    struct.pack_into("<HH", data, second + 1, 12, 6)  # its place
    sizes = {picture.rgb.size for picture in film(bytes(data))}
    assert sizes == {(16, 8)}


def test_the_command_has_options_for_it(cutout: Cutout, tmp_path: Path) -> None:
    model = brightness_model(tmp_path)
    run = cutout("remove", DATA / "film.gif", "-o", tmp_path / "a.png", "-m", model, "--max-frames", "3")
    assert run.code == 1
    assert "more than the limit of 3" in run.err
    run = cutout("remove", DATA / "film.gif", "-o", tmp_path / "b.png", "-m", model, CUTOUT_FIRST_FRAME="1")
    assert run.code == 0
    assert len(frames_of(tmp_path / "b.png")) == 1


def test_still_pictures_are_none_the_wiser(tmp_path: Path, quick: Remover) -> None:
    outcome = work(half(tmp_path / "a.png"), tmp_path / "out.png", quick)
    assert (outcome.frames, "frames" in outcome.as_json()) == (1, False)
