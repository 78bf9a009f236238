"""The model registry: data only. A new model is a new row of `MODELS`, never a new class."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cutout.enums import Fit
from cutout.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "ALIASES",
    "DEFAULT_MODEL",
    "LARGEST_SIDE",
    "MODELS",
    "Activation",
    "ModelSpec",
    "Reduced",
    "Triple",
    "find_spec",
    "refuse_config",
    "resolve_model",
]

DEFAULT_MODEL = "u2netp"

_REMBG_RELEASE = "https://github.com/danielgatis/rembg/releases/download/v0.0.0/"
_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)

LARGEST_SIDE = 4096
"""Of a model's input: twice that of the largest known, and 200 MB a picture."""

Triple = tuple[float, float, float]


class Activation(StrEnum):
    """What turns the chosen output of the network into a mask of 0–1."""

    NONE = "none"
    """The output is a mask already."""
    SIGMOID = "sigmoid"
    """The output holds logits."""
    ARGMAX = "argmax"
    """One channel per class, the first of which is the background; the mask is 1 where a wanted class wins."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reduced:
    """How a model runs in bfloat16 without harm; given to models for which that was measured.

    Attributes:
        exact: Names of the file's nodes that stay in float32.
        note: What was measured.
    """

    exact: tuple[str, ...]
    note: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelSpec:
    """One model: where it comes from and how pictures go in and masks come out.

    A picture becomes `(pixel / divisor − mean) / std`, RGB, channels first, with one batch axis.

    Attributes:
        name: The name to type.
        file: File name on disk and below a mirror.
        licence: SPDX identifier, or plain words.
        url: Where to download it; empty when it is the user's own file.
        bytes: Size of the file; 0 when unknown.
        sha256: Hash of the file, hex; empty when unknown.
        aliases: Other names that mean this model.
        other_files: Names under which rembg stores the same bytes.
        embedded: The file ships inside this package.
        non_commercial: The licence forbids commercial use; every download warns of it.
        size: Side lengths (height, width) of the input; None when the network takes any size.
        long_side: For `size` None: pixels of the longer side.
        multiple: For `size` None: both sides are multiples of this.
        divisor: 255, or None for the picture's own largest value (what the U²-Net family was released with).
        mean: Per channel, after the division.
        std: Per channel, after the division.
        exact_resize: The input is resized by Pillow itself, bit for bit as rembg does: networks in int8 make
            visible what `resize.shrink` does otherwise.
        fit: Default of `--fit`.
        fit_note: What that was chosen by: MAE · 1000 of stretch → pad, on the sets of photographs of
            docs/quality-eval.md.
        output: Index of the network output to use; negative counts from the end.
        activation: What turns the output into a mask.
        rescale: Stretch the mask so that its extremes become 0 and 1.
        classes: For `Activation.ARGMAX`: names of the channels after the background.
        path: The user's own file.
        about: One line for `cutout models list`.
        reduced: The variant of `--precision reduced`; None where none is good enough.
    """

    name: str
    file: str
    licence: str
    url: str = ""
    bytes: int = 0
    sha256: str = ""
    aliases: tuple[str, ...] = ()
    other_files: tuple[str, ...] = ()
    embedded: bool = False
    non_commercial: bool = False
    size: tuple[int, int] | None = (320, 320)
    long_side: int = 512
    multiple: int = 32
    divisor: float | None = None
    mean: Triple = _IMAGENET_MEAN
    std: Triple = _IMAGENET_STD
    exact_resize: bool = False
    fit: Fit = Fit.STRETCH
    fit_note: str = ""
    output: int = 0
    activation: Activation = Activation.NONE
    rescale: bool = True
    classes: tuple[str, ...] = ()
    path: Path | None = None
    about: str = ""
    reduced: Reduced | None = None

    @property
    def exact_nodes(self) -> frozenset[str]:
        """Nodes of the file that stay in float32, whatever the others compute in."""
        return frozenset(self.reduced.exact if self.reduced else ())


_BIREFNET = {
    "licence": "MIT",
    "size": (1024, 1024),
    "divisor": 255.0,
    "output": -1,
    "activation": Activation.SIGMOID,
    "rescale": False,
}


def _row(name: str, file: str, length: int, sha256: str, **columns: Any) -> ModelSpec:
    return ModelSpec(name=name, file=file, bytes=length, sha256=sha256, **{"url": _REMBG_RELEASE + file, **columns})


MODELS: dict[str, ModelSpec] = {
    spec.name: spec
    for spec in (
        _row(
            "u2netp",
            "u2netp.onnx",
            4_574_861,
            "309c8469258dda742793dce0ebea8e6dd393174f89934733ecc8b14c76f4ddd8",
            licence="Apache-2.0",
            embedded=True,
            fit_note="toys and plants 100 → 92, animals and things 26 → 24, people 15 → 22",
            about="small and fast, inside this package; the default",
            # the last one takes away again a nearly constant channel of the first, 226 ± 0.2: bfloat16 rounds it to 1
            reduced=Reduced(
                exact=("Conv_765", "Resize_785", "Concat_786", "Conv_787"),
                note="MAE −0.2 to +0.4%, boundary MAE −0.2 to +0.1% of float32's on three sets (docs/performance.md)",
            ),
        ),
        _row(
            "u2net",
            "u2net.onnx",
            175_997_641,
            "8d10d2f3bb75ae3b6d527c77944fc5e7dcd94b29809d47a739a7a728a912b491",
            licence="Apache-2.0",
            fit_note="toys and plants 161 → 78, animals and things 24 → 34, people 17 → 20",
            about="general use, finer than u2netp",
        ),
        _row(
            "u2net_human_seg",
            "u2net_human_seg.onnx",
            175_997_641,
            "01eb6a29a5c4d8edb30b56adad9bb3a2a0535338e480724a213e0acfd2d1c73c",
            licence="Apache-2.0",
            about="people",
        ),
        _row(
            "rmbg-2.0",
            "bria-rmbg-2.0.onnx",
            1_024_331_469,
            "5b486f08200f513f460da46dd701db5fbb47d79b4be4b708a19444bcd4e79958",
            licence="CC BY-NC 4.0",
            non_commercial=True,
            aliases=("RMBG-2.0", "bria-rmbg"),
            other_files=("bria-rmbg.onnx",),
            size=(1024, 1024),
            divisor=255.0,
            rescale=False,
            about="BRIA RMBG 2.0: very fine edges",
        ),
        _row(
            "silueta",
            "silueta.onnx",
            44_173_029,
            "75da6c8d2f8096ec743d071951be73b4a8bc7b3e51d9a6625d63644f90ffeedb",
            licence="not stated by its author",
            exact_resize=True,
            fit_note="toys and plants 255 → 99, animals and things 40 → 54, people 15 → 20",
            about="u2net made smaller",
        ),
        _row(
            "u2net_cloth_seg",
            "u2net_cloth_seg.onnx",
            176_194_565,
            "6d2cbc27bfbdc989e1fd325656d65902ecc6a3ccbe94b2d3655ec114efcb128e",
            licence="MIT",
            size=(768, 768),
            activation=Activation.ARGMAX,
            rescale=False,
            classes=("upper", "lower", "full"),
            about="people's clothes; --model-option class=upper|lower|full|all",
        ),
        _row(
            "isnet-general-use",
            "isnet-general-use.onnx",
            178_648_008,
            "60920e99c45464f2ba57bee2ad08c919a52bbf852739e96947fbb4358c0d964a",
            licence="Apache-2.0",
            size=(1024, 1024),
            mean=(0.5, 0.5, 0.5),
            std=(1.0, 1.0, 1.0),
            fit_note="toys and plants 151 → 104, animals and things 51 → 47 (IoU no better), people 13 → 12",
            about="general use, 1024 pixels",
        ),
        _row(
            "isnet-anime",
            "isnet-anime.onnx",
            176_069_933,
            "f15622d853e8260172812b657053460e20806f04b9e05147d49af7bed31a6e99",
            licence="Apache-2.0",
            size=(1024, 1024),
            std=(1.0, 1.0, 1.0),
            about="drawn figures",
        ),
        _row(
            "birefnet-general",
            "BiRefNet-general-epoch_244.onnx",
            972_666_916,
            "58f621f00f5d756097615970a88a791584600dcf7c45b18a0a6267535a1ebd3c",
            other_files=("birefnet-general.onnx",),
            about="very fine edges, slow on a CPU",
            **_BIREFNET,
        ),
        _row(
            "birefnet-general-lite",
            "BiRefNet-general-bb_swin_v1_tiny-epoch_232.onnx",
            224_005_088,
            "5600024376f572a557870a5eb0afb1e5961636bef4e1e22132025467d0f03333",
            other_files=("birefnet-general-lite.onnx",),
            about="the smaller birefnet-general",
            **_BIREFNET,
        ),
        _row(
            "birefnet-portrait",
            "BiRefNet-portrait-epoch_150.onnx",
            972_666_916,
            "1ba1c8ff5a7bbfadc8d8d13fb11d7be793f91f23d9d466549e37a854f6668f99",
            other_files=("birefnet-portrait.onnx",),
            about="portraits, slow on a CPU",
            **_BIREFNET,
        ),
        _row(
            "modnet",
            "modnet.onnx",
            25_888_640,
            "07c308cf0fc7e6e8b2065a12ed7fc07e1de8febb7dc7839d7b7f15dd66584df9",
            url="https://huggingface.co/Xenova/modnet/resolve/fa2fa546052fba4c08921230a26cc69a333fca12/onnx/model.onnx",
            licence="Apache-2.0",
            size=None,
            divisor=255.0,
            mean=(0.5, 0.5, 0.5),
            std=(0.5, 0.5, 0.5),
            rescale=False,
            about="portraits, a true matte",
        ),
    )
}

ALIASES: dict[str, str] = {alias.lower(): spec.name for spec in MODELS.values() for alias in spec.aliases}


def find_spec(name: str) -> ModelSpec:
    """The registry row of a name or alias, upper or lower case.

    Raises:
        UsageError: No such model; the message names the nearest ones.
    """
    key = ALIASES.get(name.lower(), name.lower())
    if key in MODELS:
        return MODELS[key]
    import difflib

    near = difflib.get_close_matches(key, MODELS, n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else "`cutout models list` shows what exists"
    raise UsageError(f"there is no model {name!r}", hint=hint + "; an .onnx file is given by its path")


def resolve_model(model: str | Path, config: Mapping[str, Any] | Path | None = None) -> ModelSpec:
    """The description of a registry model or of an `.onnx` file.

    Raises:
        UsageError: No such model, or a configuration given for a registry model.
        ModelError: The configuration cannot be read or does not fit.
    """
    text = str(model)
    if isinstance(model, Path) or text.lower().endswith(".onnx") or "/" in text or "\\" in text:
        from cutout.models.custom import custom_spec, read_config
        from cutout.models.files import expanded

        return custom_spec(expanded(text), read_config(config))
    refuse_config(config)
    return find_spec(text)


def refuse_config(config: Mapping[str, Any] | Path | None) -> None:
    """A configuration for a model that has its own.

    Raises:
        UsageError: There is one.
    """
    if config is not None:
        raise UsageError(
            "model_config describes an .onnx file, but model names no file", options=("model_config", "model")
        )
