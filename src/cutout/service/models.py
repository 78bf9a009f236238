"""The opened models of a service, and one picture through them."""

from __future__ import annotations

import gc
import os
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cutout.engines.base import describe
from cutout.enums import EngineName
from cutout.errors import CutoutError, OutOfMemoryError, UsageError
from cutout.formats.decode import decode, header
from cutout.formats.input_formats import HEAD, sniff
from cutout.options import Encoding, RemoveOptions
from cutout.pipeline.budget import Budget, budget_of
from cutout.pipeline.convert import convert, within_memory
from cutout.pipeline.remover import Remover
from cutout.service.http.problems import Problem
from cutout.timing import StageTimes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from cutout.formats.decode import Picture
    from cutout.models.registry import ModelSpec
    from cutout.output_formats import OutputFormat
    from cutout.service.settings import Settings

__all__ = ["CutRequest", "Done", "Models", "further_frames"]

_SMALL_MODEL = 200_000_000


@dataclass(frozen=True, kw_only=True, slots=True)
class CutRequest:
    """What is to be done with a picture: by which of the service's models, and what of it does nothing (`warnings`).

    `locate` asks where the subject lies in the result.
    """

    model: str
    options: RemoveOptions
    output_format: OutputFormat
    encoding: Encoding
    warnings: tuple[str, ...] = ()
    locate: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Done:
    """A finished picture: its file, (width, height), milliseconds by stage, name and version of the model.

    `subject` is left, top, right, bottom in it; None where nothing is there, or nobody asked. `placed` is the same
    of the original, which may reach beyond.
    """

    data: bytes
    output_format: OutputFormat
    size: tuple[int, int]
    warnings: tuple[str, ...]
    ms: dict[str, float]
    model: str
    device: str
    subject: tuple[int, int, int, int] | None = None
    placed: tuple[float, float, float, float] | None = None


class _Opened:
    """A model, ready for pictures side by side, and for one alone.

    On a CPU a picture that is alone gets all cores, pictures side by side one each: that is fastest both times, and the
    bytes are the same.
    """

    def __init__(self, name: str, settings: Settings, budget: Budget, warn: Callable[[str], None]) -> None:
        shared: dict[str, Any] = {"device": settings.device, "memory_limit": budget, "warn": warn}
        self.many = Remover(name, jobs=settings.workers, **shared)
        spec = self.many.session.spec
        alike = self.many.device == "cpu" and self.many.engine == EngineName.ONNXRUNTIME  # MNN computes on one thread
        several = settings.workers > 1 and alike and spec.file and spec.bytes < _SMALL_MODEL
        self.alone = Remover(name, **shared) if several else self.many
        self.version = f"{spec.name}-{spec.sha256[:12]}" if spec.sha256 else spec.name

    def close(self) -> None:
        self.many.close()
        self.alone.close()


