"""Optional parts of the program, and what to type when one is not installed."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from cutout.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["needs"]


@contextmanager
def needs(extra: str) -> Iterator[None]:
    """Around imports that an extra brings.

    Raises:
        UsageError: It is not installed; the hint is the command that installs it.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "cutout":
            raise
        raise UsageError(
            f"{error.name} is not installed, which this command needs", hint=f'pip install "cutout-cli[cpu,{extra}]"'
        ) from None
