"""Options validate themselves, and a model's configuration is checked before it spoils a picture."""

from __future__ import annotations

import dataclasses
import pickle
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from PIL import Image

from cutout.enums import Fit
from cutout.errors import ExitCode, ModelError, UsageError
from cutout.models.custom import custom_spec
from cutout.models.registry import ALIASES, DEFAULT_MODEL, MODELS, Activation, find_spec
from cutout.options import RemoveOptions, values
from cutout.options.backgrounds import BackgroundPicture, Blur, Gradient
from cutout.options.values import parse_color
from cutout.output_formats import SUFFIXES, OutputFormat

# --- RemoveOptions ---


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"threshold": -1}, "threshold is -1.* between 0 and 255"),
        ({"threshold": 256}, "threshold is 256"),
        ({"threshold": 127.5}, "whole number"),
        ({"threshold": "128"}, "threshold is '128'.* whole number"),
        ({"max_size": 0}, "max_size is 0.* at least 1 pixel"),
        ({"max_size": -5}, "max_size"),
        ({"max_size": 10.5}, "whole number"),
        ({"matting_foreground": 256}, "matting_foreground is 256"),
        ({"matting_foreground": None}, "whole number"),
        ({"matting_background": -1}, "matting_background is -1"),
        ({"matting_erode": -1}, "matting_erode is -1.* between 0 and 10000 pixels"),
        ({"matting": True, "matting_foreground": 10, "matting_background": 10}, "must be below"),
        ({"mask": True, "background": "white"}, "background has nothing to fill"),
        ({"mask": True, "shadow": True}, "nothing of shadow could be seen"),
        ({"fit": "squeeze"}, "fit is 'squeeze'.* stretch, pad"),
        ({"background": "no colour and no file"}, "neither a colour nor a picture file"),
        ({"background": ""}, "neither"),
        ({"background": "x" * 5000}, "neither"),
        ({"background": Path("nowhere.png")}, "nowhere.png does not exist"),
        ({"background": (1, 2)}, "not a colour"),
        ({"background": (1, 2, 3, 4, 5)}, "not a colour"),
        ({"background": (1, 2, 256)}, "not a colour"),
        ({"background": (0.5, 0.5, 0.5)}, "not a colour"),
        ({"background": "missing.jpg"}, "missing.jpg' is neither .*: no such file exists"),
        ({"background": "blur:"}, "background is 'blur:', but it must be blur:RADIUS"),
        ({"background": "blur:-3"}, "blur:RADIUS"),
        ({"background": "gradient:red"}, "gradient:COLOR,COLOR"),
        ({"background": "gradient:red,blue,up"}, "gradient:COLOR,COLOR"),
        ({"background": "gradient:red,#0000ff80"}, "opaque"),
        ({"mask": True, "background": "blur:3"}, "background has nothing to fill"),
        ({"background_fit": "squeeze"}, "background_fit is 'squeeze'.* cover, contain, tile, stretch"),
        ({"min_area": "much"}, "min_area is 'much'.* 0.1%"),
        ({"min_area": -1}, "min_area"),
        ({"min_area": True}, "min_area"),
        ({"fill_holes": "some"}, "fill_holes is 'some'.* all, or"),
        ({"erode": -1}, "erode is -1, but it must lie between 0 and 10000 pixels"),
        ({"erode": 1_000_000_000}, "erode is 1000000000, but it must lie between 0 and 10000 pixels"),
        ({"dilate": 10_001}, "dilate is 10001, .*10000 pixels"),
        ({"feather": 1_000_000_000}, "feather is 1000000000, .*10000 pixels"),
        ({"matting_erode": 10**90}, "matting_erode is 1000.*91 characters.*10000 pixels"),
        ({"crop": True, "margin": "1000001"}, "margin is '1000001', but it must be at most 1000000"),
        ({"crop": True, "margin": 1e300}, r"margin is 1e\+300, but it must be at most 1000000"),
        ({"crop": True, "margin": "9" * 5000}, "margin is '99.*5002 characters.*at most 1000000"),
        ({"shadow": "0,2000000%,0,50%"}, "shadow .* at most 1000000"),
        ({"background": "blur:1000001%"}, "background .* at most 1000000"),
        ({"min_area": "1000000001"}, "min_area .* at most 1000000000"),
        ({"min_area": 10**400}, "min_area .* at most 1000000000"),
        ({"canvas": "9" * 5000}, "canvas .*5002 characters.* at most 256 megapixels"),
        ({"canvas": f"2x{'9' * 5000}"}, "canvas .* at most 256 megapixels"),
        ({"dilate": 1.5}, "dilate is 1.5.* whole number"),
        ({"feather": None}, "feather is None.* whole number"),
        ({"margin": 5}, "margin .* goes with crop or canvas"),
        ({"crop": True, "margin": "5em"}, "margin is '5em'.* 20px or 5%"),
        ({"crop": True, "margin": "-5"}, "margin"),
        ({"crop": True, "margin": "1,2,3,4,5"}, "one to four"),
        ({"crop": True, "margin": float("nan")}, "margin"),
        ({"canvas": "big"}, "canvas is 'big'.* 1200x800"),
        ({"canvas": "0x5"}, "canvas"),
        ({"canvas": True}, "canvas"),
        ({"canvas": (1, 2, 3)}, "canvas"),
        ({"canvas": "100000x100000"}, "canvas .* 256 megapixels"),
        ({"canvas": 100, "margin": "50%"}, "margin is '50%'.* less than the canvas of 100×100"),
        ({"canvas": 100, "scale": "80"}, "scale is '80'.* 80%"),
        ({"canvas": 100, "scale": "0%"}, "scale"),
        ({"canvas": 100, "scale": "101%"}, "scale"),
        ({"scale": "80%"}, "scale .* goes with canvas"),
        ({"position": "bottom"}, "position .* goes with canvas"),
        ({"canvas": 100, "position": "left-right"}, "position is 'left-right'.* bottom-left"),
        ({"canvas": 100, "position": "110%,0%"}, "position"),
        ({"canvas": 100, "position": "middle"}, "position"),
        ({"shadow": "1,2,3"}, "shadow is '1,2,3'.* DX,DY,BLUR,OPACITY"),
        ({"shadow": "1,2,-3,50%"}, "shadow"),
        ({"shadow": "1,2,3,150%"}, "shadow"),
        ({"shadow": "1,2,3,50%,nocolour"}, "shadow"),
        ({"shadow": 5}, "shadow"),
    ],
)
def test_a_value_that_makes_no_sense_is_refused_by_its_option(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        RemoveOptions(**given)
    assert caught.value.exit_code is ExitCode.USAGE


PX, PERCENT = values.Length, partial(values.Length, percent=True)


@pytest.mark.parametrize(
    ("given", "parsed"),
    [
        ({}, {}),
        ({"threshold": 0}, {"threshold": 0}),
        ({"threshold": 255}, {"threshold": 255}),
        ({"threshold": np.uint8(7), "max_size": np.int64(9)}, {"threshold": 7, "max_size": 9}),
        ({"max_size": 1}, {"max_size": 1}),
        ({"matting": True, "matting_foreground": 11, "matting_background": 10, "matting_erode": 0}, {}),
        ({"matting_foreground": 1, "matting_background": 200}, {}),
        ({"background": (0, 0, 0)}, {"background": (0, 0, 0, 255)}),
        ({"background": [255, 255, 255, 0]}, {"background": (255, 255, 255, 0)}),
        (
            {"background": "gradient:rgb(1, 2, 3),hsl(120, 50%, 50%),-30.5deg"},
            {"background": Gradient((1, 2, 3), (64, 191, 64), -30.5)},
        ),
        ({"background": " blur:2.5% "}, {"background": Blur(PERCENT(2.5))}),
        ({"background": "transparent"}, {"background": None}),
        ({"min_area": 0, "fill_holes": 0.5}, {"min_area": PX(0), "fill_holes": PX(0.5)}),
        ({"min_area": "200000000", "fill_holes": 1e9}, {"min_area": PX(2e8), "fill_holes": PX(1e9)}),
        ({"erode": 10_000, "dilate": 10_000, "feather": 10_000, "matting_erode": 10_000}, {"feather": 10_000}),
        ({"min_area": np.int64(7), "fill_holes": "ALL"}, {"min_area": PX(7), "fill_holes": PERCENT(100)}),
        ({"fill_holes": False, "shadow": False}, {"fill_holes": None, "shadow": None}),
        ({"crop": True, "margin": ("5%", 3, 0, "1px")}, {"margin": (PERCENT(5), PX(3), PX(0), PX(1))}),
        ({"canvas": (1, 1)}, {"canvas": (1, 1)}),
        (
            {"canvas": np.int64(50), "scale": "original", "position": "top right"},
            {"canvas": (50, 50), "scale": None, "position": (1.0, 0.0)},
        ),
        (
            {"canvas": "50 x 60", "scale": "100%", "position": "33.3%,0%"},
            {"canvas": (50, 60), "scale": 1.0, "position": (pytest.approx(0.333), 0.0)},
        ),
        ({"canvas": 50, "scale": 0.5, "position": (0.0, 1.0)}, {"scale": 0.5, "position": (0.0, 1.0)}),
        ({"shadow": True}, {"shadow": values.Shadow()}),
        ({"shadow": "none"}, {"shadow": None}),
        (
            {"shadow": "-1%, .5, 0, 1, rgb(1, 2, 3)"},
            {"shadow": values.Shadow(PERCENT(-1), PX(0.5), PX(0), 1.0, (1, 2, 3))},
        ),
    ],
)
def test_every_value_in_range_is_taken_and_parsed_once(given: dict[str, Any], parsed: dict[str, Any]) -> None:
    options = RemoveOptions(**given)
    assert {name: getattr(options, name) for name in parsed} == parsed
    assert options.replace() == options, "what is parsed is taken again"


def test_options_cannot_be_changed() -> None:
    options = RemoveOptions()
    with pytest.raises(dataclasses.FrozenInstanceError):
        options.threshold = 5  # type: ignore[misc]
    with pytest.raises((AttributeError, TypeError)):
        options.colour = 5  # type: ignore[attr-defined]


def test_options_are_given_by_name() -> None:
    with pytest.raises(TypeError):
        cast("Any", RemoveOptions)(True)


def test_equal_options_are_equal_and_survive_pickling() -> None:
    options = RemoveOptions(threshold=5, background=(1, 2, 3), fit=Fit.PAD)
    assert (
        pickle.loads(pickle.dumps(options)) == options == RemoveOptions(threshold=5, background=(1, 2, 3), fit=Fit.PAD)
    )
    assert hash(options) != hash(RemoveOptions())


def test_a_plain_word_is_a_fit() -> None:
    assert RemoveOptions(fit="pad").fit is Fit.PAD


def test_a_mapping_with_an_unknown_name_lists_the_known_ones() -> None:
    assert RemoveOptions.from_mapping({"threshold": 9, "mask": True}) == RemoveOptions(threshold=9, mask=True)
    with pytest.raises(UsageError, match="unknown option colour, size") as caught:
        RemoveOptions.from_mapping({"size": 1, "colour": 2, "mask": True})
    for name in RemoveOptions.names():
        assert name in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("text", "color"),
    [
        ("white", (255, 255, 255, 255)),
        (" Red ", (255, 0, 0, 255)),
        ("#f80", (255, 136, 0, 255)),
        ("#ff8800", (255, 136, 0, 255)),
        ("#ff880080", (255, 136, 0, 128)),
        ("rgb(1, 2, 3)", (1, 2, 3, 255)),
        ("rgb(100%, 0%, 0%)", (255, 0, 0, 255)),
        ("hsl(120, 100%, 50%)", (0, 255, 0, 255)),
        ("rgb(255, 0, 256)", None),
        ("rgb(300,0,0)", None),
        ("rgb(101%, 0%, 0%)", None),
        ("photo.jpg", None),
        ("", None),
    ],
)
def test_colours(text: str, color: tuple[int, int, int, int] | None) -> None:
    assert parse_color(text) == color


