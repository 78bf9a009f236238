"""Who made a cut-out: a model that is run, or a folder of results that any tool left. `eval` and `compare` ask both."""

from __future__ import annotations

import os
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

import numpy as np
from PIL import Image

from cutout.engines.base import describe
from cutout.enums import OnCollision
from cutout.errors import CutoutError, OutOfMemoryError, PictureError, UsageError
from cutout.formats import decode
from cutout.formats.reading import most_bytes, read_file
from cutout.jobs.executors.threads import in_threads
from cutout.jobs.plan import STDIO, plan
from cutout.jobs.report import BugError
from cutout.models.files import require
from cutout.pipeline.budget import budget_of
from cutout.pipeline.convert import within_memory
from cutout.pipeline.remover import Cutout, Remover

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager

    from cutout.options import RemoveOptions

    Cut = Callable[["Sample"], Cutout]

__all__ = ["Attempt", "Predictor", "Sample", "attempts", "by_key", "decoded", "mask_of", "open_predictors", "pictures"]

Item = TypeVar("Item")
Result = TypeVar("Result")


class Sample(NamedTuple):
    """One picture among the inputs.

    Attributes:
        path: The file.
        key: Its path below the input folder without the extension, `/` between folders: what it is paired by.
    """

    path: Path
    key: str


class Predictor(NamedTuple):
    """Makes or finds cut-outs.

    Attributes:
        name: For people; no two of a run share it.
        open: Gives the function that makes the cut-out of a picture, for a `with` block: a model is loaded at its
            start, and let go at its end.
    """

    name: str
    open: Callable[[], AbstractContextManager[Cut]]


class Attempt(NamedTuple, Generic[Item, Result]):
    """What became of one item by one predictor: a result, or an error."""

    by: str
    item: Item
    result: Result | None = None
    error: CutoutError | None = None


def attempts(
    predictors: Sequence[Predictor],
    items: Sequence[Item],
    work: Callable[[Item, str, Cut], Result],
    *,
    workers: int,
    stop: threading.Event,
) -> Iterator[Attempt[Item, Result]]:
    """Every item by one predictor after the other, as they are ready; whatever goes wrong becomes the attempt's error.

    Args:
        predictors: Opened one at a time.
        items: What is done by each.
        work: Gets an item, the predictor's name and the function that makes its cut-outs.
        workers: Items side by side.
        stop: Ends it early when it is set.
    """
    for predictor in predictors:
        if stop.is_set():
            return
        with predictor.open() as cut:

            def attempt(item: Item, by: str = predictor.name, cut: Cut = cut) -> Attempt[Item, Result]:
                try:
                    return Attempt(by, item, work(item, by, cut))
                except CutoutError as error:
                    return Attempt(by, item, error=error)
                except MemoryError:
                    return Attempt(by, item, error=OutOfMemoryError())
                except Exception as error:  # noqa: BLE001 - the last resort: one picture never stops the others
                    return Attempt(by, item, error=BugError.of(error))

            yield from in_threads(items, attempt, workers=workers, stop=stop)


def pictures(inputs: Sequence[str]) -> list[Sample]:
    """The pictures that files, folders and glob patterns stand for, sorted as `cutout remove` does them.

    Raises:
        UsageError: An input does not exist, is standard input, or is a folder that cannot be read.
    """
    found: list[Sample] = []
    for name in inputs:
        if name == STDIO:
            raise UsageError("standard input cannot be read here", hint="name files or folders")
        nowhere = str(Path(name) / ".cutout-nowhere") + "/"  # nothing is written: the plan tells what there is
        todo = plan([name], nowhere, on_collision=OnCollision.SUFFIX)
        if todo.unreadable:
            raise UsageError(f"the folder {todo.unreadable[0].source} cannot be read", hint="change its permissions")
        for job in todo.jobs:
            if job.source is not None:
                below = job.source.relative_to(name) if os.path.isdir(name) else Path(job.source.name)  # noqa: PTH112
                found.append(Sample(job.source, below.with_suffix("").as_posix()))
    return found


def by_key(samples: Sequence[Sample]) -> dict[str, Path]:
    """Pictures by what they are paired by.

    Raises:
        UsageError: Two share it, such as `a.jpg` and `a.png`.
    """
    paths: dict[str, Path] = {}
    for sample in samples:
        if (other := paths.setdefault(sample.key, sample.path)) is not sample.path:
            raise UsageError(
                f"{other} and {sample.path} have one name, so nothing tells which one is meant",
                hint="pictures are paired by their names without the extension: leave one of them out",
            )
    return paths


