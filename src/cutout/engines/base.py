"""Engines, what runs a model on a device: the interface, the request for one, and the table of those there are.

A new engine is a module with a subclass of `Engine`, and a row of `ENGINES`.
"""

from __future__ import annotations

import os
import sys
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from enum import StrEnum
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from cutout.engines.devices import CPU, DeviceRequest, request_device
from cutout.enums import EngineName, Precision
from cutout.errors import ClosedError, UsageError
from cutout.models.registry import ModelSpec, refuse_config, resolve_model
from cutout.models.tensors import input_size, to_input, to_mask
from cutout.options import DeviceOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path
    from typing import Self

    from PIL import Image

    from cutout.enums import Fit
    from cutout.timing import StageTimes

    Warn = Callable[[str], None]

_Word = TypeVar("_Word", bound=StrEnum)

__all__ = [
    "ENGINES",
    "Engine",
    "EngineRequest",
    "EngineRow",
    "TensorEngine",
    "closed",
    "describe",
    "open_engine",
    "parse_engine",
    "parse_precision",
]

_LARGE = 4_000_000
"""Pixels from which a picture itself needs so much memory that the runtime's is given back in between."""


class Engine(ABC):
    """A model that is ready to look at pictures; safe to use from many threads.

    Attributes:
        spec: Its description.
        device: What really runs, such as `cpu` or `cuda:0`.
        engine: What runs it: a word of `EngineName`, or `openvino` or `rembg`.
        precision: What it computes in.
        batch: Pictures that the device computes at once.
        in_flight: Pictures that wait for the device or are on it, beyond those that the processor works on.
    """

    spec: ModelSpec
    device: str
    engine: str = EngineName.ONNXRUNTIME
    precision = Precision.FULL
    batch = 1
    in_flight = 0

    @abstractmethod
    def predict(self, rgb: Image.Image, *, fit: Fit | None, rescale: bool | None, stages: StageTimes) -> Image.Image:
        """The mask (mode L, any resolution) of a picture (mode RGB); None takes the model's own defaults.

        Raises:
            ClosedError: The engine was closed.
            CutoutError: It failed on this picture, for want of memory or otherwise.
        """

    @abstractmethod
    def close(self) -> None:
        """Let go of the model and its memory; any number of times, from any thread.

        Inferences that run are finished; later ones raise `ClosedError`.
        """

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class TensorEngine(Engine):
    """An engine that turns tensors into tensors: pictures are scaled for it, and masks made of what it gives.

    Attributes:
        wanted_class: Of a model with classes, the one that becomes the mask.
    """

    wanted_class = "all"

    @abstractmethod
    def run(self, batch: Any, *, sparing: bool = False) -> Any:
        """One inference: float32 (1, 3, H, W) in, the chosen output alone out.

        Args:
            batch: What `tensors.to_input` gave.
            sparing: Give the runtime's memory back afterwards, where something else will need it.
        """

    def predict(self, rgb: Image.Image, *, fit: Fit | None, rescale: bool | None, stages: StageTimes) -> Image.Image:
        """See `Engine.predict`; the mask comes at the model's own resolution."""
        return self.masks(rgb, (self.wanted_class,), fit=fit, rescale=rescale, stages=stages)[0]

    def masks(
        self, rgb: Image.Image, wanted: Sequence[str], *, fit: Fit | None, rescale: bool | None, stages: StageTimes
    ) -> list[Image.Image]:
        """As `predict`, by one inference: a mask for each of the classes that are wanted, where the model has some."""
        spec = self.spec
        with stages.time("preprocess"):
            batch, place = to_input(rgb, spec, input_size(spec, rgb.size), spec.fit if fit is None else fit)
        with stages.time("inference"):
            output = self.run(batch, sparing=rgb.width * rgb.height >= _LARGE)
        with stages.time("postprocess"):
            rescale = spec.rescale if rescale is None else rescale
            return [to_mask(output, spec, place, rescale=rescale, wanted=name) for name in wanted]


def parse_precision(value: str) -> Precision:
    """`full` or `reduced`.

    Raises:
        UsageError: Neither.
    """
    return _member(Precision, value, "precision")


def parse_engine(value: str) -> EngineName:
    """`auto`, `mnn` or `onnxruntime`.

    Raises:
        UsageError: None of them.
    """
    return _member(EngineName, value, "engine")


def _member(kind: type[_Word], value: str, option: str) -> _Word:
    try:
        return kind(value)
    except ValueError:
        raise UsageError(f"unknown {option} {value!r}", hint=f"known: {', '.join(kind)}", options=(option,)) from None


def unknown_model_option(text: str, hint: str) -> UsageError:
    """The error for an option, as `key=value`, that the model does not have."""
    return UsageError(f"unknown model_option {text}", hint=hint, options=("model_option",))


def closed(spec: ModelSpec) -> ClosedError:
    """The error of a model that is used after it was closed."""
    return ClosedError(f"the model {spec.name} was closed", hint="open it again")


