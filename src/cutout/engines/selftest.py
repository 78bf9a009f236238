"""Whether a device really computes: a tiny network is run on it and its result compared."""

from __future__ import annotations

import base64
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cutout.engines.devices import DeviceRequest, provider_entry
from cutout.engines.known_errors import why_not
from cutout.engines.runtime import load_runtime

if TYPE_CHECKING:
    from cutout.engines.devices import Device
    from cutout.engines.runtime import LoadedRuntime

__all__ = ["SHAPE", "TINY_MODEL", "Proof", "expected", "prove"]

TINY_MODEL = base64.b64decode(
    "CAc6ngEKHQoHcGljdHVyZQoHd2VpZ2h0cxIDc3VtIgRDb252ChEKA3N1bRIEbWFzayIEUmVsdRIEdGlueSohCAEIAwgBCAEQAUIHd2VpZ2h0c0oM"
    "AAAAPwAAgL4AAAA+WiEKB3BpY3R1cmUSFgoUCAESEAoCCAEKAggDCgIICAoCCAhiHgoEbWFzaxIWChQIARIQCgIIAQoCCAEKAggICgIICEIECgAQ"
    "DQ=="
)
"""An ONNX file: `picture` (1, 3, 8, 8) float32 → `mask` (1, 1, 8, 8), the sum of the weighted channels, 0 at least."""
SHAPE = (1, 3, 8, 8)
_WEIGHTS = (0.5, -0.25, 0.125)
_CHANNELS = (0.75, 0.5, -1.0)
_ROUNDS = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Proof:
    """What came of running the tiny network.

    Attributes:
        device: The word for `--device`.
        works: It ran there, the runtime says that it ran there, and the result is right.
        first_ms: Milliseconds of opening it and of the first run, which starts the device.
        ms: Milliseconds of a further run, median.
        reason: Why it does not work.
        hint: What to do.
    """

    device: str
    works: bool
    first_ms: float | None = None
    ms: float | None = None
    reason: str = ""
    hint: str = ""


def expected(channels: tuple[float, float, float]) -> float:
    """What every pixel of the mask must be for a picture whose channels are constant."""
    return max(0.0, sum(weight * value for weight, value in zip(_WEIGHTS, channels, strict=True)))


def prove(device: Device) -> Proof:
    """Run the tiny network on a device, and nowhere else.

    Raises:
        DeviceError: There is no runtime, or it does not have this device.
    """
    request = DeviceRequest(devices=(device,), strict=True)
    here = load_runtime(request)
    start = time.perf_counter()
    try:
        session = here.runtime.InferenceSession(
            TINY_MODEL,
            sess_options=here.settings(1),
            providers=[provider_entry(device, request)],
            enable_fallback=0,
        )
        if session.get_providers()[0] != device.provider.name:
            # a library that does not load says it better
            loads = device.provider.name not in here.machine.load_errors
            return _failed(device, here, here.reason(device, fresh=True) if loads else "")
        first, times, right = _runs(session)
    except Exception as error:  # noqa: BLE001 - the runtime's exceptions share no base
        return _failed(device, here, str(error))
    name = device.provider.device
    if not right:
        return Proof(
            device=name,
            works=False,
            reason="it computes a wrong result",
            hint="update its driver, or use another device",
        )
    ms = round(sorted(times)[len(times) // 2] * 1e3, 3)
    return Proof(device=name, works=True, first_ms=round((first - start) * 1e3, 1), ms=ms)


def _runs(session: Any) -> tuple[float, list[float], bool]:
    """When the first run ended, how long the others took, and whether the result is right."""
    import numpy as np

    picture = np.empty(SHAPE, np.float32)
    picture[0] = np.reshape(np.array(_CHANNELS, np.float32), (3, 1, 1))
    (mask,) = session.run(None, {"picture": picture})
    first = time.perf_counter()
    times = []
    for _ in range(_ROUNDS):
        start = time.perf_counter()
        session.run(None, {"picture": picture})
        times.append(time.perf_counter() - start)
    return first, times, bool(np.allclose(mask, expected(_CHANNELS), atol=1e-2))


def _failed(device: Device, here: LoadedRuntime, said: str) -> Proof:
    reason, hint = why_not(device.provider, here.machine, said)
    return Proof(device=device.provider.device, works=False, reason=reason, hint=hint)
