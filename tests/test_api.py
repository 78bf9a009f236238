"""`cutout.remove` and `cutout.Remover` as a program uses them: like kind out, typed errors, rembg's words."""

from __future__ import annotations

import io
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import ExifTags, Image, ImageCms
from small import brightness_model

import cutout
from cutout import CutoutError, CutoutWarning, ModelError, PictureError, RemoveOptions, Remover, UsageError, remove
from cutout.formats.picture import from_image
from cutout.formats.reading import read_file
from cutout.options import DeviceOptions

if TYPE_CHECKING:
    from conftest import Cutout

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


@pytest.fixture(scope="module")
def remover(tmp_path_factory: pytest.TempPathFactory) -> Remover:
    """A model that takes no time: what is checked here is what happens around it."""
    return Remover(brightness_model(tmp_path_factory.mktemp("model")), device="cpu")


@pytest.fixture
def photo(examples: Path, tmp_path: Path) -> Path:
    """A small copy of an example, in a folder of its own."""
    with Image.open(examples / "chelsea.jpg") as image:
        small = image.resize((150, 100))
    path = tmp_path / "cat.jpg"
    small.save(path, quality=95, dpi=(300, 300), icc_profile=SRGB)
    return path


def opened(path: Path) -> Image.Image:
    with Image.open(path) as image:
        image.load()
        return image


def array(image: Image.Image) -> npt.NDArray[np.uint8]:
    return np.asarray(image)


def alpha_of(image: Image.Image) -> npt.NDArray[np.uint8]:
    assert image.mode == "RGBA"
    return array(image)[:, :, 3]


# --- what kind goes in, that kind comes out ---


def test_a_path_gives_the_path_of_a_png_beside_it(photo: Path, remover: Remover) -> None:
    result = remove(photo, session=remover)
    assert result == photo.with_name("cat-cutout.png")
    assert alpha_of(opened(result)).shape == (100, 150)
    assert remove(str(photo), session=remover) == result, "text is a path, and a single output is written again"


@pytest.mark.parametrize(
    ("name", "kind", "mode"), [("a.webp", "WEBP", "RGBA"), ("a.tiff", "TIFF", "RGBA"), ("a.jpg", "JPEG", "RGB")]
)
def test_an_outputs_extension_says_its_format(
    photo: Path, tmp_path: Path, remover: Remover, name: str, kind: str, mode: str
) -> None:
    result = remove(photo, output=tmp_path / "out" / name, session=remover)
    assert result == tmp_path / "out" / name
    assert (opened(result).format, opened(result).mode) == (kind, mode)


def test_an_output_can_be_a_folder(photo: Path, tmp_path: Path, remover: Remover) -> None:
    assert remove(photo, output=f"{tmp_path}/results/", session=remover) == tmp_path / "results" / "cat.png"


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_bytes_give_the_bytes_of_a_png(photo: Path, remover: Remover, kind: Any) -> None:
    result = remove(kind(photo.read_bytes()), session=remover)
    assert isinstance(result, bytes)
    image = Image.open(io.BytesIO(result))
    assert (image.format, image.mode, image.size) == ("PNG", "RGBA", (150, 100))


def test_bytes_keep_16_bits_as_a_path_does(tmp_path: Path, remover: Remover) -> None:
    data = (Path(__file__).parent / "data" / "rgb16.png").read_bytes()
    (tmp_path / "deep.png").write_bytes(data)
    of_a_path = remove(tmp_path / "deep.png", session=remover).read_bytes()
    assert of_a_path[24] == 16
    assert remove(data, session=remover) == of_a_path
    assert remove(tmp_path / "deep.png", force_return_bytes=True, session=remover) == of_a_path


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "CMYK", "1", "I;16", "F"])
def test_an_image_of_any_mode_gives_an_image(photo: Path, remover: Remover, mode: str) -> None:
    image = opened(photo).convert("L").convert(mode) if mode in {"I;16", "F"} else opened(photo).convert(mode)
    result = remove(image, session=remover)
    assert isinstance(result, Image.Image)
    assert (result.mode, result.size) == ("RGBA", image.size)