@dataclass(frozen=True, kw_only=True)
class EngineRequest:
    """Which model to open, and how; small, and can be pickled, so that a worker opens its model itself.

    Attributes:
        spec: What `describe` gave.
        device: `auto`, `cpu`, `cuda:1`, …; None asks the environment.
        engine: What is to run it on the processor; None asks `CUTOUT_ENGINE`, then takes `auto`.
        precision: What to compute in.
        options: How devices other than the processor are used.
        model_options: Options of the model itself, such as `{"class": "upper"}`.
        threads: Of one inference on the processor.
        jobs: Inferences side by side.
        memory: Bytes that pictures may take together.

    Raises:
        UsageError: Half precision, or an engine, beside reduced precision; an unknown engine in the environment.
    """

    spec: ModelSpec
    device: str | None = None
    engine: EngineName | None = None
    precision: Precision = Precision.FULL
    options: DeviceOptions = field(default_factory=DeviceOptions)
    model_options: Mapping[str, Any] = field(default_factory=dict)
    threads: int = 1
    jobs: int = 1
    memory: int = sys.maxsize

    def __post_init__(self) -> None:
        if self.options.half and self.precision is Precision.REDUCED:
            raise UsageError(
                "precision reduced and half are two kinds of precision",
                hint="leave out one of them",
                options=("precision", "half"),
            )

        if self.engine is EngineName.MNN and self.precision is Precision.REDUCED:
            raise UsageError(
                "precision reduced runs on OpenVINO, not on MNN",
                hint="leave out one of them",
                options=("precision", "engine"),
            )

    @property
    def chosen_engine(self) -> EngineName:
        """The engine that is asked for, here or by the environment of this process."""
        return self.engine or parse_engine(os.environ.get("CUTOUT_ENGINE") or EngineName.AUTO)

    @property
    def asked(self) -> DeviceRequest:
        """The device that is asked for, here and by the environment of this process."""
        return request_device(self.device, os.environ)


class EngineRow(NamedTuple):
    """An engine that there is.

    Attributes:
        name: For people.
        accepts: Whether it opens what is asked for; the first row that does, does.
        open: Opens it; the second argument is called with a line worth telling.
        prefix: Of the names of those models that are its own, such as `rembg:`.
        ignores: Where device options do nothing, for whom: a format string that may use `model`.
    """

    name: str
    accepts: Callable[[EngineRequest], bool]
    open: Callable[[EngineRequest, Warn], Engine]
    prefix: str = ""
    ignores: str = ""


def _rembg(request: EngineRequest, warn: Warn) -> Engine:
    from cutout.engines.rembg import open_rembg

    return open_rembg(request, warn)


def _reduced(request: EngineRequest, warn: Warn) -> Engine:
    from cutout.engines.openvino import open_reduced

    return open_reduced(request, warn)


def _mnn(request: EngineRequest, warn: Warn) -> Engine:
    from cutout.engines.mnn import open_mnn

    return open_mnn(request, warn)


def _batched(request: EngineRequest, warn: Warn) -> Engine:
    from cutout.engines.batching import open_batched

    return open_batched(request, warn)


def _processor(request: EngineRequest, warn: Warn) -> Engine:
    from cutout.engines.onnxruntime import open_onnx

    return open_onnx(request, warn)


def _wants_more_than_the_processor(request: EngineRequest) -> bool:
    from cutout.engines.runtime import has_accelerator

    devices = request.asked.devices
    if request.options.given or any(device.provider != CPU for device in devices):
        return True
    return not devices and has_accelerator()


def _takes_mnn(request: EngineRequest) -> bool:
    chosen = request.chosen_engine
    if chosen is EngineName.AUTO:
        return find_spec("_mnncengine") is not None and not _wants_more_than_the_processor(request)
    return chosen is EngineName.MNN


ENGINES: list[EngineRow] = [
    EngineRow(
        "rembg",
        lambda request: request.spec.name.startswith("rembg:"),
        _rembg,
        prefix="rembg:",
        ignores="{model}, which rembg runs",
    ),
    EngineRow(
        "OpenVINO, reduced precision",
        lambda request: request.precision is Precision.REDUCED,
        _reduced,
        ignores="--precision reduced, which runs on the CPU",
    ),
    EngineRow("MNN", _takes_mnn, _mnn, ignores="engine mnn, which runs on the CPU"),
    EngineRow("ONNX Runtime, batches", _wants_more_than_the_processor, _batched),
    EngineRow("ONNX Runtime, processor", lambda _request: True, _processor),
]


def describe(model: str | Path, config: Mapping[str, Any] | Path | None = None) -> ModelSpec:
    """What is known of a model before it is opened; without a `file` where its engine has the model itself.

    Raises:
        UsageError: No such model, or a configuration given for one that has its own.
        ModelError: The configuration cannot be read or does not fit.
    """
    name = str(model)
    for row in ENGINES:
        if row.prefix and name.startswith(row.prefix):
            refuse_config(config)
            # how such a model scales pictures is not known; none looks at more than 1024 pixels
            return ModelSpec(name=name, file="", licence=f"see {row.name}", size=None, long_side=1024)
    return resolve_model(model, config)


def open_engine(request: EngineRequest, warn: Warn = lambda _text: None) -> Engine:
    """Open a model with the first engine that accepts the request.

    Raises:
        UsageError: An option that makes no sense.
        ModelError: The model is missing, corrupt, or does not fit its description.
        DeviceError: The asked-for device cannot be used.
    """
    row = next(row for row in ENGINES if row.accepts(request))
    if row.ignores and (given := request.options.given):
        warn(f"nothing comes of {', '.join(given)} with {row.ignores.format(model=request.spec.name)}")
    return row.open(request, warn)