def test_a_background_is_a_colour_or_a_picture(tmp_path: Path) -> None:
    path = tmp_path / "beach.png"
    Image.new("RGB", (2, 2)).save(path)
    for picture in (path, str(path)):
        options = RemoveOptions(background=picture)
        assert options.background_color is None
        assert options.background_picture == BackgroundPicture(path)
    for color in ("#010203", (1, 2, 3), (1, 2, 3, 255)):
        options = RemoveOptions(background=color)
        assert (options.background_color, options.background_picture) == ((1, 2, 3, 255), None)
    assert (RemoveOptions().background_color, RemoveOptions().background_picture) == (None, None)


def test_a_shadow_is_read_part_by_part() -> None:
    shadow = values.parse_shadow("-1%,20px,3.5,0.5,#0000ff80")
    assert shadow is not None
    assert (shadow.dx.of(200), shadow.dy.of(200), shadow.blur.of(200)) == (-2, 20, 3.5)
    assert shadow.color == (0, 0, 255)
    assert shadow.opacity == pytest.approx(0.25, abs=0.001)
    assert values.parse_shadow(True) == values.parse_shadow("default") == values.Shadow()
    assert values.parse_shadow(None) is values.parse_shadow("none") is None


def test_a_word_that_is_a_colour_is_one_though_a_file_bears_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "red").touch()
    monkeypatch.chdir(tmp_path)
    assert RemoveOptions(background="red").background_color == (255, 0, 0, 255)
    assert RemoveOptions(background="./red").background_picture == BackgroundPicture(Path("red"))


