"""What a caller can say about accelerators: one frozen object that validates itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cutout.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["DeviceOptions", "parse_batch"]


@dataclass(frozen=True, kw_only=True, slots=True)
class DeviceOptions:
    """How devices other than the processor are used; none of it changes what the processor does alone.

    Attributes:
        batch: Pictures that a device computes at once; None measures which number is fastest.
        half: Compute in half precision, where the device can: masks move a little.
        provider_options: Told to the execution provider of the named device.
        cpu_fallback: A picture for which the device has no memory is done by the processor.
        gpu_memory_limit: Percent of a card's memory in use at the start from which on `auto` passes it over.
        pictures: How many there are to do, 0 when nobody knows: for a few, nothing is measured.

    Raises:
        UsageError: A value is out of range.
    """

    batch: int | None = None
    half: bool = False
    provider_options: Mapping[str, Any] = field(default_factory=dict)
    cpu_fallback: bool = False
    gpu_memory_limit: float = 80.0
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
        }
        return tuple(name for name, is_given in given.items() if is_given)

    def __post_init__(self) -> None:
        if self.batch is not None and not 1 <= self.batch <= 1024:
            raise UsageError(
                f"batch is {self.batch}, but it must lie between 1 and 1024, or be auto", options=("batch",)
            )
        if not 0 <= self.gpu_memory_limit <= 100:
            raise UsageError(
                f"gpu_memory_limit is {self.gpu_memory_limit}, but it is a percentage", options=("gpu_memory_limit",)
            )


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