@pytest.mark.parametrize("kind", ["u1", "u2", "f2", "f4", "f8"])
@pytest.mark.parametrize("shape", [(100, 150), (100, 150, 1), (100, 150, 2), (100, 150, 3), (100, 150, 4)])
def test_an_array_of_any_kind_gives_an_array_of_bytes(remover: Remover, shape: tuple[int, ...], kind: str) -> None:
    values = np.random.default_rng(3).random(shape)
    scale = {"u1": 255, "u2": 65535}.get(kind, 1)
    result = remove((values * scale).astype(kind), session=remover)
    assert isinstance(result, np.ndarray)
    assert (result.dtype.name, result.shape) == ("uint8", (100, 150, 4))
    result[0, 0] = 7  # the caller's own, to be written to


def test_all_kinds_agree(photo: Path, remover: Remover) -> None:
    image = opened(photo)
    expected = array(remove(image, session=remover))
    assert np.array_equal(remove(np.asarray(image), session=remover), expected)
    opacity = expected[:, :, 3:] / 255  # what can hardly be seen may be written as something like it
    for data in (remove(photo.read_bytes(), session=remover), remove(photo, session=remover).read_bytes()):
        found = array(Image.open(io.BytesIO(data)))
        assert np.array_equal(found[:, :, 3], expected[:, :, 3])
        assert (np.abs(found.astype(int) - expected) * opacity).max() <= 1


def test_bytes_come_back_whatever_went_in_where_they_are_asked_for(photo: Path, remover: Remover) -> None:
    for data in (photo, str(photo), photo.read_bytes(), opened(photo), np.asarray(opened(photo))):
        result: Any = remove(data, force_return_bytes=True, session=remover)
        assert isinstance(result, bytes)
        assert Image.open(io.BytesIO(result)).format == "PNG"
    assert sorted(path.name for path in photo.parent.iterdir()) == ["cat.jpg"], "nothing was written"


# --- what travels, and what is left alone ---


def test_an_image_keeps_its_profile_and_resolution_and_nothing_else(photo: Path, remover: Remover) -> None:
    image = opened(photo)
    image.info["comment"] = b"secret"
    result = remove(image, session=remover)
    assert result.info["icc_profile"] == SRGB
    assert result.info["dpi"] == pytest.approx((300, 300), abs=0.1)
    assert set(result.info) == {"icc_profile", "dpi"}


def test_a_mask_has_no_profile_of_colours(photo: Path, remover: Remover) -> None:
    assert "icc_profile" not in remove(opened(photo), mask=True, session=remover).info


def test_an_image_without_either_has_neither(remover: Remover) -> None:
    assert remove(Image.new("RGB", (20, 20)), session=remover).info == {}


def test_a_turned_image_comes_back_upright_and_is_not_turned_again(photo: Path, remover: Remover) -> None:
    upright = opened(photo)
    stored = upright.transpose(Image.Transpose.ROTATE_90)
    stored.info["exif"] = exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    stored.info["exif"] = exif.tobytes()
    result = remove(stored, session=remover)
    assert result.size == upright.size
    assert np.abs(alpha_of(result).astype(int) - alpha_of(remove(upright, session=remover))).mean() < 1
    assert result.getexif().get(ExifTags.Base.Orientation, 1) == 1
    for background in (None, "white"):
        assert "exif" not in remove(stored, background=background, session=remover).info


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P"])
def test_the_image_that_went_in_is_not_modified(photo: Path, remover: Remover, mode: str) -> None:
    image = opened(photo).convert(mode)
    image.info["exif"] = b"Exif\0\0"
    before = image.mode, image.size, image.tobytes(), dict(image.info)
    remove(image, session=remover, max_size=50, post_process=True)
    assert (image.mode, image.size, image.tobytes(), dict(image.info)) == before


