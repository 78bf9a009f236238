"""Cards and their memory, from real answers of nvidia-smi."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import pytest

from cutout.engines.devices.gpu import Card, cards, parse_cards, visible, wait_for_memory

if TYPE_CHECKING:
    from pathlib import Path

TWO = """\
0, GPU-5a1e2c14-0b32-8d5f-9b0c-6f6b5e0a1111, NVIDIA GeForce RTX 3090, 1412, 24576, 580.126.18
1, GPU-9c7d2c14-0b32-8d5f-9b0c-6f6b5e0a2222, NVIDIA A100-SXM4-80GB, 73000, 81920, 580.126.18
"""


def test_cards_are_read_from_the_answer() -> None:
    first, second = parse_cards(TWO)
    assert (first.index, first.name, first.driver) == (0, "NVIDIA GeForce RTX 3090", "580.126.18")
    assert (first.used, first.total) == (1412 << 20, 24576 << 20)
    assert second.percent == pytest.approx(89.1, abs=0.1)
    assert second.free == 8920 << 20
    assert str(first) == "0: NVIDIA GeForce RTX 3090, 1.4 of 24.0 GiB in use, driver 580.126.18"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.\n",
        "Failed to initialize NVML: Driver/library version mismatch\nNVML library version: 580.126\n",
        "No devices were found\n",
        "0, GPU-1, Orin (nvgpu), [N/A], [N/A], 540.4.0\n",
    ],
)
def test_what_is_no_card_is_left_out(text: str) -> None:
    assert parse_cards(text) == []


@pytest.mark.parametrize(
    ("wanted", "indexes"),
    [
        (None, [0, 1]),
        ("0,1", [0, 1]),
        ("1", [1]),
        ("1,0", [1, 0]),
        ("GPU-9c7d", [1]),
        ("", []),
        ("-1", []),
        ("1,7,0", [1]),
    ],
)
def test_cuda_visible_devices_is_obeyed(wanted: str | None, indexes: list[int]) -> None:
    environ = {} if wanted is None else {"CUDA_VISIBLE_DEVICES": wanted}
    assert [card.index for card in visible(parse_cards(TWO), environ)] == indexes


@pytest.mark.skipif(sys.platform == "win32", reason="a script stands for nvidia-smi")
def test_nvidia_smi_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert cards() == [], "there is none"
    (tmp_path / "answer").write_text(TWO)
    script = tmp_path / "nvidia-smi"
    script.write_text(f'#!/bin/sh\nwhile read -r line; do echo "$line"; done < {tmp_path}/answer\n')
    script.chmod(0o755)
    assert [card.index for card in cards()] == [0, 1]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert [card.index for card in cards()] == [1]
    script.write_text("#!/bin/sh\necho broken\nexit 9\n")
    assert cards() == []
    assert os.access(script, os.X_OK)


def test_full_memory_is_waited_for() -> None:
    full, empty = parse_cards(TWO)[1], parse_cards(TWO)[0]
    answers = [[full], [full], [empty]]
    slept: list[float] = []

    def look() -> list[Card]:
        return answers.pop(0)

    assert wait_for_memory(0, 80, 60, look=look, sleep=slept.append) == empty
    assert slept == [2, 2]
    assert wait_for_memory(0, 80, 0, look=lambda: [full], sleep=slept.append) == full, "no longer than was asked"
    assert wait_for_memory(0, 80, 3, look=lambda: [full], sleep=slept.append) == full
    assert slept == [2, 2, 2, 1]
    assert wait_for_memory(3, 80, 60, look=lambda: [full], sleep=slept.append) is None
