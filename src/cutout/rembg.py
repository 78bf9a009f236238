"""In the place of rembg's Python interface: `from cutout.rembg import` where a program says `from rembg import`.

    from cutout.rembg import new_session, remove

    cut = remove(image, session=new_session("u2net"))

Arguments, their order, and results are those of rembg 2.0.86: bytes give a PNG, a Pillow image gives an image, an array
an array; a plain cut-out lies over black, that is, its colours are multiplied by the mask; the masks of clothes stand
below each other. Unlike there, a picture's own transparency and colour profile are kept, no model is downloaded
unasked, and what cannot be done is refused. `cutout.remove` has cleaner edges and more options.
"""

from __future__ import annotations

import os
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image, ImageChops, UnidentifiedImageError

from cutout.engines.base import TensorEngine
from cutout.engines.devices import parse_device
from cutout.errors import DeviceError, PictureError, UsageError, remark
from cutout.formats import decode
from cutout.formats.color import is_srgb, to_srgb
from cutout.formats.encode import encode
from cutout.formats.picture import Picture
from cutout.formats.sources import header_of, picture_of
from cutout.imaging import composite
from cutout.imaging.decontaminate import decontaminate as clean_edges
from cutout.imaging.resample import upscale
from cutout.models.files import candidates, is_file
from cutout.models.registry import DEFAULT_MODEL, MODELS, find_spec
from cutout.options import DeviceOptions, Encoding, RemoveOptions
from cutout.output_formats import OutputFormat
from cutout.pipeline.budget import budget_of
from cutout.pipeline.estimate import need_of
from cutout.pipeline.remover import Remover
from cutout.timing import StageTimes

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["Session", "UnreadableError", "WrongUseError", "new_session", "remove"]

_CUSTOM = {"u2net_custom": "u2net", "dis_custom": "isnet-general-use", "ben_custom": "isnet-general-use"}
"""rembg's names for a user's own file, and the model whose pictures go in and masks come out as that one's."""


class WrongUseError(UsageError, ValueError):
    """A `UsageError` that is a `ValueError` too, which rembg raises for the same."""


class UnreadableError(PictureError, UnidentifiedImageError):
    """A `PictureError` that is Pillow's `UnidentifiedImageError` too, which rembg lets through."""


@contextmanager
def _as_rembg_raises() -> Iterator[None]:
    try:
        yield
    except UsageError as error:
        raise WrongUseError(error.message, hint=error.hint, options=error.options) from error
    except PictureError as error:
        if type(error) is not PictureError:
            raise
        raise UnreadableError(error.message, hint=error.hint, options=error.options) from error


class Session:
    """An opened model, used as rembg's sessions are; safe to use from many threads, other than those.

    Attributes:
        remover: What it stands on.
    """

    def __init__(self, remover: Remover) -> None:
        self.remover = remover

    @property
    def model_name(self) -> str:
        """The name of the opened model."""
        return self.remover.model

    def predict(
        self, img: Image.Image, *, cc: str | None = None, cloth_category: str | None = None, **further: Any
    ) -> list[Image.Image]:
        """The masks of an image of any mode: mode L, of its size, 255 where the subject is.

        Args:
            img: Its colours alone count, as they are.
            cc: Of a model of clothes: `upper`, `lower`, `full`, or `attire` for all in one mask; without it each of the
                three has a mask of its own.
            cloth_category: The same.
            further: Refused; rembg's own models have prompts.

        Raises:
            WrongUseError: Another argument, or no such class of clothes.
            CutoutError: The model failed on this picture, or was closed.
        """
        engine, rgb = self.remover.session, img.convert("RGB")
        if further:
            raise WrongUseError(f"{', '.join(further)}: the model {self.model_name} takes no such argument")
        if not isinstance(engine, TensorEngine) or not engine.spec.classes:
            found = self.remover.look(Picture(rgb), RemoveOptions())
            for text in found.warnings:
                remark(text)
            return [found.alpha]
        known = {**dict.fromkeys(engine.spec.classes, ""), "attire": "all"}
        wanted = cc or cloth_category
        if wanted is not None and wanted not in known:
            raise WrongUseError(f"there is no class of clothes {wanted!r}", hint=f"known: {', '.join(known)}")
        names = engine.spec.classes if wanted is None else (known[wanted] or wanted,)
        masks = engine.masks(rgb, names, fit=None, rescale=None, stages=StageTimes())
        return [upscale(mask, rgb.size) for mask in masks]


