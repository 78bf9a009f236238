"""Answers that are kept for a day: by whatever is in the file, and without any place for one."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest

from cutout.engines.environment import _memory, remembered

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("content", [b"", b"\xff", b"[" * 100_000, b"[]", b'{"a": 1, "b": [1, 2], "c": ["x"]}', None])
def test_notes_that_are_none_of_ours_are_written_anew(tmp_path: Path, content: bytes | None) -> None:
    notes = tmp_path / "notes.json"
    if content is None:
        os.mkfifo(notes)
    else:
        notes.write_bytes(content)
    assert remembered(notes, "key", lambda: "first") == "first"
    _memory.clear()
    assert remembered(notes, "key", lambda: "second") == ("second" if content is None else "first")
    _memory.clear()
    assert remembered(notes, "key", lambda: "third", fresh=True) == "third"
    assert remembered(notes, "key", lambda: "fourth") == "third"


def test_notes_are_kept_no_longer_than_they_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notes, clock = tmp_path / "notes.json", [1e9]
    monkeypatch.setattr("cutout.engines.environment._now", lambda: clock[0])
    for number in range(3):
        remembered(notes, str(number), lambda: "")
        clock[0] += 50_000
    assert sorted(json.loads(notes.read_bytes())) == ["1", "2"]
    clock[0] -= 1e6  # a clock that was set back
    assert remembered(notes, "2", lambda: "again") == "again"
