"""The smallest network that proves a device: one convolution of 8×8 pixels, an ONNX file of a few bytes."""

from __future__ import annotations

import struct

from cutout.engines.graphs import onnx_bytes as ob

__all__ = ["SHAPE", "expected", "tiny_model"]

SHAPE = (1, 3, 8, 8)
_WEIGHTS = (0.5, -0.25, 0.125)
_FLOAT = 1


def tiny_model() -> bytes:
    """A model: `picture` (1, 3, 8, 8) float32 → `mask` (1, 1, 8, 8), the sum of the weighted channels, 0 at least."""
    weights = (
        b"".join(ob.field(1, size) for size in (1, 3, 1, 1))
        + ob.field(2, _FLOAT)
        + ob.field(8, b"weights")
        + ob.field(9, struct.pack("<3f", *_WEIGHTS))
    )
    graph = (
        ob.field(1, _node("Conv", ("picture", "weights"), "sum"))
        + ob.field(1, _node("Relu", ("sum",), "mask"))
        + ob.field(2, b"tiny")
        + ob.field(5, weights)
        + ob.field(11, _value("picture", SHAPE))
        + ob.field(12, _value("mask", (1, 1, *SHAPE[2:])))
    )
    return ob.field(1, 7) + ob.field(7, graph) + ob.field(8, ob.field(1, b"") + ob.field(2, 13))


def expected(channels: tuple[float, float, float]) -> float:
    """What every pixel of the mask must be for a picture whose channels are constant."""
    return max(0.0, sum(weight * value for weight, value in zip(_WEIGHTS, channels, strict=True)))


def _node(kind: str, inputs: tuple[str, ...], output: str) -> bytes:
    return (
        b"".join(ob.field(1, name.encode()) for name in inputs)
        + ob.field(2, output.encode())
        + ob.field(4, kind.encode())
    )


def _value(name: str, shape: tuple[int, ...]) -> bytes:
    dims = b"".join(ob.field(1, ob.field(1, size)) for size in shape)
    return ob.field(1, name.encode()) + ob.field(2, ob.field(1, ob.field(1, _FLOAT) + ob.field(2, dims)))
