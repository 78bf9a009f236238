"""Rewrites of an ONNX graph that make it faster and smaller on a CPU, with the same results.

ONNX Runtime keeps activations in a blocked layout (NCHWc, 16 channels side by side) that its convolutions like. What is
mended here is what U²-Net and its kin do against it:

- A `Resize` to constant sizes makes the runtime leave that layout and return to it; one by constant whole scales does
  not. Maps of one channel are the exception: blocked, they take 16 times their room.
- A convolution over a `Concat` is the sum of convolutions over its parts, which the runtime adds up in place: the
  joined copy, the largest of all activations, is never made.
- A 3×3 convolution to one channel computes 16. A 1×1 convolution to nine channels (one for each tap) and a sum of
  these nine, each shifted by its tap, is a quarter of the work.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from cutout.engines.graphs import onnx_bytes as ob

if TYPE_CHECKING:
    from cutout.engines.graphs.onnx_bytes import Node, Tensor

__all__ = ["rewrite"]

_BLOCK = 16
_WIDE = 128
"""Channels from which dissolving a `Concat` pays: below, it makes no difference."""
_DEEP = 32
"""Input channels from which the nine taps pay."""

Shape = tuple[int, int, int]
"""Channels (0: not known), height, width."""


def rewrite(model: bytes) -> tuple[bytes, Counter[str]]:
    """Rewrite what the text at the top of this module lists.

    Args:
        model: An ONNX file whose constants are folded, with a fixed input size.

    Returns:
        The new file, and how often each kind of rewrite (`resize`, `concat`, `taps`) was made. The outputs agree to
        float32 rounding.

    Raises:
        UnknownGraphError: The file is no ONNX model, or has something this module does not understand.
    """
    counts: Counter[str] = Counter()
    return ob.edited(model, lambda graph: _edit(graph, counts)), counts


@dataclass(slots=True)
class _Graph:
    """What is known of the graph while its nodes are walked in order.

    Attributes:
        constants: Initializers by name.
        readers: How many nodes (and the graph's outputs) read a value.
        shapes: Of the values that are known so far.
        counts: Rewrites made, by kind.
        joined: The inputs of every `Concat` of channels, by its output.
        dropped: What nobody reads any more: joined values, and weights that were taken apart.
        added: New initializers and nodes.
    """

    constants: dict[str, Tensor]
    readers: Counter[str]
    shapes: dict[str, Shape]
    counts: Counter[str]
    joined: dict[str, list[str]] = field(default_factory=dict)
    dropped: set[str] = field(default_factory=set)
    added: list[bytes] = field(default_factory=list)

    def add(self, name: str, values: np.ndarray) -> str:
        self.added.append(ob.field(ob.INITIALIZER, ob.float_tensor(name, values)))
        return name

    def drop_weights(self, node: Node) -> None:
        if self.readers[node.inputs[1]] == 1:
            self.dropped.add(node.inputs[1])


def _edit(data: bytes, counts: Counter[str]) -> bytes:
    parts = list(ob.fields(data))
    tensors = [ob.read_tensor(ob.raw(value)) for number, value in parts if number == ob.INITIALIZER]
    nodes = [ob.read_node(ob.raw(value)) for number, value in parts if number == ob.NODE]
    readers = Counter(name for node in nodes for name in node.inputs)
    readers.update(ob.value_name(ob.raw(value)) for number, value in parts if number == ob.OUTPUT)
    shapes = {
        name: shape for number, value in parts if number == ob.INPUT for name, shape in ob.input_shape(ob.raw(value))
    }
    graph = _Graph({tensor.name: tensor for tensor in tensors}, readers, shapes, counts)
    out: list[tuple[str, bytes]] = []  # each with the value that it makes, where it may still be dropped
    names = iter(tensors)
    upcoming = iter(nodes)
    for number, value in parts:
        if number != ob.NODE:
            out.append((next(names).name if number == ob.INITIALIZER else "", ob.field(number, value)))
            continue
        node = next(upcoming)
        pieces = _rewritten(node, ob.raw(value), graph)
        out += [("", piece) for piece in graph.added]
        graph.added.clear()
        made = node.outputs[0] if node.kind == "Concat" else ""
        out += [(made, ob.field(ob.NODE, piece)) for piece in pieces or [ob.raw(value)]]
    return b"".join(piece for made, piece in out if not made or made not in graph.dropped)


def _rewritten(node: Node, data: bytes, graph: _Graph) -> list[bytes]:
    """Note the shape of the node's output, and give the nodes that replace it, if any.

    Where an operator is not understood, its output has no known shape, and what depends on it is left as it is.
    """
    known = [graph.shapes.get(name) for name in node.inputs]
    source = known[0] if known else None
    if source is None:
        return []
    pieces: list[bytes] = []
    match node.kind:
        case "Conv":
            kernel = graph.constants.get(node.inputs[1])
            pieces = _convolution(node, data, graph)
            source = (kernel.shape[0] if kernel else 0, *_windowed(node, source))
        case "MaxPool" | "AveragePool":
            source = (source[0], *_windowed(node, source))
        case "Resize":
            sizes = graph.constants.get(node.inputs[3]) if len(node.inputs) > 3 else None
            target = sizes.ints[2:] if sizes else []
            if len(target) != 2:
                return []
            pieces = _resize(node, data, source, (target[0], target[1]), graph)
            source = (source[0], target[0], target[1])
        case "Concat":
            if node.attributes.get("axis") == 1 and all(known):
                graph.joined[node.outputs[0]] = node.inputs
            channels = [shape[0] if shape else 0 for shape in known]
            source = (sum(channels) if all(channels) else 0, source[1], source[2])
        case "Relu" | "Add" | "Mul" | "Sub" | "Sigmoid" | "BatchNormalization" | "Identity" | "Cast":
            pass
        case _:
            return []
    for name in node.outputs:
        graph.shapes[name] = source
    return pieces


def _windowed(node: Node, source: Shape) -> tuple[int, int]:
    if node.attributes.get("auto_pad", b"NOTSET") != b"NOTSET":
        raise ValueError("automatic padding")
    kernel = node.ints("kernel_shape", [])
    strides, dilations = node.ints("strides", [1, 1]), node.ints("dilations", [1, 1])
    pads = node.ints("pads", [0, 0, 0, 0])
    up = node.attributes.get("ceil_mode", 0) == 1
    rows, columns = (
        -(-room // strides[axis]) + 1 if up else room // strides[axis] + 1
        for axis in (0, 1)
        if (room := source[1 + axis] + pads[axis] + pads[axis + 2] - dilations[axis] * (kernel[axis] - 1) - 1) >= 0
    )
    return rows, columns


def _resize(node: Node, data: bytes, source: Shape, target: tuple[int, int], graph: _Graph) -> list[bytes]:
    usable = (
        source[0] != 1
        and node.attributes.get("mode") == b"linear"
        and node.attributes.get("coordinate_transformation_mode") in {b"half_pixel", b"pytorch_half_pixel"}
        and min(target) > 1  # the two modes differ for a single pixel only
        and not any(target[axis] % source[1 + axis] for axis in (0, 1))
    )
    if not usable:
        return []
    scales = np.array([1, 1, target[0] // source[1], target[1] // source[2]], np.float32)
    name = graph.add(f"cutout_scales_{node.outputs[0]}", scales)
    graph.counts["resize"] += 1
    mode = ob.field(1, b"coordinate_transformation_mode") + ob.field(4, b"half_pixel") + ob.field(20, 3)
    kept = _attributes(data, without="coordinate_transformation_mode")
    return [ob.make_node("Resize", [*node.inputs[:2], name], node.outputs[0], [mode, *kept])]


def _convolution(node: Node, data: bytes, graph: _Graph) -> list[bytes]:
    kernel = graph.constants.get(node.inputs[1])
    weights = kernel.floats if kernel else None
    if weights is None or weights.ndim != 4 or node.attributes.get("group", 1) != 1:
        return []
    parts = graph.joined.get(node.inputs[0], [])
    if weights.shape[1] >= _WIDE and graph.readers[node.inputs[0]] == 1 and len(set(parts)) == len(parts) > 1:
        channels = [graph.shapes[part][0] for part in parts]
        if sum(channels) == weights.shape[1] and not any(count % _BLOCK for count in channels):
            return _over_parts(node, data, weights, dict(zip(parts, channels, strict=True)), graph)
    plain = (
        node.ints("pads", []) == [1, 1, 1, 1]
        and node.ints("strides", [1, 1]) == [1, 1]
        and node.ints("dilations", [1, 1]) == [1, 1]
    )
    if plain and weights.shape[0] == 1 and weights.shape[1] >= _DEEP and weights.shape[2:] == (3, 3):
        return _over_taps(node, weights, graph)
    return []


def _over_parts(node: Node, data: bytes, weights: np.ndarray, channels: dict[str, int], graph: _Graph) -> list[bytes]:
    """A convolution for each part of what was joined; the first has the bias, the others are added to it."""
    target = node.outputs[0]
    graph.dropped.add(node.inputs[0])
    graph.drop_weights(node)
    graph.counts["concat"] += 1
    kept = _attributes(data)
    nodes: list[bytes] = []
    at, total = 0, ""
    for number, (part, count) in enumerate(channels.items()):
        name = f"{target}_part{number}"
        kernel = graph.add(f"{name}_weights", weights[:, at : at + count])
        at += count
        nodes.append(ob.make_node("Conv", [part, kernel, *(node.inputs[2:] if not number else [])], name, kept))
        if not total:
            total = name
            continue
        added = target if number == len(channels) - 1 else f"{target}_sum{number}"
        nodes.append(ob.make_node("Add", [total, name], added, []))
        total = added
    return nodes


def _over_taps(node: Node, weights: np.ndarray, graph: _Graph) -> list[bytes]:
    target = node.outputs[0]
    graph.drop_weights(node)
    graph.counts["taps"] += 1
    taps = np.ascontiguousarray(weights[0].transpose(1, 2, 0)).reshape(9, -1, 1, 1)
    shift = np.eye(9, dtype=np.float32).reshape(1, 9, 3, 3)  # tap t of channel t
    middle = f"{target}_taps"
    return [
        ob.make_node(
            "Conv", [node.inputs[0], graph.add(f"{middle}_weights", taps)], middle, [_ints("kernel_shape", 1, 1)]
        ),
        ob.make_node(
            "Conv",
            [middle, graph.add(f"{target}_shift", shift), *node.inputs[2:]],
            target,
            [_ints("kernel_shape", 3, 3), _ints("pads", 1, 1, 1, 1)],
        ),
    ]


def _attributes(data: bytes, *, without: str = "") -> list[bytes]:
    contents = (ob.raw(value) for number, value in ob.fields(data) if number == ob.ATTRIBUTE)
    return [content for content in contents if ob.attribute(content)[0] != without]


def _ints(name: str, *values: int) -> bytes:
    """An attribute that is a list of whole numbers."""
    return ob.field(1, name.encode()) + b"".join(ob.field(8, value) for value in values) + ob.field(20, 7)
