"""The graph rewrite: the same outputs, and nothing touched that is not understood."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from cutout.engines.graphs.cpu import rewrite
from cutout.engines.graphs.onnx_bytes import UnknownGraphError

MODEL = Path(__file__).parents[2] / "src" / "cutout" / "models" / "weights" / "u2netp.onnx"


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
    edited, counts = rewrite((tmp_path / "folded.onnx").read_bytes())
    assert counts == {"resize": 33, "concat": 5, "taps": 6}
    onnx.checker.check_model(onnx.load_from_string(edited))
    batch = np.random.default_rng(0).normal(size=(1, 3, 320, 320)).astype(np.float32)
    for before, after in zip(outputs(str(MODEL), batch), outputs(edited, batch), strict=True):
        assert np.abs(before - after).max() < 2e-5  # a mask has steps of 4e-3


@pytest.mark.parametrize("target", [(16, 16), (24, 16), (64, 32)])
@pytest.mark.parametrize("coordinates", ["pytorch_half_pixel", "half_pixel"])
def test_whole_factors_are_rewritten(target: tuple[int, int], coordinates: str) -> None:
    model = resize_graph(target, coordinates=coordinates)
    edited, counts = rewrite(model)
    assert counts == {"resize": 1}
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
    edited, counts = rewrite(model)
    assert not counts
    assert onnx.load_from_string(edited) == onnx.load_from_string(model)


@pytest.mark.parametrize("cut", [0, 1, 100, 4000])
def test_what_is_no_model_is_refused(cut: int) -> None:
    with pytest.raises(UnknownGraphError):
        rewrite(MODEL.read_bytes()[:cut])


def joined_graph(parts: tuple[int, ...], *, kernels: int = 32, read_twice: bool = False, groups: int = 1) -> bytes:
    """Convolutions that are joined, and a convolution over all of them."""
    random = np.random.default_rng(2)
    nodes, initializers = [], []
    for number, count in enumerate(parts):
        initializers.append(
            numpy_helper.from_array(random.normal(size=(count, 3, 1, 1)).astype(np.float32), f"w{number}")
        )
        nodes.append(helper.make_node("Conv", ["in", f"w{number}"], [f"part{number}"], kernel_shape=[1, 1]))
    weights = random.normal(size=(kernels, sum(parts) // groups, 3, 3)).astype(np.float32)
    initializers += [
        numpy_helper.from_array(weights, "weights"),
        numpy_helper.from_array(random.normal(size=kernels).astype(np.float32), "bias"),
    ]
    nodes += [
        helper.make_node("Concat", [f"part{number}" for number in range(len(parts))], ["joined"], axis=1),
        helper.make_node(
            "Conv",
            ["joined", "weights", "bias"],
            ["summed"],
            pads=[2, 2, 2, 2],
            dilations=[2, 2],
            kernel_shape=[3, 3],
            group=groups,
        ),
        helper.make_node("Relu", ["summed"], ["out"]),
    ]
    results = [helper.make_tensor_value_info("out", TensorProto.FLOAT, [1, kernels, 8, 8])]
    if read_twice:
        results.append(helper.make_tensor_value_info("joined", TensorProto.FLOAT, [1, sum(parts), 8, 8]))
    source = [helper.make_tensor_value_info("in", TensorProto.FLOAT, [1, 3, 8, 8])]
    graph = helper.make_graph(nodes, "g", source, results, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    return bytes(model.SerializeToString())


@pytest.mark.parametrize("parts", [(64, 64), (16, 48, 96), (128, 16)])
def test_a_convolution_over_a_wide_concat_becomes_a_sum(parts: tuple[int, ...]) -> None:
    model = joined_graph(parts)
    edited, counts = rewrite(model)
    assert counts == {"concat": 1}
    read = onnx.load_from_string(edited)
    onnx.checker.check_model(read)
    assert "Concat" not in {node.op_type for node in read.graph.node}
    assert "weights" not in {tensor.name for tensor in read.graph.initializer}
    batch = np.random.default_rng(1).normal(size=(1, 3, 8, 8)).astype(np.float32)
    np.testing.assert_allclose(outputs(edited, batch)[0], outputs(model, batch)[0], atol=2e-4, rtol=1e-5)


@pytest.mark.parametrize(
    "model",
    [
        joined_graph((16, 16)),
        joined_graph((64, 72)),
        joined_graph((64, 64), read_twice=True),
        joined_graph((64, 64), groups=2),
    ],
    ids=["narrow", "no whole blocks", "read elsewhere too", "groups"],
)
def test_other_concats_are_left_as_they_are(model: bytes) -> None:
    edited, counts = rewrite(model)
    assert not counts
    assert onnx.load_from_string(edited) == onnx.load_from_string(model)


@pytest.mark.parametrize(("channels", "kernels", "expected"), [(64, 1, 1), (64, 2, 0), (16, 1, 0)])
def test_a_convolution_to_one_channel_is_taken_apart_by_taps(channels: int, kernels: int, expected: int) -> None:
    random = np.random.default_rng(3)
    tensors = {
        "w0": random.normal(size=(channels, 3, 1, 1)),
        "w1": random.normal(size=(kernels, channels, 3, 3)),
        "bias": random.normal(size=kernels),
    }
    nodes = [
        helper.make_node("Conv", ["in", "w0"], ["middle"], kernel_shape=[1, 1]),
        helper.make_node("Conv", ["middle", "w1", "bias"], ["out"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("in", TensorProto.FLOAT, [1, 3, 9, 7])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, [1, kernels, 9, 7])],
        [numpy_helper.from_array(values.astype(np.float32), name) for name, values in tensors.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8).SerializeToString()
    edited, counts = rewrite(model)
    assert counts["taps"] == expected
    onnx.checker.check_model(onnx.load_from_string(edited))
    batch = random.normal(size=(1, 3, 9, 7)).astype(np.float32)
    np.testing.assert_allclose(outputs(edited, batch)[0], outputs(model, batch)[0], atol=1e-4, rtol=1e-5)
