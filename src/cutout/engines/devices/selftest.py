"""Whether a device really computes: a tiny network is run on it and its result compared."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cutout.engines.devices.providers import DeviceRequest, provider_entry, why_not
from cutout.engines.graphs.tiny import SHAPE, expected, tiny_model
from cutout.engines.runtime import prepare

if TYPE_CHECKING:
    from cutout.engines.devices.providers import Device
    from cutout.engines.runtime import Prepared

__all__ = ["Proof", "prove"]

_ROUNDS = 20
_CHANNELS = (0.75, 0.5, -1.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Proof:
    """What came of running the tiny network.

    Attributes:
        works: It ran there and the result is right.
        first_ms: Milliseconds of opening it and of the first run, which starts the device.
        ms: Milliseconds of a further run, median.
        reason: Why it does not work.
        hint: What to do.
    """

    works: bool
    first_ms: float | None = None
    ms: float | None = None
    reason: str = ""
    hint: str = ""


def prove(device: Device) -> Proof:
    """Run the tiny network on a device, and nowhere else.

    Raises:
        DeviceError: There is no runtime, or it does not have this device.
    """
    request = DeviceRequest(devices=(device,), strict=True, origin="device")
    here = prepare(request)
    start = time.perf_counter()
    try:
        session = here.runtime.InferenceSession(
            tiny_model(),
            sess_options=here.settings(1),
            providers=[provider_entry(device, request)],
            enable_fallback=0,
        )
        running = session.get_providers()[0]
        if running != device.provider.name:
            return _failed(device, here, _reason(device, here))
        first, times, right = _runs(session)
    except Exception as error:  # noqa: BLE001 - the runtime's exceptions share no base
        return _failed(device, here, str(error))
    if not right:
        return Proof(works=False, reason="it computes a wrong result", hint="update its driver, or use another device")
    opened = (first - start) * 1e3
    return Proof(works=True, first_ms=round(opened, 1), ms=round(sorted(times)[len(times) // 2] * 1e3, 3))


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


def _reason(device: Device, here: Prepared) -> str:
    if device.provider.name in here.machine.load_errors:  # says it better
        return ""
    return here.reason(device, fresh=True)


def _failed(device: Device, here: Prepared, said: str) -> Proof:
    reason, hint = why_not(device.provider, here.machine, said)
    return Proof(works=False, reason=reason, hint=hint)
