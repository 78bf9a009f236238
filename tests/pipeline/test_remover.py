"""The core: a decoded picture in, a finished cut-out out."""

from __future__ import annotations

import gc
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from cutout.enums import EdgeColors
from cutout.errors import ExitCode, ModelError, PictureError, UsageError
from cutout.formats.decode import Metadata, Picture, decode
from cutout.models.registry import MODELS, resolve_model
from cutout.options import RemoveOptions
from cutout.pipeline.remover import Remover
from cutout.timing import STAGES, StageTimes

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt


def array(image: Image.Image | None) -> npt.NDArray[np.uint8]:
    assert image is not None
    return np.asarray(image)


@pytest.fixture(scope="module")
def cat(examples: Path) -> Picture:
    return decode((examples / "chelsea.jpg").read_bytes())


@pytest.fixture(scope="module")
def mask(remover: Remover, cat: Picture) -> npt.NDArray[np.uint8]:
    """The cat's mask without any option."""
    return array(remover.cut(cat, RemoveOptions(mask=True)).alpha)


class Answer:
    """A session with a given mask, for what the real ones do not answer on demand."""

    def __init__(self, mask: Image.Image | BaseException) -> None:
        self.mask = mask

    def predict(self, *_: object, **__: object) -> Image.Image:
        if isinstance(self.mask, BaseException):
            raise self.mask
        return self.mask


