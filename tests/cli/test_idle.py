"""No option of `cutout remove` does nothing in silence: every one is tried beside the others, in every format."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from onnx import TensorProto, helper, save
from PIL import Image
from small import brightness_model, half

from cutout.cli.options import in_dashes
from cutout.enums import BitDepth, EdgeColors, Fit, PngLevel, Strip
from cutout.errors import UsageError
from cutout.options import DeviceOptions, Encoding, RemoveOptions
from cutout.options.idle import IDLE, Asked, idle
from cutout.output_formats import OutputFormat
from cutout.pipeline.convert import convert
from cutout.pipeline.remover import Remover
from cutout.timing import StageTimes

if TYPE_CHECKING:
    from conftest import Cutout

META = (Path(__file__).parents[1] / "data" / "meta.jpg").read_bytes()
FORMATS = tuple(OutputFormat)

# Every option that changes a result, with a value at which it does.
LOOKS: dict[str, Any] = {
    "mask": True,
    "background": "#204060",
    "background_fit": "tile",
    "fit": Fit.PAD,
    "max_size": 20,
    "threshold": 200,
    "post_process": True,
    "rescale": False,
    "refine": True,
    "tiles": 2,
    "matting": True,
    "matting_foreground": 200,
    "matting_background": 60,
    "matting_erode": 2,
    "largest": True,
    "min_area": "10%",
    "fill_holes": "all",
    "erode": 2,
    "dilate": 2,
    "feather": 3,
    "invert": True,
    "crop": True,
    "margin": 3,
    "canvas": "40x40",
    "scale": "50%",
    "position": "left",
    "shadow": "4,4,4,80%",
    "edge_colors": EdgeColors.KEEP,
}
FILES: dict[str, Any] = {
    "quality": 10,
    "lossless": True,
    "png_level": PngLevel.SMALL,
    "keep_hidden": True,
    "bit_depth": BitDepth.SIXTEEN,
    "strip": Strip.ALL,
}
# Whether they do something depends on the picture, or on the machine; or it is said for each picture.
DEPENDS = {"max_pixels", "threads", "first_frame", "max_frames"}


def test_every_option_of_a_result_is_tried() -> None:
    assert set(LOOKS) == set(RemoveOptions.names())
    assert set(FILES) | DEPENDS == set(Encoding.names())


@pytest.fixture(scope="module")
def soft(tmp_path_factory: pytest.TempPathFactory) -> Remover:
    """A model whose masks have soft edges, two objects of different sizes and a hole, of the picture's brightness."""
    value = helper.make_tensor_value_info
    graph: Any = helper.make_graph(
        [
            helper.make_node("ReduceMean", ["picture"], ["grey"], axes=[1], keepdims=1),
            helper.make_node("AveragePool", ["grey"], ["mask"], kernel_shape=[5, 5], pads=[2, 2, 2, 2]),
        ],
        "soft",
        [value("picture", TensorProto.FLOAT, [1, 3, 48, 48])],
        [value("mask", TensorProto.FLOAT, [1, 1, 48, 48])],
    )
    path = tmp_path_factory.mktemp("model") / "soft.onnx"
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), str(path))
    return Remover(path, device="cpu")


@pytest.fixture(scope="module")
def scene() -> bytes:
    """A large ring and a small square on a coloured ground, with metadata."""
    rows, columns = np.indices((64, 96)).astype(float)
    distance = np.hypot(rows - 32, columns - 34)
    pixels = np.empty((64, 96, 3), np.uint8)
    pixels[:] = (90, 20, 10)
    pixels[(distance < 26) & (distance > 9)] = (250, 240, 200)
    pixels[20:30, 76:88] = (200, 190, 180)
    pixels = np.clip(pixels + np.random.default_rng(1).integers(-8, 8, pixels.shape), 0, 255).astype(np.uint8)
    file = io.BytesIO()
    with Image.open(io.BytesIO(META)) as meta:
        Image.fromarray(pixels).save(file, "PNG", exif=meta.info["exif"])
    return file.getvalue()


