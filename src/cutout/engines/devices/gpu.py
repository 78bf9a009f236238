"""NVIDIA cards and their memory, as `nvidia-smi` tells; nothing where there is none."""

from __future__ import annotations

import os
import subprocess
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["Card", "cards", "parse_cards", "visible", "wait_for_memory"]

_FIELDS = "index,uuid,name,memory.used,memory.total,driver_version"
_SECONDS = 10.0
_PAUSE = 2.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Card:
    """One card.

    Attributes:
        index: Its number, from 0.
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
        return (
            f"{self.index}: {self.name}, {self.used / 2**30:.1f} of {self.total / 2**30:.1f} GiB in use, "
            f"driver {self.driver}"
        )

    @property
    def percent(self) -> float:
        """How much of its memory is in use."""
        return 100 * self.used / self.total if self.total else 0.0

    @property
    def free(self) -> int:
        """Bytes that are not in use."""
        return self.total - self.used


def parse_cards(text: str) -> list[Card]:
    """The cards in the answer of `nvidia-smi --query-gpu`; lines that are none are left out."""
    found = []
    for line in text.splitlines():
        parts = [part.strip() for part in line.split(",")]
        try:
            index, uuid, *name, used, total, driver = parts
            card = Card(
                index=int(index),
                uuid=uuid,
                name=", ".join(name),
                used=int(used) << 20,
                total=int(total) << 20,
                driver=driver,
            )
        except ValueError:  # an error text; or [N/A] where memory is shared with the processor
            continue
        found.append(card)
    return found


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


def cards() -> list[Card]:
    """The NVIDIA cards that this process may use, in CUDA's order; empty where there is no `nvidia-smi`."""
    try:
        done = subprocess.run(
            ["nvidia-smi", f"--query-gpu={_FIELDS}", "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return []
    return visible(parse_cards(done.stdout), os.environ)


def wait_for_memory(
    index: int,
    limit: float,
    seconds: float,
    *,
    look: Callable[[], list[Card]] = cards,
    sleep: Callable[[float], None] = time.sleep,
) -> Card | None:
    """The card when less than the limit of its memory is in use, or as it is when the time is over; None without it.

    Args:
        index: Its number in CUDA's order.
        limit: Percent of its memory.
        seconds: How long to wait at most.
        look: Gives the cards.
        sleep: Waits.
    """
    while True:
        found = look()
        if index >= len(found):
            return None
        if found[index].percent <= limit or seconds <= 0:
            return found[index]
        sleep(min(_PAUSE, seconds))
        seconds -= _PAUSE
