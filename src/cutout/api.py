"""`cutout.remove`: one call for a path, bytes, a Pillow image or an array; takes the words of rembg's `remove` too."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from cutout.errors import PictureError, UsageError, remark
from cutout.formats import decode
from cutout.formats.encode import encode
from cutout.formats.reading import most_bytes, read_file
from cutout.formats.sources import header_of, picture_of
from cutout.jobs.plan import STDIO, plan
from cutout.jobs.worker import process
from cutout.models.registry import DEFAULT_MODEL
from cutout.options import Encoding, RemoveOptions
from cutout.output_formats import OutputFormat
from cutout.pipeline.estimate import need_of
from cutout.pipeline.remover import Remover

if TYPE_CHECKING:
    from typing import Unpack

    import numpy as np
    import numpy.typing as npt
    from PIL import Image

    from cutout.jobs.plan import Job
    from cutout.options.backgrounds import BackgroundPicture
    from cutout.options.keywords import RemoveKeywords

    class CallKeywords(RemoveKeywords, total=False):
        """All that `cutout.remove` takes beside its picture and `force_return_bytes`; what each means is told there."""

        output: str | os.PathLike[str] | None
        model: str | Path
        device: str | None
        session: Remover | None
        options: RemoveOptions | None
        memory_limit: str | int | None
        only_mask: bool
        post_process_mask: bool
        bgcolor: tuple[int, ...] | list[int] | None
        alpha_matting: bool
        alpha_matting_foreground_threshold: int
        alpha_matting_background_threshold: int
        alpha_matting_erode_size: int


__all__ = ["remove"]

_lock = threading.Lock()
_removers: dict[tuple[str, str | None, str | int | None], Remover] = {}
_backgrounds: dict[Path, BackgroundPicture] = {}


@overload
def remove(
    data: str | os.PathLike[str], *, force_return_bytes: Literal[False] = False, **settings: Unpack[CallKeywords]
) -> Path: ...
@overload
def remove(
    data: Image.Image, *, force_return_bytes: Literal[False] = False, **settings: Unpack[CallKeywords]
) -> Image.Image: ...
@overload
def remove(
    data: npt.NDArray[Any], *, force_return_bytes: Literal[False] = False, **settings: Unpack[CallKeywords]
) -> npt.NDArray[np.uint8]: ...
@overload
def remove(
    data: bytes | bytearray | memoryview, *, force_return_bytes: bool = False, **settings: Unpack[CallKeywords]
) -> bytes: ...
@overload
def remove(data: object, *, force_return_bytes: Literal[True], **settings: Unpack[CallKeywords]) -> bytes: ...
@overload
def remove(data: object, *, force_return_bytes: bool, **settings: Unpack[CallKeywords]) -> Any: ...


def remove(
    data: Any,
    *,
    output: str | os.PathLike[str] | None = None,
    model: str | Path = DEFAULT_MODEL,
    device: str | None = None,
    session: Remover | None = None,
    options: RemoveOptions | None = None,
    force_return_bytes: bool = False,
    memory_limit: str | int | None = None,
    **changes: Any,
) -> Any:
    """Remove the background of one picture; what a user should know of the result is emitted as a `CutoutWarning`.

    Args:
        data: What kind goes in, that kind comes out:
            a path (the result is written to `output`, or to `NAME-cutout.png` beside it, and its path returned);
            bytes of a picture file (bytes of a PNG, of 16 bits a channel where the picture had them);
            a Pillow image of any mode (RGBA, or L for `mask=True`, or RGB over a background);
            an array (height, width[, 1–4]) of uint8, uint16, bool or floats 0–1 (uint8, channels last).
        output: For a path: where the result goes; its extension says the format.
        model: A registry name or the path of an `.onnx` file. A model is opened once and kept.
        device: `auto`, `cpu`, `cuda`, …
        session: A `Remover` to use instead of `model` and `device`.
        options: All options at once; single ones can be given by name instead or on top.
        force_return_bytes: Give PNG bytes whatever came in.
        memory_limit: As in `Remover`, of which a `session` has its own.
        **changes: Fields of `RemoveOptions` by name. The words of rembg's `remove` mean the same here: `only_mask`,
            `post_process_mask`, `bgcolor`, `alpha_matting`, `alpha_matting_foreground_threshold`,
            `alpha_matting_background_threshold`, `alpha_matting_erode_size`.

    Raises:
        UsageError: An unknown option, or a kind of data that is no picture.
        PictureError: The data is no picture, or a broken one.
        OutputError: The result cannot be written.
        ModelError: The model is missing or corrupt.
        DeviceError: The asked-for device cannot be used.
    """
    from PIL import Image

    wanted = _options(options or RemoveOptions(), changes)
    path = Path(data) if isinstance(data, str) or hasattr(data, "__fspath__") else None
    if output is not None and (path is None or force_return_bytes):
        raise UsageError("`output` goes with a path; other results are returned")
    if session is not None and not isinstance(session, Remover):
        raise UsageError(f"session is a {type(session).__name__}, but it must be a cutout.Remover")
    job = None if path is None else _job(path, output)
    remover = session or _remover(model, device, memory_limit)
    _tell_idle(wanted, changes, remover, job)
    if job is not None and not force_return_bytes:
        return _file(job, remover, wanted, transparent=_is_transparent(changes))
    if path is not None:
        data = _read(path)
    as_bytes, length = force_return_bytes, 0
    if isinstance(data, bytes | bytearray | memoryview):
        as_bytes, length, data = True, len(data), decode.check(bytes(data))
    with remover.budget.hold(*need_of(header_of(data), wanted, OutputFormat.PNG, data=length)):
        cutout = remover.cut(picture_of(data, max_size=wanted.max_size, deep=True), wanted)
        if as_bytes:
            return encode(cutout.rgb, cutout.alpha, OutputFormat.PNG, cutout.metadata, deep=cutout.deep)
        image = cutout.image
    if isinstance(data, Image.Image):
        icc = None if image.mode == "L" else cutout.metadata.icc  # it describes colours
        # nothing else of the input's holds: the EXIF block would turn the picture once more
        image.info = {
            key: value for key, value in (("icc_profile", icc), ("dpi", cutout.metadata.dpi)) if value is not None
        }
        return image
    import numpy as np

    return np.array(image)


_REMBG_WORDS = {
    "only_mask": "mask",
    "post_process_mask": "post_process",
    "bgcolor": "background",
    "alpha_matting": "matting",
    "alpha_matting_foreground_threshold": "matting_foreground",
    "alpha_matting_background_threshold": "matting_background",
    "alpha_matting_erode_size": "matting_erode",
}


def _options(base: RemoveOptions, changes: dict[str, Any]) -> RemoveOptions:
    ours = {_REMBG_WORDS.get(name, name): value for name, value in changes.items()}
    if ours.get("mask") and "bgcolor" in changes:
        ours.pop("background")  # rembg leaves the colour out where the mask alone is asked for
    options = RemoveOptions.from_mapping({**base.values(), **ours})
    if options.background_picture is not None and (path := options.background_path) is not None:
        with _lock:  # a background that is named again and again is decoded once
            if path not in _backgrounds:
                _backgrounds.clear()
                _backgrounds[path] = options.background_picture
            options = options.replace(background=_backgrounds[path])
    return options


def _tell_idle(options: RemoveOptions, changes: dict[str, Any], remover: Remover, job: Job | None) -> None:
    """Warn of what was asked for by name and does nothing."""
    if not changes:
        return
    from cutout.options.idle import Asked, idle

    spec = remover.session.spec
    run = Asked(
        options=options,
        encoding=Encoding(),
        formats=frozenset({OutputFormat.PNG if job is None else job.output_format}),
        rembg=not spec.file,
        classes=bool(spec.classes),
    )
    for text in idle(run, {_REMBG_WORDS.get(name, name) for name in changes} - {"background"}):
        remark(text)


def _is_transparent(changes: dict[str, Any]) -> bool:
    """Whether a transparent background was said, for which the options have no word: it is what they are without."""
    given = changes.get("background", changes.get("bgcolor"))
    return isinstance(given, str) and given.strip().lower() == "transparent"


def _remover(model: str | Path, device: str | None, memory_limit: str | int | None) -> Remover:
    key = (str(model), device, memory_limit)
    with _lock:
        if key not in _removers:
            _removers[key] = Remover(model, device=device, memory_limit=memory_limit)
        return _removers[key]


def _job(path: Path, output: str | os.PathLike[str] | None) -> Job:
    if path.is_dir():
        raise UsageError(f"{path} is a folder", hint="give one picture; the command `cutout remove` takes folders")
    if output is not None and str(output) == STDIO:
        raise UsageError("`output` must be a file or a folder", hint="force_return_bytes=True returns the picture")
    # the one name that means something else to `plan`, and no pattern: a file of that very name is meant
    name = f"./{path}" if str(path) == STDIO else str(path)
    if not os.path.lexists(name):
        raise UsageError(f"the input {path} does not exist")
    return plan([name], None if output is None else str(output)).jobs[0]


def _read(path: Path) -> bytes:
    try:
        return read_file(path, most_bytes(decode.DEFAULT_MAX_PIXELS))
    except OSError as error:
        raise PictureError(f"{path} cannot be read: {error.strerror or error}") from error


def _file(job: Job, remover: Remover, options: RemoveOptions, *, transparent: bool) -> Path:
    if transparent and not job.output_format.has_alpha:
        raise UsageError(f"{job.target_name} cannot be transparent", hint="write PNG or WebP, or name a colour")
    outcome = process(job, remover, options, Encoding())
    if outcome.error is not None:
        raise outcome.error
    for text in outcome.warnings:
        remark(text)
    assert job.target is not None  # noqa: S101 - a path goes to a path
    return job.target
