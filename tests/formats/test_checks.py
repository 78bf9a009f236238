"""Files that announce what they do not hold, or hold what no program writes: no count and no size is believed.

What would take all memory or minutes is looked at in a process that may have little of either.
"""

from __future__ import annotations

import io
import json
import struct
import subprocess
import sys
import threading
import time
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import GifImagePlugin, Image, PngImagePlugin, TiffImagePlugin
from profiles import SRGB
from served import quick as service
from served import served
from small import ORANGE, brightness_model, half

from cutout.errors import PictureError
from cutout.formats import decode as codec
from cutout.formats import picture as picture_module
from cutout.formats.checks import jpeg as jpegs
from cutout.formats.checks import others, preflight
from cutout.formats.checks.preflight import allowing
from cutout.formats.checks.tiff import find_pages
from cutout.formats.decode import TooLargeError, decode, film
from cutout.formats.metadata import exif, xmp
from cutout.formats.png import Animation, encode_png
from cutout.options import Encoding, RemoveOptions
from cutout.output_formats import OutputFormat
from cutout.pipeline.convert import convert
from cutout.pipeline.remover import Remover
from cutout.timing import StageTimes

if TYPE_CHECKING:
    from conftest import Cutout

    from cutout.formats.picture import Picture

GIGABYTE = 1 << 30


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Remover:
    """A model whose mask is the picture's brightness."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUTOUT_HOME", str(tmp_path_factory.mktemp("quick")))
        return Remover(brightness_model(tmp_path_factory.mktemp("model")), device="cpu")


def poor(data: bytes, tmp_path: Path, call: str = "decode(data)") -> list[Any]:
    """What a call gives in a process with one gigabyte and a minute of processor: size, frames, notes of each picture.

    Or the kind and the text of the error that it raises.
    """
    (tmp_path / "data").write_bytes(data)
    code = (
        "import json, resource, sys, pathlib\n"
        "from cutout.formats.decode import decode, film\n"
        "data = pathlib.Path(sys.argv[1]).read_bytes()\n"
        f"resource.setrlimit(resource.RLIMIT_CPU, (60, 60))\n"
        f"resource.setrlimit(resource.RLIMIT_AS, ({GIGABYTE}, {GIGABYTE}))\n"
        "try:\n"
        f"    pictures = {call}\n"
        "    pictures = pictures if isinstance(pictures, list) else [pictures]\n"
        "    print(json.dumps([[list(p.rgb.size), p.frames, list(p.notes)] for p in pictures]))\n"
        "except Exception as error:\n"
        "    print(json.dumps([type(error).__name__, str(error)]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, str(tmp_path / "data")],
        capture_output=True,
        check=False,
        timeout=300,
        env={"OPENBLAS_NUM_THREADS": "1", "PATH": ""},
    )
    assert done.returncode == 0, done.stderr.decode()
    found: list[Any] = json.loads(done.stdout)
    return found


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(*extra: bytes, behind: bytes = b"", size: tuple[int, int] = (8, 8)) -> bytes:
    """A picture with further chunks before or behind its pixels."""
    rows = (b"\0" + bytes((200, 90, 10)) * size[0]) * size[1]
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", *size, 8, 2, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(extra) + pixels + behind + chunk(b"IEND", b"")


def announced(frames: int) -> bytes:
    return chunk(b"acTL", struct.pack(">II", frames, 0))


def png_frame(width: int = 8, height: int = 8) -> bytes:
    return chunk(b"fcTL", struct.pack(">IIIIIHHBB", 0, width, height, 0, 0, 1, 10, 0, 0))


FRAME = png_frame()


def gif(*frames: bytes, screen: tuple[int, int] = (10, 10)) -> bytes:
    head = b"GIF89a" + struct.pack("<HHBBB", *screen, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
    return head + b"".join(frames) + b";"


def gif_frame(width: int, height: int, disposal: int = 0) -> bytes:
    control = b"\x21\xf9\x04" + bytes((disposal << 2, 10, 0, 0, 0))
    pixels = bytes.fromhex("08120001081c48b0a0c18308132a5cc8b061c28000")  # a hundred of the first colour
    return control + b"\x2c" + struct.pack("<HHHHB", 0, 0, width, height, 0) + pixels


def tiff(count: int, *, order: str = "<", big: bool = False, loop: bool = False, purpose: int = 0) -> bytes:
    """A file of many pages of 8 × 8 that share their pixels; the last may lead back to the first."""
    number, entry, address = ("Q", "HHQQ", "Q") if big else ("H", "HHII", "I")
    first = 16 if big else 8
    length = struct.calcsize(order + number) + 10 * struct.calcsize(order + entry) + struct.calcsize(order + address)
    head = {"<": b"II", ">": b"MM"}[order] + struct.pack(order + "H", 43 if big else 42)
    out = [head + (struct.pack(order + "HHQ", 8, 0, 16) if big else struct.pack(order + "I", 8))]
    tags = [(254, 4, purpose), (256, 4, 8), (257, 4, 8), (258, 4, 8), (259, 4, 1), (262, 4, 1)]
    tags += [(273, 4, first + count * length), (277, 4, 1), (278, 4, 8), (279, 4, 64)]
    for page in range(count):
        out.append(struct.pack(order + number, len(tags)))
        for tag, kind, value in tags:  # a value smaller than its field stands at the field's start
            shifted = value << 32 if big and order == ">" else value
            out.append(struct.pack(order + entry, tag, kind, 1, shifted))
        following = first + (page + 1) * length if page + 1 < count else first if loop else 0
        out.append(struct.pack(order + address, following))
    return b"".join(out) + bytes(range(100, 164))


def jpeg(**how: Any) -> bytes:
    buffer = io.BytesIO()
    image = Image.new("RGB", (64, 64), ORANGE)
    image.paste((0, 0, 0), (0, 0, 32, 64))
    image.save(buffer, "JPEG", **how)
    return buffer.getvalue()


def segment(marker: int, content: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


# --- counts ---


def test_a_png_that_announces_two_thousand_million_frames_is_the_picture_that_it_holds(tmp_path: Path) -> None:
    note = "the PNG announces 2147483647 frames, but holds a single picture"
    assert poor(png(announced(2**31 - 1), FRAME), tmp_path) == [[[8, 8], 1, [note]]]
    assert poor(png(announced(2**31 - 1)), tmp_path) == [[[8, 8], 1, [note]]]
    assert poor(png(announced(2**31 - 1), FRAME), tmp_path, "decode(data, alone=True)") == [[[8, 8], 1, []]]
    assert poor(png(announced(2**31 - 1), FRAME), tmp_path, "list(film(data))") == [[[8, 8], 1, [note]]]


def test_the_command_is_not_misled_by_it(cutout: Cutout, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(announced(2**31 - 1), png_frame(64, 32), size=(64, 32)))
    run = cutout(
        "remove", tmp_path / "a.png", "-o", tmp_path / "out.png", "-m", brightness_model(tmp_path), "--max-frames", "5"
    )
    assert (run.code, (tmp_path / "out.png").is_file()) == (0, True), run.err


def test_what_the_service_does_with_a_picture_is_not_misled_by_it(quick: Remover) -> None:
    data = png(announced(30_000_000), png_frame(64, 32), size=(64, 32))
    done = convert(data, OutputFormat.PNG, quick, RemoveOptions(), Encoding(), StageTimes())
    assert (done.frames, done.size) == (1, (64, 32))


def test_over_http_such_files_are_answered_like_any_other(tmp_path: Path) -> None:
    bombs = {
        "count": png(announced(30_000_000), png_frame(64, 32), size=(64, 32)),
        "pages": tiff(20_000),
        "frames": gif(gif_frame(10, 10), gif_frame(65535, 65535, 2), gif_frame(10, 10)),
        "size": gif(gif_frame(30_000, 30_000, 2)),
        "scans": scans(jpeg(progressive=True), 5000),
        "text": png(packed(b"zTXt", b"Comment", bytes(3 << 20))),
    }
    with served(*service(tmp_path)) as client:
        answers = {
            name: client.post("/remove-background", files={"file": ("a", data)}).status_code
            for name, data in bombs.items()
        }
    assert answers == {"count": 200, "pages": 200, "frames": 200, "size": 413, "scans": 422, "text": 200}


def test_an_animated_png_with_too_few_frames_is_still_told(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    first, *rest = (Image.new("RGB", (8, 8), (shade, 0, 0)) for shade in (10, 20, 30))
    first.save(buffer, "PNG", save_all=True, append_images=rest)
    data = buffer.getvalue()
    at = data.index(b"acTL")
    data = data[: at - 4] + announced(900) + data[at + 16 :]
    kind, text = poor(data, tmp_path, "list(film(data))")
    assert (kind, text.partition(":")[0]) == ("PictureError", "frame 4 of 900 is broken or cut short")


def test_an_animated_png_that_was_cut_short_in_its_first_frames_is_no_still_picture() -> None:
    data = png(announced(9), FRAME)[:-12]  # without its end mark
    assert decode(data).frames == 9
    with pytest.raises(PictureError, match="frame 2 of 9 is broken or cut short"):
        list(film(data))


def counted(monkeypatch: pytest.MonkeyPatch, owner: object, name: str) -> list[None]:
    """How often a method of Pillow's is called."""
    calls: list[None] = []
    real = getattr(owner, name)

    def count(*args: Any, **how: Any) -> Any:
        calls.append(None)
        return real(*args, **how)

    monkeypatch.setattr(owner, name, count)
    return calls