@pytest.fixture(scope="module")
def behind(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("behind") / "behind.png"
    Image.effect_noise((20, 30), 90).convert("RGB").save(path)
    return path


# Each line: what else is asked for.
BESIDE: dict[str, dict[str, Any]] = {
    "nothing": {},
    "mask": {"mask": True},
    "colour": {"background": "white"},
    "veil": {"background": "#ff000080"},
    "picture": {"background": "behind.png"},
    "blur": {"background": "blur:3"},
    "shadow": {"shadow": True},
    "matting": {"matting": True, "matting_erode": 3},
    "hard": {"post_process": True},
    "hard and matting": {"post_process": True, "matting": True, "matting_erode": 3},
    "crop": {"crop": True},
    "mask and crop": {"mask": True, "crop": True},
    "mask and canvas": {"mask": True, "canvas": "50x50"},
    "mask of a size": {"mask": True, "canvas": "50x50", "scale": "60%"},
    "canvas": {"canvas": "50x50"},
    "feather": {"feather": 2},
    "invert": {"invert": True},
    "lossless": {"lossless": True},
    "16 bits": {"bit_depth": BitDepth.SIXTEEN},
    "hidden": {"keep_hidden": True},
}
# Of these pairs it depends on the picture whether the second does something, and in that of this test it does not: the
# subject fills the picture, or no pixel is wholly transparent.
CHANCE = {
    ("hard", "edge_colors"),
    ("hard and matting", "crop"),
    ("invert", "crop"),
    ("feather", "keep_hidden"),
    ("canvas", "keep_hidden"),
}


def _made(values: dict[str, Any], behind: Path) -> tuple[RemoveOptions, Encoding]:
    look: dict[str, Any] = {
        name: behind if value == "behind.png" else value for name, value in values.items() if name in LOOKS
    }
    return RemoveOptions(**look), Encoding(**{name: value for name, value in values.items() if name in FILES})


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("beside", BESIDE)
def test_an_option_changes_the_file_or_is_said_to_do_nothing(
    beside: str, kind: OutputFormat, scene: bytes, soft: Remover, behind: Path
) -> None:
    """Looks do not depend on the format but for transparency: those are tried in PNG, and a few in JPEG."""
    if "bit_depth" in BESIDE[beside] and not kind.has_16_bits:
        pytest.skip("refused before the run")
    wrong = []
    jpeg = kind is OutputFormat.JPEG and beside in {"nothing", "colour"}
    looks = LOOKS if kind is OutputFormat.PNG or jpeg else {}
    plain = convert(scene, kind, soft, *_made(BESIDE[beside], behind), StageTimes()).encoded
    for name in [*looks, *FILES]:
        if name in BESIDE[beside] or (beside, name) in CHANCE:
            continue
        try:
            options, encoding = _made({**BESIDE[beside], name: FILES.get(name, LOOKS.get(name))}, behind)
        except UsageError:  # which is no silence either
            continue
        if encoding.bit_depth is BitDepth.SIXTEEN and not kind.has_16_bits:
            continue
        differs = convert(scene, kind, soft, options, encoding, StageTimes()).encoded != plain
        said = list(idle(Asked(options=options, encoding=encoding, formats=frozenset({kind})), frozenset({name})))
        if differs is bool(said):
            wrong.append((name, "does something" if differs else "does nothing", said))
    assert wrong == []


@pytest.mark.parametrize(
    ("name", "run", "words"),
    [
        ("max_frames", {"encoding": Encoding(first_frame=True)}, "--max-frames does nothing here: only the first"),
        ("max_frames", {"formats": frozenset({OutputFormat.JPEG})}, "only the first frame"),
        ("recursive", {}, "--recursive does nothing here: no input is a folder"),
        ("exclude", {}, "--exclude does nothing here: no input is a folder or a pattern"),
        ("suffix", {"to_file": True}, "--suffix does nothing here: the output has a name"),
        ("suffix", {"to_stream": True}, "the output has a name"),
        ("existing", {"to_stream": True}, "standard output"),
        ("pull", {"own_file": True}, "file of your own"),
        ("pull", {"rembg": True}, "rembg brings its models itself"),
        ("fit", {"rembg": True}, "rembg prepares"),
        ("rescale", {"rembg": True}, "rembg finishes"),
        ("tiles", {"classes": True}, "looks once"),
        ("tiles", {"options": RemoveOptions(tiles=1)}, "1×1"),
        ("refine", {"classes": True}, "looks once"),
        ("shadow", {"options": RemoveOptions(mask=True, canvas=9, scale="50%", shadow=True)}, "--mask shows none"),
    ],
)
def test_what_the_files_and_the_model_leave_no_room_for_is_said(name: str, run: dict[str, Any], words: str) -> None:
    plain = Asked(options=RemoveOptions(), encoding=Encoding(), formats=frozenset({OutputFormat.PNG}))
    changed = replace(plain, **run)
    (text,) = idle(changed, frozenset({name}), in_dashes)
    assert words in text
    if name not in {"recursive", "exclude"}:
        assert list(idle(plain, frozenset({name}))) == []
    assert list(idle(changed, frozenset())) == [], "what stands in the environment is meant for many commands"


def test_every_row_is_an_option_of_the_command() -> None:
    from inspect import signature

    from cutout.cli.remove import remove

    assert {row.name for row in IDLE} <= set(signature(remove).parameters)


# --- from the command line ---


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (("-o", "q.jpg", "-b", "transparent"), 2, "--background transparent does not go with jpg"),
        (("-o", "q.png", "--mask", "--shadow", "default"), 2, "--mask gives the alpha alone, so nothing of --shadow"),
        (("-o", "q.png", "--precision", "reduced", "--half"), 2, "--precision reduced and --half are two kinds"),
        (("-o", "q.png", "--half", "-d", "cpu"), 0, "--half does nothing on cpu"),
        (("-o", "q.png", "--half"), 0, "--half does nothing on cpu"),
        (("-o", "q.png", "--cpu-fallback", "-d", "cpu"), 0, "--cpu-fallback does nothing on cpu"),
        (("-o", "q.png", "--gpu-memory-limit", "5", "-d", "cpu"), 0, "--gpu-memory-limit does nothing on cpu"),
        (("-o", "q.png", "--quality", "9"), 0, "--quality does nothing here"),
        (("-o", "q.png", "--no-recursive"), 0, "--recursive does nothing here"),
        (("-o", "q.jpg", "-b", "#ff000080"), 0, "a.png: jpg holds no transparency"),
        (("-o", "q.jpg"), 0, ""),
        (("-o", "q.png", "--threshold", "9", "--erode", "1"), 0, ""),
    ],
)
def test_the_command_refuses_or_says_it(
    cutout: Cutout, tmp_path: Path, args: tuple[str, ...], code: int, words: str
) -> None:
    picture = half(tmp_path / "a.png")
    run = cutout("remove", picture, "-m", brightness_model(tmp_path), *args, cwd=tmp_path, CUTOUT_LOSSLESS="1")
    assert run.code == code, run.err
    assert words in run.err
    assert run.err.count("warning:") == (code == 0 and words != "")