def new_session(
    model_name: str = DEFAULT_MODEL,
    providers: Sequence[str | tuple[str, dict[str, Any]]] | None = None,
    *,
    sess_opts: object = None,
    model_path: str | os.PathLike[str] | None = None,
    **further: Any,
) -> Any:
    """Open a model.

    Args:
        model_name: A name of `cutout models list` or one of rembg's; `u2net_custom`, `dis_custom` and `ben_custom` go
            with a `model_path`. The default is the small model inside this package, other than rembg's: that takes a
            gigabyte, and its licence forbids commercial use. With `MODEL_CHECKSUM_DISABLED` in the environment, a model
            file is taken as it is.
        providers: Names of ONNX Runtime's execution providers, or pairs of a name and its options: the first that can
            be used is. None takes the best device there is.
        sess_opts: Does nothing; how many threads there are is decided here.
        model_path: The `.onnx` file of a custom model.
        further: For models that rembg alone has, such as `sam`.

    Returns:
        A `Session`; for models that rembg alone has, its own session, where it is installed.

    Raises:
        WrongUseError: No such model, provider or argument.
        ModelError: The model is not on this machine, or its file is not what it should be; the hint says how to get it.
        DeviceError: None of the providers can be used.
    """
    if sess_opts is not None:
        remark("sess_opts does nothing here: the number of threads follows from the machine")
    with _as_rembg_raises():
        if model_name in _CUSTOM:
            if model_path is None:
                hint = f'new_session("{model_name}", model_path="model.onnx")'
                raise UsageError("model_path is required", hint=hint)
            row = MODELS[_CUSTOM[model_name]]
            config = {"size": row.size, "divisor": row.divisor or "max", "mean": row.mean, "std": row.std}
            return Session(_opened(Path(model_path), providers, model_config=config, **further))
        try:
            spec = find_spec(model_name)
        except UsageError as unknown:
            try:
                theirs = _opened(f"rembg:{model_name}", providers, model_options=further)
            except UsageError:
                raise unknown from None
            return theirs.session.inner  # type: ignore[attr-defined]
        file: str | Path = spec.name
        if "MODEL_CHECKSUM_DISABLED" in os.environ:
            file = next((path for path in candidates(spec) if is_file(path)), spec.name)
        return Session(_opened(file, providers, **further))


def _opened(model: str | Path, providers: Sequence[Any] | None, **known: Any) -> Remover:
    """The model on the first of the providers that can be used."""
    if unknown := set(known) - {"model_config", "model_options"}:
        raise UsageError(f"{', '.join(sorted(unknown))}: the model {model} takes no such argument")
    failure: DeviceError | None = None
    for entry in providers or [None]:
        name, told = (entry, {}) if entry is None or isinstance(entry, str) else (entry[0], dict(entry[1]))
        number = told.pop("device_id", None)
        device = name if number is None else f"{name}:{number}"
        if device is not None:
            device = str(parse_device(device))
        if failure is not None:
            remark(f"{failure.message}; {device} is tried")
        try:
            return Remover(model, device=device, device_options=DeviceOptions(provider_options=told or None), **known)
        except DeviceError as error:
            failure = error
    assert failure is not None  # noqa: S101 - there is one entry or more
    raise failure


_lock = threading.Lock()
_default: list[Session] = []
"""The session of calls that name none, once it is opened."""


