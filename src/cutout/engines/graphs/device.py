"""Rewrites of an ONNX graph for accelerators: its batch axis made free, and half precision.

The bytes are edited directly, as in `cpu`. Whether the result is still right is for the caller to check: a graph may
have its batch of 1 written into constants.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cutout.engines.graphs import onnx_bytes as ob

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["free_batch", "to_half"]

_AXIS = "cutout_batch"
"""The name that the free axis gets."""

_VALUE_INFO = 13
_FLOAT, _HALF = 1, 10
_LARGEST = 65504.0
_SUFFIX = ":half"
_EXACT = ":exact"


def free_batch(model: bytes) -> bytes:
    """The model with the first axis of its inputs and outputs free; what it says of sizes in between is left out.

    Raises:
        UnknownGraphError: The file is no ONNX model.
    """
    return ob.edited(model, _free_graph)


def _free_graph(data: bytes) -> bytes:
    parts = list(ob.fields(data))
    constants = {_text(ob.raw(value), 8) for number, value in parts if number == ob.INITIALIZER}
    out = []
    for number, value in parts:
        if number == _VALUE_INFO:
            continue
        piece = value
        if number == ob.OUTPUT or (number == ob.INPUT and _text(ob.raw(value), 1) not in constants):
            piece = _inside(ob.raw(value), (2, 1, 2), _free_first)
        out.append(ob.field(number, piece))
    return b"".join(out)


def _inside(data: bytes, way: tuple[int, ...], edit: Callable[[bytes], bytes]) -> bytes:
    """The message with the one below it, at the end of a way of field numbers, edited."""
    if not way:
        return edit(data)
    return b"".join(
        ob.field(number, _inside(ob.raw(value), way[1:], edit) if number == way[0] else value)
        for number, value in ob.fields(data)
    )


def _free_first(shape: bytes) -> bytes:
    dims = list(ob.fields(shape))
    return b"".join(
        ob.field(number, ob.field(2, _AXIS.encode()) if place == 0 else value)
        for place, (number, value) in enumerate(dims)
    )


def to_half(model: bytes, precise: frozenset[str] = frozenset()) -> bytes:
    """The model computing in float16; its inputs and outputs keep their type.

    Args:
        model: An ONNX file.
        precise: Names of nodes that go on in float32.

    Raises:
        UnknownGraphError: The file is no ONNX model, or holds something this module does not understand.
    """
    named = frozenset(name.encode() for name in precise)
    return ob.edited(model, lambda graph: _half_graph(graph, named))


def _half_graph(data: bytes, precise: frozenset[bytes]) -> bytes:
    parts = [(number, value) for number, value in ob.fields(data) if number != _VALUE_INFO]
    nodes = [ob.raw(value) for number, value in parts if number == ob.NODE]
    exact = {name for node in nodes if _text(node, 4) == b"Resize" for name in _names(node, 1)[1:3]}
    exact |= {name for node in nodes if _text(node, 3) in precise for name in _names(node, 1)[1:]}
    constants = {_text(ob.raw(value), 8) for number, value in parts if number == ob.INITIALIZER}
    sources = [
        _text(ob.raw(value), 1)
        for number, value in parts
        if number == ob.INPUT and _text(ob.raw(value), 1) not in constants
    ]
    targets = [_text(ob.raw(value), 1) for number, value in parts if number == ob.OUTPUT]
    renamed = {name: name + _SUFFIX.encode() for name in (*sources, *targets)}
    out = [ob.field(ob.NODE, _cast(name, renamed[name], _HALF)) for name in sources]
    for number, value in parts:
        piece = value
        if number == ob.NODE:
            if _text(ob.raw(value), 3) in precise:
                out += _around(ob.raw(value), renamed, constants)
                continue
            piece = _node(ob.raw(value), renamed, exact)
        elif number == ob.INITIALIZER and _text(ob.raw(value), 8) not in exact:
            piece = _tensor(ob.raw(value))
        out.append(ob.field(number, piece))
    out += [ob.field(ob.NODE, _cast(renamed[name], name, _FLOAT)) for name in targets]
    return b"".join(out)


def _node(data: bytes, renamed: dict[bytes, bytes], exact: set[bytes]) -> bytes:
    kind, outputs = _text(data, 4), _names(data, 2)
    keep = kind == b"Constant" and not exact.isdisjoint(outputs)
    pieces = []
    for number, value in ob.fields(data):
        piece = value
        if number in (1, 2):
            piece = renamed.get(ob.raw(value), ob.raw(value))
        elif number == 5 and not keep:
            piece = _attribute(ob.raw(value), cast=kind == b"Cast")
        pieces.append(ob.field(number, piece))
    return b"".join(pieces)


def _around(data: bytes, renamed: dict[bytes, bytes], constants: set[bytes]) -> list[bytes]:
    """A node in float32, between casts of what it takes and gives; a Concat has nothing but activations."""
    inputs = [renamed.get(name, name) for name in _names(data, 1)]
    moving = [name for place, name in enumerate(inputs) if name and name not in constants and _moves(data, place)]
    (output,) = _names(data, 2)
    exact = _EXACT.encode()
    pieces = []
    for number, value in ob.fields(data):
        piece = value
        if number == 1:
            name = renamed.get(ob.raw(value), ob.raw(value))
            piece = name + exact if name in moving else name
        elif number == 2:
            piece = output + exact
        pieces.append(ob.field(number, piece))
    casts = [ob.field(ob.NODE, _cast(name, output + name + exact, _FLOAT)) for name in moving]
    body = b"".join(pieces)
    for name in moving:  # a tensor may go to several precise nodes: each has its own cast
        body = body.replace(ob.field(1, name + exact), ob.field(1, output + name + exact))
    return [
        *casts,
        ob.field(ob.NODE, body),
        ob.field(ob.NODE, _cast(output + exact, renamed.get(output, output), _HALF)),
    ]


def _moves(node: bytes, place: int) -> bool:
    """Whether an input is a picture on its way, not a weight or a size."""
    return place == 0 or _text(node, 4) in {b"Concat", b"Add", b"Mul"}


def _attribute(data: bytes, *, cast: bool) -> bytes:
    """Tensors in half precision; a cast to float32 becomes one to float16."""
    pieces = []
    for number, value in ob.fields(data):
        piece = value
        if number == 5:
            piece = _tensor(ob.raw(value))
        elif number == 3 and cast and value == _FLOAT:
            piece = _HALF
        elif number == 6:
            raise ValueError("a graph inside the graph")
        pieces.append(ob.field(number, piece))
    return b"".join(pieces)


def _tensor(data: bytes) -> bytes:
    """A float32 tensor as float16, and any other as it is."""
    parts = list(ob.fields(data))
    if not any(number == 2 and value == _FLOAT for number, value in parts):
        return data
    if any(number in (13, 14) for number, _ in parts):
        raise ValueError("weights outside the file")
    values = b"".join(ob.raw(value) for number, value in parts if number in (4, 9))
    numbers = np.clip(np.frombuffer(values, "<f4"), -_LARGEST, _LARGEST).astype("<f2")
    kept = [ob.field(number, value) for number, value in parts if number not in (2, 4, 9)]
    return b"".join([*kept, ob.field(2, _HALF), ob.field(9, numbers.tobytes())])


def _cast(source: bytes, target: bytes, kind: int) -> bytes:
    attribute = ob.field(1, b"to") + ob.field(3, kind) + ob.field(20, 2)
    return ob.field(1, source) + ob.field(2, target) + ob.field(4, b"Cast") + ob.field(5, attribute)


def _text(data: bytes, field: int) -> bytes:
    return next(iter(_names(data, field)), b"")


def _names(data: bytes, field: int) -> list[bytes]:
    return [ob.raw(value) for number, value in ob.fields(data) if number == field]
