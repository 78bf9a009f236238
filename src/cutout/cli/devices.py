"""Options of the command line that concern accelerators."""

from __future__ import annotations

from typing import Annotated

from cutout.cli.options import option

__all__ = ["Batch", "CpuFallback", "GpuMemoryLimit", "GpuWait", "Half", "ProviderOption"]

_PANEL = "Accelerators"

ProviderOption = Annotated[
    list[str] | None,
    option("--provider-option", text="KEY=VALUE for the named device. Can be repeated.", panel=_PANEL),
]
Batch = Annotated[
    str | None,
    option("--batch", text="Pictures an accelerator computes at once. (default: auto)", panel=_PANEL, metavar="N"),
]
Half = Annotated[bool, option("--half", text="Compute in half precision on an accelerator.", panel=_PANEL)]
CpuFallback = Annotated[
    bool, option("--cpu-fallback", text="What a device has no memory for, the processor does.", panel=_PANEL)
]
GpuMemoryLimit = Annotated[
    float,
    option("--gpu-memory-limit", text="auto passes over a card whose memory is fuller.", panel=_PANEL, metavar="%"),
]
GpuWait = Annotated[float, option("--gpu-wait", text="Seconds to wait for such a card.", panel=_PANEL, metavar="S")]
