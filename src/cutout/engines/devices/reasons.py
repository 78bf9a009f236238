"""What took long to find out and seldom changes, kept for a day in memory and in a file."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from cutout.atomic import write_atomic
from cutout.formats.reading import NOTES, read_file

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["remembered"]

_SECONDS = 24 * 3600.0
_memory: dict[tuple[Path | None, str], tuple[float, str]] = {}


def remembered(notes: Path | None, key: str, ask: Callable[[], str], *, fresh: bool = False) -> str:
    """The answer to a question, asked anew where it is unknown or a day old.

    Args:
        notes: A JSON file that keeps answers from run to run; None keeps them in this process alone, and so does one
            that cannot be read or written.
        key: Everything that the answer depends on.
        ask: Finds it out.
        fresh: Ask in any case.
    """
    known = _memory.get((notes, key))
    if known is None and not fresh:
        known = _read(notes).get(key)
    if known is None or fresh or not _holds(known):
        known = _now(), ask()
        _write(notes, key, known)
    _memory[notes, key] = known
    return known[1]


def _read(notes: Path | None) -> dict[str, tuple[float, str]]:
    """What is kept; whatever else the file may be holds nothing."""
    with suppress(OSError, ValueError, RecursionError):
        found: Any = None if notes is None else json.loads(read_file(notes, NOTES))
        if isinstance(found, dict):
            return {key: (entry[0], entry[1]) for key, entry in found.items() if _is_ours(entry)}
    return {}


def _is_ours(entry: Any) -> bool:
    return isinstance(entry, list) and [type(part) for part in entry] == [float, str]


def _holds(entry: tuple[float, str]) -> bool:
    return 0 <= _now() - entry[0] < _SECONDS  # a clock may have been set back


def _now() -> float:
    return time.time()


def _write(notes: Path | None, key: str, known: tuple[float, str]) -> None:
    """Best effort: where nothing can be kept, the next run asks again."""
    if notes is None:
        return
    kept = {other: entry for other, entry in _read(notes).items() if _holds(entry)}
    with suppress(Exception):
        notes.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps({**kept, key: known}, indent=1, sort_keys=True)
        write_atomic(notes, text.encode(), replace_existing=True)