def open_predictors(
    models: Sequence[str],
    results: Sequence[str],
    options: RemoveOptions,
    *,
    config: Path | None = None,
    settings: Mapping[str, Any] | None = None,
) -> list[Predictor]:
    """All that are asked for, models first. What cannot work is refused before any of them works.

    Args:
        models: Registry names, `.onnx` files, `rembg:NAME`.
        results: Folders of ready cut-outs, named as their pictures are.
        options: For the models.
        config: Describes those models that are `.onnx` files.
        settings: Further arguments of `Remover`.

    Raises:
        UsageError: An unknown model, or no folder.
        ModelError: A model is missing.
    """
    found = [_model(model, options, config, dict(settings or {})) for model in models]
    found += [_folder(folder) for folder in results]
    names = [one.name for one in found]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UsageError(f"two of those to compare are called {twice}", hint="name each once; folders by other names")
    return found


def _model(model: str, options: RemoveOptions, config: Path | None, settings: dict[str, Any]) -> Predictor:
    settings["model_config"] = config if model.lower().endswith(".onnx") else None
    spec = describe(model, settings["model_config"])
    if spec.file:
        require(spec)

    @contextmanager
    def opened() -> Iterator[Cut]:
        with Remover(model, options=options, **settings) as remover:

            def cut(sample: Sample) -> Cutout:
                with within_memory(_read(sample.path), remover.budget, options) as file:
                    return remover.cut(decode.decode(file, max_size=options.max_size), quiet=True)

            yield cut

    return Predictor(spec.name, opened)


def _folder(folder: str) -> Predictor:
    if not Path(folder).is_dir():
        raise UsageError(
            f"results {folder} is no folder",
            hint="give the folder that a tool wrote its results to",
            options=("results",),
        )
    ready = by_key(pictures([folder]))

    def find(sample: Sample) -> Cutout:
        path = ready.get(sample.key) or ready.get(f"{sample.key}-cutout")
        if path is None:
            raise PictureError(f"{folder} holds no result of that name", hint="results are named as their pictures are")
        picture, data = decoded(path)
        alpha = mask_of(picture, data, str(path))
        return Cutout(rgb=None if picture.alpha is None else picture.rgb, alpha=alpha, metadata=picture.metadata)

    return Predictor(Path(os.path.normpath(folder)).name, lambda: nullcontext(find))


def _read(path: Path) -> bytes:
    """A file's content.

    Raises:
        PictureError: It cannot be read.
    """
    try:
        return read_file(path, most_bytes(decode.DEFAULT_MAX_PIXELS))
    except OSError as error:
        raise PictureError(f"{path} cannot be read: {error.strerror or error}") from error


def decoded(path: Path) -> tuple[decode.Picture, bytes]:
    """A file's picture, decoded once there is memory for it, and the file's content.

    Raises:
        PictureError: It cannot be read, is no picture, or takes more memory than there is.
    """
    data = _read(path)
    with within_memory(data, budget_of(None, os.environ)) as file:
        return decode.decode(file), data


def mask_of(picture: decode.Picture, data: bytes, name: str) -> Image.Image:
    """The mask that a file holds: its alpha, or a grey picture's values (mode L).

    Args:
        picture: The decoded file.
        data: The file's bytes: an alpha that is opaque everywhere leaves no other trace.
        name: For messages.

    Raises:
        PictureError: It is a coloured picture without transparency, or holds 0 and 1 instead of 0 and 255.
    """
    if picture.alpha is not None:
        return picture.alpha
    red, green, blue = (np.asarray(band) for band in picture.rgb.split())
    if np.array_equal(red, green) and np.array_equal(red, blue):
        if red.max() == 1:
            raise PictureError(f"the mask {name} holds 0 and 1, which is black in black", hint="use 0 and 255")
        return picture.rgb.getchannel(0)
    if data[:4] == b"\x89PNG" and data[25] in {4, 6}:  # colour types with alpha
        return Image.new("L", picture.rgb.size, 255)
    raise PictureError(
        f"{name} is no mask: it is coloured and has no transparency",
        hint="masks are grey pictures, or pictures with an alpha channel",
    )