def test_only_jpeg_has_no_transparency() -> None:
    assert [kind for kind in OutputFormat if not kind.has_alpha] == [OutputFormat.JPEG]
    assert set(SUFFIXES.values()) == set(OutputFormat)
    assert all(SUFFIXES[f".{kind.value}"] is kind for kind in OutputFormat)


# --- the registry ---


def test_the_default_model_ships_with_the_program() -> None:
    assert [spec.name for spec in MODELS.values() if spec.embedded] == [DEFAULT_MODEL]


@pytest.mark.parametrize("spec", MODELS.values(), ids=MODELS)
def test_every_row_can_be_downloaded_and_verified(spec: Any) -> None:
    assert spec.url.startswith("https://")
    assert len(bytes.fromhex(spec.sha256)) == 32
    assert spec.bytes > 1_000_000
    assert spec.licence
    assert spec.about
    assert spec.path is None


def test_names_and_aliases_are_unique() -> None:
    names = [name.lower() for spec in MODELS.values() for name in (spec.name, *spec.aliases)]
    # RMBG-2.0 is rmbg-2.0 in capitals
    assert sorted(set(names)) == sorted({*(name.lower() for name in MODELS), *ALIASES})
    assert len({spec.file for spec in MODELS.values()}) == len(MODELS)


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("u2net", "u2net"),
        ("U2NET", "u2net"),
        ("RMBG-2.0", "rmbg-2.0"),
        ("bria-rmbg", "rmbg-2.0"),
        ("Bria-RMBG", "rmbg-2.0"),
    ],
)
def test_a_model_is_found_by_name_and_alias(name: str, model: str) -> None:
    assert find_spec(name) is MODELS[model]