@pytest.mark.parametrize("many", [20_000, 100_000])
def test_of_a_tiff_no_more_pages_are_looked_at_than_are_wanted(many: int, monkeypatch: pytest.MonkeyPatch) -> None:
    data = tiff(many)
    loads = counted(monkeypatch, TiffImagePlugin.ImageFileDirectory_v2, "load")
    assert (decode(data, alone=True).frames, decode(data, alone=True).notes) == (1, ())
    assert decode(data).notes == ("only the first of more than 1000 frames was taken",)
    with pytest.raises(PictureError, match="at least 1001 frames, more than the limit of 1000"):
        list(film(data))
    assert len(loads) < 20
    assert len(find_pages(data, 5)) == 5


@pytest.mark.parametrize(("order", "big"), [("<", False), (">", False), ("<", True)])  # Pillow knows no fourth kind
def test_pages_of_every_kind_of_tiff_are_counted_as_pillow_does(order: str, big: bool) -> None:
    data = tiff(7, order=order, big=big)
    with Image.open(io.BytesIO(data)) as image:
        assert image.n_frames == 7  # type: ignore[attr-defined]
    assert list(find_pages(data, 100)) == list(range(7))
    assert [int(np.asarray(picture.rgb)[0, 0, 0]) for picture in film(data)] == [100] * 7


