"""NVIDIA cards and their memory, as the driver tells through `nvidia-ml-py`; nothing where there is none."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Card", "cards", "visible"]


@dataclass(frozen=True, slots=True)
class Card:
    """One card.

    Attributes:
        index: Its number for nvidia-smi, from 0.
        uuid: Its name for machines.
        name: Its name for people.
        used: Bytes of its memory in use, by anybody.
        total: Bytes of its memory.
        driver: Version of the driver.
    """

    index: int
    uuid: str
    name: str
    used: int
    total: int
    driver: str

    def __str__(self) -> str:
        used, total = self.used / 2**30, self.total / 2**30
        return f"{self.index}: {self.name}, {used:.1f} of {total:.1f} GiB in use, driver {self.driver}"

    @property
    def percent(self) -> float:
        """How much of its memory is in use."""
        return 100 * self.used / self.total if self.total else 0.0

    @property
    def free(self) -> int:
        """Bytes that are not in use."""
        return self.total - self.used


def cards() -> list[Card]:
    """The NVIDIA cards that this process may use, in CUDA's order; empty without driver or `nvidia-ml-py`."""
    try:
        import pynvml as nvml

        nvml.nvmlInit()
    except Exception:  # noqa: BLE001 - no such package, no driver, or one that was updated while it ran
        return []
    found = []
    try:
        driver = nvml.nvmlSystemGetDriverVersion()
        for index in range(nvml.nvmlDeviceGetCount()):
            with contextlib.suppress(nvml.NVMLError):  # memory that is shared with the processor is not told
                device = nvml.nvmlDeviceGetHandleByIndex(index)
                memory = nvml.nvmlDeviceGetMemoryInfo(device)
                uuid, name = nvml.nvmlDeviceGetUUID(device), nvml.nvmlDeviceGetName(device)
                found.append(Card(index, uuid, name, memory.used, memory.total, driver))
    except nvml.NVMLError:
        return []
    finally:
        nvml.nvmlShutdown()
    return visible(found, os.environ)


def visible(found: list[Card], environ: Mapping[str, str]) -> list[Card]:
    """The cards in CUDA's own order: what `CUDA_VISIBLE_DEVICES` leaves, in the order it gives them."""
    wanted = environ.get("CUDA_VISIBLE_DEVICES")
    if wanted is None:
        return found
    chosen = []
    for word in (part.strip() for part in wanted.split(",")):
        card = next((card for card in found if word == str(card.index) or (word and card.uuid.startswith(word))), None)
        if card is None:  # CUDA, too, sees nothing from the first unknown word on
            break
        chosen.append(card)
    return chosen