def test_a_file_that_is_only_open_keeps_its_size(photo: Path, remover: Remover) -> None:
    with Image.open(photo) as image:
        assert remove(image, max_size=10, session=remover).size == (10, 7)
        assert image.size == (150, 100)


def test_the_array_that_went_in_is_not_modified(photo: Path, remover: Remover) -> None:
    values = np.array(opened(photo))
    before = values.copy()
    result = remove(values, session=remover)
    result[:] = 0
    assert np.array_equal(values, before)


# --- options ---


def test_options_by_name_come_on_top_of_options_at_once(photo: Path, remover: Remover) -> None:
    options = RemoveOptions(threshold=128)
    result = remove(opened(photo), options=options, mask=True, session=remover)
    assert result.mode == "L"
    assert set(np.unique(array(result))) == {0, 255}
    assert options == RemoveOptions(threshold=128)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ({"only_mask": True}, {"mask": True}),
        ({"post_process_mask": True}, {"post_process": True}),
        ({"bgcolor": (255, 0, 0, 255)}, {"background": (255, 0, 0, 255)}),
        ({"bgcolor": [0, 0, 0, 99]}, {"background": (0, 0, 0, 99)}),
        ({"bgcolor": None}, {}),
        ({"only_mask": True, "bgcolor": (1, 2, 3, 255)}, {"mask": True}),
        (
            {
                "alpha_matting": True,
                "alpha_matting_foreground_threshold": 200,
                "alpha_matting_background_threshold": 30,
                "alpha_matting_erode_size": 4,
            },
            {"matting": True, "matting_foreground": 200, "matting_background": 30, "matting_erode": 4},
        ),
    ],
)
def test_rembgs_words_mean_the_same_here(
    photo: Path, remover: Remover, theirs: dict[str, Any], ours: dict[str, Any]
) -> None:
    image = opened(photo)
    one, other = remove(image, session=remover, **theirs), remove(image, session=remover, **ours)
    assert one.mode == other.mode
    assert np.array_equal(array(one), array(other))
    if ours:
        assert not np.array_equal(array(one), array(remove(image, session=remover)))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"colour": "red"}, "unknown option colour"),
        ({"only_masks": True}, "unknown option only_masks"),
        ({"threshold": 300}, "threshold is 300"),
        ({"mask": True, "background": "red"}, "nothing to fill"),
        ({"model": "u2nett"}, "no model 'u2nett'"),
        ({"device": "gpu"}, "no device 'gpu'"),
        ({"output": "x.png"}, "`output` goes with a path"),
        ({"session": object()}, "must be a cutout.Remover"),
    ],
)
def test_a_call_that_makes_no_sense_is_a_usage_error(call: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        remove(Image.new("RGB", (4, 4)), **call)


@pytest.mark.parametrize("data", [None, 5, [1, 2], {"a": 1}, io.BytesIO(b"")])
def test_what_is_no_picture_is_a_usage_error(data: Any, remover: Remover) -> None:
    with pytest.raises(UsageError, match="is no picture") as caught:
        remove(data, session=remover)
    assert "Pillow image" in (caught.value.hint or "")


@pytest.mark.parametrize("force", [False, True])
def test_a_path_that_is_no_single_file_is_a_usage_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, photo: Path, force: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    for data, message in (
        ("nowhere.jpg", "does not exist"),
        (tmp_path, "is a folder"),
        ("-", "does not exist"),
        ("*.jpg", "does not exist"),
    ):
        with pytest.raises(UsageError, match=message):
            remove(data, force_return_bytes=force)
    with pytest.raises(UsageError, match="`output`"):
        remove(photo, output="-", force_return_bytes=force)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cat.jpg"]


def test_a_name_that_means_more_on_the_command_line_is_a_name_here(
    photo: Path, monkeypatch: pytest.MonkeyPatch, remover: Remover
) -> None:
    monkeypatch.chdir(photo.parent)
    for name in ("-", "[a-z].jpg"):
        photo = photo.rename(photo.with_name(name))
        assert alpha_of(opened(remove(name, session=remover))).shape == (100, 150)


@pytest.mark.parametrize("data", [b"", b"no picture", b"\xff\xd8\xff\xe0 half a JPEG"])
def test_broken_data_is_a_picture_error(tmp_path: Path, remover: Remover, data: bytes) -> None:
    path = tmp_path / "broken.jpg"
    path.write_bytes(data)
    for given in (data, path):
        for force in (False, True):
            with pytest.raises(PictureError):
                remove(given, force_return_bytes=force, session=remover)
    assert list(tmp_path.iterdir()) == [path]


def test_a_model_that_is_missing_is_a_model_error() -> None:
    with pytest.raises(ModelError, match="u2net is not on this machine"):
        remove(Image.new("RGB", (4, 4)), model="u2net")


def test_every_error_is_a_cutout_error() -> None:
    for name in ("DeviceError", "ModelError", "OutputError", "PictureError", "UsageError"):
        assert issubclass(getattr(cutout, name), CutoutError)


def test_a_background_may_be_a_picture_in_memory(photo: Path, remover: Remover, tmp_path: Path) -> None:
    behind = Image.effect_noise((50, 30), 90).convert("RGB")
    behind.save(tmp_path / "behind.png")
    expected = array(remove(opened(photo), session=remover, background=tmp_path / "behind.png"))
    for given in (behind, np.array(behind), (tmp_path / "behind.png").read_bytes(), str(tmp_path / "behind.png")):
        assert np.array_equal(array(remove(opened(photo), session=remover, background=given)), expected)
    options = RemoveOptions(background=behind)
    assert options == options.replace() != RemoveOptions(background=behind.copy())
    with pytest.raises(UsageError, match="the background picture in memory cannot be used"):
        remove(opened(photo), session=remover, background=b"no picture")
    with pytest.raises(UsageError, match="background of type dict is neither a colour nor a picture"):
        remove(opened(photo), session=remover, background={"a": 1})  # type: ignore[call-overload]


def test_a_background_that_is_named_again_is_decoded_once(
    photo: Path, remover: Remover, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Path] = []

    def counted(path: Path, limit: int) -> bytes:
        read.append(path)
        return read_file(path, limit)

    monkeypatch.setattr("cutout.pipeline.behind.read_file", counted)
    Image.new("RGB", (4, 4), "navy").save(tmp_path / "behind.png")
    for _ in range(3):
        remove(opened(photo), session=remover, background=tmp_path / "behind.png")
    assert read == [tmp_path / "behind.png"]


def test_an_option_that_does_nothing_is_told(photo: Path, remover: Remover) -> None:
    with pytest.warns(CutoutWarning, match=r"^matting_erode does nothing here: it goes with matting$"):
        remove(opened(photo), session=remover, matting_erode=3)
    with pytest.warns(CutoutWarning, match="matting_foreground does nothing here"):
        remove(opened(photo), session=remover, alpha_matting_foreground_threshold=200)


# --- models are opened once, and shared ---


def test_a_model_is_opened_once_and_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    from cutout import api

    made = list[tuple[Any, ...]]()

    class Counted(Remover):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            made.append(args)
            super().__init__(*args, **kwargs)

    monkeypatch.setattr(api, "Remover", Counted)
    monkeypatch.setattr(api, "_removers", {})
    image = Image.new("RGB", (8, 8))
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: remove(image, device="cpu"), range(4)))
    assert made == [("u2netp",)]


