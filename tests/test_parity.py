"""The judged promise: with the same model and the same picture, our mask is rembg's.

Run with `-s` to see the figures, and with CUTOUT_TEST_WEIGHTS naming a folder of further real models to see more.
"""

from __future__ import annotations

import io
import shutil
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import rembg
from PIL import ExifTags, Image

from cutout.formats.decode import decode
from cutout.models.files import require
from cutout.models.registry import MODELS
from cutout.options import RemoveOptions
from cutout.pipeline.remover import Remover

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import numpy.typing as npt

MEAN, FAR, SHARE = 0.5, 8, 0.001
"""Allowed: the mean difference of 255, and the share of pixels that differ by more than 8 of 255."""

EXAMPLES = ("astronaut", "chelsea", "coffee")
VARIANTS = ("grey", "rgba", "portrait", "large", "png", "palette", "dark", "strip")
MASK = RemoveOptions(mask=True)


def saved(image: Image.Image, kind: str, **how: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **how)
    return buffer.getvalue()


def picture(name: str, examples: Path) -> bytes:
    """An example as its file has it, or changed in a way that users' files are."""
    if name in EXAMPLES:
        return (examples / f"{name}.jpg").read_bytes()
    with Image.open(examples / "astronaut.jpg") as image:
        image.load()
    match name:
        case "grey":
            return saved(image.convert("L"), "JPEG", quality=95)
        case "rgba":
            return saved(image.convert("RGBA"), "PNG")
        case "portrait":
            exif = Image.Exif()
            exif[ExifTags.Base.Orientation] = 6
            return saved(image.crop((60, 0, 420, 512)).transpose(Image.Transpose.ROTATE_90), "JPEG", exif=exif)
        case "large":
            return saved(image.resize((3000, 3000), Image.Resampling.BICUBIC), "JPEG", quality=90)
        case "png":
            return saved(image, "PNG")
        case "palette":
            return saved(image.quantize(128), "PNG")
        case "dark":
            return saved(image.point(lambda value: value // 5), "PNG")  # its largest value is far from 255
        case "strip":
            return saved(image.crop((0, 150, 512, 230)), "PNG")
        case _:
            raise ValueError(name)


@dataclass
class Figures:
    """The worst figures of a model over all pictures."""

    model: str
    pictures: int = 0
    mean: float = 0.0
    share: float = 0.0
    most: int = 0

    def add(self, ours: npt.NDArray[np.uint8], theirs: npt.NDArray[np.uint8]) -> tuple[float, float]:
        assert ours.shape == theirs.shape
        difference = np.abs(ours.astype(np.int16) - theirs)
        mean, share = float(difference.mean()), float((difference > FAR).mean())
        self.pictures += 1
        self.mean, self.share = max(self.mean, mean), max(self.share, share)
        self.most = max(self.most, int(difference.max()))
        return mean, share

    def __str__(self) -> str:
        return (
            f"parity {self.model}: {self.pictures} pictures, worst mean {self.mean:.4f}/255, "
            f"worst share beyond {FAR}/255 {self.share:.5%}, largest difference {self.most}"
        )


@dataclass
class Pair:
    """One model, opened by us and by rembg."""

    ours: Remover
    theirs: Any
    figures: Figures

    def masks(self, data: bytes) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
        """Both masks of the same file."""
        theirs = rembg.remove(data, session=self.theirs, only_mask=True)
        assert isinstance(theirs, bytes)
        with Image.open(io.BytesIO(theirs)) as image:
            return np.asarray(self.ours.cut(decode(data), MASK).image), np.asarray(image)


@pytest.fixture(scope="module")
def environment() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        yield patch


def pair(name: str, file: Path, home: Path, environment: pytest.MonkeyPatch, ours: Remover) -> Iterator[Pair]:
    """Give rembg the very file under its own name."""
    shutil.copy(file, home / f"{name}.onnx")
    environment.setenv("U2NET_HOME", str(home))
    session = rembg.new_session(name, providers=["CPUExecutionProvider"])
    found = Pair(ours, session, Figures(name))
    yield found
    sys.stdout.write(f"\n{found.figures}\n")


@pytest.fixture(scope="module")
def u2netp(
    tmp_path_factory: pytest.TempPathFactory, environment: pytest.MonkeyPatch, remover: Remover
) -> Iterator[Pair]:
    yield from pair("u2netp", require(MODELS["u2netp"]), tmp_path_factory.mktemp("rembg"), environment, remover)


FURTHER = {"u2net": "u2net.onnx", "silueta": "silueta.onnx", "isnet-general-use": "isnet.onnx"}


@pytest.fixture(scope="module", params=FURTHER)
def further(
    request: pytest.FixtureRequest,
    weights: Path,
    tmp_path_factory: pytest.TempPathFactory,
    environment: pytest.MonkeyPatch,
) -> Iterator[Pair]:
    """A model of the `weights` folder, by its name; IS-Net is another file of the same network: its row is said."""
    name: str = request.param
    file = weights / FURTHER[name]
    environment.setenv("CUTOUT_HOME", str(tmp_path_factory.mktemp("home")))
    environment.setenv("U2NET_HOME", str(weights))
    if name == "isnet-general-use":
        spec = MODELS[name]
        assert (spec.divisor, spec.output, spec.rescale) == (None, 0, True)
        config = {"size": spec.size, "mean": spec.mean, "std": spec.std}
        ours = Remover(file, device="cpu", model_config=config)
    else:
        ours = Remover(name, device="cpu")
    yield from pair(name, file, tmp_path_factory.mktemp("rembg"), environment, ours)


@pytest.mark.parametrize("name", EXAMPLES + VARIANTS)
def test_the_embedded_models_masks_are_rembgs(name: str, u2netp: Pair, examples: Path) -> None:
    mean, share = u2netp.figures.add(*u2netp.masks(picture(name, examples)))
    assert mean <= MEAN
    assert share <= SHARE


@pytest.mark.parametrize("name", [*EXAMPLES, "grey", "rgba", "portrait", "large"])
def test_further_models_masks_are_rembgs(name: str, further: Pair, examples: Path) -> None:
    mean, share = further.figures.add(*further.masks(picture(name, examples)))
    assert mean <= MEAN
    assert share <= SHARE


@pytest.mark.parametrize("model", ["u2net", "silueta", "u2net_cloth_seg"])
def test_registry_models_are_used_where_rembg_keeps_them(
    model: str, weights: Path, home: Path, monkeypatch: pytest.MonkeyPatch, examples: Path
) -> None:
    """By name, with their hashes checked, and not copied."""
    monkeypatch.setenv("U2NET_HOME", str(weights))
    found = Remover(model, device="cpu")
    assert found.model == model
    assert not (home / "cutout" / "models").exists()
    mask = np.asarray(found.cut(decode(picture("astronaut", examples)), MASK).image)
    assert mask.max() == 255


def test_an_alpha_of_the_pictures_own_is_kept_where_rembg_forgets_it(u2netp: Pair, examples: Path) -> None:
    with Image.open(io.BytesIO(picture("astronaut", examples))) as image:
        hidden = Image.new("L", image.size, 255)
        hidden.paste(0, (0, 0, 200, 512))
        image.putalpha(hidden)
        ours, theirs = u2netp.masks(saved(image, "PNG"))
    assert (ours[:, :200] == 0).all()
    assert theirs[:, :200].max() == 255
    assert np.abs(ours[:, 200:].astype(int) - theirs[:, 200:]).mean() <= MEAN


@pytest.mark.parametrize("name", EXAMPLES)
def test_cut_outs_have_rembgs_alpha_and_colours(name: str, u2netp: Pair, examples: Path) -> None:
    """Along the edge rembg multiplies colours by the alpha, and ours stay the picture's."""
    data = picture(name, examples)
    theirs = rembg.remove(data, session=u2netp.theirs)
    assert isinstance(theirs, bytes)
    with Image.open(io.BytesIO(theirs)) as image:
        expected = np.asarray(image.convert("RGBA"))
    found = np.asarray(u2netp.ours.cut(decode(data)).image)
    assert np.abs(found[:, :, 3].astype(int) - expected[:, :, 3]).mean() <= MEAN
    opaque = (found[:, :, 3] == 255) & (expected[:, :, 3] == 255)
    assert np.array_equal(found[opaque], expected[opaque])


# --- models that rembg has not, or treats otherwise ---


def test_modnet_gives_a_matte_of_a_portrait(weights: Path, examples: Path) -> None:
    remover = Remover(weights / "modnet.onnx", device="cpu")
    assert remover.session.spec.size is None, "taken by its file's name"
    mask = np.asarray(remover.cut(decode(picture("astronaut", examples)), MASK).image)
    assert mask.shape == (512, 512)
    assert mask[80:200, 180:270].mean() > 240, "her face"
    assert mask[10:60, 440:500].mean() < 15, "the corner behind her"


def test_cloth_models_classes_are_parts_of_their_union(weights: Path, examples: Path) -> None:
    data = decode(picture("astronaut", examples))
    masks = {}
    for name in ("upper", "lower", "full", "all"):
        options = {"class": name}
        remover = Remover(weights / "u2net_cloth_seg.onnx", device="cpu", model_options=options)
        masks[name] = np.asarray(remover.cut(data, MASK).image)
    clothes = masks["all"] > 128
    assert clothes[350:, 150:350].mean() > 0.5, "the suit"
    assert clothes[80:190, 190:260].mean() < 0.1, "the face is no cloth"
    union = np.maximum.reduce([masks[name] for name in ("upper", "lower", "full")])
    assert ((union > 128) != clothes).mean() < 0.02
    sizes = [float((masks[name] > 128).mean()) for name in ("upper", "lower", "full")]
    assert max(sizes) > 0.3, "she wears one piece"
