"""One rewrite of an ONNX graph that makes it faster on a CPU: upsampling by a constant whole factor.

ONNX Runtime keeps activations in a blocked layout (NCHWc) that its convolutions like. A `Resize` to constant sizes
makes it leave that layout and return to it; a `Resize` by constant whole scales does not. U²-Net has dozens. The
bytes are edited directly, so that no ONNX library is needed: a message of Protocol Buffers is a list of fields, and all
fields that are not understood here are copied as they are.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["REVISION", "UnknownGraphError", "scale_resizes"]

REVISION = 1
"""Counts changes of what `scale_resizes` writes; part of the key of cached files."""

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_GRAPH, _NODE, _INITIALIZER, _INPUT = 7, 1, 5, 11
_FLOAT, _INT64 = 1, 7


class UnknownGraphError(Exception):
    """The file has something this module does not understand; it is then used as it is."""


def scale_resizes(model: bytes) -> tuple[bytes, int]:
    """Rewrite every linear `Resize` to constant sizes, where that is a whole factor, as one by constant scales.

    Args:
        model: An ONNX file whose constants are folded, with a fixed input size.

    Returns:
        The new file, and how many nodes were rewritten. The outputs agree to float32 rounding.

    Raises:
        UnknownGraphError: The file is no ONNX model, or has something this module does not understand.
    """
    try:
        parts = list(_fields(model))
        graph = next(bytes(value) for number, value in parts if number == _GRAPH and isinstance(value, bytes))
        edited, count = _edit(graph)
    except (IndexError, KeyError, StopIteration, TypeError, ValueError, struct.error) as error:
        raise UnknownGraphError(f"not understood: {error}") from error
    out = [_field(number, edited if number == _GRAPH else value) for number, value in parts]
    return b"".join(out), count


@dataclass(slots=True)
class _Node:
    kind: str = ""
    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    attributes: dict[str, int | bytes | list[int]] = field(default_factory=dict)


Size = tuple[int, int]


def _edit(graph: bytes) -> tuple[bytes, int]:
    parts = list(_fields(graph))
    sizes = {name: size for number, value in parts if number == _INPUT for name, size in _input_size(_raw(value))}
    constants = dict(_constant(_raw(value)) for number, value in parts if number == _INITIALIZER)
    out: list[bytes] = []
    count = 0
    for number, value in parts:
        piece = value
        if number == _NODE:
            node = _read_node(_raw(value))
            scales = _infer(node, sizes, constants)
            if scales is not None:
                name = f"cutout_scales_{count}"
                out.append(_field(_INITIALIZER, _float_tensor(name, (1.0, 1.0, *map(float, scales)))))
                piece = _rewritten(_raw(value), node, name)
                count += 1
        out.append(_field(number, piece))
    return b"".join(out), count


def _infer(node: _Node, sizes: dict[str, Size], constants: dict[str, list[int]]) -> Size | None:
    """Note the size of the node's output; for a `Resize` that can be rewritten, give its whole factors.

    Where an operator is not understood, its output has no known size, and what depends on it is left as it is.
    """
    source = sizes.get(node.inputs[0]) if node.inputs else None
    if source is None:
        return None
    scales = None
    match node.kind:
        case "Conv" | "MaxPool" | "AveragePool":
            source = _windowed(node, source)
        case "Resize":
            target = constants.get(node.inputs[3], [])[2:] if len(node.inputs) > 3 else []
            if len(target) != 2:
                return None
            scales = _factors(node, source, (target[0], target[1]))
            source = (target[0], target[1])
        case "Relu" | "Concat" | "Add" | "Mul" | "Sub" | "Sigmoid" | "BatchNormalization" | "Identity" | "Cast":
            pass
        case _:
            return None
    for name in node.outputs:
        sizes[name] = source
    return scales


def _windowed(node: _Node, source: Size) -> Size:
    if node.attributes.get("auto_pad", b"NOTSET") != b"NOTSET":
        raise ValueError("automatic padding")
    kernel = _ints(node, "kernel_shape", [])
    strides, dilations = _ints(node, "strides", [1, 1]), _ints(node, "dilations", [1, 1])
    pads = _ints(node, "pads", [0, 0, 0, 0])
    up = node.attributes.get("ceil_mode", 0) == 1
    rows, columns = (
        -(-room // strides[axis]) + 1 if up else room // strides[axis] + 1
        for axis in (0, 1)
        if (room := source[axis] + pads[axis] + pads[axis + 2] - dilations[axis] * (kernel[axis] - 1) - 1) >= 0
    )
    return rows, columns


def _factors(node: _Node, source: Size, target: Size) -> Size | None:
    usable = (
        node.attributes.get("mode") == b"linear"
        and node.attributes.get("coordinate_transformation_mode") in {b"half_pixel", b"pytorch_half_pixel"}
        and min(target) > 1  # the two modes differ for a single pixel only
        and not any(target[axis] % source[axis] for axis in (0, 1))
    )
    return (target[0] // source[0], target[1] // source[1]) if usable else None


def _ints(node: _Node, name: str, otherwise: list[int]) -> list[int]:
    value = node.attributes.get(name, otherwise)
    if not isinstance(value, list):
        raise TypeError(name)
    return value or otherwise


def _rewritten(data: bytes, node: _Node, scales: str) -> bytes:
    """The node with its sizes replaced by scales, in the coordinate mode that the blocked kernel knows."""
    pieces = [_field(1, text.encode()) for text in (node.inputs[0], node.inputs[1], scales)]
    for number, value in _fields(data):
        if number == 1:
            continue
        if number == 5 and _attribute(_raw(value))[0] == "coordinate_transformation_mode":
            pieces.append(
                _field(5, _field(1, b"coordinate_transformation_mode") + _field(4, b"half_pixel") + _field(20, 3))
            )
            continue
        pieces.append(_field(number, value))
    return b"".join(pieces)


def _read_node(data: bytes) -> _Node:
    node = _Node()
    for number, value in _fields(data):
        match number:
            case 1:
                node.inputs.append(_raw(value).decode())
            case 2:
                node.outputs.append(_raw(value).decode())
            case 4:
                node.kind = _raw(value).decode()
            case 5:
                name, content = _attribute(_raw(value))
                node.attributes[name] = content
    return node


def _attribute(data: bytes) -> tuple[str, int | bytes | list[int]]:
    name, ints = "", []
    single: int | bytes = 0
    for number, value in _fields(data):
        match number:
            case 1:
                name = _raw(value).decode()
            case 3 | 4:
                single = value
            case 8:
                ints += list(_varints(value)) if isinstance(value, bytes) else [value]
    return name, ints or single


def _constant(data: bytes) -> tuple[str, list[int]]:
    """Name and whole numbers of an initializer; other kinds have none."""
    name, kind, raw, numbers = "", 0, b"", []
    for number, value in _fields(data):
        match number:
            case 2 if isinstance(value, int):
                kind = value
            case 7:
                numbers += list(_varints(value)) if isinstance(value, bytes) else [value]
            case 8:
                name = _raw(value).decode()
            case 9:
                raw = _raw(value)
    if kind == _INT64 and raw:
        numbers = list(struct.unpack(f"<{len(raw) // 8}q", raw))
    return name, numbers if kind == _INT64 else []


def _input_size(data: bytes) -> Iterator[tuple[str, Size]]:
    """Name, height and width of a graph input of four fixed dimensions."""
    name, dims = "", []
    for number, value in _fields(data):
        if number == 1:
            name = _raw(value).decode()
        elif number == 2:
            tensor = next((_raw(item) for key, item in _fields(_raw(value)) if key == 1), b"")
            shape = next((_raw(item) for key, item in _fields(tensor) if key == 2), b"")
            for key, item in _fields(shape):
                if key == 1:
                    dims.append(next((size for part, size in _fields(_raw(item)) if part == 1), 0))
    if len(dims) == 4 and isinstance(dims[2], int) and isinstance(dims[3], int) and min(dims[2], dims[3]) > 0:
        yield name, (dims[2], dims[3])


def _float_tensor(name: str, values: tuple[float, ...]) -> bytes:
    return (
        _field(1, len(values))
        + _field(2, _FLOAT)
        + _field(8, name.encode())
        + _field(9, struct.pack(f"<{len(values)}f", *values))
    )


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The fields of a message: number, and a whole number or bytes. Fixed-width values come as tagged bytes."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        number, wire = key >> 3, key & 7
        if wire == _VARINT:
            whole, at = _varint(data, at)
            yield number, whole
        elif wire == _BYTES:
            length, at = _varint(data, at)
            if at + length > len(data):
                raise ValueError("cut short")
            yield number, data[at : at + length]
            at += length
        elif wire in (_FIXED32, _FIXED64):
            length = 4 if wire == _FIXED32 else 8
            yield number, _Fixed(data[at : at + length])
            at += length
        else:
            raise ValueError(f"wire type {wire}")


class _Fixed(bytes):
    """A value of 4 or 8 bytes, written back without a length."""


def _field(number: int, value: int | bytes) -> bytes:
    if isinstance(value, int):
        return _to_varint(number << 3 | _VARINT) + _to_varint(value)
    if isinstance(value, _Fixed):
        return _to_varint(number << 3 | (_FIXED32 if len(value) == 4 else _FIXED64)) + value
    return _to_varint(number << 3 | _BYTES) + _to_varint(len(value)) + value


def _raw(value: int | bytes) -> bytes:
    if not isinstance(value, bytes):
        raise TypeError("a number where a message was expected")
    return value


def _varint(data: bytes, at: int) -> tuple[int, int]:
    result = shift = 0
    while True:
        byte = data[at]
        at += 1
        result |= (byte & 0x7F) << shift
        if byte < 0x80:
            return result, at
        shift += 7


def _varints(data: bytes) -> Iterator[int]:
    at = 0
    while at < len(data):
        value, at = _varint(data, at)
        yield value


def _to_varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