@pytest.mark.parametrize(
    ("name", "near"), [("u2nett", "u2net"), ("birefnet", "birefnet-general"), ("isnet", "isnet-anime")]
)
def test_an_unknown_model_names_the_nearest(name: str, near: str) -> None:
    with pytest.raises(UsageError, match=f"no model '{name}'") as caught:
        find_spec(name)
    assert near in (caught.value.hint or "")


def test_only_the_non_commercial_model_says_so() -> None:
    assert [spec.name for spec in MODELS.values() if spec.non_commercial] == ["rmbg-2.0"]


# --- a user's own file ---


def test_an_unknown_file_starts_from_u2nets_row() -> None:
    spec = custom_spec(Path("/some/mine.onnx"))
    assert (spec.name, spec.file, spec.path) == ("mine", "mine.onnx", Path("/some/mine.onnx"))
    assert (spec.size, spec.mean, spec.rescale) == ((320, 320), MODELS["u2net"].mean, True)
    assert (spec.url, spec.bytes, spec.sha256, spec.embedded, spec.licence) == ("", 0, "", False, "the user's own")


@pytest.mark.parametrize(
    ("file", "model"),
    [
        ("isnet-anime.onnx", "isnet-anime"),
        ("bria-rmbg-2.0.onnx", "rmbg-2.0"),
        ("bria-rmbg.onnx", "rmbg-2.0"),
        ("BiRefNet-portrait-epoch_150.onnx", "birefnet-portrait"),
        ("modnet.onnx", "modnet"),
    ],
)
def test_a_file_that_bears_a_registry_files_name_is_that_model(file: str, model: str) -> None:
    spec, row = custom_spec(Path(file)), MODELS[model]
    for column in ("size", "divisor", "mean", "std", "fit", "output", "activation", "rescale", "non_commercial"):
        assert getattr(spec, column) == getattr(row, column), column
    assert spec.sha256 == "", "it need not be the very same file"