def test_one_remover_serves_many_threads(photo: Path, remover: Remover) -> None:
    image = opened(photo)
    turned = [np.asarray(image.rotate(40 * i)) for i in range(6)]

    def cut(values: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        return remove(values, session=remover)

    serial = [cut(each) for each in turned]
    with ThreadPoolExecutor(6) as pool:
        side_by_side = list(pool.map(cut, turned))
    assert np.array_equal(side_by_side, serial)


def test_only_files_that_were_asked_for_are_written(photo: Path, tmp_path: Path, remover: Remover) -> None:
    before = {path.name for path in tmp_path.iterdir()}
    remove(photo, output=tmp_path / "out.png", session=remover)
    remove(photo.read_bytes(), session=remover)
    remove(opened(photo), session=remover)
    assert {path.name for path in tmp_path.iterdir()} - before == {"out.png"}


def test_a_transparent_jpeg_is_refused(photo: Path, remover: Remover) -> None:
    with pytest.raises(UsageError, match=r"out\.jpg cannot be transparent"):
        remove(photo, output=photo.with_name("out.jpg"), session=remover, background="transparent")
    with pytest.warns(CutoutWarning, match="laid over white"):
        remove(photo, output=photo.with_name("out.jpg"), session=remover, background=(255, 0, 0, 128))


# --- what a user should know ---


def dark() -> Image.Image:
    """The model keeps what is bright: nothing of this."""
    return Image.new("RGB", (32, 32), (0, 0, 0))


EMPTY = "nothing was found: the cut-out is empty"


def test_every_way_in_emits_the_picture_s_warnings(remover: Remover, tmp_path: Path) -> None:
    """As of the line that called, once, and never twice."""
    path = tmp_path / "dark.png"
    dark().save(path)
    data = path.read_bytes()
    ways: dict[str, Any] = {
        "path": lambda: remove(path, session=remover),
        "path to bytes": lambda: remove(path, session=remover, force_return_bytes=True),
        "bytes": lambda: remove(data, session=remover),
        "image": lambda: remove(dark(), session=remover),
        "array": lambda: remove(np.asarray(dark()), session=remover),
        "cut": lambda: remover.cut(from_image(dark())),
        "frames": lambda: remove(animated(tmp_path), session=remover),
    }
    for name, way in ways.items():
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            way()
        assert [(str(each.message), each.category, each.filename) for each in found] == [
            (EMPTY, CutoutWarning, __file__)
        ], name
        assert found[0].lineno == way.__code__.co_firstlineno, name


def animated(folder: Path) -> Path:
    frames = [dark(), Image.new("RGB", (32, 32), (1, 0, 0)), Image.new("RGB", (32, 32), (0, 1, 0))]
    frames[0].save(folder / "film.webp", save_all=True, append_images=frames[1:], lossless=True)
    return folder / "film.webp"


def test_a_program_can_turn_them_into_errors_or_off(remover: Remover) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", CutoutWarning)
        with pytest.raises(CutoutWarning, match="nothing was found"):
            remove(dark(), session=remover)
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        remover.cut(from_image(dark()), quiet=True)
    assert found == []


def test_what_a_model_has_to_say_when_it_is_opened_is_emitted_or_given(tmp_path: Path) -> None:
    """Such as that a device does not do as asked."""
    model, told = brightness_model(tmp_path), list[str]()
    half = DeviceOptions(half=True)
    with pytest.warns(CutoutWarning, match="half precision") as found:
        Remover(model, device="cpu", device_options=half)
    assert found[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Remover(model, device="cpu", device_options=half, warn=told.append)
    assert len(told) == 1


def test_the_command_tells_each_warning_once(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    dark().save(tmp_path / "dark.png")
    args = ("remove", tmp_path / "dark.png", "-o", tmp_path / "out.png", "-m", brightness_model(tmp_path))
    command: Cutout = request.getfixturevalue("cutout")
    run = command(*args, "--device", "cpu", PYTHONWARNINGS="always")
    assert run.code == 0
    assert run.err.count("nothing was found") == 1
    assert "CutoutWarning" not in run.err
