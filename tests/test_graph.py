"""The graph rewrite: the same outputs, and nothing touched that is not understood."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from cutout.graph import UnknownGraphError, scale_resizes

MODEL = Path(__file__).parent.parent / "src" / "cutout" / "weights" / "u2netp.onnx"


def session(model: str | bytes, folded: Path | None = None) -> onnxruntime.InferenceSession:
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 4
    if folded is not None:
        settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        settings.optimized_model_filepath = str(folded)
    return onnxruntime.InferenceSession(model, settings, providers=["CPUExecutionProvider"])


def outputs(model: str | bytes, batch: np.ndarray) -> list[np.ndarray]:
    opened = session(model)
    return [np.asarray(value) for value in opened.run(None, {opened.get_inputs()[0].name: batch})]


def resize_graph(
    target: tuple[int, int], *, mode: str = "linear", coordinates: str = "pytorch_half_pixel", source: int = 8
) -> bytes:
    """A convolution and a resize to constant sizes, as exporters of opset 11 write it."""
    weights = np.random.default_rng(0).normal(size=(16, 3, 3, 3)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["in", "weights"], ["middle"], pads=[1, 1, 1, 1], kernel_shape=[3, 3]),
        helper.make_node(
            "Resize",
            ["middle", "roi", "roi", "sizes"],
            ["out"],
            mode=mode,
            coordinate_transformation_mode=coordinates,
            cubic_coeff_a=-0.75,
        ),
    ]
    initializers = [
        numpy_helper.from_array(weights, "weights"),
        numpy_helper.from_array(np.zeros(0, np.float32), "roi"),
        numpy_helper.from_array(np.array([1, 16, *target], np.int64), "sizes"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("in", TensorProto.FLOAT, [1, 3, source, source])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, [1, 16, *target])],
        initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=8)
    return bytes(model.SerializeToString())


def test_the_embedded_model_gives_the_same_seven_outputs(tmp_path: Path) -> None:
    session(str(MODEL), tmp_path / "folded.onnx")
    edited, count = scale_resizes((tmp_path / "folded.onnx").read_bytes())
    assert count == 38
    onnx.checker.check_model(onnx.load_from_string(edited))
    batch = np.random.default_rng(0).normal(size=(1, 3, 320, 320)).astype(np.float32)
    for before, after in zip(outputs(str(MODEL), batch), outputs(edited, batch), strict=True):
        assert np.abs(before - after).max() < 2e-5  # a mask has steps of 4e-3


@pytest.mark.parametrize("target", [(16, 16), (24, 16), (64, 32)])
@pytest.mark.parametrize("coordinates", ["pytorch_half_pixel", "half_pixel"])
def test_whole_factors_are_rewritten(target: tuple[int, int], coordinates: str) -> None:
    model = resize_graph(target, coordinates=coordinates)
    edited, count = scale_resizes(model)
    assert count == 1
    batch = np.random.default_rng(1).normal(size=(1, 3, 8, 8)).astype(np.float32)
    np.testing.assert_allclose(outputs(edited, batch)[0], outputs(model, batch)[0], atol=1e-5)


@pytest.mark.parametrize(
    "model",
    [
        resize_graph((12, 12)),
        resize_graph((4, 4)),
        resize_graph((16, 16), mode="nearest", coordinates="asymmetric"),
        resize_graph((16, 16), coordinates="align_corners"),
        resize_graph((1, 1), source=1),
    ],
    ids=["no whole factor", "smaller", "nearest", "align_corners", "one pixel"],
)
def test_other_resizes_are_left_as_they_are(model: bytes) -> None:
    edited, count = scale_resizes(model)
    assert count == 0
    assert onnx.load_from_string(edited) == onnx.load_from_string(model)


@pytest.mark.parametrize("cut", [0, 1, 100, 4000])
def test_what_is_no_model_is_refused(cut: int) -> None:
    with pytest.raises(UnknownGraphError):
        scale_resizes(MODEL.read_bytes()[:cut])