@pytest.mark.parametrize("big", [False, True])
def test_pages_that_lead_in_a_circle_are_taken_once(big: bool) -> None:
    assert len(list(film(tiff(3, loop=True, big=big)))) == 3


@pytest.mark.parametrize(("order", "big"), [("<", False), (">", False), ("<", True)])
def test_a_tiff_of_small_copies_alone_is_its_first_one(order: str, big: bool) -> None:
    assert find_pages(tiff(5000, order=order, big=big, purpose=1), 1)[0].at == (16 if big else 8)
    assert decode(tiff(5000, order=order, big=big, purpose=1)).frames == 1


def test_of_a_gif_no_more_frames_are_looked_at_than_are_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    data = gif(gif_frame(10, 10) * 1_000_000)
    seeks = counted(monkeypatch, GifImagePlugin.GifImageFile, "_seek")
    assert decode(data, alone=True).frames == 1
    assert decode(data, max_frames=7).notes == ("only the first of more than 7 frames was taken",)
    with pytest.raises(PictureError, match="at least 1001 frames"):
        list(film(data))
    assert len(seeks) < 10
    assert others.gif(data, 20).frames == 20


def test_bytes_between_the_frames_of_a_gif_end_it_as_in_browsers() -> None:
    data = gif(gif_frame(10, 10), b"junk", gif_frame(60000, 60000))
    assert [picture.rgb.size for picture in film(data)] == [(10, 10)]
    assert decode(data[:13] + data[13:19] + b"\0\0" + data[19:]).rgb.size == (10, 10), "before them they do not"


