"""The core: a model opened once, pictures in, cut-outs out; no paths, no console."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cutout import codec, matte, matting
from cutout.cpus import usable_cpus
from cutout.errors import ModelError, PictureError, UsageError
from cutout.models import DEFAULT_MODEL, ModelSpec, custom_spec, find_spec
from cutout.options import RemoveOptions
from cutout.providers import request_device
from cutout.rembg_session import PREFIX, open_rembg
from cutout.session import open_session
from cutout.stages import Stages
from cutout.store import require

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from PIL import Image

    from cutout.codec import Metadata, Picture
    from cutout.session import Session

__all__ = ["Cutout", "Remover", "resolve_model"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Cutout:
    """A finished picture.

    Attributes:
        image: RGBA with straight alpha; RGB over an opaque background; L where the mask alone was asked for.
        metadata: Profile and resolution for the encoder.
        warnings: Things a user should know about this picture.
    """

    image: Image.Image
    metadata: Metadata
    warnings: tuple[str, ...] = ()


class Remover:
    """A model, opened once and safe to use from many threads.

    Args:
        model: A name or alias of the registry, the path of an `.onnx` file, or `rembg:NAME`.
        device: `auto`, `cpu`, `cuda`, `cuda:1`, …; None asks `CUTOUT_DEVICE`, then
            `ONNXRUNTIME_EXECUTION_PROVIDERS`, then takes `auto`.
        options: Used wherever a call gives none.
        jobs: Pictures that will be worked on side by side; every inference gets its share of the processors.
        model_config: For an `.onnx` file: columns of `ModelSpec`, as a mapping or the path of a JSON file.
        model_options: Options of the model itself, such as `{"class": "upper"}`.
        warn: Called with a line worth telling, such as that a graphics card is there but cannot be used.

    Raises:
        UsageError: An unknown model, device or option.
        ModelError: The model is missing, corrupt, or does not fit its description.
        DeviceError: The asked-for device cannot be used.
    """

    def __init__(
        self,
        model: str | Path = DEFAULT_MODEL,
        *,
        device: str | None = None,
        options: RemoveOptions | None = None,
        jobs: int = 1,
        model_config: Mapping[str, Any] | Path | None = None,
        model_options: Mapping[str, Any] | None = None,
        warn: Callable[[str], None] = lambda _text: None,
    ) -> None:
        self.options = options or RemoveOptions()
        _check(self.options)
        request = request_device(device, os.environ)
        threads = max(1, usable_cpus() // max(1, jobs))
        extra = dict(model_options or {})
        if str(model).startswith(PREFIX):
            name = str(model).removeprefix(PREFIX)
            self.session: Session = open_rembg(name, request, threads=threads, model_options=extra, warn=warn)
        else:
            spec = resolve_model(model, model_config)
            self.session = open_session(require(spec), spec, request, threads=threads, model_options=extra, warn=warn)

    @property
    def model(self) -> str:
        """The name of the opened model."""
        return self.session.spec.name

    @property
    def device(self) -> str:
        """The device that really runs, as the runtime reports it."""
        return self.session.device

    def cut(self, picture: Picture, options: RemoveOptions | None = None, stages: Stages | None = None) -> Cutout:
        """Remove the background of a decoded picture.

        Args:
            picture: What `codec.decode` gave.
            options: Instead of the options given at construction.
            stages: Receives the time of each stage.

        Raises:
            CutoutError: The model failed on this picture.
            PictureError: There is not enough memory for it.
        """
        if options is None:
            options = self.options
        else:
            _check(options)
        stages = stages or Stages()
        try:
            return self._cut(picture, options, stages)
        except MemoryError as error:
            raise PictureError(
                "there is not enough memory for this picture", hint="try --jobs 1 or --max-size"
            ) from error

    def _cut(self, picture: Picture, options: RemoveOptions, stages: Stages) -> Cutout:
        rgb, warnings = picture.rgb, list(picture.notes)
        mask = self.session.predict(rgb, fit=options.fit, rescale=options.rescale, stages=stages)
        with stages.time("postprocess"):
            alpha = matte.upscale(mask, rgb.size)
            if options.post_process:
                alpha = matte.post_process(alpha)
            if options.matting:
                try:
                    alpha, rgb = matting.refine(rgb, alpha, options)
                except matting.EmptyTrimapError as empty:
                    warnings.append(f"matting was left out: {empty.message}")
            if options.threshold is not None:
                alpha = matte.binary(alpha, options.threshold)
            if picture.alpha is not None:
                alpha = matte.multiply(alpha, picture.alpha)
            if not alpha.getbbox():
                warnings.append("nothing was found: the cut-out is empty")
            return Cutout(image=_finish(rgb, alpha, options), metadata=picture.metadata, warnings=tuple(warnings))


def resolve_model(model: str | Path, config: Mapping[str, Any] | Path | None = None) -> ModelSpec:
    """The description of a registry model or of an `.onnx` file.

    Raises:
        UsageError: No such model, or a configuration given for a registry model.
        ModelError: The configuration cannot be read or does not fit.
    """
    text = str(model)
    if isinstance(model, Path) or text.lower().endswith(".onnx") or "/" in text or "\\" in text:
        return custom_spec(Path(text).expanduser(), _read_config(config))
    if config is not None:
        raise UsageError("--model-config describes an .onnx file, but --model names a model of the registry")
    return find_spec(text)


def _read_config(config: Mapping[str, Any] | Path | None) -> dict[str, Any]:
    if config is None:
        return {}
    if not isinstance(config, Path):
        return dict(config)
    try:
        values = json.loads(config.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"the model configuration {config} cannot be read: {error}") from error
    if not isinstance(values, dict):
        raise ModelError(f"the model configuration {config} must be a JSON object")
    return values


def _check(options: RemoveOptions) -> None:
    if options.matting:
        matting.check_available()


def _finish(rgb: Image.Image, alpha: Image.Image, options: RemoveOptions) -> Image.Image:
    if options.mask:
        return alpha
    if (path := options.background_picture) is not None:
        return matte.compose(rgb, alpha, matte.cover(_background(path, path.stat().st_mtime_ns), rgb.size))
    if (color := options.background_color) is not None:
        return matte.compose(rgb, alpha, color)
    return matte.cut(rgb, alpha)


@lru_cache(maxsize=4)
def _background(path: Path, _changed: int) -> Image.Image:
    try:
        return codec.decode(path.read_bytes()).rgb
    except (OSError, PictureError) as error:
        raise UsageError(f"the background picture {path} cannot be used: {error}") from error