@pytest.fixture
def answering(remover: Remover, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The remover with another session: called with the mask it is to give."""

    def give(mask: Image.Image | BaseException) -> Remover:
        session: Any = Answer(mask)
        monkeypatch.setattr(remover, "session", session)
        return remover

    return give


def ramp() -> Image.Image:
    """All 256 values."""
    return Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16))


def orange() -> Picture:
    return Picture(rgb=Image.new("RGB", (16, 16), (200, 100, 0)))


# --- what comes out ---


def test_a_cut_out_has_the_pictures_colours_and_the_masks_alpha(
    remover: Remover, cat: Picture, mask: npt.NDArray[np.uint8]
) -> None:
    cutout = remover.cut(cat, RemoveOptions(edge_colors=EdgeColors.KEEP))
    assert cutout.image.mode == "RGBA"
    assert cutout.image.size == cutout.size == cat.rgb.size
    assert np.array_equal(array(cutout.image)[:, :, :3], array(cat.rgb))
    assert np.array_equal(array(cutout.image)[:, :, 3], mask)
    assert cutout.warnings == ()


def test_the_cat_is_found_and_the_wall_is_not(mask: npt.NDArray[np.uint8]) -> None:
    assert mask.shape == (300, 451)
    assert (mask[100:200, 150:280] > 200).mean() > 0.95, "its face"
    assert (mask[60:200, 410:] < 40).mean() > 0.95, "the wall behind it"


def test_the_mask_alone_is_grey(remover: Remover, cat: Picture) -> None:
    cutout = remover.cut(cat, RemoveOptions(mask=True))
    assert (cutout.image.mode, cutout.rgb, cutout.size) == ("L", None, cat.rgb.size)


def test_over_a_colour_the_cut_out_is_opaque(remover: Remover, cat: Picture, mask: npt.NDArray[np.uint8]) -> None:
    cutout = remover.cut(cat, RemoveOptions(background="#00ff00"))
    assert (cutout.image.mode, cutout.alpha) == ("RGB", None)
    assert (array(cutout.image)[mask == 0] == (0, 255, 0)).all()
    assert np.array_equal(array(cutout.image)[mask == 255], array(cat.rgb)[mask == 255])


def test_over_a_translucent_colour_the_rest_is_translucent(
    remover: Remover, cat: Picture, mask: npt.NDArray[np.uint8]
) -> None:
    cutout = remover.cut(cat, RemoveOptions(background=(0, 0, 0, 100)))
    assert cutout.image.mode == "RGBA"
    assert (array(cutout.image)[mask == 0, 3] == 100).all()
    assert (array(cutout.image)[mask == 255, 3] == 255).all()


def test_over_a_picture_the_cut_out_shows_it(
    remover: Remover, cat: Picture, mask: npt.NDArray[np.uint8], tmp_path: Path
) -> None:
    path = tmp_path / "sea.png"
    Image.new("RGB", (40, 90), (0, 60, 200)).save(path)
    cutout = remover.cut(cat, RemoveOptions(background=path))
    assert (cutout.image.mode, cutout.image.size) == ("RGB", cat.rgb.size)
    assert (array(cutout.image)[mask == 0] == (0, 60, 200)).all()


def test_a_translucent_background_picture_lies_on_white(remover: Remover, tmp_path: Path) -> None:
    """What is hidden in it stays hidden."""
    picture = Image.new("RGBA", (30, 10), (255, 0, 255, 0))
    picture.paste((200, 0, 0, 255), (10, 0, 20, 10))
    picture.paste((0, 0, 0, 51), (20, 0, 30, 10))
    picture.save(tmp_path / "behind.png")
    nothing = Picture(rgb=Image.new("RGB", (30, 10)), alpha=Image.new("L", (30, 10), 0))
    image = remover.cut(nothing, RemoveOptions(background=tmp_path / "behind.png")).image
    assert [image.getpixel((x, 5)) for x in (5, 15, 25)] == [(255, 255, 255), (200, 0, 0), (204, 204, 204)]


def test_a_background_takes_no_memory_once_its_options_are_gone(remover: Remover, tmp_path: Path) -> None:
    sizes = {(431, 317), (613, 531)}
    Image.new("RGB", (431, 317), "navy").save(tmp_path / "behind.png")
    options = RemoveOptions(background=tmp_path / "behind.png", canvas="613x531")
    remover.cut(orange(), options)

    def kept() -> set[tuple[int, int]]:
        gc.collect()
        return {thing.size for thing in gc.get_objects() if isinstance(thing, Image.Image)} & sizes

    assert kept() == sizes, "otherwise nothing is shown here"
    del options
    assert kept() == set()


def test_a_background_that_changed_is_read_again(remover: Remover, tmp_path: Path) -> None:
    import os

    path = tmp_path / "sea.png"
    options = None
    for number, color in enumerate(((1, 2, 3), (9, 8, 7))):
        Image.new("RGB", (4, 4), color).save(path)
        os.utime(path, ns=(number, number))
        options = options or RemoveOptions(background=path)
        found = remover.cut(Picture(rgb=Image.new("RGB", (9, 9)), alpha=Image.new("L", (9, 9), 0)), options)
        assert found.image.getpixel((0, 0)) == color


@pytest.mark.parametrize("threshold", [1, 128, 255])
def test_a_threshold_makes_the_edge_hard(answering: Any, threshold: int) -> None:
    found = answering(ramp()).cut(orange(), RemoveOptions(mask=True, threshold=threshold)).image
    assert array(found).ravel().tolist() == [255 if value >= threshold else 0 for value in range(256)]


def test_post_processing_makes_a_binary_mask(remover: Remover, cat: Picture) -> None:
    found = array(remover.cut(cat, RemoveOptions(mask=True, post_process=True)).image)
    assert set(np.unique(found)) == {0, 255}


def test_what_was_transparent_before_stays_so(answering: Any) -> None:
    alpha = Image.new("L", (16, 16), 255)
    alpha.paste(0, (0, 0, 16, 8))
    alpha.paste(128, (0, 12, 16, 16))
    picture = Picture(rgb=orange().rgb, alpha=alpha)
    found = array(answering(Image.new("L", (16, 16), 255)).cut(picture).image)[:, 0, 3]
    assert found.tolist() == [0] * 8 + [255] * 4 + [128] * 4
    hard = array(answering(Image.new("L", (16, 16), 255)).cut(picture, RemoveOptions(threshold=200)).image)[:, 0, 3]
    assert hard.tolist() == found.tolist(), "the threshold is for the found edge, not for the picture's own"


def test_an_empty_cut_out_is_said_to_be_empty(answering: Any) -> None:
    assert answering(Image.new("L", (4, 4), 0)).cut(orange()).warnings == ("nothing was found: the cut-out is empty",)
    assert answering(ramp()).cut(orange()).warnings == ()


def test_notes_and_metadata_travel(answering: Any) -> None:
    metadata = Metadata(icc=b"profile", dpi=(300, 300))
    picture = Picture(rgb=orange().rgb, metadata=metadata, notes=("only the first of 3 frames was taken",))
    cutout = answering(ramp()).cut(picture)
    assert cutout.metadata is metadata
    assert cutout.warnings == picture.notes


@pytest.mark.parametrize("size", [(1, 1), (1, 400), (400, 1), (3, 2)])
def test_pictures_of_any_shape_are_cut(remover: Remover, size: tuple[int, int]) -> None:
    for fit in (None, "pad"):
        options = RemoveOptions(fit=fit)
        assert remover.cut(Picture(rgb=Image.new("RGB", size, "teal")), options).image.size == size


def test_the_picture_itself_is_left_as_it_is(remover: Remover, cat: Picture) -> None:
    before = cat.rgb.tobytes()
    remover.cut(cat, RemoveOptions(post_process=True, background="red"))
    assert cat.rgb.tobytes() == before


def test_options_of_a_call_count_instead_of_the_removers() -> None:
    remover = Remover(device="cpu", options=RemoveOptions(mask=True))
    assert remover.cut(orange()).image.mode == "L"
    assert remover.cut(orange(), RemoveOptions()).image.mode == "RGBA"


def test_every_stage_is_timed_once(remover: Remover) -> None:
    stages = StageTimes()
    remover.cut(orange(), stages=stages)
    assert set(stages.ms) == {"preprocess", "inference", "postprocess"} < set(STAGES)
    assert all(ms >= 0 for ms in stages.ms.values())


def test_too_little_memory_fails_that_picture_and_says_what_to_do(answering: Any) -> None:
    with pytest.raises(PictureError, match="not enough memory") as caught:
        answering(MemoryError()).cut(orange())
    assert "jobs 1" in (caught.value.hint or "")
    assert caught.value.exit_code is ExitCode.SOME_FAILED


# --- what fails before the first picture ---


@pytest.mark.parametrize("content", [b"no picture", b"\x89PNG\r\n\x1a\n"])
def test_a_background_that_is_no_picture_fails_before_any_work(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "sea.png"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=r"sea\.png cannot be used") as caught:
        Remover(device="cpu", options=RemoveOptions(background=path))
    assert caught.value.exit_code is ExitCode.USAGE


def test_a_background_that_is_gone_by_now_is_told(remover: Remover, tmp_path: Path) -> None:
    path = tmp_path / "sea.png"
    Image.new("RGB", (4, 4)).save(path)
    options = RemoveOptions(background=path)
    path.unlink()
    with pytest.raises(UsageError, match=r"sea\.png cannot be used"):
        remover.cut(orange(), options)


# --- which model ---


def test_a_word_is_a_registry_model_and_a_path_a_file(tmp_path: Path) -> None:
    assert resolve_model("U2Net") is MODELS["u2net"]
    for text in ("mine.onnx", "MINE.ONNX", "./u2net", "models\\mine", str(tmp_path / "x.onnx")):
        assert resolve_model(text).path is not None
    assert resolve_model(tmp_path / "u2net").path == tmp_path / "u2net", "a path object is a path"


def test_a_tilde_is_the_home(home: Path) -> None:
    assert resolve_model("~/mine.onnx").path == home / "mine.onnx"


def test_a_configuration_comes_as_a_mapping_or_a_json_file(tmp_path: Path) -> None:
    config = {"size": [64, 32], "divisor": 255}
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(config))
    for given in (config, path):
        spec = resolve_model("mine.onnx", given)
        assert (spec.size, spec.divisor) == ((64, 32), 255.0)


@pytest.mark.parametrize("content", [b"", b"{", b"[1, 2]", b"\xff\xfe\x00"])
def test_a_configuration_that_cannot_be_read_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "mine.json"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"mine\.json"):
        resolve_model("mine.onnx", path)
    with pytest.raises(ModelError, match=r"nowhere\.json cannot be read"):
        resolve_model("mine.onnx", tmp_path / "nowhere.json")


@pytest.mark.parametrize("model", ["u2netp", "u2net"])
def test_a_configuration_for_a_registry_model_is_refused(model: str) -> None:
    with pytest.raises(UsageError, match="model_config describes an"):
        Remover(model, model_config={"size": 320})


def test_a_configured_hash_must_be_the_files(tmp_path: Path) -> None:
    path = tmp_path / "mine.onnx"
    path.write_bytes(b"something")
    with pytest.raises(ModelError, match="another hash"):
        Remover(path, model_config={"sha256": "0" * 64})


def test_a_model_that_is_not_here_names_the_command_that_brings_it() -> None:
    with pytest.raises(ModelError, match="u2net is not on this machine") as caught:
        Remover("u2net")
    assert "cutout models pull u2net" in (caught.value.hint or "")