@pytest.mark.parametrize("tag", [273, 324], ids=["strips", "tiles"])
@pytest.mark.parametrize("second", [False, True])
def test_a_tiff_of_a_million_strips_for_eight_rows_is_refused(
    tag: int, second: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of five millions, Pillow made a list that took a minute and a gigabyte."""
    data = bytearray(tiff(2))
    at = (list(find_pages(bytes(data), 2).values()))[second].at + 2 + 12 * 6
    struct.pack_into("<HHI", data, at, tag, 4, 1_000_000)
    monkeypatch.setattr(TiffImagePlugin.TiffImageFile, "_setup", lambda _: pytest.fail("it was opened"))
    if second:
        assert len(find_pages(bytes(data), 1)) == 1
    with pytest.raises(PictureError, match="1000000 strips or tiles for 8×8 pixels"):
        find_pages(bytes(data), 2)
    if not second:
        with pytest.raises(PictureError, match="1000000 strips or tiles"):
            decode(bytes(data), alone=True)


@pytest.mark.parametrize("how", [{}, {"compression": "tiff_lzw"}, {"strip_size": 1}], ids=["one", "LZW", "rows"])
def test_as_many_strips_as_there_are_rows_are_usual(how: dict[str, Any]) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (7, 3000), ORANGE).save(buffer, "TIFF", **how)
    assert decode(buffer.getvalue()).rgb.getpixel((6, 2999)) == ORANGE


@pytest.mark.parametrize("block", [b"\x21\xfe\1a\0", b"\x21\xf9\4\0\0\0\0\0"], ids=["comments", "controls"])
def test_a_gif_of_a_million_comments_is_refused(block: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow reads them one by one, and keeps them."""
    monkeypatch.setattr(codec, "_open", lambda *_: pytest.fail("it was opened"))
    with pytest.raises(PictureError, match="more than 200000 blocks before a frame"):
        decode(gif(block * 300_000 + gif_frame(10, 10)))
    assert others.gif(gif(block * 5 + gif_frame(10, 10), block * 7 + gif_frame(10, 10)), 9).blocks <= 2 * 7 + 4


@pytest.mark.parametrize("size", [(8, 16_711_688), (16_000, 16_000)])
def test_a_png_cannot_hold_more_pixels_than_its_bytes_can_become(
    size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "open", lambda *_args, **_how: pytest.fail("it was opened"))
    with pytest.raises(PictureError, match=f"cut short: its .* bytes cannot hold {size[0]}×{size[1]} pixels"):
        decode(png()[:8] + chunk(b"IHDR", struct.pack(">IIBBBBB", *size, 1, 0, 0, 0, 0)) + png()[33:])


@pytest.mark.parametrize("mode", ["1", "L", "RGBA"])
def test_a_png_of_one_colour_is_as_small_as_it_can_be_and_passes(mode: str) -> None:
    size = (9000, 9000) if mode == "1" else (3000, 3000)
    file = io.BytesIO()
    Image.new(mode, size).save(file, "PNG", compress_level=9)
    assert decode(file.getvalue()).rgb.size == size


def test_a_jpeg_2000_picture_of_which_most_tiles_are_missing_is_cut_short() -> None:
    """263 bytes of 256 megapixels were a picture, grey all over."""
    buffer = io.BytesIO()
    Image.new("RGB", (64, 48), ORANGE).save(buffer, "JPEG2000")
    data = bytearray(buffer.getvalue())
    sizes, header = data.index(b"\xff\x51"), data.index(b"ihdr")
    assert others.jpeg_2000_tiles(bytes(data)) == 1
    struct.pack_into(">II", data, sizes + 6, 12_800, 6_400)
    struct.pack_into(">II", data, sizes + 22, 64, 64)
    struct.pack_into(">II", data, header + 4, 6_400, 12_800)
    assert others.jpeg_2000_tiles(bytes(data)) == 200 * 100
    with pytest.raises(PictureError, match="cut short: most of its tiles are missing"):
        decode(bytes(data))


def test_an_exif_block_of_tens_of_thousands_of_entries_is_read_in_part_and_said_so() -> None:
    """Pillow takes a tenth of a millisecond and more for each."""
    entries = b"".join(struct.pack("<HHII", tag, 5, 8, 26) for tag in range(60_000))
    main = struct.pack("<HHHII", 1, 0x8769, 4, 1, 26) + bytes(4)
    block = b"II*\0" + struct.pack("<I", 8) + main + struct.pack("<H", 60_000) + entries + bytes(100)
    assert len(exif.parse(block).exif) <= 4096
    picture = decode(png(chunk(b"eXIf", block)))
    assert len(picture.notes) == 1
    assert "EXIF block" in picture.notes[0]


@pytest.mark.filterwarnings("ignore")  # Pillow's own, which are no errors outside the tests
def test_entries_that_all_point_to_the_same_bytes_are_not_read_by_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 60,000 entries of 60 kB each, older Pillows made 4 GB."""

    def crowded(count: int) -> bytes:
        entries = b"".join(struct.pack("<HHII", tag, 7, 60_000, 100) for tag in range(2000, 2000 + count))
        return b"II*\0" + struct.pack("<IH", 8, count) + entries + bytes(70_000)

    block = crowded(40_000)
    with pytest.raises(PictureError, match="a directory of 40000 entries"):
        decode(block)
    with pytest.raises(PictureError, match="more values than bytes"):
        decode(crowded(500))
    damaged = bytearray(tiff(1))
    struct.pack_into("<HHI", damaged, 10, 253, 7, 2**32 - 1)
    assert decode(bytes(damaged)).rgb.size == (8, 8), "a single value that lies outside is no reason"
    read = counted(monkeypatch, TiffImagePlugin.ImageFileDirectory_v2, "load")
    assert decode(png(chunk(b"eXIf", block))).rgb.size == (8, 8)
    pieces = b"".join(segment(0xE1, b"Exif\0\0" + block[at : at + 60_000]) for at in range(0, len(block), 60_000))
    data = jpeg()
    assert "was left out" in decode(data[:2] + pieces + data[2:]).notes[0]
    assert not read


# --- sizes ---


@pytest.mark.parametrize("disposal", [0, 1, 2, 3])
def test_a_later_frame_of_a_gif_is_held_to_the_limit_before_it_is_sought(disposal: int, tmp_path: Path) -> None:
    data = gif(gif_frame(10, 10), gif_frame(65535, 65535, disposal), gif_frame(10, 10))
    kind, text = poor(data, tmp_path, "list(film(data))")
    assert kind == "TooLargeError"
    assert "65535×65535 = 4295 megapixels" in text
    assert poor(data, tmp_path, "decode(data, alone=True)") == [[[10, 10], 1, []]]


@pytest.mark.parametrize("disposal", [0, 2, 3])
def test_the_first_frame_of_a_gif_is_held_to_it_before_it_is_opened(
    disposal: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(codec, "_open", lambda *_: pytest.fail("it was opened"))
    with pytest.raises(TooLargeError, match="30000×30000"):
        decode(gif(gif_frame(30000, 30000, disposal)))


@pytest.mark.parametrize("kind", ["VP8L", "VP8 ", "VP8X"])
def test_a_webp_is_held_to_the_limit_before_it_is_opened(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its decoder allocates the picture twice while it is opened."""
    body = {
        "VP8L": b"\x2f" + struct.pack("<I", 15999 | 15999 << 14) + b"\x07\xd0\xb1\x26\x14\xb9\xff\x81\x88\xe8\x7f",
        "VP8 ": b"\x10\0\0\x9d\x01\x2a" + struct.pack("<HH", 16000, 16000),
        "VP8X": b"\0\0\0\0" + (15999).to_bytes(3, "little") * 2,
    }[kind]
    data = kind.encode() + struct.pack("<I", len(body)) + body
    data = b"RIFF" + struct.pack("<I", len(data) + 4) + b"WEBP" + data
    monkeypatch.setattr(codec, "_open", lambda *_: pytest.fail("it was opened"))
    with pytest.raises(TooLargeError, match="16000×16000 = 256 megapixels, more than the limit of 255"):
        decode(data, max_pixels=255_000_000)


@pytest.mark.parametrize("kind", ["GIF", "WEBP"])
def test_an_animation_is_not_much_larger_than_its_first_frame(kind: str, tmp_path: Path) -> None:
    """A WebP of 94 kB that announces 256 megapixels for frames of 600 × 400 took 4 GB."""
    buffer = io.BytesIO()
    frames = [Image.new("RGB", (60, 40), (shade, 0, 0)) for shade in (10, 200)]
    frames[0].save(buffer, kind, save_all=True, append_images=frames[1:])
    data = bytearray(buffer.getvalue())
    if kind == "GIF":
        data[6:10] = struct.pack("<HH", 15_000, 17_000)
    else:
        data[24:30] = (14_999).to_bytes(3, "little") + (16_999).to_bytes(3, "little")
    for call in ("decode(data, alone=True)", "list(film(data))"):
        error, text = poor(bytes(data), tmp_path, call)
        assert error == "PictureError"
        assert text.startswith("the animation has 15000×17000 pixels, but its first frame 60×40")


def test_a_second_look_at_16_bits_goes_along_with_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each frame used to be reached from the beginning, by decoding all before it."""
    animation = Animation(30, 0)
    for number in range(30):
        colors = np.full((8, 8, 3), 300 * number, np.uint16)
        animation.add(encode_png(None, None, [(b"tRNS", struct.pack(">3H", 301, 301, 301))], wide=colors), 100)
    seeks = counted(monkeypatch, PngImagePlugin.PngImageFile, "_seek")
    assert len(list(film(animation.finish()))) == 30
    assert len(seeks) <= 60


def test_the_tiles_of_a_tiff_are_held_to_its_size() -> None:
    """A tile is decoded whole, however small the page."""

    def tiled(side: int) -> bytes:
        tile = zlib.compress(bytes(side * side))
        tags = {256: 8, 257: 8, 258: 8, 259: 8, 262: 1, 277: 1, 322: side, 323: side, 324: 134, 325: len(tile)}
        entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
        return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + b"\0\0\0\0" + tile

    assert decode(tiled(512)).rgb.size == (8, 8)
    with pytest.raises(PictureError, match="tiles of 5120×5120 pixels for a page of 8×8"):
        decode(tiled(5120))


def test_pillows_limit_is_ours_while_a_picture_is_read_and_the_callers_afterwards(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 77)
    limits: list[int | None] = []
    real = codec._open

    def spy(data: bytes, kind: str | None) -> Image.Image:
        limits.append(Image.MAX_IMAGE_PIXELS)
        return real(data, kind)

    monkeypatch.setattr(codec, "_open", spy)
    assert decode(png(), max_pixels=64).rgb.size == (8, 8)
    assert len(list(film(png(), max_pixels=5000))) == 1
    assert (limits, Image.MAX_IMAGE_PIXELS) == ([64, 5000], 77)


def test_pillows_limit_is_set_in_one_place_alone() -> None:
    source = Path(codec.__file__).parent
    assert [path.name for path in source.rglob("*.py") if "MAX_IMAGE_PIXELS" in path.read_text()] == ["preflight.py"]


def test_pillows_limit_is_an_error_from_its_first_pixel_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow itself only warns up to twice its limit."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 77)
    image = Image.new("L", (10, 10))
    with allowing(100):
        assert image.crop((0, 0, 10, 10)).size == (10, 10)
        with pytest.raises(Image.DecompressionBombError):
            image.crop((0, 0, 101, 1))


def test_threads_with_limits_of_their_own_do_not_refuse_each_others_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 77)
    inside, leave = threading.Event(), threading.Event()

    def other() -> None:
        with allowing(1000):
            inside.set()
            assert leave.wait(60)

    thread = threading.Thread(target=other)
    with allowing(10):
        thread.start()
        assert inside.wait(60)
        assert Image.MAX_IMAGE_PIXELS == 1000
        leave.set()
        thread.join()
        assert Image.MAX_IMAGE_PIXELS == 10
    assert Image.MAX_IMAGE_PIXELS == 77


@pytest.mark.parametrize(
    "how",
    [
        {"shadow": "default"},
        {"canvas": "200x200", "scale": "original"},
        {"crop": True, "margin": "50%"},
        {"background": "blur:2%"},
        {"refine": True},
    ],
    ids=["shadow", "canvas", "margin", "blur", "refine"],
)
def test_what_is_made_of_a_picture_may_be_as_large_as_it(
    how: dict[str, Any], quick: Remover, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pillow's limit of 179 megapixels lies below ours: here it is small, so that the picture need not be large."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    done = quick.cut(decode(half(tmp_path / "a.png").read_bytes()), RemoveOptions.from_mapping(how))
    assert done.rgb is not None
    assert Image.MAX_IMAGE_PIXELS == 10


# --- JPEG ---


def test_thousands_of_exif_segments_are_left_out_and_said_so(tmp_path: Path) -> None:
    """Pillow joins them one to the other: 130 MB of them took more than a minute."""
    data = jpeg()
    block = segment(0xE1, b"Exif\0\0II*\0\x08\0\0\0".ljust(65533, b"\0"))
    file = preflight.check_format(data[:2] + block * 2000 + data[2:], "JPEG", 10_000)
    assert file.data == data
    assert file.notes[0].startswith("the EXIF block of 131.1 MB in 2000 pieces was left out")
    small = segment(0xE1, b"Exif\0\0II*\0\x08\0\0\0")
    assert decode(data[:2] + small * 2000 + data[2:]).notes == (
        "the EXIF block of 0.0 MB in 2000 pieces was left out: it is larger than any other",
    )


def test_an_exif_block_of_usual_size_is_not_touched() -> None:
    block = Image.Exif()
    block[0x010E] = "a" * 60_000
    data = jpeg(exif=block)
    assert preflight.check_format(data, "JPEG", 10_000).data is data
    assert b"a" * 60_000 in (decode(data).metadata.exif or b"")


def scans(data: bytes, count: int) -> bytes:
    """A JPEG with its last scan's header so many times more."""
    at = data.rindex(b"\xff\xda")
    header = data[at : at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")]
    return data[:-2] + header * count + b"\xff\xd9"


@pytest.mark.parametrize("progressive", [True, False])
def test_a_jpeg_of_thousands_of_scans_is_refused(progressive: bool) -> None:
    data = jpeg(progressive=progressive)
    if not progressive:  # of one component each
        at = data.index(b"\xff\xda")
        data = data[:at] + segment(0xDA, b"\1\1\0\0\x3f\0") + data[at + 14 :]
    with pytest.raises(PictureError, match="more than 200 scans, which would take minutes") as caught:
        decode(scans(data, 5000))
    assert caught.value.hint


def test_scans_behind_one_that_holds_all_are_not_looked_at() -> None:
    assert jpegs.walk(scans(jpeg(), 5000), segments=100, scans=201).scans == 1


def test_scans_are_counted_as_they_are_decoded() -> None:
    data = jpeg(progressive=True)
    usual = data.count(b"\xff\xda")
    assert jpegs.walk(scans(data, 150), segments=100, scans=160).scans == usual + 150
    assert decode(scans(data, 150)).rgb.size == (64, 64)
    preview = segment(0xE2, b"\xff\xda" * 30_000)  # in a segment, and behind the end, they are none
    assert decode(data[:2] + preview + data[2:] + scans(data, 1000)).rgb.size == (64, 64)
    table = segment(0xFE, b"\xff\xda" * 1000)
    at = data.rindex(b"\xff\xda")
    assert decode(data[:at] + table + data[at:]).rgb.size == (64, 64)


@pytest.mark.parametrize(
    ("extra", "text"),
    [
        (segment(0xE3, b"") * 30_000, "more than 20000 segments before its pixels"),
        (bytes(2_000_000), "2 MB between its segments that are none"),
        (b"\xff\0" * 1_000_000, "2 MB between its segments that are none"),
        (b"\xff" * 2_000_000, "2 MB between its segments that are none"),
        (segment(0xDB, (b"\0" + b"\1" * 64) * 600) * 2, "78 kB of quantization tables"),
        (segment(0xC0, b"\x08" + struct.pack(">HHB", 64, 64, 3) + b"\1\x11\0\2\x11\0\3\x11\0"), "2 headers"),
    ],
    ids=["segments", "zeros", "stuffing", "padding", "tables", "headers"],
)
def test_a_jpeg_that_no_program_writes_is_refused_before_it_is_decoded(
    extra: bytes, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = jpeg()
    monkeypatch.setattr(codec, "_open", lambda *_: pytest.fail("it was opened"))
    with pytest.raises(PictureError, match=text):
        decode(data[:20] + extra + data[20:])  # behind its first segment


@pytest.mark.parametrize("kind", ["JPEG", "MPO"])
def test_jpegs_of_the_usual_kinds_are_passed_as_they_are(kind: str, examples: Path) -> None:
    data = (examples / "coffee.jpg").read_bytes()
    if kind == "MPO":
        buffer = io.BytesIO()
        image = Image.open(io.BytesIO(data))
        image.save(buffer, "MPO", save_all=True, append_images=[image.rotate(180)], progressive=True)
        data = buffer.getvalue()
    assert preflight.check_format(data, "JPEG", 10**9) == preflight.CheckedFile(data=data)


# --- PNG ---


def packed(name: bytes, key: bytes, data: bytes) -> bytes:
    head = key + (b"\0\1\0\0\0" if name == b"iTXt" else b"\0\0")
    return chunk(name, head + zlib.compress(data))


PACKET = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    b'<rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/" dc:format="%s"/></rdf:RDF></x:xmpmeta>'
)


@pytest.mark.parametrize("where", ["before", "behind"])
@pytest.mark.parametrize(
    "large",
    [
        packed(b"zTXt", b"Comment", bytes(3 << 20)),
        packed(b"iTXt", b"Comment", bytes(3 << 20)),
        packed(b"zTXt", b"Comment", bytes(900_000)) * 100,
        chunk(b"tEXt", b"Comment\0" + b"a" * (70 << 20)),
        b"".join(chunk(b"tEXt", b"%d\0" % number) for number in range(5000)),
        chunk(b"prVt", b"") * 5000,
    ],
    ids=["zTXt", "iTXt", "many zTXt", "tEXt", "many tEXt", "private"],
)
def test_a_png_with_large_texts_is_a_picture_and_nothing_is_lost(large: bytes, where: str) -> None:
    """Pillow takes it for broken from a megabyte of one text on, or keeps every piece of it."""
    data = png(large) if where == "before" else png(behind=large)
    picture = decode(data)
    assert (picture.rgb.getpixel((3, 3)), picture.notes) == ((200, 90, 10), ())
    assert preflight.check_format(data, "PNG", 1000).data == png()


def test_a_profile_and_a_packet_of_more_than_a_megabyte_are_kept() -> None:
    profile = SRGB + bytes(3 << 20)
    packet = PACKET % (b"a" * (2 << 20))
    picture = decode(
        png(
            packed(b"iCCP", b"p", profile), packed(b"iTXt", b"XML:com.adobe.xmp", packet), packed(b"zTXt", b"x", packet)
        )
    )
    assert (picture.metadata.icc, picture.metadata.xmp, picture.notes) == (profile, packet, ())


@pytest.mark.parametrize(
    ("large", "text"),
    [
        (packed(b"iCCP", b"p", bytes(17 << 20)), "the colour profile of more than 16 MB was left out"),
        (packed(b"iTXt", b"XML:com.adobe.xmp", bytes(5 << 20)), "the XMP packet of more than 4 MB was left out"),
        (packed(b"zTXt", b"Raw profile type exif", bytes(9 << 20)), "the EXIF block of more than 8 MB was left out"),
    ],
)
def test_metadata_beyond_all_measure_is_left_out_and_said_so(large: bytes, text: str) -> None:
    picture = decode(png(large))
    assert (picture.rgb.getpixel((3, 3)), picture.notes) == ((200, 90, 10), (text,))


def test_a_png_of_usual_texts_is_passed_as_it_is() -> None:
    data = png(packed(b"iCCP", b"p", SRGB), chunk(b"tEXt", b"Software\0x"), packed(b"zTXt", b"Comment", b"a" * 300_000))
    assert preflight.check_format(data, "PNG", 1000).data is data
    data = png(packed(b"iCCP", b"p", np.random.default_rng(1).bytes(5000)))
    assert preflight.check_format(data, "PNG", 1000).data is data, "a profile of more than a kilobyte"


def test_a_png_of_a_million_chunks_is_refused() -> None:
    with pytest.raises(PictureError, match="more than 1000000 chunks"):
        preflight.check_format(png(chunk(b"IDAT", b"") * 1_000_000), "PNG", 1000)


# --- XMP ---


def description(inside: bytes) -> bytes:
    head, _, tail = PACKET.partition(b'dc:format="%s"')
    return head + b'xmlns:exif="http://ns.adobe.com/exif/1.0/" ' + inside + tail


def test_attributes_of_a_packet_are_cut_in_one_pass() -> None:
    """Each of them used to be looked for in the whole tag: 20,000 took half a minute, nine times as many an hour."""
    places = b"".join(b'exif:GPS%d="1" ' % number for number in range(190_000))
    kept = b"dc:a=\"1 exif:GPSx='2'\" " + b"dc:b = '3' "
    cut = xmp.strip(description(kept + places + b'dc:c="4" '), place=False)
    assert cut == description(kept[:-1] + b' dc:c="4" ')


@pytest.mark.parametrize(
    ("packet", "text"),
    [
        (description(b'dc:a="%s"' % (b"a" * (5 << 20))), "5 MB"),
        (description(b"".join(b'dc:a%d="1" ' % number for number in range(210_000))), "more than 200000 elements"),
    ],
)
def test_a_packet_beyond_all_measure_is_no_packet(packet: bytes, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        xmp.strip(packet)


def test_what_lies_beside_an_animation_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    buffer = io.BytesIO()
    frames = [Image.new("RGB", (8, 8), (shade, 0, 0)) for shade in range(10)]
    block = Image.Exif()
    block[0x010E] = "a flower"
    frames[0].save(buffer, "WEBP", save_all=True, append_images=frames[1:], xmp=PACKET % b"a", exif=block)
    calls = counted(monkeypatch, picture_module, "read_exif")
    pictures: list[Picture] = list(film(buffer.getvalue()))
    assert len(calls) == 1
    assert {(picture.metadata.xmp, b"a flower" in (picture.metadata.exif or b"")) for picture in pictures} == {
        (PACKET % b"a", True)
    }


PLAIN = b" ".join(b"%d" % (value % 256) for value in range(8 * 8 * 3))


@pytest.mark.parametrize(
    ("data", "wrong"),
    [
        (b"P6\n#" + b"x" * 3_000_000 + b"\n8 8\n255\n" + bytes(8 * 8 * 3), "a header of 3000 kB"),
        (b"P6\n8" + b" " * 3_000_000 + b"8\n255\n" + bytes(8 * 8 * 3), "a header of 3000 kB"),
        (b"P5\n8 8 " + b"#\n" * 1_000_000 + b"255\n" + bytes(8 * 8), "a header of 2000 kB"),
        (b"P4\n8" + b"#\r" * 1_000_000 + b" 8\n" + bytes(8), "a header of 2000 kB"),
        (b"P3\n8 8\n255\n" + b"#\n" * 1_000_000 + PLAIN, "more than 10000 comments"),
        (b"P1\n8 8\n" + b"0 " * 32 + b"#\n" * 1_000_000 + b"1 " * 32, "more than 10000 comments"),
    ],
    ids=["comment", "spaces", "comments", "comments-of-a-bitmap", "text", "text-of-a-bitmap"],
)
def test_a_ppm_is_not_read_byte_by_byte_nor_once_for_each_comment(data: bytes, wrong: str) -> None:
    """Pillow would take half a second for each of those megabytes, nine for those between the pixels."""
    with pytest.raises(PictureError, match=wrong):
        decode(data)
    with pytest.raises(PictureError, match=wrong):
        codec.header(data)


@pytest.mark.parametrize(
    "data",
    [
        b"P6 # by hand\n#\n8 # wide\r8\n255\n" + bytes(range(8 * 8 * 3)),
        b"P6 8 8 255 " + b"#" * 8 * 8 * 3,
        b"P4 8 8 " + b" " * 100_000,
        b"P6\n8 8\n255\n" + b"#\n" * 96,
        b"P3\n" + b"# one\n" * 1000 + b"8 8 255\n" + b"# two\n" * 1000 + PLAIN,
    ],
    ids=["comments", "pixels-like-comments", "pixels-like-spaces", "pixels-like-lines", "text"],
)
def test_a_ppm_with_comments_is_a_picture(data: bytes) -> None:
    assert decode(data).rgb.size == (8, 8)


# --- what Pillow decodes in Python ---


@pytest.mark.parametrize(("kind", "most"), [(b"P6", 65535), (b"P6", 1000), (b"P6", 100), (b"P5", 100), (b"P5", 1000)])
def test_a_ppm_of_an_unusual_depth_becomes_what_pillow_makes_of_it(kind: bytes, most: int) -> None:
    values = np.random.default_rng(1).integers(0, min(65535, most + 5), (5, 7, 3 if kind == b"P6" else 1))
    data = kind + b"\n# a comment\n7 5 %d\n" % most + values.astype(">u2" if most > 255 else "u1").tobytes()
    file = preflight.check_format(data, "PPM", 1000)
    assert file.data != data
    with Image.open(io.BytesIO(data)) as theirs, Image.open(io.BytesIO(file.data)) as ours:
        assert (theirs.mode, theirs.size) == (ours.mode, ours.size)
        assert np.array_equal(np.asarray(theirs), np.asarray(ours))
    with pytest.raises(PictureError, match="broken or cut short"):
        decode(data[:-4])


def test_a_ppm_of_16_bits_takes_no_longer_than_one_of_8() -> None:
    """Pillow took a second for two megapixels."""
    began = time.process_time()
    assert decode(b"P6 4000 3000 65535\n" + bytes(4000 * 3000 * 6)).rgb.size == (4000, 3000)
    assert time.process_time() - began < 3


def test_what_would_take_minutes_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "open", lambda *_args, **_how: pytest.fail("it was opened"))
    with pytest.raises(PictureError, match="36 megapixels, which would take minutes") as caught:
        decode(b"qoif" + struct.pack(">IIBB", 6000, 6000, 3, 0) + bytes(100))
    assert caught.value.hint == "save it as PNG"
    with pytest.raises(PictureError, match="71 MB of text, which would take long"):
        decode(b"P3 5000 5000 255\n" + b"1 " * 35_500_000)
