"""`cutout.rembg` stands in rembg's place: what its own code gives is what is expected, made by the one installed here.

rembg's test suite compares perceptual hashes of cut-outs, colours included; so do these tests, and pixels beside.
"""

from __future__ import annotations

import inspect
import io
import shutil
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import rembg as theirs
from PIL import ExifTags, Image, UnidentifiedImageError

import cutout
from cutout import rembg as ours
from cutout.errors import CutoutError, DeviceError, ModelError, UsageError
from cutout.models.files import require
from cutout.models.registry import MODELS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import numpy.typing as npt

MEAN = 0.5
"""Mean difference of 255 that is allowed, over all channels."""
FILES = {
    "u2net": "u2net.onnx",
    "silueta": "silueta.onnx",
    "isnet-general-use": "isnet.onnx",
    "u2net_cloth_seg": "u2net_cloth_seg.onnx",
}
CPU = ["CPUExecutionProvider"]


def opened(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


KINDS: dict[str, Callable[[bytes], Any]] = {
    "bytes": bytes,
    "image": opened,
    "array": lambda data: np.asarray(opened(data)),
}


def pixels(result: Any) -> npt.NDArray[np.uint8]:
    return np.asarray(opened(result) if isinstance(result, bytes) else result)


def perceptual_hash(result: Any) -> npt.NDArray[np.bool_]:
    """Which of the 64 lowest frequencies (of a DCT of 32×32 grey pixels) lie above their median."""
    grey = Image.fromarray(pixels(result)).convert("L").resize((32, 32), Image.Resampling.LANCZOS)
    places = np.arange(32)
    waves = np.cos(np.pi / 64 * np.outer(np.arange(8), 2 * places + 1))
    low = waves @ np.asarray(grey, np.float64) @ waves.T
    return np.asarray(low > np.median(low))


def assert_alike(found: Any, expected: Any) -> None:
    assert type(found) is type(expected) or (isinstance(found, Image.Image) and isinstance(expected, Image.Image))
    one, other = pixels(found), pixels(expected)
    assert one.shape == other.shape
    assert one.dtype == other.dtype == np.uint8
    assert np.abs(one.astype(int) - other).mean() <= MEAN
    assert (perceptual_hash(found) == perceptual_hash(expected)).all()


@pytest.fixture
def data(examples: Path) -> bytes:
    return (examples / "astronaut.jpg").read_bytes()


@pytest.fixture(scope="module")
def both(
    tmp_path_factory: pytest.TempPathFactory, remover: cutout.Remover
) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Our `remove` and theirs, with the same model."""
    folder = tmp_path_factory.mktemp("rembg")
    shutil.copy(require(MODELS["u2netp"]), folder / "u2netp.onnx")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("U2NET_HOME", str(folder))
        session = theirs.new_session("u2netp", providers=CPU)
    return partial(ours.remove, session=ours.Session(remover)), partial(theirs.remove, session=session)


# --- the same results ---


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["astronaut", "chelsea", "coffee"])
def test_a_plain_cut_out_is_rembgs_colours_included(name: str, kind: str, both: Any, examples: Path) -> None:
    mine, other = both
    source = KINDS[kind]((examples / f"{name}.jpg").read_bytes())
    assert_alike(mine(source), other(source))


@pytest.mark.parametrize(
    "words",
    [
        {"only_mask": True},
        {"post_process_mask": True},
        {"only_mask": True, "post_process_mask": True},
        {"bgcolor": (255, 0, 0, 255)},
        {"bgcolor": [10, 200, 30, 128]},
        {"only_mask": True, "bgcolor": (255, 0, 0, 255)},
        {"putalpha": True},
        {"only_mask": True, "alpha_matting": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", KINDS)
def test_with_rembgs_words_too(words: dict[str, Any], kind: str, both: Any, data: bytes) -> None:
    mine, other = both
    source = KINDS[kind](data)
    assert_alike(mine(source, **words), other(source, **words))


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "LA"])
def test_pictures_of_other_modes(mode: str, both: Any, data: bytes) -> None:
    mine, other = both
    image = opened(data).convert(mode)
    if mode in {"RGBA", "LA"}:
        alpha = Image.new("L", image.size, 255)
        alpha.paste(100, (0, 0, 300, 512))
        image.putalpha(alpha)
    assert_alike(mine(image), other(image))


def test_pictures_are_turned_upright_once(both: Any, data: bytes) -> None:
    mine, other = both
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    buffer = io.BytesIO()
    opened(data).crop((60, 0, 420, 512)).transpose(Image.Transpose.ROTATE_90).save(buffer, "JPEG", exif=exif)
    assert_alike(mine(buffer.getvalue()), other(buffer.getvalue()))
    image = mine(opened(buffer.getvalue()))
    assert image.size == (360, 512)
    assert not image.getexif()


def test_bytes_can_be_asked_for_whatever_comes_in(both: Any, data: bytes) -> None:
    mine, _ = both
    found = mine(opened(data), force_return_bytes=True)
    assert isinstance(found, bytes)
    assert np.array_equal(pixels(found), pixels(mine(opened(data)))), "and a PNG changes no pixel"


def test_the_order_of_arguments_is_rembgs() -> None:
    def words(function: Callable[..., Any]) -> list[tuple[str, Any]]:
        given = inspect.signature(function).parameters.values()
        return [(each.name, each.default) for each in given if each.kind is each.POSITIONAL_OR_KEYWORD]

    assert words(ours.remove) == words(theirs.remove)


@pytest.mark.parametrize(
    ("words", "same"),
    [
        ({"alpha_matting": True}, {"matting": True}),
        ({"alpha_matting": True, "putalpha": True}, {"matting": True}),
        ({"alpha_matting": True, "alpha_matting_erode_size": 4}, {"matting": True, "matting_erode": 4}),
        ({"decontaminate": True}, {}),
        ({"putalpha": True}, {"edge_colors": "keep"}),
    ],
    ids=str,
)
def test_straight_cut_outs_are_those_of_cutout_remove(
    words: dict[str, Any], same: dict[str, Any], data: bytes, remover: cutout.Remover
) -> None:
    image = opened(data)
    assert np.array_equal(
        ours.remove(image, session=remover, **words), cutout.remove(np.asarray(image), session=remover, **same)
    )


def test_a_threshold_beyond_255_leaves_no_sure_foreground_as_in_rembgs_documentation(
    data: bytes, remover: cutout.Remover
) -> None:
    words: dict[str, Any] = {"alpha_matting_background_threshold": 20, "alpha_matting_erode_size": 11}
    with pytest.warns(cutout.CutoutWarning, match="no sure foreground") as told:
        found = ours.remove(data, session=remover, alpha_matting=True, alpha_matting_foreground_threshold=270, **words)
    assert [warning.filename for warning in told] == [__file__], "of the line that called"
    assert np.array_equal(pixels(found), pixels(ours.remove(data, session=remover, decontaminate=True)))


def test_what_is_worth_knowing_is_told(remover: cutout.Remover, model: Path, examples: Path) -> None:
    film = (examples.parent / "tests" / "data" / "film.gif").read_bytes()
    with pytest.warns(cutout.CutoutWarning, match="only the first of"):
        ours.remove(film, session=remover)
    with pytest.warns(cutout.CutoutWarning, match="nothing was found"):
        ours.remove(Image.new("RGB", (40, 30)), session=cutout.Remover(model, device="cpu"))


@pytest.mark.parametrize("name", FILES)
def test_further_models_give_what_rembg_gives(
    name: str, weights: Path, rembg_home: Path, monkeypatch: pytest.MonkeyPatch, examples: Path
) -> None:
    (rembg_home / f"{name}.onnx").symlink_to((weights / FILES[name]).resolve())
    monkeypatch.setenv("MODEL_CHECKSUM_DISABLED", "1")  # IS-Net is another file of the same network
    mine, other = (module.new_session(name, providers=CPU) for module in (ours, theirs))
    for picture in ("astronaut", "chelsea", "coffee"):
        source = (examples / f"{picture}.jpg").read_bytes()
        assert_alike(ours.remove(source, session=mine), theirs.remove(source, session=other))


def test_clothes_stand_below_each_other_or_one_is_chosen(
    weights: Path, monkeypatch: pytest.MonkeyPatch, data: bytes
) -> None:
    monkeypatch.setenv("U2NET_HOME", str(weights))
    session, other = (module.new_session("u2net_cloth_seg", providers=CPU) for module in (ours, theirs))
    assert_alike(ours.remove(data, session=session), theirs.remove(data, session=other))
    assert pixels(ours.remove(data, session=session, only_mask=True)).shape == (3 * 512, 512, 4)
    for word in ("upper", "lower", "full", "attire"):  # ours have soft edges, theirs the stairs of the network's grid
        mine = pixels(ours.remove(data, session=session, cc=word, only_mask=True))
        expected = pixels(theirs.remove(data, session=other, cc=word, only_mask=True))
        assert mine.shape == expected.shape == (512, 512)
        assert ((mine > 127) != (expected > 127)).mean() < 0.005
    with pytest.raises(ValueError, match="no class of clothes 'hat'"):
        ours.remove(data, session=session, cloth_category="hat")


# --- sessions ---


def test_a_session_predicts_masks_and_rembgs_own_are_taken(rembg_home: Path, data: bytes) -> None:
    session, other = (module.new_session("u2netp", providers=CPU) for module in (ours, theirs))
    assert session.model_name == "u2netp"
    (mine,), (expected,) = session.predict(opened(data)), other.predict(opened(data))
    assert_alike(mine, expected)
    assert_alike(ours.remove(data, session=other), theirs.remove(data, session=other))
    with pytest.raises(ValueError, match="sam_prompt: the model u2netp takes no such argument"):
        ours.remove(data, session=session, sam_prompt=[])


def test_without_a_session_the_model_inside_this_package_is_taken(data: bytes, remover: cutout.Remover) -> None:
    """rembg's default is a gigabyte, and not for commercial use."""
    assert np.array_equal(pixels(ours.remove(data)), pixels(ours.remove(data, session=remover)))


def test_models_that_rembg_alone_has_are_opened_by_it(rembg_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here one of its own names is taken out of the registry for the time of the test."""
    monkeypatch.delitem(MODELS, "u2netp")
    session = ours.new_session("u2netp", providers=CPU)
    assert type(session).__module__ == "rembg.sessions.u2netp"


def test_rembgs_custom_models_are_opened_by_their_path(rembg_home: Path, data: bytes) -> None:
    path = rembg_home / "mine.onnx"
    (rembg_home / "u2netp.onnx").rename(path)
    mine = ours.new_session("u2net_custom", model_path=path, providers=CPU)
    other = theirs.new_session("u2net_custom", model_path=str(path), providers=CPU)
    assert_alike(ours.remove(data, session=mine), theirs.remove(data, session=other))
    with pytest.raises(ValueError, match="model_path is required"):
        ours.new_session("dis_custom")


def test_a_model_file_is_taken_as_it_is_where_its_hash_shall_not_be_checked(
    rembg_home: Path, monkeypatch: pytest.MonkeyPatch, model: Path, data: bytes
) -> None:
    shutil.copy(model, rembg_home / "silueta.onnx")
    with pytest.raises(ModelError, match="corrupt"):
        ours.new_session("silueta")
    monkeypatch.setenv("MODEL_CHECKSUM_DISABLED", "1")
    assert pixels(ours.remove(data, session=ours.new_session("silueta"), only_mask=True)).max() == 255


def test_the_first_provider_that_can_be_used_is() -> None:
    with pytest.warns(cutout.CutoutWarning, match="cuda cannot be used.*; cpu is tried"):
        session = ours.new_session("u2netp", ["CUDAExecutionProvider", ("CPUExecutionProvider", {})])
    assert session.remover.device == "cpu"
    with pytest.raises(DeviceError, match="cuda:1 cannot be used"):
        ours.new_session("u2netp", [("CUDAExecutionProvider", {"device_id": 1})])
    with pytest.warns(cutout.CutoutWarning, match="sess_opts does nothing"):
        ours.new_session("u2netp", sess_opts=object(), providers=CPU)


# --- errors ---


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda data: ours.remove(data, vitmatte=True), "no ViTMatte"),
        (lambda data: ours.remove(data, vitmatte_model="small"), "no ViTMatte"),
        (lambda _: ours.remove("picture.jpg"), "a str is no picture"),
        (lambda data: ours.remove(data, False, 240, 10, 10, None, False, False, (1, 2, 3, 4)), "is a colour"),  # type: ignore[arg-type]
        (lambda data: ours.remove(data, session="u2netp"), "session is a str"),
        (lambda data: ours.remove(data, alpha_matting=True, alpha_matting_erode_size=-1), "matting_erode is -1"),
        (lambda _: ours.new_session("u2nte"), "no model 'u2nte'"),
        (lambda _: ours.new_session("u2netp", ["Nonsense"]), "no device 'Nonsense'"),
        (lambda _: ours.new_session("u2netp", mode="x"), "mode: the model u2netp takes no such argument"),
    ],
)
def test_wrong_use_is_a_value_error_and_ours(call: Callable[[bytes], Any], text: str, data: bytes) -> None:
    with pytest.raises(ValueError, match=text) as caught:
        call(data)
    assert isinstance(caught.value, UsageError)


def test_what_is_no_picture_is_an_error_of_pillows_and_ours() -> None:
    with pytest.raises(UnidentifiedImageError, match="picture") as caught:
        ours.remove(b"this is text, and not a picture at all")
    assert isinstance(caught.value, CutoutError)
    assert str(caught.value) == caught.value.message


def test_a_model_that_is_not_there_is_not_downloaded() -> None:
    with pytest.raises(ModelError) as caught:
        ours.new_session("u2net")
    assert caught.value.hint == "fetch it first: cutout models pull u2net"