def test_a_configuration_replaces_single_columns() -> None:
    config = {
        "size": 512,
        "divisor": 255,
        "mean": [0.5, 0.5, 0.5],
        "std": [1, 1, 1],
        "fit": "pad",
        "output": -1,
        "activation": "sigmoid",
        "rescale": False,
        "sha256": "AB" * 32,
    }
    spec = custom_spec(Path("mine.onnx"), config)
    assert (spec.size, spec.divisor, spec.mean, spec.std) == ((512, 512), 255.0, (0.5,) * 3, (1.0,) * 3)
    assert (spec.fit, spec.output, spec.activation, spec.rescale) == (Fit.PAD, -1, Activation.SIGMOID, False)
    assert spec.sha256 == "ab" * 32
    assert custom_spec(Path("mine.onnx"), {"size": [480, 640]}).size == (480, 640)
    assert custom_spec(Path("mine.onnx"), {"size": None}).size is None
    assert custom_spec(Path("modnet.onnx"), {"divisor": "max"}).divisor is None
    assert custom_spec(Path("mine.onnx"), {"classes": ["cat", "dog"]}).classes == ("cat", "dog")


@pytest.mark.parametrize(
    "config",
    [
        {"size": 0},
        {"size": [320]},
        {"size": "large"},
        {"long_side": 0},
        {"multiple": 0},
        {"multiple": float("inf")},
        {"divisor": 0},
        {"divisor": -1},
        {"divisor": float("nan")},
        {"divisor": "min"},
        {"mean": [0.5, 0.5]},
        {"mean": 0.5},
        {"mean": ["a", "b", "c"]},
        {"std": [1, 0, 1]},
        {"std": [1, float("inf"), 1]},
        {"fit": "squeeze"},
        {"output": "last"},
        {"activation": "relu"},
        {"rescale": "yes"},
        {"classes": "upper"},
    ],
    ids=str,
)
def test_a_configuration_that_would_spoil_every_picture_is_refused(config: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match=f"unfit value for {next(iter(config))}") as caught:
        custom_spec(Path("mine.onnx"), config)
    assert caught.value.exit_code is ExitCode.MODEL


def test_an_unknown_column_lists_the_known_ones() -> None:
    with pytest.raises(ModelError, match="unknown entries: colour, url") as caught:
        custom_spec(Path("mine.onnx"), {"url": "x", "colour": 1, "size": 5})
    assert "divisor" in (caught.value.hint or "")
