"""The bytes of ONNX files: fields, nodes and tensors, without an ONNX library.

A message of Protocol Buffers is a list of numbered fields. What is not understood here is copied as it is.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy.typing as npt

__all__ = [
    "ATTRIBUTE",
    "GRAPH",
    "INITIALIZER",
    "INPUT",
    "NODE",
    "OUTPUT",
    "Node",
    "Tensor",
    "UnknownGraphError",
    "attribute",
    "edited",
    "field",
    "fields",
    "float_tensor",
    "input_shape",
    "make_node",
    "raw",
    "read_node",
    "read_tensor",
    "value_name",
]

GRAPH = 7
"""Field of a model."""
NODE, INITIALIZER, INPUT, OUTPUT = 1, 5, 11, 12
"""Fields of a graph."""
ATTRIBUTE = 5
"""Field of a node."""

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_FLOAT, _INT64 = 1, 7


class UnknownGraphError(Exception):
    """The file has something that is not understood here; it is then used as it is."""


def edited(model: bytes, edit: Callable[[bytes], bytes]) -> bytes:
    """The model with its graph edited.

    Raises:
        UnknownGraphError: The file is no ONNX model, or has something that is not understood.
    """
    try:
        parts = list(fields(model))
        if not any(number == GRAPH for number, _ in parts):
            raise ValueError("no graph")
        return b"".join(field(number, edit(raw(value)) if number == GRAPH else value) for number, value in parts)
    except (IndexError, KeyError, TypeError, ValueError, struct.error) as error:
        raise UnknownGraphError(f"not understood: {error}") from error


@dataclass(slots=True)
class Node:
    """An operator: what it reads and writes, and those of its attributes that are whole numbers or strings."""

    kind: str = ""
    inputs: list[str] = dataclass_field(default_factory=list)
    outputs: list[str] = dataclass_field(default_factory=list)
    attributes: dict[str, int | bytes | list[int]] = dataclass_field(default_factory=dict)

    def ints(self, name: str, otherwise: list[int]) -> list[int]:
        """An attribute that is a list of whole numbers."""
        value = self.attributes.get(name, otherwise)
        if not isinstance(value, list):
            raise TypeError(name)
        return value or otherwise


@dataclass(frozen=True, slots=True)
class Tensor:
    """A constant of the graph; `content` is its raw bytes, empty where it is stored otherwise."""

    name: str
    kind: int
    shape: tuple[int, ...]
    content: bytes
    whole: tuple[int, ...] = ()

    @property
    def ints(self) -> list[int]:
        """Its values, where they are 64-bit whole numbers."""
        if self.kind != _INT64:
            return []
        return list(struct.unpack(f"<{len(self.content) // 8}q", self.content)) if self.content else list(self.whole)

    @property
    def floats(self) -> npt.NDArray[np.float32] | None:
        """Its values, where they are float32 and stored as raw bytes."""
        if self.kind != _FLOAT or not self.content:
            return None
        return np.frombuffer(self.content, "<f4").reshape(self.shape)


def read_node(data: bytes) -> Node:
    """An operator."""
    node = Node()
    for number, value in fields(data):
        match number:
            case 1:
                node.inputs.append(raw(value).decode())
            case 2:
                node.outputs.append(raw(value).decode())
            case 4:
                node.kind = raw(value).decode()
            case 5:
                name, content = attribute(raw(value))
                node.attributes[name] = content
    return node


def attribute(data: bytes) -> tuple[str, int | bytes | list[int]]:
    """Name and value of an attribute."""
    name, ints = "", []
    single: int | bytes = 0
    for number, value in fields(data):
        match number:
            case 1:
                name = raw(value).decode()
            case 3 | 4:
                single = value
            case 8:
                ints += list(_varints(value)) if isinstance(value, bytes) else [value]
    return name, ints or single


def read_tensor(data: bytes) -> Tensor:
    """An initializer."""
    name, kind, content = "", 0, b""
    shape: list[int] = []
    whole: list[int] = []
    for number, value in fields(data):
        match number:
            case 1:
                shape += list(_varints(value)) if isinstance(value, bytes) else [value]
            case 2 if isinstance(value, int):
                kind = value
            case 7:
                whole += list(_varints(value)) if isinstance(value, bytes) else [value]
            case 8:
                name = raw(value).decode()
            case 9:
                content = raw(value)
    return Tensor(name, kind, tuple(shape), content, tuple(whole))


def value_name(data: bytes) -> str:
    """The name of a graph input or output."""
    return next((raw(value).decode() for number, value in fields(data) if number == 1), "")


def input_shape(data: bytes) -> Iterator[tuple[str, tuple[int, int, int]]]:
    """Name, and channels, height and width, of a graph input of four dimensions whose sides are fixed."""
    dims: list[int] = []
    for number, value in fields(data):
        if number == 2:
            tensor = next((raw(item) for key, item in fields(raw(value)) if key == 1), b"")
            shape = next((raw(item) for key, item in fields(tensor) if key == 2), b"")
            for key, item in fields(shape):
                if key == 1:
                    size = next((size for part, size in fields(raw(item)) if part == 1), 0)
                    dims.append(size if isinstance(size, int) else 0)
    if len(dims) == 4 and min(dims[2:]) > 0:
        yield value_name(data), (dims[1], dims[2], dims[3])


def float_tensor(name: str, values: npt.NDArray[np.float32]) -> bytes:
    """An initializer."""
    return (
        b"".join(field(1, size) for size in values.shape)
        + field(2, _FLOAT)
        + field(8, name.encode())
        + field(9, values.astype("<f4").tobytes())
    )


def make_node(kind: str, inputs: list[str], output: str, attributes: list[bytes]) -> bytes:
    """An operator, named by its output; attributes as `field(ATTRIBUTE, …)` holds them."""
    return b"".join(
        [
            *(field(1, name.encode()) for name in inputs),
            field(2, output.encode()),
            field(3, output.encode()),
            field(4, kind.encode()),
            *(field(ATTRIBUTE, content) for content in attributes),
        ]
    )


def fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
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


def field(number: int, value: int | bytes) -> bytes:
    """A field, as bytes."""
    if isinstance(value, int):
        return _to_varint(number << 3 | _VARINT) + _to_varint(value)
    if isinstance(value, _Fixed):
        return _to_varint(number << 3 | (_FIXED32 if len(value) == 4 else _FIXED64)) + value
    return _to_varint(number << 3 | _BYTES) + _to_varint(len(value)) + value


def raw(value: int | bytes) -> bytes:
    """A field that must be bytes."""
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
