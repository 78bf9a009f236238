"""Engines are rows: one more is used by everything that opens models; a request travels to other processes."""

from __future__ import annotations

import pickle
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from cutout.engines import base
from cutout.engines.base import Engine, EngineRequest, EngineRow, TensorEngine, closed, describe, open_engine
from cutout.engines.batching import BatchedEngine
from cutout.engines.onnxruntime import OnnxEngine
from cutout.enums import Precision
from cutout.errors import ClosedError, UsageError
from cutout.evaluate.predictors import Sample, open_predictors
from cutout.formats.decode import Picture
from cutout.models.registry import MODELS
from cutout.options import DeviceOptions, RemoveOptions
from cutout.pipeline.remover import Remover

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from cutout.models.registry import ModelSpec


class Threshold(TensorEngine):
    """What is brighter than the middle grey."""

    device = "toy"
    open_ones = 0

    def __init__(self, spec: ModelSpec) -> None:
        self.spec = spec
        self._closed = False
        Threshold.open_ones += 1

    def run(self, batch: Any, *, sparing: bool = False) -> Any:
        if self._closed:
            raise closed(self.spec)
        return (batch.mean(axis=1, keepdims=True) > 0).astype(np.float32)

    def close(self) -> None:
        Threshold.open_ones -= not self._closed
        self._closed = True


def open_toy(request: EngineRequest, warn: Callable[[str], None]) -> Engine:
    warn(f"toys run with {request.threads} threads")
    return Threshold(request.spec)


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> EngineRow:
    """One more engine, by one row."""
    row = EngineRow("toy", lambda request: request.spec.name.startswith("toy:"), open_toy, prefix="toy:")
    monkeypatch.setattr(base, "ENGINES", [row, *base.ENGINES])
    monkeypatch.setattr(Threshold, "open_ones", 0)
    return row


def halves() -> Image.Image:
    image = Image.new("RGB", (64, 32))
    image.paste((255, 255, 255), (32, 0, 64, 32))
    return image


def test_a_new_engine_cuts_pictures_out_by_one_row(toy: EngineRow) -> None:
    said: list[str] = []
    with Remover("toy:threshold", jobs=1, warn=said.append) as remover:
        assert (remover.model, remover.device, remover.batch) == ("toy:threshold", "toy", 1)
        alpha = np.asarray(remover.cut(Picture(rgb=halves())).alpha)
        assert alpha[:, :24].max() == 0
        assert alpha[:, 40:].min() == 255
    (line,) = said
    assert line.startswith("toys run")
    assert Threshold.open_ones == 0
    with pytest.raises(ClosedError):
        remover.cut(Picture(rgb=halves()))


def test_scores_and_comparisons_know_it_too(toy: EngineRow, tmp_path: Path) -> None:
    halves().save(tmp_path / "a.png")
    (predictor,) = open_predictors(["toy:threshold"], [], RemoveOptions())
    assert predictor.name == "toy:threshold"
    with predictor.open() as cut:
        assert cut(Sample(tmp_path / "a.png", "a")).size == (64, 32)
        assert Threshold.open_ones == 1
    assert Threshold.open_ones == 0


def test_a_model_of_an_engine_has_no_configuration(toy: EngineRow) -> None:
    assert describe("toy:any").file == ""
    with pytest.raises(UsageError, match="model_config describes"):
        describe("toy:any", {"size": 64})


@pytest.mark.parametrize(
    ("request_", "kind"),
    [
        (EngineRequest(spec=MODELS["u2netp"], device="cpu"), OnnxEngine),
        (EngineRequest(spec=MODELS["u2netp"], device="cpu", options=DeviceOptions(batch=2)), BatchedEngine),
    ],
)
def test_each_request_finds_its_engine(request_: EngineRequest, kind: type[Engine]) -> None:
    with open_engine(request_) as engine:
        assert type(engine) is kind
        assert engine.device == "cpu"
        assert engine.precision is Precision.FULL


def test_two_kinds_of_precision_are_refused_before_anything_is_opened() -> None:
    with pytest.raises(UsageError, match="two kinds of precision"):
        EngineRequest(spec=MODELS["u2netp"], precision=Precision.REDUCED, options=DeviceOptions(half=True))


def test_another_process_opens_its_model_from_the_request() -> None:
    request = EngineRequest(spec=MODELS["u2netp"], device="cpu", options=DeviceOptions(cpu_fallback=True), threads=1)
    data = pickle.dumps(request)
    assert len(data) < 2000
    assert pickle.loads(data) == request
    code = (
        "import pickle, sys\n"
        "from cutout.engines.base import open_engine\n"
        "with open_engine(pickle.load(sys.stdin.buffer), lambda text: None) as engine:\n"
        "    print(engine.spec.name, engine.device)"
    )
    done = subprocess.run([sys.executable, "-c", code], input=data, capture_output=True, check=True, timeout=60)
    assert done.stdout.split() == [b"u2netp", b"cpu"]
