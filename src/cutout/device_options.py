"""What a caller can say about accelerators: one frozen object that validates itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cutout.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["DeviceOptions", "parse_batch"]

_LONGEST_WAIT = 7 * 24 * 3600


@dataclass(frozen=True, kw_only=True, slots=True)
class DeviceOptions:
    """How devices other than the processor are used; none of it changes what the processor does alone.

    Attributes:
        batch: Pictures that a device computes at once; None measures which number is fastest.
        half: Compute in half precision, where the device can: masks move a little.
        provider_options: Told to the execution provider of the named device.
        cpu_fallback: A picture for which the device has no memory is done by the processor.
        gpu_memory_limit: Percent of a card's memory in use at the start from which on `auto` passes it over.
        gpu_wait: Seconds to wait for a card that is fuller than that.
        pictures: How many there are to do, 0 when nobody knows: for a few, nothing is measured.

    Raises:
        UsageError: A value is out of range.
    """

    batch: int | None = None
    half: bool = False
    provider_options: Mapping[str, Any] = field(default_factory=dict)
    cpu_fallback: bool = False
    gpu_memory_limit: float = 80.0
    gpu_wait: float = 0.0
    pictures: int = 0

    @property
    def said(self) -> tuple[str, ...]:
        """Those of the options that were given a value other than their own, as the command line calls them."""
        given = {
            "--batch": self.batch is not None,
            "--half": self.half,
            "--provider-option": bool(self.provider_options),
            "--cpu-fallback": self.cpu_fallback,
            "--gpu-memory-limit": self.gpu_memory_limit != 80,
            "--gpu-wait": self.gpu_wait != 0,
        }
        return tuple(name for name, is_given in given.items() if is_given)

    def check_heard(self, warn: Callable[[str], None], *, reduced: bool, rembg: str | None) -> None:
        """Warn of what is not heard in reduced precision, which runs on the CPU, or by a model that rembg runs.

        Raises:
            UsageError: Half precision beside reduced precision.
        """
        if reduced and self.half:
            raise UsageError(
                "precision reduced and half are two kinds of precision",
                hint="leave out one of them",
                options=("precision", "half"),
            )
        if self.said and (reduced or rembg is not None):
            who = "--precision reduced, which runs on the CPU" if reduced else f"{rembg}, which rembg runs"
            warn(f"nothing comes of {', '.join(self.said)} with {who}")

    def __post_init__(self) -> None:
        if self.batch is not None and not 1 <= self.batch <= 1024:
            raise UsageError(
                f"batch is {self.batch}, but it must lie between 1 and 1024, or be auto", options=("batch",)
            )
        if not 0 <= self.gpu_memory_limit <= 100:
            raise UsageError(
                f"gpu_memory_limit is {self.gpu_memory_limit}, but it is a percentage", options=("gpu_memory_limit",)
            )
        if not 0 <= self.gpu_wait <= _LONGEST_WAIT:
            raise UsageError(f"--gpu-wait is {self.gpu_wait}, but it must lie between 0 and {_LONGEST_WAIT} seconds")


def parse_batch(text: str | None) -> int | None:
    """`auto` or a number.

    Raises:
        UsageError: It is neither.
    """
    if text is None or text.strip().lower() in {"", "auto"}:
        return None
    try:
        return int(text)
    except ValueError as error:
        raise UsageError(f"batch is {text!r}, but it must be a number or auto", options=("batch",)) from error
