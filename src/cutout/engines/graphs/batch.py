"""The batch axis of an ONNX graph made free, so that a model published for one picture takes several.

The bytes are edited directly, as in `graph`. Whether the model then computes each picture as it does alone is for the
caller to check: a graph may have its batch of 1 written into constants.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cutout.engines.graphs import onnx_bytes as ob
from cutout.engines.graphs.cpu import UnknownGraphError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["AXIS", "free_batch"]

AXIS = "cutout_batch"
"""The name that the free axis gets."""

_GRAPH, _INITIALIZER, _INPUT, _OUTPUT, _VALUE_INFO = 7, 5, 11, 12, 13


def free_batch(model: bytes) -> bytes:
    """The model with the first axis of its inputs and outputs free; what it says of sizes in between is left out.

    Raises:
        UnknownGraphError: The file is no ONNX model.
    """
    try:
        parts = list(ob.fields(model))
        if not any(number == _GRAPH for number, _ in parts):
            raise ValueError("no graph")
        return b"".join(
            ob.field(number, _graph(ob.raw(value)) if number == _GRAPH else value) for number, value in parts
        )
    except (IndexError, TypeError, ValueError) as error:
        raise UnknownGraphError(f"not understood: {error}") from error


def _graph(data: bytes) -> bytes:
    parts = list(ob.fields(data))
    constants = {_name(ob.raw(value), 8) for number, value in parts if number == _INITIALIZER}
    out = []
    for number, value in parts:
        if number == _VALUE_INFO:
            continue
        piece = value
        if number == _OUTPUT or (number == _INPUT and _name(ob.raw(value), 1) not in constants):
            piece = _inside(ob.raw(value), (2, 1, 2), _free_first)
        out.append(ob.field(number, piece))
    return b"".join(out)


def _name(data: bytes, field: int) -> bytes:
    return next((ob.raw(value) for number, value in ob.fields(data) if number == field), b"")


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
        ob.field(number, ob.field(2, AXIS.encode()) if place == 0 else value)
        for place, (number, value) in enumerate(dims)
    )