class Models:
    """All models that requests may ask for, opened once; `warn` is called with each warning.

    Raises:
        CutoutError: A model is missing, or a device cannot be used.
    """

    def __init__(self, settings: Settings, *, warn: Callable[[str], None] = lambda _text: None) -> None:
        # one budget for all models; a request that waits for memory for its whole time limit gets MemoryBusyError
        self.budget = Budget(budget_of(settings.memory_limit, os.environ).limit, patience=settings.timeout)
        self._models: dict[str, _Opened] = {}
        self._names: dict[str, str] = {}
        for name in settings.models:
            if name in self._names:
                continue
            opened = _Opened(name, settings, self.budget, warn)
            self._models[opened.many.model] = opened
            for other in _names(name, opened.many):
                self._names[other] = opened.many.model
        self.default = next(iter(self._models))

    def close(self) -> None:
        """Let go of the models, their memory and their threads; any number of times."""
        for opened in self._models.values():
            opened.close()

    @property
    def names(self) -> Sequence[str]:
        """Names of the opened models; the default first."""
        return tuple(self._models)

    @property
    def device(self) -> str:
        """What the first model runs on."""
        return self._models[self.default].many.device

    def resolve(self, name: str | None) -> str:
        """The name under which an opened model is known.

        Raises:
            UsageError: It was not opened at start; nothing is loaded for a request.
        """
        if not name:
            return self.default
        if name not in self._names:
            raise UsageError(f"this service has no model {name[:80]!r}", hint=f"it has {', '.join(self.names)}")
        return self._names[name]

    def spec(self, name: str) -> ModelSpec:
        """What the registry knows of an opened model, by the name that `resolve` gave."""
        return self._models[name].many.session.spec

    def size(self, data: bytes, max_pixels: int) -> tuple[int, int]:
        """Width and height as they lie in a file; nothing is decoded.

        Raises:
            CutoutError: As `cut` does, as far as the header shows it.
        """
        _check_known(data)
        return header(data, max_pixels=max_pixels).size

    @contextmanager
    def decoded(self, data: bytes, max_pixels: int, *, max_size: int | None = None) -> Iterator[Picture]:
        """A picture that is decoded for another purpose than to be cut out, and its memory held meanwhile.

        Raises:
            OverBudgetError: There never is enough for this picture.
            MemoryBusyError: Other pictures have held it for too long.
            CutoutError: It is no picture, or too large.
        """
        with within_memory(data, self.budget, encoding=Encoding(max_pixels=max_pixels)) as file:
            yield decode(file, max_size=max_size, max_pixels=max_pixels)

    def cut(
        self, data: bytes, cut_request: CutRequest, *, alone: bool = False, check: Callable[[], None] = lambda: None
    ) -> Done:
        """One picture, from bytes to bytes.

        Args:
            data: The file.
            cut_request: What is to be done with it.
            alone: Nothing else is there to do.
            check: Called between the steps; what it raises ends the work, see `timing.Cancellation`.

        Raises:
            CancelledError: The check says that the picture is no longer wanted.
            Problem: The content is no picture's, or there was not enough memory at this moment.
            OverBudgetError: There never is enough for this picture.
            MemoryBusyError: Other pictures have held it for too long.
            CutoutError: Something else is wrong with the picture or the options.
        """
        _check_known(data)
        opened = self._models[cut_request.model]
        stages = StageTimes(check)
        try:
            remover = opened.alone if alone else opened.many
            result = convert(
                data,
                cut_request.output_format,
                remover,
                cut_request.options,
                cut_request.encoding,
                stages,
                locate=cut_request.locate,
            )
        except (CutoutError, MemoryError) as error:
            if isinstance(error, MemoryError) or _is_scarce(error):
                gc.collect()
                text, hint = (
                    "there is not enough memory for this picture right now",
                    "try again later, or a smaller picture",
                )
                raise Problem(503, "memory", text, hint=hint, retry_after=5) from error
            raise
        return Done(
            data=result.encoded,
            output_format=cut_request.output_format,
            size=result.size,
            warnings=(
                *cut_request.warnings,
                *further_frames(data, cut_request.encoding.max_pixels),
                *result.warnings,
            ),
            ms=stages.rounded(),
            model=opened.version,
            device=opened.many.device,
            subject=result.subject,
            placed=result.placed,
        )


def further_frames(data: bytes, max_pixels: int) -> tuple[str, ...]:
    """A warning where a file has frames or pages after its first, which an answer does not hold; nothing is decoded."""
    try:
        more = header(data, max_pixels=max_pixels, max_frames=2).frames > 1
    except CutoutError:  # decoding says so
        more = False
    return ("the picture has further frames or pages; only the first was cut out",) if more else ()


def _check_known(data: bytes) -> None:
    if data and sniff(data[:HEAD]) is None:
        hint = "PNG, JPEG, WebP, AVIF, HEIC, TIFF, BMP, GIF are known"
        raise Problem(415, "not-a-picture", "this is not a picture of a known format", hint=hint)


def _is_scarce(error: CutoutError) -> bool:
    from cutout.engines.known_errors import is_out_of_memory

    text = f"{error} {error.__cause__ or ''}"  # the runtime's text may stand in the cause
    return isinstance(error, OutOfMemoryError) or is_out_of_memory(text)


def _names(asked: str, remover: Remover) -> set[str]:
    """The words by which requests may ask for a model: never a path."""
    names = {remover.model}
    if (spec := describe(asked)).path is None:
        names |= {spec.name, *spec.aliases}
    return names