def test_options_of_accelerators_say_that_rembg_has_no_ear_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr("cutout.engines.rembg.open_rembg", lambda request, _warn: opened.append(request.spec.name))
    said: list[str] = []
    given = DeviceOptions(batch=8, provider_options={"a": "b"})
    Remover("rembg:u2netp", device_options=given, warn=said.append)
    Remover("rembg:u2netp", device_options=DeviceOptions(pictures=3), warn=said.append)
    assert said == ["nothing comes of --batch, --provider-option with rembg:u2netp, which rembg runs"]
    assert opened == ["rembg:u2netp", "rembg:u2netp"]


def test_the_level_of_a_png_counts_at_16_bits_too(scene: bytes, soft: Remover) -> None:
    sizes = []
    for level in PngLevel:
        encoding = Encoding(bit_depth=BitDepth.SIXTEEN, png_level=level)
        sizes.append(len(convert(scene, OutputFormat.PNG, soft, RemoveOptions(), encoding, StageTimes()).encoded))
    assert sizes[0] > sizes[1] > sizes[2]


def test_an_animated_webp_says_that_it_keeps_no_hidden_colours(soft: Remover) -> None:
    film = (Path(__file__).parents[1] / "data" / "film.gif").read_bytes()
    for kind, expected in ((OutputFormat.WEBP, 1), (OutputFormat.PNG, 0)):
        made = convert(film, kind, soft, RemoveOptions(), Encoding(keep_hidden=True), StageTimes())
        assert sum("hidden colours were not kept" in text for text in made.warnings) == expected
