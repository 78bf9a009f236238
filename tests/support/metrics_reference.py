"""Make tests/data/metrics.json: what other packages say of the pairs of `masks.py`.

    pip install pysodmetrics==1.6.2 opencv-python-headless==4.14.0.94 scikit-image==0.25.2
    pip install --no-deps mmagic==1.2.0
    python tests/support/metrics_reference.py

pysodmetrics gives MAE, F and S; mmagic's gradient and connectivity errors are run as they are, without PyTorch; the
band of the boundary IoU is what OpenCV's erosion leaves. Not a test: the packages are no dependency of ours.
"""

from __future__ import annotations

import json
import sys
import types
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import numpy as np
from masks import CASES, pair


class Base:
    """Stands for mmagic's base class, which needs PyTorch."""

    def __init__(self) -> None:
        self.results: list[dict[str, float]] = []


def mmagic(module: str, name: str) -> Any:
    """A metric of mmagic, imported around its package, whose other modules need PyTorch."""
    package = "mmagic"
    for part in ("mmagic", "mmagic.evaluation", "mmagic.evaluation.metrics", "mmagic.evaluation.functional"):
        if part not in sys.modules:
            folder = next(Path(base) / package for base in sys.path if (Path(base) / package).is_dir())
            made = types.ModuleType(part)
            made.__path__ = [str(folder.joinpath(*part.split(".")[1:]))]
            sys.modules[part] = made
    registry: Any = types.ModuleType("mmagic.registry")
    registry.METRICS = types.SimpleNamespace(register_module=lambda: lambda cls: cls)
    base: Any = types.ModuleType("mmagic.evaluation.metrics.base_sample_wise_metric")
    base.BaseSampleWiseMetric = Base
    sys.modules.update({registry.__name__: registry, base.__name__: base})
    for foreign in ("torch", "torch.nn", "torch.utils", "torch.utils.data", "torch.utils.data.dataloader"):
        sys.modules.setdefault(foreign, MagicMock())
    for foreign in ("mmengine", "mmengine.model"):
        sys.modules.setdefault(foreign, MagicMock())
    functions = import_module("mmagic.evaluation.functional.gaussian_funcs")
    sys.modules["mmagic.evaluation.functional"].gauss_gradient = functions.gauss_gradient  # type: ignore[attr-defined]
    utils: Any = types.ModuleType("mmagic.evaluation.metrics.metrics_utils")
    utils.average = None
    utils._fetch_data_and_check = lambda sample: sample
    sys.modules[utils.__name__] = utils
    return getattr(import_module(f"mmagic.evaluation.metrics.{module}"), name)()


def reference(case: str) -> dict[str, float]:
    """The figures of one pair."""
    cv2, sod = import_module("cv2"), import_module("py_sod_metrics")
    alpha, truth = pair(case)
    pred, right = (np.rint(values * 255).astype(np.uint8) for values in (alpha, truth))
    found: dict[str, float] = {}
    measures = {"mae": sod.MAE(), "s_measure": sod.Smeasure(), "f": sod.Fmeasure()}
    for measure in measures.values():
        measure.step(pred, np.where(right > 127, 255, 0).astype(np.uint8))  # it cuts at 128, we at 127.5
    found["mae_of_binary"] = measures["mae"].get_results()["mae"]
    found["s_measure"] = measures["s_measure"].get_results()["sm"]
    curve = measures["f"].get_results()["fm"]["curve"]
    found["max_f"], found["mean_f"] = curve.max(), curve.mean()
    everywhere = np.full(right.shape, 128)
    for name, module, cls in (
        ("gradient", "gradient_error", "GradientError"),
        ("connectivity", "connectivity_error", "ConnectivityError"),
    ):
        metric = mmagic(module, cls)
        metric.process([], [(alpha + 1e-9, truth + 1e-9, everywhere)])  # its 0.6 is 0.6000000000000001
        found[name] = next(iter(metric.results[0].values()))
    found["boundary_iou"] = boundary(cv2, pred > 127.5, right > 127.5)
    return {name: round(float(value), 7) for name, value in found.items()}


def boundary(cv2: Any, one: Any, other: Any) -> float:
    """Boundary IoU by repeated erosion."""
    times = max(1, round(0.02 * float(np.hypot(*one.shape))))
    bands = []
    for mask in (one, other):
        framed = cv2.copyMakeBorder(mask.astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
        eroded = cv2.erode(framed, np.ones((3, 3), np.uint8), iterations=times)[1:-1, 1:-1]
        bands.append(mask & (eroded == 0))
    return float((bands[0] & bands[1]).sum() / (bands[0] | bands[1]).sum())


if __name__ == "__main__":
    target = Path(__file__).parents[1] / "data" / "metrics.json"
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps({case: reference(case) for case in CASES}, indent=1) + "\n")