def remove(
    data: Any,
    alpha_matting: bool = False,  # noqa: FBT001, FBT002 - rembg's order
    alpha_matting_foreground_threshold: int = 240,
    alpha_matting_background_threshold: int = 10,
    alpha_matting_erode_size: int = 10,
    session: Any = None,
    only_mask: bool = False,  # noqa: FBT001, FBT002
    post_process_mask: bool = False,  # noqa: FBT001, FBT002
    decontaminate: bool = False,  # noqa: FBT001, FBT002
    vitmatte: bool = False,  # noqa: FBT001, FBT002
    vitmatte_model: str | None = None,
    bgcolor: Sequence[int] | None = None,
    force_return_bytes: bool = False,  # noqa: FBT001, FBT002
    *,
    putalpha: bool = False,
    **further: Any,
) -> Any:
    """Remove the background of one picture.

    Args:
        data: Bytes of a picture file, a Pillow image, or an array (height, width[, 1–4]).
        alpha_matting: Refine the edge by closed-form matting; the colours are then the subject's own.
        alpha_matting_foreground_threshold: Mask values above it are surely foreground; beyond 255 counts as 255.
        alpha_matting_background_threshold: Mask values below it are surely background.
        alpha_matting_erode_size: Pixels by which both sure regions shrink.
        session: What `new_session` gave, a `cutout.Remover`, or a session of rembg's own; None takes the small model
            inside this package.
        only_mask: Give the mask (mode L) alone; the picture's own transparency does not count.
        post_process_mask: Smooth the mask and make it binary.
        decontaminate: Take the old background's colour out of soft edges; colours are not multiplied by the mask.
        vitmatte: Refused: there is no ViTMatte here.
        vitmatte_model: Refused.
        bgcolor: Red, green, blue and alpha (0–255) of what the cut-out is laid over.
        force_return_bytes: Give the bytes of a PNG whatever came in.
        putalpha: Leave colours as they are, with the mask as alpha.
        further: Handed to the session, such as `cc="upper"`.

    Returns:
        Bytes of a PNG for bytes, else the kind of `data`: mode RGBA or uint8 (height, width, 4), for `only_mask` L or
        (height, width). Several masks give one picture, in which their results stand below each other, in RGBA.

    Raises:
        WrongUseError: An argument that means nothing here, or data of another type; it is a `ValueError`.
        UnreadableError: The data is no picture, or a broken one; it is an `UnidentifiedImageError`.
        CutoutError: Anything else.
    """
    matting = alpha_matting and not only_mask
    clean = matting or (decontaminate and not putalpha)
    with _as_rembg_raises():
        if type(decontaminate) in {tuple, list}:  # older releases had bgcolor in its place
            raise UsageError("decontaminate is a colour", hint=f"bgcolor={decontaminate}")
        if vitmatte or vitmatte_model is not None:
            raise UsageError("there is no ViTMatte here", hint="alpha_matting=True mattes soft edges")
        options = RemoveOptions(
            matting=matting,
            matting_foreground=min(alpha_matting_foreground_threshold, 255),
            matting_background=max(alpha_matting_background_threshold, 0),
            matting_erode=alpha_matting_erode_size,
            post_process=post_process_mask,
        )
        as_bytes = force_return_bytes or isinstance(data, bytes | bytearray | memoryview)
        source = decode.check(bytes(data)) if isinstance(data, bytes | bytearray | memoryview) else data
        need = need_of(header_of(source), options, OutputFormat.PNG)
        session = _session(session)
        with budget_of(None, os.environ).hold(*need):
            picture = picture_of(source)
            for text in picture.notes:
                remark(text)
            icc = picture.metadata.icc
            masks = session.predict(picture.rgb if is_srgb(icc) else to_srgb(picture.rgb, icc), **further)
            masks = [_refined(picture, mask, options) for mask in masks]
            if only_mask:
                result = _stacked(masks)
            else:
                result = _stacked([_cut(picture, mask, clean=clean, straight=clean or putalpha) for mask in masks])
                if bgcolor is not None:
                    result = Image.alpha_composite(Image.new("RGBA", result.size, tuple(bgcolor)), result)
            if as_bytes:
                rgb, alpha = (None, result) if result.mode == "L" else (result.convert("RGB"), result.getchannel("A"))
                return encode(rgb, alpha, OutputFormat.PNG, picture.metadata, Encoding(keep_hidden=True))
    if isinstance(data, Image.Image):
        result.info = {} if icc is None or result.mode == "L" else {"icc_profile": icc}
        return result
    import numpy as np

    return np.array(result)


def _session(given: Any) -> Any:
    """What `remove` was given as its session, as something that predicts masks."""
    if given is None:
        with _lock:
            _default[:] = _default or [new_session()]
            return _default[0]
    if not hasattr(given, "predict") and not isinstance(given, Remover):
        raise UsageError(f"session is a {type(given).__name__}", hint='new_session("u2netp") gives one')
    return Session(given) if isinstance(given, Remover) else given


def _refined(picture: Picture, mask: Image.Image, options: RemoveOptions) -> Image.Image:
    mask = mask if mask.mode == "L" else mask.convert("L")
    if options.post_process:
        from cutout.imaging.cleanup import post_process

        mask = post_process(mask)
    if options.matting:
        from cutout.imaging.matting import UnsolvableError, matte

        try:
            mask = matte(picture.rgb, mask, options)
        except UnsolvableError as unsolvable:
            remark(f"matting was left out: {unsolvable.message}")
    return mask


def _cut(picture: Picture, mask: Image.Image, *, clean: bool, straight: bool) -> Image.Image:
    """The cut-out by one mask, in mode RGBA: with straight alpha, or over black as rembg's."""
    if not straight:
        own = picture.rgb.convert("RGBA") if picture.alpha is None else composite.cut(picture.rgb, picture.alpha)
        return Image.composite(own, Image.new("RGBA", own.size), mask)
    alpha = mask if picture.alpha is None else ImageChops.multiply(mask, picture.alpha)
    return composite.cut(clean_edges(picture.rgb, alpha) if clean else picture.rgb, alpha)


def _stacked(results: list[Image.Image]) -> Image.Image:
    """Below each other, as rembg gives the classes of clothes; one is left as it is."""
    if len(results) == 1:
        return results[0]
    if not results:
        raise UsageError("the model gave no mask", hint="does it need a prompt?")
    stack = Image.new("RGBA", (max(each.width for each in results), sum(each.height for each in results)))
    top = 0
    for each in results:
        stack.paste(each, (0, top))
        top += each.height
    return stack
